// What the browser keeps for this page, under the page's address, and for all such pages. Without a place to keep it,
// as in some private windows, everything works until the page is closed.

/** A kept value; undefined if there is none. */
function kept(name) {
  try {
    return JSON.parse(window.localStorage.getItem(name)) ?? undefined;
  } catch {
    return undefined;
  }
}

/** Keeps a value. Returns whether the browser did. */
function keep(name, value) {
  try {
    window.localStorage.setItem(name, JSON.stringify(value));
    return true;
  } catch {
    return false;
  }
}
