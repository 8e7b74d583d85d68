"""Charts: what is in them, and where."""

import itertools
import subprocess
import sys

import numpy as np
import pytest
from matplotlib.colors import to_hex, to_rgb
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from dreamstyler_jax.runtime.charts import (
    Line,
    Point,
    line_chart,
    line_figure,
    ramp,
    scatter_chart,
    scatter_figure,
    to_picture,
)

X = np.arange(1.0, 11.0)
RED = "#ff0000"


def legend_of(figure):
    legend = figure.axes[0].get_legend()
    return [text.get_text() for text in legend.get_texts()] if legend else []


def labels_of(figure):
    """The boxes, in pixels, of the labels beside points; the first text of the axes is the subtitle."""
    return {text.get_text(): text.get_window_extent() for text in figure.axes[0].texts[1:]}


def tick_labels(axis):
    low, high = axis.get_view_interval()
    return [tick.label1 for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]


def scatter(*points):
    return scatter_figure(points, "Title", "subtitle", "text score", "style score")


def has_colour(image, colour):
    return (np.asarray(image) == np.round(np.array(to_rgb(colour)) * 255)).all(-1).any()


def test_a_ramp_goes_from_deep_blue_to_orange_and_gets_brighter():
    colours = np.array([to_rgb(colour) for colour in ramp(9)])
    (red, green, blue), last = colours[0], colours[-1]
    assert blue > 0.4 and red < 0.2 and green < 0.2
    assert last[0] > 0.9 > last[1] > 0.4 > last[2]
    assert (np.diff(colours @ [0.299, 0.587, 0.114]) > 0).all()  # each brighter than the one before
    assert ramp(1) == ramp(9)[:1] and len(set(ramp(50))) == 50


# Curves


def test_a_line_chart_is_a_picture_of_1280_x_720():
    image = line_chart([Line(X, X, "a", RED)], "Title", "subtitle", "step")
    assert image.size == (1280, 720) and image.mode == "RGB"
    assert has_colour(image, RED)


def test_a_line_chart_has_its_texts():
    (axes,) = line_figure([Line(X, X, "a", RED)], "Title", "subtitle", "step").axes
    assert (axes.get_title("left"), axes.texts[0].get_text(), axes.get_xlabel()) == ("Title", "subtitle", "step")


def test_nothing_in_a_line_chart_is_cut_off_or_overlaps():
    curve = Line(1e4 * X, 1e-3 * X, "a curve with a long label, indeed", RED)
    figure = line_figure([curve], "Title", "subtitle", "step")
    to_picture(figure)  # lays it out
    (axes,) = figure.axes
    (title,) = axes.findobj(lambda artist: isinstance(artist, Text) and artist.get_text() == "Title")
    texts = [title, axes.texts[0], axes.xaxis.label, *tick_labels(axes.xaxis), *tick_labels(axes.yaxis)]
    boxes = [axes.bbox, *(artist.get_window_extent() for artist in [*texts, axes.get_legend()])]
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
    assert all(0 <= box.x0 < box.x1 <= 1280 and 0 <= box.y0 < box.y1 <= 720 for box in boxes)


@pytest.mark.parametrize("factor, scale", [(4.9, "linear"), (5.1, "log")])
def test_the_axis_is_logarithmic_from_a_factor_of_5(factor, scale):
    y = np.linspace(0.1, 0.1 * factor, 10)
    figure = line_figure([Line(X, y, "a", RED), Line(X, 100 * y, "", RED)], "Title")
    assert figure.axes[0].get_yscale() == scale


def test_a_logarithmic_axis_has_round_numbers():
    figure = line_figure([Line(X, np.geomspace(0.004, 0.3, 10), "a", RED)], "Title")
    to_picture(figure)  # writes its numbers
    ticks = [text.get_text() for text in tick_labels(figure.axes[0].yaxis)]
    assert ticks == ["0.005", "0.01", "0.02", "0.05", "0.1", "0.2"]


def test_background_curves_do_not_stretch_the_axis_and_lie_below():
    line = Line(X, X, "a", RED)
    alone = line_figure([line], "Title")
    together = line_figure([line, Line(2 * X, 100 * X, "", "#0000ff"), Line(X, X, "", "#0000ff", 2)], "Title")
    image = to_picture(together)
    assert together.axes[0].get_ylim() == alone.axes[0].get_ylim()
    assert together.axes[0].get_xlim() == (1, 20)
    assert legend_of(together) == ["a"]
    assert not has_colour(image, "#0000ff")


def test_later_curves_are_on_top():
    lines = [Line(X, X, "below", "#0000ff", 6), Line(X, X, "above", RED, 12)]
    assert not has_colour(line_chart(lines, "T").crop((100, 100, 1100, 640)), "#0000ff")


def test_the_legend_starts_with_the_last_curve_and_lists_at_most_16():
    lines = [Line(X, X + i, str(i), RED) for i in range(51)]
    assert legend_of(line_figure(lines[:16], "Title")) == [str(i) for i in reversed(range(16))]
    shown = [int(label) for label in legend_of(line_figure(lines, "Title"))]
    assert len(shown) == 16 and shown[:2] == [50, 49] and shown[-1] == 0
    assert set(np.diff(shown[1:])) <= {-3, -4}


def test_points_that_are_nan_are_left_out():
    (axes,) = line_figure([Line(X, np.where(X % 2, X, np.nan), "a", RED)], "Title").axes
    (line,) = axes.lines
    assert line.get_xdata().tolist() == line.get_ydata().tolist() == [1, 3, 5, 7, 9]


def test_a_curve_of_one_point_is_visible():
    assert has_colour(line_chart([Line(X[:1], X[:1], "a", RED)], "T").crop((100, 100, 1100, 640)), RED)


@pytest.mark.parametrize("y", [[], [np.nan], [1.0, 0.0], [-1.0]])
def test_a_line_chart_without_positive_values_is_refused(y):
    y = np.array(y)
    with pytest.raises(ValueError, match="positive"):
        line_chart([Line(X[: len(y)], y, "a", RED), Line(X, X, "", RED)], "Title")


# Points


def test_a_scatter_chart_is_a_picture_of_1280_x_720():
    image = scatter_chart([Point(1, 2, "DreamStyler")], "Title", "subtitle", "text score", "style score")
    assert image.size == (1280, 720) and image.mode == "RGB"


def test_a_scatter_chart_has_its_texts():
    figure = scatter(Point(1, 2, "DreamStyler"))
    (axes,) = figure.axes
    assert (axes.get_title("left"), axes.texts[0].get_text()) == ("Title", "subtitle")
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("text score", "style score")
    assert list(labels_of(figure)) == ["DreamStyler"]


def test_each_point_without_a_group_looks_different_and_is_not_in_the_legend():
    figure = scatter(*(Point(i, i % 7, f"m{i}") for i in range(40)))
    looks = {(to_hex(line.get_color()), line.get_marker()) for line in figure.axes[0].lines}
    assert len(looks) == 40
    assert legend_of(figure) == []


def test_a_group_is_one_line_in_the_order_of_its_points():
    points = [Point(3, 1, "1", "a"), Point(0, 0, "5", "b"), Point(1, 2, "2", "a"), Point(2, 5, "", "a"), Point(4, 4)]
    figure = scatter(*points)
    a, b, alone = figure.axes[0].lines
    assert a.get_xydata().tolist() == [[3, 1], [1, 2], [2, 5]] and a.get_linestyle() == "-"
    assert b.get_xydata().tolist() == [[0, 0]] and alone.get_xydata().tolist() == [[4, 4]]
    assert legend_of(figure) == ["a", "b"]
    assert list(labels_of(figure)) == ["1", "5", "2"]


def test_intervals_are_bars_and_widen_the_axes():
    (axes,) = scatter(Point(1, 2, x_margin=0.5, y_margin=3), Point(2, 3, y_margin=np.nan)).axes
    bars = [segment.tolist() for bar in axes.collections for segment in bar.get_segments()]
    assert [bar for bar in bars if bar[0] != bar[1]] == [[[0.5, 2], [1.5, 2]], [[1, -1], [1, 5]]]
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    assert left < 0.5 and right > 2 and bottom < -1 and top > 5


def test_labels_cover_no_other_label_point_bar_or_line():
    names = [
        "DreamStyler",
        "Textual inversion",
        "without context",
        "one stage",
        "one with a long name",
        "another with a long name",
    ]
    places = [(0, 0), (0.1, 0.05), (0.2, -0.05), (0.3, 0.02), (0.75, 1), (1, 1)]
    points = [Point(*place, name, "", 0.03, 0.04) for place, name in zip(places, names, strict=True)]
    sweep = [Point(0.1 * i, 0.5, f"{i}", "sweep") for i in range(11)]
    figure = scatter(*points, *sweep)
    to_picture(figure)
    (axes,), boxes = figure.axes, labels_of(figure)
    assert list(boxes) == [*names, *map(str, range(11))]
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes.values(), 2))
    segments = [segment for bars in axes.collections for segment in bars.get_segments()]
    for ends in [*segments, *(line.get_xydata() for line in axes.lines)]:
        line = Bbox(axes.transData.transform(ends)[[0, -1]])  # all are horizontal or vertical
        line = Bbox.from_extents(line.xmin, line.ymin, line.xmax, line.ymax)
        assert not any(line.overlaps(box) for box in boxes.values())


def test_labels_in_a_crowd_cover_no_other_label_and_no_point():
    places = np.random.default_rng(0).normal(size=(25, 2))
    figure = scatter(*(Point(x, y, f"method {i}") for i, (x, y) in enumerate(places)))
    to_picture(figure)
    points = [Bbox.from_bounds(x - 5, y - 5, 10, 10) for x, y in figure.axes[0].transData.transform(places)]
    labels = list(labels_of(figure).values())
    assert not any(a.overlaps(b) for a, b in itertools.combinations(labels, 2))
    assert not any(a.overlaps(b) for a, b in itertools.product(labels, points))


def test_labels_stay_inside_the_axes_and_near_their_points():
    points = [Point(x, y, f"a method at {x}, {y}") for x in range(4) for y in range(4)]
    figure = scatter(*points)
    to_picture(figure)
    (axes,) = figure.axes
    for point, box in zip(points, labels_of(figure).values(), strict=True):
        assert axes.bbox.containsx(box.x0) and axes.bbox.containsx(box.x1)
        x, y = axes.transData.transform(point[:2])
        assert max(box.x0 - x, x - box.x1, box.y0 - y, y - box.y1) < 20


@pytest.mark.parametrize(
    "points", [[], [Point(np.nan, 1)], [Point(1, np.inf)], [Point(1, 1, x_margin=-1)], [Point(1, 1, y_margin=-1)]]
)
def test_points_that_cannot_be_drawn_are_refused(points):
    with pytest.raises(ValueError):
        scatter(*points)


# The module


def test_charts_leave_pyplot_and_its_global_state_alone():
    program = """if True:
        import sys, matplotlib
        before = matplotlib.rcParams.copy()
        from dreamstyler_jax.runtime.charts import Point, scatter_chart
        scatter_chart([Point(1, 1, "a")], "", "", "", "")
        assert "matplotlib.pyplot" not in sys.modules and matplotlib.rcParams.copy() == before
    """
    subprocess.run([sys.executable, "-c", program], check=True)


def test_sampling_does_not_load_matplotlib():
    program = "import sys, dreamstyler_jax.commands.sample; sys.exit('matplotlib' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)
