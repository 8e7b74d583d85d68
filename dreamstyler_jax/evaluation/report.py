"""What an evaluation prints and writes: a summary, as a table and a chart, and the scores of each picture."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from dreamstyler_jax.evaluation.painted import PaintedPicture
from dreamstyler_jax.evaluation.score_table import SCORES
from dreamstyler_jax.evaluation.statistics import Estimate, estimate
from dreamstyler_jax.runtime import charts, images
from dreamstyler_jax.runtime.files import write_atomic

OVERALL = "all styles"
LEGEND = (
    "Means ± half the width of their 95 % confidence intervals: "
    f"of a style over its pictures, of {OVERALL} over the styles."
)


class GroupSummary(NamedTuple):
    """Mean scores of a group of pictures.

    Attributes:
        pictures: how many pictures there are.
        scores: by the names in `score_table.SCORES`.
    """

    pictures: int
    scores: dict[str, Estimate]


class Summary(NamedTuple):
    """Mean scores of all pictures.

    Attributes:
        styles: of each style over its pictures, by label.
        overall: of all styles; its scores are means over the styles.
    """

    styles: dict[str, GroupSummary]
    overall: GroupSummary


def summarise(labels: Sequence[str], results: Sequence[Mapping[str, float]]) -> Summary:
    """Means over pictures, given the label and the scores of each picture; scores that are nan do not count."""
    styles, names = {}, list(results[0])
    for label in dict.fromkeys(labels):
        group = [result for other, result in zip(labels, results, strict=True) if other == label]
        styles[label] = GroupSummary(len(group), {name: _estimate(r[name] for r in group) for name in names})
    means = {name: _estimate(style.scores[name].mean for style in styles.values()) for name in names}
    return Summary(styles, GroupSummary(len(labels), means))


def _estimate(values: Iterable[float]) -> Estimate:
    return estimate([value for value in values if not math.isnan(value)])


def table(summary: Summary) -> str:
    """The summary as lines of text."""
    groups = {**summary.styles, OVERALL: summary.overall}
    width = max(map(len, groups))
    lines = [f"{'':{width}}{'pictures':>10}" + "".join(f"{name:>17}" for name in summary.overall.scores)]
    for label, group in groups.items():
        cells = "".join(f"{score!s:>17}" for score in group.scores.values())
        lines.append(f"{label:{width}}{group.pictures:>10}{cells}")
    return "\n".join(lines)


def summary_points(summary: Summary, likeness: str = "style") -> list[charts.Point]:
    """Text score (x) against a style score (y): a point for each style that has both, and one for several styles."""
    groups = {label.replace("$", r"\$"): group for label, group in summary.styles.items()}
    if len(groups) > 1:
        groups[OVERALL] = summary.overall
    points = []
    for label, group in groups.items():
        text, style = group.scores["text"], group.scores[likeness]
        if text.count and style.count:
            points.append(charts.Point(text.mean, style.mean, label, x_margin=text.margin, y_margin=style.margin))
    return points


def chart(points: Sequence[charts.Point], likeness: str = "style") -> Image.Image:
    """Draws `summary_points`; there must be at least one."""
    subtitle = "means and 95 % confidence intervals: of a style over its pictures, of all styles over the styles"
    return charts.scatter_chart(points, "Prompt and style", subtitle, "text score", SCORES[likeness].likeness)


def picture_lines(
    painted: Iterable[PaintedPicture], labels: Iterable[str], results: Iterable[Mapping[str, float]]
) -> list[dict[str, Any]]:
    """A line for each picture: its file, its line of the manifest, its label, its prompt without style, its scores."""
    return [
        {
            "picture": str(picture.path),
            **picture.line,
            "group": label,
            "context": picture.context,
            "scores": {name: _json_number(value) for name, value in result.items()},
        }
        for picture, label, result in zip(painted, labels, results, strict=True)
    ]


def write_report(
    folder: Path, lines: Iterable[Mapping[str, Any]], summary: Summary, provenance: Mapping[str, Any]
) -> None:
    """Writes ``evaluation.json``, ``scores.jsonl`` and, if a style has a text score, charts.

    The first of them shows whose folder this is, also after an interruption.

    ``evaluation.png`` shows the style score, ``evaluation_csd.png`` and so on show other scores of styles.

    Args:
        lines: see `picture_lines`.
        provenance: what else belongs into ``evaluation.json``: the version, the networks, scores of the whole set.
    """
    content = {
        **provenance,
        "pictures": summary.overall.pictures,
        "overall": _json_scores(summary.overall),
        "styles": {
            label: {"pictures": group.pictures, **_json_scores(group)} for label, group in summary.styles.items()
        },
    }
    write_atomic(folder / "evaluation.json", (json.dumps(content, indent=2) + "\n").encode())
    write_scores(folder, lines)
    for name in summary.overall.scores:
        if SCORES[name].likeness and (points := summary_points(summary, name)):
            suffix = "" if name == "style" else f"_{name}"
            images.save_png(folder / f"evaluation{suffix}.png", chart(points, name))


def write_scores(folder: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    """Writes ``scores.jsonl``, which the page of a folder of pictures reads as well.

    Args:
        lines: see `picture_lines`.
    """
    write_atomic(folder / "scores.jsonl", "".join(json.dumps(line) + "\n" for line in lines).encode())


def _json_scores(group: GroupSummary) -> dict[str, dict[str, float | int | None]]:
    return {
        name: {key: _json_number(value) for key, value in score._asdict().items()}
        for name, score in group.scores.items()
    }


def _json_number(value: float) -> float | None:
    """JSON has no nan."""
    return None if math.isnan(value) else value
