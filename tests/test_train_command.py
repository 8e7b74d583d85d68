"""``dreamstyler train``: what it writes, how it stops and resumes, and what it says about mistakes."""

import re
import shlex
import shutil
import signal
import socket

import numpy as np
import pytest
from lora_tools import random_layers, write_lora
from PIL import Image
from script_tools import (
    collectives,
    contents,
    dumping,
    largest_file,
    refusal,
    run,
    start,
    without_a_tensor,
    write_picture,
)

from benchmarks.interruptions import InterruptionsConfig, interrupt_training
from dreamstyler_jax.commands import sample, train
from dreamstyler_jax.commands.cli import parse
from dreamstyler_jax.commands.config import SampleConfig, TrainConfig
from dreamstyler_jax.commands.config_files import write_config
from dreamstyler_jax.commands.run_log import read_metrics
from dreamstyler_jax.commands.runs import check_resumable, check_same_inputs, is_finished
from dreamstyler_jax.commands.sessions import read_sessions
from dreamstyler_jax.commands.shared_options import MODEL_OPTIONS
from dreamstyler_jax.prompts import OBJECT_PROMPTS, sidecar_prompt
from dreamstyler_jax.runtime import images
from dreamstyler_jax.runtime.checkpoints import open_checkpoints
from dreamstyler_jax.runtime.errors import UserError
from dreamstyler_jax.runtime.interruption import listening
from dreamstyler_jax.runtime.locks import only_process
from dreamstyler_jax.style import FILE_NAME, Style, load_styles, step_file
from dreamstyler_jax.train_settings import suited

pytestmark = pytest.mark.usefixtures("one_compilation")
STEPS = 200
PROMPTS = ["A painting of a red house in the style of {}", "A painting of a small dog in the style of {}"]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Two pictures, each with a text file that holds its prompt."""
    folder = tmp_path_factory.mktemp("pictures")
    for number, (name, prompt) in enumerate(zip(("stars", "wave"), PROMPTS, strict=True)):
        write_picture(folder / f"{name}.png", number)
        (folder / f"{name}.txt").write_text(prompt + "\n")
    return folder


@pytest.fixture(scope="module")
def words(tiny_folder, pictures):
    """The options that the runs below share."""
    paths = [pictures / "stars.png", pictures / "wave.png"]
    sizes = ["--stages", 3, "--vectors", 2, "--batch_size", 2, "--learning_rate", 0.01, "--seed", 5]
    return ["--model", tiny_folder, "--images", *paths, *sizes, "--steps", STEPS]


@pytest.fixture(scope="module")
def finished(words, tmp_path_factory):
    """The folder of a run that was never interrupted."""
    folder = tmp_path_factory.mktemp("runs") / "finished"
    run(train, *words, "--log_every", 10, "--save_every", 100, "--output", folder)
    return folder


def table_of(file):
    """The table of a style's file."""
    return Style.load(file).tables["clip_l"]


# What a run writes


def test_the_style_is_learned_stage_by_stage(finished):
    table = table_of(finished / FILE_NAME)
    assert table.shape == (3, 2, 16)
    assert all(np.abs(table[a] - table[b]).max() > 0.01 for a, b in ((0, 1), (1, 2), (0, 2)))


def test_the_style_says_how_it_was_made(finished, tiny_folder, pictures):
    style = Style.load(finished / FILE_NAME)
    assert style.name == "stars"
    assert style.metadata["prompts"] == PROMPTS
    assert style.metadata["images"] == [str(pictures / "stars.png"), str(pictures / "wave.png")]
    facts = ("model", "steps", "learning_rate", "seed", "init_word", "resolution", "batch_size")
    assert [style.metadata[fact] for fact in facts] == [str(tiny_folder), STEPS, 0.01, 5, "auto", 16, 2]
    assert len(style.metadata["model_hash"]) == 12
    early = Style.load(step_file(finished, 100))
    assert dict(early.metadata) == {**style.metadata, "steps": 100}


def test_a_style_learned_with_loras_says_so(words, tiny, tmp_path, capfd):
    lora = write_lora(tmp_path / "ink.safetensors", random_layers(tiny.params))
    run(train, *words, "--steps", 10, "--loras", f"{lora}*0.50", "--output", tmp_path / "run")
    printed, style = capfd.readouterr(), Style.load(tmp_path / "run" / FILE_NAME)
    merged = tiny.with_loras(f"{lora}*0.5")
    assert (style.metadata["loras"], style.metadata["model_hash"]) == (f"{lora}*0.5", merged.hash)
    assert merged.loras.lines[0] in printed.err
    assert f"--loras '{lora}*0.5' --styles" in printed.out
    run(train, *words, "--steps", 10, "--preview_prompts", "--output", tmp_path / "plain")
    assert np.abs(table_of(tmp_path / "plain" / FILE_NAME) - table_of(tmp_path / "run" / FILE_NAME)).max() > 0.01
    more = ["--loras", f"{lora}*0.6", "--resume", "--output", tmp_path / "run"]
    assert "with other settings (loras)" in refusal(capfd, train, *words, "--steps", 20, *more)


def test_the_settings_can_be_read_again_and_hold_the_prompts(finished, words):
    more = ["--prompts", *PROMPTS, "--save_every", "100", "--output", str(finished)]
    given = parse(TrainConfig, [*map(str, words), *more])
    assert parse(TrainConfig, ["--config", str(finished / "config.yaml")]) == suited(given, text_width=0)


def test_the_metrics_of_every_log_point_are_there(finished):
    metrics = read_metrics(finished / "metrics.jsonl")
    assert [line["step"] for line in metrics] == list(range(10, STEPS + 1, 10))
    of_all = {"step", "loss", "gradient_norm", "images_per_second", "goodput"}
    assert set(metrics[0]) == of_all | {"stage_loss", "relative_norm"}
    assert all(line["loss"] > 0 and line["gradient_norm"] > 0 and line["images_per_second"] > 0 for line in metrics)
    assert all(len(line["stage_loss"]) == len(line["relative_norm"]) == 3 for line in metrics)
    table, words = table_of(finished / FILE_NAME), Style.load(finished / FILE_NAME).metadata["word_norms"]
    norms = np.linalg.norm(table, axis=-1).mean(-1) / words["clip_l"]
    np.testing.assert_allclose(metrics[-1]["relative_norm"], norms, rtol=1e-5)


def test_the_report_has_the_times_of_the_last_checkpoint_and_previews(words, tmp_path):
    """Which come after the last line of the log."""
    sizes = ["--steps", 10, "--log_every", 10, "--save_every", 10]
    run(train, *words, *sizes, "--output", tmp_path)
    (line,), (session,) = read_metrics(tmp_path / "metrics.jsonl"), read_sessions(tmp_path)
    assert line["goodput"]["checkpoint"] == line["goodput"]["previews"] == 0
    assert min(session["goodput"]["checkpoint"], session["goodput"]["previews"]) > 0
    page = (tmp_path / "report.html").read_text()
    shown = dict(re.findall(r'<tr><th scope="row">(\w+)</th><td>([\d.]+%)</td>', page))
    assert shown == {kind: f"{share:.1%}" for kind, share in session["goodput"].items()}


def test_the_previews_show_the_same_pictures_in_the_style_so_far(finished):
    before, after = (np.asarray(Image.open(finished / f"previews/step_{n:06d}.png")) for n in (100, STEPS))
    assert before.shape == after.shape
    tiles = np.abs(before.astype(int) - after).max(-1)
    assert 0 < (tiles > 8).mean() < 0.95  # the pictures change; the background and the labels do not


def test_charts_events_and_checkpoints_are_there(finished):
    assert Image.open(finished / "loss.png").width >= 400
    assert list((finished / "tensorboard").glob("events.*"))
    assert sorted(path.name for path in (finished / "checkpoints").iterdir()) == ["100", "200"]
    assert not [name for name in contents(finished) if name.endswith(".tmp")]


def test_the_style_is_kept_as_it_was_at_every_checkpoint(finished, words, tmp_path):
    styles = load_styles([finished], [100, STEPS])
    assert list(styles) == ["stars@100", f"stars@{STEPS}"]
    assert sorted(path.name for path in (finished / "steps").iterdir()) == [
        "step_000100.safetensors",
        f"step_{STEPS:06d}.safetensors",
    ]
    half, whole = (styles[f"stars@{step}"].tables["clip_l"] for step in (100, STEPS))
    np.testing.assert_array_equal(whole, table_of(finished / FILE_NAME))
    traced = ["--profile", tmp_path / "traces"]
    run(train, *words, "--steps", 100, "--preview_prompts", *traced, "--output", tmp_path / "shorter")
    np.testing.assert_array_equal(half, table_of(tmp_path / "shorter" / FILE_NAME))
    assert len(list((tmp_path / "traces").rglob("perfetto_trace.json.gz"))) == 1
    assert np.abs(half - whole).max() > 0.01


def test_it_says_what_it_is_about_to_do(words, pictures, tiny_folder, tmp_path, capsys):
    options = ["--steps", 1, "--preview_prompts", "--output", tmp_path]
    run(train, *words, "--images", pictures / "stars.png", *options)
    model, summary, starts, compiling, *progress = capsys.readouterr().err.splitlines()
    assert re.fullmatch(rf"StableDiffusion\('{tiny_folder}', 16 x 16 pixels, float32\) on \d+ x \w+", model)
    assert summary == f"Learning the style 'stars' from {pictures / 'stars.png'}: '{PROMPTS[0]}'"
    words_of_stages = Style.load(tmp_path / FILE_NAME).metadata["starting_words"]
    assert starts == f"Its stages start from the words that fit best: {', '.join(words_of_stages)}"
    assert compiling.startswith("Compiling")
    assert len(progress) == 1 and progress[0].startswith("step 1/1 ")


def test_masked_pictures_in_crops_from_a_style_and_with_other_timesteps(finished, words, tmp_path, capsys):
    """Two runs whose pictures differ where their masks are black learn the same table, bit for bit.

    A third one learns another, from other timesteps.
    """
    pixels = np.random.default_rng(0).integers(0, 256, (24, 36, 3), np.uint8)
    mask = np.ones((24, 36), np.uint8)
    mask[16:, 20:] = 0
    options = ["--framing", "random", "--init_style", finished, "--steps", 2, "--preview_prompts"]
    tables = []
    for name, colour, timesteps in (("a", 0, "style_friendly"), ("b", 255, "style_friendly"), ("c", 0, "uniform")):
        picture = tmp_path / name / "boat.png"
        picture.parent.mkdir()
        Image.fromarray(np.where(mask[..., None], pixels, colour).astype(np.uint8)).save(picture)
        Image.fromarray(mask * 255).save(picture.with_name("boat.mask.png"))
        more = ["--timesteps", timesteps, "--output", picture.parent / "run"]
        run(train, *words, "--images", picture, *options, *more)
        assert (
            f"Learning the style 'boat' from {picture}, without what is transparent or masked (85 % of {picture} "
            "count): 'A painting in the style of {}'\n"
        ) in capsys.readouterr().err
        style = Style.load(picture.parent / "run" / FILE_NAME)
        assert style.metadata["counted"] == {str(picture): round(1 - 8 * 16 / (24 * 36), 4)}
        assert (style.metadata["framing"], style.metadata.get("timesteps", "uniform")) == ("random", timesteps)
        assert style.metadata["init_style_hash"] == Style.load(finished / FILE_NAME).hash
        tables.append(style.tables["clip_l"])
    np.testing.assert_array_equal(*tables[:2])
    assert np.abs(tables[0] - tables[2]).max() > 1e-4
    assert np.abs(tables[0] - table_of(finished / FILE_NAME)).max() > 1e-4


# Stopping and resuming


def checkpoints(folder) -> list[int]:
    """The steps of the checkpoints that are complete."""
    return sorted(int(mark.parent.name) for mark in folder.glob("checkpoints/*/commit_success.txt"))


def test_nothing_is_lost_when_a_run_is_killed_and_told_to_stop_at_random_moments(tmp_path, capsys):
    """The short version of ``python -m benchmarks.interruptions``, which compares everything that is left."""
    config = InterruptionsConfig(kills=2, terminations=2, steps=600, previews=False, output=str(tmp_path))
    interrupt_training(config, complete=lambda command: run(train, *command[4:]))
    printed = capsys.readouterr().out
    assert printed.count("SIGKILL after step") == printed.count("SIGTERM after step") == 2
    assert "finished before" not in printed, "all four hit"


def test_a_finished_run_is_not_overwritten(finished, words, capfd):
    before = contents(finished)
    assert "already holds a finished style" in refusal(capfd, train, *words, "--output", finished)
    assert contents(finished) == before


def test_resuming_a_finished_run_says_so_and_changes_nothing(finished, words, capsys):
    before = contents(finished)
    run(train, *words, "--output", finished, "--resume")
    assert "is finished" in capsys.readouterr().out
    run(train, "--config", finished / "config.yaml", "--resume", "--steps", 50)
    assert "is finished" in capsys.readouterr().out
    assert contents(finished) == before


def test_other_settings_are_not_mixed_into_a_run(finished, words, capfd):
    before = contents(finished)
    other = ["--output", finished, "--resume", "--steps", 400, "--seed", 6, "--prompts", PROMPTS[0]]
    line = refusal(capfd, train, *words, *other)
    assert "(prompts, seed)" in line and "--output" in line
    assert contents(finished) == before


def test_an_unfinished_run_is_not_started_again_by_mistake(words, capfd, tmp_path):
    (tmp_path / "checkpoints" / "10").mkdir(parents=True)
    assert "--resume" in refusal(capfd, train, *words, "--output", tmp_path)


def test_more_steps_may_be_asked_for_unless_the_schedule_depends_on_them(tmp_path):
    (tmp_path / "checkpoints").mkdir()

    def resume(schedule, steps):
        shared = {"prompts": ["a {}"], "schedule": schedule, "output": str(tmp_path)}
        write_config(TrainConfig(steps=10, **shared), tmp_path / "config.yaml")
        check_resumable(TrainConfig(steps=steps, resume=True, **shared), tmp_path)

    resume("constant", 20)
    resume("linear", 10)
    with pytest.raises(UserError, match=r"with other settings \(steps\)"):
        resume("linear", 20)


def test_a_learning_rate_that_was_the_default_is_no_change(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    write_config(TrainConfig(learning_rate=0.02, output=str(tmp_path)), tmp_path / "config.yaml")
    check_resumable(TrainConfig(output=str(tmp_path), resume=True), tmp_path)
    for other in ({"learning_rate": 0.01}, {"norm": "fixed"}):
        with pytest.raises(UserError, match=f"with other settings .*{next(iter(other))}"):
            check_resumable(TrainConfig(output=str(tmp_path), resume=True, **other), tmp_path)


def test_a_run_is_finished_after_all_of_its_steps(finished):
    assert is_finished(TrainConfig(steps=STEPS, resume=True), finished)
    assert not is_finished(TrainConfig(steps=STEPS + 1, resume=True), finished)
    assert not is_finished(TrainConfig(steps=STEPS), finished)


@pytest.mark.parametrize("metrics", [b"", None], ids=["empty", "missing"])
def test_a_run_without_its_metrics_still_ends_with_its_style(finished, words, tmp_path, metrics):
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    for name in (FILE_NAME, "loss.png", "metrics.jsonl"):
        (folder / name).unlink()
    if metrics is not None:
        (folder / "metrics.jsonl").write_bytes(metrics)
    run(train, *words, "--log_every", 10, "--output", folder, "--resume")
    np.testing.assert_array_equal(table_of(folder / FILE_NAME), table_of(finished / FILE_NAME))
    assert not (folder / "loss.png").exists()


def test_the_style_is_written_before_the_chart(finished, words, tmp_path):
    """Something is in the chart's place, so that it cannot be written."""
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    (folder / FILE_NAME).unlink()
    (folder / "loss.png").unlink()
    (folder / "loss.png").mkdir()
    with pytest.raises(OSError, match=r"loss\.png"):
        run(train, *words, "--output", folder, "--resume")
    np.testing.assert_array_equal(table_of(folder / FILE_NAME), table_of(finished / FILE_NAME))


def test_the_checkpoints_of_an_older_version_can_be_resumed(finished, words, tmp_path):
    """They hold the table, the optimizer's count, moments and schedule, and the step, as arrays without names."""
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    (folder / FILE_NAME).unlink()
    shutil.rmtree(folder / "checkpoints" / "200")
    table, scalar = np.zeros((3, 2, 16), np.float32), np.int32(0)
    with open_checkpoints(folder / "checkpoints") as store:
        state = store.restore([table, scalar, table, table, scalar, scalar])
    assert state is not None and int(state[-1]) == 100
    with open_checkpoints(tmp_path / "older") as store:
        store.save(100, state)
    shutil.rmtree(folder / "checkpoints")
    (tmp_path / "older").rename(folder / "checkpoints")
    run(train, *words, "--log_every", 10, "--output", folder, "--resume")
    np.testing.assert_array_equal(table_of(folder / FILE_NAME), table_of(finished / FILE_NAME))


@pytest.mark.parametrize("step", [100, STEPS])
def test_what_a_kill_left_undone_after_a_checkpoint_is_made_on_resuming(step, finished, words, tmp_path):
    """As if it had come between the checkpoint and what comes with it; and while a file was written."""
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    (folder / FILE_NAME).unlink()
    for later in {100, STEPS} - set(range(step)):
        (folder / "steps" / f"step_{later:06d}.safetensors").unlink()
        (folder / "previews" / f"step_{later:06d}.png").unlink()
        if later > step:
            shutil.rmtree(folder / "checkpoints" / str(later))
    for part in (".", "steps", "previews"):
        (folder / part / f".{'0f' * 16}.tmp").write_bytes(b"half")
    run(train, *words, "--log_every", 10, "--save_every", 100, "--output", folder, "--resume")
    ours, expected = (
        {name: data for name, data in contents(place).items() if not name.startswith(("checkpoints/", "tensorboard/"))}
        for place in (folder, finished)
    )
    assert ours.keys() == expected.keys()
    for name in expected.keys() - {"metrics.jsonl", "config.yaml", "sessions.jsonl", "report.html"}:
        assert ours[name] == expected[name], name


def test_what_a_kill_left_undone_after_the_style_is_made_on_resuming(finished, words, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    for name in (f"steps/step_{STEPS:06d}.safetensors", f"previews/step_{STEPS:06d}.png", "loss.png"):
        (folder / name).unlink()
    run(train, *words, "--log_every", 10, "--save_every", 100, "--output", folder, "--resume")
    assert contents(folder) == contents(finished)


def test_checkpoints_without_their_settings_are_refused(finished, words, capfd, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    for name in (FILE_NAME, "config.yaml"):
        (folder / name).unlink()
    line = refusal(capfd, train, *words, "--seed", 6, "--output", folder, "--resume")
    assert "config.yaml is missing" in line and checkpoints(folder) == [100, 200]


def test_two_processes_do_not_train_in_one_folder(words, capfd, tmp_path):
    with only_process(tmp_path / "run"):
        before = contents(tmp_path)
        with pytest.raises(UserError, match="another process is writing"):
            run(train, *words, "--output", tmp_path / "run")
        assert contents(tmp_path) == before


def test_a_full_disk_ends_with_one_line_that_names_the_file(words, tmp_path):
    with largest_file(3000), pytest.raises((UserError, OSError)) as error:
        run(train, *words, "--log_every", 10, "--save_every", 100, "--preview_prompts", "--output", tmp_path / "run")
    assert str(tmp_path / "run") in str(error.value) and "File too large" in str(error.value)
    assert getattr(error.value, "errno", None) in (None, 27), "an error of the disk, or of the user"


def test_fewer_steps_than_are_done_are_refused(finished, words, capfd, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    (folder / FILE_NAME).unlink()
    settings = (folder / "config.yaml").read_bytes()
    fewer = ["--steps", 150, "--output", folder, "--resume", "--config", folder / "config.yaml"]
    assert "has already done 200 steps" in refusal(capfd, train, *words, *fewer)
    assert (folder / "config.yaml").read_bytes() == settings
    assert checkpoints(folder) == [100, 200]


# Several styles at once


@pytest.fixture(scope="module")
def separate(tiny_folder, pictures, tmp_path_factory):
    """The options that learn a style from each picture, and the folder of the finished runs."""
    paths = ["--images", pictures / "stars.png", pictures / "wave.png"]
    folder = tmp_path_factory.mktemp("separate") / "runs"
    sizes = ["--stages", 3, "--batch_size", 2, "--steps", 20, "--save_every", 5, "--preview_prompts"]
    command = ["--model", tiny_folder, *sizes, "--separate", *paths]
    run(train, *command, "--output", folder)
    return command, folder


def test_styles_learned_at_once_are_the_same_as_learned_alone(separate, tmp_path):
    _, folder = separate
    for name in ("stars", "wave"):
        run(train, "--config", folder / name / "config.yaml", "--output", tmp_path / name)
        together, alone = (Style.load(place / name / FILE_NAME) for place in (folder, tmp_path))
        np.testing.assert_allclose(together.tables["clip_l"], alone.tables["clip_l"], atol=1e-5)
        assert (together.name, together.metadata) == (alone.name, alone.metadata)
        files, expected = (sorted(path.name for path in (place / name).iterdir()) for place in (folder, tmp_path))
        assert files == expected
    assert sorted(load_styles([str(folder)], [])) == ["stars", "wave"]
    kept = [step_file(folder / "wave", step).name for step in (5, 10, 15, 20)]
    assert sorted(path.name for path in (folder / "wave" / "steps").iterdir()) == kept, (
        "save_every is less than log_every"
    )


def test_styles_interrupted_between_their_checkpoints_resume_together(separate, tmp_path):
    command, finished = separate
    folder = tmp_path / "runs"
    shutil.copytree(finished, folder)
    for name in ("stars", "wave"):
        (folder / name / FILE_NAME).unlink()
    shutil.rmtree(folder / "wave" / "checkpoints" / "20")
    run(train, *command, "--output", folder, "--resume")
    for name in ("stars", "wave"):
        np.testing.assert_array_equal(table_of(folder / name / FILE_NAME), table_of(finished / name / FILE_NAME))
        assert [line["step"] for line in read_metrics(folder / name / "metrics.jsonl")] == [5, 10, 15, 20]


def test_a_style_that_diverges_is_named_and_does_not_stop_the_others(separate, tmp_path):
    command, finished = separate
    folder = tmp_path / "runs"
    shutil.copytree(finished, folder)
    for name in ("stars", "wave"):
        (folder / name / FILE_NAME).unlink()
        shutil.rmtree(folder / name / "checkpoints" / "20")
    with open_checkpoints(folder / "wave" / "checkpoints") as store:
        table, scalar = np.zeros((3, 1, 16), np.float32), np.int32(0)
        state = store.restore([table, scalar, table, table, scalar, scalar])
        assert state is not None
        store.save(15, [np.full_like(table, np.nan), *state[1:]])
    with pytest.raises(UserError, match=r"the style 'wave' was not learned: loss is nan at step 20: .*has diverged"):
        run(train, *command, "--output", folder, "--resume")
    np.testing.assert_array_equal(table_of(folder / "stars" / FILE_NAME), table_of(finished / "stars" / FILE_NAME))
    assert not (folder / "wave" / FILE_NAME).exists()
    assert [line["step"] for line in read_metrics(folder / "wave" / "metrics.jsonl")] == [5, 10, 15]


def test_styles_that_are_far_apart_go_on_from_where_each_is(separate, tmp_path, capfd):
    """As after one has diverged long before the others were stopped."""
    command, finished = separate
    folder = tmp_path / "runs"
    shutil.copytree(finished, folder)
    for name in ("stars", "wave"):
        (folder / name / FILE_NAME).unlink()
    shutil.rmtree(folder / "wave" / "checkpoints")
    (folder / "wave" / "checkpoints").mkdir()
    before = (folder / "stars" / "metrics.jsonl").read_bytes()
    run(train, *command, "--output", folder, "--resume")
    tables = {name: [table_of(runs / name / FILE_NAME) for runs in (folder, finished)] for name in ("stars", "wave")}
    np.testing.assert_array_equal(*tables["stars"])
    np.testing.assert_allclose(*tables["wave"], atol=2e-6)  # a program for one style rounds otherwise than one for two
    assert (folder / "stars" / "metrics.jsonl").read_bytes() == before


@pytest.fixture(scope="module")
def batches_of_eight(words, tmp_path_factory):
    """The options of a run, and its folder, learned on one device."""
    folder = tmp_path_factory.mktemp("eight") / "run"
    sizes = ["--batch_size", 8, "--steps", 10, "--log_every", 5, "--save_every", 5]
    command = [*words, *sizes, "--preview_prompts"]
    run(train, *command, "--output", folder)
    return command, folder


@pytest.mark.parametrize(("shared", "devices", "expected"), [("batch", 8, ["all-reduce"]), ("styles", 2, [])])
def test_several_devices_learn_what_one_does_with_one_program(
    shared, devices, expected, batches_of_eight, separate, tmp_path
):
    command, one = batches_of_eight if shared == "batch" else separate
    env = {"JAX_NUM_CPU_DEVICES": str(devices), **dumping(tmp_path / "programs", "advance")}
    env["JAX_ENABLE_COMPILATION_CACHE"] = "false"  # a program from the cache is not written
    with start(train, *command, "--output", tmp_path / "several", env=env) as process:
        _, printed = process.communicate()
    assert process.returncode == 0, printed
    assert collectives(tmp_path / "programs") == [expected], "one program, which adds up the gradients once"
    assert_the_same_runs(one, tmp_path / "several", 2 if shared == "styles" else 1)


def assert_the_same_runs(one, several, count):
    """Checks tables and losses of all runs below two folders."""
    runs = [sorted(folder.rglob(FILE_NAME)) for folder in (one, several)]
    assert len(runs[0]) == len(runs[1]) == count
    for files in zip(*runs, strict=True):
        alone, several = map(table_of, files)
        np.testing.assert_allclose(several, alone, atol=1e-5)
        losses = [[line["stage_loss"] for line in read_metrics(file.parent / "metrics.jsonl")] for file in files]
        np.testing.assert_allclose(*(np.array(loss, float) for loss in losses), rtol=1e-4)


def test_a_run_does_not_go_on_with_another_picture_behind_the_same_path(finished, words, pictures, capfd):
    stars = pictures / "stars.png"
    before = stars.read_bytes()
    try:
        write_picture(stars, 7)
        line = refusal(capfd, train, *words, "--log_every", 10, "--output", finished, "--resume")
    finally:
        stars.write_bytes(before)
    assert "stars.png changed since the run began; bring back what it began with" in line
    metadata = Style.load(finished / FILE_NAME).metadata
    check_same_inputs(finished, metadata)
    with pytest.raises(UserError, match="the model's weights, the model's configs, scheduler or tokenizer changed"):
        check_same_inputs(finished, {**metadata, "model_hash": "0", "model_settings": "0"})
    check_same_inputs(finished, {**metadata, "init_style_hash": "0"})  # it began without a style


def test_a_run_that_was_stopped_before_its_first_style_knows_its_pictures(words, pictures, tmp_path, capfd):
    stars = write_picture(tmp_path / "stars.png", 0)
    words = [*words, "--images", stars, pictures / "wave.png", "--log_every", 10, "--output", tmp_path / "run"]
    with listening(lambda: None), pytest.raises(KeyboardInterrupt):
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
        run(train, *words)
    assert capfd.readouterr().out.startswith("Time 00:")
    assert checkpoints(tmp_path / "run") == [10] and not (tmp_path / "run" / "steps").exists()
    write_picture(stars, 7)
    assert "stars.png changed since the run began" in refusal(capfd, train, *words, "--resume")
    (tmp_path / "run" / "training_inputs.json").write_text("[]")
    assert "training_inputs.json" in refusal(capfd, train, *words, "--resume")


def test_a_run_of_an_earlier_version_knows_its_pictures_from_its_styles(finished, tmp_path):
    metadata = Style.load(finished / FILE_NAME).metadata
    shutil.copytree(finished / "steps", tmp_path / "steps")
    check_same_inputs(tmp_path, metadata)
    with pytest.raises(UserError, match="the model's weights changed"):
        check_same_inputs(tmp_path, {**metadata, "model_hash": "0"})
    shutil.rmtree(tmp_path / "steps")
    check_same_inputs(tmp_path, {**metadata, "model_hash": "0"})


def test_a_run_does_not_replace_files_of_somebody_elses(words, tmp_path, capfd):
    (tmp_path / "config.yaml").write_text("# mine\ntrain: {steps: 3}\nsample: {steps: 9}\n")
    words = ["--config", tmp_path / "config.yaml", *words, "--output", tmp_path]
    for more in [], ["--resume"]:
        assert "holds config.yaml, which this program has not written" in refusal(capfd, train, *words, *more)
    assert (tmp_path / "config.yaml").read_text().startswith("# mine")
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]


def test_two_hosts_of_four_devices_go_on_as_one_device_would(batches_of_eight, tmp_path):
    """They start from a checkpoint of one device. Only the first host reads and writes the run."""
    command, one = batches_of_eight
    folder = tmp_path / "run"
    shutil.copytree(one, folder)
    (folder / FILE_NAME).unlink()
    shutil.rmtree(folder / "checkpoints" / "10")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    together = ["--distributed", "--coordinator_address", address, "--num_processes", 2, "--resume"]
    hosts = []
    for number, output in enumerate((folder, tmp_path / "nothing")):
        env = {"JAX_NUM_CPU_DEVICES": "4", **dumping(tmp_path / "programs" / str(number), "advance")}
        env["JAX_ENABLE_COMPILATION_CACHE"] = "false"
        hosts.append(start(train, *command, *together, "--process_id", number, "--output", output, env=env))
    printed = [host.communicate(timeout=300) for host in hosts]
    assert [host.returncode for host in hosts] == [0, 0], printed
    said = [[line for line in output.splitlines() if line and not line.startswith("[Gloo]")] for output, _ in printed]
    assert "paint with it" in said[0][-2]
    assert said[1] == ["Process 1 of 2 has done its part; the first one has the style"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["programs", "run"]
    assert [collectives(tmp_path / "programs" / number) for number in "01"] == [[["all-reduce"]]] * 2
    assert_the_same_runs(one, folder, 1)
    assert checkpoints(folder) == [5, 10]


# Prompts


def test_prompts_come_from_the_option_or_a_text_file_or_describe_nothing(pictures, tmp_path):
    paths = [str(pictures / "stars.png"), str(write_picture(tmp_path / "bare.png", 0))]
    nothing = "A painting in the style of {}"
    assert train.training_prompts(TrainConfig(images=paths), paths) == [PROMPTS[0], nothing]
    assert train.training_prompts(TrainConfig(images=paths, prompts=["a {}"]), paths) == ["a {}", "a {}"]
    assert train.training_prompts(TrainConfig(images=paths, prompts=["a {}", "b {}"]), paths) == ["a {}", "b {}"]


@pytest.mark.parametrize(("property", "wordings"), [("object", len(OBJECT_PROMPTS)), ("style", 1)])
def test_an_object_without_a_description_has_several_wordings(property, wordings, tiny, pictures, tmp_path):
    paths = [str(pictures / "stars.png"), str(write_picture(tmp_path / "bare.png", 0))]
    config = TrainConfig(images=paths, property=property, init_word="cat")
    texts = train.training_prompts(config, paths)
    bare = {"object": "A photo of {}", "style": "A painting in the style of {}"}[property]
    assert texts == [PROMPTS[0], bare] and (config.preview_prompts == ["A photo of {}"]) == (property == "object")
    config = TrainConfig(images=paths, property=property, init_word="cat", prompts=texts)
    prepared = train.prepare_run(tiny, config, {path: images.load(path) for path in paths})
    described, other = np.asarray(prepared.lesson.dataset.tokens["clip_l"].ids)
    assert [len(np.unique(ids, axis=0)) for ids in (described, other)] == [1, wordings]


def test_the_closing_line_names_the_model_as_it_was_loaded():
    model = dict(model="my model.ckpt", vae="new vae.safetensors", prediction_type="v_prediction", allow_pickle=True)
    config = TrainConfig(**model, variant="fp16", revision="main")
    program, command, *words = shlex.split(train.painting_command(config))
    assert (program, command) == ("dreamstyler", "sample")
    again = parse(SampleConfig, words)
    assert [getattr(again, name) for name in MODEL_OPTIONS] == [getattr(config, name) for name in MODEL_OPTIONS]
    assert again.styles == [config.output] and "--prompts" not in words


def test_the_closing_line_asks_for_a_learned_object_alone():
    config = TrainConfig(property="object", init_word="cat", name="my_cat")
    assert train.painting_command(config) == "dreamstyler sample --styles runs/my_cat --prompts 'A photo of {}'"


def test_an_object_is_learned_and_painted_in_a_style(finished, words, pictures, tmp_path):
    """Two styles in one prompt, one of which was learned as an object."""
    cat = write_picture(tmp_path / "cat.png", 3)
    more = ["--images", cat, "--property", "object", "--init_word", "dog", "--steps", 10]
    run(train, *words, *more, "--output", tmp_path / "cat")
    assert Style.load(tmp_path / "cat" / FILE_NAME).metadata["property"] == "object"
    prompt = "A painting of {cat} in the style of {stars}"
    model = words[words.index("--model") + 1]
    options = ["--model", model, "--styles", tmp_path / "cat", finished, "--seeds", 0, "--steps", 2]
    run(sample, *options, "--prompts", prompt, "--guidance", "paper", "--output", tmp_path / "out")
    assert len(list((tmp_path / "out" / "images").iterdir())) == 1


def test_a_prompt_file_may_have_a_byte_order_mark_and_line_breaks(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfA house\r\nin the style of {}\r\n")
    assert sidecar_prompt(tmp_path / "a.png") == "A house in the style of {}"


# Mistakes: one line that says what to do, and no files


def mistaken_words(kind, folder, model) -> list:
    """Options with one mistake, complete except for the output."""
    picture = write_picture(folder / "picture.png", 0)
    command = ["--model", model, "--images", picture, "--steps", 1]
    if kind == "missing picture":
        return [*command, "--images", folder / "absent.png"]
    if kind == "text as picture":
        (folder / "notes.png").write_text("not a picture")
        return [*command, "--images", folder / "notes.png"]
    if kind == "picture cut short":
        (folder / "cut.png").write_bytes(picture.read_bytes()[:300])
        return [*command, "--images", folder / "cut.png"]
    if kind == "unreadable prompt file":
        (folder / "picture.txt").write_bytes(b"\xff\xfe\x00")
    if kind == "empty prompt file":
        (folder / "picture.txt").write_text(" \n")
    if kind == "tensor missing":
        return [*command, "--model", without_a_tensor(model, folder / "broken")]
    if kind == "mask of another size":
        write_picture(folder / "picture.mask.png", 1, (9, 9))
    if kind == "no model":
        return [*command, "--model", folder / "nowhere"]
    return command


MISTAKES = [
    ("unknown option", ["--learning_rat", "1"], r"unknown option --learning_rat; did you mean --learning_rate\?"),
    ("wrong type", ["--stages", "six"], "stages: must be a whole number, not 'six'"),
    ("missing picture", [], "there is no picture .*absent.png"),
    ("text as picture", [], "notes.png is not a picture"),
    ("picture cut short", [], "cannot read the picture .*cut.png"),
    ("mask of another size", [], r"picture.mask.png has 9 x 9 pixels, and \S+ has 20 x 14"),
    (
        "a word and a style to start from",
        ["--init_word", "sea", "--init_style", "a"],
        "init_word, init_style: give one",
    ),
    ("unreadable prompt file", [], "cannot read .*picture.txt.*not UTF-8"),
    ("empty prompt file", [], "picture.txt is empty: write"),
    ("no placeholder", ["--prompts", "A painting"], r"'A painting' has no placeholder: write \{\}"),
    ("placeholder too late", ["--prompts", "red " * 30 + "{}"], "beyond the 24-token window: shorten"),
    ("lone brace", ["--prompts", "A painting {"], "lone '{'.*write it twice"),
    ("preview without placeholder", ["--preview_prompts", "A house"], "'A house' has no placeholder"),
    ("preview of another style", ["--preview_prompts", "A {monet}"], r"unknown style \{monet\}: write one of"),
    ("no multiple", ["--resolution", "17"], "resolution: must be a multiple of 2 .* such as 16, not 17"),
    ("tensor missing", [], "unet.*missing: conv_in.bias"),
    ("an object of no kind", ["--property", "object"], "init_word: say in a word what kind of thing the object is"),
    (
        "separate styles with one name",
        ["--separate", "--name", "gogh"],
        "name: with separate each style is named after its picture's file",
    ),
    ("no model", [], "no model folder .*nowhere.*give an existing folder"),
]


@pytest.mark.parametrize(("kind", "more", "complaint"), MISTAKES, ids=[mistake[0] for mistake in MISTAKES])
def test_a_mistake_ends_with_one_line_and_nothing_written(kind, more, complaint, tiny_folder, tmp_path, capfd):
    (tmp_path / "given").mkdir()
    words = mistaken_words(kind, tmp_path / "given", tiny_folder)
    line = refusal(capfd, train, *words, *more, "--output", tmp_path / "run")
    assert re.search(complaint, line), line
    assert not (tmp_path / "run").exists()


def test_an_output_that_is_a_file_is_named(tiny_folder, tmp_path, capfd):
    (tmp_path / "run").write_text("mine")
    words = ["--model", tiny_folder, "--images", write_picture(tmp_path / "a.png", 0), "--steps", 1]
    assert str(tmp_path / "run") in refusal(capfd, train, *words, "--output", tmp_path / "run")
    assert (tmp_path / "run").read_text() == "mine"
    assert "output: File name too long" in refusal(capfd, train, *words, "--output", tmp_path / ("x" * 300))
