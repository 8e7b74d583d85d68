// A stage: where a dialog shows a picture, which the mouse, the wheel, fingers and keys enlarge and move.

const ZOOMS = [1 / 8, 1 / 4, 1 / 2, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32];
const SWIPE = 48; // CSS pixels that a finger moves at least to turn to another picture

class Stage {
  /**
   * node: the element that scrolls over the picture; zoomed: called with the stage when the user has zoomed;
   * swiped: called with 1 for the next picture, -1 for the previous one.
   */
  constructor(node, { zoomed = () => {}, swiped = () => {} } = {}) {
    Object.assign(this, { node, zoomed, swiped, cell: null, over: null, zoom: "fit", pointers: new Map() });
    const on = (type, action, options) => node.addEventListener(type, (event) => action.call(this, event), options);
    on("wheel", this.onWheel, { passive: false });
    on("pointerdown", this.onPointerDown);
    on("pointermove", this.onPointerMove);
    on("pointerup", this.onPointerUp);
    on("pointercancel", this.onPointerUp);
    on("dblclick", (event) => this.zoomTo(this.zoom === "fit" ? Math.max(1, 2 * this.factor) : "fit", event));
  }

  /** Shows a cell, and perhaps another one over it, see .wipe; says why if it has no picture. */
  show(cell, over = null) {
    Object.assign(this, { cell, over });
    if (cell.waiting) {
      this.node.replaceChildren(element("p", {}, "Not yet painted"));
      return;
    }
    if (cell.error) {
      const reason = element("pre", {}, cell.error);
      this.node.replaceChildren(element("div", { className: "failure" }, element("b", {}, "Failed"), reason));
      return;
    }
    const images = [cell, ...(over ? [over] : [])].map((shown, i) => this.image(shown, i));
    this.node.replaceChildren(...(over ? [element("div", { className: "wipe" }, ...images)] : images));
    this.node.classList.toggle("movable", this.zoom !== "fit");
  }

  /** The image of a cell; an image that is there is used again, so that it shows its picture until the next is read. */
  image(cell, number) {
    const image = this.node.querySelectorAll("img")[number] ?? element("img", { draggable: false });
    image.alt = withStyles(describe(cell), cell);
    if (image.getAttribute("src") !== cell.file) image.src = cell.file;
    const { factor } = this;
    image.classList.toggle("crisp", factor > 1);
    setPixels(image, { width: this.cell.size[0] * factor, height: this.cell.size[1] * factor });
    return image;
  }

  /** By what the picture is enlarged. */
  get factor() {
    if (this.cell.error) return 1;
    return this.zoom === "fit" ? fittingFactor(this.cell.size, this.node) : this.zoom;
  }

  refresh() {
    if (this.cell) this.show(this.cell, this.over);
  }

  /** Zooms to a factor or to "fit". What is at the point of the event, or in the middle, stays where it is. */
  zoomTo(zoom, event = middleOf(this.node)) {
    if (this.cell.error) return;
    const { clientX, clientY } = event;
    const box = () => this.node.firstElementChild.getBoundingClientRect();
    const before = box();
    const [x, y] = [(clientX - before.left) / before.width, (clientY - before.top) / before.height];
    this.zoom = zoom === "fit" ? zoom : Math.max(ZOOMS[0], Math.min(ZOOMS.at(-1), zoom));
    this.refresh();
    const after = box();
    this.node.scrollBy(after.left + x * after.width - clientX, after.top + y * after.height - clientY);
    this.zoomed(this);
  }

  /** Enlarges the picture by one step (direction 1), or reduces it (-1). */
  step(direction) {
    const now = this.factor;
    const next = direction > 0 ? ZOOMS.find((zoom) => zoom > now * 1.01) : ZOOMS.findLast((zoom) => zoom < now / 1.01);
    this.zoomTo(next ?? now);
  }

  onWheel(event) {
    event.preventDefault();
    const lines = event.deltaMode ? 16 : 1;
    this.zoomTo(this.factor * 2 ** ((-event.deltaY * lines) / 300), event);
  }

  onPointerDown(event) {
    if (event.pointerType === "mouse" && event.button !== 0) return;
    this.node.setPointerCapture(event.pointerId);
    this.pointers.set(event.pointerId, { x: event.clientX, y: event.clientY });
    this.start = this.pointers.size === 1 ? { x: event.clientX, y: event.clientY } : null; // null: more than one finger
  }

  onPointerMove(event) {
    const pointer = this.pointers.get(event.pointerId);
    if (!pointer) return;
    const before = this.spread();
    const [dx, dy] = [event.clientX - pointer.x, event.clientY - pointer.y];
    Object.assign(pointer, { x: event.clientX, y: event.clientY });
    const after = this.spread();
    if (!after) {
      this.node.scrollBy(-dx, -dy);
      return;
    }
    this.zoomTo((this.factor * after.distance) / before.distance, before);
    this.node.scrollBy(before.clientX - after.clientX, before.clientY - after.clientY);
  }

  /** The distance of two fingers and the point between them; null unless there are two. */
  spread() {
    if (this.pointers.size !== 2) return null;
    const [a, b] = [...this.pointers.values()];
    const distance = Math.max(1, Math.hypot(a.x - b.x, a.y - b.y));
    return { distance, clientX: (a.x + b.x) / 2, clientY: (a.y + b.y) / 2 };
  }

  onPointerUp(event) {
    if (!this.pointers.delete(event.pointerId) || !this.start || event.type === "pointercancel") return;
    const [dx, dy] = [event.clientX - this.start.x, event.clientY - this.start.y];
    const fits = this.node.scrollWidth <= this.node.clientWidth + 1;
    if (fits && Math.abs(dx) > SWIPE && Math.abs(dx) > 2 * Math.abs(dy)) this.swiped(dx < 0 ? 1 : -1);
  }
}

/** The largest factor at which a picture fits a stage; an enlarged picture has whole device pixels per pixel. */
function fittingFactor(size, stage) {
  const [width, height] = [stage.clientWidth - 24, stage.clientHeight - 24];
  const ratio = window.devicePixelRatio || 1;
  const factor = Math.max(0.01, Math.min(width / size[0], height / size[1]));
  return factor * ratio > 1 ? Math.floor(factor * ratio) / ratio : factor;
}

function middleOf(node) {
  const { left, top, width, height } = node.getBoundingClientRect();
  return { clientX: left + width / 2, clientY: top + height / 2 };
}
