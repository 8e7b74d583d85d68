"""Guidance as an affine combination of predictions: sum_c w_c eps_c with sum_c w_c = 1.

The rows are, in this order, the null (or negative) prompt, the full prompt v, the context-only prompt v_c and the
style-only prompt v_s. Classifier-free guidance uses two of them; DreamStyler's style and context guidance (Ahn et al.
2024, Eq. 11) all four. Collected by prompt:

    e = (1 - ln - ls - lc) e(null) + (ln + ls + lc) e(v) + (lc - ls) e(v_c) + (ls - lc) e(v_s)

For ls = lc this is exactly classifier-free guidance at ln + ls + lc, and the two extra rows need not be computed.

A form of guidance is a function from scales to weights and a line in `FORMS`. Commands read the forms before they
import JAX, so the functions that need JAX import it themselves.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from dreamstyler_jax.runtime.errors import UserError
from dreamstyler_jax.runtime.settings import one_of

if TYPE_CHECKING:
    from jax import Array

ROWS = ("null", "full", "context", "style")
MAX_SCALE = 100.0


def cfg(guidance_scale: float) -> np.ndarray:
    """Weights float32[4] of classifier-free guidance (Ho & Salimans 2022, Eq. 6, with w + 1 as the scale)."""
    return np.array([1 - guidance_scale, guidance_scale, 0, 0], np.float32)


def paper(null_scale: float, style_scale: float, context_scale: float) -> np.ndarray:
    """Weights float32[4] of style and context guidance; the arguments are ln, ls, lc (Ahn et al. 2024, Eq. 11)."""
    ln, ls, lc = null_scale, style_scale, context_scale
    return np.array([1 - ln - ls - lc, ln + ls + lc, lc - ls, ls - lc], np.float32)


def release(null_scale: float, style_scale: float, context_scale: float) -> np.ndarray:
    """Weights float32[4] of `paper` with ls and lc halved, which the authors' ``custom_pipelines.py`` computes."""
    return paper(null_scale, style_scale / 2, context_scale / 2)


class Form(NamedTuple):
    """A form of guidance.

    Attributes:
        name: its name on the command line.
        help: what it is, in a few words.
        scales: the names of its scales, in the order of the arguments of ``weights``.
        weights: the function from these scales to the weights float32[4] of `ROWS`.
    """

    name: str
    help: str
    scales: tuple[str, ...]
    weights: Callable[..., np.ndarray]


class Scale(NamedTuple):
    """A scale of one or several forms of guidance, from 0 to `MAX_SCALE`: its name, default and one-line help."""

    name: str
    default: float
    help: str


_STYLE_AND_CONTEXT = ("null_scale", "style_scale", "context_scale")
FORMS = {
    form.name: form
    for form in (
        Form("cfg", "classifier-free guidance", ("guidance_scale",), cfg),
        Form("paper", "style and context guidance, Eq. 11 of the paper", _STYLE_AND_CONTEXT, paper),
        Form("release", "paper with both scales halved, as in the authors' code", _STYLE_AND_CONTEXT, release),
    )
}
SCALES = {
    scale.name: scale
    for scale in (
        Scale("guidance_scale", 3.5, "Weight of the prompt; 1 is no guidance, the prompt alone, and so is 0."),
        Scale("null_scale", 5.0, "Weight of the whole prompt relative to the negative prompt."),
        Scale("style_scale", 1.0, "Weight of the style."),
        Scale("context_scale", 3.0, "Weight of the rest of the prompt."),
    )
}


def forms_with(scale: str) -> list[str]:
    """The names of the forms that use a scale."""
    return [form.name for form in FORMS.values() if scale in form.scales]


@dataclasses.dataclass(frozen=True)
class Guidance:
    """A form of guidance with its scales.

    Attributes:
        form: one of `FORMS`.
        scales: the value of each of its scales by name.

    Raises:
        UserError: an unknown form, or scales that are not those of the form.
    """

    form: str
    scales: Mapping[str, float]

    def __post_init__(self) -> None:
        if self.form not in FORMS:
            raise UserError(f"guidance: must be {one_of(FORMS, self.form)}, not {self.form!r}")
        if set(self.scales) != set(FORMS[self.form].scales):
            given = ", ".join(self.scales) or "none"
            raise UserError(f"guidance: {self.form} takes {', '.join(FORMS[self.form].scales)}, not {given}")

    @property
    def weights(self) -> np.ndarray:
        """The weights of `ROWS`, float32[4]."""
        return FORMS[self.form].weights(**self.scales)


def cfg_guidance(scale: float) -> Guidance:
    """Classifier-free guidance; see `cfg`."""
    return Guidance("cfg", {"guidance_scale": scale})


def without_zero(guidance: Guidance) -> Guidance:
    """Classifier-free guidance with scale 1 for scale 0, which in diffusers stands for no guidance: the prompt alone.

    In the formula 0 is the negative prompt alone.
    """
    is_zero = guidance.form == "cfg" and guidance.scales["guidance_scale"] == 0
    return cfg_guidance(1.0) if is_zero else guidance


def paper_guidance(null_scale: float, style_scale: float, context_scale: float) -> Guidance:
    """Style and context guidance; see `paper`."""
    return _style_and_context("paper", null_scale, style_scale, context_scale)


def release_guidance(null_scale: float, style_scale: float, context_scale: float) -> Guidance:
    """Style and context guidance as in the authors' code; see `release`."""
    return _style_and_context("release", null_scale, style_scale, context_scale)


def _style_and_context(form: str, *scales: float) -> Guidance:
    return Guidance(form, dict(zip(_STYLE_AND_CONTEXT, scales, strict=True)))


def rows_needed(weights: np.ndarray, always: Sequence[int] = ()) -> list[int]:
    """The rows with a non-zero weight for any image of a batch; the others are not computed.

    Args:
        weights: float32[B, 4].
        always: rows to include even if their weights are zero.
    """
    return [row for row in range(len(ROWS)) if row in always or np.any(weights[:, row])]


def by_row(function: Callable[[Array, Array, Any], Any]) -> Callable[[Array, Array, Any], Any]:
    """``(x, t, states)`` for several rows: ``states`` and the result have a leading axis [R], one vmapped batch."""
    import jax

    return jax.vmap(function, in_axes=(None, None, 0))


def guided(
    denoise: Callable[[Array, Array, Any], Array], weights: Array | np.ndarray
) -> Callable[[Array, Array, Any], Array]:
    """The denoiser that follows several prompts at once.

    Args:
        denoise: ``(x [B, h, w, c], t int32[], states) -> [B, h, w, c]``. ``states`` are text states [B, L, D], or any
            pytree of values that depend on the row.
        weights: float32[R, B], one weight per row and image; the sum over rows is 1.

    Returns:
        ``(x, t, states with a leading axis [R]) -> [B, h, w, c]``; the rows are one vmapped batch of the denoiser.
    """
    import jax.numpy as jnp

    def denoise_guided(x: Array, t: Array, states: Any) -> Array:
        predictions = by_row(denoise)(x, t, states)
        return jnp.einsum("rb,rb...->b...", weights, predictions, precision="highest")

    return denoise_guided


def guided_where(
    denoise: Callable[[Array, Array, Any], Array], weights: Array | np.ndarray, full: int
) -> Callable[[Array, Array, Any, Array], Array]:
    """`guided` in selected steps; the other steps use the full prompt alone, in the time of one row.

    Kynkäänniemi et al. 2024 ("Applying guidance in a limited interval ..."): at high noise guidance reduces variety, at
    low noise it hardly matters.

    Args:
        denoise: as for `guided`.
        weights: as for `guided`.
        full: the row of the full prompt.

    Returns:
        The function that `guided` returns, with one more argument bool[]: whether this step is guided.
    """
    import jax

    denoise_guided = guided(denoise, weights)

    def denoise_where(x: Array, t: Array, states: Any, is_guided: Array) -> Array:
        full_states = jax.tree.map(lambda rows: rows[full], states)
        return jax.lax.cond(is_guided, lambda: denoise_guided(x, t, states), lambda: denoise(x, t, full_states))

    return denoise_where
