"""The command ``dreamstyler verify``: checks runs, grids and styles against what made them."""

import dataclasses
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from dreamstyler_jax.commands.reporting.contents import is_run
from dreamstyler_jax.commands.verification.findings import Finding, Severity
from dreamstyler_jax.commands.verification.grids import grid_findings
from dreamstyler_jax.commands.verification.runs import run_findings
from dreamstyler_jax.commands.verification.styles import style_findings
from dreamstyler_jax.runtime.buckets import path_of
from dreamstyler_jax.runtime.errors import UserError
from dreamstyler_jax.runtime.settings import check_values, option

# The exit status, of several the first that is so.
STATUS = {Severity.WRONG: 3, Severity.UNFINISHED: 4, Severity.NOTE: 0}


@dataclasses.dataclass(frozen=True)
class VerifyConfig:
    """Check what is there against what made it; exit status 0: all is well, 3: something is wrong, 4: unfinished.

    Changes nothing.

    Raises:
        UserError: no path is given.
    """

    paths: list[str] = option(
        [],
        "Runs, grids and files of styles, or folders of such; --paths can be left out, as in verify runs out.",
        positional=True,
    )

    def __post_init__(self):
        check_values(self)
        if not self.paths:
            raise UserError("paths: give runs, grids or styles to check, such as runs/boat")


class Kind(NamedTuple):
    """A kind of thing that can be checked.

    Attributes:
        name: what it is called.
        check: finds what is wrong.
    """

    name: str
    check: Callable[[Path], list[Finding]]


RUN, GRID, STYLE = Kind("a run", run_findings), Kind("a grid", grid_findings), Kind("a style", style_findings)


def run(config: VerifyConfig) -> None:
    """Prints a line for each finding and one for each thing.

    Raises:
        SystemExit: something is wrong or not finished.
    """
    found: set[Severity] = set()
    for path, kind in things_in(config.paths):
        findings = kind.check(path)
        for finding in findings:
            print(finding)
        print(f"{path}, {kind.name}: {summary(findings)}", flush=True)
        found |= {finding.severity for finding in findings}
    if status := next((status for severity, status in STATUS.items() if severity in found), 0):
        sys.exit(status)


def summary(findings: Sequence[Finding]) -> str:
    """What the findings of one thing come to."""
    count = Counter(finding.severity for finding in findings)
    if wrong := count[Severity.WRONG]:
        return f"{wrong} wrong{', and not finished' if count[Severity.UNFINISHED] else ''}"
    return "not finished, all that is there is well" if count[Severity.UNFINISHED] else "all is well"


def things_in(paths: Iterable[str]) -> list[tuple[Path, Kind]]:
    """What there is to check at the paths.

    Raises:
        UserError: at one of them there is nothing.
    """
    found: list[tuple[Path, Kind]] = []
    for path in map(path_of, paths):
        kind = kind_of(path)
        inside = [] if kind or not path.is_dir() else [(one, kind_of(one)) for one in sorted(path.iterdir())]
        things = [(path, kind)] if kind else [(one, kind) for one, kind in inside if kind]
        if not path.exists():
            raise UserError(f"there is no file and no folder {path}")
        if not things:
            raise UserError(f"{path} is no run, no grid and no style, and holds none")
        found += things
    return found


def kind_of(path: Path) -> Kind | None:
    """What a file or folder is; None if it is nothing that can be checked."""
    if path.is_file():
        return STYLE if path.suffix.lower() in (".safetensors", ".pt", ".bin") else None
    if is_run(path) or (path / "checkpoints").is_dir():
        return RUN
    return GRID if any(path.glob("manifest*.jsonl")) else None
