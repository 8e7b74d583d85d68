// The cursor: the tile that the keys act upon.

/** Marks the tile at the cursor, if it is in the document. */
function showCursor() {
  const { row, column } = grid.cursor;
  const id = `cell-${row}-${column}`;
  for (const tile of grid.plane.querySelectorAll(".current")) tile.classList.toggle("current", tile.id === id);
  const tile = byId(id);
  if (!tile) {
    grid.root.removeAttribute("aria-activedescendant");
    return;
  }
  tile.classList.add("current");
  grid.root.setAttribute("aria-activedescendant", id);
}

/** Moves the cursor to a row and column, or to the nearest that exist, and scrolls there. */
function moveCursor(row, column, scroll = true) {
  const { geometry } = grid;
  const clamp = (value, count) => Math.max(0, Math.min(count - 1, value));
  grid.cursor = { row: clamp(row, geometry.rows), column: clamp(column, geometry.columns) };
  while (grid.cursor.column > 0 && !exists(grid.cursor.row, grid.cursor.column)) grid.cursor.column -= 1;
  if (scroll) scrollToCursor();
  showCursor();
}

/** Moves the cursor to a cell, or to the first tile if the cell does not pass the filters. */
function moveTo(cell, scroll = true) {
  if (cell && grid.layout.positions.has(cell.number)) moveCursor(...placeOfCell(cell), scroll);
  else moveCursor(0, 0, scroll);
}

/** Scrolls as little as brings the cursor's tile into view. */
function scrollToCursor() {
  const { root, geometry, cursor } = grid;
  const scrolled = (position, from, extent, length) => {
    if (position < from) return position;
    return Math.max(from, position + length - extent);
  };
  const { gap, stepX, stepY, rowHeaderWidth, headerHeight } = geometry;
  root.scrollTop = scrolled(topOfRow(cursor.row), root.scrollTop, root.clientHeight - headerHeight, stepY + gap);
  root.scrollLeft = scrolled(cursor.column * stepX, root.scrollLeft, root.clientWidth - rowHeaderWidth, stepX + gap);
  render();
}

function currentCell() {
  return grid.layout.shown.length ? cellAt(grid.cursor.row, grid.cursor.column) : undefined;
}

/** How many rows fit into the view, at least one: the step of Page Up and Page Down. */
function rowsPerPage() {
  return Math.max(1, Math.floor((grid.root.clientHeight - grid.geometry.headerHeight) / grid.geometry.stepY));
}

/**
 * The place that a key leads to from another one, as [row, column]; undefined for keys that do not move.
 * whole: whether Home and End go to the first and last picture of the grid, not of the row.
 */
function stepFrom({ row, column }, key, whole = false) {
  const { rows, columns } = grid.geometry;
  const last = grid.layout.columns.length - 1;
  const [line, number] = slotOf(row, column);
  const sideways = (step) => {
    const next = number + step; // the next band continues this one
    return next >= 0 && next <= last ? placeOfSlot(line, next) : [row, column];
  };
  const { flow } = grid.layout;
  const steps = {
    ArrowLeft: sideways(-1),
    ArrowRight: sideways(1),
    ArrowUp: [row - 1, column],
    ArrowDown: [row + 1, column],
    PageUp: [row - rowsPerPage(), column],
    PageDown: [row + rowsPerPage(), column],
    Home: whole ? [0, 0] : flow ? [row, 0] : placeOfSlot(line, 0),
    End: whole ? [rows - 1, columns - 1] : flow ? [row, columns - 1] : placeOfSlot(line, last),
  };
  return steps[key];
}
