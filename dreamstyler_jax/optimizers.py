"""What turns a gradient into a step: AdamW, or descent on the sphere, with a learning rate that may change."""

import functools

import optax

from dreamstyler_jax.directions import descend_on_sphere
from dreamstyler_jax.train_settings import TrainSettings, most_steps, peak_learning_rate

# Optimizers are the same objects for the same settings, since compiled programs belong to them.
_kept = functools.lru_cache(maxsize=16)
_descend_on_sphere = _kept(descend_on_sphere)


def make_optimizer(settings: TrainSettings) -> optax.GradientTransformation:
    """The optimizer that the settings describe; the same object for settings that describe the same."""
    rate = learning_rates(
        peak_learning_rate(settings),
        warmup_steps=settings.warmup_steps,
        schedule=settings.schedule,
        steps=0 if settings.schedule == "constant" else most_steps(settings),
    )
    if settings.norm == "fixed":
        return _descend_on_sphere(rate, settings.prior)
    return adamw(rate, settings.weight_decay)


@_kept
def learning_rates(peak: float, *, warmup_steps: int, schedule: str, steps: int) -> optax.Schedule:
    """The learning rate after so many steps: a linear warm-up and then a constant, linear or cosine schedule."""
    rest = steps - warmup_steps
    after = {
        "constant": optax.constant_schedule(peak),
        "linear": optax.linear_schedule(peak, 0.0, max(rest, 1)),
        "cosine": optax.cosine_decay_schedule(peak, max(rest, 1)),
    }[schedule]
    warmup = optax.linear_schedule(peak / max(warmup_steps, 1), peak, max(warmup_steps - 1, 1))
    return optax.join_schedules([warmup, after], [warmup_steps]) if warmup_steps else after


@_kept
def adamw(learning_rate: optax.Schedule, weight_decay: float) -> optax.GradientTransformation:
    """The reference's optimizer (DreamStyler's ``train.py``): AdamW, betas 0.9 and 0.999, eps 1e-8.

    Its defaults: a constant rate, no warm-up, weight decay 1e-2.
    """
    return optax.adamw(learning_rate, b1=0.9, b2=0.999, eps=1e-8, weight_decay=weight_decay)
