"""The page of a grid that is being painted: a thread writes it from time to time, with what is there by now."""

import functools
import sys
import threading
import time
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, Self

from PIL import Image

from dreamstyler_jax.grids.cells import Cell
from dreamstyler_jax.grids.gallery import Gallery
from dreamstyler_jax.grids.learned_from import style_pictures
from dreamstyler_jax.grids.page import FILE_NAME, NOT_YET, Progress, write_page
from dreamstyler_jax.runtime.buckets import is_of_store
from dreamstyler_jax.runtime.compilation import seconds_compiling
from dreamstyler_jax.runtime.errors import UserError
from dreamstyler_jax.style import Style

PAUSE = 20.0  # seconds between two pages, at least
SHARE = 0.03  # of the time, at most, in which pages are written


def title_of(lines: Iterable[Mapping[str, Any]]) -> str:
    """The title of the page of these lines of a manifest: the names of the styles, of many the first three."""
    names = list(dict.fromkeys(name for line in lines for name in line["styles"]))
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


class LivePage:
    """Writes the page of a grid while the grid is painted within this context, and once more if that ends in an error.

    The first page shows all pictures that are still to be painted as such. A page that cannot be written gives a
    warning, the first time, and stops nothing.

    Args:
        gallery: where the pictures go.
        cells: the grid.
        todo: those of the cells that are still to be painted; what the folder holds of them before does not count.
        styles: the grid's styles, by ``str(StyleRef)``.
        live: whether to write pages before the end.
        pause: seconds between two pages, at least. There are more if a page takes more than `SHARE` of them.
    """

    def __init__(
        self,
        gallery: Gallery,
        cells: Sequence[Cell],
        todo: Iterable[Cell],
        styles: Mapping[str, Style],
        *,
        live: bool = True,
        pause: float = PAUSE,
    ):
        self._gallery, self._cells, self._styles = gallery, cells, styles
        self._before = {cell.id: gallery.lines.get(cell.id) for cell in todo}
        self._pace, self._pause, self._wait, self._shown, self._warned = _Pace(), pause, pause, -1, False
        self._stop, self._thread = threading.Event(), None
        if live and self._before:
            self._thread = threading.Thread(target=self._go_on, name="page", daemon=True)

    def __enter__(self) -> Self:
        if self._thread:
            print(f"Watch it in a browser: {self._gallery.folder / FILE_NAME}", file=sys.stderr, flush=True)
            self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._stop.set()
        if self._thread:
            self._thread.join()
        if kind:
            self._write("stopped", self._lines())

    def _go_on(self) -> None:
        self._write("painting", self._lines())  # does not count: the finished page needs its thumbnails as well
        while not self._stop.wait(self._wait):
            begun, lines = time.monotonic(), self._lines()
            if _waiting(lines) != self._shown:
                self._write("painting", lines)
            self._wait = max(self._pause, (time.monotonic() - begun) / SHARE)

    def _write(self, state: Literal["painting", "stopped"], lines: Sequence[Mapping[str, Any]]) -> None:
        self._shown = _waiting(lines)
        left = self._pace.seconds_left(self._shown)
        try:
            write_page(
                self._gallery.folder,
                lines,
                title=title_of(lines),
                style_pictures=self._style_pictures,
                trust=True,
                progress=Progress(state=state, at=time.time(), left=left, pause=self._wait),
            )
        except Exception as error:
            if not (isinstance(error, OSError | UserError) or is_of_store(error)):
                raise
            if not self._warned:
                warnings.warn(f"the page of {self._gallery.folder} cannot be written now: {error}", stacklevel=2)
            self._warned = True

    def _lines(self) -> list[Mapping[str, Any]]:
        """A line for each picture, also for those still to be painted, in the order of the finished manifest."""
        lines: dict[str, Mapping[str, Any]] = dict(self._gallery.lines)  # a copy: the writer goes on
        for id, line in self._before.items():
            if line is not None and lines[id] is line:
                del lines[id]
        for id in self._unpainted.keys() & lines.keys():
            del self._unpainted[id]  # or a long grid would hold two lines for each picture
        ours = [lines.pop(cell.id, None) or self._unpainted[cell.id] for cell in self._cells]
        return [*lines.values(), *ours]

    @functools.cached_property
    def _unpainted(self) -> dict[str, dict[str, Any]]:
        cells = [cell for cell in self._cells if cell.id in self._before]
        return {cell.id: {"id": cell.id, "error": NOT_YET, **cell.parameters()} for cell in cells}

    @functools.cached_property
    def _style_pictures(self) -> list[tuple[str, Image.Image]]:
        return list(style_pictures(self._lines(), self._cells, self._styles))


class _Pace:
    """How fast pictures come, from the first ones on. Compiling does not count."""

    def __init__(self):
        self._counts: list[tuple[float, int]] = []  # the first ones: when, and how many were waiting

    def seconds_left(self, waiting: int) -> float | None:
        """About how long the pictures that are waiting will take; None as long as that is not known."""
        now = time.monotonic() - seconds_compiling()
        if len(self._counts) < 2:  # none of the first count was painted, some of the second were
            self._counts.append((now, waiting))
            return None
        begin, count = self._counts[1]
        return (now - begin) / (count - waiting) * waiting if waiting < count else None


def _waiting(lines: Iterable[Mapping[str, Any]]) -> int:
    """How many pictures are still to be painted."""
    return sum(line.get("error") == NOT_YET for line in lines)
