// The sizes and places of headers and tiles, in CSS pixels.

const ROW_PICTURE = 44; // room for the training picture of a style in front of the label of a row
const MAX_LABEL_LINES = 4; // of a column's header
const MAX_UPRIGHT = 150; // length of a header whose text stands upright
const MAX_MEASURED = 30; // labels of an axis whose widths are looked at: the longest ones

/**
 * Computes where everything stands, and how many rows and columns there are.
 *
 * If the columns do not fit the width, and all rows together fill less than half of the height (in an upright window,
 * such as a phone's, less than all of it), the columns continue below, with headers of their own: they break into
 * bands, as text breaks into lines. A flow always does.
 *
 * layout: see arrange(); size: longest side of a tile; width, height: of the part of the window that shows the grid.
 */
function measure(layout, size, width, height) {
  const scale = size / Math.max(...data.box);
  const [tileWidth, tileHeight] = data.box.map((side) => Math.round(side * scale));
  const gap = Math.max(2, Math.min(10, Math.round(size / 16)));
  const captionLines = layout.flow && varying.length ? countCaptionLines(layout, tileWidth) : 0;
  const captionHeight = captionLines ? 8 + LINE_HEIGHT * captionLines : 0;
  const [stepX, stepY] = [tileWidth + gap, tileHeight + gap + captionHeight];
  const levels = layout.flow ? [] : columnLevels(layout, stepX);
  const rowLevels = layout.flow ? [] : measureRowLevels(layout, levels, tileHeight, width);
  const rowHeaderWidth = rowLevels.reduce((sum, level) => sum + level.width, layout.flow ? 0 : 20);
  const namesHeight = layout.flow || namesFit(layout, levels, rowHeaderWidth) ? 0 : 18;
  const headerHeight = levels.reduce((sum, level) => sum + level.height, namesHeight);
  const left = gap + (layout.flow ? 12 : rowHeaderWidth);
  const lines = layout.rows.length;
  const most = isUpright(width, height) ? height : height / 2;
  const breaks = headerHeight + lines * stepY <= most;
  const columns = columnsPerBand(layout, Math.floor((width - left - 12) / stepX), breaks);
  const bands = Math.ceil(layout.columns.length / columns) || 0;
  const bandHeight = headerHeight + lines * stepY + (bands > 1 && !layout.flow ? 14 : 0);
  return {
    scale,
    tileWidth,
    tileHeight,
    gap,
    stepX, // from a tile to the next one on its right
    stepY, // from a tile to the next one below
    left, // of the first column
    rowLevels, // the columns of the row headers, one for each axis of the rows
    rowHeaderWidth,
    namesHeight, // of the line with the names of the rows' axes, if it needs one of its own
    headerHeight, // of all column headers together
    levels,
    captionLines,
    bands,
    bandHeight,
    lines, // rows of a band
    rows: bands * lines,
    columns,
    width: left + columns * stepX + gap,
    height: bands * bandHeight + gap,
  };
}

/** Whether a window is higher than wide: there one scrolls down rather than sideways. */
function isUpright(width, height) {
  return height > width;
}

/** How many columns stand side by side: all of them, or the columns of a band. */
function columnsPerBand(layout, fitting, breaks) {
  const all = layout.columns.length;
  const most = Math.max(1, fitting);
  if (all <= most || (!layout.flow && !breaks)) return Math.max(1, all);
  if (layout.flow) return most;
  const unit = layout.columnAxes.length > 1 ? layout.columnAxes.at(-1).values.length : 1;
  const whole = unit <= most ? unit : 1; // columns that stay together: those of a value of the axis above
  const bands = Math.ceil(all / (Math.floor(most / whole) * whole));
  return Math.ceil(all / bands / whole) * whole; // so that the last band is about as long as the others
}

/** How many lines the captions need: one if all labels fit, else two. */
function countCaptionLines(layout, width) {
  const longest = layout.columnAxes.reduce((sum, axis) => sum + textWidth(`${axis.title} , `) + widest(axis), 0);
  return longest < width ? 1 : 2;
}

const longestLabels = new Map();

/** The longest labels of an axis, which stand for all of them when texts are measured. */
function longest(axis) {
  if (!longestLabels.has(axis)) {
    const ordered = [...axis.short].sort((a, b) => b.length - a.length);
    longestLabels.set(axis, ordered.slice(0, MAX_MEASURED));
  }
  return longestLabels.get(axis);
}

function widest(axis) {
  return Math.max(...longest(axis).map(textWidth));
}

function hasPictures(axis) {
  return axis.values.some((_, value) => stylesIn(axis, value).length);
}

/** The widths of the labels of the rows, by axis: together at most a third of the window, the widest give way. */
function measureRowLevels(layout, levels, tileHeight, width) {
  const wanted = layout.rowAxes.map((axis) => {
    const pictured = tileHeight >= 36 && hasPictures(axis);
    const text = Math.max(widest(axis), textWidth(axis.title)) + 14;
    return { axis, pictured, width: text + (pictured ? ROW_PICTURE : 0) };
  });
  const limit = Math.max(76, Math.min(340, Math.round(width * 0.28)));
  const total = (most) => wanted.reduce((sum, level) => sum + Math.min(most, level.width), 0);
  let most = Math.max(...wanted.map((level) => level.width));
  while (most > 24 && total(most) > limit) most -= 4;
  const fitted = wanted.map((level) => ({ ...level, width: Math.min(most, level.width) }));
  const names = levels.map((level) => textWidth(level.axis?.title ?? "") + 12);
  fitted[0].width += Math.max(0, Math.max(0, ...names) - total(most)); // the corner names the axes of the columns
  return fitted;
}

/** Whether the names of the rows' axes have room beside the name of the last level of the columns. */
function namesFit(layout, levels, rowHeaderWidth) {
  const last = textWidth(levels.at(-1)?.axis?.title ?? "");
  return layout.rowAxes.length === 1 && textWidth(layout.rowAxes[0].title) + last + 44 < rowHeaderWidth;
}

/** The levels of the column headers, one per axis of the columns: its height, and its runs of columns. */
function columnLevels(layout, stepX) {
  return layout.levels.map(({ axis, runs, shortest }) => ({ axis, runs, ...headerShape(axis, shortest * stepX - 10) }));
}

/** The height of a level, and whether its texts stand upright, because a word of theirs is wider than a run. */
function headerShape(axis, width) {
  const labels = axis ? longest(axis) : ["no. 99"];
  const pictured = Boolean(axis) && width > 2 * ROW_PICTURE && hasPictures(axis);
  const room = width - (pictured ? ROW_PICTURE : 0);
  if (labels.some((label) => wordWidth(label) > room)) {
    const length = Math.min(MAX_UPRIGHT, Math.max(...labels.map(textWidth)));
    return { upright: true, pictured: false, height: length + 14 };
  }
  const lines = Math.min(MAX_LABEL_LINES, Math.max(...labels.map((label) => wrapText(label, room).length)));
  return { upright: false, pictured, height: Math.max(pictured ? 48 : 0, lines * LINE_HEIGHT + 10) };
}

// Places. A place is a row and a column on the page; a slot is a row and a column of the layout, however it breaks.

/** The slot [row, column] of a place. */
function slotOf(row, column) {
  const { lines, columns } = grid.geometry;
  const band = Math.floor(row / lines);
  return [row - band * lines, band * columns + column];
}

/** The place [row, column] of a slot. */
function placeOfSlot(row, column) {
  const { lines, columns } = grid.geometry;
  const band = Math.floor(column / columns);
  return [band * lines + row, column - band * columns];
}

/** The cell at a place; undefined if there is none. */
function cellAt(row, column) {
  const [line, number] = slotOf(row, column);
  return grid.layout.cells.get(line * grid.layout.columns.length + number);
}

/** Whether the grid has a place at a row and column: the last band may be shorter than the others. */
function exists(row, column) {
  const { layout, geometry } = grid;
  const inside = row >= 0 && column >= 0 && row < geometry.rows && column < geometry.columns;
  return inside && slotOf(row, column)[1] < layout.columns.length;
}

/** The row and column of a cell that passes the filters. */
function placeOfCell(cell) {
  return placeOfSlot(...grid.layout.positions.get(cell.number));
}

/** How far a row is below the top of its grid, its own band's headers not counted: they stick to the window. */
function topOfRow(row) {
  const { lines, stepY, bandHeight } = grid.geometry;
  const band = Math.floor(row / lines);
  return band * bandHeight + (row - band * lines) * stepY;
}

/** The row at a distance from the top of the grid, or the nearest one. */
function rowAt(top) {
  const { bands, lines, stepY, bandHeight, headerHeight } = grid.geometry;
  const band = Math.max(0, Math.min(bands - 1, Math.floor(top / bandHeight)));
  const line = Math.floor((top - band * bandHeight - headerHeight) / stepY);
  return band * lines + Math.max(0, Math.min(lines - 1, line));
}
