"""Goodput: which share of the wall time goes into useful steps, and what takes the rest."""

import contextlib
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

from dreamstyler_jax.runtime.compilation import seconds_compiling

T = TypeVar("T")
KINDS: tuple[str, ...] = ("steps", "compile", "data", "checkpoint", "previews")  # and idle, the rest


class Goodput:
    """What the wall time since its making was spent on."""

    def __init__(self):
        self._begun = time.perf_counter()
        self._seconds = dict.fromkeys(KINDS, 0.0)
        seconds_compiling()  # counts from now on

    @contextlib.contextmanager
    def spending(self, kind: str) -> Iterator[None]:
        """Counts the time within this context as one of `KINDS`, except for tracing and compiling. Does not nest."""
        begun, compiled = time.perf_counter(), seconds_compiling()
        try:
            yield
        finally:
            seconds = time.perf_counter() - begun
            compiling = min(seconds, seconds_compiling() - compiled)
            self._seconds["compile"] += compiling
            self._seconds[kind] += seconds - compiling

    def each(self, kind: str, items: Iterable[T]) -> Iterator[T]:
        """The items; making them counts as one of `KINDS`, using them does not."""
        iterator = iter(items)
        while True:
            with self.spending(kind):
                try:
                    item = next(iterator)
                except StopIteration:
                    return
            yield item

    def shares(self) -> dict[str, float]:
        """The share of each kind and of ``idle``; they add up to 1, up to rounding to four digits."""
        total = time.perf_counter() - self._begun
        spent = {**self._seconds, "idle": total - sum(self._seconds.values())}
        return {kind: round(seconds / total, 4) for kind, seconds in spent.items()}

    def __str__(self) -> str:
        shares = ", ".join(f"{kind} {share:.1%}" for kind, share in self.shares().items())
        return f"Time {tqdm.format_interval(time.perf_counter() - self._begun)}: {shares}"
