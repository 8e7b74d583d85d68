// The dialog of one picture with all its parameters, and what all dialogs share.

/**
 * Opens a dialog, and focuses it instead of its first button, so that it handles the keys. Once it is closed, the focus
 * is where it was before, or on the grid.
 */
function openDialog(id) {
  if (byId(id).open) return;
  if (document.activeElement === document.body) grid.root.focus({ preventScroll: true });
  byId(id).showModal();
  byId(id).focus();
}

// One picture

/** A cell's parameters on some axes as [name, value], without the prompt, which is the title. */
function parameters(cell, listedAxes) {
  return listedAxes.filter((axis) => axis.name !== "prompt").map((axis) => [axis.title, fullLabelOf(axis, cell)]);
}

/** A command with a title that says what it does, and a button to copy it. */
function commandBox(title, command) {
  const copied = button("Copy", () => copy(command, code, copied), { className: "copy", ariaLive: "polite" });
  const words = command.split(/( )/).map((word) => (word.startsWith("-") ? element("span", {}, word) : word));
  const code = element("code", {}, ...words);
  const head = element("div", { className: "bar" }, element("h3", {}, title), copied);
  const box = element("pre", { tabIndex: 0, role: "group", ariaLabel: title }, code);
  return element("section", { className: "command" }, head, box);
}

/** Copies a text; if the browser does not allow that, selects the node that shows it. */
async function copy(text, node, pressed) {
  const before = pressed.textContent;
  try {
    await navigator.clipboard.writeText(text);
    pressed.textContent = "Copied";
  } catch {
    window.getSelection().selectAllChildren(node);
    pressed.textContent = document.execCommand("copy") ? "Copied" : "Selected";
  }
  window.setTimeout(() => {
    pressed.textContent = before;
  }, 1500);
}

function details(cell) {
  const error = stateOf(cell) === "failed" ? [element("p", { className: "error" }, cell.error)] : [];
  const different = element("dl", {}, ...descriptions(parameters(cell, offered)));
  const figures = stylesOf(cell).map(styleFigure);
  const command = cell.command ? [commandBox("Command to make this picture again", cell.command)] : [];
  const scores = scoreDetails(cell);
  return [...error, different, ...scores, ...figures, ...command, ...settings(cell)];
}

/** What a cell shares with all others, as above the grid, and its file. */
function settings(cell) {
  const list = (entries) => element("dl", { className: "same" }, ...descriptions(entries));
  const { first, others } = sharedSettings();
  const own = first.filter(([name]) => !["prompt", "seeds", "size"].includes(name));
  const equivalent = varying.filter((axis) => !offered.includes(axis)); // to others, such as hashes to names
  const rest = [...parameters(cell, equivalent), ...others, ["id", cell.id]];
  const more = element("details", {}, element("summary", {}, "More settings"), list(rest));
  return [element("section", {}, element("h3", {}, "Settings"), list([...own, ...fileDetails(cell)])), more];
}

function fileDetails(cell) {
  if (cell.error) return [];
  const link = element("a", { href: cell.file, target: "_blank", rel: "noopener" }, fileName(cell.file));
  return [["size", `${cell.size.join(" × ")} pixels`], ["file", link]];
}

/** An address without its escapes, or with them if they do not make valid text. */
function fileName(url) {
  try {
    return decodeURIComponent(url);
  } catch {
    return url;
  }
}

const view = { cell: null, stage: new Stage(byId("view-stage"), { zoomed: showZoom, swiped: turnView }) };

function openView(cell) {
  if (!cell) return;
  view.stage.zoom = "fit";
  openDialog("view");
  showView(cell);
}

function showView(cell) {
  const isAnother = view.cell !== cell;
  view.cell = cell;
  byId("view-title").textContent = titleOf(cell);
  byId("view-details").replaceChildren(...details(cell));
  byId("view-note").value = noteOf(cell);
  showStarButton(byId("view-star"), cell);
  if (isAnother && !playing.isOn) byId("view").querySelector(".panel").scrollTop = 0;
  showPlaying(cell);
  view.stage.show(cell);
  showZoom(view.stage);
  remember();
}

/** Shows another cell in the view, and moves the cursor there. */
function goTo(cell) {
  moveTo(cell);
  showView(cell);
}

/** The title of a picture: its prompt, if it has one. */
function titleOf(cell) {
  const axis = axes.find((other) => other.name === "prompt");
  return axis ? fullLabelOf(axis, cell) : describe(cell);
}

function showZoom(stage) {
  byId("view-zoom").textContent = stage.cell.error ? "" : `${Math.round(stage.factor * 100)} %`;
}

/** Shows the picture that a key leads to from the current one. */
function stepView(key) {
  const cell = neighbour(view.cell, key);
  if (cell) showView(cell);
}

/** Shows the next picture (direction 1) or the previous one (-1), as one reads: row by row. */
function turnView(direction) {
  const { rows, columns } = grid.geometry;
  const [row, column] = grid.layout.positions.has(view.cell.number) ? placeOfCell(view.cell) : [0, -1];
  for (let place = row * columns + column + direction; place >= 0 && place < rows * columns; place += direction) {
    const next = [Math.floor(place / columns), place % columns];
    const cell = exists(...next) ? cellAt(...next) : undefined;
    if (cell) {
      goTo(cell);
      return;
    }
  }
}

/** Moves the cursor from a cell to the next one in the direction of a key, past empty places, and returns it. */
function neighbour(cell, key) {
  if (!grid.layout.positions.has(cell.number)) return undefined;
  let [row, column] = placeOfCell(cell);
  let found;
  do {
    const next = stepFrom({ row, column }, key);
    if (!next || !exists(...next) || (next[0] === row && next[1] === column)) return undefined;
    [row, column] = next;
    found = cellAt(row, column);
  } while (!found && key.startsWith("Arrow"));
  if (found) moveTo(found);
  return found;
}

function listenInView(on) {
  on("view-larger", "click", () => view.stage.step(1));
  on("view-smaller", "click", () => view.stage.step(-1));
  on("view-fit", "click", () => view.stage.zoomTo("fit"));
  on("view-previous", "click", () => turnView(-1));
  on("view-next", "click", () => turnView(1));
  on("view-star", "click", () => toggleStar(view.cell));
  on("view-note", "input", () => setNote(view.cell, byId("view-note").value));
  on("view-compare", "click", compareFromView);
  on("play", "click", togglePlaying);
  on("play-axis", "change", () => chooseAxisToPlay(byId("play-axis").value));
  on("play-position", "input", () => playAt(Number(byId("play-position").value)));
  on("view", "close", () => {
    stopPlaying();
    remember();
  });
}
