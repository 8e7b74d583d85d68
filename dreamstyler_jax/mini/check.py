"""What the embedded model has learned: ``python -m dreamstyler_jax.mini.check``.

Paints random scenes by trained painters and lets the model's CLIP name what it sees, attribute by attribute. The same
is asked about the painter's own pictures of these scenes, as they are and through the autoencoder: the UNet cannot be
expected to do better.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from PIL import Image
from tqdm import tqdm

from dreamstyler_jax import guidance, images, prompts, sampling
from dreamstyler_jax.cli import main, parse
from dreamstyler_jax.mini import captions, data, painter, scenes
from dreamstyler_jax.models.clip import CLIPModel
from dreamstyler_jax.pipeline import EMBEDDED_MODEL, StableDiffusion
from dreamstyler_jax.solvers import solver_table
from dreamstyler_jax.weights import load_model

# The question put to CLIP about each attribute: one sentence per answer.
QUESTIONS = {
    "subject": [f"a painting of a {subject}" for subject in scenes.SUBJECTS],
    "colour": [f"a painting of {captions.describe(0, colour, None, None)}" for colour in range(len(scenes.COLOURS))],
    "place": [f"a painting of a house {place}" for place in scenes.PLACES],
    "time": [f"a painting of a house {time}" for time in scenes.TIMES],
    "painter": [f"a painting in the style of {name}" for name in captions.PAINTER_NAMES[: captions.PAINTERS]],
}


@dataclasses.dataclass(frozen=True)
class CheckConfig:
    """What to check."""

    model: str = str(EMBEDDED_MODEL)
    """Folder of an embedded model, with its CLIP in ``clip``."""
    pictures: int = 200
    """How many scenes to paint."""
    guidance_scale: float = 3.5
    """Scale of classifier-free guidance."""
    steps: int = 25
    """Steps of the solver."""
    seed: int = 1
    """Seed of the scenes."""
    sheet: str = ""
    """File for a sheet of the first eight: the painter's own picture above the model's. Empty: none."""


def paint(config: CheckConfig, labels: np.ndarray) -> np.ndarray:
    """The model's pictures of the same scenes, float32[N, 64, 64, 3] in [-1, 1], from prompts that name everything."""
    model = StableDiffusion.load(config.model)
    texts = [
        f"a painting of {captions.describe(*row[:4])} in the style of {captions.PAINTER_NAMES[row[4]]}"
        for row in labels
    ]
    conditionings = prompts.encode(model, ["", *texts], {})
    weights = guidance.cfg(config.guidance_scale)
    requests = [sampling.Request((0, i + 1, 0, 0), weights, i) for i in range(len(texts))]
    table = solver_table("dpmpp_2m", model.networks.schedule, config.steps)
    painted = sampling.paint(model, table, conditionings, requests, size=model.size(None, None), batch_size=16)
    return np.stack(list(tqdm(painted, "painting", len(texts), unit="picture")))


def through_autoencoder(model: str, pictures: np.ndarray) -> np.ndarray:
    """Pictures [N, 64, 64, 3] in [-1, 1] encoded and decoded again."""
    bundle = StableDiffusion.load(model)

    @jax.jit
    def decoded(params, pixels):
        return jnp.clip(bundle.networks.decode_latents(params, bundle.networks.encode_images(params, pixels)[0]), -1, 1)

    return np.concatenate([decoded(bundle.params, pictures[i : i + 50]) for i in range(0, len(pictures), 50)])


def recognise(model: str, pictures: np.ndarray) -> dict[str, np.ndarray]:
    """CLIP's answer to each of QUESTIONS about pictures [N, 64, 64, 3] in [-1, 1]: int[N]."""
    graphdef, params = load_model(CLIPModel, Path(model) / "clip")
    tokenizer = StableDiffusion.load(model).tokenizer

    def unit(features):
        return features / jnp.linalg.norm(features, axis=-1, keepdims=True)

    def answers(params, pixels, ids):
        clip = nnx.merge(graphdef, params)
        return (unit(clip.get_image_features(pixels)) @ unit(clip.get_text_features(ids)).T).argmax(-1)

    return {name: np.asarray(jax.jit(answers)(params, pictures, tokenizer(list(q)))) for name, q in QUESTIONS.items()}


def accuracy(answers: dict[str, np.ndarray], labels: np.ndarray) -> dict[str, float]:
    """Share of right answers by attribute; a technique is right where the painter named is one of that technique.

    ``labels``: as `data.Pictures.labels`.
    """
    right = dict(zip(QUESTIONS, labels.T, strict=True))
    shares = {name: float((answers[name] == right[name]).mean()) for name in QUESTIONS}
    techniques = len(painter.TECHNIQUES)
    shares["technique"] = float((answers["painter"] % techniques == right["painter"] % techniques).mean())
    return shares


def sheet(texts: Sequence[str], own: np.ndarray, painted: np.ndarray) -> Image.Image:
    """Truth above, the model's below."""
    rows = [[images.to_image(picture) for picture in row] for row in (own, painted)]
    return images.contact_sheet(rows, ["the painter's own", "the model's"], list(texts), cell=160)


def check(config: CheckConfig) -> None:
    """Prints the table."""
    pictures = data.unseen(config.pictures, config.seed)
    own = pictures.pixels.astype(np.float32) / 127.5 - 1
    decoded = through_autoencoder(config.model, own)
    painted = paint(config, pictures.labels)
    columns = [accuracy(recognise(config.model, p), pictures.labels) for p in (own, decoded, painted)]
    print(f"{'':12}{'truth':>8}{'decoded':>9}{'model':>8}{'chance':>8}")
    chances = {name: 1 / len(question) for name, question in QUESTIONS.items()} | {
        "technique": 1 / len(painter.TECHNIQUES)
    }
    for name, chance in chances.items():
        shares = [column[name] for column in columns]
        print(f"{name:12}{shares[0]:8.1%}{shares[1]:9.1%}{shares[2]:8.1%}{chance:8.1%}")
    error = ((decoded - own) ** 2).mean((1, 2, 3))
    print(f"autoencoder: {np.mean(10 * np.log10(4 / error)):.1f} dB")
    if config.sheet:
        texts = [f"{captions.describe(*row[:4])}, {captions.technique_of(row[4])}" for row in pictures.labels[:8]]
        images.save_png(config.sheet, sheet(texts, own[:8], painted[:8]))


if __name__ == "__main__":
    main(lambda: check(parse(CheckConfig)))
