"""How other programs switch the stages of an exported style while they paint.

Stages are equal ranges of timesteps, and the last one, T - 1, has the most noise, so painting begins with it. Programs
that count steps meet a boundary at the same share of the steps as of the timesteps only where they space their steps
evenly over the timesteps; for Karras's noise levels the shares are others.
"""

import math

import numpy as np

from dreamstyler_jax.runtime.errors import UserError
from dreamstyler_jax.stable_diffusion.schedule import TRAIN_TIMESTEPS, NoiseSchedule

HEADER = "How to switch the stages of"  # begins every recipe
_SYNTAX = set("[]():|\\<>{}")  # what A1111's prompts give a meaning to
_KARRAS_RHO = 7.0


def recipe(name: str, stages: int) -> str:
    """What the text file beside the files of an exported style's stages says.

    Args:
        name: of the files, without ``-T0`` and suffix, by which A1111 and ComfyUI know the vectors.
        stages: T, at least 2.

    Raises:
        UserError: the name means something in the syntax of prompts.
    """
    if meant := sorted(_SYNTAX & set(name)):
        raise UserError(
            f"output: {name!r} holds {' '.join(meant)}, which prompts give a meaning to; choose another name"
        )
    rows = [
        f"    embedding:{name}-T{stage}   start {start:.3f}   end {end:.3f}"
        for stage, start, end in comfyui_ranges(stages)
    ]
    return f"""{HEADER} {name}: {stages} files, {name}-T0 to {name}-T{stages - 1}
T{stages - 1} makes the structure and comes first, T0 makes the finest detail and comes last.

AUTOMATIC1111, Forge, SD.Next: the files go into "embeddings". Write, in place of the style's name:
    {a1111_prompt(name, even_shares(stages))}
It is for schedules that space their steps evenly over the timesteps (Schedule type: Uniform, Automatic with Euler or
DDIM). With Schedule type Karras write:
    {a1111_prompt(name, karras_shares(stages))}

ComfyUI: the files go into "models/embeddings". For each stage a "CLIP Text Encode" with the whole prompt and the word
below, and behind it "ConditioningSetTimestepRange"; join all of them with "Conditioning (Combine)". These ranges are
of timesteps, so they hold for every scheduler.
{chr(10).join(rows)}

InvokeAI: the files are embeddings, <{name}-T0> and so on in the prompt. It cannot switch them within a prompt. In a
workflow, chain {stages} "Denoise" nodes, each with a prompt and "Denoising Start" and "Denoising End" as in the rows
above; only the first one gets noise. Without a workflow, use a stage from the middle.
"""


def even_shares(stages: int) -> list[float]:
    """At which shares of the steps the next stage begins, for T - 1 of the T stages, if steps are spaced evenly."""
    return [number / stages for number in range(1, stages)]


def karras_shares(stages: int) -> list[float]:
    """The same for the noise levels of Karras et al. 2022 (Eq. 5, rho = 7), with Stable Diffusion's schedule."""
    alpha_bar = NoiseSchedule().alphas_cumprod
    ends = np.sqrt((1 - alpha_bar) / alpha_bar)[[-1, 0]] ** (1 / _KARRAS_RHO)
    at = [(1 - share) * TRAIN_TIMESTEPS for share in even_shares(stages)]
    levels = np.sqrt((1 - alpha_bar) / alpha_bar)
    boundaries = np.interp(at, np.arange(TRAIN_TIMESTEPS), levels) ** (1 / _KARRAS_RHO)
    return [float(share) for share in (ends[0] - boundaries) / (ends[0] - ends[1])]


def a1111_prompt(name: str, shares: list[float]) -> str:
    """A1111's prompt editing, ``[before:after:share of the steps]``, one edit in the other.

    Shares are rounded up, since the program cuts off the decimals of their product with the number of steps.

    Args:
        name: as for `recipe`.
        shares: T - 1 rising shares, from `even_shares` or `karras_shares`.
    """
    stages = len(shares) + 1
    text = f"{name}-T{stages - 1}"
    for stage, share in zip(range(stages - 2, -1, -1), shares, strict=True):
        text = f"[{text}:{name}-T{stage}:{math.ceil(share * 10_000 - 1e-6) / 10_000:.4f}]"
    return text


def comfyui_ranges(stages: int) -> list[tuple[int, float, float]]:
    """Each stage with start and end of ComfyUI's ConditioningSetTimestepRange, the first to be used first."""
    return [(stage, 1 - (stage + 1) / stages, 1 - stage / stages) for stage in range(stages - 1, -1, -1)]
