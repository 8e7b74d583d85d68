"""The options, their YAML form and the command line."""

import ast
import dataclasses
import itertools
import os
import re
import shlex
import signal
import subprocess
import sys
import time
import typing
from pathlib import Path
from types import SimpleNamespace

import docstring_parser
import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from dreamstyler_jax import transfer
from dreamstyler_jax.commands import cli, sample
from dreamstyler_jax.commands.cli import parse
from dreamstyler_jax.commands.config import (
    MAX_SEED,
    SampleConfig,
    TrainConfig,
    parse_seeds,
    parse_shard,
    to_yaml,
    write_config,
)
from dreamstyler_jax.commands.runs import runs_of
from dreamstyler_jax.grids import cells as grid
from dreamstyler_jax.mini.training.pretrain import PretrainConfig
from dreamstyler_jax.mixing import mix
from dreamstyler_jax.runtime.errors import UserError
from dreamstyler_jax.stable_diffusion.schedule import NoiseSchedule
from dreamstyler_jax.style import Style

ROOT = Path(__file__).parent.parent
CONFIGS = sorted(ROOT.glob("configs/*.yaml"))
BOTH = pytest.mark.parametrize("cls", [TrainConfig, SampleConfig])


def from_yaml(cls, text, folder, *argv):
    """Parses a file that holds ``text``."""
    path = folder / "config.yaml"
    path.write_text(text, encoding="utf-8")
    return parse(cls, ["--config", str(path), *argv])


# Defaults and the files in configs/


@BOTH
def test_the_embedded_models_file_says_what_the_defaults_are(cls):
    assert parse(cls, ["--config", str(ROOT / "configs/mini.yaml")]) == parse(cls, []) == cls()


def test_sd15_has_the_papers_settings():
    path = ["--config", str(ROOT / "configs/sd15.yaml")]
    train, sample = parse(TrainConfig, path), parse(SampleConfig, path)
    assert (train.stages, train.steps, train.batch_size, train.learning_rate) == (6, 500, 8, 0.002)
    assert (train.schedule, train.warmup_steps, train.weight_decay) == ("constant", 0, 0.01)
    assert train.init_word == "painting"
    assert (sample.solver, sample.steps, sample.guidance) == (["dpmpp_2m"], [25], "paper")
    assert (sample.null_scale, sample.context_scale) == ([5], [3])
    assert all(0.5 <= scale <= 3 for scale in sample.style_scale)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_every_file_serves_both_scripts_and_opens_with_its_commands(path):
    header = path.read_text().split("\n\n")[0]
    for cls, script in (TrainConfig, "train.py"), (SampleConfig, "sample.py"):
        assert parse(cls, ["--config", str(path), "--model", "elsewhere"]).model == "elsewhere"
        assert re.search(rf"python {script} +--config configs/{path.name}", header)
    assert "Hardware:" in header and "Expect:" in header


GRIDS = {  # styles to try them with, and pictures of each file in configs/grids
    "guidance": (["demo"], 200),
    "mixing": (["demo", "other"], 140),
    "progress": (["long"], 64),
    "styles": (["demo", "other"], 2 * 312),
    "transfer": (["demo"], 16),
}


@pytest.mark.parametrize("path", sorted((ROOT / "configs/grids").iterdir()), ids=lambda path: path.stem)
def test_every_example_of_a_grid_is_as_large_as_it_says(path, monkeypatch):
    monkeypatch.chdir(ROOT)
    names, count = GRIDS[path.stem]
    header = path.read_text().split("\n\n")[0]
    assert re.search(rf"python sample.py --config configs/grids/{path.name} --styles", header)
    assert str(count // (2 if path.stem == "styles" else 1)) in header
    config = parse(SampleConfig, ["--config", str(path)])
    steps = [f"@{step}" for step in config.checkpoints] or [""]
    styles = {name + step: Style(name + step, np.ones((6, 1, 4))) for name in names for step in steps}
    mixes = {recipe: mix(recipe, styles) for recipe in config.mixes}
    texts = sample.all_prompts(config)
    contents = [transfer.load_content(path, 64, 8) for path in config.content]
    nets = dataclasses.replace(config, controlnets=["edges"]) if contents else config
    model = SimpleNamespace(name="mini", hash="0", networks=SimpleNamespace(schedule=NoiseSchedule()))
    cells = grid.make_cells(nets, model, texts, styles | mixes, list(mixes or styles), (64, 64), contents)
    assert len({cell.id for cell in cells}) == len(cells) == count


def test_the_pretraining_file_says_what_the_defaults_are_all_of_them():
    path = ROOT / "configs/pretraining/mini.yaml"
    assert parse(PretrainConfig, ["--config", str(path)]) == PretrainConfig()
    assert yaml.safe_load(path.read_text()) == dataclasses.asdict(PretrainConfig())


# Where values come from, and how they are spelt


def test_an_option_counts_before_the_file_and_the_file_before_the_default(tmp_path):
    config = from_yaml(TrainConfig, "train: {steps: 70, stages: 3}", tmp_path, "--steps", "7")
    assert (config.steps, config.stages, config.vectors) == (7, 3, 1)


def test_a_script_takes_the_shared_keys_and_its_own_section(tmp_path):
    text = "model: here\ndtype: bfloat16\ntrain: {steps: 70}\nsample: {steps: 9}\n"
    train, sample = from_yaml(TrainConfig, text, tmp_path), from_yaml(SampleConfig, text, tmp_path)
    assert (train.model, train.dtype, train.steps) == ("here", "bfloat16", 70)
    assert (sample.model, sample.dtype, sample.steps) == ("here", "bfloat16", [9])


def test_command_line_spelling():
    scalars = ["--batch-size=3", "--learning-rate", "1e-3", "--resume", "--flip", "false", "--resolution", "null"]
    lists = ["--images", "a.png", "b c.png", "--prompts", "{}: a", "null {}", "--name=dash-ed"]
    config = parse(TrainConfig, [*scalars, *lists])
    assert (config.batch_size, config.learning_rate, config.resolution) == (3, 1e-3, None)
    assert (config.resume, config.flip) == (True, False)
    assert (config.images, config.prompts) == (["a.png", "b c.png"], ["{}: a", "null {}"])
    assert config.name == "dash-ed"


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
    numbers = [value for field in dataclasses.fields(config) for value in as_list(getattr(config, field.name))]
    assert {type(value) for value in numbers} <= {int, float, str, bool, type(None)}
    assert {type(value) for name in SCALES for value in getattr(config, name)} == {float}


SCALES = ("guidance_scale", "null_scale", "style_scale", "context_scale")


def as_list(value):
    return value if isinstance(value, list) else [value]


def test_one_word_in_a_file_is_a_list_only_where_lists_are_of_numbers_or_choices(tmp_path):
    assert from_yaml(SampleConfig, "sample: {checkpoints: 100}", tmp_path).checkpoints == [100]
    for name in ("styles", "mixes", "prompts"):
        with pytest.raises(UserError, match=f"{name} takes a list"):
            from_yaml(SampleConfig, f"sample: {{{name}: one}}", tmp_path)


def test_text_in_a_file_is_not_reinterpreted(tmp_path):
    text = "sample: {seeds: 1:8, prompts: [yes, 1e3, 2026-11-22, 'a: b {}'], negative_prompt: 007}"
    config = from_yaml(SampleConfig, text, tmp_path)
    assert config.seeds == "1:8"
    assert config.prompts == ["yes", "1e3", "2026-11-22", "a: b {}"]
    assert config.negative_prompt == "007"


@pytest.mark.parametrize(
    "config",
    [
        SampleConfig(),
        SampleConfig(prompts=["a 'b' \"c\" {}", "x {}"], seeds="3", style_scale=[0.1, 1 / 3], merge=True, height=64),
        TrainConfig(images=["a b.png"], flip=False, resolution=512, learning_rate=1e-4, init_word="-"),
    ],
)
def test_a_command_line_reads_back_the_same(config):
    python, script, *words = shlex.split(cli.command_line("x.py", config))
    assert (python, script) == ("python", "x.py")
    assert parse(type(config), words) == config


def test_an_empty_list_overrides_the_file(tmp_path):
    config = from_yaml(TrainConfig, "train: {preview_prompts: [a, b]}", tmp_path, "--preview_prompts")
    assert config.preview_prompts == []


texts = st.text(st.characters(codec="utf-8"), max_size=30)


@settings(max_examples=30)
@given(prompts=st.lists(texts, max_size=3), model=texts, rate=st.floats(1e-8, 10), size=st.none() | st.integers(8, 99))
def test_a_saved_training_config_reads_back_the_same(tmp_path_factory, prompts, model, rate, size):
    images = [f"{i}.png" for i in range(len(prompts))]
    config = TrainConfig(
        model=model, images=images, prompts=prompts, learning_rate=rate, resolution=size, resume=True, flip=False
    )
    path = tmp_path_factory.getbasetemp() / "saved.yaml"
    write_config(config, path)
    assert parse(TrainConfig, ["--config", str(path)]) == dataclasses.replace(config, resume=False)


def test_a_saved_sampling_config_reads_back_the_same(tmp_path):
    config = SampleConfig(styles=["runs/été"], prompts_file="p.txt", seeds="1:8", guidance="release", width=96)
    assert "runs/été" in to_yaml(config)
    once = dataclasses.replace(config, shard="1/4", merge=True)
    assert from_yaml(SampleConfig, to_yaml(once), tmp_path) == config, "shard and merge belong to one command"


@BOTH
def test_print_config_prints_a_file_that_reads_back_the_same(cls, tmp_path, capsys):
    with pytest.raises(SystemExit) as exit:
        parse(cls, ["--print_config", "--steps", "77"])
    assert exit.value.code == 0
    assert from_yaml(cls, capsys.readouterr().out, tmp_path) == cls(steps=77 if cls is TrainConfig else [77])


@BOTH
def test_help_explains_every_option(cls, capsys):
    with pytest.raises(SystemExit) as exit:
        parse(cls, ["--help"])
    assert exit.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    explanations = {entry.arg_name: entry.description for entry in docstring_parser.parse_from_object(cls).params}
    for field in dataclasses.fields(cls):
        assert f"--{field.name} " in text
        assert " ".join(explanations[field.name].split()) in text


def test_any_flat_dataclass_can_be_parsed(tmp_path, capsys):
    @dataclasses.dataclass
    class Options:
        """What to do."""

        size: int = 1
        """Size, in %, {} or %(prog)s."""
        words: list[str] = dataclasses.field(default_factory=list)
        """Words."""

    with pytest.raises(SystemExit):
        parse(Options, ["--help"])
    assert "Size, in %, {} or %(prog)s." in capsys.readouterr().out
    assert from_yaml(Options, "size: 2\nwords: [a]", tmp_path, "--words", "b", "c") == Options(2, ["b", "c"])


# Mistakes


@pytest.mark.parametrize(
    "argv, message",
    [
        ("--stepps 3", "unknown option --stepps; did you mean --steps?"),
        ("--learning-rat=3", "unknown option --learning_rat; did you mean --learning_rate?"),
        ("--stage 3", "did you mean --stages?"),
        ("--xyzzy", "unknown option --xyzzy; --help"),
        ("picture.png", "'picture.png' belongs to no option"),
        ("--steps", "--steps: expected one argument"),
        ("--steps many", "steps: must be a whole number, not 'many'"),
        ("--steps 2.5", "steps: must be a whole number, not '2.5'"),
        ("--steps 0", "steps: must be from 1 to 1000000, not 0"),
        ("--stages 51", "stages: must be from 1 to 50, not 51"),
        ("--vectors 17", "vectors: must be from 1 to 16, not 17"),
        ("--learning_rate nan", "learning_rate: must be a number, not 'nan'"),
        ("--learning_rate -1", "learning_rate: must be from 1e-08 to 10, not -1"),
        ("--seed -1", f"seed: must be from 0 to {MAX_SEED}, not -1"),
        ("--flip maybe", "flip: must be true or false, not 'maybe'"),
        ("--resolution big", "resolution: must be a whole number or null, not 'big'"),
        ("--schedule cosin", "schedule: must be one of constant, linear, cosine (did you mean cosine?), not 'cosin'"),
        ("--images a b --prompts 1 2 3", "3 given for 2 pictures"),
        ("--init_word oil_painting,x --name ../up", "name: a letter, then"),
        ("--init_word=", "init_word: give at most one word for each vector, 1"),
        ("--steps 5 --warmup_steps 6", "warmup_steps: must be at most steps, 5, not 6"),
    ],
)
def test_a_mistake_on_the_command_line_is_named(argv, message):
    with pytest.raises(UserError) as error:
        parse(TrainConfig, argv.split())
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "argv, message",
    [
        ("--steps 3 many", "steps: must be a whole number, not 'many'"),
        ("--steps 3 2.5", "steps: must be a whole number, not '2.5'"),
        ("--steps 3 0", "steps: must be from 1 to 1000, not 0"),
        ("--steps 3 4 3", "steps: give at least one value, and none twice"),
        ("--steps", "steps: give at least one value, and none twice"),
        ("--guidance_scale 1 1.0", "guidance_scale: give at least one value, and none twice"),
        ("--guidance_scale 1 nan", "guidance_scale: must be a number, not 'nan'"),
        ("--context_scale 1 101", "context_scale: must be from 0 to 100, not 101"),
        ("--style_scale 1 -1", "style_scale: must be from 0 to 100, not -1"),
        ("--solver ddim uler", "solver: must be one of ddim, euler, dpmpp_2m, unipc (did you mean euler?), not 'uler'"),
        ("--solver ddim ddim", "solver: give at least one value, and none twice"),
        ("--checkpoints 100 0", "checkpoints: must be from 1 to 1000000000, not 0"),
        ("--checkpoints 100 100", "checkpoints: give at least one value, and none twice"),
        ("--checkpoints last", "checkpoints: must be a whole number, not 'last'"),
        ("--shard 4/4", "shard: '4/4' should read like 0/4"),
        ("--shard 1", "shard: '1' should read like 0/4"),
        ("--shard 0/0", "shard: '0/0' should read like 0/4"),
        ("--shard=-1/4", "shard: '-1/4' should read like 0/4"),
    ],
)
def test_a_mistake_in_a_list_or_a_shard_is_named(argv, message):
    with pytest.raises(UserError) as error:
        parse(SampleConfig, argv.split())
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "text, message",
    [
        ("train: {stepps: 3}", "train: unknown key 'stepps'; did you mean steps?"),
        ("sample: {guidence: cfg}", "sample: unknown key 'guidence'; did you mean guidance?"),
        ("modle: mini", "'modle' cannot stand outside of the sections train and sample; did you mean model?"),
        ("steps: 3", "'steps' cannot stand outside"),
        ("train: {steps: many}", "steps: must be a whole number, not 'many'"),
        ("train: {steps: [3]}", "steps takes a whole number"),
        ("train: {images: a.png}", "images takes a list"),
        ("train: {prompts: [a, {}]}", "prompts takes plain texts in its list"),
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
        with pytest.raises(UserError, match=f"^{re.escape(str(path))}: cannot be read: "):
            parse(SampleConfig, ["--config", str(path)])


def test_separate_styles_need_pictures_of_different_names():
    with pytest.raises(UserError, match="separate: give the pictures"):
        TrainConfig(separate=True)
    with pytest.raises(UserError, match="separate: the styles of 2 pictures would be called wave"):
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
def test_every_range_and_choice_is_kept(cls):
    kinds = {field.name: typing.get_origin(field.type) for field in dataclasses.fields(cls)}
    for name, (low, high) in cls.ranges.items():
        for value in low - 1, high + 1:
            with pytest.raises(UserError, match=f"^{name}: must be from"):
                cls(**{name: [low, value] if kinds[name] is list else value})
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
def test_seeds_that_are_not(text):
    with pytest.raises(UserError, match=r"^seeds: "):
        SampleConfig(seeds=text)


# The process


@pytest.fixture
def sigterm():
    """Puts back what the signal did before."""
    handler = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, handler)


def raising(error):
    def run():
        raise error

    return run


@pytest.mark.parametrize(
    "run, status, message",
    [
        (lambda: None, 0, ""),
        (raising(UserError("two\n lines")), 2, "error: two lines\n"),
        (raising(FileExistsError(17, "File exists", "runs")), 2, "error: [Errno 17] File exists: 'runs'\n"),
        (raising(KeyboardInterrupt()), 75, "interrupted; to continue: "),
    ],
)
def test_exit_status(run, status, message, capsys, sigterm):
    with pytest.raises(SystemExit) as exit:
        cli.main(run)
    assert exit.value.code == status
    assert capsys.readouterr().err.startswith(message)


def test_a_defect_keeps_its_traceback(sigterm):
    for error in ZeroDivisionError(), OSError("not the disk"):
        with pytest.raises(type(error)):
            cli.main(raising(error))


def test_sigterm_ends_with_75_and_the_command_that_continues(tmp_path):
    script = tmp_path / "work.py"
    script.write_text(
        "import time\nfrom dreamstyler_jax.commands.cli import main\n"
        "def run():\n    print('ready', flush=True)\n    time.sleep(60)\n"
        "main(run, resumable=True)\n"
    )
    command = [sys.executable, str(script), "--name", "a b"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment) as process:
        assert process.stdout.readline() == "ready\n"
        process.terminate()
        begun = time.monotonic()
        _, message = process.communicate(timeout=30)
        assert time.monotonic() - begun < 10
    assert process.returncode == 75
    assert message == f"interrupted; to continue: {sys.executable} {script} --name 'a b' --resume\n"


def test_options_are_read_without_importing_jax():
    code = "import sys, dreamstyler_jax.commands.cli; print([m for m in ('jax', 'flax', 'torch') if m in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True, cwd=ROOT) == "[]\n"


# Nothing idle


@BOTH
def test_every_option_is_read_somewhere(cls):
    scripts = {TrainConfig: "dreamstyler_jax/commands/train.py", SampleConfig: "dreamstyler_jax/commands/sample.py"}
    modules = [path for path in (ROOT / "dreamstyler_jax").rglob("*.py") if path.name != "config.py"]
    read = set(itertools.chain.from_iterable(grid.SCALES.values()))  # a cell takes them by these names
    for path in [ROOT / scripts[cls], *modules]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                owner = node.value.attr if isinstance(node.value, ast.Attribute) else getattr(node.value, "id", "")
                if owner in ("config", "_config"):
                    read.add(node.attr)
    idle = {field.name for field in dataclasses.fields(cls)} - read
    assert not idle, f"no code reads {sorted(idle)}: use the option or take it out"
