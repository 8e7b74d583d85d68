"""Means with confidence intervals."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

QUANTILE = 0.975  # of Student's distribution, for a two-sided interval of 95 %


class Estimate(NamedTuple):
    """A mean with its 95 % confidence interval, mean ± margin.

    Attributes:
        mean: nan if there is no value.
        margin: half the width of the interval; nan if there are fewer than two values.
        count: number of independent values.
    """

    mean: float
    margin: float
    count: int

    def __str__(self) -> str:
        if not self.count:
            return "-"
        return f"{self.mean:.2f}" + (f" ± {self.margin:.2f}" if self.count > 1 else "")


def estimate(values: Sequence[float] | np.ndarray) -> Estimate:
    """Mean and Student's interval of independent values, such as one per style."""
    values = np.asarray(values, np.float64)
    if not values.size:
        return Estimate(float("nan"), float("nan"), 0)
    if len(values) == 1:
        return Estimate(float(values[0]), float("nan"), 1)
    standard_error = values.std(ddof=1) / np.sqrt(len(values))
    margin = stats.t.ppf(QUANTILE, len(values) - 1) * standard_error
    return Estimate(float(values.mean()), float(margin), len(values))
