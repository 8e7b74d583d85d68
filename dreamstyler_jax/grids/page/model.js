// The pictures, their axes, and how both make a grid. Nothing here touches the page, apart from reading its data.

/** As page.py wrote it. Every text in it may be anything: it reaches the page as text only, never as markup. */
const data = JSON.parse(document.getElementById("data").textContent);

const MIXES = ["style", "styles", "mix"]; // axes whose values may name several styles

const collator = new Intl.Collator(undefined, { numeric: true, sensitivity: "variant" });

/**
 * An axis: a parameter of the pictures. Its values are numbered in the order of the manifest.
 * order: "listed", "ascending" or "descending"; rank: for each value its place in this order; hidden: the values whose
 * pictures are not shown; counts: how many pictures each value has.
 */
const axes = data.axes.map((axis, index) => {
  const labels = axis.values.map((value, i) => axis.labels[i] || spell(value));
  const present = axis.values.filter((value) => value !== null);
  const numeric = present.length > 0 && present.every((value) => typeof value === "number");
  const counts = new Array(axis.values.length).fill(0);
  for (const cell of data.cells) counts[cell.at[index]] += 1;
  return { ...axis, index, labels, numeric, counts, order: "", rank: [], hidden: new Set() };
});
const varying = axes.filter((axis) => axis.values.length > 1);
const offered = withoutTwins(varying);
const shared = axes.filter((axis) => axis.values.length === 1 && axis.values[0] !== null);

/** Where the varying axes stand, the outermost first. Those in neither list only filter and sort. */
const places = { rows: [], columns: [] };

// A cell's number is its place in the manifest.
data.cells.forEach((cell, number) => {
  cell.number = number;
});

/**
 * Without axes that part the pictures just as another does, such as hashes beside names: one of them is enough to
 * arrange and filter by. Numbers stay, for they have an order of their own.
 */
function withoutTwins(some) {
  const placed = new Set([...data.rows, ...data.columns]);
  const ordered = [...some].sort((a, b) => placed.has(b.index) - placed.has(a.index));
  const seen = new Set();
  const kept = ordered.filter((axis) => {
    const parts = data.cells.map((cell) => cell.at[axis.index]).join();
    const twin = seen.has(parts);
    seen.add(parts);
    return !twin || axis.numeric;
  });
  return some.filter((axis) => kept.includes(axis));
}

/** A value as text. */
function spell(value) {
  if (value === null) return "(none)";
  if (value === "") return "(empty)";
  return typeof value === "string" ? value : JSON.stringify(value);
}

/** The text of a cell's value on an axis. */
function labelOf(axis, cell) {
  return axis.labels[cell.at[axis.index]];
}

/** The same in full: of an object, such as styles and their hashes, the keys and what they hold. */
function fullLabelOf(axis, cell) {
  const value = axis.values[cell.at[axis.index]];
  if (value === null || typeof value !== "object" || Array.isArray(value)) return labelOf(axis, cell);
  return Object.entries(value).map(([key, item]) => `${key} ${spell(item)}`).join("\n") || spell(value);
}

/** Sorts an axis: "listed" as in the manifest, "ascending" or "descending"; what has no value comes last. */
function sortAxis(axis, order) {
  const sorted = axis.values.map((_, value) => value);
  const sign = order === "descending" ? -1 : 1;
  if (order !== "listed") sorted.sort((a, b) => compareValues(axis, a, b, sign) || a - b);
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

/** The order that an axis has at first: numbers ascend, texts stand as in the manifest. */
function firstOrder(axis) {
  return axis.numeric ? "ascending" : "listed";
}

/** Rows, columns, filters and order as they are at first. */
function resetAxes() {
  places.rows = data.rows.map((index) => axes[index]);
  places.columns = data.columns.map((index) => axes[index]);
  for (const axis of axes) {
    axis.hidden.clear();
    sortAxis(axis, firstOrder(axis));
  }
}

/** Moves an axis to the "rows", the "columns" or to neither, as the innermost or the outermost of them. */
function placeAxis(axis, where, outermost = false) {
  for (const place of ["rows", "columns"]) places[place] = places[place].filter((other) => other !== axis);
  if (where in places) places[where] = outermost ? [axis, ...places[where]] : [...places[where], axis];
}

function placeOf(axis) {
  return ["rows", "columns"].find((place) => places[place].includes(axis)) ?? "neither";
}

function isShown(cell) {
  return varying.every((axis) => !axis.hidden.has(cell.at[axis.index]));
}

/** Collects lines, rows or columns, by the values that make them. */
class Lines {
  constructor(lineAxes) {
    this.axes = lineAxes;
    this.lines = new Map();
  }

  /** The line of a cell, the nth of those with the same values. */
  of(cell, nth) {
    const values = this.axes.map((axis) => cell.at[axis.index]);
    const key = `${values.join()}/${nth}`;
    if (!this.lines.has(key)) this.lines.set(key, { values, nth, labels: this.labels(values, nth) });
    return this.lines.get(key);
  }

  labels(values, nth) {
    const labels = this.axes.map((axis, i) => axis.labels[values[i]]);
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
 * The grid of the pictures that pass the filters: its rows and columns, the cell at row * columns.length + column, and
 * the row and column of a cell by its number. Pictures that no placed axis tells apart stand beside each other. Where
 * all axes are on one side (flow) there is one row, which the page breaks as it needs.
 */
function arrange() {
  const flow = !places.rows.length || !places.columns.length;
  const [rowAxes, columnAxes] = flow ? [[], [...places.rows, ...places.columns]] : [places.rows, places.columns];
  const shown = data.cells.filter(isShown).sort((a, b) => compareAside(a, b));
  const rowLines = new Lines(rowAxes);
  const columnLines = new Lines(columnAxes);
  const taken = new Map();
  const positions = shown.map((cell) => {
    const place = [...rowAxes, ...columnAxes].map((axis) => cell.at[axis.index]).join();
    const nth = taken.get(place) ?? 0;
    taken.set(place, nth + 1);
    return { cell, row: rowLines.of(cell, 0), column: columnLines.of(cell, nth) };
  });
  const [rows, columns] = [rowLines.sorted(), columnLines.sorted()];
  const cells = new Map(positions.map(({ cell, row, column }) => [row.index * columns.length + column.index, cell]));
  const found = new Map(positions.map(({ cell, row, column }) => [cell.number, [row.index, column.index]]));
  return { flow, rowAxes, columnAxes, rows, columns, cells, found, shown };
}

/** The order of pictures in the same place: by the axes that have none, in turn. */
function compareAside(a, b) {
  for (const axis of varying) {
    const difference = axis.rank[a.at[axis.index]] - axis.rank[b.at[axis.index]];
    if (difference && placeOf(axis) === "neither") return difference;
  }
  return a.number - b.number;
}

/** One line that tells a picture from the others: where it stands. */
function describe(cell) {
  const named = (axis) => (axis.name === "prompt" ? labelOf(axis, cell) : `${axis.name} ${labelOf(axis, cell)}`);
  return [...places.rows, ...places.columns].map(named).join(", ") || cell.id;
}

/** The names of a cell's styles of which there is a picture. */
function stylesOf(cell) {
  return [...new Set(axes.flatMap((axis) => stylesIn(axis, cell.at[axis.index])))];
}

/** The same of one value: a name, the keys of an object, or the names in a mix such as gogh:5-3,monet:2-0. */
function stylesIn(axis, index) {
  const value = axis.values[index];
  if (value === null || value === undefined || Array.isArray(value)) return [];
  const names = typeof value === "object" ? Object.keys(value) : [value];
  const words = MIXES.includes(axis.name) ? names.flatMap((name) => String(name).split(/[^\p{L}\p{N}_-]+/u)) : [];
  return [...new Set([...names, ...words])].filter((name) => Object.hasOwn(data.styles, name));
}
