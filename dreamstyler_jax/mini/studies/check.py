"""What the embedded model has learned: ``python -m dreamstyler_jax.mini.studies.check``.

Paints random scenes by trained painters and lets the judge, and the model's own CLIP, name what they see, attribute by
attribute. The same is asked about the painter's own pictures of these scenes, as they are and through the autoencoder:
the UNet cannot be expected to do better.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
from tqdm import tqdm

from dreamstyler_jax import guidance, prompts, sampling
from dreamstyler_jax.commands.cli import main, parse
from dreamstyler_jax.evaluation import scores
from dreamstyler_jax.mini import judge
from dreamstyler_jax.mini.world import captions, data, scenes
from dreamstyler_jax.runtime import images
from dreamstyler_jax.runtime.compilation import set_up
from dreamstyler_jax.solvers import solver_table
from dreamstyler_jax.stable_diffusion.pipeline import EMBEDDED_MODEL, StableDiffusion

# The question put to CLIP about each attribute, in the order of the labels: one sentence per answer.
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


def asked_of_clip(clip: scores.Clip, pictures: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Share of pictures [N, 64, 64, 3] in [-1, 1] that CLIP describes rightly, by attribute."""
    features = clip.pictures(pictures)
    shares = {}
    for (name, question), right in zip(QUESTIONS.items(), labels.T, strict=True):
        similarities = features @ clip.texts(question).T
        shares[name] = float(judge.among_first(similarities, right).mean())
    return shares | {"painter, top 5": float(judge.among_first(similarities, right, 5).mean())}


def asked_of_judge(referee: judge.Referee, pictures: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """The same, asked of the judge."""
    verdict = referee.verdict(pictures)
    pairs = zip(verdict._fields, verdict, labels.T, strict=True)
    shares = {name: float(judge.among_first(logits, right).mean()) for name, logits, right in pairs}
    return shares | {"painter, top 5": float(judge.among_first(verdict.painter, labels[:, 4], 5).mean())}


def sheet(texts: Sequence[str], own: np.ndarray, painted: np.ndarray) -> Image.Image:
    """Truth above, the model's below."""
    rows = [[images.to_image(picture) for picture in row] for row in (own, painted)]
    return images.contact_sheet(rows, ["the painter's own", "the model's"], list(texts), cell=160)


def check(config: CheckConfig) -> None:
    """Prints the table."""
    pictures = data.unseen(config.pictures, config.seed)
    own = images.to_unit(pictures.pixels)
    decoded = through_autoencoder(config.model, own)
    painted = paint(config, pictures.labels)
    clip, referee = scores.Clip.load(Path(config.model) / "clip"), judge.Referee.load(Path(config.model) / "judge")
    columns = [
        ask(of, some, pictures.labels)
        for ask, of in ((asked_of_judge, referee), (asked_of_clip, clip))
        for some in (own, decoded, painted)
    ]
    print(f"{'':16}{'judge:':8}{'':16}{'CLIP:':8}\n{'':16}" + f"{'truth':>8}{'decoded':>8}{'model':>8}" * 2)
    for name in columns[0]:
        print(f"{name:16}" + "".join(f"{column[name]:8.1%}" for column in columns))
    error = ((decoded - own) ** 2).mean((1, 2, 3))
    print(f"autoencoder: {np.mean(10 * np.log10(4 / error)):.1f} dB")
    if config.sheet:
        texts = [f"{captions.describe(*row[:4])}, {captions.technique_of(row[4])}" for row in pictures.labels[:8]]
        images.save_png(config.sheet, sheet(texts, own[:8], painted[:8]))


if __name__ == "__main__":
    set_up()
    main(lambda: check(parse(CheckConfig)))
