"""Multi-stage inversion: what a batch holds, what is learned from it, and how a run is repeated and resumed."""

import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from compilations import compilations

from dreamstyler_jax import inversion
from dreamstyler_jax.encoding import Tokens
from dreamstyler_jax.inversion import Dataset, Settings
from dreamstyler_jax.runtime.checkpoints import open_checkpoints
from dreamstyler_jax.runtime.errors import UserError
from dreamstyler_jax.stable_diffusion.placeholders import tokenize_with_placeholders
from dreamstyler_jax.stable_diffusion.schedule import stage_of
from dreamstyler_jax.timestep_sampling import TimestepPlan
from dreamstyler_jax.train_settings import TrainSettings
from dreamstyler_jax.training import make_optimizer

STAGES, BATCH, CHUNK = 6, 4, 2
PROMPTS = [["a red house in the style of {}"], ["a small dog by {}"]]


def random_tables(stages=STAGES, vectors=1, seed=0):
    return {"clip_l": np.random.default_rng(seed).normal(0, 0.1, (stages, vectors, 16)).astype(np.float32)}


def optimizer_of(schedule="constant", warmup_steps=0, steps=100, learning_rate=0.02, weight_decay=0.01):
    return make_optimizer(
        TrainSettings(
            learning_rate=learning_rate,
            warmup_steps=warmup_steps,
            schedule=schedule,
            steps=steps,
            weight_decay=weight_decay,
        )
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
        results = advance(inversion.stack_trees([state]), params, inversion.stack_trees([dataset]), steps)
        return inversion.unstack_trees(results, 1)[0]

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
    return lambda tables, batch: compiled(tiny.networks, tiny.params, tables, batch)


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
    for i, picture in enumerate(pictures):
        mean, deviation = tiny.encode_images(np.stack([picture, picture[:, ::-1]]))
        np.testing.assert_allclose(dataset.mean[i], mean, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(dataset.deviation[i], deviation, rtol=1e-5)
    assert dataset.mean.shape == dataset.deviation.shape == (2, 2, 8, 8, 4)
    assert np.abs(dataset.mean[:, 0] - dataset.mean[:, 1]).max() > 0.01

    plain = inversion.make_dataset(tiny, pictures, PROMPTS, 1, flip=False)
    assert plain.mean.shape == (2, 1, 8, 8, 4)
    np.testing.assert_allclose(plain.mean[:, 0], dataset.mean[:, 0], rtol=1e-4, atol=1e-5)


def test_views_are_crops_each_before_its_mirror_image_and_weights_are_mirrored_too(tiny, pictures):
    crops, counted = np.stack([pictures, pictures**2]), np.ones((2, 16, 16), np.float32)
    counted[:, :, :8] = 0
    dataset = inversion.make_dataset(tiny, crops, PROMPTS, 1, flip=True, counted=[None, counted])
    assert dataset.mean.shape == (2, 4, 8, 8, 4)
    for image, of_image in enumerate(crops):
        for crop, pixels in enumerate(of_image):
            mean, deviation = tiny.encode_images(np.stack([pixels, pixels[:, ::-1]]))
            np.testing.assert_array_equal(dataset.mean[image, 2 * crop : 2 * crop + 2], mean)
            np.testing.assert_array_equal(dataset.deviation[image, 2 * crop : 2 * crop + 2], deviation)
    right = np.broadcast_to(2.0 * (np.arange(8) >= 4), (8, 8))
    expected = [np.ones((4, 8, 8)), np.stack([right, right[:, ::-1]] * 2)]
    np.testing.assert_array_equal(dataset.latent_weights, np.stack(expected))
    plain = inversion.make_dataset(tiny, crops, PROMPTS, 1, flip=False, counted=[None, counted])
    np.testing.assert_array_equal(plain.latent_weights, np.stack(expected)[:, ::2])


def test_each_picture_has_its_own_prompt(tiny, pictures):
    dataset = inversion.make_dataset(tiny, pictures, PROMPTS, 3, flip=True)
    for i, (prompt,) in enumerate(PROMPTS):
        ids, slots, _ = tokenize_with_placeholders(tiny.tokenizer, prompt, {"style": 3})
        np.testing.assert_array_equal(dataset.tokens["clip_l"].ids[i, 0], ids)
        np.testing.assert_array_equal(dataset.tokens["clip_l"].slots[i, 0], slots)
    assert (np.asarray(dataset.tokens["clip_l"].slots) >= 0).sum(-1).tolist() == [[3], [3]]
    named = [[prompt.replace("{}", "{gogh}")] for (prompt,) in PROMPTS]
    again = inversion.make_dataset(tiny, pictures, named, 3, flip=True, name="gogh")
    np.testing.assert_array_equal(again.tokens["clip_l"].slots, dataset.tokens["clip_l"].slots)


def test_prompts_that_teach_no_style_are_refused(tiny, pictures):
    for prompt, message in [("a house", "has no placeholder"), ("a house " * 30 + "by {}", "beyond the 24-token")]:
        with pytest.raises(UserError, match=message):
            inversion.make_dataset(tiny, pictures, [PROMPTS[0], [prompt]], 1, flip=True)


def labelled_dataset(pictures=3, mirrors=2, deviation=0.0):
    """Latents and tokens whose values are the number of their picture; mirror images differ by 0.5."""
    number = np.arange(pictures, dtype=np.float32)
    mean = np.zeros((pictures, mirrors, 4, 4, 2), np.float32)
    mean += number[:, None, None, None, None] + np.arange(mirrors)[:, None, None, None] / 2
    ids = np.broadcast_to(number[:, None, None], (pictures, 1, 5)).astype(np.int32)
    return jax.tree.map(jnp.asarray, Dataset(mean, np.full_like(mean, deviation), {"clip_l": Tokens(ids, ids + 10)}))


def draw(dataset, size, count):
    """``count`` batches, stacked."""
    keys = jax.random.split(jax.random.key(0), count)
    return jax.jit(jax.vmap(lambda key: inversion.draw_batch(dataset, key, size)))(keys)


def test_a_sample_is_one_picture_with_its_prompt():
    batches = draw(labelled_dataset(), 4, 300)
    value = np.asarray(batches.latents)[..., 0, 0, 0]
    assert (np.ptp(batches.latents, axis=(2, 3, 4)) == 0).all()
    np.testing.assert_array_equal(np.asarray(batches.tokens["clip_l"].ids)[..., 0], np.floor(value))
    np.testing.assert_array_equal(batches.tokens["clip_l"].slots, np.asarray(batches.tokens["clip_l"].ids) + 10)
    values, counts = np.unique(value, return_counts=True)
    assert values.tolist() == [0, 0.5, 1, 1.5, 2, 2.5], "every picture and every mirror image"
    assert counts.min() > 0.7 * counts.mean()
    unmirrored = draw(labelled_dataset(mirrors=1), 4, 50)
    assert set(np.unique(unmirrored.latents)) == {0, 1, 2}


def test_wordings_are_drawn_equally_often_and_with_their_slots():
    dataset = labelled_dataset(pictures=2)
    ids = jnp.arange(2 * 4 * 5).reshape(2, 4, 5)
    batches = draw(dataset._replace(tokens={"clip_l": Tokens(ids, ids + 10)}), 4, 300)
    np.testing.assert_array_equal(batches.tokens["clip_l"].slots, batches.tokens["clip_l"].ids + 10)
    image, wording = np.divmod(np.asarray(batches.tokens["clip_l"].ids)[..., 0] // 5, 4)
    np.testing.assert_array_equal(image, np.floor(np.asarray(batches.latents)[..., 0, 0, 0]))
    _, counts = np.unique(image * 4 + wording, return_counts=True)
    assert len(counts) == 8 and counts.min() > 0.7 * counts.mean()


def test_pictures_may_have_different_numbers_of_wordings(tiny, pictures):
    prompts = [["a {}", "one {}", "the {}"], ["a house by {}", "a dog by {}"]]
    dataset = inversion.make_dataset(tiny, pictures, prompts, 1, flip=True)
    assert dataset.tokens["clip_l"].ids.shape[:2] == (2, 6)
    for i, wordings in enumerate(prompts):
        found, counts = np.unique(dataset.tokens["clip_l"].ids[i], axis=0, return_counts=True)
        assert len(found) == len(wordings) and len(set(counts)) == 1


def test_latents_are_sampled_and_noise_is_standard_normal():
    batches = draw(labelled_dataset(pictures=1, mirrors=1, deviation=3.0), 4, 500)
    latents, noise = np.asarray(batches.latents), np.asarray(batches.noise)
    assert (latents.mean(), latents.std()) == pytest.approx((0, 3), abs=0.1)
    assert (noise.mean(), noise.std()) == pytest.approx((0, 1), abs=0.03)
    assert abs(np.corrcoef(latents.ravel(), noise.ravel())[0, 1]) < 0.02
    assert len(np.unique(noise)) > 0.99 * noise.size, "every sample has its noise"


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
    tables = random_tables(stages, vectors)
    all_grads, metrics = gradient(tables, batch)
    assert all_grads.keys() == tables.keys()
    grads = all_grads["clip_l"]
    assert grads.shape == (stages, vectors, 16)
    seen = np.bincount(stage_of(np.asarray(batch.timesteps), stages), minlength=stages)
    np.testing.assert_array_equal(np.abs(grads).min((1, 2)) > 0, seen > 0)
    np.testing.assert_array_equal(np.abs(grads).max((1, 2)) > 0, seen > 0)
    np.testing.assert_array_equal(metrics.stage_count, seen)
    np.testing.assert_array_equal(np.asarray(metrics.stage_loss) > 0, seen > 0)
    assert metrics.stage_loss.sum() / BATCH == pytest.approx(float(metrics.loss), rel=1e-5)
    assert metrics.gradient_norm == pytest.approx(np.linalg.norm(grads), rel=1e-5)


def test_with_bfloat16_weights_the_tables_and_their_gradients_stay_float32(tiny, dataset, gradient):
    batch = inversion.draw_batch(dataset, jax.random.key(0), BATCH)
    tables = random_tables()
    half = jax.tree.map(lambda a: a.astype(jnp.bfloat16), tiny.params)
    results = jax.eval_shape(functools.partial(inversion.gradient, tiny.networks), half, tables, batch)
    assert {leaf.dtype for leaf in jax.tree.leaves(results)} == {jnp.dtype("float32")}
    losses = jax.jit(inversion.sample_losses, static_argnums=0)(tiny.networks, half, tables, batch)
    assert losses.mean() == pytest.approx(float(gradient(tables, batch)[1].loss), rel=0.02)


def test_latents_and_samples_count_by_their_weights(tiny, dataset, gradient):
    """With fifty stages every sample has its own, and so its own gradient and loss."""
    batch, tables = inversion.draw_batch(dataset, jax.random.key(0), BATCH), random_tables(50)
    area = np.random.default_rng(0).random((BATCH, 8, 8)).astype(np.float32)

    def of(latent_weights, sample_weights=(1, 1, 1, 1)):
        weights = jnp.asarray(latent_weights), jnp.asarray(sample_weights, jnp.float32)
        grads, metrics = gradient(tables, batch._replace(latent_weights=weights[0], sample_weights=weights[1]))
        return grads["clip_l"], metrics.stage_loss

    plain, losses = of(np.ones_like(area))
    unweighted, metrics = gradient(tables, batch)
    np.testing.assert_allclose(plain, unweighted["clip_l"], atol=1e-6 * np.abs(plain).max())
    np.testing.assert_allclose(losses, metrics.stage_loss, rtol=1e-5)
    (here, losses_here), (elsewhere, losses_elsewhere) = of(area), of(1 - area)
    np.testing.assert_allclose(here + elsewhere, plain, atol=1e-5 * np.abs(plain).max())
    np.testing.assert_allclose(losses_here + losses_elsewhere, losses, rtol=1e-5)
    assert np.abs(here - elsewhere).max() > 0.01 * np.abs(plain).max()
    for nothing in of(np.zeros_like(area)):
        assert not np.any(nothing)

    by_sample = np.zeros(50)
    by_sample[stage_of(np.asarray(batch.timesteps), 50)] = 0, 1, 2, 0.5
    weighted, same_losses = of(np.ones_like(area), (0, 1, 2, 0.5))
    np.testing.assert_allclose(weighted, plain * by_sample[:, None, None], atol=1e-6 * np.abs(plain).max())
    np.testing.assert_array_equal(same_losses, losses, "metrics can be compared with those of other weights")


def test_views_and_timesteps_come_with_their_weights():
    dataset = labelled_dataset()
    number = dataset.mean[..., 0]
    plan = TimestepPlan(weights=np.arange(1000))
    batch = inversion.draw_batch(dataset._replace(latent_weights=number), jax.random.key(0), 64, plan)
    np.testing.assert_array_equal(batch.latent_weights, batch.latents[..., 0])
    np.testing.assert_array_equal(batch.sample_weights, batch.timesteps)


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


def test_training_changes_the_tables_alone_and_lowers_the_loss(tiny, dataset, advance):
    tables, params = random_tables(), jax.tree.map(np.array, tiny.params)
    state, metrics = train(advance, tiny, dataset, inversion.start(tables, optimizer_of()), 40)
    assert_identical(tiny.params, params)
    assert_identical(tables, random_tables())
    assert state.tables.keys() == tables.keys()
    table = state.tables["clip_l"]
    assert (table.dtype, table.shape, int(state.step)) == (jnp.float32, (STAGES, 1, 16), 40 * CHUNK)
    for summary in metrics:
        assert summary.loss.shape == summary.gradient_norm.shape == (CHUNK,)
        assert summary.stage_loss.shape == summary.stage_count.shape == (CHUNK, STAGES)
        assert np.isfinite(summary.loss).all()
        assert (summary.stage_count.sum(-1) == BATCH).all()

    batch = inversion.draw_batch(dataset, jax.random.key(99), 64)
    loss = jax.jit(lambda params, tables: inversion.sample_losses(tiny.networks, params, tables, batch).mean())
    before, after = (float(loss(tiny.params, given)) for given in (tables, state.tables))
    assert after < 0.98 * before


def test_a_resumed_run_ends_with_the_same_bits(tiny, dataset, advance, tmp_path):
    whole, metrics = train(advance, tiny, dataset, inversion.start(random_tables(), optimizer_of()), 3)
    part, _ = train(advance, tiny, dataset, inversion.start(random_tables(), optimizer_of()), 2)
    with open_checkpoints(tmp_path) as checkpoints:
        checkpoints.save(int(part.step), part)
    with open_checkpoints(tmp_path) as checkpoints:
        restored = checkpoints.restore(inversion.start(random_tables(seed=1), optimizer_of()))
    assert_identical(restored, part)
    resumed, last = train(advance, tiny, dataset, restored, 1)
    assert_identical(resumed, whole)
    assert_identical(last, metrics[2:])
    assert not np.array_equal(whole.tables["clip_l"], part.tables["clip_l"])


def test_a_step_depends_on_the_seed_and_its_number(tiny, dataset, gradient):
    """Step 7 of seed 3, with two accumulated passes, equals its parts."""
    passes = 2
    optimizer = optimizer_of()
    advance = alone(inversion.make_trainer(tiny.networks, optimizer, Settings(BATCH, passes, seed=3)))
    before = inversion.start(random_tables(), optimizer)._replace(step=jnp.int32(7))
    tables, optimizer_state = copied(before.tables), copied(before.optimizer)
    after, metrics = advance(before, tiny.params, dataset, 1)

    keys = jax.random.split(jax.random.fold_in(jax.random.key(3), 7), passes)
    batches = [inversion.draw_batch(dataset, key, BATCH) for key in keys]
    parts = [gradient(tables, batch) for batch in batches]
    grads = jax.tree.map(lambda *leaves: sum(leaves) / passes, *(grads for grads, _ in parts))
    updates, _ = optimizer.update(grads, optimizer_state, tables)
    expected = optax.apply_updates(tables, updates)
    np.testing.assert_allclose(after.tables["clip_l"], expected["clip_l"], atol=2e-5)
    assert int(after.step) == 8
    assert metrics.loss[0] == pytest.approx(np.mean([part.loss for _, part in parts]), rel=1e-5)
    assert metrics.gradient_norm[0] == pytest.approx(np.linalg.norm(grads["clip_l"]), rel=1e-4)
    np.testing.assert_allclose(metrics.stage_loss[0], sum(part.stage_loss for _, part in parts), rtol=1e-4)
    np.testing.assert_array_equal(metrics.stage_count[0], sum(part.stage_count for _, part in parts))
    assert metrics.stage_count.sum() == passes * BATCH
    assert not np.array_equal(batches[0].noise, batches[1].noise)


def test_styles_learned_together_are_those_learned_alone(tiny, pictures, together, advance):
    """Three styles have other pictures, prompts and initial tables."""
    datasets = [
        inversion.make_dataset(tiny, [picture], [prompt], 1, flip=True)
        for picture, prompt in zip([*pictures, pictures[0] ** 2], [*PROMPTS, PROMPTS[0]], strict=True)
    ]
    starts = [inversion.start(random_tables(seed=seed), optimizer_of()) for seed in range(3)]
    expected = [train(advance, tiny, *one, 4)[0] for one in zip(datasets, map(copied, starts), strict=True)]
    with compilations("advance") as programs:
        states, _ = train(together, tiny, inversion.stack_trees(datasets), inversion.stack_trees(starts), 4)
    assert len(programs) == 1, "the states that a call returns enter the same program again"
    for ours, other in zip(inversion.unstack_trees(states, 3), expected, strict=True):
        np.testing.assert_allclose(ours.tables["clip_l"], other.tables["clip_l"], atol=1e-5)
    assert np.abs(expected[0].tables["clip_l"] - expected[1].tables["clip_l"]).max() > 0.01


def test_trees_are_stacked_and_unstacked():
    trees = [{"a": np.full((2, 3), i), "b": (np.int32(i),)} for i in range(3)]
    stacked = inversion.stack_trees(trees)
    assert stacked["a"].shape == (3, 2, 3) and stacked["b"][0].shape == (3,)
    for tree, again in zip(trees, inversion.unstack_trees(stacked, 3), strict=True):
        assert jax.tree.structure(again) == jax.tree.structure(tree)
        jax.tree.map(np.testing.assert_array_equal, again, tree)


def test_several_text_encoders_have_several_tables_that_are_optimised_alike():
    """Every table moves as it would alone."""
    tables = {"clip_l": random_tables()["clip_l"], "clip_g": random_tables(vectors=2, seed=1)["clip_l"][..., :5]}
    optimizer = optimizer_of()
    state = inversion.start(tables, optimizer)
    assert jax.tree.map(jnp.shape, dict(state.tables)) == {"clip_l": (STAGES, 1, 16), "clip_g": (STAGES, 2, 5)}
    updates, _ = optimizer.update(tables, state.optimizer, state.tables)
    for name, table in tables.items():
        alone = inversion.start({name: table}, optimizer)
        expected, _ = optimizer.update({name: table}, alone.optimizer, alone.tables)
        np.testing.assert_allclose(updates[name], expected[name], rtol=1e-6)


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
    states, datasets = map(inversion.stack_trees, ([inversion.start(random_tables(), optimizer_of())], [dataset]))
    text = together.lower(states, tiny.params, datasets, CHUNK).as_text()
    layouts = set(re.findall(r"stablehlo\.convolution.*?dim_numbers = (\S.*?), window", text))
    assert layouts == {"[b, 0, 1, f]x[0, 1, i, o]->[b, 0, 1, f]"}
