"""Line charts, drawn with Pillow alone."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

Colour = tuple[int, int, int]

INK, GREY, PALE, PAPER = (38, 40, 48), (118, 122, 134), (228, 230, 235), (255, 255, 255)
WIDTH, HEIGHT = 1280, 720

_SCALE = 3  # drawn this much larger and then reduced, which smooths the edges
_LEFT, _TOP, _RIGHT, _BOTTOM = 92, 104, 1050, 640  # the frame, in pixels of the finished chart
_RAMP = ((43, 33, 120), (126, 30, 140), (203, 64, 105), (244, 134, 66))
_LEGEND_ROWS = 16


class Line(NamedTuple):
    """One curve.

    ``x``, ``y``: float arrays of one length; points whose y is nan are left out. ``label``: its entry in the legend,
    none if empty. ``width``: in pixels.
    """

    x: np.ndarray
    y: np.ndarray
    label: str
    colour: Colour
    width: float = 2.0


def ramp(n: int) -> list[Colour]:
    """``n`` colours in an order that the eye follows, from deep blue to orange."""
    at = np.linspace(0, len(_RAMP) - 1, n)
    channels = [np.interp(at, range(len(_RAMP)), channel) for channel in zip(*_RAMP, strict=True)]
    return [(round(r), round(g), round(b)) for r, g, b in zip(*channels, strict=True)]


def line_chart(lines: Sequence[Line], title: str, subtitle: str = "", x_label: str = "") -> Image.Image:
    """Draws curves over a common axis, later ones on top, with a legend to their right.

    The vertical axis is logarithmic where the labelled curves span a factor of 5 or more. Unlabelled curves are
    background: they do not stretch the axis and are cut off at the frame.

    Returns:
        An RGB picture of 1280 x 720 pixels.

    Raises:
        ValueError: no labelled curve has a point, or one of its values is not positive.
    """
    curves = [line._replace(x=line.x[keep], y=line.y[keep]) for line in lines for keep in [np.isfinite(line.y)]]
    values = np.concatenate([line.y for line in curves if line.label] or [np.empty(0)])
    if not values.size or values.min() <= 0:
        raise ValueError("a chart needs a labelled curve with positive values")
    x_axis = _Axis.over(np.concatenate([line.x for line in curves]), _LEFT, _RIGHT, margin=0, log=False)
    y_axis = _Axis.over(values, _BOTTOM, _TOP, margin=0.06, log=values.max() >= 5 * values.min())
    image = Image.new("RGB", (WIDTH * _SCALE, HEIGHT * _SCALE), PAPER)
    pen = _Pen(ImageDraw.Draw(image))
    _draw_frame(pen, x_axis, y_axis, x_label)
    for line in curves:
        y = np.clip(line.y, y_axis.low, y_axis.high)
        pen.curve(np.stack([x_axis.place(line.x), y_axis.place(y)], -1), line.colour, line.width)
    pen.text(_LEFT, 34, title, 26, INK)
    pen.text(_LEFT, 68, subtitle, 16, GREY)
    _draw_legend(pen, [line for line in lines if line.label])
    return image.resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS)


class _Axis(NamedTuple):
    """Where values from ``low`` to ``high`` stand between the pixels ``start`` and ``end``."""

    low: float
    high: float
    start: float
    end: float
    log: bool

    @classmethod
    def over(cls, values: np.ndarray, start: float, end: float, margin: float, log: bool) -> "_Axis":
        low, high = float(values.min()), float(values.max())
        if low == high:
            low, high = low * 0.9, high * 1.1 or 1.0
        if log:
            factor = (high / low) ** margin
            return cls(low / factor, high * factor, start, end, log)
        extra = (high - low) * margin
        return cls(low - extra, high + extra, start, end, log)

    def place(self, values: np.ndarray | float) -> np.ndarray:
        f = np.log if self.log else np.asarray
        return self.start + (f(values) - f(self.low)) / (f(self.high) - f(self.low)) * (self.end - self.start)

    def ticks(self, about: int) -> list[float]:
        """Round numbers: multiples of 1, 2 or 5 times a power of ten; on a logarithmic axis these themselves."""
        if self.log:
            decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)))
            ticks = [digit * 10.0**decade for decade in decades for digit in (1, 2, 5)]
        else:
            rough = (self.high - self.low) / about
            power = 10.0 ** math.floor(math.log10(rough))
            step = next(digit * power for digit in (1, 2, 5, 10) if digit * power >= rough)
            ticks = [i * step for i in range(math.ceil(self.low / step), math.floor(self.high / step) + 1)]
        return [tick for tick in ticks if self.low <= tick <= self.high]


class _Pen:
    """Draws on the enlarged picture in the pixels of the finished one."""

    def __init__(self, draw: ImageDraw.ImageDraw):
        self._draw = draw

    def curve(self, points: np.ndarray, colour: Colour, width: float) -> None:
        points, width = points * _SCALE, width * _SCALE
        if len(points) > 1:
            self._draw.line([tuple(point) for point in points.tolist()], colour, round(width), joint="curve")
        for x, y in points[[0, -1]].tolist() if len(points) else ():
            radius = 1.5 * width if len(points) == 1 else width / 2
            self._draw.ellipse((x - radius, y - radius, x + radius, y + radius), colour)

    def text(self, x: float, y: float, text: str, size: float, colour: Colour, anchor: str = "lm") -> None:
        font = ImageFont.load_default(size * _SCALE)
        self._draw.text((x * _SCALE, y * _SCALE), text, colour, font, anchor)


def _draw_frame(pen: _Pen, x_axis: _Axis, y_axis: _Axis, x_label: str) -> None:
    for tick in y_axis.ticks(6):
        y = float(y_axis.place(tick))
        pen.curve(np.array([[_LEFT, y], [_RIGHT, y]]), PALE, 1)
        pen.text(_LEFT - 12, y, f"{tick:.6g}", 15, GREY, "rm")
    for tick in x_axis.ticks(8):
        x = float(x_axis.place(tick))
        pen.curve(np.array([[x, _BOTTOM], [x, _BOTTOM + 6]]), GREY, 1)
        pen.text(x, _BOTTOM + 22, f"{tick:.6g}", 15, GREY, "mm")
    pen.curve(np.array([[_LEFT, _BOTTOM], [_RIGHT, _BOTTOM]]), GREY, 1.3)
    pen.text((_LEFT + _RIGHT) / 2, _BOTTOM + 52, x_label, 16, INK, "mm")


def _draw_legend(pen: _Pen, lines: Sequence[Line]) -> None:
    """One row per curve, the last on top; of more than fit, evenly chosen ones and always the last."""
    *others, last = lines
    chosen = np.linspace(0, len(others) - 1, min(len(others), _LEGEND_ROWS - 1)).round().astype(int)
    for row, line in enumerate([last, *(others[i] for i in chosen[::-1])]):
        y = _TOP + 12 + 30 * row
        pen.curve(np.array([[_RIGHT + 34, y], [_RIGHT + 62, y]]), line.colour, max(line.width, 3))
        pen.text(_RIGHT + 74, y, line.label, 16, INK)
