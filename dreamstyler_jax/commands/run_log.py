"""The log of a training run: ``metrics.jsonl``, TensorBoard events, and the chart of the loss."""

import io
import json
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NotRequired, Self, TypedDict

import numpy as np
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog  # type: ignore[attr-defined]  # made when it is imported
from tensorboardX.record_writer import register_writer_factory
from tensorboardX.summary import scalar

from dreamstyler_jax.runtime.buckets import in_bucket, path_of
from dreamstyler_jax.runtime.charts import INK, Line, line_chart, ramp
from dreamstyler_jax.runtime.documents import Range, parse_json
from dreamstyler_jax.runtime.errors import UserError
from dreamstyler_jax.runtime.files import naming, write_atomic
from dreamstyler_jax.runtime.growing_files import GrowingFile, growing_file

METRICS = "metrics.jsonl"
Loss = Annotated[float, Range(1e-30, 1e30)]


class Metrics(TypedDict):
    """A line of ``metrics.jsonl``, of what is read again; null where there was no sample."""

    step: Annotated[int, Range(0, 10**9)]
    loss: Loss
    stage_loss: NotRequired[list[Loss | None]]
    evaluation_loss: NotRequired[list[Loss]]


class RunLog:
    """The log of one run; a context manager.

    Every `write` adds a line to ``metrics.jsonl`` and a point to each TensorBoard curve (in the folder
    ``tensorboard``). Both are on the disk when it returns.

    Args:
        folder: the run's folder.
        start: steps done before. Lines about later steps, from an earlier process, are removed, so that no step appears
            twice; a run that starts at step 0 starts an empty log.

    Raises:
        UserError: an earlier process's ``metrics.jsonl`` cannot be read.
        OSError: the folder cannot be written.
    """

    def __init__(self, folder: str | Path, start: int = 0):
        folder = path_of(folder)
        path = folder / METRICS
        self._earlier = [line for line in read_metrics(path) if line["step"] <= start] if path.exists() else []
        write_atomic(path, "".join(json.dumps(line) + "\n" for line in self._earlier).encode())
        self._file = growing_file(path)
        self._board = folder / "tensorboard"
        if in_bucket(folder):
            register_writer_factory(str(folder).partition("://")[0], _EventsInBucket)
        else:
            self._board.mkdir(exist_ok=True)
        # SummaryWriter would write in a thread of its own, later or, on a full disk, never.
        self._events = EventsWriter(str(self._board / "events"))
        self._add_event(start + 1, session_log=SessionLog(status=SessionLog.START))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_) -> None:
        try:
            with naming(self._board):
                self._events.close()
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
        with naming(self._board):
            for name, value in values.items():
                for tag, number in _scalars(name, value):
                    self._add_event(step, summary=scalar(tag, number))
            self._events.flush()

    def _add_event(self, step: int, **content: Any) -> None:
        self._events.write_event(Event(wall_time=time.time(), step=step, **content))


class _EventsInBucket:
    """How tensorboardX opens a file in a bucket; its own way needs a further package and a login."""

    @staticmethod
    def directory_check(path: str) -> None:
        """Does nothing: buckets have no folders."""

    @staticmethod
    def open(path: str) -> GrowingFile:
        """Opens a file of events."""
        return growing_file(path_of(path))


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
    if len(counts) > 1 or len(evaluated) > 1:
        raise UserError(f"the lines of {path} are of different numbers of stages: delete those that are wrong")
    return [{**line} for line in metrics]


def draw_loss(metrics: Sequence[Mapping[str, Any]], path: str | Path) -> None:
    """Draws the smoothed loss over the steps, overall and for each stage, and writes it as a PNG file.

    Args:
        metrics: from `read_metrics`; at least one line, with positive losses. ``stage_loss``, T numbers or None, may be
            missing.
        path: the file.

    Raises:
        ValueError: ``metrics`` is empty or has a loss that is not positive.
        OSError: the file cannot be written.
    """
    steps = np.array([line["step"] for line in metrics], float)
    loss = np.array([line["loss"] for line in metrics], float)
    stages = np.array([line.get("stage_loss", []) for line in metrics], float).reshape(len(steps), -1)
    width = max(1, round(len(steps) / 40))
    lines = [Line(steps, loss, "", "#cdd0d8", 1.2)]
    if stages.shape[1] > 1:
        for label, colour, values in zip(_stage_labels(stages.shape[1]), ramp(stages.shape[1]), stages.T, strict=True):
            lines.append(Line(steps, _smooth(values, width), label, colour))
    lines.append(Line(steps, _smooth(loss, width), "all", INK, 3.5))
    subtitle = f"each curve smoothed over about {2 * width + 1} log points; in grey, all timesteps unsmoothed"
    buffer = io.BytesIO()
    line_chart(lines, "Denoising loss", subtitle, "step").save(buffer, "PNG")
    write_atomic(path, buffer.getvalue())


def _stage_labels(stages: int) -> list[str]:
    return ["stage 0 (detail)", *(f"stage {i}" for i in range(1, stages - 1)), f"stage {stages - 1} (structure)"]


def _smooth(values: np.ndarray, width: int) -> np.ndarray:
    """The values smoothed by a Gaussian of standard deviation ``width`` points.

    Leaves out nan; the result is nan only if there is no value nearby.
    """
    radius = 3 * width
    kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) / width) ** 2)
    known = np.isfinite(values)
    total = np.convolve(np.where(known, values, 0.0), kernel)[radius:-radius]
    weight = np.convolve(known, kernel)[radius:-radius]
    return np.divide(total, weight, out=np.full(len(values), np.nan), where=weight > 0)


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
    """TensorBoard tags and numbers: ``name``, or ``name/0``, ``name/1``, ... of a sequence, without nan."""
    if isinstance(value, dict):
        return [(f"{name}/{key}", float(item)) for key, item in value.items()]
    if not value.ndim:
        return [(name, float(value))]
    return [(f"{name}/{i}", float(item)) for i, item in enumerate(value) if math.isfinite(item)]
