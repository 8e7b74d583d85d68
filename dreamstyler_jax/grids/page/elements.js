// Helpers that make and find elements. Texts become text nodes: the page never reads anything as markup.

/** Makes an element with children (elements or texts). A property that elements do not have becomes an attribute. */
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

/** Sets lengths in the style of an element, in CSS pixels. */
function setPixels(node, lengths) {
  for (const [name, value] of Object.entries(lengths)) node.style[name] = `${value}px`;
}

function button(text, action, properties = {}) {
  const node = element("button", { type: "button", ...properties }, text);
  node.addEventListener("click", action);
  return node;
}

/** A row of radio buttons. options: [value, text] pairs. */
function choice(legend, name, options, chosen, action) {
  const labels = options.map(([value, text]) => {
    const input = element("input", { type: "radio", name, value, checked: value === chosen });
    input.addEventListener("change", () => action(value));
    return element("label", {}, input, element("span", {}, text));
  });
  return element("fieldset", { className: "choice" }, element("legend", {}, legend), ...labels);
}

/** The items of a description list. entries: [name, value] pairs; a value is a text or an element. */
function descriptions(entries) {
  return entries.flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, value)]);
}

/** The picture that a style was learned from. Its text is empty, because the style's name stands beside it. */
function stylePicture(name) {
  const { file, size } = data.styles[name];
  return element("img", { src: file, width: size[0], height: size[1], alt: "" });
}

/** The picture that a style was learned from, with a caption. */
function styleFigure(name) {
  const caption = element("figcaption", {}, "Training picture of the style ", element("b", {}, name));
  return element("figure", { className: "style" }, stylePicture(name), caption);
}
