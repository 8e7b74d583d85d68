"""How far a long job is: a bar in a terminal, lines in a log. Rates and the time left do not count compiling."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any, Self, TypeVar

from tqdm import tqdm

from dreamstyler_jax.runtime.compilation import seconds_compiling

T = TypeVar("T")
LOG_EVERY = 30.0  # seconds


def progress(items: Iterable[T], label: str, total: int, unit: str, log_every: float = LOG_EVERY) -> Iterator[T]:
    """Yields the items and shows on stderr how many are done, how fast, and how long the rest takes.

    Args:
        items: what to yield.
        label: what is being done, in a word.
        total: the number of items.
        unit: what an item is, in a word.
        log_every: seconds between two lines if stderr is not a terminal but a log.
    """
    options: dict[str, Any] = {"file": sys.stderr}
    if not sys.stderr.isatty():
        options = {"file": _Log(), "ncols": 100, "mininterval": log_every, "delay": log_every, "miniters": 1}
    compiled = seconds_compiling()
    with tqdm(desc=label, total=total, unit=unit, **options) as bar:
        for item in items:
            compiled = _skip_compiling(bar, compiled)
            yield item
            bar.update()


def _skip_compiling(bar: tqdm, compiled: float) -> float:
    """Moves the times that a bar measures from past all compiling since ``compiled`` seconds; the seconds by now."""
    now = seconds_compiling()
    bar.start_t += now - compiled
    bar.last_print_t += now - compiled
    return now


class _Log:
    """A file for tqdm that writes each state of its bar as a line, instead of overwriting the last."""

    def write(self, text: str) -> None:
        if text.strip():
            print(text.strip(), file=sys.stderr, flush=True)

    def flush(self) -> None:
        """Does nothing: ``write`` flushes every line."""


class TrainingProgress:
    """Shows how far a training is; a context manager.

    A bar in a terminal, and a line for each call of `show` elsewhere. The time left does not count compiling.

    Args:
        steps: all steps of the training.
        start: steps done before.
        at_most: whether it may end earlier.
        enabled: whether to show anything.
    """

    def __init__(self, steps: int, start: int = 0, *, at_most: bool = False, enabled: bool = True):
        self._steps, self._start, self._enabled = steps, start, enabled
        self._at_most = "at most " if at_most else ""
        self._is_bar = enabled and sys.stderr.isatty()
        self._bar = tqdm(total=steps, initial=start, unit="step", disable=not self._is_bar, dynamic_ncols=True)
        self._begun, self._compiled = time.monotonic(), seconds_compiling()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def show(self, step: int, loss: float) -> None:
        """Shows that ``step`` steps are done, with the loss."""
        if self._is_bar:
            self._compiled = _skip_compiling(self._bar, self._compiled)
            self._bar.set_postfix(loss=f"{loss:.4f}", refresh=False)
            self._bar.update(step - self._bar.n)
        elif self._enabled:
            seconds = time.monotonic() - self._begun - (seconds_compiling() - self._compiled)
            remaining = tqdm.format_interval(seconds / max(step - self._start, 1) * (self._steps - step))
            place, left = f"step {step}/{self._at_most}{self._steps}", f"{self._at_most}{remaining} left"
            print(f"{place}  loss {loss:.4f}  {left}", file=sys.stderr, flush=True)
