// Stars and notes. The browser keeps them for the address of the page, by the ids of the pictures. A picture that is
// painted again with the same parameters has the same id, so its star stays when the page is written anew.

const STARS_KEY = `dreamstyler stars ${window.location.pathname}`;

const stars = {
  byId: new Map(), // {star: whether the picture has a star, note: a text} by the id of its cell
  only: false, // whether only starred pictures are shown
};

function loadStars() {
  const entries = kept(STARS_KEY);
  stars.byId = new Map(Array.isArray(entries) ? entries.filter(Array.isArray) : []);
}

function isStarred(cell) {
  return Boolean(stars.byId.get(cell.id)?.star);
}

function noteOf(cell) {
  return stars.byId.get(cell.id)?.note ?? "";
}

/** The starred pictures of this page, in the order of the manifest, filtered out or not. */
function starredCells() {
  return data.cells.filter(isStarred);
}

function setMark(cell, change) {
  const mark = { star: isStarred(cell), note: noteOf(cell), ...change };
  if (mark.star || mark.note) stars.byId.set(cell.id, mark);
  else stars.byId.delete(cell.id);
  const isKept = keep(STARS_KEY, [...stars.byId]);
  byId("unkept").hidden = isKept;
}

/** Gives a picture a star, or takes it away. */
function toggleStar(cell) {
  if (!cell) return;
  setMark(cell, { star: !isStarred(cell) });
  if (stars.only) update();
  else renewTile(cell);
  showStars();
}

function setNote(cell, note) {
  setMark(cell, { note });
}

/** Shows only the starred pictures, or all again. */
function toggleOnlyStarred() {
  stars.only = !stars.only;
  update();
  showStars();
}

/** Updates the buttons that show stars. */
function showStars() {
  byId("starred-count").textContent = starredCells().length.toLocaleString("en");
  byId("starred").ariaPressed = String(stars.only);
  if (view.cell) showStarButton(byId("view-star"), view.cell);
}

/** Shows on a button whether a cell has a star. */
function showStarButton(node, cell) {
  const starred = isStarred(cell);
  node.textContent = starred ? "★ Starred" : "☆ Star";
  node.ariaPressed = String(starred);
}

/** A button that gives a cell a star, for a place where other buttons are about the cell, too. */
function starButton(cell) {
  const node = button("", () => {
    toggleStar(cell);
    showStarButton(node, cell);
  });
  showStarButton(node, cell);
  return node;
}

/** The star on a tile. Keys reach it by “s”, so it takes no part in the order of the focus. */
function starMark(cell, width) {
  const starred = isStarred(cell);
  const className = `${starred ? "star starred" : "star"}${width < 56 ? " small" : ""}`;
  const title = starred ? "Remove the star (s)" : "Star (s)";
  return element("span", { className, ariaHidden: "true", title }, starred ? "★" : "☆");
}

/** Another tab with this page has changed its stars. */
function onStorage(event) {
  if (event.key !== STARS_KEY) return;
  loadStars();
  if (stars.only) update();
  else redraw();
  showStars();
}
