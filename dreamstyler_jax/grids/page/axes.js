// Above the grid: a button for each axis, which opens its panel. There the user chooses the axis's place and order and
// filters its values.

const PLACES = [["rows", "Rows"], ["columns", "Columns"], ["neither", "Neither"]];
const MAX_LISTED = 200; // values in the list of a panel; the search finds the others

/** Updates the buttons of the axes and the count of pictures. */
function showControls() {
  const others = offered.filter((axis) => placeOf(axis) === "neither");
  const groups = [axisGroup("Rows", places.rows), axisGroup("Columns", places.columns)];
  if (others.length) groups.push(axisGroup("Others", others));
  byId("axes").replaceChildren(...(varying.length ? groups : []));
  for (const id of ["transpose", "reset"]) byId(id).hidden = !varying.length;
  showCount();
}

function axisGroup(name, groupAxes) {
  const buttons = groupAxes.length ? groupAxes.map(axisButton) : [element("span", { className: "none" }, "–")];
  const title = element("span", { className: "name" }, name);
  return element("div", { className: "group", role: "group", ariaLabel: name }, title, ...buttons);
}

function axisButton(axis) {
  const total = axis.values.length;
  const shown = total - axis.hidden.size;
  const count = element("span", { className: "number" }, shown < total ? `${shown} of ${total}` : `${total}`);
  const node = button("", () => openAxis(axis), { className: shown < total ? "axis filtered" : "axis" });
  node.append(element("span", {}, axis.title), count, ...arrow(axis));
  node.dataset.axis = axis.name;
  node.ariaHasPopup = "dialog";
  return node;
}

/** An arrow on the button of an axis whose order has been changed. */
function arrow(axis) {
  if (axis.order === initialOrder(axis)) return [];
  const sign = { listed: "≡", ascending: "↑", descending: "↓", ...SCORE_ARROWS }[axis.order];
  const name = axis.order === "listed" ? "as listed" : axis.order;
  return [element("span", { className: "arrow", role: "img", ariaLabel: name }, sign)];
}

function showCount() {
  const { shown } = grid.layout;
  const failed = shown.filter((cell) => stateOf(cell) === "failed").length;
  const all = data.cells.length;
  const number = (count) => count.toLocaleString("en");
  const part = shown.length < all ? `${number(shown.length)} of ` : "";
  const pictures = `${part}${number(all)} ${all === 1 ? "picture" : "pictures"}`;
  byId("count").textContent = failed ? `${pictures}, ${number(failed)} failed` : pictures;
}

/** Updates the page after a change of places, filters or order; see rearrange(). */
function update(fits = false) {
  rearrange(fits);
  showControls();
  remember();
}

// The panel of an axis

/** Opens the panel of an axis, or closes it if it is open. */
function openAxis(axis) {
  const panel = byId("axis");
  if (panel.matches(":popover-open") && panel.dataset.axis === axis.name) {
    panel.hidePopover();
    return;
  }
  panel.dataset.axis = axis.name;
  fillPanel(axis);
  panel.showPopover();
  placePanel(axis);
  (panel.querySelector("input[type=search]") ?? panel.querySelector("input")).focus();
}

/** The current button of an axis: each change of the controls makes new ones. */
function buttonOf(name) {
  return [...byId("axes").querySelectorAll("button")].find((node) => node.dataset.axis === name);
}

function placePanel(axis) {
  const panel = byId("axis");
  const box = buttonOf(axis.name).getBoundingClientRect();
  const left = Math.max(8, Math.min(box.left, window.innerWidth - panel.offsetWidth - 8));
  setPixels(panel, { left, top: box.bottom + 6, maxHeight: window.innerHeight - box.bottom - 14 });
}

function fillPanel(axis) {
  const apply = (change, fits) => () => {
    change();
    update(fits);
    placePanel(axis);
  };
  const setPlace = (place) => {
    apply(() => placeAxis(axis, place), true)();
    refillPanel(axis, place);
  };
  const setOrder = (value) => apply(() => sortAxis(axis, value))();
  const isInner = (places[placeOf(axis)] ?? [axis])[0] !== axis;
  const outermost = button("Make it the outermost", apply(() => placeAxis(axis, placeOf(axis), true), true));
  outermost.addEventListener("click", () => refillPanel(axis, placeOf(axis)));
  const orders = [["ascending", "Ascending"], ["descending", "Descending"]];
  if (!axis.numeric) orders.unshift(["listed", "As listed"]);
  orders.push(...scoreOrders());
  byId("axis").replaceChildren(
    element("h2", { id: "axis-name" }, axis.title),
    choice("Place", "place", PLACES, placeOf(axis), setPlace),
    ...(isInner ? [outermost] : []),
    choice("Order", "order", orders, axis.order, setOrder),
    ...valueList(axis, apply),
  );
}

/** Fills the panel again after a change of place, and returns the focus to the choice of places. */
function refillPanel(axis, place) {
  fillPanel(axis);
  byId("axis").querySelector(`input[value=${place}]`).focus();
}

/** The filter of an axis: a search (of more than 8 values), buttons, and the list of values. */
function valueList(axis, apply) {
  const search = element("input", { type: "search", placeholder: "Find a value", ariaLabel: "Find a value" });
  const list = element("ul", { ariaLabel: `Values of ${axis.title}` });
  const matches = () => {
    const wanted = search.value.trim().toLowerCase();
    const all = axis.values.map((_, value) => value).sort((a, b) => axis.rank[a] - axis.rank[b]);
    return all.filter((value) => axis.labels[value].toLowerCase().includes(wanted));
  };
  const refill = () => list.replaceChildren(...valueItems(axis, matches(), set));
  const set = (change) => {
    apply(change)();
    refill();
  };
  const all = () => set(() => matches().forEach((value) => axis.hidden.delete(value)));
  const none = () => set(() => matches().forEach((value) => axis.hidden.add(value)));
  const only = () => set(() => showOnly(axis, matches()));
  search.addEventListener("input", () => {
    found.hidden = !search.value.trim();
    refill();
  });
  search.addEventListener("keydown", (event) => event.key === "Enter" && only());
  const found = button("Only these", only, { hidden: true });
  const buttons = [button("All", all), button("None", none), found];
  refill();
  return [...(axis.values.length > 8 ? [search] : []), element("div", { className: "buttons" }, ...buttons), list];
}

/** Filters an axis to some of its values. */
function showOnly(axis, values) {
  axis.hidden = new Set(axis.values.keys());
  values.forEach((value) => axis.hidden.delete(value));
}

/** The items of the list of values: a box, a label, a count, and a button that selects this value alone. */
function valueItems(axis, values, set) {
  const items = values.slice(0, MAX_LISTED).map((value) => {
    const box = element("input", { type: "checkbox", checked: !axis.hidden.has(value) });
    box.addEventListener("change", () => {
      set(() => (box.checked ? axis.hidden.delete(value) : axis.hidden.add(value)));
      focusBox(axis.labels[value]);
    });
    box.dataset.label = axis.labels[value];
    const text = element("span", { className: "text", title: axis.labels[value] }, axis.short[value]);
    const count = element("span", { className: "number" }, `${axis.counts[value]}`);
    const only = button("only", () => set(() => showOnly(axis, [value])), { ariaLabel: `Only ${axis.labels[value]}` });
    return element("li", {}, element("label", {}, box, text, count), only);
  });
  const left = values.length - items.length;
  return left > 0 ? [...items, element("li", { className: "more" }, `and ${left} more: search to find them`)] : items;
}

/** Returns the focus to the box of a value: each change of the filter makes new ones. */
function focusBox(label) {
  [...byId("axis").querySelectorAll("input[type=checkbox]")].find((box) => box.dataset.label === label)?.focus();
}
