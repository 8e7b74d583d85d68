"""``dreamstyler sample``: the pictures, what they depend on and say about themselves, and what it says about mistakes.

Most tests paint eight pictures at a time, so that they share one compiled program.
"""

import dataclasses
import json
import os
import re
import shlex
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from cells import CELL
from PIL import Image
from sample_tools import (
    DOG,
    HOUSE,
    difference,
    eight,
    manifest,
    paint,
    pictures,
    write_style,
)
from script_tools import contents, refusal, run, start, without_a_tensor

from dreamstyler_jax.commands import sample
from dreamstyler_jax.commands.cli import parse
from dreamstyler_jax.commands.config import SampleConfig
from dreamstyler_jax.commands.prompt_lists import read_prompts
from dreamstyler_jax.commands.sample_inputs import (
    context_lines,
    newest_style,
    scheduler_line,
    warn_of_distillation,
    warn_of_earlier_weights,
    warn_of_settings_without_effect,
)
from dreamstyler_jax.mini.shipped import EXAMPLE_STYLE
from dreamstyler_jax.runtime import images
from dreamstyler_jax.runtime.console import plain_warnings
from dreamstyler_jax.runtime.errors import UserError
from dreamstyler_jax.style import FILE_NAME, Style

CFG = ["--guidance", "cfg", "--guidance_scale"]


@pytest.fixture(scope="module")
def painted(words, styles, tmp_path_factory):
    """Two prompts, one of them given twice, with four seeds: eight pictures in one batch."""
    folder = tmp_path_factory.mktemp("out") / "painted"
    options = ["--styles", styles / "gogh", "--seeds", "0:3,9", "--negative_prompt", "the sea"]
    run(sample, *words, *options, "--prompts", HOUSE, DOG, HOUSE, "--output", folder)
    return folder


# What it writes


def test_every_prompt_is_painted_once_with_every_seed(painted):
    asked = [(line["prompt"], line["seed"]) for line in manifest(painted)]
    assert asked == [(prompt, seed) for prompt in (HOUSE, DOG) for seed in (0, 1, 2, 9)]
    files = sorted(line["file"] for line in manifest(painted))
    assert files == sorted(f"images/{path.name}" for path in (painted / "images").iterdir())


def test_pictures_have_the_models_size_and_differ(painted):
    all_pictures = pictures(painted)
    assert {picture.shape for picture in all_pictures} == {(16, 16, 3)}
    assert all(difference(a, b) > 8 for i, a in enumerate(all_pictures) for b in all_pictures[:i])


def test_a_picture_says_how_it_was_painted(painted, tiny_folder, styles):
    for line in manifest(painted):
        said = images.read_text(painted / line["file"])
        assert said.pop("parameters").startswith(line["prompt"].replace("{}", "gogh"))
        assert said.pop("software").startswith("dreamstyler_jax ")
        unsaid = ("id", "file", "sha256", "command", "learned_from", "learned_from_hashes")
        known = {key: value for key, value in line.items() if key not in unsaid}
        assert {
            key: value if isinstance(known[key], str) else json.loads(value) for key, value in said.items()
        } == known
        assert known["styles"] == {"gogh": Style.load(styles / "gogh" / FILE_NAME).hash}
        assert (known["scales"], known["solver"], known["steps"]) == ({"guidance_scale": 3.5}, "dpmpp_2m", 3)
        assert (known["model"], known["negative_prompt"]) == (str(tiny_folder), "the sea")


def test_the_sheet_shows_every_picture_and_the_training_picture(painted, styles):
    sheet = np.asarray(Image.open(painted / "grid.png"))
    shown = [*pictures(painted), np.asarray(images.fit(images.load(styles / "starry.png"), 14, 14))]
    for picture in shown:
        factor = 256 // len(picture)
        tile = np.repeat(np.repeat(picture, factor, 0), factor, 1)
        corners = np.argwhere((sheet[: -len(tile), : -len(tile)] == tile[0, 0]).all(-1))
        assert any((sheet[y : y + len(tile), x : x + len(tile)] == tile).all() for y, x in corners)


def test_the_page_shows_every_picture_and_the_training_picture(painted):
    page = (painted / "index.html").read_text()
    assert all(line["file"] in page for line in manifest(painted))
    assert len(list((painted / "atlas").iterdir())) == 2


def test_the_command_of_a_picture_paints_it_again(words, styles, tmp_path, monkeypatch):
    """Whatever axes the grid had; the folder out/again collects such pictures."""
    monkeypatch.chdir(tmp_path)
    axes = ["--mixes", "gogh:1,monet:0", "gogh*0.5+monet*0.5", "--negative_prompt=-{}", "--solver", "ddim", "euler"]
    scales = ["--guidance", "paper", "--style_scale", 1, 2.5, "--context_scale", 0.125]
    more = [*axes, *scales, "--seeds", "3,5", "--prompts", "a painting of a '{red|blue}' \"house\" by {}"]
    run(sample, *eight(words, styles, "gogh", "monet"), *more, "--output", "out/first")
    lines = manifest(Path("out/first"))
    assert len(lines) == 32
    for line in lines[5], lines[30]:
        program, name, *options = shlex.split(line["command"])
        assert (program, name) == ("dreamstyler", "sample")
        run(sample, *options, "--batch_size", 8)
        again = manifest(Path("out/again"))[-1]
        first, second = (
            Image.open(Path("out", *place)) for place in (("first", line["file"]), ("again", again["file"]))
        )
        assert difference(np.asarray(first), np.asarray(second)) <= 1
    assert len(manifest(Path("out/again"))) == 2


def test_the_command_of_a_picture_names_only_the_styles_it_needs():
    names = {"runs/gogh": {"gogh"}, "runs": {"monet", "wave"}, "b=x.safetensors": {"b"}}
    config = SampleConfig(styles=list(names), mixes=["gogh:1,monet@100:0", "b:1-0"])
    for styles, paths, mixes in [
        ({"gogh": "1"}, ["runs/gogh"], []),
        ({"b@50": "1", "wave": "2"}, ["runs", "b=x.safetensors"], []),
        ({"gogh:1,monet@100:0": "1"}, ["runs/gogh", "runs"], config.mixes[:1]),
        ({}, config.styles, []),
    ]:
        command = sample.command_of(config, dataclasses.replace(CELL, styles=styles), names)
        again = parse(SampleConfig, shlex.split(command)[2:])
        assert (again.styles, again.mixes) == (paths, mixes)


def test_the_folder_is_named_after_the_styles_unless_given(words, styles, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    run(sample, *eight(words, styles, "gogh"), "--prompts", HOUSE)
    assert Image.open("out/gogh/grid.png")
    assert "8 pictures in out/gogh/images" in capsys.readouterr().out


def test_a_changed_grid_goes_to_a_folder_of_its_own_unless_one_is_given(words, styles, monkeypatch, tmp_path, capfd):
    monkeypatch.chdir(tmp_path)
    options = eight(words, styles, "gogh")
    for prompt, folder in ((HOUSE, "gogh"), (DOG, "gogh-2"), ("a sea by {}", "gogh-3")):
        capfd.readouterr()
        run(sample, *options, "--prompts", prompt)
        printed = capfd.readouterr().out
        assert f"8 pictures in out/{folder}/images" in printed
        assert ("out/gogh holds another grid; this one goes to out/" + folder in printed) == (folder != "gogh")
    before = contents(tmp_path)
    for prompt in (DOG, HOUSE, "a sea by {}"):
        run(sample, *options, "--prompts", prompt)
        assert "8 of 8 pictures are there and whole" in capfd.readouterr().out
    assert contents(tmp_path) == before
    line = refusal(capfd, sample, *options, "--prompts", DOG, "--output", "out/gogh")
    assert re.search(r"out/gogh holds the pictures of another grid \(prompt differs\): choose another --output", line)
    run(sample, *options, "--prompts", DOG, "--merge")
    assert "16 pictures in out/gogh/images" in capfd.readouterr().out


def test_it_says_what_it_is_about_to_do(words, styles, tiny_folder, tmp_path, capfd):
    options = [*words, "--styles", styles / "gogh", "--prompts", HOUSE, DOG, "--seeds", "0:4", "--output", tmp_path]
    run(sample, *options)
    model, summary, compiling, watch = capfd.readouterr().err.splitlines()
    assert watch == f"Watch it in a browser: {tmp_path / 'index.html'}"
    assert re.fullmatch(rf"StableDiffusion\('{tiny_folder}', 16 x 16 pixels, float32\) on \d+ x \w+", model)
    assert summary == f"Painting 8 pictures in gogh: '{HOUSE}' and 1 more prompt"
    assert compiling.startswith("Compiling")
    run(sample, *options)
    assert capfd.readouterr().err == "", "nothing is left to do"


def test_folders_for_unusual_names_of_styles_stay_in_the_output_folder():
    assert sample.default_folder(["gogh", "wave"]) == Path("out/gogh-wave")
    assert sample.default_folder(["/etc/passwd"]) == Path("out/etc_passwd")
    assert sample.default_folder([".."]) == Path("out/style")
    assert len(sample.default_folder(["long"] * 100).name) == 100


def test_the_newest_style_is_the_default_or_else_the_shipped_one(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert newest_style() == EXAMPLE_STYLE
    for age, name in enumerate(("new", "old", "older")):
        file = write_style(tmp_path / "runs" / name, name) / FILE_NAME
        os.utime(file, (1000 - age, 1000 - age))
    assert newest_style() == Path("runs/new") / FILE_NAME


# What a picture depends on


def test_a_picture_does_not_depend_on_its_batch(painted, words, styles, tmp_path):
    options = ["--styles", styles / "gogh", "--seeds", 9, "--negative_prompt", "the sea", "--prompts", DOG]
    (alone,) = paint(tmp_path, *words, *options)
    (in_batch,) = pictures(painted, prompt=DOG, seed=9)
    assert difference(alone, in_batch) <= 1


def test_a_style_by_name_among_others_paints_as_it_does_alone(words, styles, tmp_path):
    def first(folder, prompt, *names):
        return paint(tmp_path / folder, *eight(words, styles, *names), "--prompts", prompt)[0]

    alone = first("alone", HOUSE, "wave")
    assert difference(first("named", HOUSE.replace("{}", "{wave}"), "gogh", "wave"), alone) <= 1
    assert difference(first("other", HOUSE.replace("{}", "{gogh}"), "gogh", "wave"), alone) > 8
    assert difference(first("both", HOUSE.replace("{}", "{gogh} {wave}"), "gogh", "wave"), alone) > 8


def test_the_negative_prompt_counts(painted, words, styles, tmp_path):
    without, *_ = paint(tmp_path, *eight(words, styles, "gogh"), "--prompts", HOUSE)
    (with_it,) = pictures(painted, prompt=HOUSE, seed=0)
    assert difference(without, with_it) > 8


def test_sizes_other_than_square(words, styles, tmp_path):
    size = ["--height", 24, "--width", 12]
    (picture,) = paint(tmp_path, *words, "--styles", styles / "gogh", "--prompts", HOUSE, "--seeds", 0, *size)
    assert picture.shape == (24, 12, 3)
    assert (manifest(tmp_path)[0]["height"], manifest(tmp_path)[0]["width"]) == (24, 12)


def test_forms_of_guidance(words, styles, tmp_path):
    def guided(name, *options):
        return paint(tmp_path / name, *eight(words, styles, "gogh"), "--prompts", HOUSE, *options)[0]

    def scales(form, style, context):
        return ["--guidance", form, "--null_scale", 4, "--style_scale", style, "--context_scale", context]

    paper = guided("paper", *scales("paper", 0.5, 1.5))
    assert manifest(tmp_path / "paper")[0]["scales"] == {"null_scale": 4.0, "style_scale": 0.5, "context_scale": 1.5}
    assert difference(paper, guided("release", *scales("release", 1, 3))) == 0  # it halves the two
    assert difference(paper, guided("more style", *scales("paper", 1.5, 0.5))) > 8
    equal = guided("equal", *scales("paper", 0.5, 0.5))
    assert difference(equal, guided("cfg", *CFG, 5)) == 0  # ln + ls + lc
    assert difference(paper, equal) > 8


def test_a_style_of_an_earlier_embedded_model_gives_a_warning():
    model = SimpleNamespace(name="mini", hash="new")
    table = {"clip_l": np.ones((1, 1, 4))}
    origins = {"gogh": "old", "wave": "new", "loop": "old"}
    styles = {name: Style(name, table, {"model": "mini", "model_hash": origin}) for name, origin in origins.items()}
    with pytest.warns(UserWarning, match="^gogh, loop: learned with an earlier version of the embedded model"):
        warn_of_earlier_weights(model, styles)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_earlier_weights(model, {"wave": styles["wave"], "other": Style("other", table, {"model": "sd15"})})
        warn_of_earlier_weights(SimpleNamespace(name="sd15", hash="new"), styles)


def test_a_setting_without_effect_gives_a_warning():
    with pytest.warns(UserWarning, match="strength only has an effect with --content"):
        warn_of_settings_without_effect(SampleConfig(strength=[0.5]))
    with pytest.warns(UserWarning, match="style_scale only has an effect with --guidance paper or release, not cfg"):
        warn_of_settings_without_effect(SampleConfig(style_scale=[2.0]))
    with pytest.warns(UserWarning, match="guidance_scale only has an effect with --guidance cfg, not paper"):
        warn_of_settings_without_effect(SampleConfig(guidance="paper", guidance_scale=[3.5, 7.5]))
    for name, value in {"guidance_rescale": [0.7], "apg_eta": [0.0], "guidance_schedule": "linear"}.items():
        with pytest.warns(UserWarning, match=f"{name} only has an effect with guidance, and with these scales"):
            warn_of_settings_without_effect(SampleConfig(guidance_scale=[0.0, 1.0], **{name: value}))
    with pytest.warns(UserWarning, match="negative_prompt only has an effect with guidance"):
        warn_of_settings_without_effect(SampleConfig(guidance_scale=[1.0], negative_prompt="blurry"))
    nets = dict(content=["a.png"], controlnets=["edges"])
    with pytest.warns(UserWarning, match="control_images only has an effect with --controlnets image=FOLDER"):
        warn_of_settings_without_effect(SampleConfig(**nets, control_images=["b.png"]))
    with pytest.warns(UserWarning, match="no whole step of 20 lies between 0.5 and 0.52, so there is no control at"):
        warn_of_settings_without_effect(SampleConfig(**nets, control_start=0.5, control_end=0.52))
    with pytest.warns(UserWarning, match=r"no whole step of 25 lies between 0.31 and 0.35, .* is 0.04 long"):
        warn_of_settings_without_effect(SampleConfig(guidance_start=0.31, guidance_end=0.35))
    with pytest.warns(UserWarning, match="weak_checkpoint only has an effect with --weak_scale"):
        warn_of_settings_without_effect(SampleConfig(weak_checkpoint=100))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_settings_without_effect(SampleConfig(guidance="release", style_scale=[2.0]))
        warn_of_settings_without_effect(SampleConfig(guidance_scale=[1.0, 7.5], guidance_rescale=[0.7]))
        weak = dict(weak_scale=[0.0, 2.0], weak_checkpoint=100)
        warn_of_settings_without_effect(SampleConfig(guidance_scale=[1.0], guidance_schedule="linear", **weak))
    with pytest.raises(UserError, match="weak_scale: name the training step of the weak style, with --weak_checkpoint"):
        SampleConfig(weak_scale=[2.0])


# Prompts


MERGED, UNMERGED = SimpleNamespace(members=("lcm",)), SimpleNamespace(members=())


@pytest.mark.parametrize(
    ("scheduler", "solver", "warning"),
    [
        ("LCMScheduler", "dpmpp_2m", r"LCMScheduler, .*: paint with --solver lcm --steps 8 --guidance_scale 1.5; if"),
        ("TCDScheduler", "euler", r"TCDScheduler, .*: paint with --solver tcd --steps 8 --guidance_scale 1.0; if"),
        ("PNDMScheduler", "lcm", r"lcm is for distilled models, .* that dreamshaper is one: add .* with --loras"),
        ("TCDScheduler", "lcm", "lcm is for distilled models"),
        ("LCMScheduler", "lcm", ""),
        ("", "unipc", ""),
    ],
)
def test_a_solver_for_few_steps_on_another_model_gives_a_warning(scheduler, solver, warning):
    model: Any = SimpleNamespace(
        name="dreamshaper", scheduler=scheduler, networks=SimpleNamespace(embeds_guidance=False)
    )
    config = SampleConfig(solver=[solver])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warn_of_distillation(config, model, [])
        assert len(caught) == bool(warning) and all(re.search(warning, str(one.message)) for one in caught)
        warn_of_distillation(config, model, cast(Any, [UNMERGED, MERGED]))
        assert len(caught) == bool(warning), "a LoRA may be what is distilled"


def test_a_model_that_embeds_the_scale_of_guidance_asks_for_its_solver():
    model: Any = SimpleNamespace(name="lcm-dreamshaper", scheduler="", networks=SimpleNamespace(embeds_guidance=True))
    with pytest.warns(UserWarning, match="lcm-dreamshaper is distilled as LCM: paint with --solver lcm"):
        warn_of_distillation(SampleConfig(), model, [])
    with pytest.warns(UserWarning, match="negative_prompt has no effect on lcm-dreamshaper"):
        warn_of_distillation(SampleConfig(solver=["lcm"], negative_prompt="blurry"), model, [])


def test_prompts_without_their_style_are_shown_where_guidance_takes_them():
    cells = [dataclasses.replace(CELL, prompt=prompt) for prompt in ("a house in the style of {}", "a dog by {}")]
    assert context_lines(cells, [0, 1]) == []
    assert context_lines(cells, [0, 1, 2]) == ["Without the style, for guidance: 'a house', 'a dog'"]
    with pytest.warns(UserWarning, match="'a boat like {}' does not call its style one; .* taken for 'a boat': write"):
        context_lines([dataclasses.replace(CELL, prompt="a boat like {}")], [2])


def test_a_scheduler_that_is_not_implemented_is_named_with_the_nearest_solver():
    def lines(scheduler: str) -> list[str]:
        return scheduler_line(cast(Any, SimpleNamespace(scheduler=scheduler)))

    assert lines("HeunDiscreteScheduler") == [
        "The model's HeunDiscreteScheduler is not implemented; the nearest is --solver dpmpp_2m"
    ]
    assert lines("KDPM2AncestralDiscreteScheduler")[0].endswith("--solver euler_a")
    assert lines("EulerDiscreteScheduler") == lines("") == []


def test_prompts_from_a_file(tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_bytes("\ufeffa {}\r\n\r\n# a remark\r\n  b {} \r\n".encode())
    assert read_prompts(str(file)) == ["a {}", "b {}"]
    file.write_bytes("a\fb\u2028c {}\rd {}\n".encode())
    assert read_prompts(str(file)) == ["a\fb\u2028c {}", "d {}"], "only line breaks end a line"


def test_a_prompt_that_is_cut_gives_one_line_of_warning(words, styles, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    plain_warnings()
    (tmp_path / "prompts.txt").write_text("{} " + "red " * 22 + "house\n")
    capfd.readouterr()
    command = [*eight(words, styles, "gogh"), "--prompts_file", tmp_path / "prompts.txt"]
    run(sample, *command, "--output", tmp_path / "out")
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("warning")]
    warning = re.compile(r"warning: the prompt .* is \d+ token\(s\) too long; cut: .*house'")
    assert lines and all(warning.fullmatch(line) for line in lines), lines


# Mistakes: one line that says what to do, and no files


def mistaken_words(kind, folder, model, styles) -> list:
    """Options with one mistake, complete except for the output."""
    words = ["--model", model, "--styles", styles / "gogh", "--seeds", 0, "--steps", 1]
    prompts = folder / "prompts.txt"
    if kind == "no prompts file":
        return [*words, "--prompts_file", prompts]
    if kind == "unreadable prompts file":
        prompts.write_bytes(b"\xff\xfe\x00")
        return [*words, "--prompts_file", prompts]
    if kind == "empty prompts file":
        prompts.write_text("\n# nothing\n")
        return [*words, "--prompts_file", prompts]
    words += ["--prompts", HOUSE]
    if kind == "mix of unlike styles":
        return [*words, "--styles", styles / "gogh", styles / "wave", "--mixes", "gogh*0.5+wave*0.5"]
    if kind == "no such style":
        return [*words, "--styles", folder / "absent"]
    if kind == "no style at all":
        (folder / "notes.safetensors").write_text("not a style")
        return [*words, "--styles", folder / "notes.safetensors"]
    if kind == "style of another width":
        return [*words, "--styles", write_style(folder / "wide", "wide", width=24, model="other")]
    if kind == "tensor missing":
        return [*words, "--model", without_a_tensor(model, folder / "broken")]
    return words


MISTAKES = [
    ("unknown option", ["--guidence", "cfg"], r"unknown option --guidence; did you mean --guidance\?"),
    ("unknown word", ["--solver", "dpm"], r"solver: must be one of .*dpmpp_2m"),
    ("no prompts file", [], "prompts_file: cannot read .*prompts.txt: No such file"),
    ("unreadable prompts file", [], "prompts_file: cannot read .*prompts.txt.*not UTF-8"),
    ("empty prompts file", [], "prompts_file: .* holds no prompt; write one per line"),
    ("no placeholder", ["--prompts", HOUSE, "a house"], r"'a house' has no placeholder: write \{\}"),
    ("empty prompt", ["--prompts", ""], r"has no placeholder: write \{\}"),
    ("placeholder too late", ["--prompts", "red " * 30 + "{}"], "beyond the 24-token window: shorten"),
    ("unknown style", ["--prompts", "a house by {goph}"], r"unknown style \{goph\}: write one of \{gogh\}"),
    ("style-only prompt too long", ["--guidance", "paper", "--prompts", "{} " * 20], "beyond the 24-token window"),
    ("negative prompt of an unknown style", ["--negative_prompt", "a {goph}"], r"unknown style \{goph\}: write one of"),
    ("lone brace", ["--prompts", "a {dog|cat in {}"], "lone '{'.*write it twice"),
    ("too many versions", ["--prompts", "{a|b}" * 20 + "{}"], "more than 10000 versions"),
    ("unknown mix", ["--mixes", "gogh:1,goph:0"], "names 'goph'; the styles given are gogh"),
    ("unreadable mix", ["--mixes", "gogh:1,gogh"], "each of them must say its stages"),
    ("mix of unlike styles", [], "needs styles of one number of vectors: gogh has 1 of width 16, wave has 2"),
    ("no such checkpoint", ["--checkpoints", "100"], "checkpoints: .*gogh keeps no style of step 100"),
    ("named without checkpoint", ["--prompts", "a {gogh@7}"], "checkpoints: .*gogh keeps no style of step 7"),
    (
        "value given twice",
        ["--guidance_scale", "2", "2.0"],
        "guidance_scale: give at least one value, without duplicates",
    ),
    ("wrong shard", ["--shard", "4/4"], "shard: '4/4' should read like 0/4"),
    ("hosts of no cluster", ["--shard", "hosts"], "shard: hosts is for TPU pods, Slurm and Open MPI jobs, not for a"),
    ("no such style", [], "there is no style .*absent"),
    ("no style at all", [], "notes.safetensors is not a style"),
    ("style of another width", [], "width 24, .* 16: use the model that the style was trained on, other"),
    ("no multiple", ["--width", "17"], "width: must be a multiple of 2 .* such as 16, not 17"),
    ("tensor missing", [], "unet.*missing: conv_in.bias"),
]


@pytest.mark.parametrize(("kind", "more", "complaint"), MISTAKES, ids=[mistake[0] for mistake in MISTAKES])
def test_a_mistake_ends_with_one_line_and_nothing_written(kind, more, complaint, tiny_folder, styles, tmp_path, capfd):
    (tmp_path / "given").mkdir()
    words = mistaken_words(kind, tmp_path / "given", tiny_folder, styles)
    line = refusal(capfd, sample, *words, *more, "--output", tmp_path / "out")
    assert re.search(complaint, line), line
    assert not (tmp_path / "out").exists()


def test_a_mistake_leaves_earlier_pictures_alone(painted, words, styles, capfd):
    before = contents(painted)
    refusal(capfd, sample, *words, "--styles", styles / "gogh", "--prompts", "a {goph}", "--output", painted)
    assert contents(painted) == before


def test_the_process_itself_ends_with_status_2_and_one_line(tiny_folder, styles, tmp_path):
    broken = without_a_tensor(tiny_folder, tmp_path / "broken")
    with start(sample, "--model", broken, "--styles", styles / "gogh", cwd=tmp_path) as process:
        out, err = process.communicate()
    assert (process.returncode, out) == (2, "")
    assert re.fullmatch(r"error: .*unet.*missing: conv_in.bias\n", err), err
    assert not (tmp_path / "out").exists()
