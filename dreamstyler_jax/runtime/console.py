"""What the scripts show on a terminal, or write to a log."""

import sys
import warnings
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")
LOG_EVERY = 30  # seconds


def plain_warnings() -> None:
    """From now on a warning is one line on stderr, ``warning: ...``, without the code that gave it."""
    warnings.showwarning = _show


def _show(message: Warning | str, *_: object, **__: object) -> None:
    print("warning:", *str(message).split(), file=sys.stderr, flush=True)


def progress(items: Iterable[T], label: str, total: int, unit: str) -> Iterator[T]:
    """The same items, with a bar of how many there were, how fast, and how long the rest will take, on stderr.

    In a log, which is no terminal, the bar is a line every half minute.
    """
    if sys.stderr.isatty():
        return iter(tqdm(items, label, total, unit=unit, file=sys.stderr))
    options = {"mininterval": LOG_EVERY, "delay": LOG_EVERY, "miniters": 1}
    return iter(tqdm(items, label, total, unit=unit, file=_Log(), ncols=100, **options))


class _Log:
    """Takes a bar, which overwrites itself, and writes lines."""

    def write(self, text: str) -> None:
        if text.strip():
            print(text.strip(), file=sys.stderr, flush=True)

    def flush(self) -> None:
        """Every line already is."""
