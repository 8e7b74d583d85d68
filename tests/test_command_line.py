"""The command line: options and mistakes, exit statuses, and the command ``dreamstyler``."""

import dataclasses
import errno
import importlib
import io
import os
import re
import shlex
import subprocess
import sys
import time
import warnings
from pathlib import Path

import jax
import pytest
from script_tools import from_yaml

from dreamstyler_jax import __main__
from dreamstyler_jax.commands import cli
from dreamstyler_jax.commands.cli import parse, run_and_exit
from dreamstyler_jax.commands.config import SampleConfig, TrainConfig
from dreamstyler_jax.runtime.errors import UserError
from dreamstyler_jax.runtime.parsing import MAX_SEED
from dreamstyler_jax.runtime.settings import check_values, option
from dreamstyler_jax.solvers import SOLVERS

ROOT = Path(__file__).parent.parent
BOTH = pytest.mark.parametrize("cls", [TrainConfig, SampleConfig])


# Options


def test_an_option_overrides_the_file_and_the_file_the_default(tmp_path):
    config = from_yaml(TrainConfig, "train: {steps: 70, stages: 3}", tmp_path, "--steps", "7")
    assert (config.steps, config.stages, config.vectors) == (7, 3, 1)


def test_command_line_spelling():
    scalars = ["--batch-size=3", "--learning-rate", "1e-3", "--resume", "--flip", "true", "--resolution", "null"]
    lists = ["--images", "a.png", "b c.png", "--prompts", "{}: a", "null {}", "--name=dash-ed"]
    config = parse(TrainConfig, [*scalars, *lists])
    assert (config.batch_size, config.learning_rate, config.resolution) == (3, 1e-3, None)
    assert (config.resume, config.flip) == (True, True)
    assert (config.images, config.prompts) == (["a.png", "b c.png"], ["{}: a", "null {}"])
    assert config.name == "dash-ed"


@pytest.mark.parametrize(
    "config",
    [
        SampleConfig(),
        SampleConfig(prompts=["a 'b' \"c\" {}", "x {}"], seeds="3", style_scale=[0.1, 1 / 3], merge=True, height=64),
        TrainConfig(images=["a b.png"], flip=True, resolution=512, learning_rate=1e-4, init_word="-"),
    ],
)
def test_settings_and_their_command_line_are_equal(config):
    program, command, *words = shlex.split(cli.command_line("paint", config))
    assert (program, command) == ("dreamstyler", "paint")
    assert parse(type(config), words) == config


def test_a_list_takes_the_words_of_all_options_of_its_name():
    config = parse(
        SampleConfig,
        ["--prompts", "a{}", "b{}", "--seeds", "3", "--prompts", "c{}", "--styles", "x", "--styles", "y", "z"],
    )
    assert (config.prompts, config.styles) == (["a{}", "b{}", "c{}"], ["x", "y", "z"])


def test_an_empty_list_overrides_the_file(tmp_path):
    config = from_yaml(TrainConfig, "train: {preview_prompts: [a, b]}", tmp_path, "--preview_prompts")
    assert config.preview_prompts == []


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
    assert cls.__doc__.splitlines()[0] in text
    for field in dataclasses.fields(cls):
        assert f"--{field.name} " in text
        help = " ".join(field.metadata["help"].split())
        assert help and help in text.replace("- ", "-")


@dataclasses.dataclass(frozen=True)
class Options:
    """What to do."""

    size: int = option(1, "Size, in %, {} or %(prog)s.", low=0, high=9)
    ratio: float | None = option(None, "Ratio.")
    words: list[str] = option(["a", "b"], "Words.")
    fast: bool = option(True, "Fast.")

    def __post_init__(self):
        check_values(self)


def test_help_shows_usage_ranges_and_defaults(capsys):
    with pytest.raises(SystemExit):
        parse(Options, ["--help"], "dreamstyler paint")
    shown = capsys.readouterr().out
    assert shown.startswith("usage: dreamstyler paint [--config FILE]")
    for text in "Size, in %, {} or %(prog)s. (from 0 to 9; default: 1)", "(default: a, b)", "(default: true)":
        assert text in " ".join(shown.split())


def test_a_flat_file_serves_any_settings(tmp_path):
    assert from_yaml(Options, "size: 2\nratio: 1\nwords: [a]", tmp_path, "--words", "b", "c") == Options(
        2, 1, ["b", "c"]
    )
    with pytest.raises(UserError, match="ratio: must be a number or null, not 'x'"):
        from_yaml(Options, "ratio: x", tmp_path)
    with pytest.raises(UserError, match="unknown key 'sise'; did you mean size"):
        from_yaml(Options, "sise: 2", tmp_path)


# Mistakes


@pytest.mark.parametrize(
    "argv, message",
    [
        ("--stepps 3", "unknown option --stepps; did you mean --steps?"),
        ("--learning-rat=3", "unknown option --learning_rat; did you mean --learning_rate?"),
        ("--stage 3", "did you mean --stages?"),
        ("--xyzzy", "unknown option --xyzzy; --help"),
        ("picture.png", "'picture.png' belongs to no option; write --images picture.png"),
        ("--images --steps 3", "images: give at least one value, or leave --images out"),
        ("--config sd_15", "sd_15: there is no such file; the package has grids/guidance, "),
        ("--seed 0 1 2", "seed: takes one word, and '1' is another: quote what holds spaces"),
        ("--steps 3 --steps 4", "steps: given twice, '3' and '4'; give it once"),
        ("--config a --config b", "config: given twice"),
        ("--steps -1", "steps: must be a whole number or null or auto, not '-1'"),
        ("--steps 5:50", "steps: must be a whole number or null or auto, not '5:50'"),
        ("--steps", "--steps: expected one argument"),
        ("--steps many", "steps: must be a whole number or null or auto, not 'many'"),
        ("--steps 2.5", "steps: must be a whole number or null or auto, not '2.5'"),
        ("--steps 0", "steps: must be from 1 to 1000000, not 0"),
        ("--stages 51", "stages: must be from 1 to 50, not 51"),
        ("--vectors 17", "vectors: must be from 1 to 16, not 17"),
        ("--learning_rate nan", "learning_rate: must be a number or null, not 'nan'"),
        ("--learning_rate inf", "learning_rate: must be a number or null, not 'inf'"),
        ("--steps=1 --steps", "--steps: expected one argument"),
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
        ("--steps 3 4 3", "steps: give at least one value, without duplicates"),
        ("--steps", "steps: give at least one value, without duplicates"),
        ("--guidance_scale 1 1.0", "guidance_scale: give at least one value, without duplicates"),
        ("--guidance_scale 1 nan", "guidance_scale: must be a number, not 'nan'"),
        ("--context_scale 1 101", "context_scale: must be from 0 to 100, not 101"),
        ("--style_scale 1 -1", "style_scale: must be from 0 to 100, not -1"),
        ("--solver ddim uler", f"solver: must be one of {', '.join(SOLVERS)} (did you mean euler?), not 'uler'"),
        ("--solver ddim ddim", "solver: give at least one value, without duplicates"),
        ("--checkpoints 100 0", "checkpoints: must be from 1 to 1000000000, not 0"),
        ("--checkpoints 100 100", "checkpoints: give at least one value, without duplicates"),
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


# The process


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
        (raising(OSError(errno.EFBIG, "File too large", "a")), 2, "error: [Errno 27] File too large: 'a'\n"),
        (raising(OSError(errno.EIO, "Input/output error")), 2, "error: [Errno 5] Input/output error\n"),
        (raising(OSError(errno.ENOENT, "No such", "/proc/x")), 2, "error: [Errno 2] No such: '/proc/x'\n"),
        (raising(OSError(errno.EINVAL, "Invalid", "a")), 2, f"error: [Errno {errno.EINVAL}] Invalid: 'a'\n"),
        (raising(OSError(errno.ELOOP, "Loop", "a")), 2, f"error: [Errno {errno.ELOOP}] Loop: 'a'\n"),
        (raising(OSError(errno.ENAMETOOLONG, "Long", "a")), 2, f"error: [Errno {errno.ENAMETOOLONG}] Long: 'a'\n"),
        (raising(KeyboardInterrupt()), 75, "interrupted; to continue: "),
    ],
)
def test_exit_status(run, status, message, capsys):
    with pytest.raises(SystemExit) as exit:
        cli.run_and_exit(run)
    assert exit.value.code == status
    assert capsys.readouterr().err.startswith(message)


@pytest.mark.parametrize("given", ["", "--resume", "--resume true", "--resume=true", "--resume False", "--resume=no"])
def test_the_advice_to_continue_has_resume_once(given, monkeypatch, capsys):
    monkeypatch.setattr(sys, "orig_argv", ["dreamstyler", "train", *given.split(), "--name", "true"])
    with pytest.raises(SystemExit):
        cli.run_and_exit(raising(KeyboardInterrupt()), resumable=True)
    assert capsys.readouterr().err == "interrupted; to continue: dreamstyler train --name true --resume\n"


def test_what_the_terminal_cannot_show_is_escaped(monkeypatch):
    shown = io.TextIOWrapper(io.BytesIO(), "cp1252")
    monkeypatch.setattr(sys, "stdout", shown)
    with pytest.raises(SystemExit) as end:
        run_and_exit(lambda: print("the style звезда"))
    shown.flush()
    assert end.value.code == 0 and shown.buffer.getvalue().startswith(b"the style \\u0437")  # type: ignore[attr-defined]


def test_a_defect_keeps_its_traceback():
    ours = [FileNotFoundError(2, "No such file", file) for file in (cli.__file__, pytest.__file__, os.__file__, None)]
    for error in ZeroDivisionError(), OSError("not the disk"), *ours:
        with pytest.raises(type(error)):
            cli.run_and_exit(raising(error))


def test_sigterm_ends_with_75_and_the_command_that_continues(tmp_path):
    script = tmp_path / "work.py"
    script.write_text(
        "import time\nfrom dreamstyler_jax.commands.cli import run_and_exit\n"
        "def run():\n    print('ready', flush=True)\n    time.sleep(60)\n"
        "run_and_exit(run, resumable=True)\n"
    )
    command = [sys.executable, str(script), "--name", "a b"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment) as process:
        assert process.stdout and process.stdout.readline() == "ready\n"
        process.terminate()
        begun = time.monotonic()
        _, message = process.communicate(timeout=30)
        assert time.monotonic() - begun < 10
    assert process.returncode == 75
    assert message == f"interrupted; to continue: {sys.executable} {script} --name 'a b' --resume\n"


WITHOUT_JAX = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        assert name not in ("jax", "flax", "torch"), f"imports {name}"

sys.meta_path.insert(0, Refuse())
from dreamstyler_jax.__main__ import main
main()
"""


@pytest.mark.parametrize("command", ["train", "sample"])
@pytest.mark.parametrize(
    ("word", "status", "shown"),
    [
        ("--help", 0, "usage: dreamstyler"),
        ("--stepps", 2, "did you mean --steps"),
        ("--steps=0", 2, "must be from 1"),
    ],
)
def test_help_and_mistakes_do_not_import_jax(command, word, status, shown):
    words = [sys.executable, "-c", WITHOUT_JAX, command, word]
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, "Traceback" in done.stderr) == (status, False), done
    assert shown in done.stdout + done.stderr


@pytest.mark.parametrize("command", [["train.py"], ["sample.py"], ["-m", "dreamstyler_jax", "train"]])
def test_a_mistake_ends_the_process_with_status_2_and_one_line(command, tmp_path):
    words = [str(ROOT / word) if word.endswith(".py") else word for word in command]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, *words, "--stepps", "3"], cwd=tmp_path, capture_output=True, text=True, env=environment
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: unknown option --stepps; did you mean --steps?\n"
    assert not list(tmp_path.iterdir())


# The command dreamstyler


@pytest.fixture
def dreamstyler(monkeypatch, capsys):
    """Runs the command in this process: its exit status and what it printed."""

    def call(*words, name=None):
        monkeypatch.setattr(sys, "argv", ["dreamstyler", *words])
        monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
        monkeypatch.setattr(__main__, "ignore_signals", lambda: None)  # this process does not end
        with pytest.raises(SystemExit) as exit:
            __main__.main(name)
        shown = capsys.readouterr()
        return exit.value.code, shown.out, shown.err

    return call


def test_help_lists_the_commands_by_what_they_are_for(dreamstyler):
    status, shown, _ = dreamstyler("--help")
    assert status == 0
    _, beginning, *groups, _ = shown.split("\n\n")
    assert beginning.startswith("To begin") and len(groups) == len(__main__.GROUPS)
    for text, (heading, commands) in zip(groups, __main__.GROUPS.items(), strict=True):
        first, *lines = text.splitlines()
        assert first == f"{heading}:" and len(lines) == len(commands)
        for line, (name, command) in zip(lines, commands.items(), strict=True):
            assert re.fullmatch(rf"  {name} +{re.escape(command.summary)}", line)
    assert dreamstyler() == dreamstyler("help") == (0, shown, "")


def test_help_begins_with_three_commands_that_work_as_they_stand(dreamstyler, tmp_path, monkeypatch):
    """Their options exist, and each takes what the one before has left."""
    lines = re.findall(r"^  (dreamstyler .*?)   ", __main__.BEGINNING, re.MULTILINE)
    caption, train, sample = (shlex.split(line)[1:] for line in lines)
    monkeypatch.chdir(tmp_path)
    (picture,) = parse(__main__.COMMANDS[caption[0]].config_class(), caption[1:]).images
    learning = parse(TrainConfig, train[1:])
    assert learning.images == [picture] and parse(SampleConfig, sample[1:]).styles == [learning.output]
    assert f"out/{learning.name}/index.html" in __main__.BEGINNING


@pytest.mark.parametrize(
    ("command", "headings"),
    [
        ("train", ["options", "the model", "how a style is learned"]),
        ("sample", ["options", "the model", "how strongly the prompt is followed"]),
        ("pick", ["options", "which pictures of a grid"]),
        ("words", ["options"]),
    ],
)
def test_help_lists_the_options_of_a_command_by_what_they_are_about(dreamstyler, command, headings):
    shown = dreamstyler(command, "--help")[1]
    assert re.findall(r"^(\S.*):$", shown, re.MULTILINE) == headings
    names = [field.name for field in dataclasses.fields(__main__.COMMANDS[command].config_class())]
    assert sorted(re.findall(r"^  --(\w+)", shown, re.MULTILINE)) == sorted([*names, "config", "print_config"])


def test_help_breaks_lines_between_words_only(dreamstyler, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    shown = dreamstyler("sample", "--help")[1].split()
    assert "{index:04}-{prompt}-{seed}." in shown and not [word for word in shown if word.endswith("-")]


def test_a_mistake_of_thousands_of_letters_is_a_short_line(dreamstyler):
    status, _, shown = dreamstyler("train", "--steps", "x" * 5000)
    assert status == 2 and len(shown) < 1100
    assert shown.startswith("error: steps: must be a whole number or null or auto, not 'xxx") and " ... xxx" in shown


@pytest.mark.parametrize(
    ("word", "meant"), [("trian", "train"), ("paint", "sample"), ("--verison", "--version"), ("evalute", "evaluate")]
)
def test_an_unknown_command_names_the_nearest(dreamstyler, word, meant):
    assert dreamstyler(word) == (2, "", f"error: unknown command {word!r}; did you mean {meant}?\n")


@pytest.mark.parametrize("name", __main__.COMMANDS)
def test_every_command_has_settings_and_a_function_run(name, monkeypatch):
    command = __main__.COMMANDS[name]
    assert dataclasses.is_dataclass(command.config_class())
    assert callable(importlib.import_module(command.module).run)


@pytest.mark.parametrize(("name", "usage"), [(None, "usage: dreamstyler train "), ("train", "usage: python train.py ")])
def test_usage_names_the_command_as_called(dreamstyler, name, usage):
    status, shown, _ = dreamstyler(*([] if name else ["train"]), "--help", name=name)
    assert status == 0 and shown.startswith(usage)


def test_what_exhausts_the_memory_ends_in_a_line_with_the_options_that_take_less(dreamstyler, monkeypatch):
    def run(config):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.")

    monkeypatch.setattr(importlib.import_module("dreamstyler_jax.commands.train"), "run", run)
    status, _, errors = dreamstyler("train")
    assert status == 2 and re.fullmatch(
        "error: this needs more memory than .* ha(s|ve): give a smaller --resolution, or --dtype bfloat16 if it is not",
        errors.strip(),
    )
