"""Guidance as an affine combination of predictions: sum_c w_c eps_c with sum_c w_c = 1.

The rows are, in this order, the null (or negative) prompt, the full prompt v, the context-only prompt v_c, the
style-only prompt v_s and the weak prompt v_w. Classifier-free guidance uses the first two; DreamStyler's style and
context guidance (Ahn et al. 2024, Eq. 11) four. Collected by prompt:

    e = (1 - ln - ls - lc) e(null) + (ln + ls + lc) e(v) + (lc - ls) e(v_c) + (ls - lc) e(v_s)

For ls = lc this is exactly classifier-free guidance at ln + ls + lc, and the two extra rows need not be computed.

Every form can be joined by guidance away from a weak prompt, the full one with its styles as they were early in their
training: + k (e(v) - e(v_w)), which is autoguidance (Karras et al. 2024, with w - 1 as k) with a style in place of a
network.

A form of guidance is a function from scales to weights and a line in `FORMS`. What is no such combination is in
`guidance_variants`. Commands read the forms before they import JAX, so the functions that need JAX import it
themselves.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from dreamstyler_jax.guidance_variants import NUMBERS, Guided, Scale, Step, vary
from dreamstyler_jax.runtime.errors import UserError
from dreamstyler_jax.runtime.settings import one_of

if TYPE_CHECKING:
    from jax import Array

ROWS = ("null", "full", "context", "style", "weak")
NULL, FULL, CONTEXT, WEAK = map(ROWS.index, ("null", "full", "context", "weak"))
WEAK_SCALE = "weak_scale"
CONSTANT = "constant"
# The factor of guidance at a place in the sampling, 0 to 1; its mean is 1 (Wang et al. 2024, "Analysis of ...").
SCHEDULES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    CONSTANT: np.ones_like,
    "linear": lambda place: 2 * place,
    "cosine": lambda place: 1 - np.cos(np.pi * place),
}


def cfg(guidance_scale: float) -> np.ndarray:
    """Weights float32[5] of classifier-free guidance (Ho & Salimans 2022, Eq. 6, with w + 1 as the scale)."""
    return np.array([1 - guidance_scale, guidance_scale, 0, 0, 0], np.float32)


def paper(null_scale: float, style_scale: float, context_scale: float) -> np.ndarray:
    """Weights float32[5] of style and context guidance; the arguments are ln, ls, lc (Ahn et al. 2024, Eq. 11)."""
    ln, ls, lc = null_scale, style_scale, context_scale
    return np.array([1 - ln - ls - lc, ln + ls + lc, lc - ls, ls - lc, 0], np.float32)


def release(null_scale: float, style_scale: float, context_scale: float) -> np.ndarray:
    """Weights float32[5] of `paper` with ls and lc halved, which the authors' ``custom_pipelines.py`` computes."""
    return paper(null_scale, style_scale / 2, context_scale / 2)


class Form(NamedTuple):
    """A form of guidance.

    Attributes:
        name: its name on the command line.
        help: what it is, in a few words.
        scales: the names of its scales, in the order of the arguments of ``weights``.
        weights: the function from these scales to the weights float32[5] of `ROWS`.
    """

    name: str
    help: str
    scales: tuple[str, ...]
    weights: Callable[..., np.ndarray]


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
        Scale("guidance_scale", 3.5, "Weight of the prompt; with 1, as with 0, there is no guidance."),
        Scale("null_scale", 5.0, "Weight of the whole prompt relative to the negative prompt."),
        Scale("style_scale", 1.0, "Weight of the style."),
        Scale("context_scale", 3.0, "Weight of the rest of the prompt."),
        Scale(
            WEAK_SCALE,
            0.0,
            "Autoguidance: weight of the styles relative to what they were at --weak_checkpoint; 0 is off.",
        ),
        *NUMBERS.values(),
    )
}
OPTIONAL_SCALES = (WEAK_SCALE, *NUMBERS)  # all forms take them, and leave them out at their defaults, which do nothing


def forms_with(scale: str) -> list[str]:
    """The names of the forms that have a scale of their own; none for the optional scales, which all forms take."""
    return [form.name for form in FORMS.values() if scale in form.scales]


@dataclasses.dataclass(frozen=True)
class Guidance:
    """A form of guidance with its scales.

    Attributes:
        form: one of `FORMS`.
        scales: the value of each of its scales by name, and of those of `OPTIONAL_SCALES` that do not have their
            defaults.

    Raises:
        UserError: an unknown form, scales that are not those of the form, or a scale out of its range.
    """

    form: str
    scales: Mapping[str, float]

    def __post_init__(self) -> None:
        if self.form not in FORMS:
            raise UserError(f"guidance: must be {one_of(FORMS, self.form)}, not {self.form!r}")
        for name, value in self.scales.items():
            if name in OPTIONAL_SCALES and not SCALES[name].low <= value <= SCALES[name].high:
                raise UserError(f"{name}: must be from {SCALES[name].low:g} to {SCALES[name].high:g}, not {value:g}")
        optional = {name for name in self.scales if name in OPTIONAL_SCALES}
        if set(self.scales) - optional != set(FORMS[self.form].scales):
            given = ", ".join(self.scales) or "none"
            raise UserError(f"guidance: {self.form} takes {', '.join(FORMS[self.form].scales)}, not {given}")
        idle = {name for name in optional if self.scales[name] == SCALES[name].default}
        scales = {name: value for name, value in self.scales.items() if name not in idle}
        object.__setattr__(self, "scales", scales)

    @property
    def weights(self) -> np.ndarray:
        """The weights of `ROWS`, float32[5]."""
        form = FORMS[self.form]
        weights = form.weights(**{name: self.scales[name] for name in form.scales})
        weak_scale = self.scales.get(WEAK_SCALE, 0.0)
        weights[FULL] += weak_scale
        weights[WEAK] -= weak_scale
        return weights

    @property
    def variants(self) -> dict[str, float]:
        """All of `guidance_variants.NUMBERS`, if any of them has an effect, and else none."""
        numbers = {name: float(self.scales.get(name, number.default)) for name, number in NUMBERS.items()}
        return numbers if any(name in self.scales for name in NUMBERS) else {}


def cfg_guidance(scale: float, **optional: float) -> Guidance:
    """Classifier-free guidance; see `cfg`.

    Args:
        scale: the weight of the prompt.
        **optional: any of `OPTIONAL_SCALES`, such as ``guidance_rescale=0.7``.
    """
    return Guidance("cfg", {"guidance_scale": scale, **optional})


def in_effect(guidance: Guidance) -> Guidance:
    """The guidance that paints the same picture, with scales as they take effect.

    In diffusers scale 0 of classifier-free guidance stands for no guidance: the prompt alone, which is scale 1. (In the
    formula 0 is the negative prompt alone.) Where there is no guidance, there are no variants of it either.
    """
    if guidance.form == "cfg" and guidance.scales["guidance_scale"] == 0:
        guidance = Guidance("cfg", {**guidance.scales, "guidance_scale": 1.0})
    if has_effect(guidance):
        return guidance
    return Guidance(guidance.form, {name: guidance.scales[name] for name in FORMS[guidance.form].scales})


def has_effect(guidance: Guidance) -> bool:
    """Whether anything but the full prompt has a weight; `in_effect` says what scale 0 stands for."""
    return bool(np.delete(guidance.weights, FULL).any())


def paper_guidance(null_scale: float, style_scale: float, context_scale: float, **optional: float) -> Guidance:
    """Style and context guidance; see `paper`, and `cfg_guidance` for the optional scales."""
    return _style_and_context("paper", optional, null_scale, style_scale, context_scale)


def release_guidance(null_scale: float, style_scale: float, context_scale: float, **optional: float) -> Guidance:
    """Style and context guidance as in the authors' code; see `release`, and `cfg_guidance` for the optional scales."""
    return _style_and_context("release", optional, null_scale, style_scale, context_scale)


def _style_and_context(form: str, optional: Mapping[str, float], *scales: float) -> Guidance:
    return Guidance(form, {**dict(zip(_STYLE_AND_CONTEXT, scales, strict=True)), **optional})


def schedule_factors(schedule: str, steps: int) -> np.ndarray:
    """The factors float32[steps] that multiply what guidance adds to the full prompt's prediction in each step.

    A schedule of `SCHEDULES` is taken at the middle of each step, so that the mean is exactly 1.

    Raises:
        UserError: an unknown schedule.
    """
    if schedule not in SCHEDULES:
        raise UserError(f"guidance_schedule: must be {one_of(SCHEDULES, schedule)}, not {schedule!r}")
    return SCHEDULES[schedule]((np.arange(steps) + 0.5) / steps).astype(np.float32)


def rows_needed(weights: np.ndarray, always: Sequence[int] = ()) -> list[int]:
    """The rows with a non-zero weight for any image of a batch; the others are not computed.

    Args:
        weights: float32[B, 5].
        always: rows to include even if their weights are zero.
    """
    return [row for row in range(len(ROWS)) if row in always or np.any(weights[:, row])]


def by_row(function: Callable[[Array, Array, Any], Any]) -> Callable[[Array, Array, Any], Any]:
    """``(x, t, states)`` for several rows: ``states`` and the result have a leading axis [R], one vmapped batch."""
    import jax

    return jax.vmap(function, in_axes=(None, None, 0))


class StepInputs(NamedTuple):
    """What a step is guided by; None where the program has no such choice.

    Attributes:
        coefficients: float32[6], the solver's.
        guided: bool[], whether this step is guided. The others use the full prompt alone, in the time of one row
            (Kynkäänniemi et al. 2024, "Applying guidance in a limited interval ..."): at high noise guidance reduces
            variety, at low noise it hardly matters.
        factor: float32[], see `schedule_factors`.
    """

    coefficients: Array
    guided: Array | None = None
    factor: Array | None = None


def guided(
    denoise: Callable[[Array, Array, Any], Array],
    weights: Array | np.ndarray,
    full: int,
    variants: Mapping[str, Array | np.ndarray] | None = None,
) -> Callable[[Array, Array, Any, StepInputs, Array | None], tuple[Array, Array | None]]:
    """The denoiser that follows several prompts at once.

    Args:
        denoise: ``(x [B, h, w, c], t int32[], states) -> [B, h, w, c]``. ``states`` are text states [B, L, D], or any
            pytree of values that depend on the row.
        weights: float32[R, B], one weight per row and image; the sum over rows is 1.
        full: the row of the full prompt, where a step, a schedule or a variant needs it.
        variants: float32[B] for each of `guidance_variants.NUMBERS`; row 0 is then the null prompt's. None for none.

    Returns:
        ``(x, t, states with a leading axis [R], inputs of the step, average) -> (prediction [B, h, w, c], average)``;
        the rows are one vmapped batch of the denoiser. The average is `guidance_variants.Guided.average`, None without
        variants.
    """
    import jax
    import jax.numpy as jnp

    def with_all_rows(
        x: Array, t: Array, states: Any, step: StepInputs, average: Array | None
    ) -> tuple[Array, Array | None]:
        predictions = by_row(denoise)(x, t, states)
        of_step = weights if step.factor is None else _scaled(weights, full, step.factor)
        prediction = jnp.einsum("rb,rb...->b...", of_step, predictions, precision="highest")
        if variants is None:
            return prediction, average
        assert average is not None
        changed = vary(Guided(prediction, average), _seen(predictions, of_step, full, x, step.coefficients), variants)
        return changed.prediction, changed.average

    def denoise_guided(
        x: Array, t: Array, states: Any, step: StepInputs, average: Array | None
    ) -> tuple[Array, Array | None]:
        if step.guided is None:
            return with_all_rows(x, t, states, step, average)
        full_states = jax.tree.map(lambda rows: rows[full], states)
        return jax.lax.cond(
            step.guided,
            lambda: with_all_rows(x, t, states, step, average),
            lambda: (denoise(x, t, full_states), average),
        )

    return denoise_guided


def _scaled(weights: Array | np.ndarray, full: int, factor: Array) -> Array:
    """The weights with ``factor`` times as much guidance; at 0 the full prompt has all the weight."""
    return (factor * weights).at[full].add(1 - factor)


def _seen(predictions: Array, weights: Array | np.ndarray, full: int, x: Array, coefficients: Array) -> Step:
    """What the variants see of predictions float32[R, B, h, w, c]."""
    import jax.numpy as jnp

    a, b, *_ = coefficients
    scale = jnp.abs(jnp.asarray(weights).at[full].add(-1)).sum(0) / 2
    return Step(predictions[full], predictions[0], weights[0], scale, a * x + b * predictions[full], b)
