r"""Charts as pictures: curves over a common axis, and labelled points in a plane.

``line_figure`` and ``scatter_figure`` draw matplotlib figures, ``to_picture`` renders them; ``line_chart`` and
``scatter_chart`` do both. Texts may hold mathematics between dollar signs, such as ``r"$\lambda_s = 2$"``.
"""

from collections.abc import Sequence
from itertools import cycle
from typing import NamedTuple

import numpy as np
from matplotlib import color_sequences, colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.path import Path
from matplotlib.patheffects import withStroke
from matplotlib.text import Annotation
from matplotlib.ticker import LogLocator, NullLocator
from matplotlib.transforms import Bbox
from PIL import Image

INK, GREY, PALE, PAPER = "#262830", "#767a86", "#e4e6eb", "#ffffff"
WIDTH, HEIGHT = 1280, 720

_DPI = 72  # a point, matplotlib's unit of sizes, is then a pixel
_LEGEND_ROWS = 16
_MARKERS = "os^Dv<>"  # tell points apart for those who do not see the colours
_SIDES = ((11, 0), (-11, 0), (0, 10), (0, -10), (8, 8), (8, -8), (-8, 8), (-8, -8))
_OFFSETS = [
    (x * far, y * far) for far in (1, 2) for x, y in _SIDES
]  # of a label from its point, in pixels, the best first


class Line(NamedTuple):
    """One curve.

    Attributes:
        x, y: float arrays of one length; points whose y is NaN are left out.
        label: its entry in the legend; none if empty.
        colour: ``"#rrggbb"``.
        width: in pixels.
    """

    x: np.ndarray
    y: np.ndarray
    label: str
    colour: str
    width: float = 2.0


class Point(NamedTuple):
    """One point.

    Attributes:
        x, y: its coordinates.
        label: a text beside it; none if empty.
        group: points of one group share a colour, an entry in the legend and a line that joins them in their order. A
            point whose group is empty has a colour to itself and no entry.
        x_margin, y_margin: half the widths of its 95 % intervals, drawn as bars; none if 0 or NaN.
    """

    x: float
    y: float
    label: str = ""
    group: str = ""
    x_margin: float = 0.0
    y_margin: float = 0.0


def ramp(n: int) -> list[str]:
    """Returns ``n`` colours ``"#rrggbb"``, from deep blue to orange, each brighter than the one before."""
    return [to_hex(colour) for colour in colormaps["plasma"](np.linspace(0, 0.75, n))]


def line_chart(lines: Sequence[Line], title: str, subtitle: str = "", x_label: str = "") -> Image.Image:
    """Draws :func:`line_figure` as an RGB picture of 1280 x 720 pixels."""
    return to_picture(line_figure(lines, title, subtitle, x_label))


def line_figure(lines: Sequence[Line], title: str, subtitle: str = "", x_label: str = "") -> Figure:
    """Draws curves over a common axis, later ones on top, with a legend to their right.

    The vertical axis is logarithmic if the labelled curves span a factor of 5 or more. Curves without a label are
    background: they lie below the others, do not stretch the axis and are cut off at the frame. The legend lists the
    last curve first, and at most 16 curves, evenly spread.

    Raises:
        ValueError: no labelled curve has a point, or a labelled curve has a value that is not positive.
    """
    curves = [line._replace(x=line.x[keep], y=line.y[keep]) for line in lines for keep in [np.isfinite(line.y)]]
    labelled = [line for line in curves if line.label]
    values = np.concatenate([line.y for line in labelled] or [np.empty(0)])
    if not values.size or values.min() <= 0:
        raise ValueError("a chart needs a labelled curve with positive values")
    figure, axes = _frame(title, subtitle, x_label)
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.grid(False, axis="x")
    axes.margins(0, 0.06)
    if values.max() >= 5 * values.min():
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter("{x:.10g}")
    handles = [_draw(axes, line, z_order=3) for line in labelled]
    axes.set_ylim(axes.get_ylim())  # no longer changes with what is drawn
    for line in curves:
        if not line.label:
            _draw(axes, line, z_order=2)
    *others, last = handles
    rows = np.linspace(len(others) - 1, 0, min(len(others), _LEGEND_ROWS - 1)).round().astype(int)
    _write_legend(axes, [last, *(others[row] for row in rows)])
    return figure


def scatter_chart(points: Sequence[Point], title: str, subtitle: str, x_label: str, y_label: str) -> Image.Image:
    """Draws :func:`scatter_figure` as an RGB picture of 1280 x 720 pixels."""
    return to_picture(scatter_figure(points, title, subtitle, x_label, y_label))


def scatter_figure(points: Sequence[Point], title: str, subtitle: str, x_label: str, y_label: str) -> Figure:
    """Draws labelled points with their intervals, groups joined by lines, and a legend of the groups.

    Each label takes the place around its point where it covers no other label, point, line or bar, or least of them.

    Raises:
        ValueError: there is no point, or a point has a coordinate that is not finite or a negative margin.
    """
    if not points or not np.isfinite([point[:2] for point in points]).all():
        raise ValueError("a chart needs points, all of them finite")
    figure, axes = _frame(title, subtitle, x_label, y_label)
    axes.margins(0.1)
    series: dict[str | int, list[Point]] = {}
    for i, point in enumerate(points):
        series.setdefault(point.group or i, []).append(point)
    looks = zip(cycle(color_sequences["petroff10"]), cycle(_MARKERS), strict=False)
    handles, obstacles = [], []
    for members, (colour, marker) in zip(series.values(), looks, strict=False):
        x, y, dx, dy = np.nan_to_num([[p.x, p.y, p.x_margin, p.y_margin] for p in members]).T
        bars = axes.errorbar(x, y, dy, dx, "none", ecolor=colour, alpha=0.45, elinewidth=1.6).lines[2]
        (handle,) = axes.plot(x, y, marker, color=colour, linestyle="-", linewidth=2, ms=11, mec=PAPER, zorder=3)
        if members[0].group:
            handle.set_label(members[0].group)
            handles.append(handle)
        obstacles += [handle.get_path(), *(path for bar in bars for path in bar.get_paths())]
    if handles:
        _write_legend(axes, handles)
    _write_labels(figure, axes, points, obstacles)
    return figure


def to_picture(figure: Figure) -> Image.Image:
    """Renders a figure as an RGB picture."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")


def _frame(title: str, subtitle: str, x_label: str, y_label: str = "") -> tuple[Figure, Axes]:
    """An empty figure with its texts, and its axes."""
    layout = ConstrainedLayoutEngine(w_pad=28 / _DPI, h_pad=28 / _DPI)
    figure = Figure((WIDTH / _DPI, HEIGHT / _DPI), _DPI, facecolor=PAPER, layout=layout)
    axes = figure.add_subplot(facecolor=PAPER)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["bottom", "left"]].set(color=GREY, linewidth=1)
    axes.tick_params(color=GREY, labelcolor=GREY, labelsize=15, length=5, width=1, pad=6)
    axes.locator_params(nbins=8, steps=(1, 2, 5, 10))
    axes.grid(color=PALE, linewidth=1)
    axes.set_axisbelow(True)
    axes.set_xlabel(x_label, color=INK, fontsize=16, labelpad=12)
    axes.set_ylabel(y_label, color=INK, fontsize=16, labelpad=12)
    axes.set_title(title, loc="left", color=INK, fontsize=26, pad=48)  # with room for the subtitle
    axes.annotate(subtitle, (0, 1), (0, 22), "axes fraction", "offset points", color=GREY, fontsize=16)
    return figure, axes


def _draw(axes: Axes, line: Line, z_order: float) -> Line2D:
    (drawn,) = axes.plot(line.x, line.y, color=line.colour, linewidth=line.width, label=line.label, zorder=z_order)
    drawn.set(solid_capstyle="round", solid_joinstyle="round", marker="o" if len(line.x) == 1 else "")
    return drawn


def _write_legend(axes: Axes, handles: Sequence[Line2D]) -> None:
    style = dict(frameon=False, fontsize=16, labelcolor=INK, handlelength=1.8, labelspacing=0.6, borderaxespad=0)
    axes.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.03, 1), **style)


def _write_labels(figure: Figure, axes: Axes, points: Sequence[Point], paths: Sequence[Path]) -> None:
    """Writes each label at the place around its point where it covers least.

    Args:
        paths: lines and bars that labels should not cover, in the coordinates of the data.
    """
    FigureCanvasAgg(figure).draw()  # lays the figure out, so that places in pixels are known
    centres = axes.transData.transform([point[:2] for point in points])
    taken = [Bbox.from_extents(x - 7, y - 7, x + 7, y + 7) for x, y in centres]
    paths = [path.transformed(axes.transData) for path in paths]

    def cost(offset: tuple[int, int]) -> float:
        _move(text, offset)
        box = text.get_window_extent()
        outside = not (axes.bbox.contains(*box.min) and axes.bbox.contains(*box.max))
        crossed = sum(path.intersects_bbox(box, filled=False) for path in paths)
        return 100 * outside + 10 * box.count_overlaps(taken) + crossed

    halo = [withStroke(linewidth=3, foreground=PAPER)]
    for point in points:
        if point.label:
            text = axes.annotate(point.label, point[:2], _OFFSETS[0], textcoords="offset points", zorder=4)
            text.set(color=INK, fontsize=15, path_effects=halo)
            _move(text, min(_OFFSETS, key=cost))
            taken.append(text.get_window_extent())


def _move(text: Annotation, offset: tuple[int, int]) -> None:
    """Moves a label to an offset (right, up) from its point, in pixels, and aligns it towards the point."""
    x, y = np.sign(offset)
    text.set(position=offset, ha=("center", "left", "right")[x], va=("center", "bottom", "top")[y])
