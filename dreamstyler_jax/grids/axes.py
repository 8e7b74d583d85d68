"""What a grid combines: axes -> cells, one for each combination."""

import dataclasses
import functools
import itertools
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from dreamstyler_jax import prompts
from dreamstyler_jax.choices import ALL, resolve
from dreamstyler_jax.grids.cells import Cell, Repaint
from dreamstyler_jax.guidance import CONSTANT, WEAK_SCALE, Guidance, cfg_guidance, has_effect, in_effect
from dreamstyler_jax.runtime.errors import UserError
from dreamstyler_jax.runtime.picture_files import PNG
from dreamstyler_jax.solvers import AUTO_SIGMAS, AUTO_SPACING, sigmas_in_effect, solver_table
from dreamstyler_jax.stable_diffusion.emphasis import has_weights
from dreamstyler_jax.stable_diffusion.loras.merging import LoraStack
from dreamstyler_jax.stable_diffusion.networks import Networks
from dreamstyler_jax.stable_diffusion.pipeline import StableDiffusion
from dreamstyler_jax.stable_diffusion.placeholders import count_windows
from dreamstyler_jax.style import Style, StyleRef
from dreamstyler_jax.transfer import Content

MAX_WINDOWS = 16


@dataclasses.dataclass(frozen=True)
class Axes:
    """What a grid varies, and the settings that all of its cells share.

    Attributes:
        prompts: for each content by name its prompts without alternatives; under "" the prompts without content.
        styles: the names that {} stands for in turn: of styles or of mixes.
        checkpoints: training steps at which styles are taken; empty for the final styles.
        loras: to merge into the model in turn; empty for the model as it is.
        guidance: forms of guidance with their scales.
        solvers, steps, seeds: as in the settings of ``sample``.
        contents: pictures to repaint, if any.
        strengths, control_scales: of the contents.
        weak_checkpoint: the training step of the weak prompt's styles, for the cells with a weak scale.
        negative_prompt, guidance_span, guidance_schedule, cache_interval, spacing, sigmas, dtype: shared by all cells.
        controlnets, control_span, guess_mode: shared by all cells with content.
        format, quality: of all pictures' files, see `picture_files`.
        prompt_weights: whether brackets in prompts are weights, see `emphasis`.
        long_prompts: whether prompts that are longer than the text encoders' window take several of them.
    """

    prompts: Mapping[str, Sequence[str]]
    styles: Sequence[str]
    checkpoints: Sequence[int] = ()
    loras: Sequence[LoraStack] = ()
    guidance: Sequence[Guidance] = (cfg_guidance(3.5),)
    solvers: Sequence[str] = ("dpmpp_2m",)
    steps: Sequence[int] = (25,)
    seeds: Sequence[int] = (0,)
    contents: Sequence[Content] = ()
    strengths: Sequence[float] = (0.8,)
    control_scales: Sequence[float] = (0.8,)
    weak_checkpoint: int = 0
    negative_prompt: str = ""
    guidance_span: tuple[float, float] = (0.0, 1.0)
    guidance_schedule: str = CONSTANT
    cache_interval: int = 1
    spacing: str = AUTO_SPACING
    sigmas: str = AUTO_SIGMAS
    dtype: str = "float32"
    controlnets: Sequence[str] = ()
    control_span: tuple[float, float] = (0.0, 1.0)
    guess_mode: bool = False
    format: str = PNG
    quality: int | None = None
    prompt_weights: bool = True
    long_prompts: bool = False


def without_choices(axes: Axes, mode: str = ALL, wildcards: str | os.PathLike = "") -> list[Axes]:
    """The axes with prompts without choices; those of each seed, where seeds draw them. Arguments as of `resolve`."""
    return [
        dataclasses.replace(axes, **resolved._asdict())
        for resolved in resolve(axes.prompts, axes.negative_prompt, axes.seeds, mode, wildcards)
    ]


def make_cells(axes: Axes, model: StableDiffusion, styles: Mapping[str, Style], size: tuple[int, int]) -> list[Cell]:
    """The product of all axes: contents x prompts x styles x checkpoints x LoRAs x guidance x solvers x steps x seeds.

    Args:
        axes: the axes and what all cells share.
        model: the model to paint with.
        styles: all styles that prompts may name, mixes among them, by ``str(StyleRef)``.
        size: height and width in pixels of pictures without content.

    Raises:
        UserError: a solver cannot take so many steps, a strength leaves none of them, or there is no weak style.
    """
    sigmas, all_guidance = _checked_sigmas(axes, model.networks), _checked_guidance(axes, model.networks)
    weights = [(str(stack), stack.hash_on(model.hash)) for stack in axes.loras] or [(str(model.loras), model.hash)]
    wanted = [
        (repaint, cell_size, text)
        for repaint, cell_size in _repaints(axes) or [(None, size)]
        for text in axes.prompts[repaint.content if repaint else ""]
    ]
    cells, same_in_all = [], _same_in_all(axes, model)
    for repaint, (height, width), text in wanted:
        placeholders = prompts.names_in(text) + prompts.names_in(axes.negative_prompt)
        for style, checkpoint, names in _style_choices(placeholders, axes):
            refs = {name: str(StyleRef.parse(name).at(checkpoint)) for name in names}
            weak_refs = [str(StyleRef.parse(name or style).at(axes.weak_checkpoint)) for name in prompts.names_in(text)]
            shared: dict[str, Any] = dict(
                same_in_all,
                prompt=text,
                style=style,
                height=height,
                width=width,
                styles={name: styles[ref].hash for name, ref in refs.items() if ref in styles},
                checkpoint=checkpoint,
                repaint=repaint,
                prompt_weights=axes.prompt_weights and any(map(has_weights, (text, axes.negative_prompt))),
            )
            cells += [
                Cell(
                    **shared,
                    loras=loras,
                    model_hash=model_hash,
                    **_of_guidance(guidance, axes, weak_refs, styles),
                    solver=solver,
                    sigmas=sigmas[solver],
                    steps=steps,
                    seed=seed,
                )
                for (loras, model_hash), guidance, solver, steps, seed in itertools.product(
                    weights, all_guidance, axes.solvers, axes.steps, axes.seeds
                )
            ]
    return _with_windows(cells, model, styles) if axes.long_prompts else cells


def _with_windows(cells: Sequence[Cell], model: StableDiffusion, styles: Mapping[str, Style]) -> list[Cell]:
    """The cells with as many windows of tokens as the longest of their prompts takes."""
    vectors = {name: style.vectors for name, style in styles.items()}

    @functools.cache
    def count(prompt: str, weighted: bool) -> int:
        counts = (count_windows(t, prompt, vectors, weighted=weighted) for t in model.tokenizers.values())
        if (windows := max(counts)) > MAX_WINDOWS:
            raise UserError(f"the prompt {prompt[:80]!r} takes {windows} windows of tokens; give at most {MAX_WINDOWS}")
        return windows

    return [
        dataclasses.replace(cell, prompt_windows=max(count(text, cell.prompt_weights) for text in cell.texts))
        for cell in cells
    ]


def _same_in_all(axes: Axes, model: StableDiffusion) -> dict[str, Any]:
    """The parameters that all cells share."""
    networks = model.networks
    return dict(
        negative_prompt=axes.negative_prompt,
        dtype=axes.dtype,
        model=model.name,
        model_settings=model.settings,
        clip_skip=networks.clip_skip,
        guidance_start=axes.guidance_span[0],
        guidance_end=axes.guidance_span[1],
        cache_interval=axes.cache_interval,
        spacing=axes.spacing,
        original_size=networks.original_size,
        crop_top_left=networks.crop_top_left if any(networks.crop_top_left) else None,
        format=axes.format,
        quality=None if axes.format == PNG else axes.quality,
    )


def _of_guidance(
    guidance: Guidance, axes: Axes, weak_refs: Sequence[str], styles: Mapping[str, Style]
) -> dict[str, Any]:
    """The parameters of a cell that depend on its guidance; ``weak_refs`` are the styles of the weak prompt."""
    parameters: dict[str, Any] = {"guidance": guidance.form, "scales": guidance.scales}
    if has_effect(guidance):
        parameters["guidance_schedule"] = axes.guidance_schedule
    if WEAK_SCALE in guidance.scales:
        if missing := [ref for ref in weak_refs if ref not in styles]:
            raise UserError(f"weak_checkpoint: the style {missing[0]} is not among those given")
        parameters["weak_checkpoint"] = axes.weak_checkpoint
        parameters["weak_styles"] = {ref: styles[ref].hash for ref in weak_refs}
    return parameters


def _checked_guidance(axes: Axes, networks: Networks) -> list[Guidance]:
    """The distinct forms of guidance that the model can follow."""
    distinct = list({json.dumps([one.form, one.scales]): one for one in map(in_effect, axes.guidance)}.values())
    scales = {name for one in distinct for name in one.scales}
    if networks.embeds_guidance and (scales != {"guidance_scale"} or axes.guidance_schedule != CONSTANT):
        raise UserError("guidance: a model distilled as LCM takes a single scale, so it has --guidance cfg alone")
    if WEAK_SCALE in scales and not axes.weak_checkpoint:
        raise UserError("weak_scale: name the training step of the weak styles, with weak_checkpoint")
    return distinct


def _checked_sigmas(axes: Axes, networks: Networks) -> dict[str, str]:
    """How each solver spaces its noise levels; all of its numbers of steps and strengths are possible."""
    is_sdxl = networks.second_text_encoder is not None
    sigmas = {solver: sigmas_in_effect(axes.sigmas, solver, networks.schedule, is_sdxl) for solver in axes.solvers}
    for solver, steps, strength in itertools.product(
        axes.solvers, axes.steps, axes.strengths if axes.contents else [1.0]
    ):
        solver_table(solver, networks.schedule, steps, axes.spacing, strength, sigmas[solver])
    return sigmas


def _style_choices(placeholders: Sequence[str], axes: Axes) -> Iterator[tuple[str, int, list[str]]]:
    """For a prompt with these placeholders: each style for {}, each checkpoint, and the names of all styles used."""
    for style in axes.styles if "" in placeholders else [""]:
        names = list(dict.fromkeys(name or style for name in placeholders))
        depends_on_step = not all(StyleRef.parse(name).names_step for name in names)
        for checkpoint in axes.checkpoints if depends_on_step and axes.checkpoints else [0]:
            yield style, checkpoint, names


def _repaints(axes: Axes) -> list[tuple[Repaint, tuple[int, int]]]:
    """Contents x strengths x control scales, each with the height and width of its pictures."""
    scales = map(float, axes.control_scales if axes.controlnets else [0.0])
    span, guess_mode = (axes.control_span, axes.guess_mode) if axes.controlnets else ((0.0, 1.0), False)
    return [
        (
            Repaint(content.name, content.hash, strength, tuple(axes.controlnets), scale, *span, guess_mode),
            (content.frame.inner_height, content.frame.inner_width),
        )
        for content, strength, scale in itertools.product(axes.contents, map(float, axes.strengths), scales)
    ]
