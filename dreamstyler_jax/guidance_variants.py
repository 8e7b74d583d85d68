"""Variants of guidance: functions of the guided prediction, which need no further predictions.

With v the prediction of the full prompt, n that of the null prompt and g = sum_c w_c e_c the guided one (see
`guidance`), a variant makes another g from these. So each works with every form of guidance, through two quantities
that classifier-free guidance at scale w shares with the others:

    s = 1/2 sum_c |w_c - [c = full]|        the total scale; |w - 1|
    u = (g - v) / s                         what guidance adds, per unit of scale; v - n (n - v below w = 1)

A variant is a function and a line in `VARIANTS`; options and checks follow. Its numbers are traced, one per picture,
and each has a value that turns it off. Commands read the table before they import JAX, so the functions import it
themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from jax import Array

MAX_SCALE = 100.0
_TINY = 1e-8  # keeps quotients finite


class Scale(NamedTuple):
    """A number that guidance depends on: its name, default, one-line help and range."""

    name: str
    default: float
    help: str
    low: float = 0.0
    high: float = MAX_SCALE


class Step(NamedTuple):
    """What a variant sees of one picture in one step, besides the guided prediction.

    Attributes:
        full, null: float32[h, w, c], the predictions v and n.
        null_weight: float32[], the weight of n in the guided prediction.
        scale: float32[], the total scale s.
        x0: float32[h, w, c], the x_0-prediction of the full prompt.
        x0_factor: float32[], b in "x_0-prediction = a x + b prediction" (see `solvers`); the same for all pictures.
    """

    full: Array
    null: Array
    null_weight: Array
    scale: Array
    x0: Array
    x0_factor: Array


class Guided(NamedTuple):
    """One picture's guided prediction, as the variants change it one after the other.

    Attributes:
        prediction: float32[h, w, c].
        average: float32[h, w, c], the running average of `projected` from step to step; at first zeros.
    """

    prediction: Array
    average: Array


def zero_star(guided: Guided, step: Step, share: Array) -> Guided:
    """CFG-Zero*: in g the null prediction counts as the multiple of it that is nearest to the full one.

    This is s* n with s* = <v, n> / |n|^2 (Fan et al. 2025). Their other part, predictions of zero in the first steps,
    is for flows, whose latents it leaves as they are; here it would say that pure noise is a picture.

    Args:
        share: 0 to 1; the null prediction counts as (1 - share) n + share s* n.
    """
    nearest = (step.full * step.null).sum() / ((step.null**2).sum() + _TINY)
    change = step.null_weight * share * (nearest - 1) * step.null
    return guided._replace(prediction=guided.prediction + change)


def projected(guided: Guided, step: Step, eta: Array, norm_threshold: Array, momentum: Array) -> Guided:
    """APG, adaptive projected guidance (Sadat et al. 2024, Algorithm 1), on x_0-predictions as its authors advise.

    u is averaged over the steps, u <- u + momentum * average; its norm is limited; and its part parallel to the full
    prompt's x_0-prediction, which saturates colours, is multiplied by ``eta``.

    Args:
        eta: 1 keeps the parallel part, 0 removes it.
        norm_threshold: the largest L2 norm of u over the whole latents; 0 for no limit.
        momentum: negative ones, as the authors use, push away from the direction of the steps before.
    """
    import jax.numpy as jnp

    factor = jnp.where(step.scale > 0, step.scale, 1) / step.x0_factor
    average = (guided.prediction - step.full) / factor + momentum * guided.average
    norm = jnp.sqrt((average**2).sum())
    limited = average * jnp.where(norm_threshold > 0, jnp.minimum(1, norm_threshold / (norm + _TINY)), 1)
    parallel = (limited * step.x0).sum() / ((step.x0**2).sum() + _TINY) * step.x0
    update = limited + (eta - 1) * parallel
    return Guided(step.full + factor * update, average)


def rescaled(guided: Guided, step: Step, share: Array) -> Guided:
    """Guidance that keeps the contrast: g with the standard deviation of v (Lin et al. 2023, Eq. 15 and 16).

    Args:
        share: 0 to 1, phi; the rest is g as it was.
    """
    ratio = step.full.std() / (guided.prediction.std() + _TINY)
    return guided._replace(prediction=guided.prediction * (share * ratio + (1 - share)))


class Variant(NamedTuple):
    """A variant of guidance.

    Attributes:
        function: ``(guided, step, *numbers)`` to the changed `Guided`, of one picture.
        numbers: its numbers, in the order of the arguments; the defaults turn it off.
    """

    function: Callable[..., Guided]
    numbers: tuple[Scale, ...]


VARIANTS = (  # in the order in which they act
    Variant(
        zero_star,
        (Scale("cfg_zero_star", 0.0, "CFG-Zero*: 1 fits the negative prediction to the full one; 0 is off.", 0, 1),),
    ),
    Variant(
        projected,
        (
            Scale("apg_eta", 1.0, "APG: weight of what saturates colours; 1 is off, its authors take 0.", 0, 1),
            Scale("apg_norm_threshold", 0.0, "APG: largest norm of guidance at scale 1, such as 15; 0 is off.", 0, 1e4),
            Scale("apg_momentum", 0.0, "APG: weight of guidance in the steps before, such as -0.5; 0 is off.", -1, 1),
        ),
    ),
    Variant(
        rescaled,
        (Scale("guidance_rescale", 0.0, "How much of the contrast to undo that guidance adds; 0 is off.", 0, 1),),
    ),
)
NUMBERS = {number.name: number for variant in VARIANTS for number in variant.numbers}


def vary(guided: Guided, step: Step, numbers: Mapping[str, Array | np.ndarray]) -> Guided:
    """All variants in turn, for a batch.

    Args:
        guided: with a leading axis [B].
        step: likewise, but for ``x0_factor``.
        numbers: float32[B] for each of `NUMBERS`.
    """
    import jax

    def vary_one(guided: Guided, step: Step, numbers: Mapping[str, Array | np.ndarray]) -> Guided:
        for variant in VARIANTS:
            guided = variant.function(guided, step, *(numbers[number.name] for number in variant.numbers))
        return guided

    axes = Step(full=0, null=0, null_weight=0, scale=0, x0=0, x0_factor=None)  # type: ignore[arg-type]
    return jax.vmap(vary_one, in_axes=(0, axes, 0))(guided, step, numbers)
