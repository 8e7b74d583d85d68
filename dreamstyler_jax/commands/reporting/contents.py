"""What a run's folder holds for its report, be the run finished, still going, or interrupted."""

import dataclasses
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from dreamstyler_jax.commands.config import TrainConfig
from dreamstyler_jax.commands.config_files import read_config
from dreamstyler_jax.commands.run_log import METRICS, read_metrics
from dreamstyler_jax.commands.runs import SETTINGS, is_finished
from dreamstyler_jax.commands.sessions import Session, read_sessions
from dreamstyler_jax.runtime.errors import UserError
from dreamstyler_jax.style import FILE_NAME, Style


class RunContents(NamedTuple):
    """A run as its folder shows it.

    Attributes:
        folder: of the run.
        config: its settings.
        style: the newest style that is saved; None before the first checkpoint.
        finished: whether the style is learned.
        metrics: the lines of its log.
        previews: step and file of each preview, the first one first.
        sessions: its starts.
    """

    folder: Path
    config: TrainConfig
    style: Style | None
    finished: bool
    metrics: list[dict[str, Any]]
    previews: list[tuple[int, Path]]
    sessions: list[Session]

    @property
    def steps(self) -> int:
        """Steps done, as far as they are logged or saved."""
        saved = self.style.metadata.get("steps", 0) if self.style else 0
        return max([saved, *(line["step"] for line in self.metrics)])

    @property
    def metadata(self) -> dict[str, Any]:
        """How the style was made; empty before the first checkpoint."""
        return dict(self.style.metadata) if self.style else {}


def is_run(folder: Path) -> bool:
    """Whether a folder is one that a run has begun in."""
    return (folder / SETTINGS).is_file()


def read_run(folder: Path) -> RunContents:
    """Reads a run's folder.

    Raises:
        UserError: there is no run, or its settings, its log or its style cannot be read.
    """
    if not is_run(folder):
        raise UserError(f"there is no run in {folder}: it should hold {SETTINGS}")
    config = read_config(TrainConfig, folder / SETTINGS)
    saved = [*sorted((folder / "steps").glob("step_*.safetensors")), folder / FILE_NAME]
    newest = [file for file in saved if file.is_file()][-1:]
    return RunContents(
        folder,
        config,
        Style.load(newest[0]) if newest else None,
        is_finished(dataclasses.replace(config, resume=True), folder),
        read_metrics(folder / METRICS) if (folder / METRICS).is_file() else [],
        sorted(numbered((folder / "previews").glob("step_*.png"))),
        read_sessions(folder),
    )


def numbered(files: Iterable[Path]) -> Iterable[tuple[int, Path]]:
    """Files called after a training step, such as ``step_000100.png``, each with its step."""
    for file in files:
        if match := re.fullmatch(r"step_(\d{1,9})", file.stem):
            yield int(match[1]), file
