"""This run of ``dreamstyler benchmark`` beside an earlier one, measure by measure."""

import math
from collections.abc import Sequence
from typing import Any, NotRequired, TypedDict

import numpy as np
from scipy import stats

from dreamstyler_jax.evaluation.statistics import QUANTILE
from dreamstyler_jax.runtime.documents import parse_json
from dreamstyler_jax.runtime.errors import UserError
from dreamstyler_jax.runtime.files import read_file

HEADS = ("", "batch", "earlier ms", "now ms", "times as fast", "95 % interval", "")
HEAD = f"| {' | '.join(HEADS)} |\n{'|---' * len(HEADS)}|"
CONDITIONS = ("device", "devices", "cores", "jax", "XLA_FLAGS")


class Result(TypedDict):
    """What is compared of a line that the benchmark has written."""

    measure: str
    model: str
    dtype: str
    batch: int
    resolution: int | None
    steps: int
    styles: int
    remat: bool
    seconds: NotRequired[list[float]]  # of each run; estimates for a TPU have none
    device: NotRequired[str]
    devices: NotRequired[int]
    cores: NotRequired[int]
    jax: NotRequired[str]
    XLA_FLAGS: NotRequired[str]


def key_of(result: Result | dict[str, Any]) -> tuple[Any, ...]:
    """What two results have in common that can be compared."""
    names = ("measure", "model", "dtype", "batch", "resolution", "steps", "styles", "remat")
    return tuple(result[name] for name in names)


def read_results(path: str) -> dict[tuple[Any, ...], Result]:
    """The measurements of an earlier run, by `key_of`.

    Raises:
        UserError: the file cannot be read, or is none that the benchmark has written, or it holds estimates alone.
    """
    advice = "give a file that dreamstyler benchmark has written, such as build/benchmark.jsonl"
    lines = read_file(path, advice=advice).splitlines()
    results = [parse_json(line, Result, f"{path}, line {number}", advice) for number, line in enumerate(lines, 1)]
    measured = {key_of(result): result for result in results if result.get("seconds")}
    if not measured:
        raise UserError(f"compare: {path} holds no measurements; {advice}")
    return measured


def ratio_of_times(earlier: Sequence[float], now: Sequence[float]) -> tuple[float, float, float]:
    """How many times as fast the second runs were, with a 95 % interval.

    The ratio is that of the geometric means, and the interval Welch's for the difference of the logarithms.

    Args:
        earlier, now: seconds of each run, all above 0.

    Returns:
        The ratio and the ends of its interval, which are nan if either has fewer than two runs.
    """
    logs = [np.log(np.asarray(seconds, np.float64)) for seconds in (earlier, now)]
    difference = float(logs[0].mean() - logs[1].mean())
    if min(map(len, logs)) < 2:
        return math.exp(difference), math.nan, math.nan
    parts = [values.var(ddof=1) / len(values) for values in logs]
    error = math.sqrt(sum(parts))
    if error == 0:
        return math.exp(difference), math.exp(difference), math.exp(difference)
    freedom = sum(parts) ** 2 / sum(part**2 / (len(values) - 1) for part, values in zip(parts, logs, strict=True))
    margin = float(stats.t.ppf(QUANTILE, freedom)) * error
    return math.exp(difference), math.exp(difference - margin), math.exp(difference + margin)


def row(name: str, earlier: Result, now: dict[str, Any]) -> str:
    """A line of the table of comparisons; its last cell says which conditions are others."""
    ratio, low, high = ratio_of_times(earlier.get("seconds", []), now["seconds"])
    others = [f"{name}: {earlier.get(name)}" for name in CONDITIONS if earlier.get(name) != now.get(name)]
    cells = [
        name,
        now["batch"],
        f"{1e3 * float(np.median(earlier.get('seconds', []))):.1f}",
        f"{1e3 * now['median_s']:.1f}",
        f"{ratio:.2f}",
        "-" if math.isnan(low) else f"{low:.2f} to {high:.2f}",
        f"earlier {', '.join(others)}" if others else "",
    ]
    return "| " + " | ".join(map(str, cells)) + " |"
