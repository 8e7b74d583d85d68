"""``dreamstyler enlarge``: paints chosen pictures of a grid again, larger and with more detail.

The second pass of a picture repaints it: the picture is scaled up, noised a little and denoised (SDEdit) with its own
prompt, style, guidance, solver and seed. Scaling up the picture keeps what it shows better than scaling up its latents.
"""

import dataclasses
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from dreamstyler_jax.commands.cli import command_line, parse
from dreamstyler_jax.commands.config import SampleConfig
from dreamstyler_jax.commands.grid_jobs import Job, model_for, prepare
from dreamstyler_jax.commands.prompt_lists import Part
from dreamstyler_jax.commands.sample import paint_grid
from dreamstyler_jax.commands.sample_inputs import load_all_styles
from dreamstyler_jax.commands.selection import Chosen, SelectionOptions, choose
from dreamstyler_jax.grids.cells import UNRECORDED, Repaint
from dreamstyler_jax.guidance import SCALES
from dreamstyler_jax.runtime.buckets import path_of
from dreamstyler_jax.runtime.compilation import share_cores
from dreamstyler_jax.runtime.errors import UserError, listing
from dreamstyler_jax.runtime.files import check_output
from dreamstyler_jax.runtime.settings import option
from dreamstyler_jax.stable_diffusion.pipeline import StableDiffusion

_MULTIPLE = 8  # of which all models can paint the sides, in pixels
# Settings of a picture that another one in the same folder may have otherwise, because a grid has them as axes.
_AXES = (
    "prompts", "negative_prompt", "seeds", "checkpoints", "guidance", *SCALES, "solver", "steps", "height", "width",
    "control_scale",
)  # fmt: skip
_SETS, _LISTS = ("styles", "mixes", "loras"), ("content", "control_images")  # of which a grid has those of all pictures
# What the second pass has of its own, and what may have changed since the first.
_NEW = ("height", "width", *(field.name for field in dataclasses.fields(Repaint)))
_IN_WORDS = {
    "styles": "style", "weak_styles": "weak style", "model_hash": "model, LoRA or ControlNet",
    "model_settings": "configuration of the model",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class EnlargeConfig(SelectionOptions):
    """Paint chosen pictures of a grid again, larger and with more detail.

    The same command again paints what is missing; pictures that the folder holds already stay.
    """

    scale: float = option(2.0, "How many times as high and as wide; sides are multiples of 8 pixels.", low=1, high=8)
    strength: list[float] = option(
        [0.3],
        "How much of the enlarged picture is painted again: more adds more detail, and changes more of what it shows.",
        low=0.01,
        high=1,
    )
    styles: list[str] = option(
        [], "The styles, if they have moved: files, or folders of runs. Default: where they were for the grid."
    )
    batch_size: int = option(8, "Pictures painted at once; they do not depend on it.", low=1, high=1024)
    output: str = option("", "Folder of the pictures. Default: the grid's with -enlarged, such as out/boat-enlarged.")

    def __post_init__(self):
        super().__post_init__()
        object.__setattr__(self, "output", self.output or self.beside("enlarged"))


def run(config: EnlargeConfig) -> None:
    """Paints the chosen pictures that are missing, and leaves a grid's folder.

    Raises:
        UserError: a picture is not there, or what it was painted with is missing, has changed, or differs between them.
    """
    chosen = choose(config.grid, config.cells)
    check_output(path_of(config.output))
    parts = [second_pass(picture, config) for picture in chosen]
    settings = shared_settings([part.config for part in parts])
    share_cores(settings.model, settings.batch_size)
    try:
        styles = load_all_styles(settings, parts)
    except UserError as error:
        raise UserError(f"{error}; if the styles are elsewhere now, say where, with --styles") from error
    model = model_for(settings)
    job = prepare(settings, parts, styles, model)
    check_unchanged(chosen, job, model)
    paint_grid(job, command_line("enlarge", config))


def second_pass(picture: Chosen, config: EnlargeConfig) -> Part:
    """The part of the new grid that repaints a picture.

    Raises:
        UserError: the manifest does not say how the picture was painted, or it becomes too large.
    """
    first, cell, content = first_pass(picture), picture.cell, str(picture.file)
    height, width = (max(1, round(config.scale * side / _MULTIPLE)) * _MULTIPLE for side in (cell.height, cell.width))
    settings = dataclasses.replace(
        first,
        prompts=[cell.prompt],
        negative_prompt=cell.negative_prompt,
        styles=config.styles or first.styles,
        content=[content],
        strength=config.strength,
        height=height,
        width=width,
        batch_size=config.batch_size,
        name_format=SampleConfig.name_format,
        merge=True,
        output=config.output,
    )
    return Part(settings, {content: [cell.prompt]}, [cell.seed], cell.style)


def first_pass(picture: Chosen) -> SampleConfig:
    """The settings that paint a picture of a grid by itself, from the command that the manifest holds.

    Raises:
        UserError: there is none, or it cannot be read.
    """
    try:
        words = shlex.split(picture.line["command"])
        if words[1:2] not in (["sample"], ["sample.py"]):
            raise UserError("it is not that of dreamstyler sample")
        return parse(SampleConfig, words[2:])
    except (KeyError, AttributeError, ValueError) as error:
        reason = f"the manifest has no {error}" if isinstance(error, KeyError) else error
        raise UserError(f"{picture.file} cannot be enlarged: its command cannot be read ({reason})") from error


def shared_settings(settings: Sequence[SampleConfig]) -> SampleConfig:
    """The settings of a grid from those of its pictures.

    Raises:
        UserError: they differ in what the pictures of a grid share, such as the model.
    """
    first = settings[0]
    differing = [
        field.name
        for field in dataclasses.fields(SampleConfig)
        if field.name not in (*_AXES, *_SETS, *_LISTS)
        and any(getattr(other, field.name) != getattr(first, field.name) for other in settings)
    ]
    if differing:
        raise UserError(
            f"cells: they were painted with different values of {listing(differing)}; enlarge those with the same by "
            "themselves"
        )
    joined: dict[str, Any] = {
        name: [value for other in settings for value in getattr(other, name)] for name in (*_SETS, *_LISTS)
    }
    joined |= {name: list(dict.fromkeys(joined[name])) for name in _SETS}
    return dataclasses.replace(first, **joined, checkpoints=[])


def check_unchanged(chosen: Sequence[Chosen], job: Job, model: StableDiffusion) -> None:
    """Refuses pictures whose model, LoRAs, ControlNets or styles are not those that they were painted with.

    Args:
        chosen: the pictures.
        job: their second pass.
        model: the bare model.

    Raises:
        UserError: as said.
    """
    again = {cell.repaint.content: cell for cell in job.cells if cell.repaint}
    stacks = {str(stack): stack for stack in job.loras}
    for picture in chosen:
        cell, second = picture.cell, again[str(picture.file)]
        painted_with = job.model if cell.repaint and cell.repaint.controlnets else model
        now = second.parameters() | {
            "model_hash": stacks[second.loras].hash_on(painted_with.hash),
            "model_settings": painted_with.settings,
        }
        changed = _differing(cell.parameters(), now, picture.line)
        if changed:
            names = listing([_IN_WORDS.get(name, name) for name in changed])
            raise UserError(
                f"{picture.file} was painted with another {names} than there is now: give what it was painted with, or "
                "paint the grid again"
            )


def _differing(before: Mapping[str, Any], now: Mapping[str, Any], line: Mapping[str, Any]) -> list[str]:
    """The parameters of a picture that are not what they were, apart from those that lines of old manifests lack."""
    unknown = [name for name in UNRECORDED if name not in line]
    return [name for name in before if name not in (*_NEW, *unknown) and before[name] != now[name]]
