"""A cell of a grid: one picture and everything that determines it."""

import dataclasses
import functools
import hashlib
import json
import typing
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from dreamstyler_jax import __version__, prompts
from dreamstyler_jax.grids.infotext import infotext
from dreamstyler_jax.guidance import CONSTANT, Guidance
from dreamstyler_jax.runtime.documents import Misfit, fit
from dreamstyler_jax.runtime.errors import UserError, shortened
from dreamstyler_jax.runtime.picture_files import PARAMETERS, PNG
from dreamstyler_jax.solvers import AUTO_SPACING
from dreamstyler_jax.stable_diffusion.loras.recipes import NO_LORAS
from dreamstyler_jax.stable_diffusion.schedule import NORMAL_SIGMAS
from dreamstyler_jax.style import StyleRef

C = TypeVar("C")

# Parameters that later versions added, with what they were before: lines of older manifests lack them.
ABSENT = {
    "checkpoint": 0, "guidance_start": 0.0, "guidance_end": 1.0, "cache_interval": 1, "spacing": "auto",
    "loras": NO_LORAS, "clip_skip": 0, "sigmas": NORMAL_SIGMAS, "original_size": None, "crop_top_left": None,
    "guidance_schedule": CONSTANT, "weak_checkpoint": 0, "weak_styles": None, "format": PNG, "quality": None,
    "prompt_weights": False, "prompt_windows": 1, "model_settings": "",
}  # fmt: skip
# Those of them that count in an id only where they have another value, so that older pictures keep their ids.
_NOT_IN_OLDER_IDS = (
    "clip_skip", "sigmas", "original_size", "crop_top_left", "guidance_schedule", "weak_checkpoint", "weak_styles",
    "format", "quality", "prompt_weights", "prompt_windows", "model_settings",
)  # fmt: skip
# Those of them that pictures always depended on: what older pictures had is not known, and taken to be as it is now.
UNRECORDED = ("model_settings",)


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
        model_settings: hash of what else its files say, see `StableDiffusion`.
        loras: the recipe of the LoRAs in it, see `loras.recipes`.
        clip_skip: the number of the text encoders' last layers that are left out.
        sigmas: how the solver spaces its noise levels, as `solvers.solver_table` takes it.
        original_size, crop_top_left: what SDXL is told of the size before scaling, height first, and of the crop; None
            for the picture's own size, whole.
        guidance_schedule: one of `guidance.SCHEDULES`.
        weak_checkpoint: the training step at which the weak prompt takes its styles; 0 without a weak scale.
        weak_styles: name and hash of each of these; None without a weak scale.
        format: of the picture's file, one of `picture_files.SUFFIXES`.
        quality: of a JPEG or WebP file, 1 to 100; None for PNG, which keeps every pixel.
        prompt_weights: whether the prompts have weights, see `emphasis`; without, brackets are text.
        prompt_windows: how many windows of tokens the longest of its prompts takes, if more than the first count.
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
    format: str = PNG
    quality: int | None = None
    prompt_weights: bool = False
    prompt_windows: int = 1
    model_settings: str = ""
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
        return prompts.guidance_prompts(full, negative, weak, weighted=self.prompt_weights)

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
        """The texts in the picture's file: all parameters by name, and once more as other programs read them."""
        values = {
            key: value if isinstance(value, str) else json.dumps(value) for key, value in self.parameters().items()
        }
        return {**values, "software": f"dreamstyler_jax {__version__}", PARAMETERS: infotext(self)}


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


def cell_of_line(line: Mapping[str, Any], where: str) -> Cell:
    """The cell that a line of a manifest describes, whichever version wrote the line.

    Args:
        line: as `Gallery.lines` has it.
        where: the manifest, for errors.

    Raises:
        UserError: a parameter is missing or has another type.
    """
    known = {**ABSENT, **line}
    repaint = _from_line(Repaint, known, where) if "content_hash" in line else None
    return _from_line(Cell, known, where, repaint=repaint)


def _from_line(cls: type[C], known: Mapping[str, Any], where: str, **others: Any) -> C:
    values = dict(others)
    for name, shape in typing.get_type_hints(cls).items():
        if name in others:
            continue
        try:
            values[name] = fit(known[name], shape)
        except KeyError:
            raise UserError(f"{where} is damaged, the picture {known.get('id')} lacks its {name}") from None
        except Misfit as misfit:
            key = f"{name}{misfit.key}"
            raise UserError(f"{where} is damaged, {Misfit(key, misfit.value, misfit.wanted)}") from None
    return cls(**values)


def _id(parameters: Mapping[str, Any]) -> str:
    left_out = [name for name in _NOT_IN_OLDER_IDS if parameters[name] == ABSENT[name]]
    parameters = {name: value for name, value in parameters.items() if name not in left_out}
    return hashlib.sha256(json.dumps(parameters, sort_keys=True).encode()).hexdigest()[:16]


def warn_of_equal_cells(cells: Sequence[Cell]) -> None:
    """Warns of cells that come out as the same picture although their parameters differ.

    As do strengths that leave equally many steps, a style under two names, and LoRAs with and without one of scale 0.
    """
    first: dict[str, Cell] = {}
    for cell in cells:
        if cell.seed != cells[0].seed:  # with another seed it is the same again
            continue
        other = first.setdefault(_what_is_painted(cell), cell)
        if other is not cell:
            before, now = other.parameters(), cell.parameters()
            names = [name for name in now if before[name] != now[name] and name not in ("styles", "weak_styles")]
            values = ", ".join(f"{name} {before[name]} and {now[name]}" for name in names)
            warnings.warn(
                f"some pictures will be the same as others, such as those with {shortened(values, 300)}", stacklevel=2
            )
            return


def _what_is_painted(cell: Cell) -> str:
    """Equal for cells that come out as the same picture."""
    parameters = cell.parameters()
    texts = list(cell.texts)
    for name, hash in {**cell.styles, **(cell.weak_styles or {})}.items():
        ref = str(StyleRef.parse(name).at(cell.checkpoint))
        texts = [text.replace(f"{{{ref}}}", f"{{{hash}}}").replace(f"{{{name}}}", f"{{{hash}}}") for text in texts]
    if cell.repaint:
        parameters["strength"] = int(cell.steps * cell.repaint.strength)
    for name in ("prompt", "negative_prompt", "style", "styles", "weak_styles", "loras", "checkpoint", "content"):
        parameters.pop(name, None)
    return json.dumps([parameters, texts], sort_keys=True)


def definition(cells: Sequence[Cell]) -> dict[str, Any]:
    """The axes of a grid and their values, as YAML can hold them: equal for equal sets of values."""
    fields: dict[str, dict[str, Any]] = {}
    for cell in cells:
        for name, value in cell.parameters().items():
            fields.setdefault(name, {}).setdefault(json.dumps(value, sort_keys=True), value)
    distinct = {name: list(values.values()) for name, values in fields.items()}
    return {name: values[0] if len(values) == 1 else values for name, values in distinct.items()}
