// The view in the page's address: rows, columns, filters, order, size and the open picture. So a reload shows the same
// view, also if the page has been written again in the meantime, and a copied address opens it elsewhere.

/** Puts the view into the address. What is as at first is left out. */
function remember() {
  const hash = viewParameters().toString();
  const address = window.location.href.split("#")[0];
  try {
    window.history.replaceState(null, "", hash ? `#${hash}` : address);
  } catch {
    // a browser may refuse if the address changes too often: the next change sets it
  }
}

function viewParameters() {
  const parameters = new URLSearchParams();
  if (initial.places !== placesAsText()) {
    for (const place of ["rows", "columns"]) places[place].forEach((axis) => parameters.append(place, axis.name));
    const aside = [...data.rows, ...data.columns].map((index) => axes[index]);
    aside.filter((axis) => placeOf(axis) === "neither").forEach((axis) => parameters.append("aside", axis.name));
  }
  for (const axis of varying) {
    const [hidden, shown] = [true, false].map((isHidden) => valuesOf(axis, isHidden));
    if (hidden.length && hidden.length <= shown.length) addAll(parameters, `hide.${axis.name}`, hidden);
    else if (hidden.length) addAll(parameters, `only.${axis.name}`, shown);
    if (axis.order !== initialOrder(axis)) parameters.append(`order.${axis.name}`, axis.order);
  }
  for (const [name, value] of [["score", scoring.name], ["from", scoring.low ?? ""], ["to", scoring.high ?? ""]]) {
    if (value !== "") parameters.append(name, value);
  }
  if (!grid.fitted) parameters.append("size", grid.size);
  if (stars.only) parameters.append("starred", "1");
  if (byId("view").open) parameters.append("picture", view.cell.id);
  return parameters;
}

/** The labels of the values of an axis that are hidden, or of those that are not. */
function valuesOf(axis, isHidden) {
  return axis.labels.filter((_, value) => axis.hidden.has(value) === isHidden);
}

/** Adds values under a name; an empty list is one parameter without a value. */
function addAll(parameters, name, values) {
  for (const value of values.length ? values : [""]) parameters.append(name, value);
}

/** What the view was before anything was changed, to tell what has been. */
const initial = { places: "" };

function placesAsText() {
  return JSON.stringify([places.rows, places.columns].map((list) => list.map((axis) => axis.name)));
}

/** Restores the view that the address describes, on top of the initial one. Returns the picture to open, if any. */
function recall() {
  const parameters = new URLSearchParams(window.location.hash.slice(1));
  recallPlaces(parameters);
  recallScoring(parameters);
  for (const axis of varying) {
    const labels = (name) => new Set(parameters.getAll(`${name}.${axis.name}`));
    const [hide, only, [order]] = [labels("hide"), labels("only"), labels("order")];
    const isHidden = (label) => hide.has(label) || (only.size > 0 && !only.has(label));
    axis.hidden = new Set(axis.labels.flatMap((label, value) => (isHidden(label) ? [value] : [])));
    if (["listed", "ascending", "descending"].includes(order) || isScoreOrder(order)) sortAxis(axis, order);
  }
  const size = Number(parameters.get("size"));
  grid.fitted = !(size >= Number(byId("size").min) && size <= LARGEST);
  if (!grid.fitted) grid.size = size;
  stars.only = parameters.has("starred");
  return data.cells.find((cell) => cell.id === parameters.get("picture"));
}

/** Restores rows and columns, unless the page has an axis now that it did not have then. */
function recallPlaces(parameters) {
  const named = (place) => parameters.getAll(place).map((name) => varying.find((axis) => axis.name === name));
  const [rows, columns, aside] = ["rows", "columns", "aside"].map((place) => named(place).filter(Boolean));
  const known = new Set([...rows, ...columns, ...aside]);
  const isComplete = [...data.rows, ...data.columns].every((index) => known.has(axes[index]));
  if (isComplete && rows.length + columns.length) Object.assign(places, { rows, columns });
}
