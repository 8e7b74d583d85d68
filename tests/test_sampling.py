"""Sampling: the scan does what its parts say, and only what was asked for decides a picture."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compilations import compilations
from flax import nnx
from PIL import Image

from dreamstyler_jax import guidance
from dreamstyler_jax.encoding import encode
from dreamstyler_jax.painting import Request, paint_requests
from dreamstyler_jax.runtime import images
from dreamstyler_jax.sampling import Batch, initial_noise, plan_steps, sample_batch
from dreamstyler_jax.solvers import SOLVERS, solver_start, solver_step, solver_table
from dreamstyler_jax.stable_diffusion.conditioning import Conditioning
from dreamstyler_jax.stable_diffusion.schedule import add_noise
from dreamstyler_jax.style import Style
from dreamstyler_jax.transfer import ContentEncoder, make_content

STAGES, STEPS, BATCH = 12, 4, 8
HOUSE = ("", "a house in the style of {gogh}", "a house", "A painting in the style of {gogh}")
DOG = ("", "a dog by {gogh}", "a dog", "A painting in the style of {gogh}")
ALL_STEPS = np.ones(STEPS, bool)


def table_of(seed):
    return np.random.default_rng(seed).standard_normal((STAGES, 1, 16)).astype(np.float32)


TABLE = table_of(0)


def gogh(table):
    """The style of the prompts, with this table."""
    return {"gogh": Style("gogh", table)}


@pytest.fixture(scope="module")
def plan_of(tiny):
    def plan_of(solver="dpmpp_2m", strength=1.0, **options):
        return plan_steps(solver_table(solver, tiny.networks.schedule, STEPS, strength=strength), **options)

    return plan_of


@pytest.fixture(scope="module")
def paint(tiny, plan_of):
    """The pictures of requests, as one array."""

    def paint(*requests, plan=None, table=TABLE, size=(16, 16)):
        painted = paint_requests(tiny, requests, gogh(table), plan or plan_of(), size=size, batch_size=BATCH)
        return np.stack(list(painted))

    return paint


@pytest.fixture(scope="module")
def by_hand(tiny):
    """Paints one picture step by step and row by row; plain Python picks each stage's states."""
    networks = tiny.networks
    denoise, deep, surface, decode = map(
        jax.jit, (networks.denoise, networks.denoise_deep, networks.denoise_surface, networks.decode_latents)
    )

    def paint_one(request, plan, start=None):
        solver = plan.solver
        guided, computes_deep = (ALL_STEPS if steps is None else steps for steps in (plan.guided, plan.deep))
        prompts = encode(tiny, request.prompts, gogh(TABLE)).states
        noise = jax.random.normal(jax.random.key(request.seed), (1, 8, 8, 4))
        state = solver_start(noise * solver.init_scale if start is None else start(noise, solver.timesteps[0]))
        features = {}

        def predict(x, t, row, compute_deep):
            states = Conditioning(prompts[row, int(t) * STAGES // 1000][None])
            if plan.deep is None:
                return denoise(tiny.params, x, t, states)
            if compute_deep:
                features[row] = deep(tiny.params, x, t, states)
            return surface(tiny.params, x, t, states, features[row])

        for step, (t, coefficients, is_guided, is_deep) in enumerate(
            zip(solver.timesteps, solver.coefficients, guided, computes_deep, strict=False)
        ):
            weights = request.weights if is_guided else guidance.cfg(1)
            output = sum(weight * predict(state.x, t, row, is_deep) for row, weight in enumerate(weights) if weight)
            key = jax.random.fold_in(jax.random.key(request.seed), step + 1)
            fresh = None if solver.noise is None else solver.noise[step] * jax.random.normal(key, noise.shape)
            state = solver_step(state, coefficients, output, fresh)
        return np.asarray(decode(tiny.params, state.x))[0]

    return paint_one


def difference(ours, others):
    """The largest difference of a pixel, of 255."""
    ours, others = (np.asarray(images.to_image(image), np.int32) for image in (ours, others))
    return np.abs(ours - others).max()


@pytest.mark.parametrize("solver", SOLVERS)
def test_the_scan_is_the_loop(paint, plan_of, by_hand, solver):
    requests = [Request(HOUSE, guidance.cfg(3), 3), Request(DOG, guidance.paper(2, 0.5, 1.5), 4)]
    plan = plan_of(solver)
    for ours, request in zip(paint(*requests, plan=plan), requests, strict=True):
        expected = by_hand(request, plan)
        np.testing.assert_allclose(ours, expected, atol=1e-3)
        assert expected.std() > 0.05


def test_a_content_is_noised_to_the_first_timestep(tiny, paint, plan_of, by_hand):
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    content = make_content(Image.fromarray(pixels), "noise", 16, 4)
    latents = ContentEncoder(tiny).encode(content).latents[None]
    request = Request(HOUSE, guidance.cfg(3), 3, content)
    plan = plan_of(strength=0.5)
    assert plan.steps == STEPS // 2
    (ours,) = paint(request, plan=plan)
    expected = by_hand(request, plan, lambda noise, t: add_noise(tiny.networks.schedule, latents, noise, t))
    np.testing.assert_allclose(ours, expected, atol=1e-3)


@pytest.mark.parametrize("weights", [guidance.paper(2, 0.5, 1.5), guidance.cfg(0)])
def test_steps_without_guidance_follow_the_prompt_alone(paint, plan_of, by_hand, weights):
    request, guided = Request(HOUSE, weights, 3), np.array([False, True, True, False])
    plan = plan_of()._replace(guided=guided)
    (ours,) = paint(request, plan=plan)
    np.testing.assert_allclose(ours, by_hand(request, plan), atol=1e-3)
    (always,) = paint(request)
    assert difference(ours, always) > 2
    with compilations("sample_batch") as programs:
        (later,) = paint(request, plan=plan._replace(guided=~guided))
        (in_all_steps,) = paint(request, plan=plan._replace(guided=ALL_STEPS))
    assert not programs, "which steps are guided is not compiled in"
    assert difference(ours, later) > 2
    np.testing.assert_allclose(in_all_steps, always, atol=1e-3)


def test_steps_in_between_take_the_deep_features_of_the_last_one(paint, plan_of, by_hand):
    request, deep = Request(HOUSE, guidance.cfg(3), 3), np.array([True, False, False, True])
    plan = plan_of()._replace(deep=deep)
    (ours,) = paint(request, plan=plan)
    np.testing.assert_allclose(ours, by_hand(request, plan), atol=1e-3)
    (exact,) = paint(request)
    assert difference(ours, exact) > 2
    with compilations("sample_batch") as programs:
        (other,) = paint(request, plan=plan._replace(deep=np.array([True, True, False, False])))
        (in_all_steps,) = paint(request, plan=plan._replace(deep=ALL_STEPS))
    assert not programs, "which steps compute the deep features is not compiled in"
    assert difference(ours, other) > 2
    np.testing.assert_allclose(in_all_steps, exact, atol=1e-3)


def test_guidance_and_deep_features_combine(paint, plan_of, by_hand):
    request = Request(HOUSE, guidance.paper(2, 0.5, 1.5), 3)
    plan = plan_of(guidance_span=(0, 0.5), cache_interval=2)
    (ours,) = paint(request, plan=plan)
    np.testing.assert_allclose(ours, by_hand(request, plan), atol=1e-3)


def test_a_plan_says_what_every_step_does(plan_of):
    plan = plan_of()
    assert plan.steps == STEPS
    assert plan.guided is None and plan.deep is None, "a program without a choice"
    limited = plan_of(guidance_span=(0.25, 0.75), cache_interval=3)
    assert limited.guided.tolist() == [False, True, True, False]
    assert limited.deep.tolist() == [True, False, False, True]
    np.testing.assert_array_equal(limited.solver.coefficients, plan.solver.coefficients)


def test_deep_features_and_the_surface_are_the_whole_unet_with_residuals_too(tiny):
    unet = nnx.merge(tiny.networks.unet, tiny.params["unet"])
    rng = np.random.default_rng(0)
    x, states = (jnp.asarray(rng.standard_normal(shape), jnp.float32) for shape in [(2, 6, 10, 4), (2, 24, 16)])
    contexts = [states] * tiny.networks.unet_config.cross_attentions
    shapes = jax.eval_shape(lambda: unet.contract(unet.conv_in(x), unet.embed(jnp.array([7, 7]), states), contexts))
    residuals = [jnp.asarray(rng.standard_normal(map.shape), jnp.float32) for map in shapes]

    @jax.jit
    def computed(unet, *inputs):
        deep = unet.deep(*inputs, residuals)
        without = deep._replace(residual=None)
        return unet(*inputs, residuals), unet.surface(*inputs, deep), unet.surface(*inputs, without)

    whole, of_both, without = computed(unet, x, jnp.array([7, 7]), states)
    np.testing.assert_allclose(of_both, whole, atol=1e-5)
    assert np.abs(without - whole).max() > 1e-2


def test_everything_asked_for_matters_and_none_of_it_is_compiled_in(paint, plan_of):
    request = Request(HOUSE, guidance.cfg(3), 3)
    first = paint(request)[0]
    with compilations() as programs:
        others = {
            "prompt": paint(request._replace(prompts=DOG)),
            "negative prompt": paint(request._replace(prompts=("blurry", *HOUSE[1:]))),
            "seed": paint(request._replace(seed=2**32 - 1)),
            "scale": paint(request._replace(weights=guidance.cfg(4))),
            "style": paint(request, table=table_of(1)),
            "solver": paint(request, plan=plan_of("ddim")),
        }
        again = paint(request)[0]
    assert not programs
    for name, (other,) in others.items():
        assert difference(first, other) > 2, name
    np.testing.assert_array_equal(again, first)


def test_a_stages_vectors_matter_at_its_timesteps_alone(paint, plan_of):
    visited = {int(t) * STAGES // 1000 for t in plan_of().solver.timesteps}
    request = Request(HOUSE, guidance.cfg(3), 3)
    first = paint(request)[0]
    assert 0 < len(visited) < STAGES
    unvisited = table_of(0)
    others = [stage for stage in range(STAGES) if stage not in visited]
    unvisited[others] = table_of(1)[others]
    np.testing.assert_array_equal(paint(request, table=unvisited)[0], first)
    for stage in visited:
        changed = table_of(0)
        changed[stage] = table_of(1)[stage]
        assert np.abs(paint(request, table=changed)[0] - first).max() > 1e-3


def test_pictures_need_not_be_square(paint):
    with compilations("sample_batch") as programs:
        (picture,) = paint(Request(HOUSE, guidance.cfg(3), 3), size=(16, 24))
    assert len(programs) == 1
    assert picture.shape == (16, 24, 3)
    assert np.isfinite(picture).all()
    assert picture.std() > 0.05


def convolutions(jaxpr):
    """Every convolution of a program, wherever it is nested."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "conv_general_dilated":
            yield equation
        for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda v: hasattr(v, "eqns")):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                yield from convolutions(inner)


@pytest.mark.parametrize("rows", [1, 2, 4])
def test_rows_are_one_batch_of_the_denoiser(tiny, plan_of, rows):
    """There are as many convolutions as in one evaluation, the last of them over all rows and images."""
    conditioning = Conditioning(jnp.zeros((rows, 3, STAGES, 24, 16)))
    batch = Batch(conditioning, np.full((rows, 3), 1 / rows, np.float32), np.zeros(3, np.uint32))

    def count(function, *arguments):
        return len(list(convolutions(jax.make_jaxpr(function)(*arguments).jaxpr)))

    one_stage = jax.tree.map(lambda states: states[0, :, 0], conditioning)
    latents = jnp.zeros((3, 8, 8, 4))
    one = count(tiny.networks.denoise, tiny.params, latents, jnp.int32(0), one_stage)
    decoding = count(tiny.networks.decode_latents, tiny.params, latents)
    program = jax.make_jaxpr(
        lambda *arguments: sample_batch(tiny.networks, *arguments, size=(16, 16), full_row=0)
    )(tiny.params, plan_of("ddim"), batch)  # fmt: skip
    found = list(convolutions(program.jaxpr))
    assert len(found) == one + decoding
    batches = [equation.invars[0].aval.shape[0] for equation in found[:one]]
    assert batches[-1] == rows * 3


def test_noise_depends_on_the_seed_alone():
    noise = np.asarray(initial_noise(np.array([0, 1, 2**32 - 1, 0], np.uint32), (16, 16, 4)))
    np.testing.assert_array_equal(noise[0], noise[3])
    for seed, picture in zip((0, 1, 2**32 - 1), noise, strict=False):
        np.testing.assert_array_equal(picture, jax.random.normal(jax.random.key(seed), (16, 16, 4)))
    correlation = np.corrcoef(noise[:3].reshape(3, -1))
    assert np.abs(correlation - np.eye(3)).max() < 0.1
    assert noise.std() == pytest.approx(1, abs=0.05)
