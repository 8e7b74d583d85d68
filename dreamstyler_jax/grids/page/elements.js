// Making elements. Texts become text nodes; nothing in this page is ever read as markup.

/** An element with properties (or, where it has none of the name, attributes) and children, elements or texts. */
function element(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in node) node[name] = value;
    else node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

function byId(id) {
  return document.getElementById(id);
}

function button(text, action, properties = {}) {
  const node = element("button", { type: "button", ...properties }, text);
  node.addEventListener("click", action);
  return node;
}

/** Radio buttons in a row, one of which is chosen: options are [value, text] pairs. */
function choice(legend, name, options, chosen, action) {
  const labels = options.map(([value, text]) => {
    const input = element("input", { type: "radio", name, value, checked: value === chosen });
    input.addEventListener("change", () => action(value));
    return element("label", {}, input, element("span", {}, text));
  });
  return element("fieldset", { className: "choice" }, element("legend", {}, legend), ...labels);
}

/** Pairs of names and values: [name, value, isLong]. */
function pairs(entries) {
  return entries.flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, value)]);
}

/** The picture that a style was learned from, beside the style's name. */
function stylePicture(name) {
  const { file, size } = data.styles[name];
  return element("img", { src: file, width: size[0], height: size[1], alt: "" });
}

/** The same with a caption. */
function styleFigure(name) {
  const caption = element("figcaption", {}, "Learned from ", element("b", {}, name));
  return element("figure", { className: "style" }, stylePicture(name), caption);
}
