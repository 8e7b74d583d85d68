"""What learning a style does, in one picture: ``python -m dreamstyler_jax.mini.studies.compare``.

For styles learned from the example picture: some prompts without the style, with the style of one stage and of several,
and as the painter of the example would have painted them, which only this project's own painters allow to say.
"""

import dataclasses

import jax
import numpy as np

from dreamstyler_jax import guidance, prompts, sampling
from dreamstyler_jax.commands.cli import main, parse
from dreamstyler_jax.mini.shipped import EXAMPLE_PICTURE
from dreamstyler_jax.mini.studies import example
from dreamstyler_jax.mini.world import captions, data, scenes
from dreamstyler_jax.runtime import images
from dreamstyler_jax.runtime.compilation import set_up
from dreamstyler_jax.solvers import solver_table
from dreamstyler_jax.stable_diffusion.pipeline import StableDiffusion
from dreamstyler_jax.style import load_styles

QUESTIONS = (  # subject, colour, place, time
    ("house", "orange", "in the snow", "by day"),
    ("cat", "blue", "in the desert", "at sunset"),
    ("mushroom", "red", "in the mountains", "by day"),
    ("car", "yellow", "in the forest", "at night"),
    ("flower", "purple", "by the sea", "by day"),
)
SEED, SCALE, STEPS = 5, 3.5, 25


@dataclasses.dataclass(frozen=True)
class CompareConfig:
    """What to compare."""

    styles: list[str] = dataclasses.field(default_factory=lambda: ["runs/demo_one_stage", "runs/demo"])
    """Runs of train.py on the example picture, a column each."""
    output: str = "out/demo/compare.png"
    """The picture to write."""


def labels() -> np.ndarray:
    """QUESTIONS as int[Q, 4]."""
    names = (scenes.SUBJECTS, tuple(scenes.COLOURS), tuple(scenes.PLACES), tuple(scenes.TIMES))
    return np.array([[words.index(word) for words, word in zip(names, row, strict=True)] for row in QUESTIONS])


def truth(asked: np.ndarray) -> np.ndarray:
    """The example's painter's own pictures: float32[Q, 64, 64, 3] in [-1, 1]."""
    scene = scenes.showing(jax.random.key(SEED), *asked.T)
    painted = data.render(jax.random.key(SEED), data.all_painters(), np.full(len(asked), example.PAINTER), scene)
    return images.to_unit(painted.pixels)


def compare(config: CompareConfig) -> None:
    """Paints the sheet."""
    model = StableDiffusion.load("mini")
    styles = load_styles(config.styles)
    asked = labels()
    contexts = [f"A painting of {captions.describe(*map(int, label))}" for label in asked]
    columns = {"no inversion": contexts}
    for name, style in styles.items():
        columns[f"T = {style.stages}"] = [f"{context} in the style of {{{name}}}" for context in contexts]
    texts = ["", *(text for column in columns.values() for text in column)]
    requests = [sampling.Request((0, i, 0, 0), guidance.cfg(SCALE), SEED) for i in range(1, len(texts))]
    painted = sampling.paint(
        model,
        solver_table("dpmpp_2m", model.networks.schedule, STEPS),
        prompts.encode(model, texts, styles),
        requests,
        size=model.size(None, None),
        batch_size=len(asked),
    )
    pictures = np.stack(list(painted)).reshape(len(columns), len(asked), model.resolution, model.resolution, 3)
    of_row = np.concatenate([pictures, truth(asked)[None]]).swapaxes(0, 1)
    given = images.load(EXAMPLE_PICTURE)
    rows = [[given, *map(images.to_image, row)] for row in of_row]
    heads = ["learned from", *columns, "the painter's own"]
    images.save_png(config.output, images.contact_sheet(rows, contexts, heads, cell=192))


if __name__ == "__main__":
    set_up()
    main(lambda: compare(parse(CompareConfig)))
