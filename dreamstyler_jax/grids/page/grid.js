// The grid. Only what is in view is in the document: rows and tiles stand at computed places in a plane as large as the
// whole grid. The column headers stick to its top, the row headers to its left.

const OVERSCAN = 2; // rows and columns that are kept beyond each edge of the view
const SCROLL_PAUSE = 120; // milliseconds without scrolling after which pictures replace enlarged thumbnails

const grid = {
  root: byId("grid"),
  plane: byId("plane"),
  headers: byId("column-headers"),
  body: byId("body"),
  size: 128, // longest side of a tile in CSS pixels
  layout: null, // see arrange()
  geometry: null, // see measure()
  width: 0, // of the view at the last change of the window's size
  cursor: { row: 0, column: 0 },
  picked: null, // the cell marked for comparison
  rows: new Map(), // the rows in the document by number: {node, tiles}, tiles by column
  renderedColumns: "", // the range of columns whose headers are in the document
  timer: 0,
};

/** Arranges the pictures again after a change of places, filters or order. The cursor stays with its picture. */
function rearrange() {
  const cell = grid.layout && cellAt(grid.cursor.row, grid.cursor.column);
  grid.layout = arrange();
  resize();
  moveTo(cell, false);
}

/** Lays everything out for the current size of tiles and window. What is at the top left of the view stays there. */
function resize() {
  const { root, plane } = grid;
  const before = grid.geometry;
  const [left, top] = before ? [root.scrollLeft / before.stepX, root.scrollTop / before.stepY] : [0, 0];
  const geometry = measure(grid.layout, grid.size, root.clientWidth);
  grid.geometry = geometry;
  setPixels(plane, {
    width: geometry.left + geometry.columns * geometry.stepX + geometry.gap,
    height: geometry.headerHeight + geometry.rows * geometry.stepY + geometry.gap,
  });
  root.setAttribute("aria-rowcount", geometry.levels.length + geometry.rows);
  root.setAttribute("aria-colcount", geometry.columns + (geometry.rowHeaderWidth ? 1 : 0));
  root.classList.toggle("flow", grid.layout.flow);
  byId("nothing").hidden = grid.layout.shown.length > 0;
  root.hidden = grid.layout.shown.length === 0;
  setPixels(grid.headers, { height: geometry.headerHeight });
  setPixels(grid.body, { top: geometry.headerHeight });
  root.scrollLeft = left * geometry.stepX;
  root.scrollTop = top * geometry.stepY;
  redraw();
}

/** Makes everything in view again from nothing. */
function redraw() {
  for (const row of grid.rows.values()) row.node.remove();
  grid.rows.clear();
  grid.renderedColumns = "";
  render();
}

/** The ranges of rows and columns in view, each as [first, last + 1]. */
function inView() {
  const { root, geometry } = grid;
  const range = (from, extent, step, count) => [
    Math.max(0, Math.floor(from / step) - OVERSCAN),
    Math.min(count, Math.ceil((from + extent) / step) + OVERSCAN),
  ];
  return {
    rows: range(root.scrollTop, root.clientHeight, geometry.stepY, geometry.rows),
    columns: range(root.scrollLeft, root.clientWidth, geometry.stepX, geometry.columns),
  };
}

/** Adds to the document what has come into view, and removes what has left it. */
function render() {
  const { rows, columns } = inView();
  renderColumnHeaders(columns);
  for (const [number, row] of grid.rows) {
    if (number < rows[0] || number >= rows[1]) {
      row.node.remove();
      grid.rows.delete(number);
    }
  }
  for (let number = rows[0]; number < rows[1]; number += 1) renderRow(number, columns);
  showCursor();
  window.clearTimeout(grid.timer);
  grid.timer = window.setTimeout(sharpenInView, SCROLL_PAUSE);
}

function renderColumnHeaders([first, end]) {
  const { geometry, headers } = grid;
  if (grid.renderedColumns === `${first}-${end}`) return;
  grid.renderedColumns = `${first}-${end}`;
  let top = 0;
  const levels = geometry.levels.map((level, index) => {
    const node = element("div", { role: "row", className: "level", ariaRowIndex: index + 1 });
    setPixels(node, { top, height: level.height });
    top += level.height;
    const runs = level.runs.filter((run) => run.start < end && run.end > first);
    node.append(...runs.map((run) => columnHeader(level, run)));
    return node;
  });
  headers.replaceChildren(...(geometry.rowHeaderWidth ? [corner()] : []), ...levels);
}

/** The header of a run of columns with the same value. */
function columnHeader(level, run) {
  const { geometry } = grid;
  const pictures = level.axis ? stylesIn(level.axis, run.value).map(stylePicture) : [];
  const text = element("span", { className: "label" }, ...pictures, element("span", {}, run.label));
  const node = element("div", { role: "columnheader", title: run.label, ariaColIndex: run.start + 2 }, text);
  node.ariaColSpan = run.end - run.start;
  setPixels(text, { left: geometry.left, maxWidth: (run.end - run.start) * geometry.stepX - 4 });
  setPixels(node, {
    left: geometry.left + run.start * geometry.stepX,
    width: (run.end - run.start) * geometry.stepX - geometry.gap,
  });
  return node;
}

/** The names of the axes, in the top left corner of the grid. */
function corner() {
  const { geometry, layout } = grid;
  const names = geometry.levels.map((level) => {
    const line = element("span", {}, level.axis?.name ?? "");
    setPixels(line, { height: level.height });
    return line;
  });
  const rows = element("span", {}, layout.rowAxes.map((axis) => axis.name).join(", "));
  const node = element(
    "div",
    { className: "corner", ariaHidden: "true" },
    element("div", { className: "of-rows" }, rows),
    element("div", { className: "of-columns" }, ...names),
  );
  setPixels(node, { width: geometry.rowHeaderWidth });
  return node;
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
  const node = element("div", { role: "row", className: "row", ariaRowIndex: geometry.levels.length + number + 1 });
  setPixels(node, { top: geometry.gap + number * geometry.stepY, height: geometry.stepY - geometry.gap });
  if (!layout.flow) node.append(rowHeader(layout.rows[number]));
  const row = { node, tiles: new Map() };
  grid.body.insertBefore(node, following(grid.rows, number)?.node ?? null);
  grid.rows.set(number, row);
  return row;
}

function rowHeader(line) {
  const { geometry, layout } = grid;
  const names = layout.rowAxes.flatMap((axis, i) => stylesIn(axis, line.values[i]));
  const labels = line.labels.map((label, i) => element("span", {}, ...axisName(layout.rowAxes, i), label));
  const node = element("div", { role: "rowheader", ariaColIndex: 1, title: line.labels.join("\n") });
  if (names.length) node.append(stylePicture(names[0]));
  const text = element("div", { className: "labels" }, ...labels);
  text.style.setProperty("--lines", Math.max(1, Math.floor(geometry.tileHeight / 18 / labels.length)));
  node.append(text);
  setPixels(node, { width: geometry.rowHeaderWidth });
  return node;
}

/** The name of an axis in front of its value, if the rows have several axes. Prompts need no name. */
function axisName(rowAxes, i) {
  return rowAxes.length > 1 && rowAxes[i].name !== "prompt" ? [element("i", {}, `${rowAxes[i].name} `)] : [];
}

/** The cell at a row and column; undefined if there is none. */
function cellAt(row, column) {
  const { layout, geometry } = grid;
  return layout.cells.get(row * geometry.columns + column);
}

/** Whether the grid has a place at a row and column. If pictures flow, the last row may be shorter than the others. */
function exists(row, column) {
  const { layout, geometry } = grid;
  const inside = row >= 0 && column >= 0 && row < geometry.rows && column < geometry.columns;
  return inside && (!layout.flow || row * geometry.columns + column < layout.columns.length);
}

/** The row and column of a cell that passes the filters. */
function placeOfCell(cell) {
  const { layout, geometry } = grid;
  const [row, column] = layout.positions.get(cell.number);
  return layout.flow ? [Math.floor(column / geometry.columns), column % geometry.columns] : [row, column];
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
    const caption = element("div", { className: "caption", ariaHidden: "true" }, describe(cell));
    caption.style.setProperty("--lines", geometry.captionLines);
    node.append(caption);
  }
  return node;
}

function fillTile(node, frame, cell) {
  const { geometry } = grid;
  if (!cell) {
    node.classList.add("missing");
  } else if (cell.waiting) {
    node.classList.add("waiting");
    frame.append(element("span", {}, "not yet"));
  } else if (cell.error) {
    node.classList.add("failed");
    node.title = cell.error;
    frame.append(element("span", {}, "failed"));
  } else {
    const [width, height] = thumbnailSize(cell).map((side) => side * geometry.scale);
    frame.append(thumbnail(cell, width, height));
  }
  if (cell) frame.append(...scoreMarks(cell, frame));
  if (cell && cell === grid.picked) frame.append(element("span", { className: "badge" }, "A"));
}

/** The accessible name of a tile. */
function tileLabel(cell, row, column) {
  if (cell?.waiting) return `${describe(cell)}: ${cell.error}`;
  if (cell) return `${describe(cell)}${cell.error ? `: failed, ${cell.error}` : scoreLabel(cell)}`;
  const { layout } = grid;
  return `${[...layout.rows[row].labels, ...layout.columns[column].labels].join(", ")}: not painted`;
}

function sharpenInView() {
  for (const [row, { tiles }] of grid.rows) {
    for (const [column, tile] of tiles) {
      const canvas = tile.querySelector("canvas");
      if (canvas) sharpen(canvas, cellAt(row, column));
    }
  }
}
