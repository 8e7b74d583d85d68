"""Tables and charts of experiments; the intervals are over painters."""

from collections.abc import Mapping, Sequence

from PIL import Image

from dreamstyler_jax.evaluation.statistics import estimate
from dreamstyler_jax.runtime import charts

Scores = dict[str, float]  # the mean of each score over one painter's pictures
Results = dict[str, list[Scores]]  # by the name of the method; an item for each painter


def table(results: Mapping[str, Sequence[Scores]]) -> str:
    """A table in Markdown: for each method and score the mean and its 95 % interval."""
    lines: list[str] = []
    for method, rows in results.items():
        names = list(rows[0])
        if not lines:
            lines += ["| | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
        cells = [str(estimate([row[name] for row in rows])) for name in names]
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def differences(results: Mapping[str, Sequence[Scores]], pairs: Sequence[tuple[str, str]]) -> Results:
    """By how much the scores of the first method of each pair are above the second's, painter by painter."""
    return {
        f"{method}, more than {other}": [
            {name: scores[name] - other_scores[name] for name in scores}
            for scores, other_scores in zip(results[method], results[other], strict=True)
        ]
        for method, other in pairs
    }


def draw_chart(title: str, results: Mapping[str, Sequence[Scores]], across: str, *, grouped: bool) -> Image.Image:
    """The style score against another one, as in Fig. 6 and 8 of the paper; a point for each method.

    Args:
        title: of the chart.
        results: of an experiment.
        across: the score on the horizontal axis.
        grouped: the names of the methods are pairs of settings, "A, B": draw a line for each A.
    """
    points = []
    for method, rows in results.items():
        x, y = (estimate([row[score] for row in rows]) for score in (across, "truth"))
        group, _, label = method.rpartition(", ") if grouped else ("", "", method)
        points.append(charts.Point(x.mean, y.mean, label, group, x.margin, y.margin))
    subtitle = f"{len(next(iter(results.values())))} painters; bars: 95 % intervals over painters"
    return charts.scatter_chart(
        points, title, subtitle, f"{across} score", "style score against the painter's own picture"
    )
