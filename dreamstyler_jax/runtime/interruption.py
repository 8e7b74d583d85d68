"""Signals that ask a process to stop: Ctrl-C, and SIGTERM, which clusters and pre-emptible machines send.

A loop that has something to lose runs within `patiently` and asks `told_to_stop` where it can stop. It does not rely on
KeyboardInterrupt, which Python drops if it is raised within a callback, as of JAX's garbage collection.
"""

import contextlib
import dataclasses
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")
SIGNALS = (signal.SIGINT, signal.SIGTERM)


@dataclasses.dataclass
class _Notices:
    """Whether this process was told to stop, and who obeys.

    Attributes:
        told: whether it was.
        promise: what the loop promises that will obey; empty if there is none.
        waits: whether nothing can obey, nor has anything to lose, so that the first signal ends the process.
    """

    told: bool = False
    promise: str = ""
    waits: bool = False


_notices = _Notices()


@contextlib.contextmanager
def listening(give_up: Callable[[], object]) -> Iterator[None]:
    """Within this context the first signal asks to stop, and the second ends the process, whatever it is doing.

    The first raises KeyboardInterrupt, except within `patiently`. Belongs into the main thread.

    Args:
        give_up: called at the second signal, in a thread of its own; it should end the process.
    """
    watched, wakes = socket.socketpair()
    wakes.setblocking(False)
    handlers = {number: signal.signal(number, _obey) for number in SIGNALS}
    earlier = signal.set_wakeup_fd(wakes.fileno(), warn_on_full_buffer=False)
    watch = threading.Thread(target=_watch, args=(watched, give_up), name="signals", daemon=True)
    watch.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(earlier)
        wakes.close()
        watch.join()
        watched.close()
        for number, handler in handlers.items():
            signal.signal(number, handler)
        _notices.told = False


def ignore_signals() -> None:
    """From now on no signal asks this process to stop: it is ending, for which JAX takes seconds, with its status."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


@contextlib.contextmanager
def patiently(promise: str) -> Iterator[None]:
    """Within this context the first signal only makes `told_to_stop` true, and `promise` is shown.

    Args:
        promise: what will happen, in a line.
    """
    _notices.promise = promise
    try:
        yield
    finally:
        _notices.promise = ""


@contextlib.contextmanager
def at_once() -> Iterator[None]:
    """Within this context the first signal ends the process: it waits outside of Python, where no handler runs."""
    _notices.waits = True
    try:
        yield
    finally:
        _notices.waits = False
        if signal.getsignal(signal.SIGTERM) is _obey:
            signal.signal(signal.SIGTERM, _obey)  # again: joining other hosts, JAX has taken it


def told_to_stop() -> bool:
    """Whether this process was told to stop."""
    return _notices.told


def until_told(items: Iterable[T]) -> Iterator[T]:
    """The items, as long as this process is not told to stop."""
    for item in items:
        if _notices.told:
            return
        yield item


def _obey(*_: object) -> None:
    _notices.told = True
    if not (_notices.promise or _notices.waits):
        raise KeyboardInterrupt


def _watch(signals: socket.socket, give_up: Callable[[], object]) -> None:
    """Counts the signals, which arrive here even while the main thread computes."""
    count = 0
    while number := signals.recv(1):
        count += number[0] in SIGNALS
        if count == 1 and _notices.promise:
            os.write(2, f"{_notices.promise}; a second signal ends at once\n".encode())
        elif count > 1 or (count and _notices.waits):
            give_up()
