// The view as one picture, with its headers, drawn anew on a canvas.
//
// A page that was opened from the disk may show the files beside it, but not read them: the browser takes every file
// for a stranger's. A folder that the user chooses can be read, so the page asks for its own folder then.

const MARGIN = 16; // around the picture, in CSS pixels
const TITLE_HEIGHT = 48;
const MAX_SIDE = 16000; // pixels of a canvas that all browsers can save
const MAX_AREA = 1e8;

/** The rows and columns to draw, as [first, last + 1]: all of them, or those in the window. */
function partToDraw() {
  const { root, geometry } = grid;
  const all = { rows: [0, geometry.rows], columns: [0, geometry.columns] };
  if (byId("picture-part").value === "all") return all;
  const right = Math.ceil((root.scrollLeft + root.clientWidth - geometry.left) / geometry.stepX);
  return {
    rows: [rowAt(root.scrollTop + geometry.headerHeight), rowAt(root.scrollTop + root.clientHeight) + 1],
    columns: [Math.floor(root.scrollLeft / geometry.stepX), Math.min(geometry.columns, right)],
  };
}

/** Where each part of the picture stands, in CSS pixels: {width, height, scale, bands: [{number, top, rows}]}. */
function composition({ rows, columns }) {
  const { geometry } = grid;
  const bands = [];
  let top = MARGIN + TITLE_HEIGHT;
  for (let row = rows[0]; row < rows[1]; ) {
    const number = Math.floor(row / geometry.lines);
    const end = Math.min(rows[1], (number + 1) * geometry.lines);
    bands.push({ number, top, rows: [row, end] });
    top += geometry.headerHeight + (end - row) * geometry.stepY + geometry.gap;
    row = end;
  }
  const width = geometry.left + (columns[1] - columns[0]) * geometry.stepX + MARGIN;
  const height = top + MARGIN;
  const ratio = window.devicePixelRatio || 1;
  const scale = Math.min(ratio, MAX_SIDE / width, MAX_SIDE / height, Math.sqrt(MAX_AREA / (width * height)));
  return { width, height, scale, bands, columns };
}

function showPictureSize() {
  const { width, height, scale } = composition(partToDraw());
  byId("picture-size").textContent = `${Math.round(width * scale)} × ${Math.round(height * scale)} pixels`;
}

async function savePicture() {
  const say = (text) => {
    byId("picture-status").textContent = text;
  };
  const files = chosenFiles();
  if (!files.size && !(await canReadPictures())) {
    byId("picture-folder-box").hidden = false;
    byId("picture-folder").focus();
    return;
  }
  const plan = composition(partToDraw());
  say("Drawing …");
  try {
    const canvas = await drawView(plan, (address) => readPicture(address, files));
    const blob = await new Promise((done) => canvas.toBlob(done));
    download(blob, `${data.title.replace(/[^\p{L}\p{N}]+/gu, "-") || "grid"}.png`);
    say("Saved.");
  } catch (error) {
    say(error instanceof MissingFile ? error.message : `It could not be drawn: ${error.message}`);
  }
}

class MissingFile extends Error {}

/** The files of the folder that the user has chosen, by their path within it. */
function chosenFiles() {
  const within = (file) => file.webkitRelativePath.split("/").slice(1).join("/");
  return new Map([...byId("picture-folder").files].map((file) => [within(file), file]));
}

/** Whether the browser lets the page read the pixels of its pictures. */
async function canReadPictures() {
  const address = data.atlas.files.find(Boolean);
  if (!address) return true;
  const context = element("canvas", { width: 1, height: 1 }).getContext("2d");
  try {
    context.drawImage(await loadImage(address), 0, 0);
    context.getImageData(0, 0, 1, 1);
    return true;
  } catch {
    return false;
  }
}

function readPicture(address, files) {
  if (!files.size) return loadImage(address);
  const file = files.get(fileName(address));
  if (!file) {
    throw new MissingFile(`That folder lacks ${fileName(address)}. Choose ${gridFolder()}, which holds this page.`);
  }
  return createImageBitmap(file);
}

/** Draws the view on a new canvas. read: gives the picture at an address. */
async function drawView(plan, read) {
  const [width, height] = [plan.width, plan.height].map((side) => Math.round(side * plan.scale));
  const canvas = element("canvas", { width, height });
  const context = canvas.getContext("2d");
  const colour = (name) => getComputedStyle(document.body).getPropertyValue(name);
  context.scale(plan.scale, plan.scale);
  context.fillStyle = colour("background-color");
  context.fillRect(0, 0, plan.width, plan.height);
  const write = (lines, left, top, font = `${FONT_SIZE}px`) => {
    context.font = `${font} ${colour("font-family")}`;
    context.fillStyle = colour("color");
    lines.forEach((line, i) => context.fillText(line, left, top + i * LINE_HEIGHT));
  };
  write([`${data.title}: ${byId("count").textContent}`], MARGIN, MARGIN + 14, "600 16px");
  const settings = sharedSettings().first.map((entry) => entry.join(" ")).join("    ");
  write(wrapText(settings, plan.width - 2 * MARGIN, 1), MARGIN, MARGIN + 32);
  const kept = new Map();
  const readOnce = (address) => {
    if (!kept.has(address)) kept.set(address, read(address));
    return kept.get(address);
  };
  for (const band of plan.bands) {
    await drawHeaders(plan, band, { context, write, readOnce });
    for (let row = band.rows[0]; row < band.rows[1]; row += 1) {
      await drawRow(plan, band, row, { context, write, read, readOnce });
    }
  }
  return canvas;
}

async function drawHeaders(plan, band, { context, write, readOnce }) {
  const { geometry } = grid;
  const [first, end] = plan.columns;
  const start = band.number * geometry.columns;
  let { top } = band;
  let namesLeft = MARGIN;
  for (const { axis, width } of geometry.rowLevels) {
    write([axis.title], namesLeft, top + geometry.headerHeight - 9);
    namesLeft += width;
  }
  for (const level of geometry.levels) {
    const name = level.axis?.title ?? "";
    const middle = top + level.height / 2 + 4;
    write([name], geometry.left - textWidth(name) - 12, middle);
    for (const run of runsWithin(level, start, first, end)) {
      const from = Math.max(run.start, first);
      const width = (Math.min(run.end, end) - from) * geometry.stepX - 10;
      const left = geometry.left + (from - first) * geometry.stepX;
      if (level.upright) {
        drawUpright(context, write, run.short, { left, top, height: level.height });
        continue;
      }
      const names = level.pictured ? stylesIn(level.axis, run.value) : [];
      for (const [i, style] of names.entries()) {
        await drawStyle(style, { context, readOnce, x: left + i * ROW_PICTURE, top: top + 4 });
      }
      const room = width - names.length * ROW_PICTURE;
      const lines = wrapText(run.short, room, MAX_LABEL_LINES);
      write(lines, left + names.length * ROW_PICTURE, middle - ((lines.length - 1) * LINE_HEIGHT) / 2);
    }
    top += level.height;
  }
}

function drawUpright(context, write, text, { left, top, height }) {
  context.save();
  context.translate(left + LINE_HEIGHT, top + height - 4);
  context.rotate(-Math.PI / 2);
  write(wrapText(text, height - 10, 1), 0, 0);
  context.restore();
}

async function drawRow(plan, band, row, { context, write, read, readOnce }) {
  const { geometry, layout } = grid;
  const [first, end] = plan.columns;
  const top = band.top + geometry.headerHeight + (row - band.rows[0]) * geometry.stepY + geometry.gap;
  const maxLines = Math.max(1, Math.floor(geometry.tileHeight / LINE_HEIGHT));
  let left = MARGIN;
  const line = layout.rows[slotOf(row, 0)[0]];
  for (const [i, level] of geometry.rowLevels.entries()) {
    const [style] = level.pictured ? stylesIn(level.axis, line.values[i]) : [];
    if (style) await drawStyle(style, { context, readOnce, x: left, top });
    const indent = level.pictured ? ROW_PICTURE : 0;
    const room = level.width - 14 - indent;
    if (room > 0) write(wrapText(line.short[i], room, maxLines), left + indent, top + 12);
    left += level.width;
  }
  for (let column = first; column < end; column += 1) {
    const cell = exists(row, column) && cellAt(row, column);
    if (!cell) continue;
    const x = geometry.left + (column - first) * geometry.stepX;
    if (cell.error) write(["failed"], x, top + 14);
    else await drawTile(cell, { context, read, readOnce, x, top, scale: plan.scale });
    if (isStarred(cell)) drawStar(context, x + geometry.tileWidth, top, geometry.tileWidth < 56 ? 8 : 12);
    if (layout.flow && varying.length) {
      const lines = wrapText(describeShortly(cell), geometry.tileWidth, geometry.captionLines);
      write(lines, x, top + geometry.tileHeight + 15);
    }
  }
}

/** Draws the training picture of a style in front of a label. */
async function drawStyle(name, { context, readOnce, x, top }) {
  const { file, size } = data.styles[name];
  const scale = (ROW_PICTURE - 6) / Math.max(...size);
  context.drawImage(await readOnce(file), x, top, size[0] * scale, size[1] * scale);
}

/** Draws a star in the corner of a tile as the page shows it: a golden one on a dark disc, over any picture. */
function drawStar(context, right, top, radius) {
  const [x, y] = [right - radius - 2, top + radius + 2];
  context.fillStyle = "rgb(0 0 0 / 55%)";
  context.beginPath();
  context.arc(x, y, radius, 0, 2 * Math.PI);
  context.fill();
  context.fillStyle = "#ffd166";
  context.font = `${1.25 * radius}px ${getComputedStyle(document.body).fontFamily}`;
  Object.assign(context, { textAlign: "center", textBaseline: "middle" });
  context.fillText("★", x, y);
  Object.assign(context, { textAlign: "start", textBaseline: "alphabetic" });
}

/** Draws a tile: from its atlas, or from the picture itself if it has more pixels than the thumbnail. */
async function drawTile(cell, { context, read, readOnce, x, top, scale }) {
  const { geometry } = grid;
  const own = thumbnailSize(cell);
  const [width, height] = own.map((side) => side * geometry.scale);
  const [left, above] = [x + (geometry.tileWidth - width) / 2, top + (geometry.tileHeight - height) / 2];
  const isLarge = width * scale > own[0] && cell.size[0] > own[0];
  const { file, part } = isLarge ? { file: cell.file, part: [0, 0, ...cell.size] } : atlasPart(cell);
  const image = await (isLarge ? read(file) : readOnce(file));
  context.imageSmoothingEnabled = width * scale < 2 * part[2];
  context.imageSmoothingQuality = "high";
  context.drawImage(image, ...part, left, above, width, height);
}
