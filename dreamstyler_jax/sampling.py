"""Sampling: one ``lax.scan`` over the rows of a solver's table, which picks each stage's text states by timestep.

What changes the program: image size, batch size, number of steps, how many stages and which rows of guidance there
are. What does not: prompts, styles, seeds, scales, the solver.
"""

import functools
import itertools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from dreamstyler_jax.guidance import ROWS, by_row, guided, guided_where, rows_needed
from dreamstyler_jax.runtime.devices import split_batch
from dreamstyler_jax.solvers import SolverTable, solver_start, solver_step
from dreamstyler_jax.stable_diffusion.pipeline import Networks, StableDiffusion
from dreamstyler_jax.stable_diffusion.schedule import add_noise, stage_of

T = TypeVar("T")
FULL = ROWS.index("full")


def initial_noise(seeds: Array, shape: tuple[int, ...]) -> Array:
    """Standard normal float32[B, *shape], each image's from its own seed uint32[B] alone."""
    return jax.vmap(lambda seed: jax.random.normal(jax.random.key(seed), shape))(seeds)


class Content(NamedTuple):
    """What a batch of images repaints; by default nothing.

    ``latents``: [B, h, w, c] of the pictures to start from, noised to the solver's first timestep (SDEdit, Meng et al.
    2022); None: from noise alone. ``maps``: for each ControlNet its control maps [B, H, W, 3] in [0, 1]. ``scales``:
    float32[B, N, R, K], how much each ControlNet counts in each step and row of guidance.
    """

    latents: Array | None = None
    maps: tuple[Array, ...] = ()
    scales: Array | None = None


NOTHING = Content()


@functools.partial(jax.jit, static_argnames=("networks", "size", "full"))
def paint_batch(
    networks: Networks,
    params: Any,
    table: SolverTable,
    conditionings: Array,
    weights: Array,
    seeds: Array,
    content: Content = NOTHING,
    guided_steps: Array | None = None,
    deep_steps: Array | None = None,
    *,
    size: tuple[int, int],
    full: int | None = None,
) -> Array:
    """Paints a batch of images.

    Args:
      networks, params: the model.
      table: the solver.
      conditionings: [R, B, T, L, D], per row of guidance and image its prompt encoded once per stage; B is a multiple
        of the number of devices.
      weights: float32[R, B], see `guidance`; they sum to 1 over rows.
      seeds: uint32[B].
      content: what the images repaint.
      guided_steps: bool[N], the solver's steps that are guided; None: all of them.
      deep_steps: bool[N], the first of them True: the solver's steps that compute the UNet's deep features, which the
        others have of the last one before (DeepCache, Ma et al. 2024); None: all of them.
      size: height and width in pixels.
      full: the row that is left in the others.

    Returns:
      float32[B, height, width, 3], about [-1, 1].
    """
    of_part = functools.partial(_paint_part, networks, size, full)
    paint_part = split_batch(of_part, in_axes=(None, None, 1, 1, 0, 0, None, None))
    return paint_part(params, table, conditionings, weights, seeds, content, guided_steps, deep_steps)


def _paint_part(
    networks: Networks,
    size: tuple[int, int],
    full: int | None,
    params: Any,
    table: SolverTable,
    conditionings: Array,
    weights: Array,
    seeds: Array,
    content: Content,
    guided_steps: Array | None,
    deep_steps: Array | None,
) -> Array:
    """What one device paints of a batch."""
    stages = conditionings.shape[2]
    hints = networks.hints(params, content.maps)

    def whole(x, t, row):
        states, scales, _ = row
        return networks.denoise(params, x, t, states, hints, scales)

    def deep(x, t, row):
        states, scales, _ = row
        return networks.denoise_deep(params, x, t, states, hints, scales)

    def surface(x, t, row):
        states, _, features = row
        return networks.denoise_surface(params, x, t, states, features)

    guide = guided if guided_steps is None else functools.partial(guided_where, full=full)
    denoise = guide(whole if deep_steps is None else surface, weights)

    def step(carry, row):
        state, features = carry
        timestep, coefficients, scales, here, anew = row
        states = lax.dynamic_index_in_dim(conditionings, stage_of(timestep, stages), axis=2, keepdims=False)
        if anew is not None:
            prompts = states, scales, None
            features = lax.cond(anew, lambda: by_row(deep)(state.x, timestep, prompts), lambda: features)
        prediction = denoise(state.x, timestep, (states, scales, features), *([] if here is None else [here]))
        return (solver_step(state, coefficients, prediction), features), None

    noise = initial_noise(seeds, networks.latent_shape(*size))
    if content.latents is None:
        start = noise * table.init_scale
    else:
        start = add_noise(networks.schedule, content.latents, noise, table.timesteps[0])
    scales = None if content.scales is None else content.scales.transpose(1, 2, 0, 3)
    features = None
    if deep_steps is not None:
        first = conditionings[:, :, 0], jax.tree.map(lambda rows: rows[0], scales), None
        shapes = jax.eval_shape(by_row(deep), start, table.timesteps[0], first)
        features = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    rows = table.timesteps, table.coefficients, scales, guided_steps, deep_steps
    (state, _), _ = lax.scan(step, (solver_start(start), features), rows)
    return networks.decode_latents(params, state.x)


class Request(NamedTuple):
    """One image to paint.

    ``rows``: for each row of `guidance.ROWS` the index of its conditioning; ``weights``: float32[4]; ``seed``: 0 to
    2**32 - 1. ``content``: index of the picture to repaint; ``scales``: float32[N, K], how much each ControlNet counts
    in each step.
    """

    rows: tuple[int, int, int, int]
    weights: np.ndarray
    seed: int
    content: int = 0
    scales: np.ndarray | None = None


class Contents(NamedTuple):
    """The pictures that requests repaint: latents [C, h, w, c], and as in `Content` maps [C, H, W, 3]."""

    latents: Array
    maps: tuple[Array, ...]


def paint(
    model: StableDiffusion,
    table: SolverTable,
    conditionings: Array,
    requests: Sequence[Request],
    *,
    size: tuple[int, int],
    batch_size: int,
    needed: Sequence[int] | None = None,
    contents: Contents | None = None,
    guided_steps: np.ndarray | None = None,
    deep_steps: np.ndarray | None = None,
) -> Iterator[np.ndarray]:
    """Paints requests in batches of one shape, the last one filled up with copies, and yields each image in order.

    An image does not depend on its batch: rows of guidance that no request needs are left out for all of them. While
    an image is taken the next batch is already being computed.

    Args:
      conditionings: [P, T, L, D], what the requests' rows are indices into.
      batch_size: is rounded up to a multiple of the number of devices.
      contents: the pictures that the requests repaint, [C, ...] each.
      needed: the rows of guidance to compute; those that these requests need unless said otherwise.
      guided_steps: bool[N], the solver's steps that are guided, the others having the full prompt alone; None: all.
        Where that is all of them, too, the program has no such choice to make.
      deep_steps: bool[N], see `paint_batch`; as for ``guided_steps``, all of them is as None.

    Yields:
      float32[height, width, 3], about [-1, 1].
    """
    guided_steps, deep_steps = (None if some is None or some.all() else some for some in (guided_steps, deep_steps))
    if needed is None:
        always = () if guided_steps is None else (FULL,)
        needed = rows_needed(np.stack([request.weights for request in requests]), always)
    full = None if guided_steps is None else list(needed).index(FULL)
    batch_size += -batch_size % jax.local_device_count()

    def start(group: list[Request]) -> tuple[int, Array]:
        filled = group + group[-1:] * (batch_size - len(group))
        chosen = np.array([[request.rows[row] for request in filled] for row in needed])
        weights = np.stack([request.weights[list(needed)] for request in filled], 1)
        seeds = np.array([request.seed for request in filled], np.uint32)
        content = _content(contents, filled, needed, model.networks.guess_mode)
        states = jnp.take(conditionings, chosen, axis=0, mode="clip")  # one small program, where indexing makes six
        batch = table, states, weights, seeds, content, guided_steps, deep_steps
        images = paint_batch(model.networks, model.everywhere, *batch, size=size, full=full)
        return len(group), images

    groups = (list(requests[start : start + batch_size]) for start in range(0, len(requests), batch_size))
    for count, images in _ahead(map(start, groups)):
        yield from np.asarray(images)[:count]


def _content(contents: Contents | None, requests: Sequence[Request], rows: Sequence[int], guess_mode: bool) -> Content:
    """What some requests repaint. In guess mode the ControlNets leave the row of the null prompt alone."""
    if contents is None:
        return NOTHING
    chosen = np.array([request.content for request in requests])
    latents, maps = jax.tree.map(lambda bank: bank[chosen], contents)
    if not maps:
        return Content(latents)
    heeded = np.array([not (guess_mode and ROWS[row] == "null") for row in rows], np.float32)
    scales = np.stack([request.scales for request in requests])[:, :, None] * heeded[:, None]
    return Content(latents, maps, scales)


def _ahead(items: Iterator[T]) -> Iterator[T]:
    """The same items, each while the next is already under way."""
    waiting = list(itertools.islice(items, 1))
    for item in items:
        yield waiting.pop()
        waiting.append(item)
    yield from waiting
