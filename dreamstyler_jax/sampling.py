"""Sampling: one ``lax.scan`` over the rows of a step plan, which picks each stage's conditioning by timestep.

The program depends on the image size, the batch size, the number of steps, the number of stages and the rows of
guidance computed. Prompts, styles, seeds, scales and the solver are data.
"""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from dreamstyler_jax.guidance import CONSTANT, StepInputs, by_row, guided, schedule_factors
from dreamstyler_jax.runtime.devices import split_batch
from dreamstyler_jax.runtime.traced_programs import traced_once
from dreamstyler_jax.solvers import SolverTable, solver_start, solver_step, steps_apart, steps_within
from dreamstyler_jax.stable_diffusion.conditioning import Conditioning
from dreamstyler_jax.stable_diffusion.networks import Control, Networks
from dreamstyler_jax.stable_diffusion.schedule import stage_of
from dreamstyler_jax.stable_diffusion.unet import DeepFeatures


class StepPlan(NamedTuple):
    """What every sampling step does; a pytree whose leaves of N rows are scanned.

    Attributes:
        solver: the solver's table of N steps.
        guided: bool[N], the steps with guidance; the others use the full prompt alone. None: all steps, and a program
            without this choice.
        deep: bool[N], the first of them True: the steps that compute the UNet's deep features, which the following
            steps share (DeepCache, Ma et al. 2024). None: all steps, and a program without this choice.
        factors: float32[N], the factor of guidance in each step. None: always 1, and a program without it.
        stages: int32[N], the row of the conditioning that each step takes. None: its rows are stages of equal length.
    """

    solver: SolverTable
    guided: np.ndarray | None = None
    deep: np.ndarray | None = None
    factors: np.ndarray | None = None
    stages: np.ndarray | None = None

    @property
    def steps(self) -> int:
        """N."""
        return len(self.solver.timesteps)

    @property
    def partly_guided(self) -> bool:
        """Whether some steps are guided less than others, which takes the prediction of the full prompt."""
        return self.guided is not None or self.factors is not None


def plan_steps(
    solver: SolverTable,
    *,
    guidance_span: tuple[float, float] = (0.0, 1.0),
    guidance_schedule: str = CONSTANT,
    cache_interval: int = 1,
) -> StepPlan:
    """The plan of a solver's steps.

    Args:
        solver: from `solvers.solver_table`.
        guidance_span: the part of the sampling, from 0 to 1, that is guided (Kynkäänniemi et al. 2024).
        guidance_schedule: one of `guidance.SCHEDULES`, how guidance changes over the sampling.
        cache_interval: how many steps share the UNet's deep features.
    """
    steps = len(solver.timesteps)
    is_guided, is_deep = steps_within(*guidance_span, steps), steps_apart(cache_interval, steps)
    return StepPlan(
        solver,
        None if is_guided.all() else is_guided,
        None if is_deep.all() else is_deep,
        None if guidance_schedule == CONSTANT else schedule_factors(guidance_schedule, steps),
    )


class ContentBatch(NamedTuple):
    """The pictures that a batch repaints.

    Attributes:
        latents: [B, h, w, c], noised to the solver's first timestep (SDEdit, Meng et al. 2022).
        maps: for each of K ControlNets its control maps [B, H, W, 3] in [0, 1].
        scales: float32[B, N, R, K], the conditioning scale of each ControlNet in each step and row of guidance;
            None without ControlNets.
    """

    latents: Array | np.ndarray
    maps: tuple[Array | np.ndarray, ...] = ()
    scales: Array | np.ndarray | None = None


class Batch(NamedTuple):
    """B pictures to paint with R rows of guidance.

    Attributes:
        conditioning: of each row and picture, with leading axes [R, B, T]; B is a multiple of the number of devices.
        weights: float32[R, B], see `guidance`; they sum to 1 over the rows.
        seeds: uint32[B].
        content: the pictures to repaint; None to paint from noise alone.
        embedded_scales: float32[B], the scales of guidance of a model that embeds them; None for others.
        variants: float32[B] for each of `guidance_variants.NUMBERS`; row 0 is then the null prompt's. None: guidance
            without variants, and a program without them.
    """

    conditioning: Conditioning
    weights: Array | np.ndarray
    seeds: Array | np.ndarray
    content: ContentBatch | None = None
    embedded_scales: Array | np.ndarray | None = None
    variants: Mapping[str, Array | np.ndarray] | None = None


# An axis for each part.
_AXES: dict[str, Any] = dict(conditioning=1, weights=1, seeds=0, content=0, embedded_scales=0, variants=0)
_BATCH_AXES = Batch(**_AXES)


class _RowInputs(NamedTuple):
    """What the denoiser gets for one row of guidance; vmapped over the rows."""

    conditioning: Conditioning
    control_scales: Array | None
    deep: DeepFeatures | None


class _Fresh(NamedTuple):
    """The fresh noise of a step: its factor and the number of the step."""

    factor: Array | np.ndarray
    step: Array | np.ndarray


def initial_noise(seeds: Array | np.ndarray, shape: tuple[int, ...]) -> Array:
    """Standard normal float32[B, *shape]; each image's noise depends on its seed uint32[B] alone."""
    return jax.vmap(lambda seed: jax.random.normal(jax.random.key(seed), shape))(seeds)


def fresh_noise(seeds: Array | np.ndarray, step: Array | int, shape: tuple[int, ...]) -> Array:
    """Standard normal float32[B, *shape] for one step; each image's depends on its seed and the step alone."""
    keys = jax.vmap(lambda seed: jax.random.fold_in(jax.random.key(seed), step + 1))(seeds)
    return jax.vmap(lambda key: jax.random.normal(key, shape))(keys)


@traced_once("networks", "size", "full_row")
def sample_batch(
    networks: Networks, params: Any, plan: StepPlan, batch: Batch, *, size: tuple[int, int], full_row: int
) -> Array:
    """Paints a batch of images; all devices share it.

    Args:
        networks, params: the model.
        plan: the steps.
        batch: the pictures.
        size: height and width in pixels.
        full_row: which row of guidance is the full prompt; a plan that is partly guided uses it, and variants do.

    Returns:
        float32[B, height, width, 3], about in [-1, 1].
    """
    on_one_device = functools.partial(_sample, networks, size, full_row)
    return split_batch(on_one_device, in_axes=(None, None, _BATCH_AXES))(params, plan, batch)


def _sample(
    networks: Networks, size: tuple[int, int], full_row: int, params: Any, plan: StepPlan, batch: Batch
) -> Array:
    content, conditioning = batch.content, batch.conditioning
    hints = networks.encode_control_maps(params, content.maps) if content else ()
    guidance_scale = None if batch.embedded_scales is None else jnp.asarray(batch.embedded_scales)

    def control_of(row: _RowInputs) -> Control | None:
        return None if row.control_scales is None else Control(hints, row.control_scales)

    def whole(x: Array, t: Array, row: _RowInputs) -> Array:
        return networks.denoise(params, x, t, row.conditioning, control_of(row), guidance_scale)

    def deep(x: Array, t: Array, row: _RowInputs) -> DeepFeatures:
        return networks.denoise_deep(params, x, t, row.conditioning, control_of(row), guidance_scale)

    def surface(x: Array, t: Array, row: _RowInputs) -> Array:
        assert row.deep is not None
        return networks.denoise_surface(params, x, t, row.conditioning, row.deep, guidance_scale)

    denoise = whole if plan.deep is None else surface
    guide = guided(denoise, batch.weights, full_row, batch.variants)

    def step(carry, row):
        state, features, average = carry
        timestep, coefficients, fresh, control_scales, is_guided, factor, is_deep, stage = row
        stage = stage_of(timestep, conditioning.stages) if stage is None else stage
        inputs = _RowInputs(conditioning.at(stage), control_scales, None)
        if is_deep is not None:
            features = lax.cond(is_deep, lambda: by_row(deep)(state.x, timestep, inputs), lambda: features)
        inputs = inputs._replace(deep=features)
        prediction, average = guide(state.x, timestep, inputs, StepInputs(coefficients, is_guided, factor), average)
        noise = None if fresh is None else fresh.factor * fresh_noise(batch.seeds, fresh.step, state.x.shape[1:])
        return (solver_step(state, coefficients, prediction, noise), features, average), None

    start = initial_noise(batch.seeds, networks.latent_shape(*size))
    if content is None:
        start = start * plan.solver.init_scale
    else:
        alpha, sigma = plan.solver.start_rates
        start = alpha * content.latents + sigma * start
    scales = content.scales.transpose(1, 2, 0, 3) if content and content.scales is not None else None
    features = None
    if plan.deep is not None:
        first = _RowInputs(conditioning.at(0), None if scales is None else scales[0], None)
        shapes = jax.eval_shape(by_row(deep), start, plan.solver.timesteps[0], first)
        features = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    fresh = None if plan.solver.noise is None else _Fresh(plan.solver.noise, np.arange(plan.steps))
    average = None if batch.variants is None else jnp.zeros_like(start)
    of_plan = plan.guided, plan.factors, plan.deep, plan.stages
    rows = plan.solver.timesteps, plan.solver.coefficients, fresh, scales, *of_plan
    (state, *_), _ = lax.scan(step, (solver_start(start), features, average), rows)
    return networks.decode_latents(params, state.x)
