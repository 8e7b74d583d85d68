// The dialog that saves and shares: a link to the view, the view as a picture, and the starred pictures as a list, as a
// folder, or as commands.

const LIST_NAME = "starred.jsonl";

function openExport() {
  showExport();
  openDialog("export");
}

function showExport() {
  const cells = starredCells();
  const starless = data.cells.filter((cell) => noteOf(cell) && !isStarred(cell)).length;
  const number = cells.length.toLocaleString("en");
  const count = cells.length === 1 ? "1 picture has a star." : `${number} pictures have a star.`;
  const notes = starless ? ` Notes on pictures without one (${starless}) are not in the list.` : "";
  const none = "No picture has a star yet: press s on those you like.";
  byId("export-count").textContent = cells.length ? count + notes : none;
  byId("export-list").disabled = !cells.length;
  byId("export-commands").replaceChildren(...(cells.length ? commands() : []));
  byId("export-link").replaceChildren(commandBox("Link to this view", window.location.href));
  showPictureSize();
}

/** The commands for the starred pictures, each with what it does. */
function commands() {
  const folder = quote(gridFolder());
  const pick = `dreamstyler pick ${folder} --cells ${LIST_NAME} --output starred`;
  const where = `These commands read ${LIST_NAME}: save it where you run them.`;
  return [
    element("p", {}, where),
    commandBox("Copy them into a folder, with a page of its own", pick),
    commandBox("Paint them again at twice the size", `dreamstyler enlarge ${folder} --cells ${LIST_NAME}`),
  ];
}

/** The folder of this page, as a command on this computer names it. */
function gridFolder() {
  if (window.location.protocol !== "file:") return "GRID";
  const path = fileName(window.location.pathname).replace(/\/[^/]*$/, "");
  return /^\/[A-Za-z]:/.test(path) ? path.slice(1) : path || "/";
}

/** A text as one word of a shell's command. */
function quote(text) {
  return /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`;
}

/** The starred pictures as lines of JSON, as the commands read them. */
function starredList() {
  const line = (cell) => ({ id: cell.id, file: cell.error ? null : fileName(cell.file), note: noteOf(cell) });
  return starredCells().map((cell) => `${JSON.stringify(line(cell))}\n`).join("");
}

/** Stars the pictures in a list that this or another browser has saved. */
async function loadList(file) {
  const entries = (await file.text()).split("\n").filter(Boolean).map(parsed);
  const cells = new Map(data.cells.map((cell) => [cell.id, cell]));
  const known = entries.filter((entry) => cells.has(entry?.id));
  for (const { id, note } of known) setMark(cells.get(id), { star: true, ...(note ? { note: String(note) } : {}) });
  const others = entries.length - known.length;
  const verb = others === 1 ? "line names" : "lines name";
  const unknown = others ? `, ${others} ${verb} no picture of this page` : "";
  byId("export-status").textContent = `${known.length} starred${unknown}.`;
  showExport();
  showStars();
  update();
}

function parsed(line) {
  try {
    return JSON.parse(line);
  } catch {
    return null;
  }
}

/** Lets the browser save something as a file. */
function download(content, name) {
  const address = URL.createObjectURL(content);
  element("a", { href: address, download: name }).click();
  window.setTimeout(() => URL.revokeObjectURL(address), 60000);
}

function listenInExport(on) {
  on("export-button", "click", openExport);
  on("export-list", "click", () => download(new Blob([starredList()], { type: "application/jsonl" }), LIST_NAME));
  on("export-load", "change", () => byId("export-load").files.length && loadList(byId("export-load").files[0]));
  on("picture-save", "click", savePicture);
  on("picture-part", "change", showPictureSize);
  on("picture-folder", "change", () => savePicture());
}
