"""sample.py as its user meets it: the pictures, what they say about themselves, what it says to mistakes.

Most tests paint eight pictures at a time, so that one compiled program does for them.
"""

import itertools
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from cells import ODD_PROMPTS
from PIL import Image
from script_tools import (
    ROOT,
    compilation_cache,
    contents,
    refusal,
    run,
    start,
    without_a_tensor,
    write_picture,
)
from tiny_model import WIDTH

from dreamstyler_jax import sampling
from dreamstyler_jax.commands import cli, sample
from dreamstyler_jax.commands.config import SampleConfig
from dreamstyler_jax.grids import gallery
from dreamstyler_jax.runtime import images
from dreamstyler_jax.runtime.console import plain_warnings
from dreamstyler_jax.runtime.errors import UserError
from dreamstyler_jax.style import FILE_NAME, Style, step_file

HOUSE, DOG = "a painting of a red house in the style of {}", "a painting of a small dog in the style of {}"
CFG = ["--guidance", "cfg", "--guidance_scale"]


@pytest.fixture(scope="module", autouse=True)
def one_compilation(tmp_path_factory):
    """Lets the runs below, in this process and in others, share what they compile."""
    with compilation_cache(tmp_path_factory.mktemp("compiled")):
        yield


def random_style(name, stages=2, vectors=1, width=WIDTH, seed=0, **metadata):
    table = np.random.default_rng(seed).standard_normal((stages, vectors, width), np.float32) / 5
    return Style(name, table, metadata)


def write_style(folder, name, **options):
    random_style(name, **options).save(folder / FILE_NAME)
    return folder


@pytest.fixture(scope="module")
def styles(tmp_path_factory):
    """Runs of three styles; of gogh the picture it was learned from is still there."""
    folder = tmp_path_factory.mktemp("runs")
    picture = write_picture(folder / "starry.png", 0)
    write_style(folder / "gogh", "gogh", images=[str(picture)])
    write_style(folder / "wave", "wave", vectors=2, seed=1)
    write_style(folder / "monet", "monet", seed=2)
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


@pytest.fixture(scope="module")
def command(words, styles):
    """The command of the grid below, without its folder."""
    text = "a painting of a {red house|small dog} in the style of {}"
    return [*words, "--styles", styles / "gogh", styles / "wave", "--prompts", text, "--seeds", "0:8"]


@pytest.fixture(scope="module")
def undisturbed(command, tmp_path_factory):
    """The folder of a grid of 32 pictures that nothing has disturbed; not to be changed."""
    folder = tmp_path_factory.mktemp("out") / "undisturbed"
    run(sample, *command, "--output", folder)
    return folder


@pytest.fixture
def copy(undisturbed, tmp_path):
    return shutil.copytree(undisturbed, tmp_path / "copy")


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
    return int(np.abs(np.asarray(a, int) - np.asarray(b, int)).max())


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
        unsaid = ("id", "file", "sha256", "command", "learned_from")
        own = {key: value for key, value in line.items() if key not in unsaid}
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


def test_the_page_shows_every_picture_and_what_the_style_was_learned_from(painted):
    page = (painted / "index.html").read_text()
    assert all(line["file"] in page for line in manifest(painted))
    assert len(list((painted / "atlas").iterdir())) == 2


def test_the_command_of_a_picture_paints_it_again(words, styles, tmp_path, monkeypatch):
    """Whatever it was an element of; from out/again, where it is added to what is there."""
    monkeypatch.chdir(tmp_path)
    axes = ["--mixes", "gogh:1,monet:0", "gogh*0.5+monet*0.5", "--negative_prompt=-{}", "--solver", "ddim", "euler"]
    scales = ["--guidance", "paper", "--style_scale", 1, 2.5, "--context_scale", 0.125]
    more = [*axes, *scales, "--seeds", "3,5", "--prompts", "a painting of a '{red|blue}' \"house\" by {}"]
    run(sample, *eight(words, styles, "gogh", "monet"), *more, "--output", "out/first")
    lines = manifest(Path("out/first"))
    assert len(lines) == 32
    for line in lines[5], lines[30]:
        python, script, *options = shlex.split(line["command"])
        assert (python, script) == ("python", "sample.py")
        run(sample, *options, "--batch_size", 8)
        again = manifest(Path("out/again"))[-1]
        first, second = (
            Image.open(Path("out", *place)) for place in (("first", line["file"]), ("again", again["file"]))
        )
        assert difference(np.asarray(first), np.asarray(second)) <= 1
    assert len(manifest(Path("out/again"))) == 2


def test_the_folder_is_named_after_the_styles_unless_given(words, styles, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    run(sample, *eight(words, styles, "gogh"), "--prompts", HOUSE)
    assert Image.open("out/gogh/grid.png")
    assert "8 pictures in out/gogh/images" in capsys.readouterr().out


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


def test_a_setting_that_does_not_count_is_pointed_out():
    with pytest.warns(UserWarning, match="strength counts only with --content"):
        sample.warn_of_idle_settings(SampleConfig(strength=[0.5]))
    with pytest.warns(UserWarning, match="style_scale counts only with --guidance paper or release, not cfg"):
        sample.warn_of_idle_settings(SampleConfig(style_scale=[2.0]))
    with pytest.warns(UserWarning, match="guidance_scale counts only with --guidance cfg, not paper"):
        sample.warn_of_idle_settings(SampleConfig(guidance="paper", guidance_scale=[3.5, 7.5]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sample.warn_of_idle_settings(SampleConfig(guidance="release", style_scale=[2.0]))
        sample.warn_of_idle_settings(SampleConfig(guidance_scale=[7.5]))


# Grids


def test_each_version_of_a_prompt_is_painted_in_each_style_in_turn(undisturbed, styles):
    lines = manifest(undisturbed)
    asked = [(line["prompt"], line["style"], line["seed"]) for line in lines]
    assert asked == list(itertools.product((HOUSE, DOG), ("gogh", "wave"), range(8)))
    hashes = {name: Style.load(styles / name / FILE_NAME).hash for name in ("gogh", "wave")}
    assert all(line["styles"] == {line["style"]: hashes[line["style"]]} for line in lines)
    every = np.stack(pictures(undisturbed))
    distances = np.abs(every[:, None] - every[None]).max((2, 3, 4)) + 255 * np.eye(len(every), dtype=int)
    assert distances.min() > 8
    assert not list(undisturbed.glob("grid*.png.*")) and (undisturbed / "grid_002.png").exists()


def test_each_style_in_turn_paints_as_it_does_alone(undisturbed, words, styles, tmp_path):
    alone = paint(tmp_path, *eight(words, styles, "wave"), "--prompts", DOG)
    for one, other in zip(alone, pictures(undisturbed, style="wave", prompt=DOG), strict=True):
        assert difference(one, other) <= 1


def test_several_placeholders_in_one_prompt(words, styles, tmp_path):
    both, with_each = "a painting of a {gogh} house by {wave}", "a painting of a {wave} house by {}"
    options = ["--styles", styles / "gogh", styles / "wave", "--prompts", both, with_each, "--seeds", "0:8"]
    every = paint(tmp_path, *words, *options)
    named = [(line["prompt"], line["style"], sorted(line["styles"])) for line in manifest(tmp_path)[::8]]
    assert named == [
        (both, "", ["gogh", "wave"]), (with_each, "gogh", ["gogh", "wave"]), (with_each, "wave", ["wave"])
    ]  # fmt: skip
    assert difference(every[0], every[8]) > 8 and difference(every[8], every[16]) > 8
    swapped = paint(tmp_path / "swapped", *words, *options, "--prompts", with_each.replace("{}", "{gogh}"))
    assert all(difference(one, other) == 0 for one, other in zip(swapped, every[8:16], strict=True))


def test_scales_solvers_and_steps_are_axes(words, styles, tmp_path):
    options = [*words, "--styles", styles / "gogh", "--prompts", HOUSE]
    lists = [*CFG, 2, 5, "--solver", "ddim", "euler", "--steps", 3, 4, "--seeds", "0:4"]
    assert len(paint(tmp_path / "all", *options, *lists)) == 32
    asked = [(line["scales"]["guidance_scale"], line["solver"], line["steps"], line["seed"]) for line in
             manifest(tmp_path / "all")]  # fmt: skip
    assert asked == list(itertools.product((2.0, 5.0), ("ddim", "euler"), (3, 4), range(4)))
    single = paint(tmp_path / "one", *options, *CFG, 2, "--solver", "euler", "--seeds", "0:8")
    same = pictures(tmp_path / "all", scales={"guidance_scale": 2.0}, solver="euler", steps=3)
    assert [difference(*pair) for pair in zip(single, same, strict=False)] == [0] * 4
    for other in ({"solver": "ddim"}, {"steps": 4}, {"scales": {"guidance_scale": 5.0}}):
        which = {"scales": {"guidance_scale": 2.0}, "solver": "euler", "steps": 3, "seed": 0} | other
        assert difference(single[0], *pictures(tmp_path / "all", **which)) > 2, other


def test_mixes(words, styles, tmp_path):
    gogh, monet = (Style.load(styles / name / FILE_NAME) for name in ("gogh", "monet"))
    recipes = ["gogh:0,monet:1", "gogh*0.75+monet*0.25", "gogh:0-1"]
    named = HOUSE.replace("{}", "{gogh}")
    options = ["--styles", styles / "gogh", styles / "monet", "--seeds", "0:8"]
    run(sample, *words, *options, "--prompts", HOUSE, named, "--mixes", *recipes, "--output", tmp_path / "mixed")
    asked = [(line["prompt"], line["style"]) for line in manifest(tmp_path / "mixed")[::8]]
    assert asked == [*((HOUSE, recipe) for recipe in recipes), (named, "")], "{} stands for the mixes alone"
    tables = [np.stack([gogh.table[0], monet.table[1]]), 0.75 * gogh.table + 0.25 * monet.table, gogh.table]
    seen = []
    for recipe, table in zip(recipes, tables, strict=True):
        style = Style("by hand", table)
        style.save(tmp_path / f"{style.hash}.safetensors")
        command = [*words, "--styles", tmp_path / f"{style.hash}.safetensors", "--seeds", "0:8", "--prompts", HOUSE]
        by_hand = paint(tmp_path / style.hash, *command)
        mixed = pictures(tmp_path / "mixed", style=recipe)
        assert manifest(tmp_path / "mixed")[8 * len(seen)]["styles"] == {recipe: style.hash}
        assert max(difference(*pair) for pair in zip(mixed, by_hand, strict=True)) <= 1
        seen.append(np.stack(mixed))
    assert all(difference(a, b) > 8 for a, b in itertools.combinations(seen, 2))
    assert difference(seen[2], np.stack(pictures(tmp_path / "mixed", prompt=named))) == 0


def test_checkpoints(words, tmp_path):
    folder = write_style(tmp_path / "runs" / "gogh", "gogh")
    for seed, step in ((1, 100), (2, 200)):
        random_style("gogh", seed=seed).save(step_file(folder, step))
    options = ["--seeds", "0:8", "--prompts", HOUSE]
    run(sample, *words, *options, "--styles", folder, "--checkpoints", 200, 100, "--output", tmp_path / "both")
    lines = manifest(tmp_path / "both")[::8]
    assert [(line["style"], line["checkpoint"]) for line in lines] == [("gogh", 200), ("gogh", 100)]
    for step in (100, 200):
        file = step_file(folder, step)
        direct = paint(tmp_path / str(step), *words, *options, "--styles", file)
        kept = pictures(tmp_path / "both", checkpoint=step)
        assert max(difference(*pair) for pair in zip(kept, direct, strict=True)) <= 1
    assert difference(pictures(tmp_path / "100")[0], pictures(tmp_path / "200")[0]) > 8
    mix = ["--mixes", "gogh@100:1,gogh@200:0", "--checkpoints", 100, 200]
    run(sample, *words, *options, "--styles", folder, *mix, "--output", tmp_path / "mixed")
    lines = manifest(tmp_path / "mixed")
    assert len(lines) == 8 and lines[0]["style"] == "gogh@100:1,gogh@200:0" and "checkpoint" not in lines[0]
    without = paint(tmp_path / "recipe", *words, *options, "--styles", folder, *mix[:2])
    assert max(difference(*pair) for pair in zip(without, pictures(tmp_path / "mixed"), strict=True)) == 0
    named = HOUSE.replace("{}", "{gogh@100}")
    direct = paint(tmp_path / "named", *words, "--seeds", "0:8", "--prompts", named, "--styles", folder)
    assert max(difference(*pair) for pair in zip(direct, pictures(tmp_path / "100"), strict=True)) <= 1


def test_recipes_and_named_styles_at_every_checkpoint(words, tmp_path):
    for name, seed in (("gogh", 0), ("wave", 3)):
        folder = write_style(tmp_path / "runs" / name, name)
        for step in (100, 200):
            random_style(name, seed=seed + step).save(step_file(folder, step))
    options = [*words, "--styles", tmp_path / "runs", "--checkpoints", 100, 200, "--seeds", "0:8", "--prompts"]
    by_name = paint(tmp_path / "named", *options, "a house by {wave}")
    mixed = paint(tmp_path / "mixed", *options, "a house by {}", "--mixes", "wave:1-0", "gogh:1,wave:0")
    lines = manifest(tmp_path / "mixed")
    at = [("wave:1-0", 100), ("wave:1-0", 200), ("gogh:1,wave:0", 100), ("gogh:1,wave:0", 200)]
    assert [(line["style"], line["checkpoint"]) for line in lines[::8]] == at
    assert max(difference(*pair) for pair in zip(by_name, mixed[:16], strict=True)) <= 1
    assert difference(np.stack(mixed[16:24]), np.stack(mixed[24:])) > 8


def test_any_prompt_is_painted_within_the_folder(words, styles, tmp_path):
    prompts = [
        "{} " + prompt.replace(" {}", "").replace("in the style of {}", "") if len(prompt) > 99 else prompt
        for prompt in ODD_PROMPTS if "{}" in prompt
    ]  # fmt: skip
    assert len(prompts) == 8
    options = ["--styles", styles / "gogh", "--seeds", 0, "--prompts", *prompts]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the longest is cut
        run(sample, *words, *options, "--output", tmp_path / "in" / "out")
    lines = manifest(tmp_path / "in" / "out")
    assert [line["prompt"] for line in lines] == [re.sub(r"\s+", " ", prompt) for prompt in prompts]
    assert [path.name for path in (tmp_path / "in").iterdir()] == ["out"]
    names = sorted(path.name for path in (tmp_path / "in" / "out" / "images").iterdir())
    assert names == sorted(f"{line['id']}.png" for line in lines)


# Painting in parts, again, and more


def test_what_is_done_is_not_done_again(copy, command, monkeypatch, capsys):
    before = contents(copy)
    monkeypatch.setattr(sampling, "paint_batch", None)
    run(sample, *command, "--output", copy)
    assert "32 of 32 pictures are there and whole" in capsys.readouterr().out
    assert contents(copy) == before


def test_only_what_is_missing_or_damaged_is_painted_and_comes_out_the_same(copy, undisturbed, command, monkeypatch):
    lines = manifest(undisturbed)
    (copy / lines[3]["file"]).unlink()
    cut, changed = (copy / lines[i]["file"] for i in (17, 30))
    cut.write_bytes(cut.read_bytes()[:-9])
    changed.write_bytes(changed.read_bytes()[:-9] + b"123456789")
    (copy / "manifest.jsonl").write_bytes((copy / "manifest.jsonl").read_bytes()[:-30])
    seeds = painted_seeds(monkeypatch)
    run(sample, *command, "--output", copy)
    assert sorted(set(itertools.chain(*seeds))) == sorted({lines[i]["seed"] for i in (3, 17, 30, 31)})
    assert len(seeds) == 1
    assert contents(copy) == contents(undisturbed)


def painted_seeds(monkeypatch) -> list[list[int]]:
    """The seeds of each batch painted from now on."""
    seen, real = [], sampling.paint_batch

    def paint_batch(*arguments, **options):
        seen.append(arguments[5].tolist())
        return real(*arguments, **options)

    monkeypatch.setattr(sampling, "paint_batch", paint_batch)
    return seen


def test_shards_make_together_what_one_run_makes(undisturbed, command, tmp_path, capsys):
    for shard in ("2/3", "0/3", "1/3"):
        run(sample, *command, "--shard", shard, "--output", tmp_path / "out")
        assert "without --shard" in capsys.readouterr().out
        assert not (tmp_path / "out" / "manifest.jsonl").exists()
        assert not list((tmp_path / "out").glob("grid*.png"))
    counts = [len((tmp_path / "out" / f"manifest.{i}-of-3.jsonl").read_text().splitlines()) for i in range(3)]
    assert counts == [11, 11, 10]
    run(sample, *command, "--output", tmp_path / "out")
    assert "32 of 32 pictures are there and whole" in capsys.readouterr().out
    assert contents(tmp_path / "out") == contents(undisturbed)


def test_a_part_of_a_grid_needs_the_program_of_the_whole(words, styles, tmp_path):
    """Though alone it would take fewer pictures, or fewer rows of guidance."""
    scales = ["--guidance", "paper", "--style_scale", 1, 2, "--context_scale", 1, 2]
    options = [*eight(words, styles, "gogh"), "--prompts", HOUSE, *scales, "--output"]
    run(sample, *options, tmp_path / "whole")
    programs = sampling.paint_batch._cache_size()
    run(sample, *options, tmp_path / "part", "--shard", "5/32")
    assert [line["scales"]["style_scale"] for line in manifest_of(tmp_path / "part", "5-of-32")] == [1.0]
    assert sampling.paint_batch._cache_size() == programs
    (file,) = (tmp_path / "part" / "images").iterdir()
    assert file.read_bytes() == (tmp_path / "whole" / "images" / file.name).read_bytes()


def test_hosts_of_a_cluster_take_a_part_each(command, undisturbed, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launched = {  # what Open MPI tells the processes that it starts
        "OMPI_MCA_orte_hnp_uri": "4096.0;tcp://127.0.0.1:1",
        "OMPI_COMM_WORLD_SIZE": "2",
        "JAX_COORDINATOR_PORT": str(port),
    }
    hosts = []
    for rank in ("0", "1"):
        cluster = {**launched, "OMPI_COMM_WORLD_RANK": rank, "OMPI_COMM_WORLD_LOCAL_RANK": rank}
        more = ["--seeds", "0:2", "--shard", "hosts", "--output", tmp_path]
        hosts.append(start(sample, *command, *more, env=cluster))
    for rank, host in enumerate(hosts):
        assert f"Part {rank}/2 is painted" in host.communicate(timeout=300)[0]
    parts = [manifest_of(tmp_path, "0-of-2"), manifest_of(tmp_path, "1-of-2")]
    assert [len(part) for part in parts] == [4, 4]
    assert {line["id"] for part in parts for line in part} <= {line["id"] for line in manifest(undisturbed)}


def test_several_devices_share_each_batch(command, undisturbed, tmp_path):
    process = start(sample, *command, "--seeds", "0:4", "--output", tmp_path, env={"JAX_NUM_CPU_DEVICES": "3"})
    output, errors = process.communicate(timeout=300)
    assert "16 pictures in" in output, errors
    for line in manifest(tmp_path):
        assert difference(*(Image.open(folder / line["file"]) for folder in (tmp_path, undisturbed))) <= 1


def manifest_of(folder, shard) -> list[dict]:
    return [json.loads(line) for line in (folder / f"manifest.{shard}.jsonl").read_text().splitlines()]


def test_a_changed_grid_is_refused_in_one_line_and_added_with_merge(copy, command, capfd):
    before = contents(copy)
    line = refusal(capfd, sample, *command, "--seeds", "4:12", "--output", copy)
    assert re.search(
        r"copy holds the pictures of another grid \(seed differs\): choose another --output, .*--merge", line
    )
    assert contents(copy) == before
    run(sample, *command, "--seeds", "4:12", "--merge", "--output", copy)
    assert "16 of 32 pictures are there and whole" in capfd.readouterr().out
    after = contents(copy)
    assert all(after[name] == before[name] for name in before if name.startswith("images"))
    assert sorted(line["seed"] for line in manifest(copy)) == sorted([*range(12)] * 4)
    run(sample, *command, "--output", copy)
    assert {name: data for name, data in contents(copy).items() if "grid_" in name} == {
        name: data for name, data in before.items() if "grid_" in name
    }


# Interruptions and failures

DYING = """
import os, runpy, signal, sys, threading
call, count, number = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
real = getattr(os, call)

def test_what_is_added_does_not_take_the_place_of_what_was(words, styles, tmp_path, capsys):
    options = ["--seeds", "0:8", "--prompts", HOUSE, "--output", tmp_path / "out"]
    run(sample, *words, "--styles", styles / "gogh", *options)
    atlas = set((tmp_path / "out" / "atlas").iterdir())
    run(sample, *words, "--styles", styles / "wave", *options, "--merge")
    assert "16 pictures in" in capsys.readouterr().out
    page = (tmp_path / "out" / "index.html").read_text()
    assert "<title>gogh, wave" in page and all(line["file"] in page for line in manifest(tmp_path / "out"))
    assert len(atlas & set((tmp_path / "out" / "atlas").iterdir())) == 1, "what gogh was learned from is still shown"


def dying(*arguments):
    global count
    count -= threading.current_thread().name.startswith("writer")
    if not count:
        os.kill(os.getpid(), number)
    return real(*arguments)

setattr(os, call, dying)
sys.argv = ["sample.py", *sys.argv[4:]]
sys.path.insert(0, os.getcwd())
runpy.run_path("sample.py", run_name="__main__")
"""


def test_a_process_killed_and_interrupted_again_and_again_ends_with_the_very_same_folder(
    undisturbed, command, tmp_path
):
    """Killed before a picture gets its name, between the picture and its line, and after; then told to stop."""
    folder = tmp_path / "out"
    moments = [
        ("replace", 5, signal.SIGKILL, 4),
        ("fsync", 3 * 3 + 2, signal.SIGKILL, 7),
        ("fsync", 3 * 4, signal.SIGKILL, 11),
        ("fsync", 3, signal.SIGTERM, 12),
    ]
    for call, count, number, least in moments:
        words = [sys.executable, "-c", DYING, call, str(count), str(int(number)), *map(str, command)]
        ended = subprocess.run([*words, "--output", str(folder)], cwd=ROOT, capture_output=True, text=True)
        assert ended.returncode == (-number if number == signal.SIGKILL else cli.INTERRUPTED), ended.stderr
        assert not list(folder.glob("grid*.png")), "it was not finished"
        listed = len((folder / "manifest.jsonl").read_text().splitlines())
        assert listed == least or (number == signal.SIGTERM and listed >= least)
    assert "interrupted; to continue: " in ended.stderr
    run(sample, *command, "--output", folder)
    assert contents(folder) == contents(undisturbed)


def spoilt(monkeypatch, kind, chosen, times):
    """Makes pictures of chosen seeds fail so many times."""
    left = dict.fromkeys(chosen, times)

    def fails(seed):
        if left.get(seed, 0) <= 0:
            return False
        left[seed] -= 1
        return True

    if kind == "NaN":
        real = sampling.paint_batch

        def paint_batch(*arguments, **options):
            painted = np.array(real(*arguments, **options))
            painted[[fails(seed) for seed in arguments[5].tolist()], 0, 0] = np.nan
            return painted

        monkeypatch.setattr(sampling, "paint_batch", paint_batch)
    else:
        write = gallery.write_atomic

        def write_atomic(path, data):
            if path.suffix == ".png" and fails(json.loads(images.Image.open(images.io.BytesIO(data)).text["seed"])):
                raise OSError(28, "No space left on device")
            write(path, data)

        monkeypatch.setattr(gallery, "write_atomic", write_atomic)


FAILURES = [("NaN", "the picture holds NaN or Inf"), ("full disk", "[Errno 28] No space left on device")]


@pytest.mark.parametrize(("kind", "reason"), FAILURES, ids=[kind for kind, _ in FAILURES])
def test_what_fails_once_is_tried_again(kind, reason, undisturbed, command, monkeypatch, tmp_path):
    with monkeypatch.context() as patch:
        spoilt(patch, kind, (2, 5), 1)
        run(sample, *command, "--output", tmp_path)
    assert contents(tmp_path) == contents(undisturbed)


@pytest.mark.parametrize(("kind", "reason"), FAILURES, ids=[kind for kind, _ in FAILURES])
def test_what_fails_twice_is_recorded_and_the_rest_painted(kind, reason, undisturbed, command, tmp_path, capfd):
    with pytest.MonkeyPatch.context() as patch:
        spoilt(patch, kind, (2, 5), 1000)
        with pytest.raises(SystemExit) as end, handlers_kept():
            cli.main(lambda: run(sample, *command, "--output", tmp_path))
    said = capfd.readouterr()
    assert end.value.code == 2
    assert "24 pictures in" in said.out
    assert said.err == (
        f"error: 8 of 32 pictures failed, see {tmp_path}/manifest.jsonl; the same command tries them again\n"
    )
    expected = manifest(undisturbed)
    for line, whole in zip(manifest(tmp_path), expected, strict=True):
        if line["seed"] in (2, 5):
            assert line.pop("error") == reason
            line |= {"file": whole["file"], "sha256": whole["sha256"]}
        assert line == whole
    assert len(list((tmp_path / "images").iterdir())) == 24
    sheets = [np.asarray(Image.open(folder / "grid_001.png")) for folder in (tmp_path, undisturbed)]
    assert sheets[0].shape == sheets[1].shape and not np.array_equal(*sheets)
    run(sample, *command, "--output", tmp_path)
    assert contents(tmp_path) == contents(undisturbed)


def test_a_shard_says_which_manifest_tells_of_its_failures(command, monkeypatch, tmp_path):
    spoilt(monkeypatch, "NaN", (2,), 1000)
    with pytest.raises(UserError, match=r"4 of 16 pictures failed, see .*manifest.0-of-2.jsonl"):
        run(sample, *command, "--shard", "0/2", "--output", tmp_path)


class handlers_kept:
    """Puts back what SIGTERM did before."""

    def __enter__(self):
        self.before = signal.getsignal(signal.SIGTERM)

    def __exit__(self, *_):
        signal.signal(signal.SIGTERM, self.before)


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
    if kind == "mix of unlike styles":
        return [*command, "--styles", styles / "gogh", styles / "wave", "--mixes", "gogh*0.5+wave*0.5"]
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
    ("style-only prompt too long", ["--guidance", "paper", "--prompts", "{} " * 20], "beyond the 24-token window"),
    ("negative prompt of an unknown style", ["--negative_prompt", "a {goph}"], r"unknown style \{goph\}: write one of"),
    ("lone brace", ["--prompts", "a {dog|cat in {}"], "lone '{'.*write it twice"),
    ("too many versions", ["--prompts", "{a|b}" * 20 + "{}"], "more than 10000 versions"),
    ("unknown mix", ["--mixes", "gogh:1,goph:0"], "names 'goph'; the styles at hand are gogh"),
    ("unreadable mix", ["--mixes", "gogh:1,gogh"], "each of them must say its stages"),
    ("mix of unlike styles", [], "needs styles of one number of vectors: gogh has 1 of width 16, wave has 2"),
    ("no such checkpoint", ["--checkpoints", "100"], "checkpoints: .*gogh keeps no style of step 100"),
    ("named without checkpoint", ["--prompts", "a {gogh@7}"], "checkpoints: .*gogh keeps no style of step 7"),
    ("value given twice", ["--guidance_scale", "2", "2.0"], "guidance_scale: give at least one value, and none twice"),
    ("wrong shard", ["--shard", "4/4"], "shard: '4/4' should read like 0/4"),
    ("hosts of no cluster", ["--shard", "hosts"], "shard: hosts is for TPU pods, Slurm and Open MPI jobs, not for a"),
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
