// An axis as an animation: the open picture changes through the values of one axis, all others stay.

const PAUSE = 700; // milliseconds between two pictures
const CALM_PAUSE = 2000; // where the system asks for less motion

const playing = { axis: null, cells: [], isOn: false, timer: 0 };
const lessMotion = window.matchMedia("(prefers-reduced-motion: reduce)");

/** The axes that tell the pictures apart, each by itself. */
function telling() {
  return [...data.rows, ...data.columns].map((index) => axes[index]);
}

/** The pictures that pass the filters and differ from a cell in an axis alone, in the order of the axis. */
function cellsAlong(axis, cell) {
  const others = telling().filter((other) => other !== axis);
  const same = (found) => others.every((other) => found.at[other.index] === cell.at[other.index]);
  const cells = data.cells.filter((found) => !found.error && isShown(found) && same(found));
  return cells.sort((a, b) => axis.rank[a.at[axis.index]] - axis.rank[b.at[axis.index]]);
}

/** Updates the controls for another open picture, unless it is one of those that are played. */
function showPlaying(cell) {
  if (!playing.cells.includes(cell)) {
    stopPlaying();
    const offers = telling().filter((axis) => cellsAlong(axis, cell).length > 1);
    playing.axis = offers.includes(playing.axis) ? playing.axis : offers.at(-1);
    const options = offers.map((axis) => element("option", { value: axis.name }, axis.title));
    byId("play-axis").replaceChildren(...options);
    byId("play-axis").value = playing.axis?.name ?? "";
    byId("playing").hidden = !offers.length;
    followAxis(cell);
  }
  const place = playing.cells.indexOf(cell);
  Object.assign(byId("play-position"), { max: Math.max(0, playing.cells.length - 1), value: place });
  const { axis, cells } = playing;
  const label = () => named(axis, axis.short[cell.at[axis.index]]);
  const text = cells.length ? `${label()} (${place + 1} of ${cells.length})` : "";
  byId("play-position").setAttribute("aria-valuetext", text);
  byId("play-value").textContent = text;
}

function followAxis(cell) {
  playing.cells = playing.axis && !cell.error ? cellsAlong(playing.axis, cell) : [];
}

/** Chooses another axis to play. */
function chooseAxisToPlay(name) {
  stopPlaying();
  playing.axis = telling().find((axis) => axis.name === name);
  followAxis(view.cell);
  showPlaying(view.cell);
}

function togglePlaying() {
  if (playing.isOn) stopPlaying();
  else startPlaying();
}

/** Plays, once all pictures have been read, so that none of them flickers. */
async function startPlaying() {
  const { cells } = playing;
  if (cells.length < 2) return;
  playing.isOn = true;
  showPlayButton();
  await Promise.allSettled(cells.map((cell) => loadImage(cell.file)));
  if (playing.isOn && playing.cells === cells) playNext();
}

function playNext() {
  window.clearTimeout(playing.timer);
  goTo(playing.cells[(playing.cells.indexOf(view.cell) + 1) % playing.cells.length]);
  playing.timer = window.setTimeout(playNext, lessMotion.matches ? CALM_PAUSE : PAUSE);
}

function stopPlaying() {
  window.clearTimeout(playing.timer);
  playing.isOn = false;
  showPlayButton();
}

function showPlayButton() {
  byId("play").textContent = playing.isOn ? "Pause" : "Play";
}

/** Shows the picture at a position of the slider. */
function playAt(position) {
  stopPlaying();
  goTo(playing.cells[position]);
}
