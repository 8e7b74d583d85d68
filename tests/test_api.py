"""The public API: from a picture to a style, and from a style to pictures."""

import dataclasses
import io
import subprocess
import sys
from typing import Any

import jax
import numpy as np
import pytest
from PIL import Image
from script_tools import ROOT, write_picture
from tiny_model import WIDTH, write_controlnet

import dreamstyler_jax as ds
from dreamstyler_jax.commands.previews import paint_preview
from dreamstyler_jax.runtime import images, picture_files
from dreamstyler_jax.style import FILE_NAME, step_file

HOUSE = "a painting of a red house in the style of {}"
LEARN = dict(steps=2, batch_size=1, stages=2, learning_rate=0.001, progress=False)
PAINT = dict(seeds=range(2), steps=2, batch_size=2, progress=False)  # so that most of what is painted is one program
pytestmark = pytest.mark.usefixtures("one_compilation")


def random_style(name, seed=0):
    return ds.Style(name, np.random.default_rng(seed).standard_normal((2, 1, WIDTH)) / 5)


GOGH, MONET = random_style("gogh"), random_style("monet", 1)


@pytest.fixture(scope="module")
def painted(tiny):
    """A house in a style, with two seeds."""
    return ds.paint(tiny, HOUSE, GOGH, **PAINT)


def pixels_of(pictures):
    return np.stack([np.asarray(picture) for picture in pictures])


def difference(ours, others):
    """The largest difference of a pixel, of 255."""
    return np.abs(pixels_of(ours).astype(int) - pixels_of(others)).max()


# The package


def test_importing_the_package_does_not_import_jax():
    program = """
import sys
import dreamstyler_jax as ds
loaded = {"jax", "numpy", "PIL"} & set(sys.modules)
assert not loaded, loaded
assert dir(ds) == sorted(ds.__all__)
ds.UserError, ds.cfg_guidance(3).weights
assert "jax" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)


def test_every_public_name_is_there():
    assert sorted(ds.__all__) == list(ds.__all__) == dir(ds)
    for name in ds.__all__:
        assert getattr(ds, name) is not None
    assert ds.paint.__module__ == "dreamstyler_jax.api"
    with pytest.raises(AttributeError, match="module 'dreamstyler_jax' has no attribute 'draw'"):
        ds.draw  # noqa: B018


def test_from_a_picture_to_a_sheet_in_five_lines(tiny_folder, tmp_path, monkeypatch):
    """The example of the documentation, with fewer steps."""
    monkeypatch.chdir(tmp_path)
    write_picture(tmp_path / "boat.png", 0)

    model = ds.StableDiffusion.load(tiny_folder)
    style = ds.train_style(model, "boat.png", prompt="A painting of a boat by the sea in the style of {}", **LEARN)
    pictures = ds.paint(model, "A painting of a red house in the style of {}", style, **PAINT)
    ds.contact_sheet(pictures).save("grid.png")

    assert (style.name, style.stages) == ("boat", 2)
    assert [picture.seed for picture in pictures] == [0, 1]
    assert {picture.image.size for picture in pictures} == {(16, 16)}
    assert Image.open("grid.png").width > 2 * 128
    for line in map(repr, (model, style, *pictures)):
        assert len(line) < 200 and "\n" not in line


# Training


def test_pictures_to_learn_from_are_paths_images_or_arrays(tiny, tmp_path):
    path = write_picture(tmp_path / "boat.png", 0)
    image = Image.open(path)
    styles = [
        ds.train_style(tiny, picture, prompt=HOUSE, **LEARN)
        for picture in (path, str(path), image, np.asarray(image), [path], [image])
    ]
    assert [style.name for style in styles] == ["boat", "boat", "style", "style", "boat", "style"]
    assert len({style.hash for style in styles}) == 1
    assert styles[0].metadata["images"] == [str(path)] and styles[2].metadata["images"] == ["picture 1"]
    assert styles[0].metadata["prompts"] == [HOUSE] and styles[0].metadata["steps"] == 2
    assert np.abs(styles[0].tables["clip_l"] - styles[0].tables["clip_l"][0, 0]).max() > 0, "the stages differ"


def test_prompts_to_learn_with(tiny, tmp_path):
    told, untold = (write_picture(tmp_path / f"{name}.png", seed) for seed, name in enumerate(("told", "untold")))
    told.with_suffix(".txt").write_text("a boat\nby {}")

    def prompts(pictures, **given):
        return ds.train_style(tiny, pictures, **given, **LEARN).metadata["prompts"]

    with pytest.warns(UserWarning, match=r"untold.png has no caption, .* learned as style: give prompt=") as caught:
        assert prompts([told, untold]) == ["a boat by {}", "A painting in the style of {}"]
    assert "told.png" not in str(caught[0].message).replace("untold.png", "")
    assert prompts([told, untold], prompt=["a dog by {}", HOUSE]) == ["a dog by {}", HOUSE]
    assert prompts(Image.open(told), property="object", init_word="dog") == ["A photo of {}"]
    named = ds.train_style(tiny, [told, untold], prompt="a boat by {wave}", name="wave", **LEARN)
    assert named.name == "wave" and named.metadata["prompts"] == ["a boat by {wave}"] * 2


@pytest.mark.parametrize(
    ("pictures", "given", "message"),
    [
        ("nowhere.png", {}, "there is no picture nowhere.png"),
        (3, {}, "a picture is a path, a PIL image or an array, not int"),
        (np.zeros((4, 4)), {}, r"an array of the shape \[height, width, 3\]"),
        ([], {}, "images: give at least one picture"),
        (["picture.png", "picture.png"], {}, "none of them twice"),
        ("picture.png", {"prompt": "a house"}, "the prompt 'a house' has no placeholder"),
        ("picture.png", {"prompt": [HOUSE, HOUSE]}, "prompt: 2 given for 1 pictures"),
        ("picture.png", {"step": 3}, r"has no setting 'step': it must be one of .* \(did you mean steps\?\)"),
        ("picture.png", {"stages": 0}, "stages: must be from 1 to 50, not 0"),
        ("picture.png", {"resolution": 11}, "resolution: must be a multiple of 2"),
        ("picture.png", {"name": "a{b"}, "a style cannot be called"),
        ("picture.png", {"learning_rate": 10.0, "weight_decay": 10.0, "steps": 30}, "holds NaN or Inf: train it again"),
    ],
)
def test_mistakes_in_training_are_one_line(tiny, tmp_path, monkeypatch, pictures, given, message):
    monkeypatch.chdir(tmp_path)
    write_picture(tmp_path / "picture.png", 0)
    with pytest.raises(ds.UserError, match=message) as caught:
        ds.train_style(tiny, pictures, **{**LEARN, **given})
    assert "\n" not in str(caught.value)


# Painting


def test_styles_are_values_paths_lists_or_mappings(tiny, tmp_path, painted):
    GOGH.save(tmp_path / "gogh.safetensors")
    GOGH.save(tmp_path / "run" / FILE_NAME)
    for given in (
        [GOGH],
        (GOGH,),
        tmp_path / "gogh.safetensors",
        str(tmp_path / "gogh.safetensors"),
        tmp_path / "run",
        [tmp_path / "run"],
        {"gogh": random_style("any name")},
        {"gogh": tmp_path / "run"},
    ):
        again = ds.paint(tiny, [HOUSE], given, **PAINT)
        assert [picture.cell for picture in again] == [picture.cell for picture in painted]
        np.testing.assert_array_equal(pixels_of(again), pixels_of(painted))


def test_prompts_styles_and_guidance_in_order(tiny):
    """Seeds vary fastest, then guidance, styles and prompts."""
    guidance = [ds.cfg_guidance(2), ds.cfg_guidance(5)]
    prompts = ["a {dog|cat} by {}", "a house by {monet}"]
    pictures = ds.paint(tiny, prompts, [GOGH, MONET], guidance=guidance, **PAINT)
    assert [
        (picture.prompt, picture.parameters["style"], picture.parameters["scales"]["guidance_scale"], picture.seed)
        for picture in pictures
    ] == [
        (prompt, style, scale, seed)
        for prompt, styles in (
            ("a dog by {}", ("gogh", "monet")),
            ("a cat by {}", ("gogh", "monet")),
            ("a house by {monet}", ("",)),
        )
        for style in styles
        for scale in (2, 5)
        for seed in (0, 1)
    ]
    assert len({pixels.tobytes() for pixels in pixels_of(pictures)}) == len(pictures)
    one = ds.paint(tiny, "a cat by {}", MONET, guidance=guidance[1], seeds=1, steps=2, progress=False)
    assert len(one) == 1 and difference(one, [pictures[15]]) <= 1


def test_every_option_matters(tiny, painted):
    for name, option in {
        "negative prompt": {"negative_prompt": "blurry"},
        "solver": {"solver": "ddim"},
        "steps": {"steps": 3},
        "guidance": {"guidance": ds.paper_guidance(2, 0.5, 1.5)},
        "guidance span": {"guidance_span": (0, 0.5)},
        "guidance schedule": {"guidance_schedule": "linear"},
        "variants of guidance": {"guidance": ds.cfg_guidance(3.5, guidance_rescale=0.7)},
        "cache interval": {"cache_interval": 2},
        "seeds": {"seeds": np.arange(2, 4)},
    }.items():
        others = ds.paint(tiny, HOUSE, GOGH, **{**PAINT, **option})
        assert difference(others, painted) > 2, name
        assert {picture.cell.id for picture in others}.isdisjoint(picture.cell.id for picture in painted), name
    smaller = ds.paint(tiny, HOUSE, GOGH, **{**PAINT, "batch_size": 1})
    assert difference(smaller, painted) <= 1, "the batch size does not matter"
    assert [picture.cell for picture in smaller] == [picture.cell for picture in painted]


def test_a_weak_style_is_the_runs_own_or_given_by_name(tiny, tmp_path):
    weak = random_style("gogh", 5)
    GOGH.save(tmp_path / FILE_NAME)
    weak.save(step_file(tmp_path, 100))
    guided: dict[str, Any] = {"guidance": ds.cfg_guidance(2, weak_scale=3), "weak_checkpoint": 100}
    by_path = ds.paint(tiny, HOUSE, tmp_path, **{**PAINT, **guided})
    by_name = ds.paint(tiny, HOUSE, {"gogh": GOGH, "gogh@100": weak}, **{**PAINT, **guided})
    assert [picture.cell.id for picture in by_path] == [picture.cell.id for picture in by_name]
    assert len(by_path) == 2 and difference(by_path, by_name) == 0
    assert by_path[0].parameters["weak_styles"] == {"gogh@100": weak.hash}


def test_a_picture_without_a_style(tiny):
    (picture,) = ds.paint(tiny, "a red house", seeds=3, steps=2, height=8, width=12, progress=False)
    assert picture.image.size == (12, 8) and picture.parameters["styles"] == {}
    assert repr(picture) == "Picture('a red house', seed 3, 12 x 8)"


def test_repainting_a_picture(tiny, tmp_path):
    path = write_picture(tmp_path / "photo.png", 0, (30, 20))
    image = Image.open(path)
    given = [
        ds.paint(tiny, HOUSE, GOGH, content=content, strength=0.5, **PAINT)
        for content in (path, image, np.asarray(image))
    ]
    for pictures in given:
        assert {picture.image.size for picture in pictures} == {(20, 13)}, "the content's aspect"
        np.testing.assert_array_equal(pixels_of(pictures), pixels_of(given[0]))
    assert given[0][0].parameters["content"] == str(path) and given[1][0].parameters["content"] == "picture"
    assert given[0][0].parameters["strength"] == 0.5
    cropped = ds.paint(tiny, HOUSE, GOGH, content=path, strength=0.5, height=16, width=8, **PAINT)
    assert {picture.image.size for picture in cropped} == {(8, 16)}


@pytest.mark.parametrize("guess_mode", [False, True])
def test_repainting_with_a_controlnet(tiny, tmp_path, guess_mode):
    model = tiny.with_controlnets([write_controlnet(tmp_path / "net")], guess_mode=guess_mode)
    photo = write_picture(tmp_path / "photo.png", 0, (16, 16))
    nets = [ds.Net("edges", 1.0, "")]
    pictures = ds.paint(model, HOUSE, GOGH, content=photo, nets=nets, strength=1, **PAINT)
    assert pictures[0].parameters["controlnets"] == ("edges",)
    assert pictures[0].parameters["guess_mode"] == guess_mode
    weaker = ds.paint(model, HOUSE, GOGH, content=photo, nets=nets, strength=1, control_scale=0, **PAINT)
    without = ds.paint(tiny, HOUSE, GOGH, content=photo, strength=1, **PAINT)
    assert difference(weaker, without) <= 1 and difference(pictures, without) > 2
    with pytest.raises(ds.UserError, match="nets: 0 given for the 1 ControlNets of the model; give one for each"):
        ds.paint(model, HOUSE, GOGH, content=photo, **PAINT)


@pytest.mark.parametrize(
    ("prompts", "styles", "given", "message"),
    [
        ("a house", GOGH, {}, r"the prompt 'a house' has no placeholder: write \{\} where the style goes"),
        ("a {dog|cat}", GOGH, {}, "the prompt 'a dog' has no placeholder"),
        (HOUSE, (), {}, "there is nothing to paint: give a prompt, a seed, and a style"),
        ([], GOGH, {}, "there is nothing to paint"),
        (HOUSE, GOGH, {"seeds": []}, "there is nothing to paint"),
        ("a house by {monet}", GOGH, {}, r"unknown style \{monet\}"),
        ("a house by {", GOGH, {}, "lone '{'"),
        (HOUSE, [GOGH, random_style("gogh", 1)], {}, "two styles have the same name: give them as a mapping"),
        (HOUSE, ds.Style("wide", np.zeros((1, 1, 24))), {}, "vectors of the style 'wide' have width 24"),
        (HOUSE, "nowhere.safetensors", {}, "there is no style nowhere.safetensors"),
        (HOUSE, GOGH, {"solver": "dpmpp"}, "did you mean 'dpmpp_2m'"),
        (HOUSE, GOGH, {"steps": 0}, "steps must be in 1..1000, not 0"),
        (HOUSE, GOGH, {"height": 11}, "height: must be a multiple of 2"),
        (HOUSE, GOGH, {"seeds": -1}, "seeds: must be from 0 to 4294967295, not -1"),
        (HOUSE, GOGH, {"batch_size": 0}, "batch_size: must be from 1 to 1024, not 0"),
        (HOUSE, GOGH, {"cache_interval": 0}, "cache_interval: must be from 1 to 1000, not 0"),
        (HOUSE, GOGH, {"guidance_span": (0.5, 0.5)}, "guidance_span: must rise .*, not 0.5 to 0.5"),
        (HOUSE, GOGH, {"guidance_schedule": "liner"}, r"guidance_schedule: must be one of .* \(did you mean linear"),
        (HOUSE, GOGH, {"guidance": ds.cfg_guidance(3, weak_scale=1)}, "weak_scale: name the training step of the weak"),
        (HOUSE, GOGH, {"content": "nowhere.png"}, "there is no picture nowhere.png"),
        (HOUSE, GOGH, {"content": np.zeros((8, 8, 3)), "strength": 0}, "strength must be in"),
        (HOUSE, GOGH, {"content": np.zeros((4, 90, 3))}, "90 x 4 pixels is too long and thin"),
    ],
)
def test_mistakes_in_painting_are_one_line(tiny, prompts, styles, given, message):
    with pytest.raises(ds.UserError, match=message) as caught:
        ds.paint(tiny, prompts, styles, **{**PAINT, **given})
    assert "\n" not in str(caught.value)


# Pictures


def test_a_picture_is_an_image_an_array_and_a_png(painted):
    picture = painted[0]
    array = np.asarray(picture)
    assert (array.shape, array.dtype) == ((16, 16, 3), np.uint8)
    np.testing.assert_array_equal(array, np.asarray(picture.image))
    np.testing.assert_array_equal(array, np.asarray(images.to_image(picture.pixels)))
    assert np.asarray(picture, np.float32).dtype == np.float32
    displayed = Image.open(io.BytesIO(picture._repr_png_()))
    assert displayed.format == "PNG"
    np.testing.assert_array_equal(displayed, array)


def test_what_a_picture_is_in_a_line(painted):
    picture = painted[1]
    assert repr(picture) == f"Picture({HOUSE!r} in gogh, seed 1, 16 x 16)"
    styles = {f"style {i}": "0" * 12 for i in range(50)}
    long = dataclasses.replace(picture, cell=dataclasses.replace(picture.cell, prompt="x" * 1000, styles=styles))
    assert len(repr(long)) < 200


def test_a_saved_picture_holds_its_parameters(painted, tmp_path):
    picture = painted[1]
    picture.save(tmp_path / "picture.png")
    text = images.read_text(tmp_path / "picture.png")
    assert (text["prompt"], text["seed"], text["style"]) == (HOUSE, "1", "gogh")
    assert text == picture.cell.text()
    np.testing.assert_array_equal(Image.open(tmp_path / "picture.png"), np.asarray(picture))
    assert picture.parameters["styles"] == {"gogh": GOGH.hash}


def test_a_saved_picture_has_the_format_of_its_name(painted, tmp_path):
    painted[1].save(tmp_path / "picture.JPG", quality=90)
    with Image.open(tmp_path / "picture.JPG") as image:
        assert image.format == "JPEG"
    text = picture_files.read_text(tmp_path / "picture.JPG")
    assert (text["prompt"], text["format"], text["quality"]) == (HOUSE, "jpeg", "90")
    with pytest.raises(ds.UserError, match="should end in"):
        painted[1].save(tmp_path / "picture.bmp")


def test_prompts_with_weights_choices_and_wildcards(tiny, painted, tmp_path):
    (tmp_path / "colour.txt").write_text("red\n")
    text = HOUSE.replace("red house", "(__colour__:1.7) {house|dog}")
    drawn = ds.paint(tiny, text, GOGH, **PAINT, choices="random", wildcards=tmp_path)
    assert [picture.seed for picture in drawn] == [0, 1]
    assert all(picture.prompt.replace("dog", "house") == HOUSE.replace("red", "(red:1.7)") for picture in drawn)
    assert all(picture.cell.prompt_weights for picture in drawn)
    assert min(difference([ours], [plain]) for ours, plain in zip(drawn, painted, strict=True)) > 4
    with pytest.warns(UserWarning, match="BREAK: only other programs understand this"):
        as_text = ds.paint(tiny, HOUSE + " BREAK (red)", GOGH, **PAINT, prompt_weights=False)
    assert not as_text[0].cell.prompt_weights


# Contact sheets


def test_a_contact_sheet_has_prompts_as_rows_and_seeds_as_columns(tiny):
    pictures = ds.paint(tiny, ["a dog by {}", "a cat by {}"], GOGH, **{**PAINT, "seeds": range(3)})
    sheet, tiles = np.asarray(ds.contact_sheet(pictures, tile=64)), pixels_of(pictures).repeat(4, 1).repeat(4, 2)

    def place(tile):
        """Row and column of the pixel where a picture begins."""
        windows = np.lib.stride_tricks.sliding_window_view(sheet[..., 0], tile.shape[:2])
        ((row, column),) = np.argwhere((windows == tile[..., 0]).all((2, 3)))
        return row, column

    places = np.array([place(tile) for tile in tiles]).reshape(2, 3, 2)
    assert (np.ptp(places[..., 0], axis=1) == 0).all() and (np.diff(places[..., 0], axis=0) > 0).all()
    assert (np.ptp(places[..., 1], axis=0) == 0).all() and (np.diff(places[..., 1], axis=1) > 0).all()


def test_contact_sheets_of_any_pictures(painted, tmp_path):
    path = write_picture(tmp_path / "a.png", 0)
    plain = [path, Image.open(path), np.zeros((8, 8, 3), np.uint8), painted[0]]
    narrow, wide = ds.contact_sheet(plain, tile=32), ds.contact_sheet(plain * 2, tile=32)
    tall = ds.contact_sheet(plain * 3, tile=32)
    assert narrow.width < wide.width == tall.width and narrow.height == wide.height < tall.height
    titled = ds.contact_sheet(plain, title="Pictures", tile=32)
    assert titled.height > narrow.height


def test_sheets_of_several_axes_are_one_image(tiny):
    pictures = ds.paint(tiny, ["a dog by {}", "a cat by {}"], [GOGH, MONET], **PAINT)
    one = ds.contact_sheet([picture for picture in pictures if "gogh" in picture.cell.styles], tile=32)
    both = ds.contact_sheet(pictures, tile=32)
    assert both.height > 1.5 * one.height


def test_mistakes_in_contact_sheets_are_one_line(painted):
    with pytest.raises(ds.UserError, match="a contact sheet needs at least one picture"):
        ds.contact_sheet([])
    with pytest.raises(ds.UserError, match="a picture is a path, a PIL image or an array, not int"):
        ds.contact_sheet([*painted, 3])


# Previews during training are painted by this API


def test_previews_differ_by_the_style_alone(tiny):
    sheets = []
    for style in (GOGH, random_style("gogh"), random_style("gogh", 1)):
        sheets.append(paint_preview(tiny, style, [HOUSE], (16, 16), "step 000100").tobytes())
    same, again, other = sheets
    assert same == again
    assert same != other


def test_previews_show_what_was_learned_from(tiny):
    red = Image.new("RGB", (16, 16), "red")
    sheets = [
        paint_preview(tiny, ds.Style("gogh", GOGH.tables, metadata), [HOUSE], (16, 16), "step 000100")
        for metadata in ({}, {"thumbnail": images.to_thumbnail(red)})
    ]
    bare, sheet = (np.asarray(sheet, int) for sheet in sheets)
    assert sheet.shape[1] > bare.shape[1]
    assert (np.abs(sheet - (254, 0, 0)).max(-1) < 3).sum() > 100 * 100


def test_a_style_is_trained_without_changing_the_model(tiny, tmp_path):
    before = jax.tree.map(np.array, tiny.params)
    ds.train_style(tiny, write_picture(tmp_path / "a.png", 0), **LEARN)
    jax.tree.map(np.testing.assert_array_equal, tiny.params, before)
