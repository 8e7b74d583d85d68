"""Squares of pictures: their middle, all of them or crops of them, and how much of each counts."""

import itertools
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from dreamstyler_jax import framing
from dreamstyler_jax.runtime import images
from dreamstyler_jax.runtime.errors import UserError

SIDE = 16


def picture(width, height, visible=None):
    pixels = np.random.default_rng(width).integers(0, 256, (height, width, 3), np.uint8)
    image = Image.fromarray(pixels)
    if visible is not None:
        image.putalpha(Image.fromarray(visible.astype(np.uint8) * 255))
    return image


def squares_of(image, mode, seed=0):
    (squares,) = framing.squares_of({"a.png": image}, SIDE, mode, seed)
    return squares


@pytest.mark.parametrize("mode", ["crop", "fit"])
def test_without_a_mask_there_is_one_square_of_which_everything_counts(mode):
    oblong = picture(40, 24)
    squares = squares_of(oblong, mode)
    np.testing.assert_array_equal(squares.pixels, images.to_array(images.fit(oblong, SIDE, SIDE, mode))[None])
    assert squares.counted is None and squares.share == 1


def test_of_a_masked_picture_the_visible_part_of_the_square_counts():
    visible = np.random.default_rng(0).random((32, 48)) < 0.5
    squares = squares_of(picture(48, 32, visible), "crop")
    middle = visible[:, 8:40].reshape(16, 2, 16, 2).mean((1, 3))
    np.testing.assert_allclose(squares.counted[0], middle, atol=1 / 255)
    assert squares.share == visible.mean()


def test_the_border_of_a_masked_picture_does_not_count():
    visible = np.ones((8, 16), bool)
    visible[:, 4:8] = False
    squares = squares_of(picture(16, 8, visible), "fit")
    expected = np.zeros((SIDE, SIDE))
    expected[4:12] = visible
    np.testing.assert_array_equal(squares.counted[0], expected)


@given(st.integers(1, 60), st.integers(1, 60), st.floats(0, 1), st.integers(0, 9))
def test_crops_lie_in_the_picture_and_cover_it(width, height, share, seed):
    shorter = min(width, height)
    smallest = max(1, round(share * shorter))
    boxes, again = (
        list(itertools.islice(framing.crop_boxes(width, height, smallest, np.random.default_rng(seed)), 80))
        for _ in range(2)
    )
    assert boxes == again
    for left, top, right, bottom in boxes:
        assert 0 <= left < right <= width and 0 <= top < bottom <= height
        assert right - left == bottom - top and smallest <= right - left <= shorter
    seen = np.zeros((height, width), bool)
    for left, top, right, bottom in boxes[: -(-max(width, height) // shorter)]:
        seen[top:bottom, left:right] = True
    assert seen.all(), "the squares over the whole shorter side show everything"


def test_random_crops_are_of_several_sizes_and_places():
    boxes = framing.crop_boxes(300, 100, 50, np.random.default_rng(0))
    left, top, right, _ = np.array(list(itertools.islice(boxes, 3, 403))).T
    sizes, counts = np.unique(right - left, return_counts=True)
    assert (sizes.min(), sizes.max()) == (50, 100) and len(sizes) == 51 and counts.max() < 25
    assert top.max() > 30 and left.min() < 5 and right.max() > 295


def test_crops_are_the_same_for_the_same_seed_and_others_for_another():
    first, again, other = (squares_of(picture(60, 40), "random", seed).pixels for seed in (1, 1, 2))
    assert first.shape == (framing.CROPS, SIDE, SIDE, 3)
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(first[:2], other[:2])  # the squares that cover the picture
    assert all(np.abs(a - b).max() > 0.1 for a, b in zip(first[2:], other[2:], strict=True))


def test_every_picture_has_as_many_crops_as_the_longest_needs():
    scroll, other = framing.squares_of({"a": picture(400, 20), "b": picture(30, 20)}, SIDE, "random", 0)
    assert len(scroll.pixels) == len(other.pixels) == 2 * 20


@pytest.mark.parametrize(("shorter", "smallest"), [(100, 50), (20, 11), (12, 11)])
def test_crops_are_at_least_half_the_picture_and_hardly_enlarged(shorter, smallest, monkeypatch):
    asked = []
    crop_boxes = framing.crop_boxes
    monkeypatch.setattr(framing, "crop_boxes", lambda *given: asked.append(given) or crop_boxes(*given))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        squares_of(picture(shorter + 10, shorter), "random")
    assert asked[0][:3] == (shorter + 10, shorter, smallest)


def test_a_picture_that_is_too_small_for_crops_says_so():
    with pytest.warns(UserWarning, match=r"a\.png has only 20 x 10 pixels: its crops for 16 x 16 all take"):
        squares = squares_of(picture(20, 10), "random")
    assert len(squares.pixels) == framing.CROPS


def test_in_every_crop_of_a_masked_picture_enough_counts():
    visible = np.zeros((60, 90), bool)
    visible[:30, :40] = True
    squares = squares_of(picture(90, 60, visible), "random")
    assert squares.counted.shape == (framing.CROPS, SIDE, SIDE)
    assert squares.counted.mean((1, 2)).min() >= framing.MIN_COUNTED
    assert squares.share == pytest.approx(1200 / 5400)


@pytest.mark.parametrize("mode", ["crop", "fit", "random"])
def test_a_mask_that_leaves_almost_nothing_is_refused(mode):
    visible = np.zeros((40, 40), bool)
    visible[0, :9] = True
    with pytest.raises(UserError, match=r"a\.png: its mask leaves 0\.\d % of what is to be learned from; white counts"):
        squares_of(picture(40, 40, visible), mode)


@given(arrays.arrays(np.float32, (2, 6, 8), elements=st.sampled_from([0, 0.25, 1])))
def test_latents_count_by_the_area_of_their_pixels_that_count(counted):
    counted[:, 0, 0] = 1
    weights = framing.latent_weights(counted, 3, 4)
    assert weights.dtype == np.float32
    np.testing.assert_allclose(weights.mean((1, 2)), 1, rtol=1e-6)
    for square, row, column in np.ndindex(2, 3, 4):
        pixels = counted[square, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
        assert weights[square, row, column] == pytest.approx(pixels.mean() / counted[square].mean(), rel=1e-5)
