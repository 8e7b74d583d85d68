"""Means with confidence intervals."""

import math

import pytest

from dreamstyler_jax.evaluation.statistics import Estimate, estimate


def test_students_interval():
    assert estimate([1, 2, 3, 4]) == pytest.approx((2.5, 2.054260, 4), abs=1e-5)  # t(0.975, 3) = 3.182446
    assert estimate([4, 4]) == (4, 0, 2)


def test_fewer_than_two_values_have_no_interval():
    one, none = estimate([7]), estimate([])
    assert (one.mean, one.count, none.count) == (7, 1, 0)
    assert math.isnan(one.margin) and math.isnan(none.mean) and math.isnan(none.margin)


def test_estimates_are_printed_with_their_margins():
    assert str(Estimate(24.117, 0.504, 3)) == "24.12 ± 0.50"
    assert (str(estimate([7])), str(estimate([]))) == ("7.00", "-")
