// The pictures, their axes, and the arrangement of the pictures in rows and columns. Only reads the page's data.

/** What document.py wrote. Its texts may hold anything: they reach the page as text only, never as markup. */
const data = JSON.parse(document.getElementById("data").textContent);

const STYLE_AXES = ["style", "styles", "mix"]; // a value may be a recipe that names several styles
const MAX_COMPARED = 5000; // values of an axis that are searched for shared words

const collator = new Intl.Collator(undefined, { numeric: true, sensitivity: "variant" });

/**
 * The axes: the parameters of the pictures. Below, "a value" of an axis is an index of axis.values, which are in the
 * order of the manifest.
 * title: its name in plain words; labels: a text for each value; short: these without what all share;
 * template: what they share; numeric: whether all values are numbers; counts: how many pictures have each value; order:
 * "listed", "ascending" or "descending"; rank: the place of each value in this order; hidden: the values that are
 * filtered out.
 */
const axes = data.axes.map((axis, index) => {
  const labels = axis.values.map((value, i) => axis.labels[i] || asText(value));
  const present = axis.values.filter((value) => value !== null);
  const numeric = present.length > 0 && present.every((value) => typeof value === "number");
  const [short, template] = shortLabels(axis.values, labels, numeric);
  const title = axis.name.replaceAll("_", " ");
  const order = { order: "", rank: [], hidden: new Set() };
  return countPictures({ ...axis, index, title, labels, short, template, numeric, counts: [], ...order });
});
const varying = axes.filter((axis) => axis.values.length > 1);
const offered = withoutDuplicates(varying);
const shared = axes.filter((axis) => axis.values.length === 1 && saysSomething(axis, axis.values[0]));

/** The axes of the rows and of the columns, the outermost first. Axes in neither list only filter and sort. */
const places = { rows: [], columns: [] };

// A cell is a picture, painted, failed or waiting. Its number is its place in the manifest.
data.cells.forEach((cell, number) => {
  cell.number = number;
});

/**
 * Drops axes that group the pictures exactly as another axis does, such as hashes and names: one of them is enough to
 * arrange and filter by. Numeric axes stay, because they sort differently.
 */
function withoutDuplicates(candidates) {
  const placed = new Set([...data.rows, ...data.columns]);
  const ordered = [...candidates].sort((a, b) => placed.has(b.index) - placed.has(a.index));
  const seen = new Set();
  const kept = ordered.filter((axis) => {
    const groups = data.cells.map((cell) => cell.at[axis.index]).join();
    const duplicate = seen.has(groups);
    seen.add(groups);
    return !duplicate || axis.numeric || axis.name === "state";
  });
  return candidates.filter((axis) => kept.includes(axis));
}

/** Counts how many pictures have each value of an axis. Returns the axis. */
function countPictures(axis) {
  axis.counts = new Array(axis.values.length).fill(0);
  for (const cell of data.cells) axis.counts[cell.at[axis.index]] += 1;
  return axis;
}

/** The short labels of the values of an axis, and the template that says what has been left out. */
function shortLabels(values, labels, numeric) {
  const present = labels.filter((_, i) => values[i] !== null);
  if (numeric || present.length > MAX_COMPARED) return [labels, ""];
  const { short, template } = withoutSharedWords(present);
  const remaining = short.values();
  return [labels.map((label, i) => (values[i] === null ? label : remaining.next().value)), template];
}

/** Whether a value says anything: it is neither empty nor what it is where nobody has set it. */
function saysSomething(axis, value) {
  const text = JSON.stringify(value);
  return !["null", '""', "[]", "{}"].includes(text) && text !== JSON.stringify(data.unset[axis.name]);
}

/** A value of JSON as text. */
function asText(value) {
  if (value === null) return "(none)";
  if (value === "") return "(empty)";
  return typeof value === "string" ? value : JSON.stringify(value);
}

/** The label of a cell's value on an axis. */
function labelOf(axis, cell) {
  return axis.labels[cell.at[axis.index]];
}

/**
 * A cell's value on an axis in full: of an object, such as styles with their hashes, the keys and their values; of a
 * prompt, with the names of its styles.
 */
function fullLabelOf(axis, cell) {
  if (["prompt", "negative_prompt"].includes(axis.name)) return withStyles(labelOf(axis, cell), cell);
  const value = axis.values[cell.at[axis.index]];
  if (value === null || typeof value !== "object" || Array.isArray(value)) return labelOf(axis, cell);
  return Object.entries(value).map(([key, item]) => `${key} ${asText(item)}`).join("\n") || asText(value);
}

/** Sorts an axis: "listed" (as in the manifest), "ascending", "descending" or by score. A missing value comes last. */
function sortAxis(axis, wanted) {
  const order = isScoreOrder(wanted) && !scoring.name ? initialOrder(axis) : wanted;
  const sorted = axis.values.map((_, value) => value);
  const sign = order === "descending" ? -1 : 1;
  if (isScoreOrder(order)) sortByScore(axis, sorted, order);
  else if (order !== "listed") sorted.sort((a, b) => compareValues(axis, a, b, sign) || a - b);
  axis.order = order;
  sorted.forEach((value, place) => {
    axis.rank[value] = place;
  });
}

function compareValues(axis, a, b, sign) {
  const missing = (axis.values[a] === null) - (axis.values[b] === null);
  if (missing) return missing;
  if (axis.numeric) return sign * (axis.values[a] - axis.values[b]);
  return sign * collator.compare(axis.labels[a], axis.labels[b]);
}

/** The order of an axis at first: numbers ascend, texts are as in the manifest. */
function initialOrder(axis) {
  return axis.numeric ? "ascending" : "listed";
}

/** Restores the initial rows, columns, filters and order. */
function resetAxes() {
  places.rows = data.rows.map((index) => axes[index]);
  places.columns = data.columns.map((index) => axes[index]);
  for (const axis of axes) {
    axis.hidden.clear();
    sortAxis(axis, initialOrder(axis));
  }
}

/** Moves an axis to the "rows", the "columns" or "neither", as the innermost or the outermost axis there. */
function placeAxis(axis, place, outermost = false) {
  for (const side of ["rows", "columns"]) places[side] = places[side].filter((other) => other !== axis);
  if (place in places) places[place] = outermost ? [axis, ...places[place]] : [...places[place], axis];
}

/** Where an axis is: "rows", "columns" or "neither". */
function placeOf(axis) {
  return ["rows", "columns"].find((place) => places[place].includes(axis)) ?? "neither";
}

/** Whether a cell passes all filters. */
function isShown(cell) {
  if (!isInRange(cell) || (stars.only && !isStarred(cell))) return false;
  return varying.every((axis) => !axis.hidden.has(cell.at[axis.index]));
}

/** Collects the lines of a grid, its rows or its columns, by their values on the axes there. */
class Lines {
  constructor(lineAxes) {
    this.axes = lineAxes;
    this.lines = new Map();
  }

  /** The line of a cell: the nth of the lines with its values, counted from 0. */
  of(cell, nth) {
    const values = this.axes.map((axis) => cell.at[axis.index]);
    const key = `${values.join()}/${nth}`;
    if (!this.lines.has(key)) {
      const labels = this.labels(values, nth, (axis) => axis.labels);
      const short = this.labels(values, nth, (axis) => axis.short);
      this.lines.set(key, { values, nth, labels, short });
    }
    return this.lines.get(key);
  }

  labels(values, nth, of) {
    const labels = this.axes.map((axis, i) => of(axis)[values[i]]);
    return nth ? [...labels, `no. ${nth + 1}`] : labels;
  }

  sorted() {
    const lines = [...this.lines.values()].sort((a, b) => this.compare(a, b));
    lines.forEach((line, index) => {
      line.index = index;
    });
    return lines;
  }

  compare(a, b) {
    for (const [i, axis] of this.axes.entries()) {
      const difference = axis.rank[a.values[i]] - axis.rank[b.values[i]];
      if (difference) return difference;
    }
    return a.nth - b.nth;
  }
}

/**
 * Arranges the pictures that pass the filters.
 * rows, columns: see Lines; levels: see columnRuns; cells: the cell at row * columns.length + column; positions: [row,
 * column] by a cell's number. Pictures with the same values on all axes of the rows and columns stand side by side. If
 * the rows or the columns have no axis (flow), there is one row. measure() breaks what is too wide for the window.
 */
function arrange() {
  sortAxesByScore();
  const flow = !places.rows.length || !places.columns.length;
  const [rowAxes, columnAxes] = flow ? [[], [...places.rows, ...places.columns]] : [places.rows, places.columns];
  const shown = data.cells.filter(isShown).sort(compareUnplaced);
  const rowLines = new Lines(rowAxes);
  const columnLines = new Lines(columnAxes);
  const taken = new Map();
  const placed = shown.map((cell) => {
    const place = [...rowAxes, ...columnAxes].map((axis) => cell.at[axis.index]).join();
    const nth = taken.get(place) ?? 0;
    taken.set(place, nth + 1);
    return { cell, row: rowLines.of(cell, 0), column: columnLines.of(cell, nth) };
  });
  const [rows, columns] = [rowLines.sorted(), columnLines.sorted()];
  const cells = new Map(placed.map(({ cell, row, column }) => [row.index * columns.length + column.index, cell]));
  const positions = new Map(placed.map(({ cell, row, column }) => [cell.number, [row.index, column.index]]));
  const levels = flow ? [] : columnRuns(columnAxes, columns);
  return { flow, rowAxes, columnAxes, rows, columns, levels, cells, positions, shown };
}

/** For each level of headers above the columns: its axis, its runs, and how many columns the shortest of them has. */
function columnRuns(columnAxes, columns) {
  const depth = columns.reduce((most, column) => Math.max(most, column.labels.length), 0);
  return Array.from({ length: depth }, (_, level) => {
    const runs = runsOf(columns, level);
    const shortest = runs.reduce((least, run) => Math.min(least, run.end - run.start), columns.length);
    return { axis: columnAxes[level], runs, shortest };
  });
}

/** The runs of adjacent columns that share their values down to a level; each run has one header there. */
function runsOf(columns, level) {
  const runs = [];
  let previous = null;
  for (const column of columns) {
    const key = `${column.values.slice(0, level + 1).join()}${level < column.values.length ? "" : `/${column.nth}`}`;
    const start = column.index;
    if (key === previous) runs.at(-1).end = start + 1;
    else {
      const [label, short] = [column.labels[level] ?? "", column.short[level] ?? ""];
      runs.push({ start, end: start + 1, label, short, value: column.values[level] });
    }
    previous = key;
  }
  return runs;
}

/** Orders pictures with the same row and column: by the axes that are neither rows nor columns. */
function compareUnplaced(a, b) {
  for (const axis of varying) {
    const difference = axis.rank[a.at[axis.index]] - axis.rank[b.at[axis.index]];
    if (difference && placeOf(axis) === "neither") return difference;
  }
  return a.number - b.number;
}

/**
 * One line that tells a picture from the others: its values on the axes of the rows and columns.
 * labels: which labels of an axis to use, all of them or the short ones.
 */
function describe(cell, labels = (axis) => axis.labels) {
  const value = (axis) => named(axis, labels(axis)[cell.at[axis.index]]);
  return [...places.rows, ...places.columns].map(value).join(", ") || cell.id;
}

/** A label behind the name of its axis; a prompt speaks for itself. */
function named(axis, label) {
  return axis.name === "prompt" ? label : `${axis.title} ${label}`;
}

/** The same in short: without the words that all pictures share. */
function describeShortly(cell) {
  return describe(cell, (axis) => axis.short);
}

/** A text with the names of a cell's styles instead of their placeholders, {} and {name}. */
function withStyles(text, cell) {
  const valueOf = (name) => {
    const axis = axes.find((other) => other.name === name);
    return axis?.values[cell.at[axis.index]];
  };
  const names = Object.keys(valueOf("styles") ?? {});
  const only = names.length === 1 ? names[0] : "{}";
  const replace = (found, name) => (names.includes(name) ? name : found);
  return text.replaceAll("{}", () => valueOf("style") || only).replace(/\{([^{}]+)\}/g, replace);
}

/** The names of a cell's styles that have a training picture. */
function stylesOf(cell) {
  return [...new Set(axes.flatMap((axis) => stylesIn(axis, cell.at[axis.index])))];
}

/**
 * The names of the styles in a value of an axis that have a training picture. The value is a name, an object by names,
 * or a recipe such as gogh:5-3,monet:2-0.
 */
function stylesIn(axis, index) {
  const value = axis.values[index];
  if (value === null || value === undefined || Array.isArray(value)) return [];
  const names = typeof value === "object" ? Object.keys(value) : [value];
  const words = STYLE_AXES.includes(axis.name) ? names.flatMap((name) => String(name).split(/[^\p{L}\p{N}_-]+/u)) : [];
  return [...new Set([...names, ...words])].filter((name) => Object.hasOwn(data.styles, name));
}
