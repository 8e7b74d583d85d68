"""Loading a model as the settings of a command say."""

from typing import Any

from dreamstyler_jax.stable_diffusion.model_files import find_model
from dreamstyler_jax.stable_diffusion.parts import part_classes
from dreamstyler_jax.stable_diffusion.pipeline import EMBEDDED_MODEL, StableDiffusion


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


def hash_of_model(model: str, **options: Any) -> str:
    """`StableDiffusion.hash` of a model without LoRAs, from its files alone.

    Args:
        model: its folder or file, or ``"mini"``.
        options: arguments of `model_files.find_model`, which say how it is read.

    Raises:
        UserError: not such a model.
    """
    files = find_model(EMBEDDED_MODEL if model == "mini" else model, **options)
    return files.hash(part_classes(files.parts))
