"""Tries doors many times, and says what became of each try."""

import collections
import contextlib
import io
import re
import signal
import threading
import time
import traceback
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from dreamstyler_jax.commands.cli import DISK_ERRORS
from dreamstyler_jax.runtime.errors import UserError
from fuzzing.door import Door, Materials
from fuzzing.files import Loras, Pickles, Pictures, Styles
from fuzzing.models import Clips, Models, ScoreNetworks, Tokenizers, Weights
from fuzzing.outputs import Manifests, Runs
from fuzzing.texts import PromptLists, Prompts, Recipes, Settings

DOORS: tuple[type[Door], ...] = (
    Settings, Prompts, PromptLists, Recipes, Pictures, Styles, Pickles, Loras, Models, Tokenizers, Clips, Weights,
    ScoreNetworks, Manifests, Runs,
)  # fmt: skip
MAX_SECONDS = 10
TEMPORARY = re.compile(r"\.[0-9a-f]{32}\.tmp")


class Hang(BaseException):
    """A try took too long."""


class Fault(NamedTuple):
    """A try that went wrong.

    Attributes:
        kind: "traceback", "hang" or "half-written file".
        door, seed: which try it was: ``Random(seed)`` gives it again.
        report: the traceback, or what is wrong.
    """

    kind: str
    door: str
    seed: str
    report: str


class Outcome(NamedTuple):
    """What became of the tries at one door: how many were refused by a line or accepted, the faults, and the time."""

    door: str
    refused: int
    accepted: int
    faults: list[Fault]
    seconds: float

    @property
    def count(self) -> int:
        """The number of tries."""
        return self.refused + self.accepted + len(self.faults)


def try_doors(
    materials: Materials, count: int, seed: int, doors: Iterable[type[Door]] = DOORS, max_seconds: float = MAX_SECONDS
) -> Iterator[Outcome]:
    """Tries each door so many times.

    Args:
        materials: what the doors spoil.
        count: tries per door.
        seed: of the first try; the others count on.
        doors: the doors.
        max_seconds: how long a try may take.
    """
    for door_class in doors:
        started = time.perf_counter()
        door, kinds, faults = door_class(materials), collections.Counter[str](), []
        for number in range(seed, seed + count):
            result = try_once(door, f"{door_class.__name__} {number}", max_seconds)
            kinds[result if isinstance(result, str) else "fault"] += 1
            if isinstance(result, Fault):
                faults.append(result)
        yield Outcome(door_class.__name__, kinds["refused"], kinds["accepted"], faults, time.perf_counter() - started)


def try_once(door: Door, seed: str, max_seconds: float) -> str | Fault:
    """One try: ``"refused"`` by an error that the commands print as one line, ``"accepted"``, or a fault."""
    name = type(door).__name__
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), _limited(max_seconds):
            warnings.simplefilter("ignore")
            door.attempt(Random(seed))
        result = "accepted"
    except Hang:
        return Fault("hang", name, seed, traceback.format_exc())
    except (UserError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in DISK_ERRORS:
            return Fault("traceback", name, seed, traceback.format_exc())
        result = "refused"
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException:  # libraries in Rust panic with one that is no Exception
        return Fault("traceback", name, seed, traceback.format_exc())
    if left := [str(path) for path in _files_in(door.folder) if TEMPORARY.fullmatch(path.name)]:
        return Fault("half-written file", name, seed, ", ".join(left))
    return result


def _files_in(folder: Path) -> Iterable[Path]:
    return folder.rglob("*.tmp")


@contextlib.contextmanager
def _limited(seconds: float) -> Iterator[None]:
    """Raises `Hang` in the block after so many seconds, where signals can be used: in the main thread."""

    def stop(*_):
        raise Hang

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def summary(outcomes: Iterable[Outcome]) -> str:
    """A table of the outcomes."""
    outcomes = list(outcomes)
    kinds = ("traceback", "hang", "half-written file")
    rows: list[tuple[Any, ...]] = [
        ("door", "inputs", "refused", "accepted", *(f"{kind}s" for kind in kinds), "seconds")
    ]
    for outcome in outcomes:
        found = [sum(fault.kind == kind for fault in outcome.faults) for kind in kinds]
        rows.append((outcome.door, outcome.count, outcome.refused, outcome.accepted, *found, round(outcome.seconds)))
    rows.append(("all", *(sum(row[i] for row in rows[1:]) for i in range(1, len(rows[0])))))
    return "\n".join(" ".join(f"{cell:>17}" for cell in row) for row in rows)
