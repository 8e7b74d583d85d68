"""Sampling: the scan does what its parts say, and a picture depends on nothing but what was asked for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from dreamstyler_jax import guidance, prompts, sampling
from dreamstyler_jax.commands.previews import preview
from dreamstyler_jax.runtime import images
from dreamstyler_jax.sampling import Request
from dreamstyler_jax.solvers import SOLVERS, solver_start, solver_step, solver_table
from dreamstyler_jax.style import Style

STAGES, STEPS, BATCH = 12, 4, 8
# The conditionings of `bank`, by index.
TEXTS = [
    "",
    "a house in the style of {}",
    "a house",
    "A painting in the style of {}",
    "a dog by {}",
    "a dog",
    "blurry",
]
NULL, HOUSE, HOUSE_CONTEXT, STYLE, DOG, DOG_CONTEXT, BLURRY = range(len(TEXTS))


def table_of(seed):
    return np.random.default_rng(seed).standard_normal((STAGES, 1, 16)).astype(np.float32)


def encoded(tiny, table):
    return prompts.encode(tiny, TEXTS, {"gogh": Style("gogh", table)})


@pytest.fixture(scope="module")
def bank(tiny):
    return encoded(tiny, table_of(0))


@pytest.fixture(scope="module")
def paint(tiny):
    """The pictures of requests, as one array."""

    def paint(bank, requests, *, solver="dpmpp_2m", batch_size=BATCH, size=(16, 16), **chosen):
        table, options = solver_table(solver, tiny.networks.schedule, STEPS), dict(size=size, batch_size=batch_size)
        return np.stack(list(sampling.paint(tiny, table, bank, requests, **options, **chosen)))

    return paint


@pytest.fixture(scope="module")
def by_hand(tiny):
    """One picture, step by step and row by row, with the stage's states chosen in plain Python."""
    networks = tiny.networks
    denoise, deep, surface, decode = map(
        jax.jit, (networks.denoise, networks.denoise_deep, networks.denoise_surface, networks.decode_latents)
    )

    def paint_one(bank, request, solver, guided_steps=(True,) * STEPS, deep_steps=(True,) * STEPS):
        table = solver_table(solver, tiny.networks.schedule, STEPS)
        state = solver_start(jax.random.normal(jax.random.key(request.seed), (1, 8, 8, 4)) * table.init_scale)
        features = {}

        def predict(x, t, index, anew):
            states = bank[index][int(t) * STAGES // 1000][None]
            if all(deep_steps):
                return denoise(tiny.params, x, t, states)
            if anew:
                features[index] = deep(tiny.params, x, t, states)
            return surface(tiny.params, x, t, states, features[index])

        steps = zip(table.timesteps, table.coefficients, guided_steps, deep_steps, strict=True)
        for t, row, guided, anew in steps:
            output = sum(
                weight * predict(state.x, t, index, anew)
                for index, weight in zip(request.rows, request.weights if guided else guidance.cfg(1), strict=True)
                if weight
            )
            state = solver_step(state, row, output)
        return np.asarray(decode(tiny.params, state.x))[0]

    return paint_one


def difference(ours, others):
    """The largest of any pixel, of 255."""
    ours, others = (np.asarray(images.to_image(image), np.int32) for image in (ours, others))
    return np.abs(ours - others).max()


HOUSE_ROWS, DOG_ROWS = (NULL, HOUSE, HOUSE_CONTEXT, STYLE), (NULL, DOG, DOG_CONTEXT, STYLE)


@pytest.mark.parametrize("solver", SOLVERS)
def test_the_scan_is_the_loop(bank, paint, by_hand, solver):
    requests = [
        Request(HOUSE_ROWS, guidance.cfg(3), 3),
        Request(DOG_ROWS, guidance.paper(2, 0.5, 1.5), 4),
    ]
    for ours, request in zip(paint(bank, requests, solver=solver), requests, strict=True):
        expected = by_hand(bank, request, solver)
        np.testing.assert_allclose(ours, expected, atol=1e-3)
        assert expected.std() > 0.05


@pytest.mark.parametrize("weights", [guidance.paper(2, 0.5, 1.5), guidance.cfg(0)])
def test_where_guidance_is_limited_the_prompt_counts_alone(bank, paint, by_hand, weights):
    request, guided_steps = Request(HOUSE_ROWS, weights, 3), np.array([False, True, True, False])
    (ours,) = paint(bank, [request], guided_steps=guided_steps)
    np.testing.assert_allclose(ours, by_hand(bank, request, "dpmpp_2m", guided_steps), atol=1e-3)
    (always,) = paint(bank, [request])
    assert difference(ours, always) > 2
    programs = sampling.paint_batch._cache_size()
    (later,) = paint(bank, [request], guided_steps=~guided_steps)
    assert difference(ours, later) > 2
    np.testing.assert_array_equal(paint(bank, [request], guided_steps=np.ones(STEPS, bool))[0], always)
    assert sampling.paint_batch._cache_size() == programs, "which steps are guided is not compiled in"


def test_steps_in_between_have_the_deep_features_of_the_last_one(bank, paint, by_hand):
    request, deep_steps = Request(HOUSE_ROWS, guidance.cfg(3), 3), np.array([True, False, False, True])
    (ours,) = paint(bank, [request], deep_steps=deep_steps)
    np.testing.assert_allclose(ours, by_hand(bank, request, "dpmpp_2m", deep_steps=deep_steps), atol=1e-3)
    (exact,) = paint(bank, [request])
    assert difference(ours, exact) > 2
    programs = sampling.paint_batch._cache_size()
    np.testing.assert_array_equal(paint(bank, [request], deep_steps=np.ones(STEPS, bool))[0], exact)
    assert difference(ours, paint(bank, [request], deep_steps=np.array([True, True, False, False]))[0]) > 2
    assert sampling.paint_batch._cache_size() == programs, "which steps compute all is not compiled in"


def test_deep_features_and_the_rest_are_the_whole_with_residuals_too(tiny):
    unet = nnx.merge(tiny.networks.unet, tiny.params["unet"])
    rng = np.random.default_rng(0)
    x, states = (jnp.asarray(rng.standard_normal(shape), jnp.float32) for shape in [(2, 6, 10, 4), (2, 24, 16)])
    shapes = jax.eval_shape(lambda: unet.contract(unet.conv_in(x), unet.embed(jnp.array([7, 7]), states), states))
    residuals = [jnp.asarray(rng.standard_normal(map.shape), jnp.float32) for map in shapes]
    whole = unet(x, jnp.array([7, 7]), states, residuals)
    deep = unet.deep(x, jnp.array([7, 7]), states, residuals)
    np.testing.assert_allclose(unet.surface(x, jnp.array([7, 7]), states, deep), whole, atol=1e-5)
    assert np.abs(unet.surface(x, jnp.array([7, 7]), states, deep._replace(residual=None)) - whole).max() > 1e-2


def test_a_picture_does_not_depend_on_its_batch(bank, paint):
    """Alone, among eight, in another order, or before the copies that fill up the last batch."""
    requests = [
        Request((NULL if seed % 2 else BLURRY, HOUSE if seed % 3 else DOG, 0, 0), guidance.cfg(1.5 + seed), seed)
        for seed in range(BATCH + 3)
    ]
    alone = paint(bank, requests, batch_size=1)
    together = paint(bank, requests)
    backwards = paint(bank, requests[::-1])[::-1]
    assert len(alone) == len(together) == len(backwards) == len(requests)
    for one, other, another in zip(alone, together, backwards, strict=True):
        assert difference(one, other) <= 1
        assert difference(one, another) <= 1
    assert difference(alone[0], alone[1]) > 10


def test_everything_asked_for_matters_and_nothing_of_it_is_compiled_in(tiny, bank, paint):
    request = Request(HOUSE_ROWS, guidance.cfg(3), 3)
    first = paint(bank, [request])[0]
    programs = sampling.paint_batch._cache_size()
    others = {
        "prompt": paint(bank, [request._replace(rows=DOG_ROWS)]),
        "negative prompt": paint(bank, [request._replace(rows=(BLURRY, *HOUSE_ROWS[1:]))]),
        "seed": paint(bank, [request._replace(seed=2**32 - 1)]),
        "scale": paint(bank, [request._replace(weights=guidance.cfg(4))]),
        "style": paint(encoded(tiny, table_of(1)), [request]),
        "solver": paint(bank, [request], solver="ddim"),
    }
    for name, (other,) in others.items():
        assert difference(first, other) > 2, name
    assert difference(first, paint(bank, [request])[0]) == 0
    assert sampling.paint_batch._cache_size() == programs


def test_a_stages_vectors_count_at_its_timesteps_alone(tiny, bank, paint):
    table = solver_table("dpmpp_2m", tiny.networks.schedule, STEPS)
    visited = {int(t) * STAGES // 1000 for t in table.timesteps}
    request = Request(HOUSE_ROWS, guidance.cfg(3), 3)
    first = paint(bank, [request])[0]
    assert 0 < len(visited) < STAGES
    unvisited = table_of(0)
    others = [stage for stage in range(STAGES) if stage not in visited]
    unvisited[others] = table_of(1)[others]
    np.testing.assert_array_equal(paint(encoded(tiny, unvisited), [request])[0], first)
    for stage in visited:
        changed = table_of(0)
        changed[stage] = table_of(1)[stage]
        assert np.abs(paint(encoded(tiny, changed), [request])[0] - first).max() > 1e-3


def test_pictures_need_not_be_square(bank, paint):
    (picture,) = paint(bank, [Request(HOUSE_ROWS, guidance.cfg(3), 3)], size=(16, 24), batch_size=1)
    assert picture.shape == (16, 24, 3)
    assert np.isfinite(picture).all()
    assert picture.std() > 0.05


@pytest.fixture
def asked(monkeypatch):
    """What the compiled program is asked for: conditionings, weights and seeds of each batch. It paints nothing."""
    asked = []

    def paint_batch(networks, params, table, conditionings, weights, seeds, *_, size, full):
        asked.append((conditionings, weights, seeds))
        return np.zeros((len(seeds), *size, 3), np.float32)

    monkeypatch.setattr(sampling, "paint_batch", paint_batch)
    return asked


@pytest.mark.parametrize(
    ("weights", "rows"),
    [
        ([guidance.cfg(5)], [NULL, HOUSE]),
        ([guidance.cfg(1)], [HOUSE]),
        ([guidance.paper(5, 2, 2)], [NULL, HOUSE]),
        ([guidance.release(5, 1.5, 1.5)], [NULL, HOUSE]),
        ([guidance.paper(5, 1, 3)], list(HOUSE_ROWS)),
        ([guidance.cfg(5), guidance.paper(5, 1, 3)], list(HOUSE_ROWS)),
    ],
)
def test_rows_of_no_weight_are_not_computed(tiny, bank, asked, weights, rows):
    requests = [Request(HOUSE_ROWS, w, 0) for w in weights]
    table = solver_table("ddim", tiny.networks.schedule, STEPS)
    list(sampling.paint(tiny, table, bank, requests, size=(16, 16), batch_size=len(requests)))
    ((conditionings, kept, _),) = asked
    np.testing.assert_array_equal(conditionings, bank[np.array([rows] * len(requests)).T])
    assert kept.shape == (len(rows), len(requests))
    np.testing.assert_allclose(kept.sum(0), 1, atol=1e-5)


def test_rows_that_others_of_a_grid_need_can_be_asked_for(tiny, bank, asked):
    table = solver_table("ddim", tiny.networks.schedule, STEPS)
    requests = [Request(HOUSE_ROWS, guidance.cfg(5), 0)]
    list(sampling.paint(tiny, table, bank, requests, size=(16, 16), batch_size=1, needed=range(4)))
    ((conditionings, weights, _),) = asked
    np.testing.assert_array_equal(conditionings, bank[np.array([HOUSE_ROWS]).T])
    np.testing.assert_array_equal(weights, [[-4], [5], [0], [0]])


def test_the_next_batch_is_under_way_while_an_image_is_taken_but_not_all(tiny, bank, asked):
    table = solver_table("ddim", tiny.networks.schedule, STEPS)
    requests = [Request(HOUSE_ROWS, guidance.cfg(5), seed) for seed in range(11)]
    painted = sampling.paint(tiny, table, bank, requests, size=(16, 16), batch_size=2)
    assert not asked
    begun = [len(asked) for _ in painted]
    assert begun == [2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 6]
    assert [seeds.tolist() for *_, seeds in asked] == [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9], [10, 10]]


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
def test_rows_are_one_batch_of_the_denoiser(tiny, rows):
    """As many convolutions as one evaluation has, the last of them over all rows and images."""
    states = jnp.zeros((rows, 3, STAGES, 24, 16))
    table = solver_table("ddim", tiny.networks.schedule, STEPS)
    weights, seeds = np.full((rows, 3), 1 / rows, np.float32), np.zeros(3, np.uint32)

    def count(function, *arguments):
        return len(list(convolutions(jax.make_jaxpr(function)(*arguments).jaxpr)))

    one = count(tiny.networks.denoise, tiny.params, jnp.zeros((3, 8, 8, 4)), jnp.int32(0), states[0, :, 0])
    decoding = count(tiny.networks.decode_latents, tiny.params, jnp.zeros((3, 8, 8, 4)))
    program = jax.make_jaxpr(
        lambda *arguments: sampling.paint_batch(tiny.networks, *arguments, size=(16, 16))
    )(tiny.params, table, states, weights, seeds)  # fmt: skip
    found = list(convolutions(program.jaxpr))
    assert len(found) == one + decoding
    batches = [equation.invars[0].aval.shape[0] for equation in found[:one]]
    assert batches[-1] == rows * 3


def test_noise_is_each_seeds_own():
    noise = np.asarray(sampling.initial_noise(np.array([0, 1, 2**32 - 1, 0], np.uint32), (16, 16, 4)))
    np.testing.assert_array_equal(noise[0], noise[3])
    for seed, picture in zip((0, 1, 2**32 - 1), noise, strict=False):
        np.testing.assert_array_equal(picture, jax.random.normal(jax.random.key(seed), (16, 16, 4)))
    correlation = np.corrcoef(noise[:3].reshape(3, -1))
    assert np.abs(correlation - np.eye(3)).max() < 0.1
    assert noise.std() == pytest.approx(1, abs=0.05)


def test_previews_differ_by_the_style_alone(tiny, tmp_path):
    texts = ["a house in the style of {}"]
    styles = [Style("gogh", table_of(seed)[:2]) for seed in (0, 0, 1)]
    for i, style in enumerate(styles):
        preview(tiny, style, texts, (16, 16), tmp_path / str(i) / "step_000100.png")
    same, again, other = ((tmp_path / str(i) / "step_000100.png").read_bytes() for i in range(3))
    assert same == again
    assert same != other
    preview(tiny, styles[0], [], (16, 16), tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()
