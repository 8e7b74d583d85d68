"""What a grid consists of, and how it is painted: axes -> cells -> batches of one shape -> pictures.

A cell is one picture and everything that makes it. Cells that differ in prompt, style, seed, scales or solver are
painted by one compiled program; only the number of steps changes it.
"""

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

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
_ROUND = 32  # the number of prompts encoded is a multiple of this, so that few shapes occur


@dataclasses.dataclass(frozen=True)
class Cell:
    """One picture of a grid and everything that makes it.

    ``style``: what {} stands for in the prompt, empty where there is no {}. ``styles``: name and hash of every style
    that the prompt names.
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
    def named_prompt(self) -> str:
        """The prompt with its {} as {name}."""
        return prompts.name_placeholder(self.prompt, self.style)

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
    scale_values = list(itertools.product(*(getattr(config, name) for name in scale_names)))
    cells = []
    for text in texts:
        for voice in voices if "" in prompts.names_in(text) else [""]:
            used = prompts.names_in(prompts.name_placeholder(text, voice))
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
    fields: dict[str, list[Any]] = {}
    for cell in cells:
        for name, value in dataclasses.asdict(cell).items():
            values = fields.setdefault(name, [])
            if value not in values:
                values.append(value)
    return {name: values[0] if len(values) == 1 else values for name, values in fields.items()}


def paint(
    model: StableDiffusion, cells: Sequence[Cell], styles: Mapping[str, Style], batch_size: int
) -> Iterator[tuple[Cell, np.ndarray]]:
    """Paints cells, those of equal steps and solver together, and yields each with its picture float32[H, W, 3].

    All batches have one shape, one number of stages and one set of guidance rows, whatever is in them.
    """
    needed = rows_needed(np.stack([cell.weights for cell in cells]))
    stages = prompts.join_tables(styles).shape[0] if any(cell.styles for cell in cells) else 1
    for (solver, steps), group in _grouped(cells).items():
        table = solver_table(solver, model.networks.schedule, steps)
        for start in range(0, len(group), _BLOCK * batch_size):
            block = group[start : start + _BLOCK * batch_size]
            bank, requests = _encode(model, block, styles, stages)
            size = (block[0].height, block[0].width)
            pictures = sampling.paint(model, table, bank, requests, size=size, batch_size=batch_size, needed=needed)
            yield from zip(block, pictures, strict=True)


def _grouped(cells: Sequence[Cell]) -> dict[tuple[str, int], list[Cell]]:
    groups: dict[tuple[str, int], list[Cell]] = {}
    for cell in cells:
        groups.setdefault((cell.solver, cell.steps), []).append(cell)
    return groups


def _encode(
    model: StableDiffusion, cells: Sequence[Cell], styles: Mapping[str, Style], stages: int
) -> tuple[Any, list[Request]]:
    """The distinct conditionings [P, T, L, D] of some cells, and what to ask the sampler for."""
    rows = []
    for cell in cells:
        text = cell.named_prompt
        rows.append((cell.negative_prompt, text, prompts.context_only(text), prompts.style_only(text)))
    every = list(dict.fromkeys(itertools.chain.from_iterable(rows)))
    number = {text: i for i, text in enumerate(every)}
    bank = prompts.encode(model, every + [""] * (-len(every) % _ROUND), styles)
    bank = jnp.broadcast_to(bank, (bank.shape[0], stages, *bank.shape[2:]))
    requests = [
        Request(tuple(number[text] for text in row), cell.weights, cell.seed)
        for row, cell in zip(rows, cells, strict=True)
    ]
    return bank, requests
