"""Prompts as people write them, lists of prompts, and names and formats of pictures, in ``dreamstyler sample``."""

import dataclasses
import json
import re
import shlex

import numpy as np
import pytest
from docs_tools import commands_of
from PIL import Image
from sample_tools import DOG, HOUSE, difference, eight, manifest, paint, pictures
from script_tools import ROOT, refusal, run

from dreamstyler_jax.commands import sample
from dreamstyler_jax.commands.cli import parse
from dreamstyler_jax.commands.config import SampleConfig
from dreamstyler_jax.commands.grid_jobs import cells_of
from dreamstyler_jax.commands.prompt_lists import COLUMNS, grid_parts
from dreamstyler_jax.commands.sample_inputs import load_all_styles
from dreamstyler_jax.grids.file_names import FIELDS
from dreamstyler_jax.guidance import SCALES
from dreamstyler_jax.prompts import name_placeholder
from dreamstyler_jax.stable_diffusion.pipeline import StableDiffusion

RED = "a painting of a (red:1.7) house in the style of {}"


def is_painted_again(line):
    """Whether the command of a picture makes its cell, apart from how it calls the style."""
    config = parse(SampleConfig, shlex.split(line["command"])[2:])
    parts = grid_parts(config)
    model = StableDiffusion.load(config.model)
    (cell,) = cells_of(parts, model, load_all_styles(config, parts), [], [])
    again = dataclasses.replace(cell, prompt=line["prompt"], style=line["style"])
    return again.id == line["id"] and cell.prompt == name_placeholder(line["prompt"], line["style"])


def test_weights_change_pictures_and_leave_those_of_other_prompts_alone(words, styles, undisturbed, tmp_path):
    half = [*words, "--styles", styles / "gogh", "--seeds", "0:4"]
    weighted = paint(tmp_path / "out", *half, "--prompts", RED, HOUSE)
    plain = pictures(undisturbed, prompt=HOUSE, style="gogh")[:4]
    for red, house, before in zip(weighted[:4], weighted[4:], plain, strict=True):
        assert difference(house, before) == 0
        assert difference(red, before) > 4
    lines = manifest(tmp_path / "out")
    assert [line["prompt_weights"] for line in lines] == [True] * 4 + [False] * 4
    assert [line["id"] for line in lines[4:]] == [line["id"] for line in manifest(undisturbed)[:4]]
    assert is_painted_again(lines[1])
    as_text = cells_of(
        grid_parts(parse(SampleConfig, [*map(str, half), "--prompts", RED, "--prompt_weights", "false"])),
        StableDiffusion.load(words[1]), load_all_styles(SampleConfig(styles=[str(styles / "gogh")]), []), [], [],
    )  # fmt: skip
    assert not {cell.id for cell in as_text} & {line["id"] for line in lines}
    assert as_text[0].texts[1] == RED.replace("{}", "{gogh}")


def test_long_prompts_are_read_in_windows(words, styles, tmp_path):
    long = "a painting of a house " + "by the sea " * 8 + "in the style of {}"
    short = "a dog by {}"
    options = [*eight(words, styles, "gogh"), "--long_prompts", "--prompts"]
    painted = paint(tmp_path, *options, long, short)
    assert [line["prompt_windows"] for line in manifest(tmp_path)[::8]] == [2, 1]
    assert difference(painted[0], painted[1]) > 8
    run(sample, *eight(words, styles, "gogh"), "--prompts", short, "--merge", "--output", tmp_path)
    assert len(manifest(tmp_path)) == 16, "short prompts are the pictures that they were"


def test_each_seed_draws_its_prompt(words, styles, tmp_path, capsys):
    (tmp_path / "wild").mkdir()
    (tmp_path / "wild/thing.txt").write_text("red house\nsmall dog\n")
    text = "a painting of a __thing__ {at night|} in the style of {}"
    options = [*eight(words, styles, "gogh"), "--prompts", text, "--wildcards", tmp_path / "wild"]
    folder = tmp_path / "out"
    run(sample, *options, "--choices", "random", "--name_format", "{seed}", "--output", folder)
    lines = manifest(folder)
    assert [line["file"] for line in lines] == [f"images/{seed}.png" for seed in range(8)]
    drawn = {line["prompt"] for line in lines}
    versions = {HOUSE, DOG, HOUSE.replace("house", "house at night"), DOG.replace("dog", "dog at night")}
    assert len(drawn) > 1 and drawn <= versions
    assert is_painted_again(lines[3])
    capsys.readouterr()
    run(sample, *options, "--choices", "random", "--name_format", "{seed}", "--output", folder)
    assert "8 of 8 pictures are there and whole" in capsys.readouterr().out


LIST = """prompt, negative_prompt, style, seed, guidance_scale
a house by {},,gogh,3,
a house by {},fog,wave,3,
"a house, (red:1.2), by {}",,gogh,4,2.5
a {dog|cat} by {},,wave,5,
a dog by {wave},,,"6,7",
a cat by {},,gogh,7,0.5
"""


def test_a_list_with_settings_for_each_line(words, styles, tmp_path, capsys):
    (tmp_path / "list.csv").write_text("\ufeff" + LIST, encoding="utf-8")
    options = [*words, "--styles", styles / "gogh", styles / "wave", "--prompts_file", tmp_path / "list.csv"]
    more = ["--format", "jpeg", "--quality", 90, "--name_format", "{index:02}-{style}", "--output", tmp_path / "out"]
    run(sample, *options, *more)
    lines = manifest(tmp_path / "out")
    names = ("prompt", "negative_prompt", "style", "seed")
    assert [(*(line[name] for name in names), line["scales"]["guidance_scale"]) for line in lines] == [
        ("a house by {}", "", "gogh", 3, 3.5),
        ("a house by {}", "fog", "wave", 3, 3.5),
        ("a house, (red:1.2), by {}", "", "gogh", 4, 2.5),
        ("a dog by {}", "", "wave", 5, 3.5),
        ("a cat by {}", "", "wave", 5, 3.5),
        ("a dog by {wave}", "", "", 6, 3.5),
        ("a dog by {wave}", "", "", 7, 3.5),
        ("a cat by {}", "", "gogh", 7, 0.5),
    ]
    assert [line["file"] for line in lines[:2]] == ["images/00-gogh.jpg", "images/01-wave.jpg"]
    for line in lines:
        assert Image.open(tmp_path / "out" / line["file"]).format == "JPEG"
        assert (line["format"], line["quality"]) == ("jpeg", 90)
        assert is_painted_again(line)
    capsys.readouterr()
    (tmp_path / "out" / lines[2]["file"]).write_bytes(b"damaged")
    run(sample, *options, *more)
    assert "7 of 8 pictures are there and whole, 1 damaged" in capsys.readouterr().out
    assert np.asarray(Image.open(tmp_path / "out" / lines[2]["file"])).shape == (16, 16, 3)


def parts_of(tmp_path, name, text, **options):
    (tmp_path / name).write_text(text)
    return grid_parts(SampleConfig(prompts_file=str(tmp_path / name), **options))


def test_negative_prompts_have_every_version(words, styles, tmp_path):
    (tmp_path / "sky.txt").write_text("fog\nrain\n")
    options = [*eight(words, styles, "gogh"), "--negative_prompt", "{|thick} __sky__ by {}", "--wildcards", tmp_path]
    config = parse(SampleConfig, list(map(str, options)))
    parts, model = grid_parts(config), StableDiffusion.load(words[1])
    versions = ["fog by {}", "rain by {}", "thick fog by {}", "thick rain by {}"]
    assert [part.config.negative_prompt for part in parts] == versions
    cells = cells_of(parts, model, load_all_styles(config, parts), [], [])
    assert [cell.negative_prompt for cell in cells] == [text for text in versions for _ in range(len(cells) // 4)]
    (part,) = parts_of(tmp_path, "list.csv", "prompt,negative_prompt\na {},a  dog\n")
    assert part.config.negative_prompt == "a  dog", "what has no choices stays as it is"


def test_a_list_as_json_lines(tmp_path):
    lines = [{"prompt": "a {}", "seed": 7, "steps": 9, "style_scale": 0.5, "style": None}, {"prompt": "b {}"}]
    first, second = parts_of(tmp_path, "list.jsonl", "\n".join(map(json.dumps, lines)) + "\n\n", seeds="0:2")
    assert (first.texts, first.seeds, first.config.steps) == ({"": ["a {}"]}, [7], [9])
    assert (first.config.style_scale, first.style) == ([0.5], "")
    assert (second.texts, second.seeds, second.config.steps) == ({"": ["b {}"]}, [0, 1], [25])


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("a.csv", "prompt,stile\na,b\n", "line 2: unknown column 'stile'.*did you mean style"),
        ("a.csv", "promt\na\n", "unknown column 'promt'"),
        ("a.csv", "prompt,seed\na,1\n,2\n", "line 3: there is no prompt"),
        ("a.csv", "prompt,seed\na,x\n", "line 2: seeds: 'x' should read like"),
        ("a.csv", "prompt,steps\na,0\n", "line 2: steps: must be from 1"),
        ("a.csv", "prompt,seed\na,1,2\n", "line 2: it has more values than there are columns"),
        ("a.csv", 'prompt\n"a\n', "line 2: unexpected end of data"),
        ("a.csv", "prompt\n", "holds no line with a prompt"),
        ("a.csv", "prompt,seed, seed\na,1,2\n", "line 1: two columns have the same name"),
        (
            "a.jsonl",
            '{"prompt": "a"}\n{"prompt"\n',
            r"line 2 of \S+ is damaged, it is not valid JSON.*; each line should",
        ),
        ("a.jsonl", "[1]\n", "line 1 of .* is damaged, it should be an object, not .1.;"),
        (
            "a.jsonl",
            '{"prompt": ["a"]}\n',
            "prompt should be a text or a whole number or .* or null, not ..a..;",
        ),
    ],
)
def test_lists_that_cannot_be_used(tmp_path, name, text, complaint):
    with pytest.raises(ValueError, match=complaint) as refused:
        parts_of(tmp_path, name, text)
    assert str(refused.value).startswith("prompts_file: ") and name in str(refused.value)


def test_only_line_breaks_end_a_line_of_a_list(tmp_path):
    (part,) = parts_of(tmp_path, "a.csv", "prompt,seed\na\fb\u2028c {},7\n")
    assert part.texts == {"": ["a b c {}"]} and part.seeds == [7]
    (part,) = parts_of(tmp_path, "a.jsonl", '{"prompt": "a\u2028b {}"}\n')
    assert part.texts == {"": ["a b {}"]}


def test_styles_of_a_list_that_cannot_be_used(words, styles, tmp_path, capfd):
    (tmp_path / "list.csv").write_text("prompt,style\na {},goph\n")
    command = [sample, *words, "--styles", styles / "gogh", "--prompts_file", tmp_path / "list.csv"]
    line = refusal(capfd, *command)
    assert re.search(r"prompts_file: unknown style 'goph'; it must be one of gogh \(did you mean gogh\?\)", line)
    (tmp_path / "list.csv").write_text("prompt,style\na {gogh},gogh\n")
    assert "the prompt 'a {gogh}' has no {} for its style, gogh" in refusal(capfd, *command)
    (tmp_path / "list.csv").unlink()
    assert re.search(r"cannot read .*list\.csv: No such file", refusal(capfd, *command))


def test_the_page_about_prompts_names_everything_and_its_commands_can_be_copied():
    page = ROOT / "docs/prompts.md"
    named = set(re.findall(r"`(\w+)`", page.read_text(encoding="utf-8")))
    assert named >= {*COLUMNS, *FIELDS} - set(SCALES)
    commands = [shlex.split(command.text) for command in commands_of(page)]
    assert len(commands) >= 2
    for _, _, *options in commands:
        assert grid_parts(parse(SampleConfig, options))
