"""How right the embedded model's captions are: ``dreamstyler captions``.

The judge and the model's own CLIP describe pictures that neither was trained on, by trained painters and by held-out
ones. What the pictures show is known, attribute by attribute.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np

from dreamstyler_jax.captioning.caption import CLIP, JUDGE
from dreamstyler_jax.mini.captioner import EmbeddedCaptioner
from dreamstyler_jax.mini.world import captions, data, scenes
from dreamstyler_jax.runtime import images
from dreamstyler_jax.runtime.parsing import MAX_SEED
from dreamstyler_jax.runtime.settings import check_values, option
from dreamstyler_jax.stable_diffusion.pipeline import model_folder

BY = {JUDGE: "the judge", CLIP: "CLIP"}
PAINTERS = {
    "trained": range(captions.PAINTERS),
    "held-out": range(captions.PAINTERS, captions.PAINTERS + captions.HELD_OUT),
}


@dataclasses.dataclass(frozen=True)
class CaptionsConfig:
    """Measure how right the embedded model's captions are."""

    model: str = option("mini", "mini, or the folder of an embedded model with its CLIP and its judge.")
    pictures: int = option(400, "Number of pictures by each of both groups of painters.", low=1, high=100_000)
    seed: int = option(1, "Seed of the scenes.", low=0, high=MAX_SEED)

    def __post_init__(self):
        check_values(self)


def run(config: CaptionsConfig) -> None:
    """Prints a table of what is right, and how many of the mistakes are announced."""
    captioner = EmbeddedCaptioner.load(model_folder(config.model))
    columns, notes = {}, []
    for group, painters in PAINTERS.items():
        pictures = data.unseen(config.pictures, config.seed, painters)
        shown = pictures.labels[:, : len(scenes.ATTRIBUTES)]
        answers = captioner.answers(images.to_unit(pictures.pixels))
        columns |= {f"{group} painters, by {BY[by]}": shares_right(answers[by], shown) for by in BY}
        notes.append(f"{group} painters: {announced(answers, shown)}")
    print("\n".join([table(columns), "", *notes]))


def shares_right(answers: np.ndarray, shown: np.ndarray) -> dict[str, float]:
    """The shares of pictures whose captions are right, by attribute and in all of them.

    Args:
        answers: int[N, 4], what captions say.
        shown: int[N, 4], what the pictures show.
    """
    right = answers == shown
    by_attribute = dict(zip(scenes.ATTRIBUTES, right.mean(0).tolist(), strict=True))
    return {**by_attribute, "all attributes": float(right.mean()), "whole captions": float(right.all(1).mean())}


def announced(answers: Mapping[str, np.ndarray], shown: np.ndarray) -> str:
    """How many of the judge's mistakes are among the words that are called unsure, and how many are called so."""
    wrong, unsure = answers[JUDGE] != shown, answers[JUDGE] != answers[CLIP]
    return (
        f"{unsure.mean():.1%} of the words are unsure, in {unsure.any(1).mean():.1%} of the captions; of "
        f"{wrong.sum()} wrong words {(wrong & unsure).sum()} are"
    )


def table(columns: Mapping[str, Mapping[str, float]]) -> str:
    """Shares by column and row, in Markdown."""
    lines = ["| | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for row in next(iter(columns.values())):
        lines.append(f"| {row} | " + " | ".join(f"{column[row]:.1%}" for column in columns.values()) + " |")
    return "\n".join(lines)
