// Events, and the start.

const SHORTCUTS = [
  ["Arrows", "go to the next picture; in a comparison, replace the right picture"],
  ["Home, End", "go to the first or last picture of the row; with Ctrl, of the grid"],
  ["Page Up, Page Down", "go one screen up or down; to the previous or next open picture"],
  ["Enter", "open the picture, with all its parameters"],
  ["s", "star the picture, or remove its star"],
  ["n", "write a note on the open picture"],
  ["Space", "play the pictures along an axis, while one is open"],
  ["c", "compare: press it on one picture, then on another (Shift + click does the same)"],
  ["x, w", "in a comparison, exchange the pictures, or put one over the other"],
  ["+ −", "make the tiles, or the open pictures, larger or smaller"],
  ["f, 0", "fit the tiles, or the open pictures, to the window"],
  ["Shift + arrows", "move over the open picture"],
  ["t", "swap rows and columns"],
  ["e", "save or share the view and the starred pictures"],
  ["d", "change between light and dark colours"],
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
    s: () => toggleStar(currentCell()),
    t: transpose,
    f: fit,
    0: fit,
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
  const step = () => stepView(event.key);
  const steps = { ArrowLeft: step, ArrowRight: step, ArrowUp: step, ArrowDown: step };
  const turns = { PageUp: () => turnView(-1), PageDown: () => turnView(1) };
  const note = () => byId("view-note").focus();
  const others = { c: compareFromView, s: () => toggleStar(view.cell), n: note, " ": togglePlaying };
  return act({ ...steps, ...turns, ...zoomKeys(view.stage), ...others }, event);
}

/** What the keys that zoom do to a stage. */
function zoomKeys(stage) {
  const fitStage = () => stage.zoomTo("fit");
  const [larger, smaller] = [1, -1].map((direction) => () => stage.step(direction));
  return { "+": larger, "=": larger, "-": smaller, 0: fitStage, f: fitStage };
}

function compareKey(event) {
  const step = () => stepCompare(event.key);
  const steps = { ArrowLeft: step, ArrowRight: step, ArrowUp: step, ArrowDown: step };
  return act({ ...steps, ...zoomKeys(compared.stages[0]), x: swapCompared, w: toggleWipe }, event);
}

/** Runs the action of a key. Returns whether the key has one. */
function act(actions, event) {
  const action = Object.hasOwn(actions, event.key) ? actions[event.key] : undefined;
  action?.();
  return Boolean(action);
}

/** Passes a key to the open dialog or to the grid. */
function onKey(event) {
  const presses = event.key === " " && event.target.matches("button, summary");
  const typing = presses || event.target.matches("input:not(#size), textarea, select");
  const command = (event.ctrlKey || event.metaKey || event.altKey) && !["Home", "End"].includes(event.key);
  if (typing || command || byId("axis").contains(event.target)) return;
  const dialog = document.querySelector("dialog[open]");
  const inGrid = event.target === grid.root || event.target === document.body;
  const anywhere = { "?": () => openDialog("help"), d: toggleTheme, e: () => dialog || openExport() };
  if (act(anywhere, event)) event.preventDefault();
  else if (dialog?.id === "view" && viewKey(event)) event.preventDefault();
  else if (dialog?.id === "compare" && compareKey(event)) event.preventDefault();
  else if (!dialog && inGrid && gridKey(event)) {
    event.preventDefault();
    if (!document.querySelector("dialog[open]")) grid.root.focus({ preventScroll: true }); // so that the cursor shows
  }
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
  if (event.target.closest(".star")) {
    toggleStar(currentCell());
    return;
  }
  choose(currentCell(), event.shiftKey || event.ctrlKey || event.metaKey);
}

function setSize(size) {
  const slider = byId("size");
  slider.value = size;
  grid.size = Number(slider.value);
  grid.fitted = false;
  resize();
  remember();
}

/** Fits the tiles to the window, and keeps them so until the user chooses a size. */
function fit() {
  fitSize();
  resize();
  remember();
}

function transpose() {
  [places.rows, places.columns] = [places.columns, places.rows];
  update(true);
  scrollToCursor();
}

function reset() {
  resetRange();
  resetAxes();
  stars.only = false;
  grid.layout = arrange();
  choosePlaces();
  grid.fitted = true;
  update(true);
  showStars();
}

function showAll() {
  for (const axis of axes) axis.hidden.clear();
  resetRange();
  stars.only = false;
  update();
  showStars();
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
  on("plane", "click", onTileClick);
  on("size", "input", () => setSize(byId("size").value));
  on("transpose", "click", transpose);
  on("reset", "click", reset);
  on("fit", "click", fit);
  on("starred", "click", toggleOnlyStarred);
  on("theme", "click", toggleTheme);
  on("menu", "click", toggleMenu);
  on("clear", "click", showAll);
  on("help-button", "click", () => openDialog("help"));
  on("picking-cancel", "click", () => setPicked(null));
  listenInView(on);
  listenInCompare(on);
  listenInExport(on);
  for (const dialog of document.querySelectorAll("dialog")) {
    dialog.addEventListener("close", () => grid.root.focus({ preventScroll: true }));
    dialog.querySelector(".close").addEventListener("click", () => dialog.close());
  }
  on("axis", "toggle", onPanelToggle);
  window.addEventListener("hashchange", onLink);
  window.addEventListener("storage", onStorage);
  new ResizeObserver(onResize).observe(grid.frame);
}

/** In a small window: shows the axes and tools over the grid, or puts them away. */
function toggleMenu() {
  const isOpen = byId("menu").ariaExpanded !== "true";
  byId("menu").ariaExpanded = String(isOpen);
  byId("controls").classList.toggle("open", isOpen);
}

/** When the panel of an axis closes, the focus returns to the button of the axis. */
function onPanelToggle(event) {
  const lost = document.activeElement === document.body || byId("axis").contains(document.activeElement);
  if (event.newState === "closed" && lost) buttonOf(byId("axis").dataset.axis)?.focus();
}

function onResize() {
  if (grid.view !== viewSize().join()) {
    if (grid.fitted) fitSize();
    resize();
  }
  if (byId("view").open) view.stage.refresh();
  if (byId("compare").open) compared.stages.forEach((stage) => stage.refresh());
}

/** Shows the view in the page's address: at the start, and when another link to this page is followed. */
function showLinkedView() {
  resetAxes();
  grid.layout = arrange();
  showControls(); // takes height from the grid, which the next line looks at
  choosePlaces();
  initial.places = placesAsText();
  const cell = recall();
  byId("size").value = grid.size;
  rearrange(true);
  showControls();
  showStars();
  return cell;
}

function onLink() {
  byId("view").close();
  openView(showLinkedView());
}

function start() {
  byId("title").textContent = data.title;
  byId("help-keys").append(...descriptions(SHORTCUTS));
  loadTheme();
  loadStars();
  showShared();
  const cell = showLinkedView();
  listen();
  watch();
  openView(cell);
}

if (!isFrameForNews()) start();
