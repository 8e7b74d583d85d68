"""Learning styles: what a lesson holds, in which chunks it is trained, and several lessons at once."""

import dataclasses
import math
import time

import jax
import numpy as np
import optax
import pytest
from compilations import compilations
from PIL import Image

from dreamstyler_jax import encoding, inversion, optimizers, provenance, training
from dreamstyler_jax.prompts import OBJECT_PROMPTS
from dreamstyler_jax.runtime import compilation, images
from dreamstyler_jax.runtime.errors import UserError
from dreamstyler_jax.style import Style
from dreamstyler_jax.train_settings import BARE_PROMPTS, TrainSettings

STEPS, CHUNK = 6, 2
SETTINGS = TrainSettings(steps=STEPS, stages=3, batch_size=2, gradient_accumulation=2, seed=5)
PROMPTS = ["a red house in the style of {}", "a small dog by {}"]


def picture(seed, size=(16, 16)):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8))


@pytest.fixture(scope="module")
def lessons(tiny):
    """Two styles, each learned from a picture."""
    return [
        training.prepare(tiny, name, {f"{name}.png": picture(seed)}, [PROMPTS[seed]], SETTINGS)
        for seed, name in enumerate(("one", "other"))
    ]


def start(lesson):
    return inversion.start(lesson.style.tables, optimizers.make_optimizer(SETTINGS))


@pytest.fixture(scope="module")
def alone(tiny, lessons):
    """The states of each lesson after every chunk, trained by itself."""
    settings = inversion.Settings(SETTINGS.batch_size, SETTINGS.gradient_accumulation, SETTINGS.seed)
    advance = inversion.make_trainer(tiny.networks, optimizers.make_optimizer(SETTINGS), settings)

    def train(lesson):
        states, dataset = inversion.stack_trees([start(lesson)]), inversion.stack_trees([lesson.dataset])
        for _ in range(STEPS // CHUNK):
            states, _ = advance(states, tiny.params, dataset, CHUNK)
            yield inversion.unstack_trees(states, 1)[0]

    return [list(train(lesson)) for lesson in lessons]


def train(tiny, lessons, states):
    return training.train(tiny, lessons, SETTINGS, states, lambda done: done + CHUNK)


@pytest.fixture(scope="module")
def timed_chunks(tiny, lessons):
    """Both lessons trained together: for each chunk the chunk, its seconds, and how many of them were compiling."""
    chunks = train(tiny, lessons, [start(lesson) for lesson in lessons])

    def next_chunk():
        began, compiled = time.perf_counter(), compilation.seconds_compiling()
        chunk = next(chunks)
        return chunk, time.perf_counter() - began, compilation.seconds_compiling() - compiled

    timed = [next_chunk() for _ in range(STEPS // CHUNK)]
    assert next(chunks, None) is None
    return timed


# Lessons


def test_a_lesson_starts_as_a_word_and_records_how_it_is_learned(tiny):
    settings = TrainSettings(stages=4, vectors=2, init_word="red sea", resolution=8, flip=True, seed=3)
    pictures = {"a.png": picture(0, (30, 20)), "b.png": picture(1)}
    lesson = training.prepare(tiny, "gogh", pictures, PROMPTS, settings)
    tables = encoding.initial_tables(tiny, ["red sea"] * 4, 2)
    assert lesson.style.name == "gogh"
    jax.tree.map(np.testing.assert_array_equal, dict(lesson.style.tables), tables)
    norms = {
        name: np.linalg.norm(table, axis=-1).mean() for name, table in tiny.networks.token_tables(tiny.params).items()
    }
    assert lesson.style.metadata.pop("word_norms") == pytest.approx(norms)
    assert lesson.style.metadata == {
        "property": "style",
        "init_word": "red sea",
        "batch_size": 8,
        "learning_rate": 0.02,
        "norm": "free",
        "prior": 0.0,
        "average": 0.0,
        "seed": 3,
        "framing": "crop",
        "flip": True,
        "prompts": PROMPTS,
        **provenance.describe(pictures),
        "resolution": 8,
        "model": tiny.name,
        "model_hash": tiny.hash,
        "model_settings": tiny.settings,
        "loras": "none",
        "clip_skip": 0,
    }
    assert lesson.dataset.mean.shape == (2, 2, 4, 4, 4)


@pytest.mark.parametrize("framing", ["crop", "fit"])
def test_pictures_become_squares_as_the_framing_says(tiny, framing):
    settings = TrainSettings(framing=framing)
    oblong = picture(0, (30, 20))
    lesson = training.prepare(tiny, "gogh", {"a.png": oblong}, PROMPTS[:1], settings)
    square = images.to_array(images.fit(oblong, 16, 16, framing))
    expected, _ = tiny.encode_images(square[None])
    np.testing.assert_allclose(lesson.dataset.mean[0], expected, atol=1e-6)


def test_an_object_that_nobody_describes_is_learned_with_several_wordings(tiny):
    settings = TrainSettings(property="object", init_word="cat")

    def wordings(prompt):
        return (
            training.prepare(tiny, "cat", {"a.png": picture(0)}, [prompt], settings)
            .dataset.tokens["clip_l"]
            .ids.shape[1]
        )

    assert wordings(BARE_PROMPTS["object"]) == len(OBJECT_PROMPTS)
    assert wordings("a photo of {} in the snow") == 1


def test_lessons_that_cannot_be_learned_are_refused(tiny):
    with pytest.raises(UserError, match="the prompt 'a house' has no placeholder"):
        training.prepare(tiny, "gogh", {"a.png": picture(0)}, ["a house"], SETTINGS)
    with pytest.raises(UserError, match="resolution: must be a multiple of 2 for this model, such as 12, not 11"):
        training.prepare(tiny, "gogh", {"a.png": picture(0)}, PROMPTS[:1], TrainSettings(resolution=11))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "steps"),
        ({"schedule": "step"}, "schedule: must be one of constant, linear, cosine"),
        ({"init_word": "two words"}, "init_word: give at most one word for each vector, 1, not 'two words'"),
        ({"init_word": ""}, "init_word"),
        ({"init_word": "sea", "init_style": "a.safetensors"}, "init_word, init_style: give one of them, not both"),
        ({"timesteps": "early"}, "timesteps: must be one of uniform, balanced, style_friendly, min_snr"),
        ({"property": "object"}, "init_word: say in a word what kind of thing the object is"),
        ({"steps": 10, "warmup_steps": 11}, "warmup_steps: must be at most steps, 10, not 11"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        TrainSettings(**settings)


# Masks, crops, and a style to start from


def masked_picture(visible_seed, hidden_seed):
    """24 x 16 pixels, the left third of them hidden."""
    image = picture(visible_seed, (24, 16))
    image.paste(picture(hidden_seed, (8, 16)), (0, 0))
    image.putalpha(Image.fromarray(np.uint8(255 * (np.arange(24) >= 8)) * np.ones((16, 1), np.uint8)))
    return image


@pytest.mark.parametrize("framing", ["crop", "fit", "random"])
def test_what_a_mask_hides_leaves_no_trace_in_the_data(tiny, framing):
    settings = TrainSettings(framing=framing, flip=True, seed=4)

    def prepared(image):
        return training.prepare(tiny, "gogh", {"a.png": image}, PROMPTS[:1], settings)

    lesson, other = prepared(masked_picture(0, 1)), prepared(masked_picture(0, 2))
    jax.tree.map(np.testing.assert_array_equal, lesson.dataset, other.dataset)
    assert lesson.style.metadata == other.style.metadata
    assert lesson.style.metadata["counted"] == {"a.png": 0.6667}
    weights = lesson.dataset.latent_weights
    assert weights.shape == lesson.dataset.mean.shape[:4] == (1, 32 if framing == "random" else 2, 8, 8)
    np.testing.assert_allclose(weights.mean((2, 3)), 1, rtol=1e-6)
    assert weights.min() == 0
    seen = prepared(masked_picture(3, 1))
    assert np.abs(seen.dataset.mean - lesson.dataset.mean).max() > 0.01


def write_style(path, stages, vectors=1, width=16):
    table = np.random.default_rng(stages).normal(size=(stages, vectors, width)).astype(np.float32)
    style = Style("start", table, {"model": "elsewhere"})
    style.save(path)
    return style


def lesson_from(tiny, path, **settings):
    settings = TrainSettings(stages=3, init_style=str(path), **settings)
    return training.prepare(tiny, "gogh", {"a.png": picture(0)}, PROMPTS[:1], settings)


def test_without_a_learning_rate_the_style_that_is_started_from_remains(tiny, tmp_path):
    style = write_style(tmp_path / "start.safetensors", 3)
    lesson = lesson_from(tiny, tmp_path / "start.safetensors", property="object")
    optimizer = optimizers.adamw(optax.constant_schedule(0.0), 0.01)
    state = inversion.start(lesson.style.tables, optimizer)
    updates, _ = optimizer.update(jax.tree.map(np.ones_like, state.tables), state.optimizer, state.tables)
    state = state._replace(tables=optax.apply_updates(state.tables, updates), step=10)
    training.style_in(lesson.style, state).save(tmp_path / "end.safetensors")
    end = Style.load(tmp_path / "end.safetensors")
    assert end.hash == style.hash and end.name == "gogh"
    assert end.metadata["init_style"] == str(tmp_path / "start.safetensors")
    assert end.metadata["init_style_hash"] == style.hash and "init_word" not in end.metadata


def test_a_style_with_other_stages_is_started_from_by_timesteps(tiny, tmp_path):
    def started_from(stages):
        table = write_style(tmp_path / "start.safetensors", stages).tables["clip_l"]
        return table, lesson_from(tiny, tmp_path / "start.safetensors").style.tables["clip_l"]

    one, tables = started_from(1)
    np.testing.assert_array_equal(tables, np.repeat(one, 3, axis=0))
    six, tables = started_from(6)
    np.testing.assert_allclose(tables, six.reshape(3, 2, 1, 16).mean(1), rtol=1e-6)
    two, tables = started_from(2)
    np.testing.assert_allclose(tables, [two[0], two.mean(0), two[1]], rtol=1e-6)


def test_a_style_starts_every_layer_and_one_with_layers_needs_layers(tiny, tmp_path):
    shared = write_style(tmp_path / "start.safetensors", 3).tables["clip_l"]
    layers = tiny.networks.unet_config.cross_attentions
    lesson = lesson_from(tiny, tmp_path / "start.safetensors", layers="each")
    np.testing.assert_array_equal(lesson.style.tables["clip_l"], np.stack([shared] * layers, axis=1))
    lesson.style.save(tmp_path / "each.safetensors")
    again = lesson_from(tiny, tmp_path / "each.safetensors", layers="each")
    assert again.style.hash == lesson.style.hash
    with pytest.raises(UserError, match="has vectors for each cross-attention layer: give --layers each"):
        lesson_from(tiny, tmp_path / "each.safetensors")


def test_a_style_of_another_tool_or_a_run_can_be_started_from(tiny, tmp_path):
    style = write_style(tmp_path / "style.safetensors", 3)
    style.export(tmp_path / "other.safetensors", "dreamstyler")
    for path in (tmp_path / "other.safetensors", tmp_path):
        np.testing.assert_array_equal(lesson_from(tiny, path).style.tables["clip_l"], style.tables["clip_l"])
    (tmp_path / "style.safetensors").rename(tmp_path / "second.safetensors")
    with pytest.raises(UserError, match=r"init_style: two styles are called|init_style: .* holds 2 styles"):
        lesson_from(tiny, tmp_path)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"vectors": 2}, r"init_style: .*start\.safetensors has 2 vectors per stage: give --vectors 2"),
        ({"width": 8}, "the vectors of the style 'start' have width 8, but the model's text encoder 16"),
        (None, r"init_style: there is no style .*start\.safetensors"),
    ],
)
def test_styles_that_cannot_be_started_from_are_refused(tiny, tmp_path, given, message):
    if given is not None:
        write_style(tmp_path / "start.safetensors", 3, **given)
    with pytest.raises(UserError, match=message):
        lesson_from(tiny, tmp_path / "start.safetensors")


# Training


def test_training_stops_where_it_is_asked_to(timed_chunks):
    chunks = [chunk for chunk, _, _ in timed_chunks]
    assert [chunk.step for chunk in chunks] == [2, 4, 6]
    for chunk in chunks:
        assert [int(state.step) for state in chunk.states] == [chunk.step] * 2
        assert len(chunk.metrics) == 2
        for metrics in chunk.metrics:
            assert metrics.keys() == {"loss", "gradient_norm", "stage_loss", "images_per_second"}
            assert metrics["loss"] > 0 and metrics["gradient_norm"] > 0 and metrics["images_per_second"] > 0
            assert len(metrics["stage_loss"]) == SETTINGS.stages
    losses = [metrics["loss"] for chunk in chunks for metrics in chunk.metrics]
    assert len(set(losses)) == len(losses)


def test_several_lessons_are_each_as_if_alone(timed_chunks, alone):
    for index, (chunk, _, _) in enumerate(timed_chunks):
        for state, states in zip(chunk.states, alone, strict=True):
            ours, expected = state.tables["clip_l"], states[index].tables["clip_l"]
            np.testing.assert_allclose(ours, expected, atol=1e-5)
    last = timed_chunks[-1][0].states
    assert np.abs(last[0].tables["clip_l"] - last[1].tables["clip_l"]).max() > 0.01


def test_training_goes_on_from_a_state_bit_by_bit(tiny, lessons, alone):
    given = alone[0][0]
    stops = {2: 4, 4: 100}
    chunks = list(training.train(tiny, lessons[:1], SETTINGS, [given], stops.__getitem__))
    assert [chunk.step for chunk in chunks] == [4, STEPS], "never beyond the last step"
    for chunk, expected in zip(chunks, alone[0][1:], strict=True):
        jax.tree.map(np.testing.assert_array_equal, chunk.states[0], expected)
    assert int(given.step) == 2, "the state that was given is still there"


def test_a_training_that_is_done_has_no_chunks(tiny, lessons, alone):
    assert list(train(tiny, lessons[:1], [alone[0][-1]])) == []


class TooMuch:
    """A training loop whose device has memory for so many samples at once, and that takes the states as the real one.

    Attributes:
        loads: what was asked for at once.
    """

    def __init__(self, tiny, samples, message="RESOURCE_EXHAUSTED: Out of memory allocating 3 bytes."):
        settings = inversion.Settings(SETTINGS.batch_size, SETTINGS.gradient_accumulation, SETTINGS.seed)
        self._advance = inversion.make_trainer(tiny.networks, optimizers.make_optimizer(SETTINGS), settings)
        self._samples, self._message, self.loads = samples, message, []

    def __call__(self, states, params, datasets, steps, load):
        self.loads.append(tuple(load))
        if load.styles * load.samples > self._samples:
            jax.tree.map(lambda leaf: leaf.delete(), states)
            raise jax.errors.JaxRuntimeError(self._message)
        return self._advance(states, params, datasets, steps, load)


def trained_with(advance, tiny, lessons):
    states = [start(lesson) for lesson in lessons]
    return list(training.train(tiny, lessons, SETTINGS, states, lambda done: done + CHUNK, advance=advance))


def test_what_does_not_fit_is_learned_in_parts_with_the_same_result(tiny, lessons, alone):
    advance = TooMuch(tiny, samples=1)
    with pytest.warns(UserWarning) as warned:
        chunks = trained_with(advance, tiny, lessons)
    assert advance.loads == [(2, 2), (1, 2), (1, 1), (1, 1), (1, 1)]
    assert [str(warning.message) for warning in warned] == [
        "2 styles at once need more memory than cpu has; learning 1 after 1, with the same result",
        "2 samples at once need more memory than cpu has; computing them in 2 passes of 1, the same step",
    ]
    for index, chunk in enumerate(chunks):
        for state, states in zip(chunk.states, alone, strict=True):
            np.testing.assert_allclose(state.tables["clip_l"], states[index].tables["clip_l"], atol=1e-5)
    assert all(math.isfinite(metrics["loss"]) for metrics in chunks[-1].metrics)


def test_what_never_fits_and_other_errors_end_the_training(tiny, lessons):
    with pytest.warns(UserWarning), pytest.raises(UserError, match="even one sample at a time needs more memory than"):
        trained_with(TooMuch(tiny, samples=0), tiny, lessons)
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
        trained_with(TooMuch(tiny, samples=0, message="INTERNAL: broken"), tiny, lessons)


def test_compiling_does_not_count_in_the_images_per_second(timed_chunks):
    images_of_chunk = CHUNK * SETTINGS.batch_size * SETTINGS.gradient_accumulation
    for chunk, seconds, compiling in timed_chunks:
        counted = images_of_chunk / chunk.metrics[0]["images_per_second"]
        assert 0 < counted <= seconds - compiling
    assert timed_chunks[0][2] > 0, "the first chunk compiled"
    assert timed_chunks[-1][2] == 0, "the last did not"


def test_a_style_of_a_state_has_its_tables_and_says_its_step(lessons, alone):
    style = training.style_in(lessons[0].style, alone[0][1])
    np.testing.assert_array_equal(style.tables["clip_l"], alone[0][1].tables["clip_l"])
    assert style.name == "one"
    assert style.metadata == {**lessons[0].style.metadata, "steps": 4}


@pytest.mark.parametrize("changes", [{"steps": 9}, {"init_word": "dog"}, {"learning_rate": 0.02}])
def test_settings_that_change_no_step_share_their_program(tiny, lessons, changes):
    settings = dataclasses.replace(SETTINGS, **changes)
    next(train(tiny, lessons[:1], [start(lessons[0])]))
    with compilations("advance") as compiled:
        next(training.train(tiny, lessons[:1], settings, [start(lessons[0])], lambda done: done + CHUNK))
    assert not compiled


def test_remat_takes_less_memory_and_learns_the_same(tiny, lessons):
    tables, batch = dict(lessons[0].style.tables), inversion.draw_batch(lessons[0].dataset, jax.random.key(0), 8)

    def memory_and_gradient(networks):
        program = jax.jit(inversion.gradient, static_argnums=0).lower(networks, tiny.params, tables, batch).compile()
        return program.memory_analysis().temp_size_in_bytes, program(tiny.params, tables, batch)[0]["clip_l"]

    memory, expected = memory_and_gradient(tiny.networks)
    less_memory, gradient = memory_and_gradient(tiny.networks.with_remat(tiny.params))
    assert less_memory < 0.8 * memory
    np.testing.assert_allclose(gradient, expected, atol=1e-5 * np.abs(expected).max())
