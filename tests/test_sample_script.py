"""sample.py as its user meets it: the pictures, what they say about themselves, what it says to mistakes.

Most tests paint eight pictures at a time, so that one compiled program does for them.
"""

import json
import os
import re
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from script_tools import contents, refusal, run, start, without_a_tensor, write_picture
from tiny_model import WIDTH

import sample
from dreamstyler_jax import images
from dreamstyler_jax.config import SampleConfig
from dreamstyler_jax.console import plain_warnings
from dreamstyler_jax.style import FILE_NAME, Style

HOUSE, DOG = "a painting of a red house in the style of {}", "a painting of a small dog in the style of {}"
CFG = ["--guidance", "cfg", "--guidance_scale"]


def write_style(folder, name, stages=2, vectors=1, width=WIDTH, seed=0, **metadata):
    table = np.random.default_rng(seed).standard_normal((stages, vectors, width), np.float32) / 5
    Style(name, table, metadata).save(folder / FILE_NAME)
    return folder


@pytest.fixture(scope="module")
def styles(tmp_path_factory):
    """Runs of two styles, "gogh" and "wave"; of gogh the picture it was learned from is still there."""
    folder = tmp_path_factory.mktemp("runs")
    picture = write_picture(folder / "starry.png", 0)
    write_style(folder / "gogh", "gogh", images=[str(picture)])
    write_style(folder / "wave", "wave", vectors=2, seed=1)
    return folder


@pytest.fixture(scope="module")
def words(tiny_folder):
    return ["--model", tiny_folder, "--steps", 3]


@pytest.fixture(scope="module")
def painted(words, styles, tmp_path_factory):
    """Two prompts, one of them given twice, with four seeds: eight pictures in one batch."""
    folder = tmp_path_factory.mktemp("out") / "painted"
    options = ["--styles", styles / "gogh", "--seeds", "0:3,9", "--negative_prompt", "the sea"]
    run(sample, *words, *options, "--prompts", HOUSE, DOG, HOUSE, "--output", folder)
    return folder


def manifest(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]


def pictures(folder, **which) -> list[np.ndarray]:
    """The pictures of a folder whose manifest lines say so, as integers, in the order of the manifest."""
    lines = [line for line in manifest(folder) if all(line[key] == value for key, value in which.items())]
    return [np.asarray(Image.open(folder / line["file"])).astype(int) for line in lines]


def paint(folder, *words) -> list[np.ndarray]:
    run(sample, *words, "--output", folder)
    return pictures(folder)


def eight(words, styles, *names) -> list:
    """The command that paints in the styles of these names with eight seeds."""
    return [*words, "--seeds", "0:8", "--styles", *(styles / name for name in names)]


def difference(a, b) -> int:
    """The largest difference of two pictures, of 255."""
    return int(np.abs(a - b).max())


# What is left behind


def test_every_prompt_is_painted_once_with_every_seed(painted):
    asked = [(line["prompt"], line["seed"]) for line in manifest(painted)]
    assert asked == [(prompt, seed) for prompt in (HOUSE, DOG) for seed in (0, 1, 2, 9)]
    files = sorted(line["file"] for line in manifest(painted))
    assert files == sorted(f"images/{path.name}" for path in (painted / "images").iterdir())


def test_pictures_have_the_models_size_and_differ(painted):
    every = pictures(painted)
    assert {picture.shape for picture in every} == {(16, 16, 3)}
    assert all(difference(a, b) > 8 for i, a in enumerate(every) for b in every[:i])


def test_a_picture_says_how_it_was_made(painted, tiny_folder, styles):
    for line in manifest(painted):
        said = images.read_text(painted / line["file"])
        assert said.pop("software").startswith("dreamstyler_jax ")
        own = {key: value for key, value in line.items() if key not in ("id", "file")}
        assert {key: value if isinstance(own[key], str) else json.loads(value) for key, value in said.items()} == own
    assert own["styles"] == {"gogh": Style.load(styles / "gogh" / FILE_NAME).hash}
    assert (own["scales"], own["solver"], own["steps"]) == ({"guidance_scale": 3.5}, "dpmpp_2m", 3)
    assert (own["model"], own["negative_prompt"]) == (str(tiny_folder), "the sea")


def test_the_sheet_shows_every_picture_beside_the_one_it_was_learned_from(painted, styles):
    sheet = np.asarray(Image.open(painted / "grid.png"))
    shown = [*pictures(painted), np.asarray(images.fit(images.load(styles / "starry.png"), 14, 14))]
    for picture in shown:
        factor = 256 // len(picture)
        tile = np.repeat(np.repeat(picture, factor, 0), factor, 1)
        corners = np.argwhere((sheet[: -len(tile), : -len(tile)] == tile[0, 0]).all(-1))
        assert any((sheet[y : y + len(tile), x : x + len(tile)] == tile).all() for y, x in corners)


def test_painting_more_keeps_what_is_there(words, styles, tmp_path):
    command = [*eight(words, styles, "gogh"), "--prompts", HOUSE, "--output", tmp_path / "out"]
    run(sample, *command)
    first = contents(tmp_path / "out")
    run(sample, *command, "--seeds", "4:12")
    assert [line["seed"] for line in manifest(tmp_path / "out")] == list(range(12))
    both = contents(tmp_path / "out")
    assert all(both[name] == first[name] for name in first if name.startswith("images"))


def test_the_folder_is_named_after_the_styles_unless_given(words, styles, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    run(sample, *eight(words, styles, "gogh"), "--prompts", HOUSE)
    assert Image.open("out/gogh/grid.png")
    assert "8 pictures are in out/gogh/images" in capsys.readouterr().out


def test_foreign_names_of_styles_stay_below_the_output_folder():
    assert sample.default_folder(["gogh", "wave"]) == Path("out/gogh-wave")
    assert sample.default_folder(["/etc/passwd"]) == Path("out/etc_passwd")
    assert sample.default_folder([".."]) == Path("out/style")
    assert len(sample.default_folder(["long"] * 100).name) == 100


def test_the_newest_style_is_the_default_and_else_the_shipped_one(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert sample.newest_style() == sample.EXAMPLE_STYLE
    for age, name in enumerate(("new", "old", "older")):
        file = write_style(tmp_path / "runs" / name, name) / FILE_NAME
        os.utime(file, (1000 - age, 1000 - age))
    assert sample.newest_style() == Path("runs/new") / FILE_NAME


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


def test_a_scale_that_the_form_of_guidance_does_not_have_is_pointed_out():
    with pytest.warns(UserWarning, match="style_scale counts only with --guidance paper or release, not cfg"):
        sample.warn_of_idle_scales(SampleConfig(style_scale=2.0))
    with pytest.warns(UserWarning, match="guidance_scale counts only with --guidance cfg, not paper"):
        sample.warn_of_idle_scales(SampleConfig(guidance="paper", guidance_scale=7.5))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sample.warn_of_idle_scales(SampleConfig(guidance="release", style_scale=2.0))
        sample.warn_of_idle_scales(SampleConfig(guidance_scale=7.5))


# Prompts


def test_prompts_from_a_file(tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_bytes("\ufeffa {}\r\n\r\n# a remark\r\n  b {} \r\n".encode())
    assert sample.read_prompts(str(file)) == ["a {}", "b {}"]


def test_a_prompt_that_is_cut_gives_one_line_of_warning(words, styles, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    plain_warnings()
    (tmp_path / "prompts.txt").write_text("{} " + "red " * 22 + "house\n")
    capfd.readouterr()
    command = [*eight(words, styles, "gogh"), "--prompts_file", tmp_path / "prompts.txt"]
    run(sample, *command, "--output", tmp_path / "out")
    lines = capfd.readouterr().err.splitlines()
    warning = re.compile(r"warning: the prompt .* is \d+ token\(s\) too long; cut: .*house'")
    assert lines and all(warning.fullmatch(line) for line in lines), lines


# Mistakes: one line that says what to do, and nothing written


def mistaken_words(kind, folder, model, styles) -> list:
    """A command, complete but for its output, with one mistake."""
    command = ["--model", model, "--styles", styles / "gogh", "--seeds", 0, "--steps", 1]
    prompts = folder / "prompts.txt"
    if kind == "no prompts file":
        return [*command, "--prompts_file", prompts]
    if kind == "unreadable prompts file":
        prompts.write_bytes(b"\xff\xfe\x00")
        return [*command, "--prompts_file", prompts]
    if kind == "empty prompts file":
        prompts.write_text("\n# nothing\n")
        return [*command, "--prompts_file", prompts]
    command += ["--prompts", HOUSE]
    if kind == "several styles":
        return [*command, "--styles", styles / "gogh", styles / "wave"]
    if kind == "no such style":
        return [*command, "--styles", folder / "absent"]
    if kind == "no style at all":
        (folder / "notes.safetensors").write_text("not a style")
        return [*command, "--styles", folder / "notes.safetensors"]
    if kind == "style of another width":
        return [*command, "--styles", write_style(folder / "wide", "wide", width=24, model="other")]
    if kind == "tensor missing":
        return [*command, "--model", without_a_tensor(model, folder / "broken")]
    return command


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
    ("several styles", [], r"\{\} needs exactly one style and 2 were given: write one of \{gogh\}, \{wave\}"),
    ("no such style", [], "there is no style .*absent"),
    ("no style at all", [], "notes.safetensors is not a style"),
    ("style of another width", [], "width 24, .* 16: use the model that the style was trained on, other"),
    ("no multiple", ["--width", "18"], "width: must be a multiple of 4 .* such as 16, not 18"),
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
