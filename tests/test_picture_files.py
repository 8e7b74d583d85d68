"""Files of pictures: formats, the parameters in them as other programs read them, and the names of files."""

import dataclasses
import json
import re

import numpy as np
import pytest
from cells import CELL, ODD_PROMPTS, cells_of, plain_picture
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image

from dreamstyler_jax.grids.cells import Repaint
from dreamstyler_jax.grids.file_names import check_pattern, name_files
from dreamstyler_jax.grids.gallery import Gallery
from dreamstyler_jax.grids.infotext import infotext
from dreamstyler_jax.runtime import images, picture_files
from dreamstyler_jax.runtime.errors import UserError

FORMATS = [("png", None), ("jpeg", 95), ("webp", 95)]
NAMED = dict(style="gogh", styles={"gogh": "0123456789ab"})


def read_by_others(path) -> str:
    """The parameters where the web UI looks for them: a PNG's text chunk, EXIF's UserComment elsewhere."""
    with Image.open(path) as image:
        if image.format == "PNG":
            return image.info["parameters"]
        comment = image.getexif().get_ifd(0x8769)[0x9286]
    assert comment[:8] == b"UNICODE\0"
    return comment[8:].decode("utf-16-be")


def values_of(text: str) -> tuple[str, str, dict[str, str]]:
    """The prompt, the negative prompt and the values of an infotext, read by the rules of the web UI."""
    *lines, last = text.split("\n")
    pairs = re.findall(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)', last)
    values = {name: json.loads(value) if value.startswith('"') else value for name, value in pairs}
    prompt, _, negative = "\n".join(lines).partition("\nNegative prompt: ")
    return prompt, negative, values


# What other programs read


@pytest.mark.parametrize(("format", "quality"), FORMATS)
def test_a_picture_holds_all_parameters_in_every_format(tmp_path, format, quality):
    cell = dataclasses.replace(CELL, prompt="a naïve \N{HOUSE BUILDING}, by {}", format=format, quality=quality)
    gallery = Gallery(tmp_path)
    gallery.begin()
    gallery.save(cell, plain_picture(7))
    file = tmp_path / gallery.lines[cell.id]["file"]
    assert picture_files.read_text(file) == cell.text()
    assert read_by_others(file) == infotext(cell)
    with Image.open(file) as image:
        assert image.format == format.upper()
    painted = np.asarray(images.load(file)).astype(int)
    assert np.abs(painted - np.asarray(images.to_image(plain_picture(7)))).max() <= (0 if format == "png" else 6)


@pytest.mark.parametrize(("format", "quality"), FORMATS)
def test_damage_is_found_in_every_format(tmp_path, format, quality):
    cells = [dataclasses.replace(cell, format=format, quality=quality) for cell in cells_of(["a {}"], range(2))]
    gallery = Gallery(tmp_path)
    gallery.begin()
    for cell in cells:
        gallery.save(cell, plain_picture(cell.seed))
    assert Gallery(tmp_path).missing(cells) == []
    file = tmp_path / gallery.lines[cells[1].id]["file"]
    content = bytearray(file.read_bytes())
    content[-20] ^= 1
    file.write_bytes(content)
    assert Gallery(tmp_path).missing(cells) == [cells[1]]


def test_the_format_counts_in_the_id_only_where_it_is_another():
    assert dataclasses.replace(CELL, format="png", quality=None).id == CELL.id
    ids = {dataclasses.replace(CELL, format=f, quality=q).id for f, q in [*FORMATS, ("jpeg", 80)]}
    assert len(ids) == 4


def test_parameters_in_the_words_of_the_web_ui():
    cell = dataclasses.replace(
        CELL, prompt="a {{red}} house,\nby {}", negative_prompt="fog by {}", checkpoint=100, sigmas="karras",
        scales={"guidance_scale": 3.5}, model="models/a, b.safetensors", clip_skip=1, guidance="cfg",
        repaint=Repaint("photo.jpg", "0", 0.6, (), 0.0, 0.0, 1.0, False), **NAMED,
    )  # fmt: skip
    prompt, negative, values = values_of(infotext(cell))
    assert (prompt, negative) == ("a {red} house,\nby gogh@100", "fog by gogh@100")
    assert values.pop("Version").startswith("dreamstyler_jax ")
    assert values == {
        "Steps": "25", "Sampler": "DPM++ 2M", "Schedule type": "Karras", "CFG scale": "3.5", "Seed": "0",
        "Size": "24x16", "Model": "a, b", "Denoising strength": "0.6", "Clip skip": "2", "Guidance": "cfg",
    }  # fmt: skip
    prompt, negative, values = values_of(infotext(CELL))
    assert (prompt, negative) == ("A painting of a house in the style of gogh", "")
    assert (values["Guidance"], values["Null scale"], values["Context scale"]) == ("paper", "5", "3")


def test_parameters_too_long_for_a_jpeg_are_said_so():
    text = {"prompt": "x" * 70_000}
    image = images.to_image(plain_picture(0))
    assert picture_files.to_bytes(image, text, "webp", 90)
    with pytest.raises(UserError, match="too long for a JPEG file"):
        picture_files.to_bytes(image, text, "jpeg", 90)


def test_files_that_cannot_be_read_and_names_that_no_format_has(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"not a picture")
    Image.new("RGB", (8, 8)).save(tmp_path / "b.webp")
    for name in ("a.jpg", "b.webp"):
        with pytest.raises(UserError, match=f"cannot read the parameters in .*{name}"):
            picture_files.read_text(tmp_path / name)
    with pytest.raises(UserError, match=r"should end in \.png, \.jpg, \.webp, \.jpeg"):
        picture_files.format_of("picture.bmp")
    with pytest.raises(UserError, match="there is no picture"):
        picture_files.read_text(tmp_path / "none.jpg")


# Names of files


def test_names_as_users_choose_them():
    cells = cells_of(["A house by {}", "a dog"], (3, 4))
    assert list(name_files(cells, "{index:04}-{prompt}-{seed}").values()) == [
        "0000-A_house_by_{}-3", "0001-A_house_by_{}-4", "0002-a_dog-3", "0003-a_dog-4",
    ]  # fmt: skip
    assert list(name_files(cells, "{id}")) == [cell.id for cell in cells]
    (name,) = name_files(cells[:1], "{style}, {solver}, {steps}, {style_scale}, {guidance_scale}, {content}!").values()
    assert name == "gogh,_dpmpp_2m,_25,_1,_,_!"


NAMES = st.text(alphabet=st.one_of(st.characters(), st.sampled_from('./\\:*?"<>| \n\0aA')), max_size=400)


@settings(max_examples=50)
@given(prompts=st.lists(NAMES, max_size=8, unique=True), style=NAMES, kept=st.dictionaries(st.text("abc"), NAMES))
def test_any_prompt_makes_names_that_are_safe_and_each_there_once(prompts, style, kept):
    cells = [dataclasses.replace(cell, style=style) for cell in cells_of([*prompts, *ODD_PROMPTS], (0, 1))]
    names = list(name_files(cells, "{prompt}{style}", kept).values())
    folded = [name.casefold() for name in names]
    assert len(set(folded)) == len(names) and not set(folded) & {name.casefold() for name in kept.values()}
    for name in names:
        assert 0 < len(name.encode()) < 220
        assert not re.search(r'[\x00-\x1f<>:"/\\|?*\s]', name) and name.strip(" .") == name
        assert not re.match(r"(con|nul|prn|aux|com\d|lpt\d)(\.|$)", name, re.IGNORECASE)


@pytest.mark.parametrize(
    ("pattern", "complaint"),
    [
        ("{prmpt}", r"unknown field \{prmpt\}.*did you mean prompt"),
        ("{prompt.__class__}", "unknown field"),
        ("{}", r"unknown field \{\}"),
        ("{index:999999999}", "only a width can follow"),
        ("{prompt!r}", "only a width can follow"),
        ("{prompt", "in '{prompt'"),
        ("../{id}", "names a folder"),
        ("same", "has no field"),
    ],
)
def test_patterns_that_cannot_be_used(pattern, complaint):
    with pytest.raises(UserError, match=complaint):
        check_pattern(pattern)


def test_names_stay_when_a_grid_is_resumed_and_never_hide_another_picture(tmp_path):
    cells = cells_of(["a dog", "a cat"], (0, 1))
    gallery = Gallery(tmp_path)
    gallery.name_files(cells, "{prompt}")
    gallery.begin()
    for cell in cells[:3]:
        gallery.save(cell, plain_picture(cell.seed))
    resumed = Gallery(tmp_path)
    resumed.name_files(cells, "{prompt}")
    assert resumed.other_names() == 0
    assert resumed.missing(cells) == [cells[3]]
    resumed.save(cells[3], plain_picture(1))
    files = {line["file"] for line in Gallery(tmp_path).lines.values()}
    assert files == {f"images/{cell.prompt.replace(' ', '_')}-{cell.id}.png" for cell in cells}
    others = cells_of(["a bird"], (0,))
    renamed = Gallery(tmp_path)
    renamed.name_files([*cells, *others], "{seed}")
    assert renamed.other_names() == 4
    assert renamed.missing(cells) == []
    renamed.save(others[0], plain_picture(5))
    assert len(list((tmp_path / "images").iterdir())) == 5


def test_pictures_of_somebody_elses_are_not_replaced(tmp_path):
    cells = cells_of(["[a] dog"], (0,))
    (tmp_path / "images").mkdir()
    (tmp_path / "images/[a]_dog.png").write_bytes(b"mine")
    gallery = Gallery(tmp_path)
    gallery.name_files(cells)
    gallery.check_own()
    gallery.name_files(cells, "{prompt}")
    with pytest.raises(UserError, match=r"output: .* holds \[a\]_dog\.png, which this program has not written there"):
        gallery.check_own()
    gallery.define({**cells[0].parameters()})
    gallery.check_own()  # from now on the folder is the grid's


def test_the_text_of_other_programs_in_a_jpeg_is_no_text_of_ours(tmp_path):
    exif = Image.Exif()
    exif[ExifTags.Base.ImageDescription] = "a holiday"
    Image.new("RGB", (8, 8)).save(tmp_path / "a.jpg", exif=exif)
    with pytest.raises(UserError, match=r"cannot read the parameters in .*a\.jpg: its ImageDescription is damaged"):
        picture_files.read_text(tmp_path / "a.jpg")
