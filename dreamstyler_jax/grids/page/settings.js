// The settings that all pictures share: what a painter wants to know first, and the others.

const GUIDING = /^(null|style|context|guidance|weak)_scale$/;

/** The settings that all pictures share, as [name, text]: {first, others}. */
function sharedSettings() {
  const used = new Set();
  const find = (name) => shared.find((axis) => axis.name === name);
  const use = (axis) => {
    used.add(axis);
    return axis?.labels[0];
  };
  const simple = (...names) => names.map((name) => [name.replaceAll("_", " "), use(find(name))]);
  const guiding = find("guidance") ? shared.filter((axis) => GUIDING.test(axis.name)) : [];
  const scale = (axis) => `${axis.title.replace("guidance ", "")} ${use(axis)}`;
  const size = [find("width"), find("height")];
  const first = [
    ...simple("model", "loras"),
    ["prompt", sharedPrompt()],
    ...simple("negative_prompt", "content", "strength"),
    ["guidance", [use(find("guidance")), ...guiding.map(scale)].join(", ")],
    ...simple("solver", "steps"),
    ["size", size.every(Boolean) && size.map(use).join(" × ")],
    ["seeds", seeds()],
  ];
  const unused = shared.filter((axis) => !used.has(axis) && !["prompt", "seed"].includes(axis.name));
  const others = unused.map((axis) => [axis.title, fullLabelOf(axis, data.cells[0])]);
  const templates = varying.filter((axis) => axis.template && axis.name !== "prompt");
  others.push(...templates.map((axis) => [axis.title, axis.template]));
  return { first: first.filter(([, text]) => text), others };
}

/** The prompt, or the words that all prompts share; an ellipsis stands for what differs, the style as well. */
function sharedPrompt() {
  const [prompt, style] = ["prompt", "style"].map((name) => axes.find((axis) => axis.name === name));
  if (!prompt) return "";
  const text = prompt.values.length === 1 ? prompt.labels[0] : prompt.template;
  return style?.values.length > 1 ? text.replaceAll("{}", "…") : withStyles(text, data.cells[0]);
}

/** The seeds: some of them one by one, many as a range. */
function seeds() {
  const axis = axes.find((other) => other.name === "seed");
  if (!axis?.numeric) return "";
  const sorted = axis.values.filter((value) => value !== null).sort((a, b) => a - b);
  const [low, high] = [sorted[0], sorted.at(-1)];
  if (sorted.length > 2 && high - low === sorted.length - 1) return `${low} to ${high}`;
  return sorted.length > 6 ? `${sorted.length} from ${low} to ${high}` : sorted.join(", ");
}

/** Shows the settings that all pictures share: the first ones below the title, the others in a list that opens. */
function showShared() {
  const { first, others } = sharedSettings();
  const items = (entries) =>
    entries.map((entry) => element("div", { title: entry[1] }, ...descriptions([entry])));
  const [firstList, otherList] = byId("shared").querySelectorAll("dl");
  firstList.replaceChildren(...items(first));
  otherList.replaceChildren(...items(others));
  byId("more").hidden = !others.length;
  const styles = new Set(shared.flatMap((axis) => stylesIn(axis, 0)));
  byId("shared").querySelector(".figures").replaceChildren(...[...styles].map(styleFigure));
}
