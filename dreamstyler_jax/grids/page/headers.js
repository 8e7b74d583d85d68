// The headers of the grid: of columns, by level; of rows, by axis; and the corner, which names the axes.

/** The headers above the columns from first to end of a band, with the corner. */
function columnHeaders(band, first, end) {
  const { geometry } = grid;
  const start = band * geometry.columns;
  let top = 0;
  const levels = geometry.levels.map((level, index) => {
    const rowIndex = band * (geometry.levels.length + geometry.lines) + index + 1;
    const node = element("div", { role: "row", className: "level", ariaRowIndex: rowIndex });
    setPixels(node, { top, height: level.height });
    top += level.height;
    node.append(...runsWithin(level, start, first, end).map((run) => columnHeader(level, run)));
    return node;
  });
  return geometry.rowHeaderWidth ? [corner(), ...levels] : levels;
}

/** The runs of a level in the columns from first to end of a band that starts at a column of the layout. */
function runsWithin(level, start, first, end) {
  const { columns } = grid.geometry;
  return level.runs
    .map((run) => ({ ...run, start: Math.max(0, run.start - start), end: Math.min(columns, run.end - start) }))
    .filter((run) => run.start < Math.min(end, run.end) && run.end > first);
}

/** The header of a run of columns with the same value. */
function columnHeader(level, run) {
  const { geometry } = grid;
  const width = (run.end - run.start) * geometry.stepX;
  const pictures = level.pictured ? stylesIn(level.axis, run.value).map(stylePicture) : [];
  const room = level.upright ? level.height - 10 : width - 10 - pictures.length * ROW_PICTURE;
  const maxLines = level.upright ? Math.max(1, Math.floor(width / LINE_HEIGHT)) : MAX_LABEL_LINES;
  const lines = wrapText(run.short, room, maxLines);
  const className = level.upright ? "label upright" : "label";
  const text = element("span", { className }, ...pictures, element("span", {}, lines.join("\n")));
  const node = element("div", { role: "columnheader", title: run.label, ariaColIndex: run.start + 2 }, text);
  node.ariaColSpan = run.end - run.start;
  if (!level.upright) setPixels(text, { left: geometry.left, maxWidth: width - 4 });
  setPixels(node, { left: geometry.left + run.start * geometry.stepX, width: width - geometry.gap });
  return node;
}

/** The names of the axes, in the top left corner of a band: of the columns beside them, of the rows above them. */
function corner() {
  const { geometry } = grid;
  const columns = geometry.levels.map((level) => {
    const line = element("span", {}, level.axis?.title ?? "");
    setPixels(line, { height: level.height });
    return line;
  });
  const rows = geometry.rowLevels.map((level) => {
    const name = element("span", { title: level.axis.template || level.axis.title }, level.axis.title);
    setPixels(name, { width: level.width });
    return name;
  });
  const node = element(
    "div",
    { className: "corner", ariaHidden: "true" },
    element("div", { className: "of-columns" }, ...columns),
    element("div", { className: "of-rows" }, ...rows),
  );
  setPixels(node, { width: geometry.rowHeaderWidth });
  return node;
}

/** The header of a row: the values of its axes side by side, and the training pictures of its styles. */
function rowHeader(line) {
  const { geometry } = grid;
  const maxLines = Math.max(1, Math.floor(geometry.tileHeight / LINE_HEIGHT));
  const node = element("div", { role: "rowheader", ariaColIndex: 1, title: line.labels.join("\n") });
  geometry.rowLevels.forEach((level, i) => {
    const names = level.pictured ? stylesIn(level.axis, line.values[i]) : [];
    const room = level.width - 14 - (level.pictured ? ROW_PICTURE : 0);
    const text = element("span", {}, wrapText(line.short[i], room, maxLines).join("\n"));
    const label = element("div", { className: "labels" }, ...names.slice(0, 1).map(stylePicture), text);
    setPixels(label, { width: level.width });
    node.append(label);
  });
  setPixels(node, { width: geometry.rowHeaderWidth });
  return node;
}
