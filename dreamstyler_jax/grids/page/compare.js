// Two pictures: which ones, and their dialog. They stand side by side, or one over the other with a line to move.

const compared = { left: null, right: null, wiping: false, stages: [] };

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
  const text = cell ? `Now choose the other picture. A: ${withStyles(describe(cell), cell)}` : "";
  byId("picking-text").textContent = text;
  redraw();
}

function openCompare(left, right) {
  setPicked(null);
  Object.assign(compared, { left, right, stages: [] });
  openDialog("compare");
  showCompare();
}

function showCompare() {
  const { left, right, wiping } = compared;
  const possible = !left.error && !right.error;
  byId("compare-wipe").disabled = !possible;
  byId("compare-wipe").ariaPressed = String(wiping && possible);
  byId("wipe").hidden = !(wiping && possible);
  const shown = wiping && possible ? [[left, right]] : [[left], [right]];
  const old = compared.stages;
  compared.stages = shown.map((cells) => {
    const stage = new Stage(stageNode(cells), { zoomed: followZoom });
    stage.node.addEventListener("scroll", () => followScroll(stage));
    stage.zoom = old[0]?.zoom ?? "fit";
    return stage;
  });
  byId("compare-pair").classList.toggle("wiped", shown.length === 1);
  byId("compare-pair").replaceChildren(...compared.stages.map((stage) => stage.node), ...sides());
  byId("compare-table").replaceChildren(...differences(left, right));
  compared.stages.forEach((stage, i) => stage.show(...shown[i]));
  setWipe();
}

function stageNode(cells) {
  const letters = cells.map((cell) => (cell === compared.left ? "A" : "B")).join(" and ");
  return element("div", { className: "stage", tabIndex: 0, role: "group", ariaLabel: `Picture ${letters}` });
}

/** What stands below the pictures: letter, title, star, and a button to the details. */
function sides() {
  return [["A", compared.left], ["B", compared.right]].map(([letter, cell]) => {
    const open = button("Details", () => {
      byId("compare").close();
      moveTo(cell);
      openView(cell);
    });
    const badge = element("b", { className: "badge" }, letter);
    const text = element("span", {}, peculiarity(cell));
    return element("div", { className: "side" }, badge, text, starButton(cell), open);
  });
}

/** What sets a cell apart from the one that it is compared with. */
function peculiarity(cell) {
  const { left, right } = compared;
  const differing = offered.filter((axis) => left.at[axis.index] !== right.at[axis.index]);
  return differing.map((axis) => named(axis, axis.short[cell.at[axis.index]])).join(", ") || titleOf(cell);
}

/** Both pictures have the same zoom and show the same part. */
function followZoom(changed) {
  for (const stage of compared.stages) {
    if (stage === changed) continue;
    stage.zoom = changed.zoom;
    stage.refresh();
  }
  followScroll(changed);
}

function followScroll({ node }) {
  for (const stage of compared.stages) stage.node.scrollTo(node.scrollLeft, node.scrollTop);
}

function toggleWipe() {
  compared.wiping = !compared.wiping;
  showCompare();
}

/** Puts the line between the pictures where the slider is: A to its left, B to its right. */
function setWipe() {
  byId("compare-pair").style.setProperty("--wipe", `${byId("wipe").value}%`);
}

/** A table of the parameters in which two cells differ, and a list of the others. */
function differences(left, right) {
  const differing = varying.filter((axis) => left.at[axis.index] !== right.at[axis.index]);
  const same = [...varying, ...shared].filter((axis) => !differing.includes(axis));
  const row = (axis) => {
    const values = [left, right].map((cell) => element("td", {}, fullLabelOf(axis, cell)));
    return element("tr", {}, element("th", { scope: "row" }, axis.title), ...values);
  };
  const heads = ["Differs in", "A", "B"].map((text) => element("th", { scope: "col" }, text));
  const body = element("tbody", {}, ...differing.map(row), ...scoreRows(left, right));
  const table = element("table", {}, element("thead", {}, element("tr", {}, ...heads)), body);
  const rest = element("details", {}, element("summary", {}, `The same in both: ${same.length}`));
  const entries = same.map((axis) => [axis.title, fullLabelOf(axis, left)]);
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

function listenInCompare(on) {
  on("compare-swap", "click", swapCompared);
  on("compare-wipe", "click", toggleWipe);
  on("wipe", "input", setWipe);
}
