"""What the embedded model has learned: ``dreamstyler check``.

The model paints random scenes in the styles of trained painters. The judge and the model's own CLIP then say what they
see, attribute by attribute. They also get the painters' own pictures of these scenes, as they are and through the
autoencoder: the UNet cannot do better than those.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from dreamstyler_jax.evaluation.clip import Clip
from dreamstyler_jax.guidance import cfg
from dreamstyler_jax.mini import captioner
from dreamstyler_jax.mini.judge import LoadedJudge, among_first
from dreamstyler_jax.mini.studies.words import prompt_of
from dreamstyler_jax.mini.world import captions, data, manners
from dreamstyler_jax.painting import Request, paint_requests
from dreamstyler_jax.prompts import guidance_prompts
from dreamstyler_jax.runtime import contact_sheets, images
from dreamstyler_jax.runtime.batches import in_batches
from dreamstyler_jax.runtime.parsing import MAX_SEED
from dreamstyler_jax.runtime.progress import progress
from dreamstyler_jax.runtime.settings import check_values, option
from dreamstyler_jax.sampling import plan_steps
from dreamstyler_jax.solvers import solver_table
from dreamstyler_jax.stable_diffusion.pipeline import StableDiffusion, model_folder

BATCH_SIZE = 8
SHEET_PICTURES = 8
# What CLIP is asked about each attribute, in the order of the labels: one sentence per answer.
QUESTIONS = {
    **captioner.QUESTIONS,
    "painter": [f"a painting in the style of {name}" for name in captions.PAINTER_NAMES[: captions.PAINTERS]],
    "technique": [f"a painting in the style of {words[0]}" for words in captions.TECHNIQUE_WORDS.values()],
    "palette": [f"a painting in {palette} colours" for palette in manners.PALETTES],
    "touch": [f"a painting with {touch} strokes" for touch in manners.TOUCHES],
    "ground": [f"a painting on {ground}" for ground in manners.GROUNDS],
}


@dataclasses.dataclass(frozen=True)
class CheckConfig:
    """Measure what the embedded model understands."""

    model: str = option("mini", "mini, or the folder of an embedded model with its CLIP and its judge.")
    pictures: int = option(200, "Number of scenes to paint.", low=1, high=100_000)
    guidance_scale: float = option(3.5, "Scale of classifier-free guidance.", low=0, high=100)
    steps: int = option(25, "Solver steps.", low=1, high=1000)
    seed: int = option(1, "Seed of the scenes.", low=0, high=MAX_SEED)
    sheet: str = option(
        "", "File for a sheet of the first eight scenes: the painters' own pictures above the model's. Empty: none."
    )

    def __post_init__(self):
        check_values(self)


def run(config: CheckConfig) -> None:
    """Prints how often the judge and CLIP recognise each attribute."""
    model = StableDiffusion.load(config.model)
    folder = model_folder(config.model)
    clip, judge = Clip.load(folder / "clip"), LoadedJudge.load(folder / "judge")
    labels, truth = _truth(config)
    decoded = through_autoencoder(model, truth)
    painted = painted_by_model(model, labels, config.guidance_scale, config.steps)
    columns = [recognised_by_judge(judge, pictures, labels) for pictures in (truth, decoded, painted)]
    columns += [recognised_by_clip(clip, pictures, labels) for pictures in (truth, decoded, painted)]
    print(f"{'':16}{'judge:':8}{'':16}{'CLIP:':8}\n{'':16}" + f"{'truth':>8}{'decoded':>8}{'model':>8}" * 2)
    for name in columns[0]:
        print(f"{name:16}" + "".join(f"{column[name]:8.1%}" for column in columns))
    error = ((decoded - truth) ** 2).mean((1, 2, 3))
    print(f"autoencoder: {np.mean(10 * np.log10(4 / error)):.1f} dB")
    if config.sheet:
        first = slice(SHEET_PICTURES)
        techniques = tuple(manners.TECHNIQUES)
        texts = [f"{captions.describe(*row[:4])}, {techniques[row[5]]}" for row in labels[first]]
        images.save_png(config.sheet, draw_sheet(texts, truth[first], painted[first]))


def _truth(config: CheckConfig) -> tuple[np.ndarray, np.ndarray]:
    """Labels int[N, 9] of random scenes, and the painters' own pictures of them, float32[N, 128, 128, 3] in [-1, 1]."""
    pictures = data.unseen(config.pictures, config.seed)
    return pictures.labels, images.to_unit(pictures.pixels)


def painted_by_model(model: StableDiffusion, labels: np.ndarray, guidance_scale: float, steps: int) -> np.ndarray:
    """The model's pictures of scenes, from prompts that name all of their attributes and the painter.

    Args:
        model: an embedded model.
        labels: int[N, 9], as in `data.Pictures`.
        guidance_scale: of classifier-free guidance.
        steps: solver steps.

    Returns:
        float32[N, 128, 128, 3], about in [-1, 1].
    """
    weights = cfg(guidance_scale)
    requests = [Request(guidance_prompts(prompt_of(label)), weights, seed) for seed, label in enumerate(labels)]
    plan = plan_steps(solver_table("dpmpp_2m", model.networks.schedule, steps))
    painted = paint_requests(model, requests, {}, plan, size=model.size(None, None), batch_size=BATCH_SIZE)
    return np.stack(list(progress(painted, "painting", len(labels), unit="picture")))


def through_autoencoder(model: StableDiffusion, pictures: np.ndarray) -> np.ndarray:
    """Pictures float32[N, 128, 128, 3] in [-1, 1], encoded and decoded again."""

    @jax.jit
    def encode_and_decode(params, pixels):
        latents, _ = model.networks.encode_images(params, pixels)
        return jnp.clip(model.networks.decode_latents(params, latents), -1, 1)

    return in_batches(lambda batch: encode_and_decode(model.params, batch), pictures)


def recognised_by_clip(clip: Clip, pictures: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """For each attribute the share of pictures [N, 128, 128, 3] in [-1, 1] that CLIP describes rightly."""
    return _shares(captioner.similarities(clip, pictures, QUESTIONS), labels)


def recognised_by_judge(judge: LoadedJudge, pictures: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """For each attribute the share of pictures [N, 128, 128, 3] in [-1, 1] that the judge describes rightly."""
    return _shares(judge.verdict(pictures)._asdict(), labels)


def _shares(logits: Mapping[str, np.ndarray], labels: np.ndarray) -> dict[str, float]:
    """The shares of right answers, given logits [N, answers] in the order of the columns of labels [N, 9]."""
    columns = dict(zip(logits, labels.T, strict=True))
    shares = {name: float(among_first(logits[name], right).mean()) for name, right in columns.items()}
    return shares | {"painter, top 5": float(among_first(logits["painter"], columns["painter"], 5).mean())}


def draw_sheet(texts: Sequence[str], truth: np.ndarray, painted: np.ndarray) -> Image.Image:
    """The painters' own pictures [N, 128, 128, 3] above the model's."""
    rows = [[images.to_image(picture) for picture in row] for row in (truth, painted)]
    return contact_sheets.contact_sheet(rows, ["the painter's own", "the model's"], list(texts), tile_size=160)
