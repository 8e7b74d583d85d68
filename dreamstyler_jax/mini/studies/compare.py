"""What learning a style does, in one picture: ``dreamstyler compare``.

For styles that were learned from the example picture: prompts painted without a style and with each of the styles, and
the same scenes as the painter of the example paints them. Only because this project renders the painters itself can it
say so.
"""

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np
from PIL import Image

from dreamstyler_jax import api
from dreamstyler_jax.guidance import cfg_guidance
from dreamstyler_jax.mini.shipped import EXAMPLE_PICTURE
from dreamstyler_jax.mini.studies import example
from dreamstyler_jax.mini.world import captions, data, scenes
from dreamstyler_jax.runtime import contact_sheets, images
from dreamstyler_jax.runtime.settings import check_values, option
from dreamstyler_jax.stable_diffusion.pipeline import StableDiffusion
from dreamstyler_jax.style import Style, load_styles

SCENES = (  # subject, colour, place, time
    ("house", "orange", "in the snow", "by day"),
    ("cat", "blue", "in the desert", "at sunset"),
    ("mushroom", "red", "in the mountains", "by day"),
    ("car", "yellow", "in the forest", "at night"),
    ("flower", "purple", "by the sea", "by day"),
)
SEED, GUIDANCE_SCALE, STEPS = 5, 3.5, 25


@dataclasses.dataclass(frozen=True)
class CompareConfig:
    """Compare styles learned from the example picture with the painter's own pictures."""

    styles: list[str] = option(["runs/demo/boat"], "The styles: files, or folders of runs; a column each.")
    output: str = option("out/compare.png", "The picture to write.")

    def __post_init__(self):
        check_values(self)


def run(config: CompareConfig) -> None:
    """Paints the sheet: a row for each scene, a column for each style."""
    model = StableDiffusion.load("mini")
    styles = load_styles(config.styles)
    labels = scene_labels()
    contexts = [f"A painting of {captions.describe(*map(int, label))}" for label in labels]
    columns = [_paint(model, contexts, ())]
    columns += [_paint(model, [f"{context} in the style of {{}}" for context in contexts], s) for s in styles.values()]
    heads = ["no inversion", *(f"T = {style.stages}" for style in styles.values())]
    truth = list(map(images.to_image, painters_pictures(labels)))
    columns = [[images.load(EXAMPLE_PICTURE)] * len(contexts), *columns, truth]
    rows = list(zip(*columns, strict=True))
    sheet = contact_sheets.contact_sheet(rows, contexts, ["learned from", *heads, "the painter's own"], tile_size=256)
    images.save_png(config.output, sheet)
    print(config.output)


def _paint(model: StableDiffusion, texts: Sequence[str], styles: Style | tuple[()]) -> list[Image.Image]:
    """A picture of each text with the same seed."""
    guidance, count = cfg_guidance(GUIDANCE_SCALE), len(texts)
    pictures = api.paint(model, texts, styles, seeds=SEED, guidance=guidance, steps=STEPS, batch_size=count)
    return [picture.image for picture in pictures]


def scene_labels() -> np.ndarray:
    """SCENES as int[S, 4], see `scenes.ATTRIBUTES`."""
    words = scenes.ATTRIBUTES.values()
    return np.array([[known.index(word) for known, word in zip(words, row, strict=True)] for row in SCENES])


def painters_pictures(labels: np.ndarray) -> np.ndarray:
    """Scenes int[S, 4] as the example's painter paints them: float32[S, 128, 128, 3] in [-1, 1]."""
    scene = scenes.showing(jax.random.key(SEED), *labels.T)  # type: ignore[arg-type]  # NumPy's arrays do as well
    numbers = np.full(len(labels), example.PAINTER)
    return images.to_unit(data.render(jax.random.key(SEED), data.by_number(numbers), scene).pixels)
