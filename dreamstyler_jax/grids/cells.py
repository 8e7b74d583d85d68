"""The cells of a grid: axes -> cells. A cell is one picture and everything that determines it."""

import dataclasses
import functools
import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from dreamstyler_jax import __version__, prompts
from dreamstyler_jax.guidance import CONSTANT, WEAK_SCALE, Guidance, cfg_guidance, has_effect, in_effect
from dreamstyler_jax.runtime.errors import UserError
from dreamstyler_jax.solvers import AUTO_SIGMAS, AUTO_SPACING, sigmas_in_effect, solver_table
from dreamstyler_jax.stable_diffusion.loras.merging import LoraStack
from dreamstyler_jax.stable_diffusion.loras.recipes import NO_LORAS
from dreamstyler_jax.stable_diffusion.networks import Networks
from dreamstyler_jax.stable_diffusion.pipeline import StableDiffusion
from dreamstyler_jax.stable_diffusion.schedule import NORMAL_SIGMAS
from dreamstyler_jax.style import Style, StyleRef
from dreamstyler_jax.transfer import Content

# Parameters that later versions added, with what they were before: lines of older manifests lack them.
ABSENT = {
    "checkpoint": 0, "guidance_start": 0.0, "guidance_end": 1.0, "cache_interval": 1, "spacing": "auto",
    "loras": NO_LORAS, "clip_skip": 0, "sigmas": NORMAL_SIGMAS, "original_size": None, "crop_top_left": None,
    "guidance_schedule": CONSTANT, "weak_checkpoint": 0, "weak_styles": None,
}  # fmt: skip
# Those of them that count in an id only where they have another value, so that older pictures keep their ids.
_NOT_IN_OLDER_IDS = (
    "clip_skip", "sigmas", "original_size", "crop_top_left", "guidance_schedule", "weak_checkpoint", "weak_styles",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Repaint:
    """What a cell repaints, and how closely.

    Attributes:
        content, content_hash: path and hash of the picture.
        strength: in (0, 1], how much of the picture is painted again.
        controlnets: kind and model of each ControlNet, as the user gave them.
        control_scale: conditioning scale of the ControlNets.
        control_start, control_end: the part of the sampling, 0 to 1, in which they act.
        guess_mode: whether they work without the prompt.
    """

    content: str
    content_hash: str
    strength: float
    controlnets: tuple[str, ...]
    control_scale: float
    control_start: float
    control_end: float
    guess_mode: bool


@dataclasses.dataclass(frozen=True)
class Cell:
    """One picture of a grid and everything that determines it.

    Attributes:
        prompt, negative_prompt: with placeholders.
        style: the style that {} stands for; empty where the prompts have no {}.
        seed, solver, steps, height, width, dtype: as in the settings of ``sample``.
        guidance, scales: the form of guidance and its scales, as of `Guidance`.
        guidance_start, guidance_end: the part of the sampling, 0 to 1, that is guided.
        cache_interval: steps that share the UNet's deep features.
        spacing: how the solver spaces its timesteps.
        styles: name and hash of every style that the prompts name.
        checkpoint: the training step at which these styles are taken; 0 for the final styles.
        model: name of the model.
        model_hash: hash of its weights, LoRAs included.
        loras: the recipe of the LoRAs in it, see `loras.recipes`.
        clip_skip: the number of the text encoders' last layers that are left out.
        sigmas: how the solver spaces its noise levels, as `solvers.solver_table` takes it.
        original_size, crop_top_left: what SDXL is told of the size before scaling, height first, and of the crop; None
            for the picture's own size, whole.
        guidance_schedule: one of `guidance.SCHEDULES`.
        weak_checkpoint: the training step at which the weak prompt takes its styles; 0 without a weak scale.
        weak_styles: name and hash of each of these; None without a weak scale.
        repaint: None for a picture painted from the prompt alone.
    """

    prompt: str
    style: str
    negative_prompt: str
    seed: int
    guidance: str
    scales: Mapping[str, float]
    solver: str
    steps: int
    height: int
    width: int
    dtype: str
    styles: Mapping[str, str]
    model: str
    model_hash: str
    checkpoint: int = 0
    guidance_start: float = 0.0
    guidance_end: float = 1.0
    cache_interval: int = 1
    spacing: str = AUTO_SPACING
    loras: str = NO_LORAS
    clip_skip: int = 0
    sigmas: str = NORMAL_SIGMAS
    original_size: tuple[int, int] | None = None
    crop_top_left: tuple[int, int] | None = None
    guidance_schedule: str = CONSTANT
    weak_checkpoint: int = 0
    weak_styles: Mapping[str, str] | None = None
    repaint: Repaint | None = None

    def parameters(self) -> dict[str, Any]:
        """All parameters by name; those of `Repaint` only where the cell repaints a picture."""
        parameters = dataclasses.asdict(self)
        return parameters | (parameters.pop("repaint") or {})

    @functools.cached_property
    def id(self) -> str:
        """Sixteen hexadecimal digits of all parameters: safe as a file name, whatever the prompt."""
        return _id(self.parameters())

    @property
    def texts(self) -> tuple[str, str, str, str, str]:
        """The prompts of `guidance.ROWS`, with {} written as {name} or {name@checkpoint}."""
        full = prompts.name_placeholder(self.prompt, self.style, self.checkpoint)
        negative = prompts.name_placeholder(self.negative_prompt, self.style, self.checkpoint)
        weak = prompts.name_placeholder(self.prompt, self.style, self.weak_checkpoint) if self.weak_checkpoint else full
        return prompts.guidance_prompts(full, negative, weak)

    @property
    def guidance_span(self) -> tuple[float, float]:
        """The part of the sampling, from 0 to 1, that is guided."""
        return self.guidance_start, self.guidance_end

    @property
    def weights(self) -> np.ndarray:
        """The weights of the rows of guidance, float32[5]."""
        return Guidance(self.guidance, self.scales).weights

    @property
    def variants(self) -> dict[str, float]:
        """The numbers of the variants of guidance, if there are any; see `Guidance.variants`."""
        return Guidance(self.guidance, self.scales).variants

    def text(self) -> dict[str, str]:
        """The parameters as text chunks of a PNG."""
        values = {
            key: value if isinstance(value, str) else json.dumps(value) for key, value in self.parameters().items()
        }
        return {**values, "software": f"dreamstyler_jax {__version__}"}


def id_of_line(line: Mapping[str, Any]) -> str:
    """The id of the cell that a line of a manifest describes, whichever version wrote the line.

    Raises:
        KeyError: the line lacks a parameter.
    """
    fields = [field.name for field in dataclasses.fields(Cell) if field.name != "repaint"]
    if "content_hash" in line:
        fields += [field.name for field in dataclasses.fields(Repaint)]
    known = {**ABSENT, **line}
    return _id({name: known[name] for name in fields})


def _id(parameters: Mapping[str, Any]) -> str:
    left_out = [name for name in _NOT_IN_OLDER_IDS if parameters[name] == ABSENT[name]]
    parameters = {name: value for name, value in parameters.items() if name not in left_out}
    return hashlib.sha256(json.dumps(parameters, sort_keys=True).encode()).hexdigest()[:16]


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
    return cells


def _same_in_all(axes: Axes, model: StableDiffusion) -> dict[str, Any]:
    """The parameters that all cells share."""
    networks = model.networks
    return dict(
        negative_prompt=axes.negative_prompt,
        dtype=axes.dtype,
        model=model.name,
        clip_skip=networks.clip_skip,
        guidance_start=axes.guidance_span[0],
        guidance_end=axes.guidance_span[1],
        cache_interval=axes.cache_interval,
        spacing=axes.spacing,
        original_size=networks.original_size,
        crop_top_left=networks.crop_top_left if any(networks.crop_top_left) else None,
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


def definition(cells: Sequence[Cell]) -> dict[str, Any]:
    """The axes of a grid and their values, as YAML can hold them: equal for equal sets of values."""
    fields: dict[str, dict[str, Any]] = {}
    for cell in cells:
        for name, value in cell.parameters().items():
            fields.setdefault(name, {}).setdefault(json.dumps(value, sort_keys=True), value)
    distinct = {name: list(values.values()) for name, values in fields.items()}
    return {name: values[0] if len(values) == 1 else values for name, values in distinct.items()}
