// The scores that "dreamstyler evaluate" gave. The user chooses one of them: it marks the tiles, sorts axes and filters
// pictures.

const SCORE_ORDERS = { "lowest score": 1, "highest score": -1 }; // which comes first; the sign of differences
const SCORE_ARROWS = { "lowest score": "↑", "highest score": "↓" };
const SMALLEST_SCORED = 64; // size of tiles with room for a number

const scoreNames = [...new Set(data.cells.flatMap((cell) => Object.keys(cell.scores ?? {})))];
const scales = new Map(scoreNames.map((name) => [name, scaleOf(name)]));

/** The chosen score; empty if there is none. Only pictures from low to high are shown; null is no limit. */
const scoring = { name: "", low: null, high: null };

/** The lowest and the highest value of a score, and how many digits tell its values apart. */
function scaleOf(name) {
  const values = data.cells.flatMap((cell) => cell.scores?.[name] ?? []).sort((a, b) => a - b);
  const [low, high] = [values[0], values.at(-1)];
  return { low, high, digits: Math.max(-low, high) >= 10 ? 1 : 3 };
}

/** A cell's value of the chosen score; undefined if there is none. */
function scoreOf(cell) {
  return cell.scores?.[scoring.name];
}

function scoreText(name, value) {
  return value === undefined ? "–" : value.toFixed(scales.get(name).digits);
}

// Tiles and dialogs

/** Outlines a frame in the colour of its cell's score. Returns a badge with the value, if there is room for it. */
function scoreMarks(cell, frame) {
  const value = scoreOf(cell);
  if (value === undefined) return [];
  const { low, high } = scales.get(scoring.name);
  frame.classList.add("scored");
  frame.style.setProperty("--score", `${(100 * (value - low)) / (high - low || 1)}%`);
  const badge = element("span", { className: "score" }, scoreText(scoring.name, value));
  return grid.size < SMALLEST_SCORED ? [] : [badge];
}

/** What the accessible name of a tile says of its score. */
function scoreLabel(cell) {
  return scoreOf(cell) === undefined ? "" : `, ${scoring.name} ${scoreText(scoring.name, scoreOf(cell))}`;
}

/** All scores of a cell, as a section of its details. */
function scoreDetails(cell) {
  const entries = Object.entries(cell.scores ?? {}).map(([name, value]) => [name, scoreText(name, value)]);
  if (!entries.length) return [];
  return [element("section", {}, element("h3", {}, "Scores"), element("dl", {}, ...descriptions(entries)))];
}

/** Rows with the scores of two cells, for the table of their differences. */
function scoreRows(left, right) {
  const names = scoreNames.filter((name) => left.scores?.[name] !== right.scores?.[name]);
  return names.map((name) => {
    const values = [left, right].map((cell) => element("td", {}, scoreText(name, cell.scores?.[name])));
    return element("tr", {}, element("th", { scope: "row" }, name), ...values);
  });
}

// Order and filter

/** Whether a cell is in the range that is shown. */
function isInRange(cell) {
  const { name, low, high } = scoring;
  if (!name || (low === null && high === null)) return true;
  const value = scoreOf(cell);
  return value !== undefined && value >= (low ?? -Infinity) && value <= (high ?? Infinity);
}

function resetRange() {
  Object.assign(scoring, { low: null, high: null });
  showRange();
}

function isScoreOrder(order) {
  return Object.hasOwn(SCORE_ORDERS, order);
}

/** The choices of the order of an axis by the chosen score, as [value, text]. */
function scoreOrders() {
  if (!scoring.name) return [];
  return [["lowest score", `Lowest ${scoring.name}`], ["highest score", `Highest ${scoring.name}`]];
}

/** Sorts values of an axis by the mean score of the pictures that are shown. Those without any come last. */
function sortByScore(axis, values, order) {
  const sums = axis.values.map(() => ({ sum: 0, count: 0 }));
  for (const cell of data.cells) {
    const score = scoreOf(cell);
    if (score === undefined || !isShown(cell)) continue;
    const entry = sums[cell.at[axis.index]];
    entry.sum += score;
    entry.count += 1;
  }
  const mean = (value) => sums[value].sum / sums[value].count;
  const missing = (value) => sums[value].count === 0;
  const compare = (a, b) => missing(a) - missing(b) || (missing(a) ? 0 : SCORE_ORDERS[order] * (mean(a) - mean(b)));
  values.sort((a, b) => compare(a, b) || a - b);
}

/** Sorts the axes again that are sorted by score: the score, or what is shown, may be another now. */
function sortAxesByScore() {
  for (const axis of varying) if (isScoreOrder(axis.order)) sortAxis(axis, axis.order);
}

/** Takes over the score and the range that the address names, if that score is still there. */
function recallScoring(parameters) {
  const name = parameters.get("score") ?? "";
  const [low, high] = ["from", "to"].map((end) => Number.parseFloat(parameters.get(end)));
  const limits = { low: Number.isNaN(low) ? null : low, high: Number.isNaN(high) ? null : high };
  Object.assign(scoring, scoreNames.includes(name) ? { name, ...limits } : { name: "", low: null, high: null });
  showScoring();
}

// Controls

/** Fills the controls of the scores, if there are any: which one, and the colours of its range. */
function showScoring() {
  const node = byId("scores");
  node.hidden = !scoreNames.length;
  const options = ["", ...scoreNames].map((name) => {
    return element("option", { value: name, selected: name === scoring.name }, name || "none");
  });
  const select = element("select", {}, ...options);
  select.addEventListener("change", () => chooseScore(select.value));
  const label = element("label", {}, element("span", { className: "name" }, "Score"), select);
  node.replaceChildren(label, element("span", { id: "score-range", className: "group" }));
  showRange();
}

function chooseScore(name) {
  Object.assign(scoring, { name, low: null, high: null });
  showRange();
  update();
}

/** The range of the chosen score: what its colours mean, and between which limits pictures are shown. */
function showRange() {
  const { name } = scoring;
  const legend = element("span", { className: "scale", role: "img", ariaLabel: `Colours from low to high ${name}` });
  byId("score-range").replaceChildren(limit("low", "from"), legend, limit("high", "to"));
  byId("score-range").classList.toggle("unused", !name); // it keeps its room, so that the grid does not move
}

/** An input for a limit; it is empty, and shows the end of the scale, where there is none. */
function limit(end, word) {
  const { name } = scoring;
  const shown = name ? scoreText(name, scales.get(name)[end]) : "";
  const properties = { type: "number", step: "any", placeholder: shown, ariaLabel: `Show ${name} ${word}` };
  const input = element("input", properties);
  input.value = scoring[end] ?? "";
  input.addEventListener("change", () => {
    scoring[end] = Number.isNaN(input.valueAsNumber) ? null : input.valueAsNumber;
    update();
  });
  return input;
}
