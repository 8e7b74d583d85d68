// The dialogs: one picture with all its parameters, two pictures side by side, and the keyboard shortcuts.

const ZOOMS = [1 / 8, 1 / 4, 1 / 2, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32];

/** Opens a dialog, and focuses it instead of its first button, so that it handles the keys. */
function openDialog(id) {
  if (byId(id).open) return;
  byId(id).showModal();
  byId(id).focus();
}

// A picture on its stage

/** The largest factor at which a picture fits a stage; an enlarged picture has whole device pixels per pixel. */
function fittingFactor(size, stage) {
  const [width, height] = [stage.clientWidth - 24, stage.clientHeight - 24];
  const ratio = window.devicePixelRatio || 1;
  const factor = Math.max(0.01, Math.min(width / size[0], height / size[1]));
  return factor * ratio > 1 ? Math.floor(factor * ratio) / ratio : factor;
}

/** Puts a cell's picture on a stage, scaled by a factor, or says why there is no picture. */
function stagePicture(stage, cell, factor) {
  if (cell.waiting) {
    stage.replaceChildren(element("p", {}, "Not yet painted"));
    return;
  }
  if (cell.error) {
    const reason = element("pre", {}, cell.error);
    stage.replaceChildren(element("div", { className: "failure" }, element("b", {}, "Failed"), reason));
    return;
  }
  const image = stage.querySelector("img") ?? element("img");
  image.alt = describe(cell);
  if (image.getAttribute("src") !== cell.file) image.src = cell.file;
  image.classList.toggle("crisp", factor > 1);
  setPixels(image, { width: cell.size[0] * factor, height: cell.size[1] * factor });
  stage.replaceChildren(image);
}

// One picture

/** A cell's parameters on some axes as [name, value], without the prompt, which is the title. */
function parameters(cell, listedAxes) {
  return listedAxes.filter((axis) => axis.name !== "prompt").map((axis) => [axis.name, fullLabelOf(axis, cell)]);
}

function commandBox(cell) {
  const copied = button("Copy", () => copy(cell.command, code, copied), { className: "copy", ariaLive: "polite" });
  const code = element("code", {}, cell.command);
  const head = element("div", { className: "bar" }, element("h3", {}, "Command to make this picture again"), copied);
  return element("section", { className: "command" }, head, element("pre", { tabIndex: 0 }, code));
}

/** Copies a text; if the browser does not allow that, selects the node that shows it. */
async function copy(text, node, pressed) {
  try {
    await navigator.clipboard.writeText(text);
    pressed.textContent = "Copied";
  } catch {
    window.getSelection().selectAllChildren(node);
    pressed.textContent = document.execCommand("copy") ? "Copied" : "Selected";
  }
  window.setTimeout(() => {
    pressed.textContent = "Copy";
  }, 1500);
}

function details(cell) {
  const error = stateOf(cell) === "failed" ? [element("p", { className: "error" }, cell.error)] : [];
  const command = cell.command ? [commandBox(cell)] : [];
  const different = element("dl", {}, ...descriptions(parameters(cell, varying)));
  const entries = [...parameters(cell, shared), ...fileDetails(cell)];
  const same = element("dl", { className: "same" }, ...descriptions(entries));
  const figures = stylesOf(cell).map(styleFigure);
  const scores = scoreDetails(cell);
  return [...error, different, ...scores, ...figures, ...command, element("h3", {}, "Other parameters"), same];
}

function fileDetails(cell) {
  if (cell.error) return [["id", cell.id]];
  const link = element("a", { href: cell.file, target: "_blank", rel: "noopener" }, fileName(cell.file));
  return [["id", cell.id], ["size", `${cell.size.join(" × ")} pixels`], ["file", link]];
}

/** An address without its escapes, or with them if they do not make valid text. */
function fileName(url) {
  try {
    return decodeURIComponent(url);
  } catch {
    return url;
  }
}

const view = { cell: null, zoom: "fit" }; // zoom: "fit", or a factor

function openView(cell) {
  if (!cell) return;
  view.zoom = "fit";
  openDialog("view");
  showView(cell);
}

function showView(cell) {
  view.cell = cell;
  byId("view-title").textContent = titleOf(cell);
  byId("view-details").replaceChildren(...details(cell));
  byId("view").querySelector(".panel").scrollTop = 0;
  showStage();
}

/** The title of a picture: its prompt, if it has one. */
function titleOf(cell) {
  const axis = axes.find((other) => other.name === "prompt");
  return axis ? labelOf(axis, cell) : describe(cell);
}

function showStage() {
  const { cell } = view;
  const stage = byId("view-stage");
  const factor = cell.error ? 1 : view.zoom === "fit" ? fittingFactor(cell.size, stage) : view.zoom;
  stagePicture(stage, cell, factor);
  byId("view-zoom").textContent = cell.error ? "" : `${Math.round(factor * 100)} %`;
}

/** Enlarges the picture by one step (direction 1), or reduces it (-1). */
function zoomView(direction) {
  if (view.cell.error) return;
  const now = view.zoom === "fit" ? fittingFactor(view.cell.size, byId("view-stage")) : view.zoom;
  const next = direction > 0 ? ZOOMS.find((zoom) => zoom > now * 1.01) : ZOOMS.findLast((zoom) => zoom < now / 1.01);
  view.zoom = next ?? now;
  showStage();
}

/** Shows the picture that a key leads to from the current one. */
function stepView(key) {
  const cell = neighbour(view.cell, key);
  if (cell) showView(cell);
}

/** Moves the cursor from a cell to the next one in the direction of a key, past empty places, and returns it. */
function neighbour(cell, key) {
  let [row, column] = placeOfCell(cell);
  do {
    [row, column] = stepFrom({ row, column }, key) ?? [-1, -1];
  } while (key.startsWith("Arrow") && exists(row, column) && !cellAt(row, column));
  const next = exists(row, column) ? cellAt(row, column) : undefined;
  if (next) moveTo(next);
  return next;
}

// Two pictures

const compared = { left: null, right: null };

/** Marks a cell for comparison or, if another one is marked, compares the two. */
function pick(cell) {
  if (!cell) return;
  if (grid.picked && grid.picked !== cell) {
    openCompare(grid.picked, cell);
    return;
  }
  setPicked(grid.picked ? null : cell);
}

function setPicked(cell) {
  grid.picked = cell;
  byId("picking").hidden = !cell;
  const pictured = cell && !cell.error;
  const [width, height] = pictured ? thumbnailSize(cell) : [];
  byId("picking-picture").replaceChildren(...(pictured ? [thumbnail(cell, (28 * width) / height, 28)] : []));
  byId("picking-text").textContent = cell ? `A: ${describe(cell)}. Now choose the other picture.` : "";
  redraw();
}

function openCompare(left, right) {
  setPicked(null);
  Object.assign(compared, { left, right });
  openDialog("compare");
  showCompare();
}

function showCompare() {
  const { left, right } = compared;
  const sides = [["A", left], ["B", right]].map(([letter, cell]) => {
    const open = button("Details", () => {
      byId("compare").close();
      moveTo(cell);
      openView(cell);
    });
    const stage = element("div", { className: "stage" });
    const badge = element("b", { className: "badge" }, letter);
    return element("figure", {}, stage, element("figcaption", {}, badge, element("span", {}, titleOf(cell)), open));
  });
  byId("compare-pair").replaceChildren(...sides);
  byId("compare-table").replaceChildren(...differences(left, right));
  stagePair();
}

function stagePair() {
  [compared.left, compared.right].forEach((cell, i) => {
    const stage = byId("compare-pair").querySelectorAll(".stage")[i];
    stagePicture(stage, cell, cell.error ? 1 : fittingFactor(cell.size, stage));
  });
}

/** A table of the parameters in which two cells differ, and a list of the others. */
function differences(left, right) {
  const differing = varying.filter((axis) => left.at[axis.index] !== right.at[axis.index]);
  const same = [...varying, ...shared].filter((axis) => !differing.includes(axis));
  const row = (axis) => {
    const values = [left, right].map((cell) => element("td", {}, fullLabelOf(axis, cell)));
    return element("tr", {}, element("th", { scope: "row" }, axis.name), ...values);
  };
  const heads = ["Differs in", "A", "B"].map((text) => element("th", { scope: "col" }, text));
  const body = element("tbody", {}, ...differing.map(row), ...scoreRows(left, right));
  const table = element("table", {}, element("thead", {}, element("tr", {}, ...heads)), body);
  const rest = element("details", {}, element("summary", {}, `The same in both: ${same.length}`));
  const entries = same.map((axis) => [axis.name, fullLabelOf(axis, left)]);
  rest.append(element("dl", { className: "same" }, ...descriptions(entries)));
  return [table, rest];
}

function swapCompared() {
  [compared.left, compared.right] = [compared.right, compared.left];
  showCompare();
}

/** Replaces the right picture by the one that a key leads to from it. */
function stepCompare(key) {
  const cell = neighbour(compared.right, key);
  if (!cell) return;
  compared.right = cell;
  showCompare();
}
