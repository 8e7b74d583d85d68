"""What the losses of a training did since its start, and their chart.

Losses of different stages differ in level by a factor of ten, and what training changes by some percent. So each curve
is divided by its own start.
"""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dreamstyler_jax.runtime.charts import INK, Line, line_chart, ramp
from dreamstyler_jax.runtime.files import write_atomic


class LossCurves(NamedTuple):
    """The smoothed losses over the steps, relative to their start.

    Attributes:
        steps: float64[N], of the log.
        stages: by the label of each stage, the first one first, float64[N]; nan where there is none. Empty if there is
            one stage.
        all: of all timesteps, float64[N].
        unsmoothed: the same, unsmoothed, relative to the smoothed start.
        window: over how many points of the log they are smoothed, about.
    """

    steps: np.ndarray
    stages: dict[str, np.ndarray]
    all: np.ndarray
    unsmoothed: np.ndarray
    window: int


def loss_curves(metrics: Sequence[Mapping[str, Any]]) -> LossCurves:
    """The curves of a log.

    Args:
        metrics: from `run_log.read_metrics`; at least one line, with positive losses. ``stage_loss``, T numbers or
            None, may be missing.

    Raises:
        ValueError: ``metrics`` is empty or has a loss that is not positive.
    """
    if not metrics or min(line["loss"] for line in metrics) <= 0:
        raise ValueError("a chart needs losses, all of them positive")
    steps = np.array([line["step"] for line in metrics], float)
    loss = np.array([line["loss"] for line in metrics], float)
    of_stages = np.array([line.get("stage_loss", []) for line in metrics], float).reshape(len(steps), -1)
    width = max(1, round(len(steps) / 40))
    smooth = _smooth(loss, width)
    stages = zip(stage_labels(of_stages.shape[1]), of_stages.T, strict=True) if of_stages.shape[1] > 1 else ()
    return LossCurves(
        steps,
        {label: _relative(_smooth(values, width)) for label, values in stages},
        _relative(smooth),
        loss / smooth[0],
        2 * width + 1,
    )


def draw_loss(metrics: Sequence[Mapping[str, Any]], path: str | Path) -> None:
    """Draws the smoothed loss since the start over the steps, overall and for each stage, and writes it as a PNG file.

    Args:
        metrics: as for `loss_curves`.
        path: the file.

    Raises:
        ValueError: ``metrics`` is empty or has a loss that is not positive.
        OSError: the file cannot be written.
    """
    curves = loss_curves(metrics)
    lines = [Line(curves.steps, curves.unsmoothed, "", "#cdd0d8", 1.2)]
    for (label, values), colour in zip(curves.stages.items(), ramp(len(curves.stages)), strict=True):
        lines.append(Line(curves.steps, values, label, colour))
    lines.append(Line(curves.steps, curves.all, "all", INK, 3.5))
    subtitle = f"1 is the start; smoothed over about {curves.window} log points; in grey, all timesteps unsmoothed"
    buffer = io.BytesIO()
    line_chart(lines, "Denoising loss since the start", subtitle, "step").save(buffer, "PNG")
    write_atomic(path, buffer.getvalue())


def stage_labels(stages: int) -> list[str]:
    """What the stages are called in charts, the first one first."""
    if stages == 1:
        return ["the only stage"]
    return ["stage 0 (detail)", *(f"stage {i}" for i in range(1, stages - 1)), f"stage {stages - 1} (structure)"]


def _relative(values: np.ndarray) -> np.ndarray:
    """Values divided by the first of them that is known."""
    known = values[np.isfinite(values)]
    return values / known[0] if known.size else values


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
