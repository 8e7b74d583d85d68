"""What ``dreamstyler sample`` is asked to paint: styles and mixes, contents, and the axes of the grid."""

import dataclasses
import itertools
import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from dreamstyler_jax import prompts, transfer
from dreamstyler_jax.commands.config import SampleConfig
from dreamstyler_jax.commands.prompt_lists import Part
from dreamstyler_jax.encoding import check_styles, tokenize
from dreamstyler_jax.grids.axes import Axes
from dreamstyler_jax.grids.cells import Cell
from dreamstyler_jax.guidance import (
    CONTEXT,
    FORMS,
    OPTIONAL_SCALES,
    SCALES,
    Guidance,
    forms_with,
    has_effect,
    in_effect,
)
from dreamstyler_jax.guidance_variants import NUMBERS
from dreamstyler_jax.mini.shipped import EXAMPLE_STYLE
from dreamstyler_jax.mixing import mix, parse_recipe
from dreamstyler_jax.runtime.errors import UserError, listing, shortened
from dreamstyler_jax.runtime.picture_files import PNG
from dreamstyler_jax.runtime.settings import one_of
from dreamstyler_jax.solvers import steps_within
from dreamstyler_jax.stable_diffusion.loras.merging import LoraStack
from dreamstyler_jax.stable_diffusion.pipeline import StableDiffusion
from dreamstyler_jax.stable_diffusion.placeholders import Reading
from dreamstyler_jax.stable_diffusion.scheduler_config import solver_of
from dreamstyler_jax.style import FILE_NAME, Style, StyleRef, load_styles

DISTILLED_SOLVERS = {"lcm": 1.5, "tcd": 1.0}  # with the guidance scale that such models take


def with_default_style(config: SampleConfig) -> SampleConfig:
    """The settings, with the default style if none is named."""
    return dataclasses.replace(config, styles=config.styles or [os.path.relpath(newest_style())])


def with_default_controlnet(config: SampleConfig, model: StableDiffusion) -> SampleConfig:
    """The settings, with the model's own ControlNet for contents if none is named."""
    wanted = config.content and not config.controlnets and model.bundled_controlnet
    return dataclasses.replace(config, controlnets=["edges"]) if wanted else config


def newest_style() -> Path:
    """The style finished last under ``runs/``, or the shipped one."""
    finished = sorted(Path("runs").glob(f"*/{FILE_NAME}"), key=lambda path: path.stat().st_mtime)
    return finished[-1] if finished else EXAMPLE_STYLE


def load_all_styles(config: SampleConfig, parts: Sequence[Part]) -> dict[str, Style]:
    """The styles and mixes that prompts may name, by ``str(StyleRef)``.

    Raises:
        UserError: a style or a recipe cannot be read, or a prompt names no style.
    """
    recipes = [parse_recipe(text) for text in config.mixes]
    all_texts = dict.fromkeys(text for part in parts for given in part.texts.values() for text in given)
    negative_prompts = dict.fromkeys(part.config.negative_prompt for part in parts)
    refs = {StyleRef.parse(name) for text in (*all_texts, *negative_prompts) for name in prompts.names_in(text)}
    refs |= {ref for recipe in recipes for ref in recipe.refs}
    steps = list(dict.fromkeys(step for part in parts for step in _steps_of_styles(part.config)))
    styles = load_styles(config.styles, steps, refs)
    prompts.require_placeholders(list(all_texts), styles)
    mixes: dict[str, Style] = {}
    for recipe in recipes:
        for step in [0] if StyleRef.parse(recipe.text).names_step else steps:
            at_step = {
                ref.name: style for name, style in styles.items() if step and (ref := StyleRef.parse(name)).step == step
            }
            mixes[str(StyleRef(recipe.text, step))] = mix(recipe, {**styles, **at_step})
    return styles | mixes


def _steps_of_styles(config: SampleConfig) -> list[int]:
    """The training steps at which styles are needed, 0 for the final ones."""
    weak = [config.weak_checkpoint] if any(config.weak_scale) else []
    return list(dict.fromkeys([*(config.checkpoints or [0]), *weak]))


def load_contents(parts: Iterable[Part], model: StableDiffusion) -> list[transfer.Content]:
    """The pictures to repaint, each once: cropped to its part's height and width, or else in their own aspect."""
    contents: dict[str, transfer.Content] = {}
    for config in (part.config for part in parts):
        size = model.size(config.height, config.width) if config.height or config.width else None
        control_images = config.control_images or [None] * len(config.content)
        for path, control_image in zip(config.content, control_images, strict=True):
            if path not in contents:
                contents[path] = transfer.load_content(path, model.resolution, model.multiple, size, control_image)
    return list(contents.values())


def warn_of_another_clip_skip(config: SampleConfig, styles: Mapping[str, Style]) -> None:
    """Warns of styles that were learned with another number of the text encoders' layers."""
    for style in styles.values():
        learned = style.metadata.get("clip_skip", config.clip_skip)
        if learned != config.clip_skip:
            warnings.warn(
                f"the style {style.name} was learned with --clip_skip {learned}, which suits it better than "
                f"{config.clip_skip}",
                stacklevel=2,
            )


def axes_of(
    part: Part, styles: Mapping[str, Style], contents: Sequence[transfer.Content], loras: Sequence[LoraStack]
) -> Axes:
    """The axes of a part of the grid that the settings ask for.

    Raises:
        UserError: the part's style is not there, or no prompt asks for it.
    """
    config = part.config
    names = config.mixes or list(dict.fromkeys(StyleRef.parse(name).name for name in styles))
    if part.style and part.style not in names:
        raise UserError(f"prompts_file: unknown style {part.style!r}; it must be {one_of(names, part.style)}")
    for text in itertools.chain(*part.texts.values()) if part.style else ():
        if "" not in prompts.names_in(text) + prompts.names_in(config.negative_prompt):
            raise UserError(f"prompts_file: the prompt {shortened(text)!r} has no {{}} for its style, {part.style}")
    return Axes(
        prompts=part.texts,
        styles=[part.style] if part.style else names,
        checkpoints=config.checkpoints,
        loras=[stack for stack in loras if str(stack) in config.loras],
        guidance=all_guidance(config),
        solvers=config.solver,
        steps=config.steps,
        seeds=part.seeds,
        contents=[content for content in contents if content.name in part.texts],
        strengths=config.strength,
        control_scales=config.control_scale,
        weak_checkpoint=config.weak_checkpoint,
        negative_prompt=config.negative_prompt,
        guidance_span=(config.guidance_start, config.guidance_end),
        guidance_schedule=config.guidance_schedule,
        cache_interval=config.cache_interval,
        spacing=config.spacing,
        sigmas=config.sigmas,
        dtype=config.dtype,
        controlnets=config.controlnets,
        control_span=(config.control_start, config.control_end),
        guess_mode=config.guess_mode,
        format=config.format,
        quality=config.quality,
        prompt_weights=config.prompt_weights,
        long_prompts=config.long_prompts,
    )


def all_guidance(config: SampleConfig) -> list[Guidance]:
    """The form of guidance with each combination of its scales."""
    names = [*FORMS[config.guidance].scales, *OPTIONAL_SCALES]
    combinations = itertools.product(*(map(float, getattr(config, name)) for name in names))
    return [Guidance(config.guidance, dict(zip(names, values, strict=True))) for values in combinations]


def check_prompts(
    model: StableDiffusion, cells: Sequence[Cell], styles: Mapping[str, Style], rows: Iterable[int]
) -> None:
    """Refuses styles of another model, and prompts that cannot be encoded, before anything is painted.

    Args:
        model: the model.
        cells: the grid.
        styles: by ``str(StyleRef)``.
        rows: the rows of guidance that are computed.

    Raises:
        UserError: as said.
    """
    check_styles(model, styles)
    vectors = {name: style.vectors for name, style in styles.items()}
    texts: dict[Reading, dict[str, None]] = {}
    for cell in {(cell.prompt, cell.style, cell.negative_prompt): cell for cell in cells}.values():
        reading = Reading(cell.prompt_weights, cell.prompt_windows)
        texts.setdefault(reading, {}).update(dict.fromkeys(cell.texts[row] for row in rows))
    for reading, of_reading in texts.items():
        tokenize(model.tokenizers, list(of_reading), vectors, reading=reading)


def context_lines(cells: Sequence[Cell], rows: Iterable[int]) -> list[str]:
    """A line that shows the prompts without their style, where guidance computes them; warns where it has to guess.

    Args:
        cells: the pictures to paint.
        rows: the rows of guidance that are computed.
    """
    if CONTEXT not in rows:
        return []
    contexts = {
        (cell.prompt, cell.prompt_weights): prompts.context_only(cell.prompt, weighted=cell.prompt_weights)
        for cell in cells
    }
    unsure = [
        (text, context)
        for (text, weighted), context in contexts.items()
        if not prompts.calls_a_style(text, weighted=weighted)
    ]
    if unsure:
        text, context = unsure[0]
        warnings.warn(
            f"the prompt {shortened(text)!r} does not call its style one; without it, it is taken for "
            f"{shortened(context)!r}: write in the style of {{}}, if that is wrong",
            stacklevel=2,
        )
    shown = dict.fromkeys(repr(shortened(context)) for context in contexts.values())
    return [f"Without the style, for guidance: {listing(list(shown), 3)}"]


def warn_of_distillation(config: SampleConfig, model: StableDiffusion, loras: Sequence[LoraStack]) -> None:
    """Warns where a solver for few steps meets a model that was not distilled for it, or the reverse.

    Args:
        config: the settings.
        model: the model; the scheduler that its files name tells how it was distilled.
        loras: those to merge, which may have been distilled.
    """
    solvers = config.solver
    if model.networks.embeds_guidance:
        if config.negative_prompt:
            warnings.warn(f"negative_prompt has no effect on {model.name}, which is distilled as LCM", stacklevel=2)
        if set(solvers) != {"lcm"}:
            warnings.warn(
                f"{model.name} is distilled as LCM: paint with --solver lcm --steps 4 --guidance_scale 8", stacklevel=2
            )
        return
    own = solver_of(model.scheduler)[0]
    if any(stack.members for stack in loras):
        return
    if own in DISTILLED_SOLVERS and not set(solvers) <= set(DISTILLED_SOLVERS):
        warnings.warn(
            f"scheduler_config.json is of {model.scheduler}, for models distilled for few steps: paint with --solver "
            f"{own} --steps 8 --guidance_scale {DISTILLED_SOLVERS[own]}; if the model itself is not distilled, add the "
            "LoRA that is, with --loras",
            stacklevel=2,
        )
    for solver in set(solvers) & set(DISTILLED_SOLVERS) - {own}:
        warnings.warn(
            f"solver: {solver} is for distilled models, and nothing says that {model.name} is one: add a distilled "
            "LoRA with --loras, or choose another solver",
            stacklevel=2,
        )


def scheduler_line(model: StableDiffusion) -> list[str]:
    """A line that names the solver for the scheduler of the model's files, where that is not implemented."""
    nearest, same = solver_of(model.scheduler)
    if same or not model.scheduler:
        return []
    return [f"The model's {shortened(model.scheduler)} is not implemented; the nearest is --solver {nearest}"]


def warn_of_settings_without_effect(config: SampleConfig) -> None:
    """Warns of settings that only take effect together with others that are not set."""
    conditions = {
        scale: f"--guidance {' or '.join(forms_with(scale))}, not {config.guidance}"
        for scale in SCALES
        if scale not in (*FORMS[config.guidance].scales, *OPTIONAL_SCALES)
    }
    if not any(map(has_effect, map(in_effect, all_guidance(config)))):
        of_guidance = (*NUMBERS, "guidance_schedule", "negative_prompt")
        conditions |= dict.fromkeys(of_guidance, "guidance, and with these scales there is none")
    if config.format == PNG:
        conditions["quality"] = "--format jpeg or webp"
    if not any(config.weak_scale):
        conditions["weak_checkpoint"] = "--weak_scale"
    if not config.content:
        of_content = ("strength", "control_images", "control_scale", "control_start", "control_end", "guess_mode")
        conditions |= dict.fromkeys(of_content, "--content")
    elif not any(transfer.parse_net(net).kind == "image" for net in config.controlnets):
        conditions["control_images"] = "--controlnets image=FOLDER"
    defaults = SampleConfig()
    for name, condition in conditions.items():
        if getattr(config, name) != getattr(defaults, name):
            warnings.warn(f"{name} only has an effect with {condition}", stacklevel=2)
    warn_of_empty_spans(config)


def warn_of_empty_spans(config: SampleConfig) -> None:
    """Warns of parts of the sampling that are too short to hold a whole step."""
    strengths = config.strength if config.content else [1.0]
    steps = min(int(steps * strength) for steps in config.steps for strength in strengths)
    for name in ("guidance", *(["control"] if config.controlnets else [])):
        start, end = getattr(config, f"{name}_start"), getattr(config, f"{name}_end")
        if steps and not steps_within(start, end, steps).any():
            warnings.warn(
                f"{name}_start, {name}_end: no whole step of {steps} lies between {start:g} and {end:g}, so there is "
                f"no {name} at all; a step is {1 / steps:.3g} long",
                stacklevel=2,
            )


def warn_of_earlier_weights(model: StableDiffusion, styles: Mapping[str, Style]) -> None:
    """Warns of styles that were learned with the embedded model of an earlier version, which had other weights."""
    of_embedded = {name: style.metadata for name, style in styles.items() if style.metadata.get("model") == "mini"}
    earlier = [name for name, metadata in of_embedded.items() if metadata.get("model_hash") != model.hash]
    if model.name == "mini" and earlier:
        warnings.warn(
            f"{listing(earlier)}: learned with an earlier version of the embedded model, so it will not look as it "
            "should; learn it again with dreamstyler train",
            stacklevel=2,
        )
