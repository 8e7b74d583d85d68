"""Grids of ``dreamstyler sample``: which pictures its axes make, and that each is painted as it is on its own."""

import itertools
import re
import shlex
import warnings

import numpy as np
from cells import ODD_PROMPTS
from sample_tools import (
    DOG,
    HOUSE,
    difference,
    eight,
    manifest,
    paint,
    pictures,
    random_style,
    write_style,
)
from script_tools import run

from dreamstyler_jax.commands import sample
from dreamstyler_jax.style import FILE_NAME, Style, step_file

CFG = ["--guidance", "cfg", "--guidance_scale"]


def test_each_version_of_a_prompt_is_painted_in_each_style_in_turn(undisturbed, styles):
    lines = manifest(undisturbed)
    asked = [(line["prompt"], line["style"], line["seed"]) for line in lines]
    assert asked == list(itertools.product((HOUSE, DOG), ("gogh", "wave"), range(8)))
    hashes = {name: Style.load(styles / name / FILE_NAME).hash for name in ("gogh", "wave")}
    assert all(line["styles"] == {line["style"]: hashes[line["style"]]} for line in lines)
    all_pictures = np.stack(pictures(undisturbed))
    distances = np.abs(all_pictures[:, None] - all_pictures[None]).max((2, 3, 4)) + 255 * np.eye(32, dtype=int)
    assert distances.min() > 8
    assert not list(undisturbed.glob("grid*.png.*")) and (undisturbed / "grid_002.png").exists()


def test_each_style_in_turn_paints_as_it_does_alone(undisturbed, words, styles, tmp_path):
    alone = paint(tmp_path, *eight(words, styles, "wave"), "--prompts", DOG)
    for one, other in zip(alone, pictures(undisturbed, style="wave", prompt=DOG), strict=True):
        assert difference(one, other) <= 1


def test_several_placeholders_in_one_prompt(words, styles, tmp_path):
    both, with_each = "a painting of a {gogh} house by {wave}", "a painting of a {wave} house by {}"
    options = ["--styles", styles / "gogh", styles / "wave", "--prompts", both, with_each, "--seeds", "0:8"]
    painted = paint(tmp_path, *words, *options)
    named = [(line["prompt"], line["style"], sorted(line["styles"])) for line in manifest(tmp_path)[::8]]
    assert named == [
        (both, "", ["gogh", "wave"]), (with_each, "gogh", ["gogh", "wave"]), (with_each, "wave", ["wave"])
    ]  # fmt: skip
    assert difference(painted[0], painted[8]) > 8 and difference(painted[8], painted[16]) > 8
    swapped = paint(tmp_path / "swapped", *words, *options, "--prompts", with_each.replace("{}", "{gogh}"))
    assert all(difference(one, other) == 0 for one, other in zip(swapped, painted[8:16], strict=True))


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
    a, b = gogh.tables["clip_l"], monet.tables["clip_l"]
    tables = [np.stack([a[0], b[1]]), 0.75 * a + 0.25 * b, a]
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
    assert len(lines) == 8 and lines[0]["style"] == "gogh@100:1,gogh@200:0" and lines[0]["checkpoint"] == 0
    without = paint(tmp_path / "recipe", *words, *options, "--styles", folder, *mix[:2])
    assert max(difference(*pair) for pair in zip(without, pictures(tmp_path / "mixed"), strict=True)) == 0
    named = HOUSE.replace("{}", "{gogh@100}")
    direct = paint(tmp_path / "named", *words, "--seeds", "0:8", "--prompts", named, "--styles", folder)
    assert max(difference(*pair) for pair in zip(direct, pictures(tmp_path / "100"), strict=True)) <= 1


def test_variants_of_guidance_and_weak_styles_are_axes(words, tmp_path):
    folder = write_style(tmp_path / "runs" / "gogh", "gogh")
    random_style("gogh", seed=1).save(step_file(folder, 100))
    options = [*words, "--styles", folder, "--prompts", HOUSE, "--seeds", 0, "--guidance_schedule", "cosine"]
    lists = ["--guidance_rescale", 0, 0.7, "--weak_scale", 0, 2, "--weak_checkpoint", 100]
    run(sample, *options, *lists, "--mixes", "gogh:1-0", "gogh@100:1,gogh:0", "--output", tmp_path / "all")
    lines = manifest(tmp_path / "all")
    assert [(line["style"], line["scales"]) for line in lines] == [
        (mix, {"guidance_scale": 3.5, **weak, **rescale})
        for mix in ("gogh:1-0", "gogh@100:1,gogh:0")
        for weak in ({}, {"weak_scale": 2.0})
        for rescale in ({}, {"guidance_rescale": 0.7})
    ]
    assert [line["weak_checkpoint"] for line in lines[:4]] == [0, 0, 100, 100]
    assert list(lines[3]["weak_styles"]) == ["gogh:1-0@100"] and not lines[1]["weak_styles"]
    first, *others = pictures(tmp_path / "all", style="gogh:1-0")
    assert all(difference(first, other) > 2 for other in others)
    again = shlex.split(lines[3]["command"])[2:]
    run(sample, *again, "--output", tmp_path / "again")
    (line,) = manifest(tmp_path / "again")
    for name in ("scales", "guidance_schedule", "weak_checkpoint", "weak_styles"):
        assert line[name] == lines[3][name], name
    assert difference(pictures(tmp_path / "again")[0], others[2]) <= 1


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
        warnings.simplefilter("ignore")  # about the longest, which is cut
        run(sample, *words, *options, "--output", tmp_path / "in" / "out")
    lines = manifest(tmp_path / "in" / "out")
    assert [line["prompt"] for line in lines] == [re.sub(r"\s+", " ", prompt) for prompt in prompts]
    assert [path.name for path in (tmp_path / "in").iterdir()] == ["out"]
    names = sorted(path.name for path in (tmp_path / "in" / "out" / "images").iterdir())
    assert names == sorted(f"{line['id']}.png" for line in lines)
