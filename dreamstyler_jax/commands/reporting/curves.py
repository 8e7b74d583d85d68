"""Curves as SVG that adapts to light and dark: all colours but those of the curves are the page's."""

import html
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.ticker import MaxNLocator

_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP, _RIGHT = 640, 300, 76, 44, 12, 16  # of the drawing and its margins, in its units
_ROWS = 12  # of the table below a chart
_SPAN = 0.02  # of the values at least, so that the curve of a constant is flat


class Curve(NamedTuple):
    """One curve.

    Attributes:
        label: its name.
        y: a number for each step; nan leaves a gap.
        colour: a CSS colour.
        width: of the line.
    """

    label: str
    y: np.ndarray
    colour: str
    width: float = 2.0


def stage_colours(stages: int) -> list[str]:
    """CSS colours of equal lightness, from blue to orange, which can be told from a light and from a dark ground."""
    return [f"oklch(0.63 0.15 {hue:.0f})" for hue in np.linspace(265, 45, stages)]


def chart(
    steps: np.ndarray, curves: Sequence[Curve], caption: str, write: Callable[[float], str], line: float | None = None
) -> str:
    """A figure: the curves over the steps, a legend, and some of the numbers as a table.

    Args:
        steps: float[N], of the points.
        curves: what to draw, later ones on top.
        caption: what it shows, as HTML.
        write: writes a value.
        line: where to draw a horizontal line; None for nowhere.
    """
    values = np.concatenate([curve.y for curve in curves] + ([[line]] if line is not None else []))
    values = values[np.isfinite(values)]
    room = max(0.0, _SPAN - np.ptp(values))
    ticks = MaxNLocator(5).tick_values(values.min() - room / 2, values.max() + room / 2)
    x = _Scale(0, max(float(steps[-1]), 1), _LEFT, _WIDTH - _RIGHT)
    y = _Scale(ticks[0], ticks[-1], _HEIGHT - _BOTTOM, _TOP)
    parts = [*_axes(x, y, ticks, write)]
    if line is not None:
        parts.append(f'<path class="reference" d="M{_LEFT} {y(line):.1f}H{_WIDTH - _RIGHT}"/>')
    parts += [_path(curve, steps, x, y) for curve in curves]
    ends = "; ".join(f"{curve.label}: {write(_last(curve.y))}" for curve in curves)
    label = html.escape(f"Chart over {steps[-1]:.0f} steps. At the end, {ends}")
    return (
        f'<figure class="chart"><svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{label}">{"".join(parts)}'
        f"</svg>{_legend(curves, write)}<figcaption>{caption}</figcaption>{_table(steps, curves, write)}</figure>"
    )


class _Scale(NamedTuple):
    """Maps values from ``low`` to ``high`` to places from ``start`` to ``end``."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def _axes(x: _Scale, y: _Scale, ticks: Sequence[float], write: Callable[[float], str]) -> list[str]:
    """Lines and numbers: a line across for each tick, and the steps below."""
    parts = [
        f'<path class="grid" d="M{_LEFT} {y(tick):.1f}H{_WIDTH - _RIGHT}"/>'
        f'<text x="{_LEFT - 8}" y="{y(tick) + 4:.1f}" text-anchor="end">{write(tick)}</text>'
        for tick in ticks
    ]
    steps = [tick for tick in MaxNLocator(6, integer=True).tick_values(0, x.high) if 0 <= tick <= x.high]
    parts += [
        f'<text x="{x(tick):.1f}" y="{_HEIGHT - _BOTTOM + 18}" text-anchor="middle">{tick:.0f}</text>' for tick in steps
    ]
    return [*parts, f'<text x="{(_LEFT + _WIDTH) / 2:.0f}" y="{_HEIGHT - 6}" text-anchor="middle">step</text>']


def _path(curve: Curve, steps: np.ndarray, x: _Scale, y: _Scale) -> str:
    """A curve as a path, or as a dot if it has one point."""
    points = [(x(step), y(value)) for step, value in zip(steps, curve.y, strict=True) if np.isfinite(value)]
    if len(points) == 1:
        return f'<circle cx="{points[0][0]:.1f}" cy="{points[0][1]:.1f}" r="4" fill="{curve.colour}"/>'
    places = "L".join(f"{px:.1f} {py:.1f}" for px, py in points)
    return f'<path d="M{places}" fill="none" stroke="{curve.colour}" stroke-width="{curve.width}"/>' if points else ""


def _legend(curves: Sequence[Curve], write: Callable[[float], str]) -> str:
    """The curves with their colours and their last values."""
    items = (
        f'<li><svg viewBox="0 0 20 10" width="20" height="10" aria-hidden="true"><path d="M0 5H20" '
        f'stroke="{curve.colour}" stroke-width="{curve.width + 1}"/></svg>{html.escape(curve.label)} '
        f"<b>{write(_last(curve.y))}</b></li>"
        for curve in curves
    )
    return f'<ul class="legend">{"".join(items)}</ul>'


def _table(steps: np.ndarray, curves: Sequence[Curve], write: Callable[[float], str]) -> str:
    """The numbers at some of the steps, evenly spread, folded."""
    rows = np.unique(np.linspace(0, len(steps) - 1, min(len(steps), _ROWS)).round().astype(int))
    head = "".join(f'<th scope="col">{html.escape(curve.label)}</th>' for curve in curves)
    cells = ("".join(f"<td>{write(float(curve.y[row]))}</td>" for curve in curves) for row in rows)
    body = "".join(f'<tr><th scope="row">{steps[r]:.0f}</th>{c}</tr>' for r, c in zip(rows, cells, strict=True))
    return (
        '<details><summary>The numbers</summary><div class="wide" tabindex="0" role="region" aria-label="The numbers">'
        f'<table><thead><tr><th scope="col">step</th>{head}</tr></thead><tbody>{body}</tbody></table></div></details>'
    )


def _last(values: np.ndarray) -> float:
    known = values[np.isfinite(values)]
    return float(known[-1]) if known.size else float("nan")
