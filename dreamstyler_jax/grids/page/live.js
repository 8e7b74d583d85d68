// The page of a grid that is not finished. From time to time it opens itself in a hidden frame: there the page is as it
// is on the disk by now, and sends its data here. So nothing is reloaded, and pictures appear in their places, whatever
// is open or scrolled to. A page that was opened from the disk cannot read a file in another way.

const NEWS = "news"; // in the address of the frame, with the grid that it is asked for
const LONGEST_PAUSE = 300; // seconds between two looks while nothing happens
const STATES = { painted: "painted", failed: "failed", waiting: "not yet painted" }; // as in axes.py

const live = {
  timer: 0,
  pause: 0, // seconds until the next look
  frame: null, // while an answer is awaited
  updating: true, // whether the user wants news
};

/** What has become of a cell: the name of one of the states. */
function stateOf(cell) {
  if (cell.waiting) return "waiting";
  return cell.error ? "failed" : "painted";
}

/** In the hidden frame, sends the data to the page around it, if that shows this grid. Returns whether it is one. */
function isFrameForNews() {
  const asked = new URLSearchParams(window.location.search).get(NEWS);
  if (window.parent === window || asked === null) return false;
  const { cells, atlas, box, progress } = data;
  const answer = asked === data.grid ? { cells, files: atlas.files, box, progress } : {};
  window.parent.postMessage(answer, window.origin === "null" ? "*" : window.origin); // "null": a file
  return true;
}

/** Begins to look for news, if the grid is not finished. */
function watch() {
  if (!data.progress) return;
  live.pause = data.progress.pause;
  window.addEventListener("message", (event) => {
    if (live.frame && event.source === live.frame.contentWindow) takeNews(event.data);
  });
  document.addEventListener("visibilitychange", () => document.hidden || lookLater(0));
  const title = "Whether pictures appear here as they are painted";
  byId("live").append(element("span"), button("", toggleUpdates, { title }));
  showProgress();
  lookLater(live.pause);
}

function lookLater(seconds) {
  window.clearTimeout(live.timer);
  if (live.updating && data.progress) live.timer = window.setTimeout(look, 1000 * seconds);
}

/** Looks for news; if nothing comes of it, later again. In a hidden tab it waits until that is shown. */
function look() {
  if (document.hidden) return;
  live.pause = Math.min(2 * live.pause, LONGEST_PAUSE);
  live.frame?.remove();
  const address = new URL(window.location.href);
  address.search = new URLSearchParams({ [NEWS]: data.grid, at: Date.now() });
  address.hash = "";
  live.frame = element("iframe", { src: address.href, title: "What is new", hidden: true });
  document.body.append(live.frame);
  lookLater(live.pause);
}

async function takeNews(news) {
  live.frame.remove();
  live.frame = null;
  if (!news.cells) {
    data.progress = null;
    byId("live").replaceChildren(element("span", {}, "This is the page of an earlier grid: reload it."));
    return;
  }
  const isNew = data.progress?.at !== news.progress?.at;
  await loadAtlases(news.files);
  const changed = takeCells(news.cells);
  data.progress = news.progress;
  if (changed.size) showChanged(changed, news.box);
  if (isNew && data.progress) live.pause = data.progress.pause;
  showProgress();
  lookLater(live.pause);
}

/** Loads the atlases that replace loaded ones, so that no tile is empty in the meantime. */
async function loadAtlases(files) {
  const replaced = data.atlas.files.filter((file, number) => file !== files[number] && atlasImages.has(file));
  const needed = replaced.map((file) => files[data.atlas.files.indexOf(file)]);
  await Promise.all(needed.map((file) => atlasAt(file).catch(() => atlasImages.delete(file))));
  for (const file of replaced) atlasImages.delete(file);
  data.atlas.files = files;
}

/** Takes over what has become of each picture. Returns the cells that have changed. */
function takeCells(cells) {
  const state = axes.find((axis) => axis.name === "state");
  const changed = new Set();
  cells.forEach(({ at, id, ...fresh }, number) => {
    const cell = data.cells[number];
    if (cell.error === fresh.error && cell.digest === fresh.digest) return;
    for (const name of ["error", "waiting", "file", "size", "digest", "scores"]) delete cell[name];
    Object.assign(cell, fresh);
    if (state) cell.at[state.index] = state.values.indexOf(STATES[stateOf(cell)]);
    changed.add(cell);
  });
  if (state) countPictures(state);
  return changed;
}

/** Shows the cells that have changed; only if their state arranges or filters them, the others move. */
function showChanged(changed, box) {
  const state = axes.find((axis) => axis.name === "state");
  const isArranged = state && (state.hidden.size || placeOf(state) !== "neither");
  const isOtherBox = String(box) !== String(data.box);
  data.box = box;
  if (isOtherBox || isArranged || scoring.name) rearrange();
  else redrawTiles(changed);
  showCount();
  if (byId("view").open && changed.has(view.cell)) showView(view.cell);
  if (byId("compare").open && (changed.has(compared.left) || changed.has(compared.right))) showCompare();
}

/** Makes the tiles of some cells again, those that are in view. */
function redrawTiles(cells) {
  for (const [row, { tiles }] of grid.rows) {
    for (const [column, tile] of tiles) {
      if (!cells.has(cellAt(row, column))) continue;
      tile.remove();
      tiles.delete(column);
    }
  }
  render();
}

/** Says how far the painting is. Only its end is announced: news that come every minute would interrupt. */
function showProgress() {
  const [text, toggle] = byId("live").children;
  byId("live").hidden = false;
  toggle.hidden = data.progress?.state !== "painting";
  toggle.textContent = live.updating ? "Pause updates" : "Go on";
  if (data.progress) text.textContent = progressText();
  else text.replaceWith(element("span", { role: "status" }, "Finished"));
}

function progressText() {
  const { state, at, left } = data.progress;
  const painted = data.cells.filter((cell) => stateOf(cell) === "painted").length;
  const number = (count) => count.toLocaleString("en");
  const of = `${number(painted)} of ${number(data.cells.length)} painted`;
  const time = new Date(1000 * at).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
  if (state === "stopped") return `${of}; stopped at ${time}, the same command goes on`;
  return `${of}${left === null ? "" : `, ${clock(left)} left`} (${time})`;
}

/** A time in hours, minutes and seconds, such as 1:02:03 or 12:34. */
function clock(seconds) {
  const whole = Math.round(seconds);
  const parts = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  const padded = (part) => String(part).padStart(2, "0");
  return parts[0] ? `${parts[0]}:${parts.slice(1).map(padded).join(":")}` : `${parts[1]}:${padded(parts[2])}`;
}

function toggleUpdates() {
  live.updating = !live.updating;
  live.pause = data.progress.pause;
  showProgress();
  lookLater(0);
}
