"""How much hold words have on the picture: ``python -m dreamstyler_jax.mini.studies.words``.

The denoising loss of the painters' own pictures under a prompt with one wrong word, less that under the right prompt,
with the same noise. It shows progress long before pictures do, and where along the timesteps a word acts: a stage on
which the painter's word has no influence has nothing to learn from.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from dreamstyler_jax import prompts
from dreamstyler_jax.commands.cli import main, parse
from dreamstyler_jax.mini.world import captions, data, scenes
from dreamstyler_jax.runtime import images
from dreamstyler_jax.runtime.compilation import set_up
from dreamstyler_jax.stable_diffusion import schedule
from dreamstyler_jax.stable_diffusion.pipeline import EMBEDDED_MODEL, StableDiffusion

COUNTS = {
    "subject": len(scenes.SUBJECTS),
    "colour": len(scenes.COLOURS),
    "place": len(scenes.PLACES),
    "time": len(scenes.TIMES),
    "painter": captions.PAINTERS,
}
TIMESTEPS = (50, 150, 250, 350, 450, 550, 650, 750, 850, 950)


@dataclasses.dataclass(frozen=True)
class WordsConfig:
    """What to measure."""

    model: str = str(EMBEDDED_MODEL)
    """Folder of an embedded model."""
    pictures: int = 64
    """How many pictures to measure on."""
    seed: int = 1
    """Seed of the scenes and of the noise."""


def prompt(label: np.ndarray) -> str:
    """The prompt that names everything in a picture."""
    return f"a painting of {captions.describe(*label[:4])} in the style of {captions.PAINTER_NAMES[label[4]]}"


def with_wrong(label: np.ndarray, attribute: int, rng: np.random.Generator) -> np.ndarray:
    """The label with another value of one attribute."""
    count = list(COUNTS.values())[attribute]
    wrong = label.copy()
    wrong[attribute] = (label[attribute] + rng.integers(1, count)) % count
    return wrong


@functools.partial(jax.jit, static_argnames="networks")
def losses(networks, params, mean, states, timestep, key):
    """Denoising loss float32[B] at one timestep, of latents [B, h, w, c] under text states [B, L, D]."""
    noise = jax.random.normal(key, mean.shape)
    t = jnp.full(mean.shape[0], timestep)
    prediction = networks.denoise(params, schedule.add_noise(networks.schedule, mean, noise, t), t, states)
    return ((prediction - schedule.target(networks.schedule, mean, noise, t)) ** 2).mean((1, 2, 3))


def influence(model: StableDiffusion, pictures: data.Pictures, seed: int) -> dict[str, np.ndarray]:
    """For each of COUNTS, and "none" (the right prompt's own loss): float64[len(TIMESTEPS)], means over pictures."""
    rng = np.random.default_rng(seed)
    texts = {"none": [prompt(label) for label in pictures.labels]}
    for i, name in enumerate(COUNTS):
        texts[name] = [prompt(with_wrong(label, i, rng)) for label in pictures.labels]
    states = {name: prompts.encode(model, some, {})[:, 0] for name, some in texts.items()}
    mean, _ = jax.jit(model.networks.encode_images)(model.params, images.to_unit(pictures.pixels))
    measure = functools.partial(losses, model.networks, model.params, mean)
    keys = jax.random.split(jax.random.key(seed), len(TIMESTEPS))
    table = {
        name: np.array([measure(some, t, key).mean() for t, key in zip(TIMESTEPS, keys, strict=True)], np.float64)
        for name, some in states.items()
    }
    right = table["none"]
    return {name: values if name == "none" else values - right for name, values in table.items()}


def words(config: WordsConfig) -> None:
    """Prints the table."""
    pictures = data.unseen(config.pictures, config.seed)
    table = influence(StableDiffusion.load(config.model), pictures, config.seed)
    print(f"{'wrong':10}{'mean':>8}" + "".join(f"{f't={t}':>8}" for t in TIMESTEPS) + "   (x 1e-4, none: x 1)")
    for name, values in table.items():
        scale, form = (1, "8.3f") if name == "none" else (1e4, "8.0f")
        print(f"{name:10}{values.mean() * scale:{form}}" + "".join(f"{v * scale:{form}}" for v in values))


if __name__ == "__main__":
    set_up()
    main(lambda: words(parse(WordsConfig)))
