"""How much the words of a prompt influence the picture: ``dreamstyler words``.

The denoising loss of the painters' own pictures under a prompt with one wrong word, minus the loss under the right
prompt with the same noise. It shows progress in pretraining long before the pictures do, and at which timesteps a word
acts: where the painter's word has no influence, a stage of a style has nothing to learn.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from dreamstyler_jax.encoding import encode
from dreamstyler_jax.mini.world import captions, data, scenes
from dreamstyler_jax.runtime import images
from dreamstyler_jax.runtime.parsing import MAX_SEED
from dreamstyler_jax.runtime.settings import check_values, option
from dreamstyler_jax.stable_diffusion import schedule
from dreamstyler_jax.stable_diffusion.conditioning import Conditioning
from dreamstyler_jax.stable_diffusion.networks import Networks
from dreamstyler_jax.stable_diffusion.pipeline import StableDiffusion

RIGHT = "none"  # the name of the prompt without a wrong word
COUNTS = {  # the number of words for each attribute, in the order of the labels
    **{attribute: len(words) for attribute, words in scenes.ATTRIBUTES.items()},
    "painter": captions.PAINTERS,
}
TIMESTEPS = (50, 150, 250, 350, 450, 550, 650, 750, 850, 950)


@dataclasses.dataclass(frozen=True)
class WordsConfig:
    """Measure how much each word of a prompt counts."""

    model: str = option("mini", "mini, or the folder of an embedded model.")
    pictures: int = option(64, "Number of pictures.", low=1, high=10_000)
    seed: int = option(1, "Seed of the scenes and of the noise.", low=0, high=MAX_SEED)

    def __post_init__(self):
        check_values(self)


def run(config: WordsConfig) -> None:
    """Prints the influence of each word."""
    model = StableDiffusion.load(config.model)
    pictures = data.unseen(config.pictures, config.seed)
    table = influence(model, pictures, config.seed)
    print(f"{'wrong':10}{'mean':>8}" + "".join(f"{f't={t}':>8}" for t in TIMESTEPS) + f"   (x 1e-4, {RIGHT}: x 1)")
    for name, values in table.items():
        scale, form = (1, "8.3f") if name == RIGHT else (1e4, "8.0f")
        print(f"{name:10}{values.mean() * scale:{form}}" + "".join(f"{value * scale:{form}}" for value in values))


def influence(model: StableDiffusion, pictures: data.Pictures, seed: int) -> dict[str, np.ndarray]:
    """How much each wrong word adds to the loss.

    Args:
        model: an embedded model.
        pictures: the pictures to denoise.
        seed: of the wrong words and of the noise.

    Returns:
        For each of COUNTS, and the loss itself under RIGHT: float64[len(TIMESTEPS)], means over the pictures.
    """
    rng = np.random.default_rng(seed)
    texts = {RIGHT: [prompt_of(label) for label in pictures.labels]}
    for attribute, name in enumerate(COUNTS):
        texts[name] = [prompt_of(with_wrong_word(label, attribute, rng)) for label in pictures.labels]
    mean, _ = jax.jit(model.networks.encode_images)(model.params, images.to_unit(pictures.pixels))
    keys = jax.random.split(jax.random.key(seed), len(TIMESTEPS))
    table = {}
    for name, prompts in texts.items():
        conditioning = encode(model, prompts, {}).at(0)
        losses = [
            denoising_losses(model.networks, model.params, mean, conditioning, timestep, key).mean()
            for timestep, key in zip(TIMESTEPS, keys, strict=True)
        ]
        table[name] = np.array(losses, np.float64)
    return {name: losses if name == RIGHT else losses - table[RIGHT] for name, losses in table.items()}


def prompt_of(label: np.ndarray) -> str:
    """The prompt that names all attributes of a picture and its painter; the label is int[9]."""
    return f"a painting of {captions.describe(*label[:4])} in the style of {captions.PAINTER_NAMES[label[4]]}"


def with_wrong_word(label: np.ndarray, attribute: int, rng: np.random.Generator) -> np.ndarray:
    """The label int[9] with another value of one attribute."""
    count = list(COUNTS.values())[attribute]
    wrong = label.copy()
    wrong[attribute] = (label[attribute] + rng.integers(1, count)) % count
    return wrong


@functools.partial(jax.jit, static_argnames="networks")
def denoising_losses(
    networks: Networks, params: Any, latents: Array, conditioning: Conditioning, timestep: Array | int, key: Array
) -> Array:
    """The denoising loss float32[B] of latents [B, h, w, c] at one timestep, under the conditioning of one stage."""
    noise = jax.random.normal(key, latents.shape)
    timesteps = jnp.full(latents.shape[0], timestep)
    noisy = schedule.add_noise(networks.schedule, latents, noise, timesteps)
    prediction = networks.denoise(params, noisy, timesteps, conditioning)
    target = schedule.target(networks.schedule, latents, noise, timesteps)
    return ((prediction - target) ** 2).mean((1, 2, 3))
