"""The page of a grid as files: its bytes, its atlases, and the axes that it finds."""

import itertools
import os

import numpy as np
import pytest
from page_tools import a_line, png, twelve, write, write_pictures
from PIL import Image

from dreamstyler_jax.grids.page.axes import default_places, find_axes
from dreamstyler_jax.grids.page.document import FILE_NAME
from dreamstyler_jax.grids.page.thumbnails import ATLAS_FOLDER, Picture, examine, write_atlas
from dreamstyler_jax.runtime import images

# Files


def files(folder):
    """The bytes of the page and of its atlases, by name."""
    paths = [folder / FILE_NAME, *(folder / ATLAS_FOLDER).iterdir()]
    return {path.name: path.read_bytes() for path in paths}


def test_equal_input_gives_equal_bytes(tmp_path):
    red = Image.new("RGB", (9, 9), "red")
    for name in "ab":
        write(write_pictures(tmp_path / name, twelve()), style_pictures=[("gogh", red)])
    assert files(tmp_path / "a") == files(tmp_path / "b")
    write(tmp_path / "a", style_pictures=[("gogh", red)])
    assert files(tmp_path / "a") == files(tmp_path / "b")


def test_only_atlases_of_changed_pictures_are_made_again(tmp_path):
    lines = [a_line(seed=seed) for seed in range(600)]
    folder = write_pictures(tmp_path, lines)
    write(folder)
    before = {path.name: path.stat().st_mtime_ns for path in (folder / "atlas").iterdir()}
    assert len(before) == 3
    write(folder, title="Another title")
    assert before == {path.name: path.stat().st_mtime_ns for path in (folder / "atlas").iterdir()}
    (folder / lines[300]["file"]).write_bytes(png("red"))
    (folder / lines[5]["file"]).unlink()  # its place in the atlas stays empty
    write(folder)
    after = {path.name: path.stat().st_mtime_ns for path in (folder / "atlas").iterdir()}
    assert len(after) == 3 and len(before.items() & after.items()) == 1


def test_pictures_of_noise_have_thumbnails_too(tmp_path):
    folder, rng = write_pictures(tmp_path, twelve()), np.random.default_rng(0)
    for line in twelve():
        Image.fromarray(rng.integers(0, 256, (128, 128, 3), np.uint8)).save(folder / line["file"])
    write(folder)
    (atlas,) = (folder / ATLAS_FOLDER).iterdir()
    with Image.open(atlas) as image:
        assert image.size == (12 * 128, 128) and np.asarray(image).std() > 50


def test_a_failed_write_leaves_the_old_page_and_nothing_else(tmp_path, monkeypatch):
    write(write_pictures(tmp_path, twelve()))
    before, replace = files(tmp_path), os.replace

    def fail_at_the_page(source, target):
        if target.name == FILE_NAME:
            raise OSError("no space left")
        replace(source, target)

    with monkeypatch.context() as patch, pytest.raises(OSError, match="no space left"):
        patch.setattr(os, "replace", fail_at_the_page)
        write(write_pictures(tmp_path, [*twelve(), a_line(seed=9)]))
    assert before.items() <= files(tmp_path).items()
    assert not list(tmp_path.rglob("*.tmp"))


def test_the_error_of_an_unreadable_picture_holds_no_address_in_memory(tmp_path):
    lines = twelve()
    folder = write_pictures(tmp_path, lines)
    (folder / lines[3]["file"]).write_bytes(b"hello")
    content = write(folder).read_bytes()
    assert b"cannot be read: it is not a picture" in content and b"object at 0x" not in content


def test_many_small_pictures_of_noise_have_an_atlas(tmp_path):
    """As a JPEG it takes more than a byte per pixel, for which Pillow has no room."""
    images.save_png(tmp_path / "noise.png", images.to_image(np.random.default_rng(0).uniform(-1, 1, (16, 16, 3))))
    picture = examine(tmp_path, {"file": "noise.png"})
    assert isinstance(picture, Picture)
    name = write_atlas(tmp_path, [picture] * 256, picture.thumbnail_size)
    assert name and Image.open(tmp_path / name).size == (256, 256)


def test_other_files_in_the_folder_of_atlases_stay(tmp_path):
    folder = write_pictures(tmp_path, twelve())
    (folder / "atlas").mkdir()
    (folder / "atlas" / "mine.jpg").write_bytes(b"mine")
    write(folder)
    assert (folder / "atlas" / "mine.jpg").read_bytes() == b"mine"


# Axes


def axes_of(lines):
    return {axis.name: axis for axis in find_axes(lines, [None] * len(lines))}


def test_axes_of_numbers_texts_and_objects():
    axes = axes_of([
        {"id": "1", "file": "f", "seed": 1, "scales": {"a": 1.0, "seed": 2}, "styles": {"x": "12"}, "list": [1, 2]},
        {"id": "2", "error": "e", "seed": 1, "scales": {"a": 1.5}, "styles": {"x": "12", "y": "34"}, "big": 2**60},
        {"id": "3", "seed": 1.0, "scales": None, "styles": {"y": "34"}, "list": [], "big": float("nan")},
    ])  # fmt: skip
    assert list(axes) == ["seed", "a", "scales.seed", "styles", "list", "big"]
    assert axes["seed"].values == [1] and axes["seed"].indices == [0, 0, 0]
    assert axes["a"].values == [1, 1.5, None] and axes["scales.seed"].values == [2, None]
    assert axes["styles"].labels == ["x", "x, y", "y"] and axes["styles"].indices == [0, 1, 2]
    assert axes["list"].labels[0] == "1, 2"
    assert axes["big"].values == [None, str(2**60), "nan"]


def test_styles_of_the_same_name_are_told_apart_by_their_hashes():
    axes = axes_of([{"styles": {"x": "12"}}, {"styles": {"x": "34"}}])
    assert axes["styles"].labels == ["x 12", "x 34"]


def places_of(**columns):
    lines = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    axes = find_axes(lines, [None] * len(lines))
    return tuple([axes[i].name for i in place] for place in default_places(axes))


def test_loras_have_labels_and_a_place_before_the_hash_of_their_model():
    lines = [{"model_hash": hash, "loras": f"a/{name}.safetensors", "steps": 3} for name, hash in ("x0", "y1", "z1")]
    axes = find_axes(lines, [None] * 3)
    (number,) = (i for i, axis in enumerate(axes) if axis.name == "loras")
    assert axes[number].labels == ["x", "y", "z"]
    assert default_places(axes) == ([], [number])


def test_axes_take_the_places_that_tell_pictures_apart():
    grid = list(itertools.product("pq", (0, 1), (0.5, 1.5)))
    prompts, seeds, scales = (list(column) for column in zip(*grid, strict=True))
    seconds = [i / 7 for i in range(8)]
    assert places_of(scale=scales, seed=seeds, prompt=prompts) == (["prompt"], ["seed", "scale"])
    assert places_of(seconds=seconds, prompt=prompts, seed=seeds, scale=scales) == (["prompt"], ["seed", "scale"])
    assert places_of(prompt=["p"] * 8, seed=seeds, scale=scales)[0] == ["seed"]
    assert places_of(model=["m", "n"], model_hash=["1", "2"]) == ([], ["model"])
    assert places_of(seed=[1, 1]) == ([], [])
