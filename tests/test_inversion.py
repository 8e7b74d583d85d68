"""Multi-stage inversion: what a batch holds, what is learned from it, and that a run can be repeated and resumed."""

import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dreamstyler_jax import inversion
from dreamstyler_jax.inversion import Dataset, Settings
from dreamstyler_jax.runtime.checkpoints import open_checkpoints
from dreamstyler_jax.runtime.errors import UserError
from dreamstyler_jax.stable_diffusion.schedule import stage_of
from dreamstyler_jax.stable_diffusion.tokenizer import tokenize_with_placeholders

STAGES, BATCH, CHUNK = 6, 4, 2
PROMPTS = [["a red house in the style of {}"], ["a small dog by {}"]]


def random_table(stages=STAGES, vectors=1, seed=0):
    return np.random.default_rng(seed).normal(0, 0.1, (stages, vectors, 16)).astype(np.float32)


def optimizer_of(schedule="constant", warmup_steps=0, steps=100, learning_rate=0.02, weight_decay=0.01):
    return inversion.make_optimizer(
        learning_rate=learning_rate,
        warmup_steps=warmup_steps,
        schedule=schedule,
        steps=steps,
        weight_decay=weight_decay,
    )


@pytest.fixture(scope="module")
def pictures():
    """Two pictures, not symmetric."""
    return np.random.default_rng(0).uniform(-1, 1, (2, 16, 16, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def dataset(tiny, pictures):
    return inversion.make_dataset(tiny, pictures, PROMPTS, 1, flip=True)


def alone(advance):
    """The training loop of one style, without the axis of styles."""

    def advance_one(state, params, dataset, steps):
        results = advance(inversion.stacked([state]), params, inversion.stacked([dataset]), steps)
        return inversion.unstacked(results, 1)[0]

    return advance_one


@pytest.fixture(scope="module")
def together(tiny):
    """The training loop of several styles."""
    return inversion.make_trainer(tiny.networks, optimizer_of(), Settings(BATCH, 1, seed=0))


@pytest.fixture(scope="module")
def advance(together):
    return alone(together)


@pytest.fixture(scope="module")
def gradient(tiny):
    """``inversion.gradient`` of the tiny model, compiled."""
    compiled = jax.jit(inversion.gradient, static_argnums=0)
    return lambda table, batch: compiled(tiny.networks, tiny.params, table, batch)


def train(advance, tiny, dataset, state, chunks):
    metrics = []
    for _ in range(chunks):
        state, summary = advance(state, tiny.params, dataset, CHUNK)
        metrics.append(summary)
    return state, metrics


def copied(state):
    """A copy that outlives the donation of the original."""
    return jax.tree.map(jnp.copy, state)


def assert_identical(ours, others):
    assert jax.tree.structure(ours) == jax.tree.structure(others)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(others), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


# The data


def test_moments_are_the_autoencoders_of_the_picture_and_its_mirror_image(tiny, pictures, dataset):
    encode = jax.jit(tiny.networks.encode_images)
    for i, picture in enumerate(pictures):
        mean, deviation = encode(tiny.params, np.stack([picture, picture[:, ::-1]]))
        np.testing.assert_allclose(dataset.mean[i], mean, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(dataset.deviation[i], deviation, rtol=1e-5)
    assert dataset.mean.shape == dataset.deviation.shape == (2, 2, 8, 8, 4)
    assert np.abs(dataset.mean[:, 0] - dataset.mean[:, 1]).max() > 0.01

    plain = inversion.make_dataset(tiny, pictures, PROMPTS, 1, flip=False)
    assert plain.mean.shape == (2, 1, 8, 8, 4)
    np.testing.assert_allclose(plain.mean[:, 0], dataset.mean[:, 0], rtol=1e-4, atol=1e-5)


def test_each_picture_has_its_own_prompt(tiny, pictures):
    dataset = inversion.make_dataset(tiny, pictures, PROMPTS, 3, flip=True)
    for i, (prompt,) in enumerate(PROMPTS):
        ids, slots = tokenize_with_placeholders(tiny.tokenizer, prompt, {"style": 3})
        np.testing.assert_array_equal(dataset.ids[i, 0], ids)
        np.testing.assert_array_equal(dataset.slots[i, 0], slots)
    assert (np.asarray(dataset.slots) >= 0).sum(-1).tolist() == [[3], [3]]
    named = [[prompt.replace("{}", "{gogh}")] for (prompt,) in PROMPTS]
    again = inversion.make_dataset(tiny, pictures, named, 3, flip=True, name="gogh")
    np.testing.assert_array_equal(again.slots, dataset.slots)


def test_prompts_that_cannot_teach_a_style_are_refused(tiny, pictures):
    for prompt, message in [("a house", "has no placeholder"), ("a house " * 30 + "by {}", "beyond the 24-token")]:
        with pytest.raises(UserError, match=message):
            inversion.make_dataset(tiny, pictures, [PROMPTS[0], [prompt]], 1, flip=True)


def labelled_dataset(pictures=3, mirrors=2, deviation=0.0):
    """Latents, ids and slots that all tell which picture they are of; mirror images differ by 0.5."""
    number = np.arange(pictures, dtype=np.float32)
    mean = np.zeros((pictures, mirrors, 4, 4, 2), np.float32)
    mean += number[:, None, None, None, None] + np.arange(mirrors)[:, None, None, None] / 2
    ids = np.broadcast_to(number[:, None, None], (pictures, 1, 5)).astype(np.int32)
    return Dataset(*map(jnp.asarray, (mean, np.full_like(mean, deviation), ids, ids + 10)))


def draw(dataset, size, count):
    """``count`` batches, stacked."""
    keys = jax.random.split(jax.random.key(0), count)
    return jax.jit(jax.vmap(lambda key: inversion.draw_batch(dataset, key, size)))(keys)


def test_a_sample_is_one_picture_with_its_prompt():
    batches = draw(labelled_dataset(), 4, 300)
    value = np.asarray(batches.latents)[..., 0, 0, 0]
    assert (np.ptp(batches.latents, axis=(2, 3, 4)) == 0).all()
    np.testing.assert_array_equal(np.asarray(batches.ids)[..., 0], np.floor(value))
    np.testing.assert_array_equal(batches.slots, np.asarray(batches.ids) + 10)
    values, counts = np.unique(value, return_counts=True)
    assert values.tolist() == [0, 0.5, 1, 1.5, 2, 2.5], "every picture and every mirror image"
    assert counts.min() > 0.7 * counts.mean()
    unmirrored = draw(labelled_dataset(mirrors=1), 4, 50)
    assert set(np.unique(unmirrored.latents)) == {0, 1, 2}


def test_wordings_are_drawn_alike_and_each_with_its_own_slots():
    dataset = labelled_dataset(pictures=2)
    ids = jnp.arange(2 * 4 * 5).reshape(2, 4, 5)
    batches = draw(dataset._replace(ids=ids, slots=ids + 10), 4, 300)
    np.testing.assert_array_equal(batches.slots, batches.ids + 10)
    image, wording = np.divmod(np.asarray(batches.ids)[..., 0] // 5, 4)
    np.testing.assert_array_equal(image, np.floor(np.asarray(batches.latents)[..., 0, 0, 0]))
    _, counts = np.unique(image * 4 + wording, return_counts=True)
    assert len(counts) == 8 and counts.min() > 0.7 * counts.mean()


def test_pictures_may_have_different_numbers_of_wordings(tiny, pictures):
    prompts = [["a {}", "one {}", "the {}"], ["a house by {}", "a dog by {}"]]
    dataset = inversion.make_dataset(tiny, pictures, prompts, 1, flip=True)
    assert dataset.ids.shape[:2] == (2, 6)
    for i, wordings in enumerate(prompts):
        found, counts = np.unique(dataset.ids[i], axis=0, return_counts=True)
        assert len(found) == len(wordings) and len(set(counts)) == 1


def test_latents_are_sampled_and_noise_is_standard_normal():
    batches = draw(labelled_dataset(pictures=1, mirrors=1, deviation=3.0), 4, 500)
    latents, noise = np.asarray(batches.latents), np.asarray(batches.noise)
    assert (latents.mean(), latents.std()) == pytest.approx((0, 3), abs=0.1)
    assert (noise.mean(), noise.std()) == pytest.approx((0, 1), abs=0.03)
    assert abs(np.corrcoef(latents.ravel(), noise.ravel())[0, 1]) < 0.02
    assert len(np.unique(noise)) > 0.99 * noise.size, "each sample's own"


@pytest.mark.parametrize("size", [1, 3, 8])
def test_timesteps_are_uniform_and_stratified(size):
    timesteps = np.asarray(draw(labelled_dataset(), size, 4000 // size).timesteps)
    assert timesteps.dtype == np.int32
    counts, _ = np.histogram(timesteps, bins=10, range=(0, 1000))
    assert counts.sum() == timesteps.size, "all of them in 0..999"
    assert np.abs(counts / timesteps.size - 0.1).max() < 0.02
    stratum = np.arange(size) * 1000 / size
    assert (timesteps >= np.floor(stratum)).all()
    assert (timesteps < np.ceil(stratum + 1000 / size)).all()


# The loss


@pytest.mark.parametrize(("stages", "vectors"), [(1, 4), (50, 1)])
def test_only_the_stages_of_a_batch_have_a_gradient(tiny, pictures, gradient, stages, vectors):
    dataset = inversion.make_dataset(tiny, pictures, PROMPTS, vectors, flip=True)
    batch = inversion.draw_batch(dataset, jax.random.key(0), BATCH)
    table = jnp.asarray(random_table(stages, vectors))
    grads, metrics = gradient(table, batch)
    assert grads.shape == table.shape
    seen = np.bincount(stage_of(np.asarray(batch.timesteps), stages), minlength=stages)
    np.testing.assert_array_equal(np.abs(grads).min((1, 2)) > 0, seen > 0)
    np.testing.assert_array_equal(np.abs(grads).max((1, 2)) > 0, seen > 0)
    np.testing.assert_array_equal(metrics.stage_count, seen)
    np.testing.assert_array_equal(np.asarray(metrics.stage_loss) > 0, seen > 0)
    assert metrics.stage_loss.sum() / BATCH == pytest.approx(float(metrics.loss), rel=1e-5)
    assert metrics.gradient_norm == pytest.approx(np.linalg.norm(grads), rel=1e-5)


def test_in_bfloat16_the_table_and_its_gradient_stay_float32(tiny, dataset, gradient):
    batch = inversion.draw_batch(dataset, jax.random.key(0), BATCH)
    table = jnp.asarray(random_table())
    half = jax.tree.map(lambda a: a.astype(jnp.bfloat16), tiny.params)
    results = jax.eval_shape(functools.partial(inversion.gradient, tiny.networks), half, table, batch)
    assert {leaf.dtype for leaf in jax.tree.leaves(results)} == {jnp.dtype("float32")}
    losses = jax.jit(inversion.sample_losses, static_argnums=0)(tiny.networks, half, table, batch)
    assert losses.mean() == pytest.approx(float(gradient(table, batch)[1].loss), rel=0.02)


# The optimizer


def rates(steps, **options):
    """The learning rate of each step: with a constant gradient it is what Adam moves by."""
    optimizer = optimizer_of(steps=steps, learning_rate=0.1, weight_decay=0.0, **options)
    value = jnp.float32(0)
    state, moves = optimizer.init(value), []
    for _ in range(steps + 1):
        move, state = optimizer.update(jnp.float32(1), state, value)
        moves.append(-float(move))
    return np.array(moves)


def test_learning_rate_schedules():
    np.testing.assert_allclose(rates(6, schedule="constant"), [0.1] * 7, rtol=1e-4)
    linear = [0.1 * (1 - k / 6) for k in range(7)]
    np.testing.assert_allclose(rates(6, schedule="linear"), linear, rtol=1e-4, atol=1e-7)
    cosine = [0.05 * (1 + math.cos(math.pi * k / 6)) for k in range(7)]
    np.testing.assert_allclose(rates(6, schedule="cosine"), cosine, rtol=1e-4, atol=1e-7)


def test_warm_up_rises_to_the_rate_and_hands_over():
    rising = [0.025, 0.05, 0.075, 0.1]
    np.testing.assert_allclose(rates(8, schedule="constant", warmup_steps=4), rising + [0.1] * 5, rtol=1e-4)
    falling = [0.1, 0.075, 0.05, 0.025, 0]
    np.testing.assert_allclose(rates(8, schedule="linear", warmup_steps=4), rising + falling, rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(rates(4, schedule="constant", warmup_steps=1), [0.1] * 5, rtol=1e-4)
    np.testing.assert_allclose(rates(4, schedule="cosine", warmup_steps=4)[:4], rising, rtol=1e-4)


def test_weight_decay_is_decoupled():
    optimizer = optimizer_of(learning_rate=0.1, weight_decay=0.5)
    move, _ = optimizer.update(jnp.float32(0), optimizer.init(jnp.float32(2)), jnp.float32(2))
    assert float(move) == pytest.approx(-0.1 * 0.5 * 2)


# The loop


def test_training_changes_the_table_alone_and_lowers_the_loss(tiny, dataset, advance):
    table, params = random_table(), jax.tree.map(np.array, tiny.params)
    given = table.copy()
    state, metrics = train(advance, tiny, dataset, inversion.start(table, optimizer_of()), 40)
    assert_identical(tiny.params, params)
    np.testing.assert_array_equal(table, given)
    assert (state.table.dtype, state.table.shape, int(state.step)) == (jnp.float32, given.shape, 40 * CHUNK)
    for summary in metrics:
        assert summary.loss.shape == summary.gradient_norm.shape == (CHUNK,)
        assert summary.stage_loss.shape == summary.stage_count.shape == (CHUNK, STAGES)
        assert np.isfinite(summary.loss).all()
        assert (summary.stage_count.sum(-1) == BATCH).all()

    batch = inversion.draw_batch(dataset, jax.random.key(99), 64)
    loss = jax.jit(lambda params, table: inversion.sample_losses(tiny.networks, params, table, batch).mean())
    before, after = (float(loss(tiny.params, jnp.asarray(t))) for t in (given, state.table))
    assert after < 0.98 * before


def test_a_resumed_run_ends_with_the_same_bits(tiny, dataset, advance, tmp_path):
    whole, metrics = train(advance, tiny, dataset, inversion.start(random_table(), optimizer_of()), 3)
    part, _ = train(advance, tiny, dataset, inversion.start(random_table(), optimizer_of()), 2)
    with open_checkpoints(tmp_path) as checkpoints:
        checkpoints.save(int(part.step), part)
    with open_checkpoints(tmp_path) as checkpoints:
        restored = checkpoints.restore(inversion.start(random_table(seed=1), optimizer_of()))
    assert_identical(restored, part)
    resumed, last = train(advance, tiny, dataset, restored, 1)
    assert_identical(resumed, whole)
    assert_identical(last, metrics[2:])
    assert not np.array_equal(whole.table, part.table)


def test_a_step_is_made_of_seed_and_number(tiny, dataset, gradient):
    """Step 7 of seed 3, of two accumulated passes, from its parts."""
    passes = 2
    optimizer = optimizer_of()
    advance = alone(inversion.make_trainer(tiny.networks, optimizer, Settings(BATCH, passes, seed=3)))
    before = inversion.start(random_table(), optimizer)._replace(step=jnp.int32(7))
    table, optimizer_state = copied(before.table), copied(before.optimizer)
    after, metrics = advance(before, tiny.params, dataset, 1)

    keys = jax.random.split(jax.random.fold_in(jax.random.key(3), 7), passes)
    batches = [inversion.draw_batch(dataset, key, BATCH) for key in keys]
    parts = [gradient(table, batch) for batch in batches]
    grads = sum(grads for grads, _ in parts) / passes
    updates, _ = optimizer.update(grads, optimizer_state, table)
    np.testing.assert_allclose(after.table, optax.apply_updates(table, updates), atol=2e-5)
    assert int(after.step) == 8
    assert metrics.loss[0] == pytest.approx(np.mean([part.loss for _, part in parts]), rel=1e-5)
    assert metrics.gradient_norm[0] == pytest.approx(np.linalg.norm(grads), rel=1e-4)
    np.testing.assert_allclose(metrics.stage_loss[0], sum(part.stage_loss for _, part in parts), rtol=1e-4)
    np.testing.assert_array_equal(metrics.stage_count[0], sum(part.stage_count for _, part in parts))
    assert metrics.stage_count.sum() == passes * BATCH
    assert not np.array_equal(batches[0].noise, batches[1].noise)


def test_styles_learned_at_once_are_those_learned_alone(tiny, pictures, together, advance):
    """Three styles with other pictures, prompts and beginnings."""
    datasets = [
        inversion.make_dataset(tiny, [picture], [prompt], 1, flip=True)
        for picture, prompt in zip([*pictures, pictures[0] ** 2], [*PROMPTS, PROMPTS[0]], strict=True)
    ]
    begin = [inversion.start(random_table(seed=seed), optimizer_of()) for seed in range(3)]
    expected = [train(advance, tiny, *one, 4)[0] for one in zip(datasets, map(copied, begin), strict=True)]
    states, _ = train(together, tiny, inversion.stacked(datasets), inversion.stacked(begin), 1)
    programs = together._cache_size()
    states, _ = train(together, tiny, inversion.stacked(datasets), states, 3)
    assert together._cache_size() == programs, "what comes out of a call goes into the same program again"
    for ours, other in zip(inversion.unstacked(states, 3), expected, strict=True):
        np.testing.assert_allclose(ours.table, other.table, atol=1e-5)
    assert np.abs(expected[0].table - expected[1].table).max() > 0.01


def test_summaries_are_means_over_steps_and_samples():
    metrics = inversion.Metrics(
        loss=np.float32([1, 3]),
        stage_loss=np.float32([[1, 0, 4], [2, 0, 0]]),
        stage_count=np.float32([[1, 0, 2], [1, 0, 0]]),
        gradient_norm=np.float32([2, 4]),
    )
    summary = inversion.summarize(metrics)
    assert (summary["loss"], summary["gradient_norm"]) == (2, 3)
    assert summary["stage_loss"][::2] == [1.5, 2]
    assert math.isnan(summary["stage_loss"][1])


def test_the_cpu_program_has_no_convolution_in_a_slow_layout(tiny, dataset, together):
    """Of the whole training step, gradients included; see test_convolution.py."""
    if jax.default_backend() != "cpu":
        pytest.skip("other platforms keep JAX's gradient")
    states, datasets = map(inversion.stacked, ([inversion.start(random_table(), optimizer_of())], [dataset]))
    text = together.lower(states, tiny.params, datasets, CHUNK).as_text()
    layouts = set(re.findall(r"stablehlo\.convolution.*?dim_numbers = (\S.*?), window", text))
    assert layouts == {"[b, 0, 1, f]x[0, 1, i, o]->[b, 0, 1, f]"}
