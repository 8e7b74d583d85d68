"""What a style remembers of the pictures that it was learned from."""

import dataclasses

import numpy as np
import pytest
from cells import CELL
from PIL import Image
from script_tools import write_picture

from dreamstyler_jax.grids.learned_from import learned_from, style_pictures
from dreamstyler_jax.provenance import (
    TrainingPicture,
    changed_inputs,
    describe,
    first_picture,
    training_pictures,
)
from dreamstyler_jax.runtime.errors import UserError
from dreamstyler_jax.runtime.images import digest
from dreamstyler_jax.runtime.masks import as_masked_picture
from dreamstyler_jax.style import Style


def remembered(path) -> dict:
    return describe({str(path): as_masked_picture(path)})


def test_a_training_picture_is_found_by_its_content_and_not_by_its_path(tmp_path):
    metadata = remembered(write_picture(tmp_path / "a.png", 0))
    (picture,) = training_pictures(metadata)
    assert digest(picture.load()) == picture.hash
    write_picture(tmp_path / "a.png", 1)
    with pytest.raises(UserError, match=r"a.png is not the picture that it was"):
        picture.load()
    assert TrainingPicture(picture.path).load().size == (20, 14), "a style of an earlier version knows no hash"
    Image.open(write_picture(tmp_path / "a.png", 0)).save(tmp_path / "a.png", compress_level=0)
    picture.load()  # the same picture in other bytes
    Image.new("L", (20, 14), 255).crop((0, 0, 20, 7)).crop((0, 0, 20, 14)).save(tmp_path / "a.mask.png")
    with pytest.raises(UserError, match="or its mask"):
        picture.load()


def test_the_first_picture_looks_as_it_did_wherever_it_is_now(tmp_path):
    Image.new("RGB", (600, 300), (200, 30, 40)).save(tmp_path / "a.png")
    metadata = remembered(tmp_path / "a.png")
    assert len(metadata["thumbnail"]) < 30_000
    whole = first_picture(metadata)
    write_picture(tmp_path / "a.png", 1)
    other = first_picture(metadata)
    (tmp_path / "a.png").unlink()
    gone = first_picture(metadata)
    assert whole is not None and other is not None and gone is not None
    assert (whole.size, other.size, gone.size) == ((600, 300), (256, 128), (256, 128))
    for small in (other, gone):
        assert np.abs(np.asarray(small).astype(int) - (200, 30, 40)).max() < 4


@pytest.mark.parametrize(
    "images", [5, None, {"a": 1}, ["a", 5], ["x" * 5000], ["nul\0"], [""], ["/"]], ids=lambda value: str(value)[:12]
)
def test_damaged_metadata_show_no_picture(images):
    assert first_picture({"images": images, "thumbnail": 5}) is None


def test_a_training_does_not_go_on_with_another_picture_or_model(tmp_path):
    before = {**remembered(write_picture(tmp_path / "a.png", 0)), "model_hash": "1", "steps": 5}
    assert changed_inputs(before, before) == []
    other = {**remembered(write_picture(tmp_path / "a.png", 1)), "model_hash": "2", "model_settings": "3"}
    assert changed_inputs(before, other) == [str(tmp_path / "a.png"), "the model's weights"]
    assert changed_inputs({"images": ["a.png"]}, other) == [], "what an earlier version did not record"


def test_a_folder_shows_what_its_styles_were_learned_from(tmp_path):
    """Those of the grid as they remember it, and earlier ones where their pictures still are what they were."""
    paths = {name: write_picture(tmp_path / f"{name}.png", seed) for seed, name in enumerate(("gogh", "wave", "old"))}
    styles = {name: Style(name, np.ones((1, 1, 4)), remembered(path)) for name, path in paths.items()}
    cells = {name: dataclasses.replace(CELL, styles={name: "0"}) for name in paths}
    lines: list[dict] = [learned_from(cell, styles) for cell in cells.values()]
    (picture,) = training_pictures(styles["gogh"].metadata)
    assert lines[0] == {"learned_from": {"gogh": picture.path}, "learned_from_hashes": {"gogh": picture.hash}}
    lines += [{"learned_from": {"older": str(paths["old"]), "lost": "x" * 5000}}, {"learned_from": {"a": 5}}, {}]
    for path in (paths["gogh"], paths["wave"]):
        write_picture(path, 7)
    now = dict(style_pictures(lines, [cells["gogh"]], {"gogh": styles["gogh"]}))
    assert list(now) == ["gogh", "old", "older"], "another picture has taken the place of that of wave"
    other = np.asarray(Image.open(paths["gogh"])).astype(int)
    assert np.abs(np.asarray(now["gogh"]).astype(int) - other).mean() > 20
    np.testing.assert_array_equal(now["old"], Image.open(paths["old"]))
