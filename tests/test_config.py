"""Settings of training and painting, their YAML files, and the files in ``configs/``."""

import ast
import dataclasses
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cells import MODEL
from hypothesis import given, settings
from hypothesis import strategies as st
from script_tools import from_yaml

from dreamstyler_jax import guidance, transfer
from dreamstyler_jax.commands.cli import parse
from dreamstyler_jax.commands.config import SampleConfig, TrainConfig
from dreamstyler_jax.commands.config_files import read_config, read_values, to_yaml, write_config
from dreamstyler_jax.commands.prompt_lists import Part, grid_parts, read_prompts
from dreamstyler_jax.commands.runs import runs_of
from dreamstyler_jax.commands.sample_inputs import axes_of
from dreamstyler_jax.grids.axes import make_cells
from dreamstyler_jax.mixing import mix
from dreamstyler_jax.runtime.errors import UserError
from dreamstyler_jax.runtime.parsing import MAX_SEED, parse_seeds, parse_shard
from dreamstyler_jax.runtime.settings import default_of, kind_of
from dreamstyler_jax.style import Style
from dreamstyler_jax.train_settings import STABLE_DIFFUSION_WIDTH, suited

ROOT = Path(__file__).parent.parent
CONFIGS = sorted(ROOT.glob("configs/*.yaml"))
GRID_CONFIGS = sorted(ROOT.glob("configs/grids/*.yaml"))
BOTH = pytest.mark.parametrize("cls", [TrainConfig, SampleConfig])


# Defaults and the files in configs/


@BOTH
def test_the_file_of_the_embedded_model_changes_nothing(cls):
    assert parse(cls, ["--config", str(ROOT / "configs/mini.yaml")]) == parse(cls, []) == cls()


@pytest.mark.parametrize("path", [*CONFIGS, *GRID_CONFIGS], ids=lambda path: path.stem)
def test_no_file_repeats_a_default(path):
    for cls in TrainConfig, SampleConfig:
        defaults = {field.name: default_of(field) for field in dataclasses.fields(cls)}
        values = read_values(cls, path)
        assert not [name for name, value in values.items() if value == defaults[name]]


def test_sd15_has_the_papers_settings():
    path = ["--config", str(ROOT / "configs/sd15.yaml")]
    train, sample = suited(parse(TrainConfig, path), STABLE_DIFFUSION_WIDTH), parse(SampleConfig, path)
    assert (train.stages, train.steps, train.batch_size, train.learning_rate) == (6, 500, 8, 0.002)
    assert (train.schedule, train.warmup_steps, train.weight_decay) == ("constant", 0, 0.01)
    assert train.init_word == "painting"
    assert (sample.solver, sample.steps, sample.guidance) == (["dpmpp_2m"], [25], "paper")
    assert (sample.null_scale, sample.context_scale) == ([5], [3])
    assert all(0.5 <= scale <= 3 for scale in sample.style_scale)


def test_paper_eval_is_the_papers_protocol(tmp_path, monkeypatch):
    """From any folder: the 39 prompts, in styles that are learned as in sd15, eight pictures to a step."""
    monkeypatch.chdir(tmp_path)
    words = ["--separate", "--images", *(f"{number}.jpg" for number in range(32))]
    sd15 = suited(parse(TrainConfig, ["--config", "sd15"]), STABLE_DIFFUSION_WIDTH)
    train = parse(TrainConfig, ["--config", "paper_eval", *words])
    sample = parse(SampleConfig, ["--config", "paper_eval"])
    same = ("model", "dtype", "stages", "steps", "learning_rate", "resolution", "init_word", "weight_decay")
    assert [getattr(train, name) for name in same] == [getattr(sd15, name) for name in same]
    assert train.batch_size * train.gradient_accumulation == sd15.batch_size == 8
    assert [train.output] == sample.styles and len(parse_seeds(sample.seeds)) == 1
    (part,) = grid_parts(sample)
    assert part.texts[""] == read_prompts(str(ROOT / "configs/eval_prompts.txt"))
    assert len(part.texts[""]) == 39


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_every_file_serves_both_commands_and_shows_how_at_the_top(path):
    header = path.read_text().split("\n\n")[0]
    for cls, command in (TrainConfig, "train"), (SampleConfig, "sample"):
        assert parse(cls, ["--config", str(path), "--model", "elsewhere"]).model == "elsewhere"
        assert re.search(rf"dreamstyler {command} +--config {path.stem}\b", header)
    assert "Hardware:" in header and "Expect:" in header


GRIDS = {  # styles to try them with, and pictures of each file in configs/grids
    "guidance": (["demo"], 200),
    "mixing": (["demo", "other"], 140),
    "progress": (["long"], 64),
    "styles": (["demo", "other"], 2 * 312),
    "transfer": (["demo"], 16),
}


@pytest.mark.parametrize("path", GRID_CONFIGS, ids=lambda path: path.stem)
def test_every_example_of_a_grid_is_as_large_as_it_says(path, monkeypatch):
    monkeypatch.chdir(ROOT)
    names, count = GRIDS[path.stem]
    header = path.read_text().split("\n\n")[0]
    assert re.search(rf"dreamstyler sample --config grids/{path.stem} --styles", header)
    assert str(count // (2 if path.stem == "styles" else 1)) in header
    config = parse(SampleConfig, ["--config", str(path)])
    steps = [f"@{step}" for step in config.checkpoints] or [""]
    styles = {name + step: Style(name + step, {"clip_l": np.ones((6, 1, 4))}) for name in names for step in steps}
    mixes = {recipe: mix(recipe, styles) for recipe in config.mixes}
    contents = [transfer.load_content(path, 64, 8) for path in config.content]
    if contents:
        config = dataclasses.replace(config, controlnets=["edges"])
    (part,) = grid_parts(config)
    axes = axes_of(part, styles | mixes, contents, [])
    cells = make_cells(axes, MODEL, styles | mixes, (64, 64))
    assert len({cell.id for cell in cells}) == len(cells) == count


@BOTH
def test_the_options_for_models_are_those_of_the_commands(cls):
    """Each row of the table in docs/models.md can be copied."""
    table = (ROOT / "docs/models.md").read_text(encoding="utf-8").partition("\n| the model |")[2].partition("\n\n")[0]
    rows = [words for line in table.splitlines() for words in re.findall(r"`(--[^`]+)`", line) if "--model" in words]
    assert len(rows) >= 7
    for words in rows:
        assert parse(cls, shlex.split(words)).model != "mini"


@pytest.mark.parametrize("value", [4, 4.0])
def test_a_whole_number_and_a_decimal_make_the_same_grid(value):
    """Pictures painted with --guidance_scale 4 are the same as with 4.0, and have the same ids."""
    (guidance,) = axes_of(Part(SampleConfig(guidance_scale=[value]), {"": ["{}"]}, [0]), {}, [], []).guidance
    assert repr(guidance.scales) == "{'guidance_scale': 4.0}"


@pytest.mark.parametrize("name", ["sd15", "sd15.yaml", "configs/sd15.yaml", "nowhere/sd15.yaml"])
def test_a_config_file_of_the_package_is_found_by_its_name(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert read_config(TrainConfig, name) == read_config(TrainConfig, ROOT / "configs/sd15.yaml")


def test_config_files_in_folders_of_the_package_are_found_by_their_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mixing = read_config(SampleConfig, ROOT / "configs/grids/mixing.yaml")
    for name in "mixing", "grids/mixing", "configs/grids/mixing.yaml":
        assert read_config(SampleConfig, name) == mixing


def test_a_file_that_exists_precedes_the_one_of_the_package(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("sd15.yaml").write_text("train: {steps: 3}")
    assert read_config(TrainConfig, "sd15.yaml").steps == 3
    assert read_config(TrainConfig, "sd15").resolution == 512


# YAML files


def test_a_command_reads_the_shared_keys_and_its_section(tmp_path):
    text = "model: here\ndtype: bfloat16\ntrain: {steps: 70}\nsample: {steps: 9}\n"
    train, sample = from_yaml(TrainConfig, text, tmp_path), from_yaml(SampleConfig, text, tmp_path)
    assert (train.model, train.dtype, train.steps) == ("here", "bfloat16", 70)
    assert (sample.model, sample.dtype, sample.steps) == ("here", "bfloat16", [9])


@pytest.mark.parametrize(
    ("text", "argv"),
    [
        ("{steps: 9, guidance_scale: 4, solver: ddim}", "--steps 9 --guidance_scale 4 --solver ddim"),
        ("{steps: [9, 5], guidance_scale: [4, 0.5], solver: [ddim, euler]}",
         "--steps 9 5 --guidance_scale 4 .5 --solver ddim euler"),
        ("{checkpoints: [100, 20], mixes: ['a:1,b:0', b]}", "--checkpoints 100 20 --mixes a:1,b:0 b"),
        ("{null_scale: [0, 100], style_scale: 2, context_scale: [1e-1]}",
         "--null_scale 0 100 --style_scale 2 --context_scale 0.1"),
    ],
)  # fmt: skip
def test_lists_of_numbers_and_words_are_read_alike_from_file_and_command_line(text, argv, tmp_path):
    config = parse(SampleConfig, argv.split())
    assert from_yaml(SampleConfig, f"sample: {text}", tmp_path) == config
    assert from_yaml(SampleConfig, to_yaml(config), tmp_path) == config
    assert config != SampleConfig()
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        kind = kind_of(field)
        for item in value if kind.is_list else [value]:
            assert type(item) is kind.item or (item is None and kind.optional)


@pytest.mark.parametrize("null", ["null", "~", "Null", "NULL"])
def test_null_in_a_file_is_the_default(null, tmp_path):
    keys = ("negative_prompt", "output", "prompts", "steps", "height", "styles")
    text = "sample: {" + ", ".join(f"{key}: {null}" for key in keys) + "}"
    assert from_yaml(SampleConfig, text, tmp_path) == SampleConfig()
    assert from_yaml(TrainConfig, f"model: {null}\ntrain: {null}\nsample: {null}", tmp_path) == TrainConfig()
    quoted = from_yaml(SampleConfig, f"sample: {{negative_prompt: '{null}', prompts: ['{null} {{}}']}}", tmp_path)
    assert (quoted.negative_prompt, quoted.prompts) == (null, [f"{null} {{}}"])
    assert from_yaml(SampleConfig, to_yaml(quoted), tmp_path) == quoted
    with pytest.raises(UserError, match="prompts: takes plain texts"):
        from_yaml(SampleConfig, f"sample: {{prompts: [{null}]}}", tmp_path)


def test_a_key_that_is_given_twice_is_refused(tmp_path):
    with pytest.raises(UserError, match="steps: given twice; give it once"):
        from_yaml(SampleConfig, "sample: {steps: 3, seeds: 0, steps: 4}", tmp_path)


def test_a_text_with_a_nul_character_is_refused(tmp_path):
    with pytest.raises(UserError, match="output: holds a NUL character"):
        from_yaml(SampleConfig, 'sample: {output: "a\\0b"}', tmp_path)
    with pytest.raises(UserError, match="images: holds a NUL character"):
        TrainConfig(images=["a\0b"])


@pytest.mark.parametrize("name", ["gogh", "चित्र", "звезда", "_a-b", "क्‍ष"])
def test_a_style_may_be_called_by_a_word_of_any_language(name):
    assert TrainConfig(name=name).name == TrainConfig(images=[f"{name}.png"]).name == name or name == "_a-b"


@pytest.mark.parametrize("name", ["", "1a", "-a", "a b", "a@1", "a/b", "a.b"])
def test_a_name_that_is_no_word_is_refused_or_made_one(name):
    if name:
        with pytest.raises(UserError, match="name: a letter"):
            TrainConfig(name=name)
    learned = TrainConfig(images=[f"{name}.png"]).name
    assert TrainConfig(name=learned).name == learned


def test_one_value_in_place_of_a_list_is_a_list_of_one(tmp_path):
    config = from_yaml(SampleConfig, "sample: {checkpoints: 100, styles: one, prompts: 'a {}, b'}", tmp_path)
    assert (config.checkpoints, config.styles, config.prompts) == ([100], ["one"], ["a {}, b"])
    single: Any = "pic.png"
    assert TrainConfig(images=single) == TrainConfig(images=["pic.png"])
    assert SampleConfig(steps=9, styles=("a", "b")) == SampleConfig(steps=[9], styles=["a", "b"])


def test_nothing_in_place_of_a_list_is_an_empty_list(tmp_path):
    assert from_yaml(TrainConfig, "train:\n  preview_prompts:\n", tmp_path).preview_prompts == []


@pytest.mark.parametrize("text", ["true", "yes", "on", "True"])
def test_booleans_in_a_file(text, tmp_path):
    assert from_yaml(TrainConfig, f"train: {{flip: {text}}}", tmp_path).flip is True
    assert from_yaml(TrainConfig, f"train: {{flip: {text}}}", tmp_path, "--flip", "no").flip is False


def test_text_in_a_file_is_not_reinterpreted(tmp_path):
    text = "sample: {seeds: 1:8, prompts: [yes, 1e3, 2026-11-22, 'a: b {}'], negative_prompt: 007}"
    config = from_yaml(SampleConfig, text, tmp_path)
    assert config.seeds == "1:8"
    assert config.prompts == ["yes", "1e3", "2026-11-22", "a: b {}"]
    assert config.negative_prompt == "007"


texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=30)


@settings(max_examples=30)
@given(prompts=st.lists(texts, max_size=3), model=texts, rate=st.floats(1e-8, 10), size=st.none() | st.integers(8, 99))
def test_a_saved_training_config_reads_back_the_same(tmp_path_factory, prompts, model, rate, size):
    images = [f"{i}.png" for i in range(len(prompts))]
    config = TrainConfig(
        model=model, images=images, prompts=prompts, learning_rate=rate, resolution=size, resume=True, flip=True
    )
    path = tmp_path_factory.getbasetemp() / "saved.yaml"
    write_config(config, path)
    assert parse(TrainConfig, ["--config", str(path)]) == dataclasses.replace(config, resume=False)


def test_a_saved_sampling_config_reads_back_the_same(tmp_path):
    config = SampleConfig(styles=["runs/été"], prompts_file="p.txt", seeds="1:8", guidance="release", width=96)
    assert "runs/été" in to_yaml(config)
    once = dataclasses.replace(config, shard="1/4", merge=True)
    assert from_yaml(SampleConfig, to_yaml(once), tmp_path) == config, "shard and merge belong to one call"


# Mistakes in files


@pytest.mark.parametrize(
    "text, message",
    [
        ("train: {stepps: 3}", "train: unknown key 'stepps'; did you mean steps?"),
        ("sample: {guidence: cfg}", "sample: unknown key 'guidence'; did you mean guidance?"),
        ("modle: mini", "'modle' must be in one of the sections train and sample; did you mean model?"),
        ("steps: 3", "'steps' must be in one of the sections"),
        ("train: {steps: many}", "steps: must be a whole number or null or auto, not 'many'"),
        ("train: {steps: [3]}", "steps: must be a whole number or null, not a list"),
        ("train: {prompts: [a, {}]}", "prompts: takes plain texts"),
        ("train: {name: {}}", "name: takes plain texts"),
        ("train: 3", "train: should hold lines"),
        ("- train", "should hold lines"),
        ("train: [", "is not YAML"),
    ],
)
def test_a_mistake_in_a_file_is_named_with_the_file(text, message, tmp_path):
    with pytest.raises(UserError) as error:
        from_yaml(TrainConfig, text, tmp_path)
    assert str(error.value).startswith(f"{tmp_path}/config.yaml: ")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    for path in tmp_path / "missing.yaml", tmp_path, tmp_path / "bytes.yaml":
        with pytest.raises(
            UserError, match=f"^{re.escape(str(path))}: (there is no such|(the file )?cannot be read: )"
        ):
            parse(SampleConfig, ["--config", str(path)])


# Values


def test_separate_styles_need_pictures_of_different_names():
    with pytest.raises(UserError, match="separate: give the pictures"):
        TrainConfig(separate=True)
    with pytest.raises(UserError, match="separate: the styles of 2 pictures would have the same name, wave"):
        TrainConfig(separate=True, images=["a/wave.png", "tree.png", "b/wave.jpg"])
    config = TrainConfig(separate=True, images=["a/wave.png", "tree.png"], prompts=["a {}"], output="all")
    assert [(own.name, own.images, own.prompts, own.output) for own in runs_of(config)] == [
        ("wave", ["a/wave.png"], ["a {}"], "all/wave"),
        ("tree", ["tree.png"], ["a {}"], "all/tree"),
    ]


def test_prompts_and_a_file_of_prompts_contradict_each_other():
    with pytest.raises(UserError, match="prompts, prompts_file"):
        SampleConfig(prompts=["{}"], prompts_file="prompts.txt")
    assert SampleConfig(prompts_file="prompts.txt").prompts == []


@BOTH
def test_ranges_and_choices_are_enforced(cls):
    ranges = {f.name: (f.metadata["low"], f.metadata["high"]) for f in dataclasses.fields(cls)}
    for name, (low, high) in ranges.items():
        for value in [] if low is None else [low - 1, high + 1, float("nan")]:
            with pytest.raises(UserError, match=f"^{name}: must be from"):
                cls(**{name: value})
    with pytest.raises(UserError, match=r"^dtype: must be one of float32, bfloat16 \(did you mean float32"):
        cls(dtype="float23")


# Names and seeds


@pytest.mark.parametrize(
    "image, name",
    [("a/Starry Night.v2.jpg", "Starry_Night_v2"), ("001.png", "style_001"), ("été.png", "été"), ("...", "style")],
)
def test_a_run_is_named_after_its_first_picture(image, name):
    config = TrainConfig(images=[image, "other.png"])
    assert (config.name, config.output) == (name, f"runs/{name}")
    assert TrainConfig(images=[image], name="mine", output="there").output == "there"


def test_shards():
    assert SampleConfig().shard == "0/1"
    assert [parse_shard(text) for text in ("0/1", " 3 / 4 ", "11/12")] == [(0, 1), (3, 4), (11, 12)]


def test_seeds():
    assert parse_seeds("0:3") == [0, 1, 2]
    assert parse_seeds(" 1, 5,9 ") == [1, 5, 9]
    assert parse_seeds(f"7,2:4,{MAX_SEED}") == [7, 2, 3, MAX_SEED]


@pytest.mark.parametrize(
    "text", ["", "x", "1,", "-1", "1.5", "3:3", "4:2", "1:2:3", "0:200000", "1,0:2", str(MAX_SEED + 1), "0:9999999999"]
)
def test_mistakes_in_seeds(text):
    with pytest.raises(UserError, match=r"^seeds: "):
        SampleConfig(seeds=text)


# No unused options


@BOTH
def test_every_option_is_read_somewhere(cls):
    modules = [path for path in (ROOT / "dreamstyler_jax").rglob("*.py") if path.name != "config.py"]
    read = set(guidance.SCALES)  # a cell takes them by these names
    for path in modules:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                owner = node.value.attr if isinstance(node.value, ast.Attribute) else getattr(node.value, "id", "")
                if owner in ("config", "_config", "settings"):
                    read.add(node.attr)
    unread = {field.name for field in dataclasses.fields(cls)} - read
    assert not unread, f"no code reads {sorted(unread)}: use the option or remove it"
