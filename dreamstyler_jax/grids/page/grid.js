// The grid. Only what is in view is in the document: bands, rows and tiles stand at computed places in a plane as large
// as the whole grid. The column headers of a band stick to its top, the row headers to its left.

const OVERSCAN = 2; // rows and columns that are kept beyond each edge of the view
const SCROLL_PAUSE = 120; // milliseconds without scrolling after which pictures replace enlarged thumbnails

const grid = {
  root: byId("grid"),
  frame: byId("grid").parentElement, // as large as the view, with or without scroll bars
  plane: byId("plane"),
  size: 128, // longest side of a tile in CSS pixels
  fitted: true, // whether the size follows the window, because the user has chosen none
  layout: null, // see arrange()
  geometry: null, // see measure()
  view: "", // width and height of the view when everything was laid out
  cursor: { row: 0, column: 0 },
  picked: null, // the cell marked for comparison
  bands: new Map(), // the bands in the document by number: {node, headers, body, columns: the range of these headers}
  rows: new Map(), // the rows in the document by number: {node, tiles}, tiles by column
  timer: 0,
};

/** How wide a scroll bar is; 0 where it lies over the content. */
const scrollBar = (() => {
  const probe = element("div", { className: "probe" });
  document.body.append(probe);
  const width = probe.offsetWidth - probe.clientWidth;
  probe.remove();
  return width;
})();

/**
 * Arranges the pictures again after a change of places, filters or order. The cursor stays with its picture.
 * fits: whether the tiles fit the window again, unless the user has chosen their size.
 */
function rearrange(fits = false) {
  const cell = grid.geometry && cellAt(grid.cursor.row, grid.cursor.column);
  grid.layout = arrange();
  if (fits && grid.fitted) fitSize();
  layOut();
  moveTo(cell, false);
}

/** Lays everything out for the current size of tiles and window. What is at the top left of the view stays there. */
function resize() {
  const { root, geometry, cursor } = grid;
  if (!grid.layout.shown.length) return;
  const isMoved = root.scrollTop > 0 || root.scrollLeft > 0;
  const anchor = slotOf(rowAt(root.scrollTop), Math.floor(root.scrollLeft / geometry.stepX));
  const slot = slotOf(cursor.row, cursor.column);
  layOut();
  if (isMoved) {
    const [row, column] = placeOfSlot(...anchor);
    root.scrollTo(column * grid.geometry.stepX, topOfRow(row));
  }
  moveCursor(...placeOfSlot(...slot), false);
  render();
}

/** Width and height of the part of the window that shows the grid, without room for scroll bars. */
function viewSize() {
  return [grid.frame.clientWidth - scrollBar, grid.frame.clientHeight - scrollBar];
}

function layOut() {
  const { root, plane, layout } = grid;
  const geometry = measure(layout, grid.size, ...viewSize());
  grid.geometry = geometry;
  grid.view = viewSize().join();
  setPixels(plane, { width: geometry.width, height: geometry.height });
  root.setAttribute("aria-rowcount", geometry.bands * (geometry.levels.length + geometry.lines));
  root.setAttribute("aria-colcount", geometry.columns + (geometry.rowHeaderWidth ? 1 : 0));
  byId("nothing").hidden = layout.shown.length > 0;
  root.hidden = layout.shown.length === 0;
  redraw();
}

/** Makes everything in view again from nothing. */
function redraw() {
  for (const band of grid.bands.values()) band.node.remove();
  grid.bands.clear();
  grid.rows.clear();
  if (grid.layout.shown.length) render();
}

/** The ranges of bands, rows and columns in view, each as [first, last + 1]. */
function inView() {
  const { root, geometry } = grid;
  const bottom = root.scrollTop + root.clientHeight;
  const range = (first, last, count) => [Math.max(0, first - OVERSCAN), Math.min(count, last + 1 + OVERSCAN)];
  const rows = range(rowAt(root.scrollTop), rowAt(bottom), geometry.rows);
  const right = Math.floor((root.scrollLeft + root.clientWidth) / geometry.stepX);
  return {
    bands: [Math.floor(rows[0] / geometry.lines), Math.ceil(rows[1] / geometry.lines)],
    rows,
    columns: range(Math.floor(root.scrollLeft / geometry.stepX), right, geometry.columns),
  };
}

/** Adds to the document what has come into view, and removes what has left it. */
function render() {
  const { bands, rows, columns } = inView();
  removeOutside(grid.rows, rows);
  removeOutside(grid.bands, bands);
  for (let number = bands[0]; number < bands[1]; number += 1) renderBand(number, columns);
  for (let number = rows[0]; number < rows[1]; number += 1) renderRow(number, columns);
  showCursor();
  window.clearTimeout(grid.timer);
  grid.timer = window.setTimeout(sharpenInView, SCROLL_PAUSE);
}

function removeOutside(map, [first, end]) {
  for (const [number, { node }] of map) {
    if (number >= first && number < end) continue;
    node.remove();
    map.delete(number);
  }
}

function renderBand(number, [first, end]) {
  const band = grid.bands.get(number) ?? makeBand(number);
  if (band.columns === `${first}-${end}`) return;
  band.columns = `${first}-${end}`;
  band.headers.replaceChildren(...columnHeaders(number, first, end));
}

function makeBand(number) {
  const { geometry } = grid;
  const headers = element("div", { role: "rowgroup", className: "headers" });
  const body = element("div", { role: "rowgroup", className: "rows" });
  const node = element("div", { role: "presentation", className: "band" }, headers, body);
  setPixels(node, { top: number * geometry.bandHeight, height: geometry.bandHeight + geometry.gap });
  setPixels(headers, { height: geometry.headerHeight });
  grid.plane.insertBefore(node, following(grid.bands, number)?.node ?? null);
  const band = { node, headers, body, columns: "" };
  grid.bands.set(number, band);
  return band;
}

function renderRow(number, [first, end]) {
  const row = grid.rows.get(number) ?? makeRow(number);
  for (const [column, tile] of row.tiles) {
    if (column < first || column >= end) {
      tile.remove();
      row.tiles.delete(column);
    }
  }
  for (let column = first; column < end; column += 1) {
    if (row.tiles.has(column) || !exists(number, column)) continue;
    const tile = makeTile(number, column);
    row.node.insertBefore(tile, following(row.tiles, column) ?? null);
    row.tiles.set(column, tile);
  }
}

/** The entry with the next larger number, before which the document holds a new one; undefined if there is none. */
function following(map, number) {
  const next = Math.min(...[...map.keys()].filter((other) => other > number));
  return map.get(next);
}

function makeRow(number) {
  const { geometry, layout } = grid;
  const band = Math.floor(number / geometry.lines);
  const line = number - band * geometry.lines;
  const above = geometry.levels.length * (band + 1);
  const node = element("div", { role: "row", className: "row", ariaRowIndex: above + number + 1 });
  setPixels(node, { top: geometry.gap + line * geometry.stepY, height: geometry.stepY - geometry.gap });
  if (!layout.flow) node.append(rowHeader(layout.rows[line]));
  grid.bands.get(band).body.insertBefore(node, following(rowsOf(band), number)?.node ?? null);
  const row = { node, tiles: new Map() };
  grid.rows.set(number, row);
  return row;
}

/** The rows of a band that are in the document. */
function rowsOf(band) {
  const { lines } = grid.geometry;
  return new Map([...grid.rows].filter(([number]) => Math.floor(number / lines) === band));
}

function makeTile(row, column) {
  const { geometry, layout } = grid;
  const cell = cellAt(row, column);
  const node = element("div", {
    role: "gridcell",
    id: `cell-${row}-${column}`,
    className: "tile",
    ariaColIndex: column + (geometry.rowHeaderWidth ? 2 : 1),
  });
  node.dataset.row = row;
  node.dataset.column = column;
  const frame = element("div", { className: "frame" });
  setPixels(frame, { width: geometry.tileWidth, height: geometry.tileHeight });
  setPixels(node, { left: geometry.left + column * geometry.stepX, width: geometry.tileWidth });
  node.append(frame);
  fillTile(node, frame, cell);
  node.ariaLabel = tileLabel(cell, row, column);
  if (cell && layout.flow && varying.length) {
    const lines = wrapText(describeShortly(cell), geometry.tileWidth, geometry.captionLines);
    node.append(element("div", { className: "caption", ariaHidden: "true" }, lines.join("\n")));
  }
  return node;
}

function fillTile(node, frame, cell) {
  const { geometry } = grid;
  if (!cell) {
    node.classList.add("missing");
    return;
  }
  if (cell.waiting) {
    node.classList.add("waiting");
    if (geometry.tileWidth >= 44) frame.append(element("span", {}, "not yet"));
  } else if (cell.error) {
    node.classList.add("failed");
    node.title = cell.error;
    if (geometry.tileWidth >= 44) frame.append(element("span", {}, "failed"));
  } else {
    const [width, height] = thumbnailSize(cell).map((side) => side * geometry.scale);
    frame.append(thumbnail(cell, width, height));
  }
  frame.append(...scoreMarks(cell, frame), starMark(cell, geometry.tileWidth));
  if (cell === grid.picked) frame.append(element("span", { className: "badge" }, "A"));
}

/** The accessible name of a tile. */
function tileLabel(cell, row, column) {
  if (cell) {
    const star = isStarred(cell) ? ", starred" : "";
    if (cell.waiting) return `${describe(cell)}${star}: ${cell.error}`;
    return `${describe(cell)}${star}${cell.error ? `: failed, ${cell.error}` : scoreLabel(cell)}`;
  }
  const { layout } = grid;
  const [line, number] = slotOf(row, column);
  return `${[...layout.rows[line].labels, ...layout.columns[number].labels].join(", ")}: not painted`;
}

/** Makes the tile of a cell again, if it is in the document: its star has changed. */
function renewTile(cell) {
  if (!grid.layout.positions.has(cell.number)) return;
  const [row, column] = placeOfCell(cell);
  const tiles = grid.rows.get(row)?.tiles;
  if (!tiles?.has(column)) return;
  const tile = makeTile(row, column);
  tiles.get(column).replaceWith(tile);
  tiles.set(column, tile);
  showCursor();
  sharpenInView();
}

function sharpenInView() {
  for (const [row, { tiles }] of grid.rows) {
    for (const [column, tile] of tiles) {
      const canvas = tile.querySelector("canvas");
      if (canvas) sharpen(canvas, cellAt(row, column));
    }
  }
}
