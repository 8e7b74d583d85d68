"""How a grid is painted: the cells of one program together, in batches of one shape."""

import collections
import dataclasses
import functools
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np
from jax import Array

from dreamstyler_jax.grids.cells import Cell
from dreamstyler_jax.guidance import CONSTANT
from dreamstyler_jax.painting import Request, needed_rows, paint_requests
from dreamstyler_jax.runtime.devices import mesh, padded_batch_size
from dreamstyler_jax.runtime.memory import is_exhausted, nothing_fits, say_what_fits
from dreamstyler_jax.sampling import StepPlan, plan_steps, sample_batch
from dreamstyler_jax.solvers import solver_table
from dreamstyler_jax.stable_diffusion.loras.merging import LoraStack
from dreamstyler_jax.stable_diffusion.pipeline import StableDiffusion
from dreamstyler_jax.stable_diffusion.placeholders import Reading
from dreamstyler_jax.style import Style
from dreamstyler_jax.transfer import Content, ContentEncoder


class Shape(NamedTuple):
    """What all batches of a grid share, so that a part of the grid comes out as in the whole.

    Attributes:
        batch_size: pictures per batch.
        rows: the rows of guidance that are computed.
        varied: whether any picture has variants of guidance, which are then part of the programs.
    """

    batch_size: int
    rows: list[int]
    varied: bool = False


def shape_of(cells: Sequence[Cell], batch_size: int) -> Shape:
    """The shape of a grid: batches of ``batch_size``, or less if no program has as many cells of the same weights."""
    largest = max(collections.Counter((cell.loras, _program(cell)) for cell in cells).values())
    partly_guided = any(cell.guidance_span != (0, 1) or cell.guidance_schedule != CONSTANT for cell in cells)
    varied = any(cell.variants for cell in cells)
    rows = needed_rows([cell.weights for cell in cells], partly_guided=partly_guided, varied=varied)
    return Shape(min(batch_size, largest), rows, varied)


def paint_cells(
    model: StableDiffusion,
    cells: Sequence[Cell],
    styles: Mapping[str, Style],
    shape: Shape,
    contents: Sequence[Content] = (),
    encoder: ContentEncoder | None = None,
    sample: Callable[..., Array] = sample_batch,
    loras: Sequence[LoraStack] = (),
) -> Iterator[tuple[Cell, np.ndarray]]:
    """Paints cells, those of one program together, and yields each with its picture float32[H, W, 3].

    What exhausts a device's memory is painted in smaller batches.

    Args:
        model: the model that the cells were made for.
        cells: a grid, or some of its cells.
        styles: all styles that the grid's prompts may name.
        shape: the whole grid's.
        contents: the pictures that cells repaint.
        encoder: encodes them; by default one without ControlNets.
        sample: paints a batch as `sampling.sample_batch` does.
        loras: those of the cells, if they are an axis of the grid. Each is merged once.

    Raises:
        UserError: the memory is too small even for one picture at a time.
    """
    content_of = {content.hash: content for content in contents}
    encoder = encoder or ContentEncoder(model)
    batch = _Batch(shape.batch_size)

    def paint_with(merged: StableDiffusion, members: Sequence[Cell]) -> Iterator[tuple[Cell, np.ndarray]]:
        options = dict(rows=shape.rows, varied=shape.varied, encoder=encoder, sample=sample)
        for group in _grouped(members, _program):
            plan, size = _plan(merged, group[0]), _size(group[0], content_of)
            reading = Reading(any(cell.prompt_weights for cell in group), group[0].prompt_windows)
            paint = functools.partial(
                paint_requests, merged, styles=styles, plan=plan, size=size, reading=reading, **options
            )
            painted = _that_fit(paint, [_request(cell, plan, content_of, encoder) for cell in group], batch)
            for cell, picture in zip(group, painted, strict=True):
                yield cell, picture[: cell.height, : cell.width]

    stack_of = {str(stack): stack for stack in loras}
    for members in _grouped(cells, lambda cell: cell.loras):
        stack = stack_of.get(members[0].loras)
        yield from paint_with(model.with_loras(stack) if stack else model, members)  # a variable would keep the weights


@dataclasses.dataclass
class _Batch:
    """How many pictures are painted at once."""

    size: int

    def shrink(self, error: Exception) -> None:
        """Halves the batch after an error, if that says that memory is exhausted."""
        if not is_exhausted(error):
            raise error
        together, devices = padded_batch_size(self.size), mesh().size
        if together == devices:
            advice = "give a smaller --height and --width, or --dtype bfloat16 if it is not"
            raise nothing_fits("one picture" if devices == 1 else "one picture on each device", advice) from error
        self.size = together // devices // 2 * devices
        say_what_fits(
            f"{together} pictures", f"painting {self.size} at once (--batch_size {self.size} begins with that)"
        )


def _that_fit(
    paint: Callable[..., Iterator[np.ndarray]], requests: Sequence[Request], batch: _Batch
) -> Iterator[np.ndarray]:
    """The pictures of all requests, in batches that fit the devices' memory."""
    painted = 0
    while painted < len(requests):
        try:
            for picture in paint(requests=requests[painted:], batch_size=batch.size):
                painted += 1
                yield picture
        except jax.errors.JaxRuntimeError as error:
            batch.shrink(error)


def _grouped(cells: Sequence[Cell], key: Callable[[Cell], Hashable]) -> list[list[Cell]]:
    groups: dict[Hashable, list[Cell]] = {}
    for cell in cells:
        groups.setdefault(key(cell), []).append(cell)
    return list(groups.values())


def _program(cell: Cell) -> Hashable:
    """Equal for cells that one program paints with one step plan."""
    strength = cell.repaint.strength if cell.repaint else None
    of_solver = cell.solver, cell.steps, cell.spacing, cell.sigmas, strength
    of_plan = *of_solver, cell.guidance_span, cell.guidance_schedule, cell.cache_interval
    return *of_plan, cell.height, cell.width, cell.prompt_windows


def _plan(model: StableDiffusion, cell: Cell) -> StepPlan:
    strength = cell.repaint.strength if cell.repaint else 1.0
    table = solver_table(cell.solver, model.networks.schedule, cell.steps, cell.spacing, strength, cell.sigmas)
    return plan_steps(
        table,
        guidance_span=cell.guidance_span,
        guidance_schedule=cell.guidance_schedule,
        cache_interval=cell.cache_interval,
    )


def _size(cell: Cell, content_of: Mapping[str, Content]) -> tuple[int, int]:
    """Height and width at which a cell is painted, before its frame is cut off."""
    if not cell.repaint:
        return cell.height, cell.width
    frame = content_of[cell.repaint.content_hash].frame
    return frame.height, frame.width


def _request(cell: Cell, plan: StepPlan, content_of: Mapping[str, Content], encoder: ContentEncoder) -> Request:
    request = Request(cell.texts, cell.weights, cell.seed, variants=cell.variants)
    if not cell.repaint:
        return request
    span = cell.repaint.control_start, cell.repaint.control_end
    return request._replace(
        content=content_of[cell.repaint.content_hash],
        control_scales=encoder.control_scales(cell.repaint.control_scale, span, plan.steps),
    )
