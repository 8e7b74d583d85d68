"""When a run was started and resumed, and what computed it for how long: ``sessions.jsonl``, a line for each start."""

import datetime
import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, NotRequired, TypedDict

from dreamstyler_jax import __version__
from dreamstyler_jax.commands.doctor import LIBRARIES, devices
from dreamstyler_jax.runtime.documents import Range, parse_json
from dreamstyler_jax.runtime.files import write_atomic
from dreamstyler_jax.runtime.growing_files import growing_file

SESSIONS = "sessions.jsonl"


class Session(TypedDict):
    """One start of a run.

    Attributes:
        step: steps done before.
        time: when, in UTC, as ISO 8601 has it.
        devices: those of the process.
        versions: of this project and of the libraries that compute.
        goodput: the shares of the time until this process had written all but its report, see `Goodput.shares`.
    """

    step: Annotated[int, Range(0, 10**9)]
    time: str
    devices: str
    versions: dict[str, str]
    goodput: NotRequired[dict[str, float]]


def note_session(folder: Path, step: int) -> None:
    """Adds a line about a start that happens now.

    Raises:
        OSError: it cannot be written.
    """
    session = Session(
        step=step,
        time=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        devices=devices(),
        versions={"dreamstyler_jax": __version__, **{library: version(library) for library in LIBRARIES}},
    )
    file = growing_file(folder / SESSIONS)
    file.write((json.dumps(session) + "\n").encode())
    file.close()


def note_times(folder: Path, shares: Mapping[str, float]) -> None:
    """Adds to the last start what its time was spent on.

    Raises:
        UserError: a line is damaged.
        OSError: it cannot be written.
    """
    sessions = read_sessions(folder)
    lines = [*sessions[:-1], *({**last, "goodput": dict(shares)} for last in sessions[-1:])]
    write_atomic(folder / SESSIONS, "".join(json.dumps(line) + "\n" for line in lines).encode())


def read_sessions(folder: Path) -> list[Session]:
    """The starts of a run, the first one first; none of a run of an earlier version.

    Raises:
        UserError: a line is damaged.
    """
    path = folder / SESSIONS
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    return [
        parse_json(line, Session, f"line {number} of {path}", "delete the line") for number, line in enumerate(lines, 1)
    ]
