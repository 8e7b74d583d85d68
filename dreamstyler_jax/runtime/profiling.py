"""Traces of what devices and host do, for XProf (TensorBoard) and Perfetto."""

import contextlib
import warnings
from collections.abc import Iterable, Iterator
from typing import TypeVar

import jax

T = TypeVar("T")


def traced(items: Iterable[T], folder: str, first: int, count: int = 1) -> Iterator[T]:
    """The items; while those of a window are made, a trace is recorded. Warns if there are too few items.

    Args:
        items: what to yield. The first ones are a warm-up: they compile.
        folder: where traces go, in subfolders; empty for none.
        first, count: the window: the number of its first item, from 0, and how many it has.

    Raises:
        OSError: the trace cannot be written.
    """
    with contextlib.ExitStack() as tracing:
        number, iterator = 0, iter(items)
        while True:
            if folder and number == first:
                tracing.enter_context(jax.profiler.trace(folder, create_perfetto_trace=True))
            if number == first + count:
                tracing.close()
            try:
                item = next(iterator)
            except StopIteration:
                break
            yield item
            number += 1
    if folder and number <= first:
        warnings.warn(f"profile: nothing was traced, this ended before its warm-up of {first} was over", stacklevel=2)
