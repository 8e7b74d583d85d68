// Events, and what the page remembers as long as its tab is open.

const SHORTCUTS = [
  ["Arrows", "go to the next picture; in a comparison, replace the right picture"],
  ["Home, End", "go to the first or last picture of the row; with Ctrl, of the grid"],
  ["Page Up, Page Down", "go one screen up or down"],
  ["Enter", "open the picture, with all its parameters"],
  ["c", "compare: press it on one picture, then on another (Shift + click does the same)"],
  ["s", "in a comparison, swap left and right"],
  ["+ −", "make the tiles, or the open picture, larger or smaller"],
  ["0, Shift + arrows", "fit the open picture to the window, or scroll over it"],
  ["t", "swap rows and columns"],
  ["Escape", "close, or cancel a comparison"],
  ["?", "show these shortcuts"],
];

/** Handles a key in the grid. Returns whether it did anything; so do viewKey and compareKey. */
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

/** Runs the action of a key. Returns whether the key has one. */
function act(actions, event) {
  const action = Object.hasOwn(actions, event.key) ? actions[event.key] : undefined;
  action?.();
  return Boolean(action);
}

/** Passes a key to the open dialog or to the grid. */
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

/** Opens a cell after a click or Enter, or marks it for comparison. */
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
  update();
  scrollToCursor();
}

function reset() {
  resetRange();
  resetAxes();
  update();
}

function showAll() {
  for (const axis of axes) axis.hidden.clear();
  resetRange();
  update();
}

// What the page remembers. A reload shows the same part, even if the page has been written again in the meantime.

function memoryKey() {
  return `page ${window.location.pathname}`;
}

function remember() {
  const names = (list) => list.map((axis) => axis.name);
  const hidden = (axis) => [...axis.hidden].map((value) => axis.labels[value]);
  const settings = varying.map((axis) => [axis.name, { order: axis.order, hidden: hidden(axis) }]);
  const state = { rows: names(places.rows), columns: names(places.columns), size: grid.size, settings, scoring };
  try {
    window.sessionStorage.setItem(memoryKey(), JSON.stringify(state));
  } catch {
    // this browser stores nothing: a reload starts from the initial state
  }
}

function recall() {
  try {
    const state = JSON.parse(window.sessionStorage.getItem(memoryKey()));
    if (state) restore(state);
  } catch {
    resetAxes();
  }
}

function restore(state) {
  const named = (name) => varying.find((axis) => axis.name === name);
  restoreScoring(state.scoring);
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

// Start

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

/** When the panel of an axis closes, the focus returns to the button of the axis. */
function onPanelToggle(event) {
  const lost = document.activeElement === document.body || byId("axis").contains(document.activeElement);
  if (event.newState === "closed" && lost) buttonOf(byId("axis").dataset.axis)?.focus();
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
  byId("help-keys").append(...descriptions(SHORTCUTS));
  resetAxes();
  recall();
  byId("size").value = grid.size;
  showShared();
  rearrange();
  showControls();
  showScoring();
  listen();
  watch();
  grid.root.focus({ preventScroll: true });
}

if (!isFrameForNews()) start();
