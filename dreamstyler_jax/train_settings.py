"""The settings of style inversion, for the command line and for Python alike; nothing here needs JAX."""

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple, TypeVar

from dreamstyler_jax.runtime.errors import UserError
from dreamstyler_jax.runtime.parsing import MAX_SEED
from dreamstyler_jax.runtime.settings import check_pair, check_values, option
from dreamstyler_jax.timestep_sampling import CHOICES as TIMESTEPS

AUTO_WORD = "auto"  # of --init_word
AUTO_STEPS, MOST_STEPS, EVALUATE_EVERY = -1, 1000, 10  # of --steps auto
NORMS = ("free", "fixed")  # what training does with the norms of vectors
BARE_PROMPTS = {"style": "A painting in the style of {}", "object": "A photo of {}"}  # for pictures without a prompt


class Suited(NamedTuple):
    """What suits a model, where the settings do not say.

    Attributes:
        init_word: what a style starts from.
        steps: optimiser steps.
        learning_rates: by `NORMS`.
    """

    init_word: str
    steps: int
    learning_rates: Mapping[str, float]


EMBEDDED = Suited(AUTO_WORD, 200, {"free": 0.02, "fixed": 0.1})
# Of Stable Diffusion and SDXL. Free: Ahn et al. 2024, table 4. Fixed: Kim et al. 2026 (arXiv 2512.13672), who take 0.01
# times their batch of 4.
STABLE_DIFFUSION = Suited("painting", 500, {"free": 0.002, "fixed": 0.04})
STABLE_DIFFUSION_WIDTH = 768  # of its narrowest text encoder


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
    init_word: str | None = option(
        None,
        "Word whose embedding the vectors start from; for an object, what kind of thing it is. Several words give one "
        "for each vector. A word of several tokens gives their mean. auto: in each stage the word, of some two hundred "
        f"for kinds of pictures, with which the model denoises them best. Default: {EMBEDDED.init_word} with the "
        f"embedded model, {STABLE_DIFFUSION.init_word} with Stable Diffusion and SDXL.",
    )
    init_style: str = option(
        "",
        "Style to start from instead of a word: a style's file, of this project or of another tool, or the folder of a "
        "run. If it has another number of stages, each stage starts from the mean of that style over its timesteps.",
    )
    steps: int | None = option(
        None,
        f"Optimiser steps. auto: until the loss that evaluate_every measures has settled, and at most {MOST_STEPS}. "
        f"Default: {EMBEDDED.steps} with the embedded model, {STABLE_DIFFUSION.steps} with Stable Diffusion and SDXL.",
        low=1,
        high=1_000_000,
        words={"auto": AUTO_STEPS},
    )
    evaluate_every: int = option(
        0,
        "Steps between two measurements of the loss on samples that stay the same, which tell when to stop. 0: none, "
        f"or {EVALUATE_EVERY} with --steps auto.",
        low=0,
        high=1_000_000,
    )
    held_out: int = option(
        0,
        "How many pictures, the last ones, are measured by evaluate_every instead of learned from. 0: it measures the "
        "training pictures.",
        low=0,
        high=1000,
    )
    average: float = option(
        0.0,
        "The style is an exponential moving average of the vectors with this decay per step. 0: it is the vectors of "
        "the last step.",
        low=0,
        high=0.9999,
    )
    batch_size: int = option(
        8,
        "Pictures per forward and backward pass. Where memory is short, smaller passes make the same step.",
        low=1,
        high=1024,
    )
    gradient_accumulation: int = option(
        1,
        "Passes of batch_size pictures per optimiser step, which takes the mean of their gradients.",
        low=1,
        high=1024,
    )
    norm: str = option(
        "free",
        "Norms of the vectors: free lets AdamW change vectors as a whole; fixed keeps the mean norm of the vocabulary "
        "and learns directions only (directional textual inversion), so that the rest of a prompt keeps its weight.",
        choices=NORMS,
    )
    learning_rate: float | None = option(
        None,
        "Peak learning rate of AdamW or, with --norm fixed, the angle in radians by which a step turns a vector. "
        "Default: {free} (fixed: {fixed}) with the embedded model, ".format(**EMBEDDED.learning_rates)
        + "{free} (fixed: {fixed}) with Stable Diffusion and SDXL.".format(**STABLE_DIFFUSION.learning_rates),
        low=1e-8,
        high=10,
    )
    prior: float = option(
        0.0,
        "With --norm fixed: how strongly vectors are drawn to the direction of init_word (kappa); the authors: 1e-4.",
        low=0,
        high=10,
    )
    warmup_steps: int = option(0, "Steps over which the learning rate rises from 0.", low=0, high=1_000_000)
    schedule: str = option(
        "constant",
        "Learning rate after the warm-up: constant, or falling to 0 along a line or half a cosine.",
        choices=("constant", "linear", "cosine"),
    )
    weight_decay: float = option(0.01, "Weight decay of AdamW, so with --norm free.", low=0, high=10)
    resolution: int | None = option(
        None,
        "Side in pixels of the square training pictures. Default: what the model was trained at.",
        low=8,
        high=4096,
    )
    framing: str = option(
        "crop",
        "How a picture becomes square: crop takes its middle, fit shows all of it with a border, random takes 16 crops "
        "of several sizes, which together show all of it.",
        choices=("crop", "fit", "random"),
    )
    original_size: list[int] = option(
        [], "SDXL: height and width in pixels of the pictures before they were scaled. Default: those that they have."
    )
    crop_top_left: list[int] = option(
        [],
        "SDXL: top and left in pixels of where the pictures were cut out of larger ones. Default: 0 0, they are whole.",
    )
    remat: bool = option(
        False,
        "Compute the UNet's layers again in the backward pass instead of keeping what is inside them: less memory, "
        "about a third more time.",
    )
    timesteps: str = option(
        "uniform",
        "Which timesteps are learned from. " + "; ".join(f"{name}: {text}" for name, text in TIMESTEPS.items()) + ".",
        choices=TIMESTEPS,
    )
    flip: bool = option(
        False, "Train on the mirror image half of the time, as the paper does, which mixes both directions of strokes."
    )
    seed: int = option(0, "Seed of the noise, the timesteps and the order of the pictures.", low=0, high=MAX_SEED)

    def __post_init__(self):
        check_values(self)
        check_pair(self, "original_size", "height and width", 1)
        check_pair(self, "crop_top_left", "top and left", 0)
        if self.init_word is not None and not 1 <= len(self.init_word.split()) <= self.vectors:
            raise UserError(f"init_word: give at most one word for each vector, {self.vectors}, not {self.init_word!r}")
        if self.init_style and self.init_word not in (None, "painting"):  # which earlier runs from a style recorded
            raise UserError("init_word, init_style: give one of them, not both")
        if self.property == "object" and self.init_word in (None, AUTO_WORD) and not self.init_style:
            raise UserError("init_word: say in a word what kind of thing the object is, such as cat")
        if self.norm == "fixed" and self.weight_decay != TrainSettings.weight_decay:
            raise UserError("weight_decay: changes norms, so it needs --norm free")
        if self.norm == "free" and self.prior:
            raise UserError("prior: draws directions, so it needs --norm fixed")
        if self.steps is not None and self.warmup_steps > most_steps(self):
            raise UserError(f"warmup_steps: must be at most steps, {most_steps(self)}, not {self.warmup_steps}")
        if self.held_out and not evaluation_interval(self):
            raise UserError("held_out: nothing measures these pictures without --evaluate_every or --steps auto")
        if self.steps == AUTO_STEPS and self.schedule != "constant":
            raise UserError(f"schedule: {self.schedule} needs a number of steps, not --steps auto")


S = TypeVar("S", bound=TrainSettings)


def suited(settings: S, text_width: int) -> S:
    """The settings with values for what they leave to the model.

    Args:
        settings: how to learn.
        text_width: the width D of the model's (first) text encoder, which tells Stable Diffusion, 1.x, 2.x and SDXL,
            from small models such as the embedded one.

    Raises:
        UserError: the settings contradict these numbers.
    """
    suits = STABLE_DIFFUSION if text_width >= STABLE_DIFFUSION_WIDTH else EMBEDDED
    return dataclasses.replace(
        settings,
        init_word=suits.init_word if settings.init_word is None and not settings.init_style else settings.init_word,
        steps=suits.steps if settings.steps is None else settings.steps,
        learning_rate=suits.learning_rates[settings.norm] if settings.learning_rate is None else settings.learning_rate,
    )


def starting_word(settings: TrainSettings) -> str:
    """The starting word; if it is left to the model, and without `suited`, that of earlier versions for any model."""
    return STABLE_DIFFUSION.init_word if settings.init_word is None else settings.init_word


def peak_learning_rate(settings: TrainSettings) -> float:
    """The learning rate; if it is left to the model, and without `suited`, that of earlier versions for any model."""
    return EMBEDDED.learning_rates[settings.norm] if settings.learning_rate is None else settings.learning_rate


def most_steps(settings: TrainSettings) -> int:
    """How many steps there are at most; if left to the model, and without `suited`, as in earlier versions."""
    steps = EMBEDDED.steps if settings.steps is None else settings.steps
    return MOST_STEPS if steps == AUTO_STEPS else steps


def evaluation_interval(settings: TrainSettings) -> int:
    """How many steps lie between two evaluations; 0 if there are none."""
    return settings.evaluate_every or (EVALUATE_EVERY if settings.steps == AUTO_STEPS else 0)
