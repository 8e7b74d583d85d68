"""Masks of pictures: where they are from, and that nothing is left of what they hide."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from dreamstyler_jax.runtime import images, masks
from dreamstyler_jax.runtime.errors import UserError

PIXELS = np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8)
LEFT_HALF = np.arange(6) < np.full((4, 1), 3)
UPPER_HALF = np.arange(4)[:, None] < np.full(6, 2)


def grey(visible):
    return Image.fromarray(visible.astype(np.uint8) * 255)


def masked(pixels, visible):
    picture = Image.fromarray(pixels)
    picture.putalpha(grey(visible))
    return picture


def test_a_picture_without_a_mask_is_as_ever(tmp_path):
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    opaque = masked(PIXELS, np.ones((4, 6)))
    opaque.save(tmp_path / "opaque.png")
    for given_picture in (tmp_path / "a.png", tmp_path / "opaque.png", opaque, PIXELS):
        picture = masks.as_masked_picture(given_picture)
        assert picture.mode == "RGB"
        np.testing.assert_array_equal(picture, images.as_picture(given_picture))
        assert masks.visible(picture).all()
        np.testing.assert_array_equal(masks.fill(picture), PIXELS)


def test_the_mask_is_the_transparency_or_a_file_or_both(tmp_path):
    masked(PIXELS, LEFT_HALF).save(tmp_path / "transparent.png")
    for name, picture in (("file.jpg", Image.fromarray(PIXELS)), ("both.png", masked(PIXELS, LEFT_HALF))):
        picture.save(tmp_path / name)
        grey(UPPER_HALF).save((tmp_path / name).with_suffix(".mask.png"))
    expected = {"transparent.png": LEFT_HALF, "file.jpg": UPPER_HALF, "both.png": LEFT_HALF & UPPER_HALF}
    for name, visible in expected.items():
        np.testing.assert_array_equal(masks.visible(masks.as_masked_picture(str(tmp_path / name))), visible)
    np.testing.assert_array_equal(masks.visible(masks.as_masked_picture(masked(PIXELS, LEFT_HALF))), LEFT_HALF)


def test_half_transparent_pixels_count_in_their_own_colour(tmp_path):
    Image.fromarray(np.uint8([[[9, 8, 7, 127], [9, 8, 7, 128], [1, 2, 3, 255]]])).save(tmp_path / "a.png")
    picture = masks.as_masked_picture(tmp_path / "a.png")
    assert masks.visible(picture).tolist() == [[False, True, True]]
    assert np.asarray(masks.fill(picture)).tolist() == [[[9, 8, 7], [9, 8, 7], [1, 2, 3]]]


def test_masks_that_cannot_be_used_are_refused(tmp_path):
    Image.fromarray(PIXELS).save(tmp_path / "a.jpg")
    grey(LEFT_HALF[:, :5]).save(tmp_path / "a.mask.png")
    with pytest.raises(UserError, match=r"a\.mask\.png has 5 x 4 pixels, and .*a\.jpg has 6 x 4: a mask has the size"):
        masks.as_masked_picture(tmp_path / "a.jpg")
    with pytest.raises(UserError, match=r"a\.mask\.png is by its name the mask of a picture: give the picture"):
        masks.as_masked_picture(tmp_path / "a.mask.png")
    (tmp_path / "a.mask.png").write_text("no picture")
    with pytest.raises(UserError, match=r"a\.mask\.png is not a picture"):
        masks.as_masked_picture(tmp_path / "a.jpg")
    with pytest.raises(UserError, match="its mask hides all of it"):
        masks.fill(masked(PIXELS, np.zeros((4, 6))))


@given(arrays.arrays(bool, (5, 7)).filter(np.any), st.integers(0, 99))
def test_a_hidden_pixel_has_the_colour_of_the_nearest_visible_one(visible, seed):
    pixels, others = np.random.default_rng(seed).integers(0, 256, (2, 5, 7, 3), np.uint8)
    filled = np.asarray(masks.fill(masked(pixels, visible)))
    np.testing.assert_array_equal(masks.fill(masked(np.where(visible[..., None], pixels, others), visible)), filled)
    np.testing.assert_array_equal(filled[visible], pixels[visible])
    places = np.argwhere(visible)
    for place in np.argwhere(~visible):
        distance = ((places - place) ** 2).sum(1)
        nearest = [pixels[tuple(near)].tolist() for near in places[distance == distance.min()]]
        assert filled[tuple(place)].tolist() in nearest
