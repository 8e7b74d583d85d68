// The grid: only what is in view is in the document. Rows and tiles stand at computed places in a plane as large as the
// whole grid; the head sticks to the top, the head of each row to the left.

const OVERSCAN = 2; // rows and columns kept beyond the edges
const SETTLED = 120; // milliseconds without scrolling after which pictures replace enlarged thumbnails

const grid = {
  root: byId("grid"),
  plane: byId("plane"),
  head: byId("head"),
  body: byId("body"),
  size: 128, // longest side of a tile in CSS pixels
  layout: null, // see arrange()
  geometry: null, // see measure()
  cursor: { row: 0, column: 0 },
  picked: null, // the cell marked for comparison
  rows: new Map(), // of the rows in the document: their elements, and those of their tiles, by number
  headColumns: "", // the columns whose heads are in the document
  timer: 0,
};

/** Where everything stands, in CSS pixels, and how many rows and columns there are. */
function measure(layout, size, width) {
  const scale = size / Math.max(...data.box);
  const [tileWidth, tileHeight] = data.box.map((side) => Math.round(side * scale));
  const gap = Math.max(2, Math.min(10, Math.round(size / 16)));
  const lines = layout.flow && varying.length ? captionLines(layout, tileWidth) : 0;
  const caption = lines ? 8 + 16 * lines : 0;
  const side = layout.flow ? 0 : Math.max(96, Math.min(232, Math.round(width / 5)));
  const levels = layout.flow ? [] : headLevels(layout);
  const [stepX, stepY] = [tileWidth + gap, tileHeight + gap + caption];
  const perRow = layout.flow ? Math.max(1, Math.floor((width - gap - 24) / stepX)) : layout.columns.length;
  const columns = Math.min(perRow, layout.columns.length);
  const rows = layout.flow ? Math.ceil(layout.columns.length / columns) || 0 : layout.rows.length;
  const head = levels.reduce((sum, level) => sum + level.height, 0);
  const left = gap + (layout.flow ? 12 : side);
  return { scale, tileWidth, tileHeight, gap, side, left, lines, levels, head, stepX, stepY, columns, rows };
}

/** How many lines a caption needs: one if the longest, at about 7 pixels a letter, fits. */
function captionLines(layout, width) {
  return layout.shown.every((cell) => describe(cell).length * 7 < width) ? 1 : 2;
}

/** The lines of the head, one per axis of the columns: its height and its runs of columns with the same value. */
function headLevels(layout) {
  const depth = Math.max(...layout.columns.map((column) => column.labels.length), 0);
  return Array.from({ length: depth }, (_, level) => {
    const axis = layout.columnAxes[level];
    const pictured = axis?.values.some((_, value) => stylesIn(axis, value).length);
    const long = axis?.labels.some((label) => label.length > 32);
    return { axis, height: pictured ? 48 : long ? 58 : 26, runs: runsOf(layout.columns, level) };
  });
}

function runsOf(columns, level) {
  const runs = [];
  let previous = null;
  for (const column of columns) {
    const key = JSON.stringify(column.labels.slice(0, level + 1));
    const start = column.index;
    if (key === previous) runs.at(-1).end = start + 1;
    else runs.push({ start, end: start + 1, label: column.labels[level] ?? "", value: column.values[level] });
    previous = key;
  }
  return runs;
}

/** Arranges the pictures anew, after a change of places, filters or order; the cursor stays with its picture. */
function rearrange() {
  const cell = grid.layout && cellAt(grid.cursor.row, grid.cursor.column);
  grid.layout = arrange();
  resize();
  moveTo(cell, false);
}

/** Lays everything out for the present size of tiles and window, keeping what is at the top left in view. */
function resize() {
  const { root, plane } = grid;
  const before = grid.geometry;
  const [left, top] = before ? [root.scrollLeft / before.stepX, root.scrollTop / before.stepY] : [0, 0];
  const geometry = measure(grid.layout, grid.size, root.clientWidth);
  grid.geometry = geometry;
  plane.style.width = `${geometry.left + geometry.columns * geometry.stepX + geometry.gap}px`;
  plane.style.height = `${geometry.head + geometry.rows * geometry.stepY + geometry.gap}px`;
  root.setAttribute("aria-rowcount", geometry.levels.length + geometry.rows);
  root.setAttribute("aria-colcount", geometry.columns + (geometry.side ? 1 : 0));
  root.classList.toggle("flow", grid.layout.flow);
  byId("nothing").hidden = grid.layout.shown.length > 0;
  root.hidden = grid.layout.shown.length === 0;
  setPixels(grid.head, { height: geometry.head });
  setPixels(grid.body, { top: geometry.head });
  root.scrollLeft = left * geometry.stepX;
  root.scrollTop = top * geometry.stepY;
  redraw();
}

function setPixels(node, lengths) {
  for (const [name, value] of Object.entries(lengths)) node.style[name] = `${value}px`;
}

/** Takes everything out of the document, and puts in again what is in view. */
function redraw() {
  for (const row of grid.rows.values()) row.node.remove();
  grid.rows.clear();
  grid.headColumns = "";
  render();
}

/** The rows and columns in view, each from the first to the one after the last. */
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

/** Brings the document in line with what is in view. */
function render() {
  const view = inView();
  renderHead(view.columns);
  for (const [number, row] of grid.rows) {
    if (number < view.rows[0] || number >= view.rows[1]) {
      row.node.remove();
      grid.rows.delete(number);
    }
  }
  for (let number = view.rows[0]; number < view.rows[1]; number += 1) renderRow(number, view.columns);
  showCursor();
  window.clearTimeout(grid.timer);
  grid.timer = window.setTimeout(sharpenInView, SETTLED);
}

function renderHead([first, last]) {
  const { geometry, head } = grid;
  if (grid.headColumns === `${first}-${last}`) return;
  grid.headColumns = `${first}-${last}`;
  let top = 0;
  const levels = geometry.levels.map((level, index) => {
    const node = element("div", { role: "row", className: "level", ariaRowIndex: index + 1 });
    setPixels(node, { top, height: level.height });
    top += level.height;
    const runs = level.runs.filter((run) => run.start < last && run.end > first);
    node.append(...runs.map((run) => columnHead(level, run)));
    return node;
  });
  head.replaceChildren(...(geometry.side ? [corner()] : []), ...levels);
}

/** The head of a run of columns with the same value. */
function columnHead(level, run) {
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

/** Says at the top left what the rows and what the lines of the head are. */
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
  setPixels(node, { width: geometry.side });
  return node;
}

function renderRow(number, [first, last]) {
  const row = grid.rows.get(number) ?? makeRow(number);
  for (const [column, tile] of row.tiles) {
    if (column < first || column >= last) {
      tile.remove();
      row.tiles.delete(column);
    }
  }
  for (let column = first; column < last; column += 1) {
    if (row.tiles.has(column) || !exists(number, column)) continue;
    const tile = makeTile(number, column);
    row.node.insertBefore(tile, following(row.tiles, column) ?? null);
    row.tiles.set(column, tile);
  }
}

/** Of a map by numbers: what has the next larger number, so that the document has all in their order. */
function following(map, number) {
  const next = Math.min(...[...map.keys()].filter((other) => other > number));
  return map.get(next);
}

function makeRow(number) {
  const { geometry, layout } = grid;
  const node = element("div", { role: "row", className: "row", ariaRowIndex: geometry.levels.length + number + 1 });
  setPixels(node, { top: geometry.gap + number * geometry.stepY, height: geometry.stepY - geometry.gap });
  if (!layout.flow) node.append(rowHead(layout.rows[number]));
  const row = { node, tiles: new Map() };
  grid.body.insertBefore(node, following(grid.rows, number)?.node ?? null);
  grid.rows.set(number, row);
  return row;
}

function rowHead(line) {
  const { geometry, layout } = grid;
  const names = layout.rowAxes.flatMap((axis, i) => stylesIn(axis, line.values[i]));
  const labels = line.labels.map((label, i) => element("span", {}, ...rowName(layout.rowAxes, i), label));
  const node = element("div", { role: "rowheader", ariaColIndex: 1, title: line.labels.join("\n") });
  if (names.length) node.append(stylePicture(names[0]));
  const text = element("div", { className: "labels" }, ...labels);
  text.style.setProperty("--lines", Math.max(1, Math.floor(geometry.tileHeight / 18 / labels.length)));
  node.append(text);
  setPixels(node, { width: geometry.side });
  return node;
}

/** The name of one of several axes of the rows; prompts speak for themselves. */
function rowName(rowAxes, i) {
  return rowAxes.length > 1 && rowAxes[i].name !== "prompt" ? [element("i", {}, `${rowAxes[i].name} `)] : [];
}

/** The cell at a row and column of what is on show; undefined where there is none. */
function cellAt(row, column) {
  const { layout, geometry } = grid;
  return layout.cells.get(row * geometry.columns + column);
}

/** Whether there is a place at a row and column: the last row of pictures that flow may be shorter. */
function exists(row, column) {
  const { layout, geometry } = grid;
  const inside = row >= 0 && column >= 0 && row < geometry.rows && column < geometry.columns;
  return inside && (!layout.flow || row * geometry.columns + column < layout.columns.length);
}

/** Row and column of a cell on show. */
function placeOfCell(cell) {
  const { layout, geometry } = grid;
  const [row, column] = layout.found.get(cell.number);
  return layout.flow ? [Math.floor(column / geometry.columns), column % geometry.columns] : [row, column];
}

function makeTile(row, column) {
  const { geometry, layout } = grid;
  const cell = cellAt(row, column);
  const node = element("div", {
    role: "gridcell",
    id: `cell-${row}-${column}`,
    className: "tile",
    ariaColIndex: column + (geometry.side ? 2 : 1),
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
    caption.style.setProperty("--lines", geometry.lines);
    node.append(caption);
  }
  return node;
}

function fillTile(node, frame, cell) {
  const { geometry } = grid;
  if (!cell) {
    node.classList.add("missing");
  } else if (cell.error) {
    node.classList.add("failed");
    node.title = cell.error;
    frame.append(element("span", {}, "failed"));
  } else {
    const [width, height] = thumbnailSize(cell).map((side) => side * geometry.scale);
    frame.append(thumbnail(cell, width, height));
  }
  if (cell && cell === grid.picked) frame.append(element("span", { className: "badge" }, "A"));
}

function tileLabel(cell, row, column) {
  if (cell) return `${describe(cell)}${cell.error ? `: failed, ${cell.error}` : ""}`;
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

// The cursor: the tile that keys act upon

function showCursor() {
  const { row, column } = grid.cursor;
  const id = `cell-${row}-${column}`;
  for (const tile of grid.body.querySelectorAll(".current")) tile.classList.toggle("current", tile.id === id);
  const tile = byId(id);
  if (!tile) {
    grid.root.removeAttribute("aria-activedescendant");
    return;
  }
  tile.classList.add("current");
  grid.root.setAttribute("aria-activedescendant", id);
}

/** Moves the cursor to a row and column, the nearest there is, and that into view. */
function moveCursor(row, column, scroll = true) {
  const { geometry } = grid;
  const clamp = (value, count) => Math.max(0, Math.min(count - 1, value));
  grid.cursor = { row: clamp(row, geometry.rows), column: clamp(column, geometry.columns) };
  while (grid.cursor.column > 0 && !exists(grid.cursor.row, grid.cursor.column)) grid.cursor.column -= 1;
  if (scroll) scrollToCursor();
  showCursor();
}

/** Moves the cursor to a cell, if it is on show. */
function moveTo(cell, scroll = true) {
  if (cell && grid.layout.found.has(cell.number)) moveCursor(...placeOfCell(cell), scroll);
  else moveCursor(0, 0, scroll);
}

function scrollToCursor() {
  const { root, geometry, cursor } = grid;
  const into = (position, from, extent, length) => {
    if (position < from) return position;
    return Math.max(from, position + length - extent);
  };
  const { gap, stepX, stepY, side, head } = geometry;
  root.scrollTop = into(cursor.row * stepY, root.scrollTop, root.clientHeight - head, stepY + gap);
  root.scrollLeft = into(cursor.column * stepX, root.scrollLeft, root.clientWidth - side, stepX + gap);
  render();
}

function currentCell() {
  return grid.layout.shown.length ? cellAt(grid.cursor.row, grid.cursor.column) : undefined;
}

/** How many rows fit into view: the step of Page Up and Page Down. */
function page() {
  return Math.max(1, Math.floor((grid.root.clientHeight - grid.geometry.head) / grid.geometry.stepY));
}

/** The place that a key leads to from another, as [row, column]; undefined for keys that do not move. */
function stepFrom({ row, column }, key, jump = false) {
  const { rows, columns } = grid.geometry;
  const beside = (step) => {
    const index = row * columns + column + step; // pictures that flow go on in the next row
    const next = Math.floor(index / columns);
    return grid.layout.flow ? [next, index - next * columns] : [row, column + step];
  };
  const steps = {
    ArrowLeft: beside(-1),
    ArrowRight: beside(1),
    ArrowUp: [row - 1, column],
    ArrowDown: [row + 1, column],
    PageUp: [row - page(), column],
    PageDown: [row + page(), column],
    Home: [jump ? 0 : row, 0],
    End: [jump ? rows - 1 : row, columns - 1],
  };
  return steps[key];
}
