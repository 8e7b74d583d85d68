"""The public API: from a picture to a style, and from a style to pictures, in a few lines of Python.

    import dreamstyler_jax as ds

    model = ds.StableDiffusion.load("mini")
    style = ds.train_style(model, "boat.png", prompt="A painting of a boat by the sea in the style of {}")
    pictures = ds.paint(model, "A painting of a red house in the style of {}", style, seeds=range(4))
    ds.contact_sheet(pictures).save("grid.png")

Pictures may be paths, PIL images or arrays; errors that the user can fix are `UserError`.
"""

import dataclasses
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePath
from typing import Any

from PIL import Image

from dreamstyler_jax import prompts, transfer
from dreamstyler_jax.choices import ALL
from dreamstyler_jax.foreign_syntax import warn_of_foreign_syntax
from dreamstyler_jax.grids.axes import Axes, make_cells, without_choices
from dreamstyler_jax.grids.cells import Cell
from dreamstyler_jax.grids.painting import paint_cells, shape_of
from dreamstyler_jax.grids.pictures import Picture
from dreamstyler_jax.grids.sheets import draw_sheet, layout
from dreamstyler_jax.guidance import CONSTANT, Guidance, cfg_guidance
from dreamstyler_jax.runtime.contact_sheets import contact_sheet as draw_contact_sheet
from dreamstyler_jax.runtime.errors import UserError
from dreamstyler_jax.runtime.images import PictureLike, as_picture
from dreamstyler_jax.runtime.masks import as_masked_picture
from dreamstyler_jax.runtime.parsing import MAX_SEED
from dreamstyler_jax.runtime.progress import TrainingProgress
from dreamstyler_jax.runtime.progress import progress as show_progress
from dreamstyler_jax.runtime.settings import one_of
from dreamstyler_jax.solvers import AUTO_SIGMAS, AUTO_SPACING
from dreamstyler_jax.stable_diffusion.pipeline import StableDiffusion
from dreamstyler_jax.stable_diffusion.schedule import TRAIN_TIMESTEPS
from dreamstyler_jax.style import Style, StyleRef, load_styles
from dreamstyler_jax.train_settings import AUTO_STEPS, BARE_PROMPTS, TrainSettings, most_steps, suited
from dreamstyler_jax.training import begin, prepare, style_in, train

StyleLike = Style | str | os.PathLike
_CAPTION_ADVICE = "give prompt=, or text files beside the pictures, which dreamstyler caption FILE writes"
_STEPS_PER_UPDATE = 10  # of the progress bar
_MAX_SHEET_SIDE = 1 << 15


def train_style(
    model: StableDiffusion,
    images: PictureLike | Sequence[PictureLike],
    *,
    prompt: str | Sequence[str] = (),
    name: str = "",
    progress: bool = True,
    **settings: Any,
) -> Style:
    """Learns the style of one or several pictures.

    Args:
        model: the model to learn with.
        images: the training pictures: paths, PIL images or arrays. What is transparent in them is not learned, nor what
            is black in a file ``NAME.mask.png`` beside ``NAME.png``.
        prompt: what each picture shows except its style, with {} where the style stands; one for all pictures or one
            each. By default the text file next to a picture; without one "A painting in the style of {}", which a
            warning says.
        name: what prompts can call the style; by default the first picture's file name, or "style".
        progress: whether to show a progress bar.
        **settings: fields of `TrainSettings`, such as ``steps``, ``stages``, ``learning_rate`` and ``batch_size``; by
            default what suits the model.

    Raises:
        UserError: a setting is out of range, a picture cannot be read, a prompt cannot be used, or training diverged.
    """
    train_settings = suited(_settings(settings), model.networks.text_config.hidden_size)
    given = list(images) if isinstance(images, Sequence) and not isinstance(images, str) else [images]
    names = [str(item) if isinstance(item, str | os.PathLike) else f"picture {i + 1}" for i, item in enumerate(given)]
    if not names or len(set(names)) < len(names):
        raise UserError("images: give at least one picture, and none of them twice")
    pictures = dict(zip(names, map(as_masked_picture, given), strict=True))
    stem = PurePath(names[0]).stem if isinstance(given[0], str | os.PathLike) else "style"
    texts = _training_prompts(prompt, dict(zip(names, given, strict=True)), train_settings)
    lesson = prepare(model, name or stem, pictures, texts, train_settings)
    states = [begin(lesson, train_settings)]
    chunks = train(model, [lesson], train_settings, states, lambda done: done + _STEPS_PER_UPDATE)
    at_most = train_settings.steps == AUTO_STEPS
    with TrainingProgress(most_steps(train_settings), at_most=at_most, enabled=progress) as shown:
        for chunk in chunks:
            states = chunk.states
            shown.show(chunk.step, (chunk.metrics[0] or {})["loss"])
    return style_in(lesson.style, states[0])


def _settings(given: Mapping[str, Any]) -> TrainSettings:
    known = [field.name for field in dataclasses.fields(TrainSettings)]
    for name in given:
        if name not in known:
            raise UserError(f"train_style has no setting {name!r}: it must be {one_of(known, name)}")
    return TrainSettings(**given)


def _training_prompts(
    given: str | Sequence[str], pictures: Mapping[str, PictureLike], settings: TrainSettings
) -> list[str]:
    texts = [given] if isinstance(given, str) else list(given)
    if len(texts) == 1:
        return texts * len(pictures)
    if not texts:
        sidecars = {
            name: prompts.sidecar_prompt(item) if isinstance(item, str | os.PathLike) else None
            for name, item in pictures.items()
        }
        if settings.property == "style":
            prompts.warn_of_missing_captions([name for name, text in sidecars.items() if not text], _CAPTION_ADVICE)
        return [text or BARE_PROMPTS[settings.property] for text in sidecars.values()]
    if len(texts) != len(pictures):
        raise UserError(f"prompt: {len(texts)} given for {len(pictures)} pictures; give one for each, or one for all")
    return texts


# Over 60 lines, for it is a list of options with a line of documentation each.
def paint(
    model: StableDiffusion,
    prompts: str | Sequence[str],
    styles: StyleLike | Sequence[StyleLike] | Mapping[str, StyleLike] = (),
    *,
    seeds: int | Iterable[int] = range(4),
    guidance: Guidance | Sequence[Guidance] = (),
    negative_prompt: str = "",
    prompt_weights: bool = True,
    long_prompts: bool = False,
    choices: str = ALL,
    wildcards: str | os.PathLike = "",
    solver: str = "dpmpp_2m",
    steps: int = 25,
    height: int | None = None,
    width: int | None = None,
    content: PictureLike | None = None,
    strength: float = 0.8,
    nets: Sequence[transfer.Net] = (),
    control_scale: float = 0.8,
    guidance_span: tuple[float, float] = (0.0, 1.0),
    guidance_schedule: str = CONSTANT,
    weak_checkpoint: int = 0,
    cache_interval: int = 1,
    spacing: str = AUTO_SPACING,
    sigmas: str = AUTO_SIGMAS,
    batch_size: int = 8,
    progress: bool = True,
) -> list[Picture]:
    """Paints every prompt in every style with every seed and every guidance.

    Args:
        model: the model.
        prompts: what to paint: {} stands for each style in turn, {name} for one of them, {dog|cat} for each word.
        styles: styles, or paths of style files and runs; a mapping gives them names. None for plain prompts.
        seeds: of the pictures, 0 to 2**32 - 1.
        guidance: from `cfg_guidance`, `paper_guidance` or `release_guidance`, which also take the numbers of variants,
            as in ``cfg_guidance(7.5, guidance_rescale=0.7)``; several paint the same again with each. By default
            ``cfg_guidance(3.5)``.
        negative_prompt: what the pictures should not show.
        prompt_weights: whether (word:1.2), (word) and [word] in prompts weigh words; otherwise brackets are text.
        long_prompts: whether to read prompts longer than the text encoders' window in several windows, instead of
            cutting them off.
        choices: what becomes of {dog|cat}, in negative prompts, too: "all" paints every version, "random" the one that
            a picture's seed draws.
        wildcards: a folder of text files; __animal__ in a prompt stands for a line of its ``animal.txt``.
        solver: one of `solvers.SOLVERS`.
        steps: solver steps, 1 to 1000.
        height: in pixels; by default the model's resolution.
        width: likewise.
        content: a picture to repaint.
        strength: how much of the content is painted again, in (0, 1].
        nets: what the model's ControlNets are given, see `StableDiffusion.with_controlnets`.
        control_scale: conditioning scale of the ControlNets.
        guidance_span: the part of the sampling, 0 to 1, that is guided.
        guidance_schedule: one of `guidance.SCHEDULES`, how guidance changes over the sampling.
        weak_checkpoint: the training step of the weak styles, for guidance with a ``weak_scale``. Runs given by their
            paths keep them; beside a style called gogh give the one called gogh@100.
        cache_interval: steps that share the UNet's deep features.
        spacing: how the solver spaces its timesteps, ``"auto"`` or one of `schedule.SPACINGS`.
        sigmas: how it spaces its noise levels, one of `solvers.SIGMAS`.
        batch_size: pictures computed at once; it does not change them.
        progress: whether to show a progress bar.

    Returns:
        The pictures; guidance varies faster than styles and prompts, seeds fastest, or slowest where they draw prompts.

    Raises:
        UserError: a prompt, a style or a number cannot be used.
    """
    named = _named_styles(styles, weak_checkpoint)
    size = model.size(height, width)
    contents = [] if content is None else [_content(model, content, (height, width))]
    axes = Axes(
        prompts={contents[0].name if contents else "": [prompts] if isinstance(prompts, str) else prompts},
        styles=[name for name in named if not weak_checkpoint or StyleRef.parse(name).step != weak_checkpoint],
        guidance=[guidance] if isinstance(guidance, Guidance) else list(guidance) or [cfg_guidance(3.5)],
        solvers=[solver],
        steps=[steps],
        seeds=[_within("seeds", seed, 0, MAX_SEED) for seed in (seeds if isinstance(seeds, Iterable) else [seeds])],
        contents=contents,
        strengths=[strength],
        control_scales=[control_scale],
        negative_prompt=negative_prompt,
        prompt_weights=prompt_weights,
        long_prompts=long_prompts,
        weak_checkpoint=weak_checkpoint,
        guidance_span=_span(guidance_span),
        guidance_schedule=guidance_schedule,
        cache_interval=_within("cache_interval", cache_interval, 1, TRAIN_TIMESTEPS),
        spacing=spacing,
        sigmas=sigmas,
        dtype=str(model.dtype),
        controlnets=_kinds(model, nets, contents),
        guess_mode=model.networks.guess_mode,
    )
    cells = _cells(without_choices(axes, choices, wildcards), model, named, size)
    if not cells:
        raise UserError("there is nothing to paint: give a prompt, a seed, and a style if the prompt has a {}")
    encoder, shape = transfer.ContentEncoder(model, nets), shape_of(cells, _within("batch_size", batch_size, 1, 1024))
    painted = paint_cells(model, cells, named, shape, contents, encoder)
    if progress:
        painted = show_progress(painted, "painting", len(cells), unit="picture")
    in_order = {cell.id: Picture(cell, pixels) for cell, pixels in painted}
    return [in_order[cell.id] for cell in cells]


def _cells(
    parts: Iterable[Axes], model: StableDiffusion, styles: Mapping[str, Style], size: tuple[int, int]
) -> list[Cell]:
    cells = []
    for axes in parts:
        prompts.require_placeholders([text for texts in axes.prompts.values() for text in texts], styles)
        cells += make_cells(axes, model, styles, size)
    warn_of_foreign_syntax(text for cell in cells for text in (cell.prompt, cell.negative_prompt))
    return cells


def _within(name: str, value: int, low: int, high: int) -> int:
    if not low <= value <= high:
        raise UserError(f"{name}: must be from {low} to {high}, not {value}")
    return int(value)


def _span(span: tuple[float, float]) -> tuple[float, float]:
    start, end = map(float, span)
    if not 0 <= start < end <= 1:
        raise UserError(f"guidance_span: must rise from one number to another within 0 and 1, not {start:g} to {end:g}")
    return start, end


def _kinds(model: StableDiffusion, nets: Sequence[transfer.Net], contents: Sequence[transfer.Content]) -> list[str]:
    """The kinds of control maps that the model's ControlNets are given."""
    count = len(model.networks.controlnets)
    if contents and len(nets) != count:
        raise UserError(f"nets: {len(nets)} given for the {count} ControlNets of the model; give one for each")
    return [net.kind for net in nets]


def _named_styles(
    styles: StyleLike | Sequence[StyleLike] | Mapping[str, StyleLike], weak_checkpoint: int
) -> dict[str, Style]:
    if isinstance(styles, Mapping):
        return {name: dataclasses.replace(_load(style)[0], name=name) for name, style in styles.items()}
    given = [styles] if isinstance(styles, Style | str | os.PathLike) else styles
    loaded = [style for item in given for style in _load(item, weak_checkpoint)]
    named = {style.name: style for style in loaded}
    if len(named) < len(loaded):
        raise UserError("two styles have the same name: give them as a mapping {name: style}")
    return named


def _load(style: StyleLike, weak_checkpoint: int = 0) -> list[Style]:
    """The style itself, or those at a path, final and at the weak checkpoint, if there is one."""
    return [style] if isinstance(style, Style) else list(load_styles([style], sorted({0, weak_checkpoint})).values())


def _content(model: StableDiffusion, picture: PictureLike, size: tuple[int | None, int | None]) -> transfer.Content:
    name = str(picture) if isinstance(picture, str | os.PathLike) else "picture"
    asked = model.size(*size) if any(size) else None
    return transfer.make_content(as_picture(picture), name, model.resolution, model.multiple, asked)


def contact_sheet(pictures: Sequence[Picture | PictureLike], title: str = "", tile: int = 256) -> Image.Image:
    """Lays pictures out in one labelled image: prompts as rows and seeds as columns, or whatever else varies.

    Args:
        pictures: from `paint`; any other pictures are laid out in rows of at most eight, without labels.
        title: a line above; by default the names of the styles.
        tile: longest side of a picture in pixels.

    Raises:
        UserError: there is no picture.
    """
    if not pictures:
        raise UserError("a contact sheet needs at least one picture")
    painted = [picture for picture in pictures if isinstance(picture, Picture)]
    if len(painted) < len(pictures):
        plain = [item.image if isinstance(item, Picture) else as_picture(item) for item in pictures]
        rows = [plain[start : start + 8] for start in range(0, len(plain), 8)]
        return draw_contact_sheet(rows, title=title or None, tile_size=tile)
    names = ", ".join(dict.fromkeys(name for picture in painted for name in picture.cell.styles))
    image_of = {picture.cell.id: picture.image for picture in painted}
    sheets = [
        draw_sheet(sheet, lambda cell: image_of[cell.id], {}, tile)
        for sheet in layout([picture.cell for picture in painted], title or names)
    ]
    return _stacked(sheets)


def _stacked(sheets: Sequence[Image.Image]) -> Image.Image:
    """Images below one another, on white."""
    if len(sheets) == 1:
        return sheets[0]
    size = max(sheet.width for sheet in sheets), sum(sheet.height for sheet in sheets)
    if max(size) > _MAX_SHEET_SIDE:
        raise UserError(f"a sheet of {size[0]} x {size[1]} pixels is too large: give fewer pictures, or a smaller tile")
    stacked = Image.new("RGB", size, "white")
    top = 0
    for sheet in sheets:
        stacked.paste(sheet, (0, top))
        top += sheet.height
    return stacked
