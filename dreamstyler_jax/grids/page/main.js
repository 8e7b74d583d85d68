// Events, and what the page remembers while its tab is open.

const KEYS = [
  ["Arrows", "from picture to picture, also in the full view and, for the right one, in the comparison"],
  ["Home, End", "first and last in the row; with Ctrl, of all"],
  ["Page Up, Page Down", "a screen up, a screen down"],
  ["Enter", "the picture in full, with all that made it"],
  ["c", "compare: press it on one picture, then on another. So does Shift + click"],
  ["s", "in the comparison: swap both"],
  ["+ −", "larger and smaller, in the grid and in the full view; there 0 fits it in, Shift + arrows move over it"],
  ["t", "transpose the grid"],
  ["Escape", "close, or let go of the picture marked for comparison"],
  ["?", "these keys"],
];

/** Keys of the grid. Returns whether the key was one. */
function gridKey(event) {
  const place = stepFrom(grid.cursor, event.key, event.ctrlKey || event.metaKey);
  if (place) {
    moveCursor(...place);
    return true;
  }
  const actions = {
    Enter: () => choose(currentCell(), event.shiftKey),
    " ": () => choose(currentCell(), event.shiftKey),
    c: () => pick(currentCell()),
    t: transpose,
    "+": () => setSize(grid.size + 16),
    "=": () => setSize(grid.size + 16),
    "-": () => setSize(grid.size - 16),
    Escape: () => setPicked(null),
  };
  return act(actions, event);
}

function viewKey(event) {
  if (event.key.startsWith("Arrow") && event.shiftKey) {
    const [x, y] = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    byId("view-stage").scrollBy(80 * x, 80 * y);
    return true;
  }
  const fit = () => {
    view.zoom = "fit";
    showStage();
  };
  const step = () => stepView(event.key);
  const steps = { ArrowLeft: step, ArrowRight: step, ArrowUp: step, ArrowDown: step };
  const zoom = { "+": () => zoomView(1), "=": () => zoomView(1), "-": () => zoomView(-1), 0: fit };
  return act({ ...steps, ...zoom, c: compareFromView }, event);
}

function compareKey(event) {
  const step = () => stepCompare(event.key);
  return act({ ArrowLeft: step, ArrowRight: step, ArrowUp: step, ArrowDown: step, s: swapCompared }, event);
}

function act(actions, event) {
  const action = Object.hasOwn(actions, event.key) ? actions[event.key] : undefined;
  action?.();
  return Boolean(action);
}

/** Gives a key to the part of the page that it belongs to. */
function onKey(event) {
  const typing = event.target.matches("input:not([type=range]), textarea");
  const command = (event.ctrlKey || event.metaKey || event.altKey) && !["Home", "End"].includes(event.key);
  if (typing || command || byId("axis").contains(event.target)) return;
  const dialog = document.querySelector("dialog[open]");
  const inGrid = event.target === grid.root || event.target === document.body;
  if (event.key === "?") openDialog("help");
  else if (dialog?.id === "view" && viewKey(event)) event.preventDefault();
  else if (dialog?.id === "compare" && compareKey(event)) event.preventDefault();
  else if (!dialog && inGrid && gridKey(event)) event.preventDefault();
}

/** What a click or Enter on a tile does: it opens the picture, or is the second to compare. */
function choose(cell, compare) {
  if (compare || grid.picked) pick(cell);
  else openView(cell);
}

function compareFromView() {
  byId("view").close();
  pick(view.cell);
}

function onTileClick(event) {
  const tile = event.target.closest("[role=gridcell]");
  if (!tile) return;
  moveCursor(Number(tile.dataset.row), Number(tile.dataset.column), false);
  choose(currentCell(), event.shiftKey || event.ctrlKey || event.metaKey);
}

function setSize(size) {
  const slider = byId("size");
  slider.value = size;
  grid.size = Number(slider.value);
  resize();
  remember();
}

function transpose() {
  [places.rows, places.columns] = [places.columns, places.rows];
  changed();
  scrollToCursor();
}

function reset() {
  resetAxes();
  changed();
}

function showAll() {
  for (const axis of axes) axis.hidden.clear();
  changed();
}

// What the page remembers: a reload, of a page that was written anew meanwhile, shows the same part of it

function memory() {
  return `page ${window.location.pathname}`;
}

function remember() {
  const names = (list) => list.map((axis) => axis.name);
  const hidden = (axis) => [...axis.hidden].map((value) => axis.labels[value]);
  const settings = varying.map((axis) => [axis.name, { order: axis.order, hidden: hidden(axis) }]);
  const state = { rows: names(places.rows), columns: names(places.columns), size: grid.size, settings };
  try {
    window.sessionStorage.setItem(memory(), JSON.stringify(state));
  } catch {
    // a browser that keeps nothing: then a reload begins anew
  }
}

function recall() {
  try {
    const state = JSON.parse(window.sessionStorage.getItem(memory()));
    if (state) restore(state);
  } catch {
    resetAxes();
  }
}

function restore(state) {
  const named = (name) => varying.find((axis) => axis.name === name);
  const known = new Set(state.settings.map(([name]) => name));
  if (varying.every((axis) => known.has(axis.name))) {
    for (const place of ["rows", "columns"]) places[place] = state[place].map(named).filter(Boolean);
  }
  for (const [name, { order, hidden }] of state.settings) {
    const axis = named(name);
    if (!axis) continue;
    const labels = new Set(hidden);
    axis.hidden = new Set(axis.labels.flatMap((label, value) => (labels.has(label) ? [value] : [])));
    sortAxis(axis, order);
  }
  grid.size = state.size;
}

// The beginning

/** Calls an action at most once per frame. */
function perFrame(action) {
  let waiting = false;
  return () => {
    if (waiting) return;
    waiting = true;
    window.requestAnimationFrame(() => {
      waiting = false;
      action();
    });
  };
}

function listen() {
  const on = (id, type, action) => byId(id).addEventListener(type, action);
  document.addEventListener("keydown", onKey);
  on("grid", "scroll", perFrame(render));
  on("body", "click", onTileClick);
  on("size", "input", () => setSize(byId("size").value));
  on("transpose", "click", transpose);
  on("reset", "click", reset);
  on("clear", "click", showAll);
  on("help-button", "click", () => openDialog("help"));
  on("picking-cancel", "click", () => setPicked(null));
  on("view-larger", "click", () => zoomView(1));
  on("view-smaller", "click", () => zoomView(-1));
  on("view-fit", "click", () => {
    view.zoom = "fit";
    showStage();
  });
  on("view-compare", "click", compareFromView);
  on("compare-swap", "click", swapCompared);
  for (const dialog of document.querySelectorAll("dialog")) {
    dialog.addEventListener("close", () => grid.root.focus({ preventScroll: true }));
    dialog.querySelector(".close").addEventListener("click", () => dialog.close());
  }
  on("axis", "toggle", onPanelToggle);
  new ResizeObserver(perFrame(onResize)).observe(grid.root);
}

/** When the panel of an axis closes, the keyboard goes back to the axis's button. */
function onPanelToggle(event) {
  const lost = document.activeElement === document.body || byId("axis").contains(document.activeElement);
  if (event.newState === "closed" && lost) opener(byId("axis").dataset.axis)?.focus();
}

function onResize() {
  if (grid.root.clientWidth && grid.root.clientWidth !== grid.width) resize();
  else render();
  grid.width = grid.root.clientWidth;
  if (byId("view").open) showStage();
  if (byId("compare").open) stagePair();
}

function start() {
  byId("title").textContent = data.title;
  byId("help-keys").append(...pairs(KEYS));
  resetAxes();
  recall();
  byId("size").value = grid.size;
  showShared();
  rearrange();
  showControls();
  listen();
  grid.root.focus({ preventScroll: true });
}

start();
