"""The log of a training run: ``metrics.jsonl``, and what the boards show of it."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, NotRequired, Self, TypedDict

import numpy as np
from PIL import Image

from dreamstyler_jax.commands.boards import Board, TensorBoard
from dreamstyler_jax.runtime.buckets import path_of
from dreamstyler_jax.runtime.documents import Range, parse_json
from dreamstyler_jax.runtime.errors import UserError
from dreamstyler_jax.runtime.files import write_atomic
from dreamstyler_jax.runtime.growing_files import growing_file

METRICS = "metrics.jsonl"
Loss = Annotated[float, Range(1e-30, 1e30)]


class Metrics(TypedDict):
    """A line of ``metrics.jsonl``, of what is read again; null where there was no sample."""

    step: Annotated[int, Range(0, 10**9)]
    loss: Loss
    stage_loss: NotRequired[list[Loss | None]]
    evaluation_loss: NotRequired[list[Loss]]
    relative_norm: NotRequired[list[Annotated[float, Range(0, 1e30)] | None]]
    images_per_second: NotRequired[float]
    goodput: NotRequired[dict[str, float]]


class RunLog:
    """The log of one run; a context manager.

    Every `write` adds a line to ``metrics.jsonl`` and a point to each curve of the boards: of TensorBoard, and of those
    that are given. File and TensorBoard are on the disk when it returns.

    Args:
        folder: the run's folder.
        start: steps done before. Lines about later steps, from an earlier process, are removed, so that no step appears
            twice; a run that starts at step 0 starts an empty log.
        texts: what TensorBoard shows as text, Markdown by tag.
        boards: further boards.

    Raises:
        UserError: an earlier process's ``metrics.jsonl`` cannot be read.
        OSError: the folder cannot be written.
    """

    def __init__(
        self,
        folder: str | Path,
        start: int = 0,
        texts: Mapping[str, str] = MappingProxyType({}),
        boards: Sequence[Board] = (),
    ):
        folder = path_of(folder)
        path = folder / METRICS
        self._earlier = [line for line in read_metrics(path) if line["step"] <= start] if path.exists() else []
        write_atomic(path, "".join(json.dumps(line) + "\n" for line in self._earlier).encode())
        self._file = growing_file(path)
        self._boards = [TensorBoard(folder, start, texts), *boards]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_) -> None:
        try:
            for board in self._boards:
                board.close(failed=kind is not None)
        finally:
            self.save()

    def save(self) -> None:
        """Waits until all lines are in the file, so that no checkpoint is ahead of its log."""
        self._file.close()

    def earlier(self, name: str) -> list[Any]:
        """The values of a metric that earlier processes logged, where they did."""
        return [line[name] for line in self._earlier if name in line]

    def write(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Logs the metrics after ``step`` steps.

        Args:
            step: steps done, more than at the last call.
            metrics: ``loss`` and other numbers, mappings of numbers such as ``goodput``, or sequences of numbers such
                as ``stage_loss``, in which nan means that there was no sample.

        Raises:
            UserError: a number that is not in a sequence is not finite. Nothing is logged then.
            OSError: it cannot be written.
        """
        values = {name: _numbers(value) for name, value in metrics.items()}
        for name, value in values.items():
            if not isinstance(value, dict) and value.ndim == 0 and not np.isfinite(value):
                raise UserError(
                    f"{name} is {value} at step {step}: training has diverged. The checkpoints before are intact; "
                    "start again with a tenth of the --learning_rate, and with --dtype float32 if it was bfloat16"
                )
        line = {"step": step, **{name: _plain(value) for name, value in values.items()}}
        self._file.write((json.dumps(line) + "\n").encode())
        shown = {tag: number for name, value in values.items() for tag, number in _scalars(name, value)}
        for board in self._boards:
            board.numbers(step, shown)

    def picture(self, step: int, tag: str, picture: Image.Image) -> None:
        """Shows a picture, made after ``step`` steps, on the boards.

        Raises:
            OSError: it cannot be written.
        """
        for board in self._boards:
            board.picture(step, tag, picture)


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """The lines of a ``metrics.jsonl``, each a dict with at least ``step`` and ``loss``.

    Skips a last line without a line break, which a killed process leaves.

    Raises:
        UserError: another line is damaged.
        OSError: the file cannot be read.
    """
    lines = path_of(path).read_bytes().split(b"\n")[:-1]
    metrics = [
        parse_json(line, Metrics, f"line {number} of {path}", "delete the line, or the file")
        for number, line in enumerate(lines, 1)
    ]
    counts = {len(line.get("stage_loss", ())) for line in metrics}
    evaluated = {len(line["evaluation_loss"]) for line in metrics if "evaluation_loss" in line}
    norms = {len(line["relative_norm"]) for line in metrics if "relative_norm" in line}
    if any(len(found) > 1 for found in (counts, evaluated, norms)):
        raise UserError(f"the lines of {path} are of different numbers of stages: delete those that are wrong")
    return [{**line} for line in metrics]


def _numbers(value: Any) -> Any:
    """Numbers as float64, an array or a dictionary of arrays."""
    if isinstance(value, Mapping):
        return {name: _numbers(item) for name, item in value.items()}
    return np.asarray(value, np.float64)


def _plain(value: Any) -> Any:
    """Numbers for JSON, with the seven digits of a float32; nan becomes None."""
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if value.ndim:
        return [_plain(item) for item in value]
    return float(f"{value:.7g}") if math.isfinite(value) else None


def _scalars(name: str, value: Any) -> list[tuple[str, float]]:
    """The tags and numbers that boards show: ``name``, or ``name/0``, ``name/1``, ... of a sequence, without nan."""
    if isinstance(value, dict):
        return [(f"{name}/{key}", float(item)) for key, item in value.items()]
    if not value.ndim:
        return [(name, float(value))]
    return [(f"{name}/{i}", float(item)) for i, item in enumerate(value) if math.isfinite(item)]
