// The first view fills the window: which axes become rows and columns, and how large the tiles are.

// Tiles that are smaller do not show enough: then only a part of the grid is in view.
const SMALLEST_WHOLE = 64;
const SMALLEST_UPRIGHT = 48; // in an upright window, where they are widened afterwards
const LARGEST = 512;
const USUAL_SIZES = [128, 120, 136, 112, 144, 104, 152, 96, 160, 168, 176, 184, 192, 208, 224, 240, 256, 288, 320];
const FULL = 0.95; // the share of the window from which on it counts as filled
const CLEARLY_BETTER = 1.2; // how much better than the usual arrangement another one must be

/**
 * The size of tiles that fits the window, and how well it does. Where the whole grid is in view, the score is the size
 * of the tiles, and at most 1 elsewhere: the share of the window that is filled.
 */
function fitOf(layout) {
  const [width, height] = viewSize();
  const count = layout.rows.length * layout.columns.length;
  const roomy = Math.min(LARGEST, Math.sqrt((width * height) / count));
  const [first, second] = [...data.box].sort((a, b) => b - a);
  const smallest = isUpright(width, height) ? SMALLEST_UPRIGHT : SMALLEST_WHOLE;
  for (let size = Math.floor(Math.min(LARGEST, (roomy * first) / second)); size >= smallest; size -= 4) {
    const geometry = measure(layout, size, width, height);
    if (geometry.width <= width && geometry.height <= height) {
      return { size: isUpright(width, height) ? widened(layout, size, width, height) : size, score: size };
    }
  }
  let best = { size: USUAL_SIZES[0], score: 0 };
  for (const size of USUAL_SIZES) {
    const geometry = measure(layout, size, width, height);
    const score = Math.min(1, geometry.width / width) * Math.min(1, geometry.height / height);
    if (score > 1.03 * best.score) best = { size, score };
    if (score > FULL) break;
  }
  return best;
}

/** The size of tiles, from one on, at which as many columns as with that one fill the width. */
function widened(layout, size, width, height) {
  const { columns } = measure(layout, size, width, height);
  const fits = (wider) => {
    const geometry = measure(layout, wider, width, height);
    return geometry.columns === columns && geometry.width <= width;
  };
  let widest = size;
  while (widest < LARGEST && fits(widest + 2)) widest += 2;
  return widest;
}

/** Chooses the size of tiles that fits the window. */
function fitSize() {
  if (!grid.layout.shown.length) return;
  grid.size = fitOf(grid.layout).size;
  grid.fitted = true;
  byId("size").value = grid.size;
}

/**
 * Chooses the rows and columns that fit the window best: those of the grid's layout, or, if they leave some of it
 * empty, the same axes swapped or divided elsewhere.
 */
function choosePlaces() {
  const usual = [...places.rows, ...places.columns];
  if (!places.rows.length || !places.columns.length) return;
  const divided = usual.slice(1).map((_, i) => ({ rows: usual.slice(0, i + 1), columns: usual.slice(i + 1) }));
  const swapped = divided.map(({ rows, columns }) => ({ rows: columns, columns: rows }));
  const scoreOf = (candidate) => {
    Object.assign(places, candidate);
    return fitOf(arrange()).score;
  };
  let best = { ...places };
  let { score } = fitOf(grid.layout);
  const [width, height] = viewSize();
  const roomForAll = width * height > data.cells.length * SMALLEST_UPRIGHT ** 2;
  if (score < FULL || (score <= 1 && roomForAll)) {
    for (const candidate of [...divided, ...swapped]) {
      const reached = scoreOf(candidate);
      if (reached > CLEARLY_BETTER * score) [best, score] = [candidate, reached];
    }
  }
  Object.assign(places, best);
}
