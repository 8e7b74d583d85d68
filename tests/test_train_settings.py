"""What suits a model where the settings of a training do not say, for the command, in Python and in resumed runs."""

import warnings

import pytest
from script_tools import run, write_picture

import dreamstyler_jax as ds
from dreamstyler_jax import api, train_settings
from dreamstyler_jax.commands import train
from dreamstyler_jax.commands.cli import parse
from dreamstyler_jax.commands.config import TrainConfig
from dreamstyler_jax.commands.config_files import read_config, write_config
from dreamstyler_jax.commands.runs import check_resumable, continued, training_command
from dreamstyler_jax.runtime.errors import UserError
from dreamstyler_jax.train_settings import AUTO_STEPS, TrainSettings, suited

WIDTHS = {"embedded": 128, "sd15": 768, "sd21": 1024, "sdxl": 768}  # of the (first) text encoder
PROMPT = "A painting of a red house in the style of {}"


def numbers(settings):
    return settings.steps, settings.learning_rate


@pytest.fixture
def learned(monkeypatch):
    """Trains nothing; the runs that the command would have trained together."""
    groups = []
    monkeypatch.setattr(train, "train_runs", lambda model, runs, clock, window: groups.append(runs) or {})
    return groups


@pytest.fixture
def tiny_is_stable_diffusion(monkeypatch):
    monkeypatch.setattr(train_settings, "STABLE_DIFFUSION_WIDTH", 16)


@pytest.mark.parametrize("model", WIDTHS)
def test_every_kind_of_model_has_steps_and_a_learning_rate_of_its_own(model):
    expected = [(200, 0.02), (200, 0.1)] if model == "embedded" else [(500, 0.002), (500, 0.04)]
    settings = [TrainSettings(norm=norm) for norm in ("free", "fixed")]
    assert [numbers(suited(one, WIDTHS[model])) for one in settings] == expected


def test_what_is_given_stays():
    for width in WIDTHS.values():
        assert numbers(suited(TrainSettings(steps=7, learning_rate=0.3), width)) == (7, 0.3)
        assert suited(TrainSettings(steps=AUTO_STEPS), width).steps == AUTO_STEPS
    assert suited(TrainSettings(warmup_steps=300), WIDTHS["sdxl"]).warmup_steps == 300
    with pytest.raises(UserError, match="warmup_steps: must be at most steps, 200, not 300"):
        suited(TrainSettings(warmup_steps=300), WIDTHS["embedded"])


def test_python_takes_what_suits_the_model(tiny, tmp_path, tiny_is_stable_diffusion, monkeypatch):
    settings = []
    monkeypatch.setattr(api, "train", lambda model, lessons, given, *others: settings.append(given) or iter(()))
    style = ds.train_style(tiny, write_picture(tmp_path / "a.png", 0), prompt=PROMPT, progress=False)
    assert (numbers(settings[0]), style.metadata["learning_rate"]) == ((500, 0.002), 0.002)


@pytest.mark.parametrize("kind", ["as embedded", "as Stable Diffusion"])
def test_the_command_takes_and_records_what_suits_the_model(tiny_folder, tmp_path, learned, request, kind):
    expected = (200, 0.02)
    if kind == "as Stable Diffusion":
        request.getfixturevalue("tiny_is_stable_diffusion")
        expected = (500, 0.002)
    picture = write_picture(tmp_path / "a.png", 0)
    run(train, "--model", tiny_folder, "--images", picture, "--prompts", PROMPT, "--output", tmp_path / "run")
    (item,) = learned[0]
    assert numbers(item.config) == expected
    assert item.lesson.style.metadata["learning_rate"] == expected[1]
    write_config(item.config, tmp_path / "config.yaml")
    assert numbers(read_config(TrainConfig, tmp_path / "config.yaml")) == expected


def test_a_resumed_run_goes_on_with_what_it_began_with(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    shared = {"output": str(tmp_path), "schedule": "linear"}
    again = TrainConfig(resume=True, **shared)
    assert numbers(continued(again, tmp_path)) == (None, None)
    write_config(TrainConfig(steps=30, learning_rate=0.05, **shared), tmp_path / "config.yaml")
    assert numbers(continued(again, tmp_path)) == (30, 0.05)
    assert numbers(continued(TrainConfig(**shared), tmp_path)) == (None, None)
    check_resumable(continued(again, tmp_path), tmp_path)
    with pytest.raises(UserError, match=r"other settings \(learning_rate\)"):
        check_resumable(continued(TrainConfig(resume=True, learning_rate=0.02, **shared), tmp_path), tmp_path)


def test_runs_of_earlier_versions_learned_with_the_embedded_models_rate_whatever_their_model(tmp_path):
    """They recorded null for it."""
    (tmp_path / "checkpoints").mkdir()
    began = TrainConfig(model="elsewhere/sd15", steps=200, output=str(tmp_path))
    write_config(began, tmp_path / "config.yaml")
    again = continued(TrainConfig(model="elsewhere/sd15", output=str(tmp_path), resume=True), tmp_path)
    assert numbers(suited(again, WIDTHS["sd15"])) == (200, 0.02)
    check_resumable(again, tmp_path)
    assert numbers(parse(TrainConfig, training_command(began).split()[2:])) == (200, 0.02)


def test_a_run_of_an_earlier_version_that_started_from_a_style_goes_on(tmp_path):
    """It recorded the default word of then beside the style."""
    words = ["--init_style", "a.safetensors", "--output", str(tmp_path)]
    (tmp_path / "config.yaml").write_text("train:\n  init_style: a.safetensors\n  init_word: painting\n")
    config = continued(parse(TrainConfig, [*words, "--resume"]), tmp_path)
    assert (config.init_word, config.init_style) == ("painting", "a.safetensors")


def test_separate_runs_that_began_otherwise_are_trained_apart(tiny_folder, tmp_path, learned):
    pictures = [write_picture(tmp_path / f"{name}.png", seed) for seed, name in enumerate("abc")]
    (tmp_path / "runs/b/checkpoints").mkdir(parents=True)
    shared = {"model": str(tiny_folder), "prompts": [PROMPT], "output": str(tmp_path / "runs/b")}
    before = TrainConfig(images=[str(pictures[1])], learning_rate=0.05, steps=30, **shared)
    write_config(before, tmp_path / "runs/b/config.yaml")
    words = ["--model", tiny_folder, "--prompts", PROMPT, "--images", *pictures, "--output", tmp_path / "runs"]
    run(train, *words, "--separate", "--resume")
    assert [[item.config.name for item in runs] for runs in learned] == [["a", "c"], ["b"]]
    assert [numbers(runs[0].config) for runs in learned] == [(200, 0.02), (30, 0.05)]


# Captions


def warned(*words):
    """The warnings of a training that ends where its model should be loaded."""
    with warnings.catch_warnings(record=True) as caught, pytest.raises(UserError, match="nowhere"):
        warnings.simplefilter("always")
        run(train, "--model", "nowhere", *words)
    return [str(warning.message) for warning in caught]


def test_pictures_without_a_caption_are_named_in_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    images = [write_picture(tmp_path / f"p{number}.png", number).name for number in range(8)]
    (tmp_path / "p0.txt").write_text(PROMPT)
    advice = "dreamstyler caption FILE writes one beside a picture; or give --prompts, or --caption"
    learned_as = "no caption, so all of what is shown is learned as style"
    assert warned("--images", *images[:2]) == [f"p1.png has {learned_as}: {advice}"]
    many = f"p1.png, p2.png, p3.png, p4.png, p5.png and 2 more have {learned_as}: {advice}"
    for how in ([], ["--separate"]):
        assert warned("--images", *images, *how) == [many]


def test_no_caption_is_missed_where_a_prompt_is_given_or_none_is_needed(tmp_path):
    picture = write_picture(tmp_path / "a.png", 0)
    for words in (["--prompts", "A painting in the style of {}"], ["--property", "object", "--init_word", "cat"]):
        assert warned("--images", picture, *words) == []
    assert warned() == [], "the example has one"
    (tmp_path / "a.txt").write_text(PROMPT)
    assert warned("--images", picture) == []
