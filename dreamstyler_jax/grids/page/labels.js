// The texts of headers and captions: without the words that all values of an axis share, and in lines that break
// between words.

const LINE_HEIGHT = 16; // of a line in headers and captions, in CSS pixels
const FONT_SIZE = 12.5; // of the headers; captions have smaller letters
const WORTH_DROPPING = 8; // letters that must be saved, so that short labels stay as they are
const MAX_KEPT_TEXTS = 20000;

const measuring = element("canvas").getContext("2d");
measuring.font = `${FONT_SIZE}px ${getComputedStyle(document.body).fontFamily}`;
const keptWidths = new Map();

/** The width of a text in the letters of headers, in CSS pixels. */
function textWidth(text) {
  if (!keptWidths.has(text)) {
    if (keptWidths.size > MAX_KEPT_TEXTS) keptWidths.clear();
    keptWidths.set(text, Math.ceil(measuring.measureText(text).width));
  }
  return keptWidths.get(text);
}

/** The width of the longest word of a text. */
function wordWidth(text) {
  return Math.max(0, ...breakable(text).map((part) => textWidth(part.trimEnd())));
}

/** The parts of a text between which a line may break: words, and parts of paths and of compound names. */
function breakable(text) {
  return text.split(/(?<=[\s/_,-])/);
}

/**
 * The lines of a text that is at most so wide. Only a word that is wider itself is cut.
 * maxLines: if the text needs more, the last of them ends in an ellipsis.
 */
function wrapText(text, width, maxLines = Infinity) {
  const lines = [];
  let line = "";
  const wide = (part) => textWidth(part) > width && part.trimEnd().length > 1;
  for (const part of breakable(text).flatMap((word) => (wide(word.trimEnd()) ? [...word] : [word]))) {
    if (line && textWidth((line + part).trimEnd()) > width) {
      lines.push(line.trimEnd());
      line = "";
    }
    line += part;
  }
  lines.push(line.trimEnd());
  return lines.length > maxLines ? [...lines.slice(0, maxLines - 1), withEllipsis(lines[maxLines - 1], width)] : lines;
}

/** A line with an ellipsis behind its last word that leaves room for it. */
function withEllipsis(line, width) {
  const parts = breakable(line);
  while (parts.length > 1 && textWidth(`${parts.join("").trimEnd()} …`) > width) parts.pop();
  return `${parts.join("").trimEnd()} …`;
}

/** Labels without the words that all of them begin and end with, and these words, with an ellipsis for the others. */
function withoutSharedWords(labels) {
  if (labels.length < 2) return { short: labels, template: "" };
  const all = labels.map((label) => label.split(/(?<=[\s/])/));
  const spare = Math.min(...all.map((words) => words.length)) - 1; // each label keeps at least one word
  const countShared = (at, most) => {
    let count = 0;
    while (count < most && all.every((words) => words.at(at(count)) === all[0].at(at(count)))) count += 1;
    return count;
  };
  const first = countShared((i) => i, spare);
  const last = countShared((i) => -1 - i, spare - first);
  const [before, after] = [all[0].slice(0, first).join(""), all[0].slice(all[0].length - last).join("")];
  if (before.length + after.length < WORTH_DROPPING) return { short: labels, template: "" };
  const short = all.map((words) => words.slice(first, words.length - last).join("").trim());
  return { short, template: `${before}… ${after}`.trim() };
}
