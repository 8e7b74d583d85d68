"""What a grid consists of, and how it is painted: axes -> cells -> batches of one shape -> pictures.

A cell is one picture and everything that makes it. Cells that differ in prompt, style, seed, scales or solver are
painted by one compiled program; only the size and the number of steps taken change it.
"""

import collections
import dataclasses
import functools
import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from dreamstyler_jax import __version__, prompts, sampling, transfer
from dreamstyler_jax.commands.config import SampleConfig, parse_seeds
from dreamstyler_jax.guidance import rows_needed, weights_for
from dreamstyler_jax.runtime import images
from dreamstyler_jax.sampling import Request
from dreamstyler_jax.solvers import solver_table, steps_apart, steps_within
from dreamstyler_jax.stable_diffusion.pipeline import StableDiffusion
from dreamstyler_jax.style import Style, at_step
from dreamstyler_jax.transfer import Content

SCALES = {
    "cfg": ("guidance_scale",),
    **dict.fromkeys(("paper", "release"), ("null_scale", "style_scale", "context_scale")),
}
_BLOCK = 16  # batches whose prompts are encoded together
_CHUNK = 32  # prompts encoded at once, always as many: one program, and the same numbers whatever else is encoded


@dataclasses.dataclass(frozen=True)
class Repaint:
    """What a cell repaints, and how strictly; fields as in `config.SampleConfig`.

    ``content``, ``content_hash``: path and hash of the picture.
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
    """One picture of a grid and everything that makes it.

    ``style``: what {} stands for in the prompts, empty where there is no {}. ``styles``: name and hash of every style
    that the prompts name. ``checkpoint``: the training step of these styles, 0 for the last. ``repaint``: None where it
    is painted from the prompt alone.
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
    repaint: Repaint | None = None
    guidance_start: float = 0.0
    guidance_end: float = 1.0
    cache_interval: int = 1

    def parameters(self) -> dict[str, Any]:
        """All of them by name, but for what has a default and is as usual: from ``checkpoint`` on."""
        own = dataclasses.asdict(self)
        repaint = own.pop("repaint") or {}
        usual = {field.name: field.default for field in dataclasses.fields(self)}
        return {name: value for name, value in own.items() if value != usual[name]} | repaint

    @functools.cached_property
    def id(self) -> str:
        """Sixteen hexadecimal digits of all parameters: safe as a file name, whatever the prompt."""
        return hashlib.sha256(json.dumps(self.parameters(), sort_keys=True).encode()).hexdigest()[:16]

    @property
    def texts(self) -> tuple[str, str, str, str]:
        """The prompts of `guidance.ROWS`, with {} as {name} or {name@checkpoint}."""
        named = prompts.name_placeholder(self.prompt, self.style, self.checkpoint)
        negative = prompts.name_placeholder(self.negative_prompt, self.style, self.checkpoint)
        return negative, named, prompts.context_only(named), prompts.style_only(named)

    @property
    def limits(self) -> tuple[float, float]:
        """The part of the sampling, from 0 to 1, that is guided."""
        return self.guidance_start, self.guidance_end

    @property
    def weights(self) -> np.ndarray:
        """float32[4], see `guidance`."""
        return weights_for(self.guidance, [self.scales[name] for name in SCALES[self.guidance]])

    def text(self) -> dict[str, str]:
        """The parameters as text chunks of a PNG."""
        values = {
            key: value if isinstance(value, str) else json.dumps(value) for key, value in self.parameters().items()
        }
        return {**values, "software": f"dreamstyler_jax {__version__}"}


def make_cells(
    config: SampleConfig,
    model: StableDiffusion,
    texts: Mapping[str, Sequence[str]],
    styles: Mapping[str, Style],
    voices: Sequence[str],
    size: tuple[int, int],
    contents: Sequence[Content] = (),
) -> list[Cell]:
    """The product of all axes: contents x prompts x voices x checkpoints x scales x solvers x steps x seeds.

    Args:
      texts: the prompts, without alternatives, of each content by its name; under "" those of no content.
      styles: all that prompts may name, mixes among them; as they were at ``config.checkpoints`` by `style.at_step`.
      voices: the names of those that {} stands for in turn.
      size: height and width in pixels, of what is not repainted.
      contents: the pictures to repaint, if any.

    Raises:
      UserError: a solver cannot take so many steps, or a strength leaves none of them.
    """
    scale_names = SCALES[config.guidance]
    scale_values = list(itertools.product(*(map(float, getattr(config, name)) for name in scale_names)))
    asked = [
        (repaint, own_size, text)
        for repaint, own_size in _repaints(config, contents) or [(None, size)]
        for text in texts[repaint.content if repaint else ""]
    ]
    cells = []
    for repaint, (height, width), text in asked:
        names = prompts.names_in(text) + prompts.names_in(config.negative_prompt)
        for voice, checkpoint, used in _castings(names, voices, config.checkpoints):
            common = dict(
                prompt=text,
                style=voice,
                negative_prompt=config.negative_prompt,
                guidance=config.guidance,
                height=height,
                width=width,
                dtype=config.dtype,
                styles={name: styles[own].hash for name in used if (own := at_step(name, checkpoint)) in styles},
                model=model.name,
                model_hash=model.hash,
                guidance_start=config.guidance_start,
                guidance_end=config.guidance_end,
                cache_interval=config.cache_interval,
                checkpoint=checkpoint,
                repaint=repaint,
            )
            axes = itertools.product(scale_values, config.solver, config.steps, parse_seeds(config.seeds))
            for scales, solver, steps, seed in axes:
                of_cell = dict(
                    scales=dict(zip(scale_names, scales, strict=True)), solver=solver, steps=steps, seed=seed
                )
                cells.append(Cell(**common, **of_cell))
    for solver, steps, strength in itertools.product(config.solver, config.steps, config.strength if contents else [1]):
        solver_table(solver, model.networks.schedule, steps, strength=strength)
    return cells


def _castings(
    names: Sequence[str], voices: Sequence[str], checkpoints: Sequence[int]
) -> Iterator[tuple[str, int, list[str]]]:
    """Voice, checkpoint and the names of all styles of each version of a prompt with placeholders of these names."""
    for voice in voices if "" in names else [""]:
        used = list(dict.fromkeys(name or voice for name in names))
        for checkpoint in checkpoints if any(at_step(name, 1) != name for name in used) and checkpoints else [0]:
            yield voice, checkpoint, used


def _repaints(config: SampleConfig, contents: Sequence[Content]) -> list[tuple[Repaint, tuple[int, int]]]:
    """Contents x strengths x control scales, each with the height and width of its pictures."""
    scales = map(float, config.control_scale if config.controlnets else [0.0])
    common = (config.control_start, config.control_end, config.guess_mode) if config.controlnets else (0.0, 1.0, False)
    return [
        (
            Repaint(content.name, content.hash, strength, tuple(config.controlnets), scale, *common),
            (content.frame.inner_height, content.frame.inner_width),
        )
        for content, strength, scale in itertools.product(contents, map(float, config.strength), scales)
    ]


def definition(cells: Sequence[Cell]) -> dict[str, Any]:
    """The axes of a grid and their values, as YAML can hold them: equal just where the cells are."""
    fields: dict[str, dict[str, Any]] = {}
    for cell in cells:
        for name, value in cell.parameters().items():
            fields.setdefault(name, {}).setdefault(json.dumps(value, sort_keys=True), value)
    several = {name: list(values.values()) for name, values in fields.items()}
    return {name: values[0] if len(values) == 1 else values for name, values in several.items()}


class Shape(NamedTuple):
    """What all batches of a grid have in common; a part of the grid painted in this shape comes out as in the whole.

    ``batch_size``: pictures per batch. ``rows``: the rows of guidance that are computed.
    """

    batch_size: int
    rows: list[int]


def shape_of(cells: Sequence[Cell], batch_size: int) -> Shape:
    """The shape of a grid: batches of ``batch_size``, or less where no program has so many cells to paint."""
    largest = max(collections.Counter(map(_program, cells)).values())
    always = [sampling.FULL] if any(cell.limits != (0, 1) for cell in cells) else []
    return Shape(min(batch_size, largest), rows_needed(np.stack([cell.weights for cell in cells]), always))


def _program(cell: Cell) -> tuple:
    """Cells of one program and one table."""
    of_steps = cell.solver, cell.steps, cell.limits, cell.cache_interval
    return *of_steps, cell.height, cell.width, cell.repaint and cell.repaint.strength


def paint(
    model: StableDiffusion,
    cells: Sequence[Cell],
    styles: Mapping[str, Style],
    shape: Shape,
    studio: "Studio | None" = None,
) -> Iterator[tuple[Cell, np.ndarray]]:
    """Paints cells, those of one program together, and yields each with its picture float32[H, W, 3].

    Args:
      cells: a grid, or some of its cells.
      styles: all that the grid's prompts may name.
      shape: the whole grid's.
      studio: has the pictures that cells repaint.
    """
    batch_size, needed = shape
    groups: dict[tuple, list[Cell]] = {}
    for cell in cells:
        groups.setdefault(_program(cell), []).append(cell)
    for group in groups.values():
        first = group[0]
        strength = first.repaint.strength if first.repaint else 1.0
        table = solver_table(first.solver, model.networks.schedule, first.steps, strength=strength)
        steps = len(table.timesteps)
        chosen = dict(
            guided_steps=steps_within(*first.limits, steps), deep_steps=steps_apart(first.cache_interval, steps)
        )
        size = studio.size(first) if first.repaint else (first.height, first.width)
        for start in range(0, len(group), _BLOCK * batch_size):
            block = group[start : start + _BLOCK * batch_size]
            bank, requests = _encode(model, block, styles, needed)
            contents = None
            if first.repaint:
                contents, requests = studio.set_up(block, requests, steps)
            options = dict(size=size, batch_size=batch_size, needed=needed, contents=contents, **chosen)
            for cell, picture in zip(block, sampling.paint(model, table, bank, requests, **options), strict=True):
                yield cell, picture[: cell.height, : cell.width]


class Studio:
    """The pictures that a grid repaints, as the sampler takes them.

    Args:
      model: with the ControlNets.
      contents: the pictures.
      nets: its ControlNets.
      depth_model: see `config.SampleConfig`.

    Raises:
      UserError: a control map cannot be had.
    """

    def __init__(
        self, model: StableDiffusion, contents: Sequence[Content], nets: Sequence[transfer.Net], depth_model: str
    ):
        self._model, self._nets, self._depth_model = model, nets, depth_model
        self._contents = {content.hash: content for content in contents}
        self._encode_images = jax.jit(model.networks.encode_images)
        self._prepared = functools.lru_cache(_BLOCK)(self._prepare)
        for content in contents[:1]:
            self._maps(content)  # what is wrong with one is wrong with all, and found before anything is painted

    def size(self, cell: Cell) -> tuple[int, int]:
        """Height and width in which a cell is painted."""
        return self._contents[cell.repaint.content_hash].frame[:2]

    def set_up(
        self, cells: Sequence[Cell], requests: Sequence[Request], steps: int
    ) -> tuple[sampling.Contents, list[Request]]:
        """What some cells of one size repaint, and the requests with what they have to do with it."""
        hashes = list(dict.fromkeys(cell.repaint.content_hash for cell in cells))
        latents, maps = zip(*map(self._prepared, hashes), strict=True)
        contents = sampling.Contents(np.stack(latents), tuple(np.stack(kind) for kind in zip(*maps, strict=True)))
        return contents, [
            request._replace(
                content=hashes.index(cell.repaint.content_hash), scales=self._control_scales(cell.repaint, steps)
            )
            for cell, request in zip(cells, requests, strict=True)
        ]

    def _control_scales(self, repaint: Repaint, steps: int) -> np.ndarray:
        scales = [net.weight * repaint.control_scale for net in self._nets]
        return transfer.control_scales(scales, [(repaint.control_start, repaint.control_end)] * len(scales), steps)

    def _prepare(self, hash: str) -> tuple[np.ndarray, list[np.ndarray]]:
        """Latents [h, w, c] and control maps [H, W, 3] of a content."""
        content = self._contents[hash]
        pixels = transfer.to_frame(content.picture, content.frame)
        mean, _ = self._encode_images(self._model.params, images.to_unit(pixels[None]))
        return np.asarray(mean[0]), self._maps(content)

    def _maps(self, content: Content) -> list[np.ndarray]:
        return [transfer.control_map(net.kind, content, self._depth_model) for net in self._nets]


def _encode(
    model: StableDiffusion, cells: Sequence[Cell], styles: Mapping[str, Style], needed: Sequence[int]
) -> tuple[Array, list[Request]]:
    """The distinct conditionings [P, T, L, D] of some cells, and what to ask the sampler for."""
    rows = [[text if row in needed else "" for row, text in enumerate(cell.texts)] for cell in cells]
    every = list(dict.fromkeys(itertools.chain.from_iterable(rows)))
    number = {text: i for i, text in enumerate(every)}
    every += [""] * (-len(every) % _CHUNK)
    chunks = [every[start : start + _CHUNK] for start in range(0, len(every), _CHUNK)]
    bank = jnp.concatenate([prompts.encode(model, chunk, styles) for chunk in chunks])
    requests = [
        Request(tuple(number[text] for text in row), cell.weights, cell.seed)
        for row, cell in zip(rows, cells, strict=True)
    ]
    return bank, requests
