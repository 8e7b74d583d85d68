"""The settings of style inversion, for the command line and for Python alike; nothing here needs JAX."""

import dataclasses

from dreamstyler_jax.runtime.errors import UserError
from dreamstyler_jax.runtime.parsing import MAX_SEED
from dreamstyler_jax.runtime.settings import check_pair, check_values, option

BARE_PROMPTS = {"style": "A painting in the style of {}", "object": "A photo of {}"}  # for pictures without a prompt


@dataclasses.dataclass(frozen=True)
class TrainSettings:
    """How a style is learned.

    Raises:
        UserError: a value is out of range or contradicts another.
    """

    property: str = option(
        "style",
        "What to learn: the style of the pictures, or the object that they show. Prompts can combine both: "
        '"a painting of {my_cat} in the style of {starry}". Pictures of an object need no prompts.',
        choices=BARE_PROMPTS,
    )
    stages: int = option(
        6,
        "T, the number of stages: equal parts of the denoising process, each with its own vectors. Stage 0 makes the "
        "finest detail.",
        low=1,
        high=50,
    )
    layers: str = option(
        "shared",
        "shared: all cross-attention layers of the denoiser see the same vectors. each: every layer has vectors of its "
        "own in every stage, as in XTI (P+).",
        choices=("shared", "each"),
    )
    vectors: int = option(1, "Vectors per stage. Each takes the place of one token in the prompt.", low=1, high=16)
    init_word: str = option(
        "painting",
        "Word whose embedding the vectors start from; for an object, what kind of thing it is. Several words give one "
        "for each vector. A word of several tokens gives their mean.",
    )
    steps: int = option(200, "Optimiser steps.", low=1, high=1_000_000)
    batch_size: int = option(8, "Pictures per forward and backward pass.", low=1, high=1024)
    gradient_accumulation: int = option(1, "Passes whose gradients make one optimiser step.", low=1, high=1024)
    learning_rate: float = option(0.02, "Peak learning rate of AdamW.", low=1e-8, high=10)
    warmup_steps: int = option(0, "Steps over which the learning rate rises from 0.", low=0, high=1_000_000)
    schedule: str = option(
        "constant",
        "Learning rate after the warm-up: constant, or falling to 0 along a line or half a cosine.",
        choices=("constant", "linear", "cosine"),
    )
    weight_decay: float = option(0.01, "Weight decay of AdamW.", low=0, high=10)
    resolution: int | None = option(
        None, "Side in pixels of the square training pictures. null: the resolution of the model.", low=8, high=4096
    )
    framing: str = option(
        "crop",
        "How an oblong picture becomes a square: crop takes its middle, fit shows all of it with a border.",
        choices=("crop", "fit"),
    )
    original_size: list[int] = option(
        [], "SDXL: height and width in pixels of the pictures before they were scaled, if other than they are."
    )
    crop_top_left: list[int] = option(
        [], "SDXL: top and left in pixels of where the pictures were cut out. Default: they are whole."
    )
    remat: bool = option(
        False,
        "Compute the UNet's layers again in the backward pass instead of keeping what is inside them: less memory, "
        "about a third more time.",
    )
    flip: bool = option(True, "Train on the mirror image half of the time.")
    seed: int = option(0, "Seed of the noise, the timesteps and the order of the pictures.", low=0, high=MAX_SEED)

    def __post_init__(self):
        check_values(self)
        check_pair(self, "original_size", "height and width", 1)
        check_pair(self, "crop_top_left", "top and left", 0)
        if not 1 <= len(self.init_word.split()) <= self.vectors:
            raise UserError(f"init_word: give at most one word for each vector, {self.vectors}, not {self.init_word!r}")
        if self.property == "object" and self.init_word == TrainSettings.init_word:
            raise UserError("init_word: say in a word what kind of thing the object is, such as cat")
        if self.warmup_steps > self.steps:
            raise UserError(f"warmup_steps: must be at most steps, {self.steps}, not {self.warmup_steps}")
