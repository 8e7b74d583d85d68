"""Loading a model as the settings of a command say."""

from typing import Any

from dreamstyler_jax.stable_diffusion.pipeline import StableDiffusion


def load_model(model: str, config: Any, **options: Any) -> StableDiffusion:
    """Loads a model.

    Args:
        model: its folder, file or hub id, or ``"mini"``.
        config: the settings of ``train``, ``sample`` or ``evaluate``, which say how to read it.
        options: other arguments of `StableDiffusion.load`.

    Raises:
        UserError: not such a model, or one of its files is missing or damaged.
    """
    return StableDiffusion.load(
        model,
        variant=config.variant,
        revision=config.revision,
        vae=config.vae,
        prediction_type=config.prediction_type,
        allow_pickle=config.allow_pickle,
        **options,
    )
