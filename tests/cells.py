"""Cells of a grid, and pictures for them, for tests without a model."""

import dataclasses
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import numpy as np

from dreamstyler_jax.grids.cells import Cell
from dreamstyler_jax.stable_diffusion.schedule import NoiseSchedule

ODD_PROMPTS = [
    "A painting of a house in the style of {}",
    "../../etc/passwd {}",
    'a/b\\c:d*e?"<>| {}',
    "..",
    "NUL {}",
    "a smiling cat \N{GRINNING CAT FACE WITH SMILING EYES} {}",
    "line one\nline two {}",
    "x" * 300 + " {}",
    "lone surrogate \udcff {}",
    "",
]
CELL = Cell(
    prompt=ODD_PROMPTS[0], style="gogh", negative_prompt="", seed=0, guidance="paper",
    scales={"null_scale": 5.0, "style_scale": 1.0, "context_scale": 3.0}, solver="dpmpp_2m", steps=25, height=16,
    width=24, dtype="float32", styles={"gogh": "0123456789ab"}, model="mini", model_hash="ba9876543210",
)  # fmt: skip


MODEL: Any = SimpleNamespace(
    name="mini",
    hash="ba9876543210",
    settings="",
    loras="none",
    networks=SimpleNamespace(
        schedule=NoiseSchedule(),
        second_text_encoder=None,
        original_size=None,
        crop_top_left=(0, 0),
        embeds_guidance=False,
        clip_skip=0,
    ),
)  # all that cells need of a model


def cells_of(prompts: Iterable[str], seeds: Iterable[int]) -> list[Cell]:
    """Cells that differ in prompt and seed."""
    seeds = list(seeds)
    return [dataclasses.replace(CELL, prompt=prompt, seed=seed) for prompt in prompts for seed in seeds]


def plain_picture(number: int) -> np.ndarray:
    """float32[16, 24, 3] in [-1, 1] of one colour, a different one for each number below 10 000."""
    red, green = divmod(number, 100)
    colour = np.array([red + 50, green + 50, 100], np.float32) / 127.5 - 1
    return np.broadcast_to(colour, (16, 24, 3))
