"""What a training run tells while it runs, and leaves behind: metrics, TensorBoard events, progress, the loss chart."""

import io
import json
import math
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from tensorboardX import SummaryWriter
from tqdm import tqdm

from dreamstyler_jax.runtime.charts import INK, Line, line_chart, ramp
from dreamstyler_jax.runtime.errors import UserError
from dreamstyler_jax.runtime.files import write_atomic

METRICS = "metrics.jsonl"


class RunLog:
    """Notes the progress of one run; a context manager.

    Every call of :meth:`write` adds one line to ``metrics.jsonl`` and one point to each TensorBoard curve (in the
    folder ``tensorboard``).
    """

    def __init__(self, folder: str | Path, start: int = 0):
        """Opens the log of a run of which ``start`` steps are done.

        What an earlier process has noted about later steps than ``start`` is dropped, so that no step appears twice:
        a run that begins anew (0) has an empty log.

        Raises:
            UserError: the ``metrics.jsonl`` of the earlier process cannot be read.
            OSError: the folder cannot be written to.
        """
        folder = Path(folder)
        path = folder / METRICS
        kept = [line for line in read_metrics(path) if line["step"] <= start] if path.exists() else []
        write_atomic(path, "".join(json.dumps(line) + "\n" for line in kept).encode())
        self._file = path.open("a", encoding="utf-8")
        self._events = SummaryWriter(str(folder / "tensorboard"), purge_step=start + 1, flush_secs=10)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_) -> None:
        self._events.close()
        self._file.close()

    def write(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Notes the metrics after ``step`` steps.

        Args:
            step: number of steps done, larger than at the last call.
            metrics: ``loss`` and more numbers, or sequences of numbers such as ``stage_loss``, in which nan stands for
                "no sample".

        Raises:
            UserError: a plain number is not finite. Nothing is noted then, and the caller's files are as they were.
        """
        values = {name: np.asarray(value, np.float64) for name, value in metrics.items()}
        for name, value in values.items():
            if value.ndim == 0 and not np.isfinite(value):
                raise UserError(
                    f"{name} is {value} at step {step}: training has diverged. What was saved before is intact; begin "
                    "again with a smaller --learning_rate (a tenth), and with --dtype float32 if it was bfloat16"
                )
        line = {"step": step, **{name: _plain(value) for name, value in values.items()}}
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()
        for name, value in values.items():
            for tag, number in _scalars(name, value):
                self._events.add_scalar(tag, number, step)


class Progress:
    """Shows how far a training of ``steps`` steps is, ``start`` of which are done; a context manager.

    A bar on a terminal; elsewhere each call of :meth:`show` prints a line.
    """

    def __init__(self, steps: int, start: int = 0):
        self._steps, self._start = steps, start
        self._bar = tqdm(total=steps, initial=start, unit="step", disable=not sys.stderr.isatty(), dynamic_ncols=True)
        self._begun = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_) -> None:
        self._bar.close()

    def show(self, step: int, loss: float) -> None:
        """``step`` steps are done, and the loss is ``loss``."""
        if not self._bar.disable:
            self._bar.set_postfix(loss=f"{loss:.4f}", refresh=False)
            self._bar.update(step - self._bar.n)
            return
        left = (time.monotonic() - self._begun) / max(step - self._start, 1) * (self._steps - step)
        remaining = tqdm.format_interval(left)
        print(f"step {step}/{self._steps}  loss {loss:.4f}  {remaining} left", file=sys.stderr, flush=True)


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """The lines of a ``metrics.jsonl``, each a dict with at least ``step`` and ``loss``.

    A last line without an end, as a killed process leaves it, does not count.

    Raises:
        UserError: another line is damaged.
        OSError: the file cannot be read.
    """
    lines = Path(path).read_bytes().split(b"\n")[:-1]
    metrics = []
    for number, line in enumerate(lines, 1):
        try:
            entry = json.loads(line)
            metrics.append({"step": int(entry["step"]), **entry, "loss": float(entry["loss"])})
        except (ValueError, KeyError, TypeError):
            raise UserError(f"line {number} of {path} is damaged: delete the line, or the file") from None
    return metrics


def draw_loss(metrics: Sequence[Mapping[str, Any]], path: str | Path) -> None:
    """Draws the loss over the steps, smoothed, as a whole and for each stage, into a PNG file.

    Args:
        metrics: what :func:`read_metrics` returns, at least one line, with positive losses; ``stage_loss``, T numbers
            or None, may be missing.
        path: the file, which appears in full or not at all.

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
    """Gaussian mean, of standard deviation ``width`` points, of what there is; nan where nothing is near."""
    radius = 3 * width
    kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) / width) ** 2)
    known = np.isfinite(values)
    total = np.convolve(np.where(known, values, 0.0), kernel)[radius:-radius]
    weight = np.convolve(known, kernel)[radius:-radius]
    return np.divide(total, weight, out=np.full(len(values), np.nan), where=weight > 0)


def _plain(value: np.ndarray) -> Any:
    """Numbers for JSON, with the seven digits that a float32 has; nan becomes None."""
    if value.ndim:
        return [_plain(item) for item in value]
    return float(f"{value:.7g}") if math.isfinite(value) else None


def _scalars(name: str, value: np.ndarray) -> list[tuple[str, float]]:
    """TensorBoard tags and numbers: ``name``, or ``name/0`` and so on without those that are nan."""
    if not value.ndim:
        return [(name, float(value))]
    return [(f"{name}/{i}", float(item)) for i, item in enumerate(value) if math.isfinite(item)]
