"""The command ``dreamstyler report``: a page that shows how a style was learned."""

import dataclasses
from collections.abc import Iterable
from pathlib import Path

from dreamstyler_jax.commands.reporting.contents import is_run
from dreamstyler_jax.commands.reporting.document import write_report
from dreamstyler_jax.runtime.buckets import path_of
from dreamstyler_jax.runtime.errors import UserError
from dreamstyler_jax.runtime.settings import check_values, option


@dataclasses.dataclass(frozen=True)
class ReportConfig:
    """Show how a style was learned, on one page: report.html in the folder of each run.

    Runs that are still going or were interrupted get a report of what is there.

    Raises:
        UserError: no run is given.
    """

    runs: list[str] = option(
        [],
        "Folders of runs, or folders of such folders; --runs can be left out, as in report runs/boat.",
        positional=True,
    )

    def __post_init__(self):
        check_values(self)
        if not self.runs:
            raise UserError("runs: give the folder of a run, such as runs/boat")


def run(config: ReportConfig) -> None:
    """Writes the reports and says where they are."""
    for folder in runs_in(config.runs):
        print(f"Open it in a browser: {write_report(folder)}")


def runs_in(paths: Iterable[str]) -> list[Path]:
    """The folders of runs: those given, and the runs in the others.

    Raises:
        UserError: a folder is no run and holds none.
    """
    found: list[Path] = []
    for folder in map(path_of, paths):
        runs = [folder] if is_run(folder) else sorted(path for path in folder.glob("*") if is_run(path))
        if not folder.is_dir():
            raise UserError(f"there is no folder {folder}: give the folder of a run, or one with such folders")
        if not runs:
            raise UserError(f"there is no run in {folder}: a run's folder holds config.yaml")
        found += runs
    return found
