"""The weights of the x_0-predictions in a step: what sets one solver apart from another.

Symbols and the formula that they belong to are those of `solvers`.
"""

from typing import NamedTuple

import numpy as np


class Rows(NamedTuple):
    """The quantities that the weights (k0, k1, k2) of a solver depend on, float64[N] each.

    Attributes:
        alpha, sigma: the signal and the noise rate at the timestep of each row.
        c: the factor of the latents: sigma_t / sigma_s, or less where fresh noise takes a part of sigma_t.
        gain: alpha_t - c alpha_s, the weight of the x_0-prediction in a step of first order; without fresh noise
            alpha_t (1 - e^-h).
    """

    alpha: np.ndarray
    sigma: np.ndarray
    c: np.ndarray
    gain: np.ndarray

    @property
    def h(self) -> np.ndarray:
        """Step sizes in lambda from row to row, float64[N-1]."""
        return np.diff(np.log(self.alpha / self.sigma))


def first_order(rows: Rows) -> np.ndarray:
    """Weights [N, 3] of a step of first order: DDIM's (Song et al. 2021a, Eq. 12 with eta = 0), and Euler's too.

    Karras' x / alpha and sigma / alpha, put into the Euler step (Karras et al. 2022, Algorithm 1), give the same
    formula.
    """
    return np.outer(rows.gain, [1.0, 0.0, 0.0])


def dpmpp_2m(rows: Rows) -> np.ndarray:
    """Weights [N, 3] of DPM-Solver++(2M) (Lu et al. 2022b, Algorithm 2)."""
    return first_order(rows) + _second_order(rows.gain, rows.h)


def unipc(rows: Rows) -> np.ndarray:
    """Weights [N, 3] of UniPC-2 with B_2(h) = e^h - 1 for x_0-predictions (Zhao et al. 2023, Algorithms 1 and 2)."""
    return dpmpp_2m(rows) + rows.c[:, None] * _corrector(rows.gain, rows.h)


def _second_order(gain: np.ndarray, h: np.ndarray) -> np.ndarray:
    """The term that DPM-Solver++(2M), and likewise UniP-2, adds to the first order.

    It turns ``gain D`` into ``gain [D + (D - D_1) / 2r]`` with r = h_{i-1} / h_i. The first row has no history; the
    last goes to h = inf, where the second order does not hold.

    Args:
        gain: alpha_t (1 - e^-h) of each step, [N].
        h: step sizes in lambda from row to row, [N-1].

    Returns:
        Weights of (D, D_1, D_2), [N, 3].
    """
    half_inverse_r = np.zeros_like(gain)
    half_inverse_r[1:-1] = 0.5 * h[1:] / h[:-1]
    return np.outer(gain * half_inverse_r, [1.0, -1.0, 0.0])


def _corrector(gain: np.ndarray, h: np.ndarray) -> np.ndarray:
    """UniC's correction of a row's latents before its step: ``x <- x + weights . (D, D_1, D_2)``.

    The corrector repeats the step that led to these latents, now with the new D in the formula. Predictor and corrector
    share the term in the latents of the row before, so their difference depends on x_0-predictions alone:

        UniP   x   = ... + gain [D_1 + 1/2  (D_2 - D_1) / r]                    (order 1: without the fraction)
        UniC   x^c = ... + gain [D_1 + rho_1 (D_2 - D_1) / r + rho_2 (D - D_1)]     (order 1: rho_2 = 1/2)

    with r = -h_{i-2} / h_{i-1}, and rho solving [[1, 1], [r, 1]] rho = (b_1, b_2), where
    b_1 = (phi_1(-h) - 1) / (e^-h - 1), b_2 = 2 (phi_2(-h) - 1/2) / (e^-h - 1). Arguments and result as in
    `_second_order`; the first row has nothing to correct.
    """
    weights = np.zeros((len(gain), 3))
    weights[1:2] = 0.5 * np.outer(gain[:1], [1.0, -1.0, 0.0])
    r, z = -h[:-1] / h[1:], -h[1:]
    phi_1 = np.expm1(z) / z
    b_1 = (phi_1 - 1.0) / np.expm1(z)
    b_2 = 2.0 * ((phi_1 - 1.0) / z - 0.5) / np.expm1(z)
    rho_1 = (b_1 - b_2) / (1.0 - r)
    rho_2 = b_1 - rho_1
    slope = (rho_1 - 0.5) / r
    weights[2:] = gain[1:-1, None] * np.column_stack([rho_2, -slope - rho_2, slope])
    return weights
