"""The evaluation loss, when it has settled, and trainings that stop by it; moving averages of what is learned."""

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from script_tools import refusal, run, write_picture

from dreamstyler_jax import inversion, stopping, training
from dreamstyler_jax.commands import train
from dreamstyler_jax.commands.run_log import read_metrics
from dreamstyler_jax.commands.train import stopping_line
from dreamstyler_jax.runtime.errors import UserError
from dreamstyler_jax.stable_diffusion.schedule import stage_of
from dreamstyler_jax.stopping import SAMPLES_PER_STAGE, WINDOW, evaluation_batch, evaluation_losses, settled_at
from dreamstyler_jax.style import FILE_NAME, Style
from dreamstyler_jax.train_settings import AUTO_STEPS, MOST_STEPS, TrainSettings

pytestmark = pytest.mark.usefixtures("one_compilation")
PROMPTS = ["a red house in the style of {}", "a small dog in the style of {}"]
STAGES = 3


def lesson_of(tiny, **settings):
    pictures = {
        str(i): Image.fromarray(np.random.default_rng(i).integers(0, 256, (16, 16, 3), np.uint8)) for i in (0, 1)
    }
    return training.prepare(tiny, "s", pictures, PROMPTS, TrainSettings(stages=STAGES, batch_size=3, **settings))


# The loss


def test_every_stage_is_measured_at_timesteps_of_its_own_on_all_pictures_and_views(tiny):
    dataset = lesson_of(tiny).dataset
    batch = evaluation_batch(dataset, STAGES)
    assert batch.timesteps.shape == (1, STAGES * SAMPLES_PER_STAGE)
    np.testing.assert_array_equal(stage_of(batch.timesteps[0], STAGES), np.repeat(range(STAGES), SAMPLES_PER_STAGE))
    np.testing.assert_allclose(np.diff(batch.timesteps[0]), 1000 / 12, atol=1)
    views = {view.tobytes() for views in np.asarray(dataset.mean) for view in views}
    for of_stage in np.split(np.asarray(batch.latents[0]), STAGES):
        assert {latents.tobytes() for latents in of_stage} == views
    assert batch.tokens["clip_l"].ids.shape[:2] == (1, STAGES * SAMPLES_PER_STAGE)


@pytest.mark.parametrize(("side", "rows"), [(16, 1), (32, 2), (64, 6), (128, 6)])
def test_large_latents_are_measured_stage_by_stage(tiny, side, rows):
    dataset = lesson_of(tiny).dataset
    large = dataset._replace(mean=np.zeros((2, 1, side, side, 4), np.float32))
    batch = evaluation_batch(large, 6)
    assert batch.latents.shape == (rows, 24 // rows, side, side, 4)
    np.testing.assert_array_equal(batch.timesteps.reshape(-1), evaluation_batch(dataset, 6).timesteps.reshape(-1))


def test_it_is_the_loss_of_training_on_these_samples(tiny):
    lesson = lesson_of(tiny)
    batch, tables = evaluation_batch(lesson.dataset, STAGES), dict(lesson.style.tables)
    flat = jax.tree.map(lambda leaf: leaf[0], batch)
    losses = jax.jit(inversion.sample_losses, static_argnums=0)(tiny.networks, tiny.params, tables, flat)
    np.testing.assert_allclose(evaluation_losses(tiny.networks, tiny.params, tables, batch)[0], losses, rtol=1e-5)
    found = stopping.Watch(tiny.networks, tiny.params, lesson.dataset, STAGES).measure(tables)
    np.testing.assert_allclose(found, losses.reshape(STAGES, -1).mean(1), rtol=1e-5)


@pytest.mark.parametrize("most", [6, 3, 0])
def test_an_evaluation_that_exhausts_the_memory_computes_fewer_samples_at_once(tiny, most, recwarn):
    def loss(networks, params, tables, batch):
        if batch.timesteps.shape[1] > most:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.")
        return batch.timesteps

    lesson = lesson_of(tiny)
    watch = stopping.Watch(tiny.networks, tiny.params, lesson.evaluated, STAGES, loss=loss)
    if not most:
        with pytest.raises(UserError, match=r"even one sample of the evaluation needs more .*--evaluate_every 0"):
            watch.measure(lesson.style.tables)
        return
    for _ in range(2):
        assert watch.measure(lesson.style.tables) == pytest.approx([166.25, 499.5, 832.75], abs=1)
    assert sum("computing 3 at once" in str(warning.message) for warning in recwarn) == (most == 3)


# When it has settled


def falling(count, noise, seed=0, settles=10.0):
    rng = np.random.default_rng(seed)
    return [[value, 2 * value] for value in 0.1 + np.exp(-np.arange(count) / settles) + rng.normal(0, noise, count)]


def test_it_settles_when_it_has_stopped_falling():
    assert settled_at(falling(100, 1e-3, settles=1e6)) is None, "it falls along a line"
    early, late = (settled_at(falling(200, 1e-3, settles=settles)) for settles in (5.0, 30.0))
    assert WINDOW < early < late < 200
    assert settled_at([[1.0, 1.0]] * WINDOW) is None, "too few to tell"


@given(st.integers(0, 100), st.integers(1, 60))
def test_later_losses_do_not_change_when_it_had_settled(seed, length):
    losses = falling(60, 0.02, seed, settles=4.0)
    whole, part = settled_at(losses), settled_at(losses[:length])
    assert part == (whole if whole is not None and whole < length else None)


def test_stages_count_alike_whatever_the_size_of_their_losses():
    small = np.array(falling(60, 1e-3))[:, 0]
    for size in (0.001, 1000.0):
        noisy_but_constant = size * (1 + np.random.default_rng(1).normal(0, 1e-4, 60))
        assert settled_at(np.stack([small, noisy_but_constant], 1)) == settled_at(small[:, None])


# Trainings that stop


@pytest.fixture
def hasty(monkeypatch):
    """A loss counts as settled soon."""
    monkeypatch.setattr(stopping, "WINDOW", 3)
    monkeypatch.setattr(stopping, "RATIO", 0.05)


@pytest.fixture
def command(tiny_folder, tmp_path):
    for number in range(2):
        write_picture(tmp_path / f"picture{number}.png", number)
    words = ["--model", tiny_folder, "--images", tmp_path / "picture0.png", tmp_path / "picture1.png", "--separate"]
    words += [
        "--init_word",
        "painting",
        "--stages",
        STAGES,
        "--batch_size",
        3,
        "--learning_rate",
        0.02,
        "--preview_prompts",
    ]
    return [*words, "--evaluate_every", 2, "--save_every", 4, "--steps", "auto", "--output", tmp_path / "runs"]


@pytest.mark.usefixtures("hasty")
def test_each_of_several_styles_stops_where_its_own_loss_settles_and_resumes_there(command, tmp_path, capsys):
    run(train, *command)
    said, styles = capsys.readouterr().out, {}
    for name in ("picture0", "picture1"):
        folder = tmp_path / "runs" / name
        lines = read_metrics(folder / "metrics.jsonl")
        losses = [line["evaluation_loss"] for line in lines]
        assert [line["step"] for line in lines] == [2 * (i + 1) for i in range(len(lines))]
        styles[name] = Style.load(folder / FILE_NAME)
        steps = styles[name].metadata["steps"]
        assert lines[-1]["step"] == steps < MOST_STEPS
        assert settled_at(losses) == steps / 2 - 1
        assert f"The evaluation loss of '{name}' had settled after {steps} steps, so training stopped" in said
    assert styles["picture0"].metadata["steps"] != styles["picture1"].metadata["steps"]
    run(train, *command, "--resume")
    assert capsys.readouterr().out.count("is finished") == 2
    for name in styles:
        (tmp_path / "runs" / name / FILE_NAME).unlink()
    run(train, *command, "--resume")
    for name, style in styles.items():
        np.testing.assert_array_equal(
            Style.load(tmp_path / "runs" / name / FILE_NAME).tables["clip_l"], style.tables["clip_l"]
        )


def test_a_training_of_some_steps_says_where_it_could_have_stopped(hasty, tiny):
    lesson = lesson_of(tiny)
    settings = TrainSettings(stages=STAGES, batch_size=3, steps=20, learning_rate=0.02, evaluate_every=2)
    chunks = list(
        training.train(tiny, [lesson], settings, [training.begin(lesson, settings)], lambda done: done + 5 - done % 5)
    )
    assert [chunk.step for chunk in chunks] == [2, 4, 5, 6, 8, 10, 12, 14, 15, 16, 18, 20]
    losses = [chunk.metrics[0]["evaluation_loss"] for chunk in chunks if chunk.step % 2 == 0]
    step = 2 * (settled_at(losses) + 1)
    assert [chunk.settled for chunk in chunks] == [[step if chunk.step >= step else None] for chunk in chunks]
    assert step < 20
    assert "had settled after 90 of 200 steps, where --steps auto would have stopped" in stopping_line(200, 90)
    assert stopping_line(50, None) == "has not settled in 50 steps: more could help"


def test_held_out_pictures_are_measured_and_not_learned_from(tiny):
    whole, part = lesson_of(tiny), lesson_of(tiny, held_out=1, evaluate_every=5)
    for rows, expected in ((part.dataset.mean, whole.dataset.mean[:1]), (part.evaluated.mean, whole.dataset.mean[1:])):
        np.testing.assert_array_equal(rows, expected)
    np.testing.assert_array_equal(part.evaluated.tokens["clip_l"].ids, whole.dataset.tokens["clip_l"].ids[1:])
    assert whole.evaluated is whole.dataset
    with pytest.raises(UserError, match="held_out: 2 of 2 pictures leave none"):
        lesson_of(tiny, held_out=2, evaluate_every=5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"held_out": 1}, "held_out: nothing measures these pictures"),
        ({"steps": "auto", "schedule": "cosine"}, "schedule: cosine needs a number of steps"),
        ({"steps": "soon"}, "steps: must be a number or auto, not 'soon'"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        TrainSettings(**settings)


def test_auto_is_a_word_for_a_number_of_steps(capfd, tmp_path):
    assert TrainSettings(steps="auto").steps == AUTO_STEPS
    complaint = refusal(capfd, train, "--steps", "automatic")
    assert "steps: must be a whole number or null or auto, not 'automatic'" in complaint


# Averages


def test_the_average_forgets_at_its_rate_and_does_not_lean_to_zero(tiny):
    decay, steps = 0.5, 4
    lesson = lesson_of(tiny, average=decay)
    settings = TrainSettings(stages=STAGES, batch_size=3, steps=steps, average=decay)
    chunks = list(training.train(tiny, [lesson], settings, [training.begin(lesson, settings)], lambda done: done + 1))
    tables = [np.asarray(chunk.states[0].tables["clip_l"]) for chunk in chunks]
    weights = decay ** np.arange(steps)[::-1]
    expected = np.tensordot(weights / weights.sum(), tables, 1)
    np.testing.assert_allclose(
        training.style_in(lesson.style, chunks[-1].states[0]).tables["clip_l"], expected, atol=1e-6
    )


def test_the_average_of_directions_keeps_their_norms(tiny):
    lesson = lesson_of(tiny, average=0.9, norm="fixed")
    tables = {name: np.asarray(table) for name, table in lesson.style.tables.items()}
    shrunk = training.TrainState(tables, None, np.int32(1), {name: 0.02 * table for name, table in tables.items()})
    np.testing.assert_allclose(training.learned_tables(lesson.style, shrunk)["clip_l"], tables["clip_l"], rtol=1e-5)
