"""What one does with chosen pictures of a grid: ``dreamstyler enlarge``, ``pick`` and ``animate``."""

import dataclasses
import json
import shlex
import shutil

import numpy as np
import pytest
from cells import CELL, cells_of, plain_picture
from compilations import compilations
from PIL import Image
from sample_tools import HOUSE, difference, manifest, pictures, write_style
from script_tools import contents, refusal, run, write_picture

from dreamstyler_jax.commands import animate, cli, enlarge, pick, sample
from dreamstyler_jax.commands.config import SampleConfig
from dreamstyler_jax.commands.selection import choose
from dreamstyler_jax.grids.animations import sequences
from dreamstyler_jax.grids.cells import definition
from dreamstyler_jax.grids.gallery import Gallery
from dreamstyler_jax.runtime import images
from dreamstyler_jax.runtime.errors import UserError


def write_grid(folder, cells, **note):
    """A finished grid without painting; its pictures have one colour each."""
    gallery = Gallery(folder, note=lambda cell: note)
    gallery.define(definition(cells))
    gallery.begin()
    for number, cell in enumerate(cells):
        gallery.save(cell, colour(number))
    gallery.finish(cells)
    return folder


def colour(number: int) -> np.ndarray:
    """A picture that an encoder of animations does not take for the next one."""
    return plain_picture(1500 * number)


@pytest.fixture
def grid(tmp_path):
    """Two prompts with three seeds each."""
    return write_grid(tmp_path / "grid", cells_of(["A house {}", "A dog {}"], (10, 9, 2)))


def write_lines(path, *lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


# Choosing


def test_pictures_are_chosen_by_lists_ids_and_names_in_their_order_each_once(grid, tmp_path):
    ids = [line["id"] for line in manifest(grid)]
    page = write_lines(
        tmp_path / "a.jsonl",
        {"id": ids[3], "file": "images/gone.png", "note": "the best"},
        {"file": f"images/{ids[1]}.png", "stars": 3},
    )
    (tmp_path / "b.txt").write_text(f"\ufeff{ids[4]}\r\n\r\n  out/grid/images/{ids[3]}.png  \n")
    chosen = choose(str(grid), [str(page), str(tmp_path / "b.txt"), ids[0], f"{ids[5]}.png"])
    assert [picture.cell.id for picture in chosen] == [ids[i] for i in (3, 1, 4, 0, 5)]
    assert [picture.line.get("note") for picture in chosen] == ["the best", None, None, None, None]
    assert all(picture.file == grid / "images" / f"{picture.cell.id}.png" for picture in chosen)
    assert [picture.cell.id for picture in choose(str(grid), [])] == ids


def test_what_cannot_be_chosen_is_refused_in_one_line(grid, tmp_path, capfd):
    empty, odd = tmp_path / "empty.jsonl", write_lines(tmp_path / "odd.jsonl", {"note": "which?"})
    empty.write_text("\n")
    first = manifest(grid)[0]["file"]
    mistakes = {
        ("0123", "4567"): "cells: .*grid has no picture 0123, 4567; the page shows",
        (empty,): "empty.jsonl lists no picture",
        (odd,): "line 1 of .*odd.jsonl names no picture; each line should read like",
        (tmp_path / "no.txt",): "no.txt is missing; save it again on the grid's page",
        (write_lines(tmp_path / "list.jsonl", ["x"]),): "list.jsonl is damaged",
    }
    for words, message in mistakes.items():
        with pytest.raises(UserError, match=message):
            choose(str(grid), list(map(str, words)))
    (grid / first).write_bytes(b"another")
    assert f"{first} in {grid} is missing or damaged" in refusal(capfd, pick, grid)
    assert f"grid: there is no folder {tmp_path / 'nowhere'}" in refusal(capfd, pick, tmp_path / "nowhere")
    assert "has no painted pictures" in refusal(capfd, pick, tmp_path)
    assert "grid: give the folder" in refusal(capfd, pick)


def test_the_grid_is_the_first_word_without_an_option(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.parse(pick.PickConfig, ["."]).output == f"{tmp_path}-picked"
    assert cli.parse(pick.PickConfig, ["out/boat", "--cells", "a", "b"]).grid == "out/boat"
    assert cli.parse(pick.PickConfig, ["--grid", "out/boat/"]).output == "out/boat-picked"
    for words in (["out/boat", "0123"], ["--grid", "out/boat", "0123"]):
        with pytest.raises(UserError, match="'0123'"):
            cli.parse(pick.PickConfig, words)


def test_the_command_that_enlarges_again_names_the_grid():
    config = enlarge.EnlargeConfig("out/boat", cells=["a", "b"], scale=4)
    command = cli.command_line("enlarge", config)
    assert command == "dreamstyler enlarge --scale 4 --grid out/boat --cells a b"
    assert cli.parse(enlarge.EnlargeConfig, command.split()[2:]) == config


def test_picked_pictures_are_a_grid_with_notes(grid, tmp_path, capsys):
    before, lines = contents(grid), manifest(grid)
    starred = write_lines(
        tmp_path / "starred.jsonl", {"id": lines[4]["id"], "note": "the best"}, {"id": lines[0]["id"]}
    )
    run(pick, grid, "--cells", starred, "--output", tmp_path / "picked")
    assert contents(grid) == before
    assert manifest(tmp_path / "picked") == [{**lines[4], "note": "the best"}, lines[0]]
    for line in manifest(tmp_path / "picked"):
        assert (tmp_path / "picked" / line["file"]).read_bytes() == (grid / line["file"]).read_bytes()
    assert {"grid.yaml", "grid.png", "index.html"} <= contents(tmp_path / "picked").keys()
    assert "the best" in (tmp_path / "picked" / "index.html").read_text()
    assert "2 pictures in" in capsys.readouterr().out
    run(pick, grid, "--cells", lines[1]["id"], "--output", tmp_path / "picked")
    assert [line["id"] for line in manifest(tmp_path / "picked")] == [lines[i]["id"] for i in (4, 0, 1)]


def test_picking_replaces_nobodys_files(grid, tmp_path, capfd):
    other = tmp_path / "other"
    (other / "images").mkdir(parents=True)
    (other / manifest(grid)[0]["file"]).write_text("mine")
    assert "which this program has not written" in refusal(capfd, pick, grid, "--output", other)
    assert "is the grid itself" in refusal(capfd, pick, grid, "--output", f"{grid}/.")


def test_pictures_of_several_grids_keep_their_names_where_these_differ(tmp_path):
    cells = cells_of(["A house {}"], (1, 2))
    for cell, name in zip(cells, "ab", strict=True):
        gallery = Gallery(tmp_path / name)
        gallery.name_files([cell], "house-{style}")
        gallery.begin()
        gallery.save(cell, plain_picture(0))
        gallery.finish([cell])
        run(pick, tmp_path / name, "--output", tmp_path / "picked")
    assert [line["file"] for line in manifest(tmp_path / "picked")] == [
        "images/house-gogh.png",
        f"images/{cells[1].id}.png",
    ]


# animate


def frames_of(path) -> list[np.ndarray]:
    """The colours of the first pixels of an animation's frames."""
    with Image.open(path) as animation:
        frames = []
        for number in range(getattr(animation, "n_frames", 1)):
            animation.seek(number)
            frames.append(np.asarray(animation.convert("RGB"))[0, 0].astype(int))
    return frames


@pytest.mark.parametrize("format", ["webp", "gif"])
def test_an_axis_is_shown_in_its_order_for_each_combination(grid, format, capsys):
    run(animate, grid, "--axis", "seed", "--format", format)
    lines, folder = manifest(grid), grid.with_name("grid-animated")
    assert {path.name for path in folder.iterdir()} == {f"seed-{lines[i]['id']}.{format}" for i in (2, 5)}
    assert "2 animations of seed" in capsys.readouterr().out
    shown = frames_of(folder / f"seed-{lines[5]['id']}.{format}")
    expected = [images.to_image(colour(number)).getpixel((0, 0)) for number in (5, 4, 3)]  # seeds 2, 9, 10
    np.testing.assert_allclose(shown, expected, atol=3)


def test_labels_bounce_and_time(grid, tmp_path):
    one = manifest(grid)[0]["id"]
    options = ["--cells", one, "--labels", "--bounce", "--seconds_per_frame", 0.25, "--output", tmp_path]
    run(animate, grid, "--axis", "seed", *options)
    (file,) = tmp_path.glob("*.webp")
    colours = frames_of(file)
    assert len(colours) == 4
    np.testing.assert_array_equal(colours[1], colours[3])
    with Image.open(file) as animation:
        assert animation.width == 24 and animation.height > 16 + 12
        animation.load()
        assert animation.info["duration"] == 250 and animation.info["loop"] == 0


def test_frames_differ_in_the_axis_and_what_follows_from_it_alone():
    strong = {**CELL.scales, "style_scale": 2.0}
    other = dataclasses.replace(CELL, style="wave", styles={"wave": "0" * 12}, seed=1)
    cells = [CELL, dataclasses.replace(CELL, scales=strong), other, dataclasses.replace(other, style="gogh", styles={})]
    cells.append(dataclasses.replace(CELL, height=8))
    assert sequences(cells, "style_scale") == [cells[:2]]
    assert sequences(cells[::-1], "style_scale") == [cells[:2]]
    assert sequences(cells, "style") == [[cells[3], cells[2]]]
    assert sequences(cells, "seed") == [[cells[0], cells[3]]]


def test_an_axis_that_is_none_is_refused(grid, capfd):
    assert "axis: name the axis" in refusal(capfd, animate, grid)
    line = refusal(capfd, animate, grid, "--axis", "sed")
    assert "sed is no axis of" in line and "must be one of prompt, seed (did you mean seed?)" in line


# enlarge


@pytest.fixture(scope="module")
def painted(tiny_folder, tmp_path_factory):
    """A grid of two pictures, 16 x 16, and the folder of its style."""
    folder = tmp_path_factory.mktemp("painted")
    training = write_picture(folder / "starry.png", 0)
    style = write_style(folder / "gogh", "gogh", images=[str(training)])
    words = ["--model", tiny_folder, "--styles", style, "--steps", 3, "--seeds", "0:2", "--prompts", HOUSE]
    run(sample, *words, "--output", folder / "grid")
    return folder


@pytest.fixture
def copy(painted, tmp_path):
    return shutil.copytree(painted / "grid", tmp_path / "copy")


STRENGTH = ["--strength", 0.7, "--batch_size", 1]  # two of three steps, by the program of a single picture


def test_pictures_are_painted_again_at_twice_the_size(painted, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    grid, folder = painted / "grid", painted / "grid-enlarged"
    run(enlarge, grid, *STRENGTH)
    first, second = manifest(grid), manifest(folder)
    kept = ("prompt", "style", "styles", "seed", "scales", "solver", "steps", "model_hash", "learned_from")
    assert [[line[name] for name in kept] for line in second] == [[line[name] for name in kept] for line in first]
    assert [line["content"] for line in second] == [str(grid / line["file"]) for line in first]
    enlarged = pictures(folder)
    assert {picture.shape for picture in enlarged} == {(32, 32, 3)}
    for line, small, large in zip(second, pictures(grid), enlarged, strict=True):
        scaled_up = np.asarray(Image.fromarray(small.astype(np.uint8)).resize((32, 32), Image.Resampling.LANCZOS))
        assert difference(scaled_up, large) > 3, "it is not the same picture, only larger"
        assert images.read_text(folder / line["file"])["strength"] == "0.7"
    before = contents(folder)
    with compilations("sample_batch") as programs:
        run(enlarge, grid, *STRENGTH)
    assert programs == [] and contents(folder) == before
    (folder / second[1]["file"]).unlink()
    run(enlarge, grid, *STRENGTH)
    assert contents(folder) == before
    program, name, *words = shlex.split(second[1]["command"])
    assert (program, name) == ("dreamstyler", "sample")
    run(sample, *words)
    np.testing.assert_array_equal(pictures(tmp_path / "out/again")[0], enlarged[1])


def test_further_pictures_are_added(painted, copy, tmp_path):
    ids = [line["id"] for line in manifest(copy)]
    for cells in ([ids[1]], ids):
        run(enlarge, copy, *STRENGTH, "--cells", *cells, "--output", tmp_path / "out")
    lines = manifest(tmp_path / "out")
    assert [line["seed"] for line in lines] == [0, 1]
    for a, b in zip(pictures(tmp_path / "out"), pictures(painted / "grid-enlarged"), strict=True):
        assert difference(a, b) <= 1


def edited(folder, **values) -> None:
    """Changes values in the first line of a grid's manifest."""
    first, *others = manifest(folder)
    write_lines(folder / "manifest.jsonl", {**first, **values}, *others)


def test_sides_are_multiples_of_eight_pixels(painted):
    picture, _ = choose(str(painted / "grid"), [])
    config = enlarge.EnlargeConfig("grid", scale=2)
    oblong = picture._replace(cell=dataclasses.replace(picture.cell, height=13, width=21))
    part = enlarge.second_pass(oblong, config)
    assert (part.config.height, part.config.width) == (24, 40)
    large = picture._replace(cell=dataclasses.replace(picture.cell, height=4096))
    with pytest.raises(UserError, match="height: must be from 8 to 4096"):
        enlarge.second_pass(large, config)


def test_pictures_share_their_settings_apart_from_the_axes_of_a_grid():
    shared = dict(controlnets=["image=net"], control_images=["map.png"], dtype="bfloat16")
    a = SampleConfig(content=["a.png"], styles=["x", "y"], seeds="1", checkpoints=[100], style_scale=[2.0], **shared)
    b = SampleConfig(content=["b.png"], styles=["y", "z"], seeds="2", loras=["ink.safetensors"], steps=[9], **shared)
    both = enlarge.shared_settings([a, b])
    assert (both.content, both.control_images) == (["a.png", "b.png"], ["map.png", "map.png"]), "one for each content"
    assert (both.styles, both.loras, both.dtype) == (["x", "y", "z"], ["none", "ink.safetensors"], "bfloat16")
    assert both.checkpoints == [], "a command without a checkpoint is of a finished style"
    with pytest.raises(UserError, match="different values of spacing, dtype; enlarge"):
        enlarge.shared_settings([a, dataclasses.replace(b, dtype="float32", spacing="trailing")])


def test_what_the_pictures_were_painted_with_must_be_the_same(painted, copy, tmp_path, capfd):
    edited(copy, model_hash="000000000000")
    assert "was painted with another model, LoRA or ControlNet than there is now" in refusal(
        capfd, enlarge, copy, *STRENGTH
    )
    shutil.copyfile(painted / "grid" / "manifest.jsonl", copy / "manifest.jsonl")
    other = write_style(tmp_path / "gogh", "gogh", seed=5)
    line = refusal(capfd, enlarge, copy, *STRENGTH, "--styles", other)
    assert "was painted with another style than there is now: give what it was painted with" in line
    command = manifest(copy)[0]["command"]
    edited(copy, command=command.replace(str(painted / "gogh"), "nowhere/gogh"))
    line = refusal(capfd, enlarge, copy, *STRENGTH, "--cells", manifest(copy)[0]["id"])
    assert "there is no style nowhere/gogh; if the styles are elsewhere now, say where, with --styles" in line
    edited(copy, command=f"{command} --dtype bfloat16")
    assert "different values of dtype" in refusal(capfd, enlarge, copy, *STRENGTH)
    edited(copy, command="rm -r /")
    assert "its command cannot be read (it is not that of dreamstyler sample)" in refusal(
        capfd, enlarge, copy, *STRENGTH
    )
    edited(copy, command="dreamstyler sample 'x")
    assert "its command cannot be read (No closing quotation)" in refusal(capfd, enlarge, copy, *STRENGTH)
    assert not (tmp_path / "copy-enlarged").exists()
