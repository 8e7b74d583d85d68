// The sizes and places of headers and tiles, in CSS pixels.

/**
 * Computes where everything stands, and how many rows and columns there are.
 * layout: see arrange(); size: longest side of a tile; width: of the part of the window that shows the grid.
 */
function measure(layout, size, width) {
  const scale = size / Math.max(...data.box);
  const [tileWidth, tileHeight] = data.box.map((side) => Math.round(side * scale));
  const gap = Math.max(2, Math.min(10, Math.round(size / 16)));
  const captionLines = layout.flow && varying.length ? countCaptionLines(layout, tileWidth) : 0;
  const captionHeight = captionLines ? 8 + 16 * captionLines : 0;
  const rowHeaderWidth = layout.flow ? 0 : Math.max(96, Math.min(232, Math.round(width / 5)));
  const levels = layout.flow ? [] : headerLevels(layout);
  const [stepX, stepY] = [tileWidth + gap, tileHeight + gap + captionHeight];
  const perRow = layout.flow ? Math.max(1, Math.floor((width - gap - 24) / stepX)) : layout.columns.length;
  const columns = Math.min(perRow, layout.columns.length);
  const rows = layout.flow ? Math.ceil(layout.columns.length / columns) || 0 : layout.rows.length;
  const headerHeight = levels.reduce((sum, level) => sum + level.height, 0);
  const left = gap + (layout.flow ? 12 : rowHeaderWidth);
  return {
    scale,
    tileWidth,
    tileHeight,
    gap,
    stepX, // from a tile to the next one on its right
    stepY, // from a tile to the next one below
    left, // of the first column
    rowHeaderWidth,
    headerHeight, // of all column headers together
    levels,
    captionLines,
    rows,
    columns,
  };
}

/** How many lines the captions need: one if the longest fits, at about 7 pixels per letter, else two. */
function countCaptionLines(layout, width) {
  return layout.shown.every((cell) => describe(cell).length * 7 < width) ? 1 : 2;
}

/** The levels of the column headers, one per axis of the columns: its height, and its runs of columns. */
function headerLevels(layout) {
  const depth = Math.max(...layout.columns.map((column) => column.labels.length), 0);
  return Array.from({ length: depth }, (_, level) => {
    const axis = layout.columnAxes[level];
    const hasPictures = axis?.values.some((_, value) => stylesIn(axis, value).length);
    const hasLongLabels = axis?.labels.some((label) => label.length > 32);
    return { axis, height: hasPictures ? 48 : hasLongLabels ? 58 : 26, runs: runsOf(layout.columns, level) };
  });
}

/** The runs of adjacent columns that share their values down to a level; each run has one header there. */
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
