"""Guidance as an affine combination of predictions: sum_c w_c eps_c with sum_c w_c = 1.

The rows are, in this order, the null (or negative) prompt, the full prompt v, the context-only prompt v_c and the
style-only prompt v_s. Classifier-free guidance uses two of them; DreamStyler's style and context guidance (Ahn et al.
2024, Eq. 11) all four, collected by prompt:

    e = (1 - ln - ls - lc) e(null) + (ln + ls + lc) e(v) + (lc - ls) e(v_c) + (ls - lc) e(v_s)

so for ls = lc it is classifier-free guidance at ln + ls + lc, exactly, and its two extra rows need not be computed.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

ROWS = ("null", "full", "context", "style")


def cfg(guidance_scale: float) -> np.ndarray:
    """Weights float32[4] of classifier-free guidance (Ho & Salimans 2022, Eq. 6, its w + 1 being the scale)."""
    return np.array([1 - guidance_scale, guidance_scale, 0, 0], np.float32)


def paper(null_scale: float, style_scale: float, context_scale: float) -> np.ndarray:
    """Weights float32[4] of style and context guidance; arguments ln, ls, lc (Ahn et al. 2024, Eq. 11)."""
    ln, ls, lc = null_scale, style_scale, context_scale
    return np.array([1 - ln - ls - lc, ln + ls + lc, lc - ls, ls - lc], np.float32)


def release(null_scale: float, style_scale: float, context_scale: float) -> np.ndarray:
    """As `paper`, with ls and lc halved: what the authors' ``custom_pipelines.py`` means to compute."""
    return paper(null_scale, style_scale / 2, context_scale / 2)


def rows_needed(weights: np.ndarray, always: Sequence[int] = ()) -> list[int]:
    """The rows of weights float32[B, 4] that count for any image of the batch; the others are never computed.

    Args:
      always: rows that count in any case.
    """
    return [row for row in range(len(ROWS)) if row in always or np.any(weights[:, row])]


def by_row(function: Callable[[Array, Array, Any], Any]) -> Callable[[Array, Array, Any], Any]:
    """``(x, t, states)`` for several rows: ``states`` and the result with a leading axis [R], one vmapped batch."""
    return jax.vmap(function, in_axes=(None, None, 0))


def guided(denoise: Callable[[Array, Array, Any], Array], weights: Array) -> Callable[[Array, Array, Any], Array]:
    """The denoiser that follows several prompts at once.

    Args:
      denoise: ``(x [B, h, w, c], t int32[], states) -> [B, h, w, c]``, ``states`` text states [B, L, D], or any pytree
        of what depends on the row.
      weights: float32[R, B], one weight per row and image; the sum over rows is 1.

    Returns:
      ``(x, t, states with a leading axis [R]) -> [B, h, w, c]``; the rows are one vmapped batch of the denoiser.
    """

    def denoise_guided(x: Array, t: Array, states: Any) -> Array:
        predictions = by_row(denoise)(x, t, states)
        return jnp.einsum("rb,rb...->b...", weights, predictions, precision="highest")

    return denoise_guided


def guided_where(
    denoise: Callable[[Array, Array, Any], Array], weights: Array, full: int
) -> Callable[[Array, Array, Any, Array], Array]:
    """As `guided`, in some steps; in the others the full prompt by itself, which takes one row's time.

    Kynkäänniemi et al. 2024 ("Applying guidance in a limited interval ..."): at high noise guidance takes variety away,
    at low noise it hardly matters.

    Args:
      full: which row is the full prompt's.

    Returns:
      the function that `guided` returns, with one more argument bool[]: whether this step is guided.
    """
    everything = guided(denoise, weights)

    def denoise_where(x: Array, t: Array, states: Any, here: Array) -> Array:
        alone = jax.tree.map(lambda rows: rows[full], states)
        return lax.cond(here, lambda: everything(x, t, states), lambda: denoise(x, t, alone))

    return denoise_where


def weights_for(guidance: str, scales: Sequence[float]) -> np.ndarray:
    """Weights float32[4] by the name of the form: ``cfg`` (one scale), ``paper`` or ``release`` (ln, ls, lc)."""
    return {"cfg": cfg, "paper": paper, "release": release}[guidance](*scales)
