"""Pictures: files of every kind, what stands for a picture, sizes, arrays, text in PNG files."""

import struct
import zlib

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageFile

from dreamstyler_jax.runtime import files, images
from dreamstyler_jax.runtime.errors import UserError
from dreamstyler_jax.runtime.files import write_atomic

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def noise(height, width, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


def quarters():
    """2 x 3 pixels (h x w), each of another colour."""
    return Image.fromarray(np.arange(18, dtype=np.uint8).reshape(2, 3, 3) * 14)


# Reading files


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path, orientation):
    upright = np.asarray(quarters())
    undo = {1: lambda a: a, 2: np.fliplr, 3: lambda a: np.rot90(a, 2), 4: np.flipud}
    undo |= {5: lambda a: a.swapaxes(0, 1), 6: np.rot90, 7: lambda a: np.rot90(a, 2).swapaxes(0, 1)}
    undo |= {8: lambda a: np.rot90(a, -1)}
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(undo[orientation](upright)))
    stored.save(tmp_path / "a.png", exif=exif)
    loaded = images.load(tmp_path / "a.png")
    assert np.array_equal(np.asarray(loaded), upright)
    loaded.save(tmp_path / "b.png")
    assert np.array_equal(np.asarray(images.load(tmp_path / "b.png")), upright)


def test_a_damaged_exif_block_is_ignored(tmp_path):
    """As viewers do: the picture itself is whole."""
    picture = Image.new("RGB", (5, 3), "red")
    for suffix in ("png", "jpg", "webp"):
        picture.save(tmp_path / f"a.{suffix}", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
        assert images.load(tmp_path / f"a.{suffix}").size == (5, 3)
    picture.save(tmp_path / "b.png", exif=b"no block at all")
    assert images.load(tmp_path / "b.png").getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize(
    "start", [b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", b"\xd7\xcd\xc6\x9a" + bytes(40)]
)
def test_what_another_program_would_have_to_read_is_no_picture(tmp_path, start):
    """PostScript in any file would make Pillow start Ghostscript."""
    (tmp_path / "a.png").write_bytes(start)
    with pytest.raises(UserError, match=r"a\.png is not a picture"):
        images.load(tmp_path / "a.png")


def test_a_thumbnail_is_a_text_and_nothing_else_is_one():
    picture = Image.new("RGBA", (600, 200), (255, 0, 0, 0))
    small = images.from_thumbnail(images.to_thumbnail(picture))
    assert small is not None and small.size == (256, 85) and small.getpixel((9, 9)) == (255, 255, 255)
    assert [images.from_thumbnail(value) for value in (None, 5, "", "no base64!", "aGVsbG8=")] == [None] * 5


def test_transparency_is_on_white(tmp_path):
    picture = Image.new("RGBA", (2, 1), (255, 0, 0, 0))
    picture.putpixel((1, 0), (0, 0, 255, 128))
    picture.save(tmp_path / "rgba.png")
    assert np.asarray(images.load(tmp_path / "rgba.png")).tolist() == [[list(WHITE), [127, 127, 255]]]
    Image.new("LA", (1, 1), (0, 0)).save(tmp_path / "la.png")
    assert images.load(tmp_path / "la.png").getpixel((0, 0)) == WHITE
    palette = Image.new("P", (2, 1))
    palette.putpalette([*RED, *GREEN])
    palette.putpixel((1, 0), 1)
    palette.save(tmp_path / "p.png", transparency=0)
    assert np.asarray(images.load(tmp_path / "p.png")).tolist() == [[list(WHITE), list(GREEN)]]
    Image.new("RGB", (1, 1), RED).save(tmp_path / "key.png", transparency=RED)
    assert images.load(tmp_path / "key.png").getpixel((0, 0)) == WHITE


@pytest.mark.parametrize(
    ("mode", "colour", "expected"),
    [("L", 77, (77, 77, 77)), ("1", 1, WHITE), ("CMYK", (0, 255, 255, 0), RED), ("YCbCr", (76, 85, 255), RED)],
)
def test_modes(tmp_path, mode, colour, expected):
    Image.new(mode, (4, 4), colour).save(tmp_path / "a.tif")
    loaded = images.load(tmp_path / "a.tif")
    assert loaded.mode == "RGB" and np.abs(np.subtract(loaded.getpixel((1, 1)), expected)).max() <= 1


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
def test_sixteen_bits_are_scaled(tmp_path, suffix):
    values = np.array([[0, 257, 200 * 257, 65535]], np.uint16)
    Image.fromarray(values).save(tmp_path / f"a.{suffix}")
    assert np.asarray(images.load(tmp_path / f"a.{suffix}"))[0, :, 0].tolist() == [0, 1, 200, 255]


def test_first_frame_of_an_animation(tmp_path):
    frames = [Image.new("RGB", (4, 4), colour) for colour in (RED, GREEN)]
    for suffix in ("gif", "png", "webp"):
        frames[0].save(tmp_path / f"a.{suffix}", save_all=True, append_images=frames[1:])
        assert images.load(tmp_path / f"a.{suffix}").getpixel((0, 0))[0] > 200


def test_colour_profile_is_applied_and_dropped(tmp_path):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    swapped = profile.replace(b"rXYZ", b"????").replace(b"bXYZ", b"rXYZ").replace(b"????", b"bXYZ")
    Image.new("RGB", (4, 4), RED).save(tmp_path / "a.png", icc_profile=swapped)
    loaded = images.load(tmp_path / "a.png")
    assert np.abs(np.subtract(loaded.getpixel((0, 0)), BLUE)).max() <= 2 and "icc_profile" not in loaded.info
    Image.new("RGBA", (4, 4), (255, 0, 0, 0)).save(tmp_path / "b.png", icc_profile=swapped)
    assert images.load(tmp_path / "b.png").getpixel((0, 0)) == WHITE
    Image.new("RGB", (4, 4), RED).save(tmp_path / "c.png", icc_profile=b"nonsense")
    assert images.load(tmp_path / "c.png").getpixel((0, 0)) == RED


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "gif", "tif", "bmp"])
def test_truncated_files(tmp_path, suffix):
    noise(64, 64).save(tmp_path / f"a.{suffix}")
    data = (tmp_path / f"a.{suffix}").read_bytes()
    for share in (0, 0.01, 0.3, 0.6):
        (tmp_path / f"b.{suffix}").write_bytes(data[: int(share * len(data))])
        with pytest.raises(UserError, match=rf"b\.{suffix}"):
            images.load(tmp_path / f"b.{suffix}")


@pytest.mark.filterwarnings("ignore::UserWarning")
@settings(max_examples=150, deadline=None)
@given(suffix=st.sampled_from(["png", "jpg", "gif", "tif"]), damage=st.lists(st.tuples(st.floats(0, 1), st.binary())))
def test_a_damaged_file_loads_or_raises_an_error_that_names_it(tmp_path_factory, suffix, damage):
    folder = tmp_path_factory.mktemp("damaged")
    noise(16, 16).save(folder / f"a.{suffix}")
    data = bytearray((folder / f"a.{suffix}").read_bytes())
    for place, junk in damage:
        start = int(place * len(data))
        data[start : start + len(junk)] = junk
    (folder / f"a.{suffix}").write_bytes(data)
    try:
        assert images.load(folder / f"a.{suffix}").mode == "RGB"
    except UserError as error:
        assert f"a.{suffix}" in str(error) and "\n" not in str(error)


def test_missing_and_odd_files(tmp_path):
    with pytest.raises(UserError, match="there is no picture"):
        images.load(tmp_path / "none.png")
    with pytest.raises(UserError, match="is a folder: name the pictures in it"):
        images.load(tmp_path)
    (tmp_path / "text.png").write_text("hello")
    with pytest.raises(UserError, match="not a picture"):
        images.load(tmp_path / "text.png")
    Image.new("F", (4, 4)).save(tmp_path / "float.tif")
    with pytest.raises(UserError, match="floating-point"):
        images.load(tmp_path / "float.tif")


# Anything that holds a picture


def test_the_path_of_a_file_is_a_picture(tmp_path):
    noise(3, 5).save(tmp_path / "a.png")
    for path in (tmp_path / "a.png", str(tmp_path / "a.png")):
        assert np.array_equal(np.asarray(images.as_picture(path)), np.asarray(noise(3, 5)))
    with pytest.raises(UserError, match=r"there is no picture .*b\.png"):
        images.as_picture(tmp_path / "b.png")


def test_a_pil_image_becomes_rgb_and_stays_as_it_was(tmp_path):
    clear = Image.new("RGBA", (2, 1), (255, 0, 0, 0))
    picture = images.as_picture(clear)
    assert picture.mode == "RGB" and picture.getpixel((0, 0)) == WHITE
    assert clear.mode == "RGBA" and clear.getpixel((0, 0)) == (255, 0, 0, 0)
    original = noise(3, 5)
    images.as_picture(original).putpixel((0, 0), RED)
    assert np.array_equal(np.asarray(original), np.asarray(noise(3, 5)))
    noise(3, 5).save(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as opened:  # its pixels are not read yet
        assert np.array_equal(np.asarray(images.as_picture(opened)), np.asarray(noise(3, 5)))


def test_a_pil_image_that_holds_no_8_bit_picture_is_refused(tmp_path):
    with pytest.raises(UserError, match="floating-point"):
        images.as_picture(Image.new("F", (4, 4)))
    noise(64, 64).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes()[:1000])
    with Image.open(tmp_path / "b.png") as cut_short, pytest.raises(UserError, match="cannot read the picture"):
        images.as_picture(cut_short)


def test_an_array_of_bytes_is_a_picture():
    array = np.asarray(noise(3, 5))
    picture = images.as_picture(array)
    assert picture.mode == "RGB" and np.array_equal(np.asarray(picture), array)
    assert np.array_equal(np.asarray(images.as_picture(jnp.asarray(array))), array)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, jnp.bfloat16])
def test_an_array_of_numbers_from_0_to_1_is_a_picture(dtype):
    levels = np.array([0, 1, 127, 128, 254, 255, 0, 0, 0], np.uint8).reshape(1, 3, 3)
    if dtype == jnp.bfloat16:  # too coarse for all 256 levels
        levels = np.where(levels > 127, 255, 0).astype(np.uint8)
    array = jnp.asarray(levels / 255, dtype) if dtype == jnp.bfloat16 else (levels / 255).astype(dtype)
    assert np.array_equal(np.asarray(images.as_picture(array)), levels)


def test_rounding_errors_beyond_0_and_1_are_allowed():
    array = np.float32([[[-1e-6, 1 + 1e-6, 0.5]]])
    assert images.as_picture(array).getpixel((0, 0)) == (0, 255, 128)


@pytest.mark.parametrize("value", [-1.0, -0.01, 1.01, 255.0, np.nan, np.inf])
def test_numbers_outside_of_0_to_1_are_refused(value):
    array = np.full((2, 2, 3), 0.5)
    array[1, 0, 2] = value
    with pytest.raises(UserError, match="from 0 to 1"):
        images.as_picture(array)


@pytest.mark.parametrize("shape", [(4, 4), (4, 4, 1), (4, 4, 4), (1, 4, 4, 3), (3,), (0, 4, 3)])
def test_arrays_of_other_shapes_are_refused(shape):
    with pytest.raises(UserError, match=r"\[height, width, 3\], not \[" + ", ".join(map(str, shape))):
        images.as_picture(np.zeros(shape, np.uint8))


@pytest.mark.parametrize("dtype", [np.int64, np.uint16, bool, complex])
def test_arrays_of_other_types_are_refused(dtype):
    with pytest.raises(UserError, match=f"not of {np.dtype(dtype)}"):
        images.as_picture(np.zeros((2, 2, 3), dtype))


@pytest.mark.parametrize("value", [None, 3, [[[0, 0, 0]]], b"bytes"])
def test_anything_else_is_no_picture(value):
    with pytest.raises(UserError, match=f"not {type(value).__name__}"):
        images.as_picture(value)


# Large pictures


@pytest.mark.parametrize("limit", [Image.MAX_IMAGE_PIXELS, None])
def test_decompression_bombs_are_refused_before_decoding(tmp_path, monkeypatch, limit):
    Image.new("1", (1, 1)).save(tmp_path / "a.png")
    data = bytearray((tmp_path / "a.png").read_bytes())
    data[16:24] = struct.pack(">II", 200_000, 200_000)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    (tmp_path / "a.png").write_bytes(data)
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("decoded"))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with pytest.raises(UserError, match="larger than 178 megapixels"):
        images.load(tmp_path / "a.png")


@pytest.mark.filterwarnings("error")
def test_large_pictures_load_without_a_warning(tmp_path, monkeypatch):
    noise(8, 8).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40)
    assert images.load(tmp_path / "a.png").size == (8, 8)


# Sizes


def test_crop_takes_the_centre():
    strip = np.zeros((10, 30, 3), np.uint8)
    strip[:, 10:20] = GREEN
    cropped = images.fit(Image.fromarray(strip), 10, 10)
    assert np.array_equal(np.asarray(cropped), np.broadcast_to(np.uint8(GREEN), (10, 10, 3)))
    tall = images.fit(Image.fromarray(strip.swapaxes(0, 1).copy()), 20, 20)
    assert tall.size == (20, 20) and np.asarray(tall)[5:15, 5:15].reshape(-1, 3).tolist() == [list(GREEN)] * 100


@settings(max_examples=60, deadline=None)
@given(
    size=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    target=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    mode=st.sampled_from(["crop", "fit"]),
)
def test_fit_gives_the_size_asked_for(size, target, mode):
    assert images.fit(noise(*size), *target, mode).size == target[::-1]


def test_fit_never_stretches():
    disc = np.hypot(*np.mgrid[-60:60, -80:80]) < 15
    picture = Image.fromarray(np.where(disc[..., None], 255, 0).astype(np.uint8).repeat(3, 2))
    for mode in ("crop", "fit"):
        for height, width in ((64, 64), (64, 96), (200, 80)):
            seen = np.asarray(images.fit(picture, height, width, mode))[..., 0] > 127
            tall, wide = np.ptp(np.nonzero(seen)[0]) + 1, np.ptp(np.nonzero(seen)[1]) + 1
            assert abs(tall - wide) <= 2, (mode, height, width)


def test_mat_has_the_colour_of_the_edges():
    picture = np.zeros((20, 10, 3), np.uint8)
    picture[:, 0], picture[:, -1] = (100, 0, 200), (200, 0, 100)
    matted = np.asarray(images.fit(Image.fromarray(picture), 20, 30, "fit"))
    assert np.array_equal(matted[:, 10:20], picture)
    assert (matted[:, :10] == (150, 0, 150)).all() and (matted[:, 20:] == (150, 0, 150)).all()
    lying = np.asarray(images.fit(Image.fromarray(picture.swapaxes(0, 1).copy()), 30, 20, "fit"))
    assert np.array_equal(lying, matted.swapaxes(0, 1))


def test_fit_refuses_other_modes_and_empty_sizes():
    with pytest.raises(UserError, match='"crop" or "fit"'):
        images.fit(noise(4, 4), 4, 4, "stretch")
    with pytest.raises(UserError, match="0 x 4"):
        images.fit(noise(4, 4), 4, 0)


# Arrays and files


def test_array_round_trip_is_exact():
    picture = Image.fromarray(np.arange(768, dtype=np.uint16).astype(np.uint8).reshape(16, 16, 3))
    array = images.to_array(picture)
    assert array.dtype == np.float32 and array.shape == (16, 16, 3) and (array.min(), array.max()) == (-1, 1)
    assert np.array_equal(np.asarray(images.to_image(array)), np.asarray(picture))
    assert images.to_image(np.full((1, 1, 3), 7.0)).getpixel((0, 0)) == WHITE
    assert images.to_image(np.full((1, 1, 3), 0.3 / 127.5)).getpixel((0, 0)) == (128, 128, 128)
    assert images.to_array(Image.new("L", (2, 2))).shape == (2, 2, 3)


def test_to_image_refuses_other_shapes_and_nan():
    with pytest.raises(FloatingPointError, match="NaN"):
        images.to_image(np.full((2, 2, 3), np.nan))
    with pytest.raises(ValueError, match=r"\[1, 2, 2, 3\]"):
        images.to_image(np.zeros((1, 2, 2, 3)))


@settings(max_examples=100, deadline=None)
@given(text=st.dictionaries(st.text("abcdefgh_ é", min_size=1, max_size=79).map(str.strip).filter(bool), st.text()))
def test_png_text_round_trip(tmp_path_factory, text):
    path = tmp_path_factory.mktemp("png") / "new" / "a.png"
    picture = noise(3, 5)
    images.save_png(path, picture, text)
    assert images.read_text(path) == text
    assert np.array_equal(np.asarray(images.load(path)), np.asarray(picture))


def test_png_text_of_undecodable_prompts_and_other_files(tmp_path):
    images.save_png(tmp_path / "a.png", noise(2, 2), {"prompt": "a \udc80 b"})
    assert images.read_text(tmp_path / "a.png") == {"prompt": "a ? b"}
    images.save_png(tmp_path / "b.png", noise(2, 2))
    assert images.read_text(tmp_path / "b.png") == {}
    noise(2, 2).save(tmp_path / "a.jpg")
    with pytest.raises(UserError, match="as a PNG"):
        images.read_text(tmp_path / "a.jpg")
    with pytest.raises(UserError, match="there is no picture"):
        images.read_text(tmp_path / "none.png")


def test_write_atomic_keeps_the_old_content_on_failure(tmp_path, monkeypatch):
    path = tmp_path / "deep" / "file"
    write_atomic(path, b"old")
    assert path.read_bytes() == b"old"

    def fail(*_):
        raise OSError("no space left")

    for name in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(files.os, name, fail)
            with pytest.raises(OSError, match="no space"):
                write_atomic(path, b"new")
        assert path.read_bytes() == b"old" and [p.name for p in path.parent.iterdir()] == ["file"]
    write_atomic(path, b"new")
    assert path.read_bytes() == b"new"
