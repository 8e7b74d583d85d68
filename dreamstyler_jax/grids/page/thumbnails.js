// Thumbnails on canvases. They are cut from the atlases, each of which loads when it is first needed. Where tiles are
// larger than thumbnails, the pictures themselves replace them.

const atlasImages = new Map();

/** A promise of the image of an atlas. */
function atlasAt(file) {
  if (!atlasImages.has(file)) atlasImages.set(file, loadImage(file));
  return atlasImages.get(file);
}

/** Where a cell's thumbnail is: the file of an atlas, and its part [left, top, width, height]. */
function atlasPart(cell) {
  const { columns, rows, files } = data.atlas;
  const slot = cell.number % (columns * rows);
  const [left, top] = [(slot % columns) * data.box[0], Math.floor(slot / columns) * data.box[1]];
  return { file: files[Math.floor(cell.number / (columns * rows))], part: [left, top, ...thumbnailSize(cell)] };
}

async function loadImage(url) {
  const image = new Image();
  image.src = url;
  await image.decode();
  return image;
}

/** [width, height] of a cell's thumbnail in its atlas. thumbnails.py computes the same. */
function thumbnailSize(cell) {
  const scale = Math.min(1, data.thumbnail / Math.max(...cell.size));
  return cell.size.map((side) => Math.max(1, Math.floor(side * scale + 0.5)));
}

/** A canvas with a cell's thumbnail, width x height in CSS pixels. */
function thumbnail(cell, width, height) {
  const ratio = window.devicePixelRatio || 1;
  const canvas = element("canvas", { width: Math.round(width * ratio), height: Math.round(height * ratio) });
  canvas.style.width = `${width}px`;
  canvas.style.height = `${height}px`;
  const { file, part } = atlasPart(cell);
  atlasAt(file)
    .then((atlas) => canvas.dataset.sharp === "drawn" || draw(canvas, atlas, part))
    .catch(() => canvas.classList.add("unread"));
  return canvas;
}

/** Replaces the thumbnail on a canvas by the picture itself, if the canvas has more pixels than the thumbnail. */
function sharpen(canvas, cell) {
  if (canvas.dataset.sharp || canvas.width <= thumbnailSize(cell)[0]) return;
  canvas.dataset.sharp = "loading";
  loadImage(cell.file)
    .then((image) => {
      draw(canvas, image, [0, 0, image.naturalWidth, image.naturalHeight]);
      canvas.dataset.sharp = "drawn";
    })
    .catch(() => delete canvas.dataset.sharp);
}

/** Draws a part [left, top, width, height] of an image; without smoothing if that enlarges it at least twice. */
function draw(canvas, image, part) {
  const context = canvas.getContext("2d");
  context.imageSmoothingEnabled = canvas.width < 2 * part[2];
  context.imageSmoothingQuality = "high";
  context.drawImage(image, ...part, 0, 0, canvas.width, canvas.height);
}
