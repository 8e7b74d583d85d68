"""The grid on disk: cells, files that say what they are, the manifest, the sheet."""

import dataclasses
import json
import re

import numpy as np
import pytest
from PIL import Image

from dreamstyler_jax import grid, guidance, images
from dreamstyler_jax.errors import UserError
from dreamstyler_jax.style import Style

ODD_PROMPTS = [
    "A painting of a house in the style of {}",
    "../../etc/passwd {}",
    'a/b\\c:d*e?"<>| {}',
    "..",
    "NUL {}",
    "a smiling cat \N{GRINNING CAT FACE WITH SMILING EYES} {}",
    "line one\nline two {}",
    "x" * 300 + " {}",
    "lone surrogate \udcff {}",
    "",
]
CELL = grid.Cell(
    prompt=ODD_PROMPTS[0], negative_prompt="", seed=0, guidance="paper", scales={"null_scale": 5.0, "style_scale": 1.0},
    solver="dpmpp_2m", steps=25, height=16, width=24, dtype="float32", styles={"gogh": "0123456789ab"}, model="mini",
    model_hash="ba9876543210",
)  # fmt: skip
OTHER_VALUES = {
    "prompt": "another", "negative_prompt": "blurry", "seed": 1, "guidance": "release", "scales": {"null_scale": 4.0},
    "solver": "ddim", "steps": 24, "height": 24, "width": 16, "dtype": "bfloat16", "styles": {"gogh": "000000000000"},
    "model": "other", "model_hash": "000000000000",
}  # fmt: skip


def cells_of(prompts, seeds):
    return [dataclasses.replace(CELL, prompt=prompt, seed=seed) for prompt in prompts for seed in seeds]


def painted(count, first=0):
    """Plain pictures, each of its own shade, in the sampler's range."""
    return [np.full((16, 24, 3), -1 + 2 * (first + i) / 64, np.float32) for i in range(count)]


def written(folder, cells, pictures):
    return list(grid.write_pictures(folder, cells, pictures))


def manifest(folder):
    return [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]


def test_ids_are_safe_file_names_and_all_different():
    ids = [cell.id for cell in cells_of(ODD_PROMPTS, (0, 1, 2**32 - 1))]
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch("[0-9a-f]{16}", id) for id in ids)


def test_every_parameter_counts_in_the_id():
    assert OTHER_VALUES.keys() == {field.name for field in dataclasses.fields(grid.Cell)}
    ids = {dataclasses.replace(CELL, **{name: value}).id for name, value in OTHER_VALUES.items()}
    assert len(ids | {CELL.id}) == len(OTHER_VALUES) + 1


def test_the_id_does_not_depend_on_the_order_of_scales():
    assert dataclasses.replace(CELL, scales=dict(reversed(CELL.scales.items()))).id == CELL.id


def test_pictures_say_what_they_are(tmp_path):
    cells = cells_of(ODD_PROMPTS, (7,))
    pictures = painted(len(cells))
    passed_on = written(tmp_path, cells, pictures)
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == sorted(
        ["manifest.jsonl", *(f"{cell.id}.png" for cell in cells)]
    )
    for cell, array, image in zip(cells, pictures, passed_on, strict=True):
        file = tmp_path / "images" / f"{cell.id}.png"
        np.testing.assert_array_equal(np.asarray(Image.open(file)), np.asarray(images.to_image(array)))
        np.testing.assert_array_equal(np.asarray(image), np.asarray(images.to_image(array)))
        text = images.read_text(file)
        assert text["prompt"] == cell.prompt.encode("utf-8", "replace").decode()
        assert json.loads(text["scales"]) == cell.scales
        assert json.loads(text["styles"]) == cell.styles
        assert {**text, "seed": int(text["seed"])}.items() >= {
            "seed": 7, "guidance": "paper", "solver": "dpmpp_2m", "steps": "25", "height": "16", "width": "24",
            "model": "mini", "model_hash": "ba9876543210", "negative_prompt": "", "dtype": "float32",
        }.items()  # fmt: skip
        assert text["software"].startswith("dreamstyler_jax ")


def test_the_manifest_has_one_line_per_picture(tmp_path):
    cells = cells_of(ODD_PROMPTS[:2], (0, 1))
    written(tmp_path, cells, painted(4))
    assert manifest(tmp_path) == [{"id": c.id, "file": f"images/{c.id}.png", **dataclasses.asdict(c)} for c in cells]
    more = cells_of(ODD_PROMPTS[1:3], (1, 2))
    written(tmp_path, more, painted(4, first=10))
    assert [line["id"] for line in manifest(tmp_path)] == list(dict.fromkeys(c.id for c in cells + more))
    assert np.asarray(Image.open(tmp_path / "images" / f"{more[0].id}.png"))[0, 0, 0] > 30, "painted anew"


def test_what_an_interrupted_grid_has_painted_stays(tmp_path):
    def interrupted():
        yield from painted(2)
        raise KeyboardInterrupt

    cells = cells_of(ODD_PROMPTS[:1], range(4))
    with pytest.raises(KeyboardInterrupt):
        written(tmp_path, cells, interrupted())
    assert [line["id"] for line in manifest(tmp_path)] == [cell.id for cell in cells[:2]]
    assert len(list((tmp_path / "images").iterdir())) == 2
    written(tmp_path, cells, painted(4))
    assert [line["id"] for line in manifest(tmp_path)] == [cell.id for cell in cells]


def test_a_torn_last_line_spoils_nothing(tmp_path):
    cells = cells_of(ODD_PROMPTS[:1], range(4))
    written(tmp_path, cells[:3], painted(3))
    whole = (tmp_path / "manifest.jsonl").read_bytes()
    (tmp_path / "manifest.jsonl").write_bytes(whole[:-20])
    pictures = grid.write_pictures(tmp_path, cells[3:], painted(1))
    next(pictures)
    expected = [cells[i].id for i in (0, 1, 3)]
    assert [line["id"] for line in manifest(tmp_path)] == expected, "also while painting goes on"
    assert not list(pictures)
    assert [line["id"] for line in manifest(tmp_path)] == expected


def test_a_damaged_manifest_is_named(tmp_path):
    (tmp_path / "manifest.jsonl").write_text("not JSON\n")
    with pytest.raises(UserError, match=r"manifest\.jsonl is damaged .*: remove it"):
        written(tmp_path, [CELL], painted(1))
    assert not (tmp_path / "images").exists()


def shades(sheet):
    """The colours that cover at least a small tile's area."""
    return {colour for count, colour in sheet.getcolors(1 << 24) if count > 5000}


def test_the_sheet_shows_every_picture_and_the_one_learned_from(tmp_path):
    Image.new("RGB", (40, 30), (200, 30, 40)).save(tmp_path / "stars.png")
    style = Style("gogh", np.ones((1, 1, 4)), {"images": [str(tmp_path / "stars.png")]})
    cells = cells_of(ODD_PROMPTS[:3], (0, 1))
    pictures = [images.to_image(array) for array in painted(6)]
    expected = {picture.getpixel((0, 0)) for picture in pictures}
    alone = grid.sheet(cells, pictures, {}, "title")
    assert shades(alone) >= expected
    with_original = grid.sheet(cells, pictures, {"gogh": style}, "title")
    assert shades(with_original) >= expected | {(200, 30, 40)}
    assert with_original.width > alone.width

    two = grid.sheet(cells, pictures, {"gogh": style, "monet": style}, "title")
    (tmp_path / "stars.png").write_bytes(b"not a picture any more")
    for sheet in (two, grid.sheet(cells, pictures, {"gogh": style}, "title")):
        assert (200, 30, 40) not in shades(sheet)
        assert sheet.size == alone.size


def test_the_sheet_has_a_place_for_every_prompt_and_seed():
    """A cell given twice stands once, one not given leaves a gap."""
    cells = cells_of(["a", "b"], (0, 1))
    pictures = [images.to_image(array) for array in painted(4)]
    whole = grid.sheet(cells, pictures, {}, "title")
    twice = grid.sheet(cells + cells[:1], pictures + pictures[:1], {}, "title")
    np.testing.assert_array_equal(np.asarray(whole), np.asarray(twice))
    gap = grid.sheet(cells[:3], pictures[:3], {}, "title")
    assert gap.size == whole.size
    assert shades(whole) - shades(gap) == {pictures[3].getpixel((0, 0))}


def test_conditionings_are_encoded_once_each(tiny):
    texts = ["A painting of a house in the style of {}", "a dog by {}"]
    style = Style("gogh", np.full((3, 1, tiny.text_width), 0.1))
    conditionings = grid.Conditionings(tiny, texts, "", {"gogh": style})
    assert conditionings.arrays.shape[:2] == (6, 3), "null, two full, two context-only, one style-only prompt"
    weights = guidance.paper(5, 1, 3)
    house, dog = (conditionings.request(text, weights, 3) for text in texts)
    assert (house.seed, house.weights.tolist()) == (3, weights.tolist())
    assert house.rows[0] == dog.rows[0], "one null prompt"
    assert house.rows[3] == dog.rows[3], "one style-only prompt"
    assert len({*house.rows, *dog.rows}) == 6
