"""What a grid consists of, and how it is painted: axes -> cells -> batches of one shape -> pictures.

A cell is one picture and everything that makes it. Cells that differ in prompt, style, seed, scales or solver are
painted by one compiled program; only the number of steps changes it.
"""

import collections
import dataclasses
import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from dreamstyler_jax import __version__, prompts, sampling
from dreamstyler_jax.config import SampleConfig, parse_seeds
from dreamstyler_jax.guidance import rows_needed, weights_for
from dreamstyler_jax.pipeline import StableDiffusion
from dreamstyler_jax.sampling import Request
from dreamstyler_jax.solvers import solver_table
from dreamstyler_jax.style import Style

SCALES = {
    "cfg": ("guidance_scale",),
    **dict.fromkeys(("paper", "release"), ("null_scale", "style_scale", "context_scale")),
}
_BLOCK = 16  # batches whose prompts are encoded together
_CHUNK = 32  # prompts encoded at once, always as many: one program, and the same numbers whatever else is encoded


@dataclasses.dataclass(frozen=True)
class Cell:
    """One picture of a grid and everything that makes it.

    ``style``: what {} stands for in the prompts, empty where there is no {}. ``styles``: name and hash of every style
    that the prompts name.
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

    @property
    def id(self) -> str:
        """Sixteen hexadecimal digits of all parameters: safe as a file name, whatever the prompt."""
        return hashlib.sha256(json.dumps(dataclasses.asdict(self), sort_keys=True).encode()).hexdigest()[:16]

    @property
    def texts(self) -> tuple[str, str, str, str]:
        """The prompts of `guidance.ROWS`, with {} as {name}."""
        named = prompts.name_placeholder(self.prompt, self.style)
        negative = prompts.name_placeholder(self.negative_prompt, self.style)
        return negative, named, prompts.context_only(named), prompts.style_only(named)

    @property
    def weights(self) -> np.ndarray:
        """float32[4], see `guidance`."""
        return weights_for(self.guidance, [self.scales[name] for name in SCALES[self.guidance]])

    def text(self) -> dict[str, str]:
        """The parameters as text chunks of a PNG."""
        values = {
            key: value if isinstance(value, str) else json.dumps(value)
            for key, value in dataclasses.asdict(self).items()
        }
        return {**values, "software": f"dreamstyler_jax {__version__}"}


def make_cells(
    config: SampleConfig,
    model: StableDiffusion,
    texts: Sequence[str],
    styles: Mapping[str, Style],
    voices: Sequence[str],
    size: tuple[int, int],
) -> list[Cell]:
    """The product of all axes: prompts x voices x scales x solvers x steps x seeds.

    Args:
      texts: the prompts, without alternatives.
      styles: all that prompts may name, mixes among them.
      voices: the names of those that {} stands for in turn.
      size: height and width in pixels.
    """
    scale_names = SCALES[config.guidance]
    scale_values = list(itertools.product(*(map(float, getattr(config, name)) for name in scale_names)))
    cells = []
    for text in texts:
        names = prompts.names_in(text) + prompts.names_in(config.negative_prompt)
        for voice in voices if "" in names else [""]:
            used = {name or voice for name in names}
            common = dict(
                prompt=text,
                style=voice,
                negative_prompt=config.negative_prompt,
                guidance=config.guidance,
                height=size[0],
                width=size[1],
                dtype=config.dtype,
                styles={name: styles[name].hash for name in styles if name in used},
                model=model.name,
                model_hash=model.hash,
            )
            axes = itertools.product(scale_values, config.solver, config.steps, parse_seeds(config.seeds))
            for scales, solver, steps, seed in axes:
                of_cell = dict(
                    scales=dict(zip(scale_names, scales, strict=True)), solver=solver, steps=steps, seed=seed
                )
                cells.append(Cell(**common, **of_cell))
    return cells


def definition(cells: Sequence[Cell]) -> dict[str, Any]:
    """The axes of a grid and their values, as YAML can hold them: equal just where the cells are."""
    fields: dict[str, dict[str, Any]] = {}
    for cell in cells:
        for name, value in dataclasses.asdict(cell).items():
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
    """The shape of a grid: batches of ``batch_size``, or less where no solver and number of steps has so many cells."""
    largest = max(collections.Counter((cell.solver, cell.steps) for cell in cells).values())
    return Shape(min(batch_size, largest), rows_needed(np.stack([cell.weights for cell in cells])))


def paint(
    model: StableDiffusion, cells: Sequence[Cell], styles: Mapping[str, Style], shape: Shape
) -> Iterator[tuple[Cell, np.ndarray]]:
    """Paints cells, those of equal steps and solver together, and yields each with its picture float32[H, W, 3].

    Args:
      cells: a grid, or some of its cells.
      styles: all that the grid's prompts may name.
      shape: the whole grid's.
    """
    batch_size, needed = shape
    for (solver, steps), group in _grouped(cells).items():
        table = solver_table(solver, model.networks.schedule, steps)
        for start in range(0, len(group), _BLOCK * batch_size):
            block = group[start : start + _BLOCK * batch_size]
            bank, requests = _encode(model, block, styles, needed)
            size = (block[0].height, block[0].width)
            pictures = sampling.paint(model, table, bank, requests, size=size, batch_size=batch_size, needed=needed)
            yield from zip(block, pictures, strict=True)


def _grouped(cells: Sequence[Cell]) -> dict[tuple[str, int], list[Cell]]:
    groups: dict[tuple[str, int], list[Cell]] = {}
    for cell in cells:
        groups.setdefault((cell.solver, cell.steps), []).append(cell)
    return groups


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
