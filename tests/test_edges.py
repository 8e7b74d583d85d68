"""Canny's edges, equal to OpenCV's in every bit."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dreamstyler_jax.edges import canny

ROOT = Path(__file__).resolve().parents[1]
PICTURES = ["examples/city.png", "examples/my_cat.png", "dreamstyler_jax/mini/examples/example.png"]

sizes = st.tuples(st.integers(1, 40), st.integers(1, 40))
thin_sizes = st.tuples(st.integers(1, 2), st.integers(1, 80)).flatmap(st.permutations).map(tuple)
seeds = st.integers(0, 2**32 - 1)


def assert_same_as_opencv(picture, low=100, high=200):
    ours = canny(picture, low, high)
    assert ours.dtype == np.uint8
    np.testing.assert_array_equal(ours, cv2.Canny(picture, low, high))


@pytest.mark.parametrize("shrink", [1, 3])
@pytest.mark.parametrize("path", PICTURES)
def test_pictures(path, shrink):
    picture = np.ascontiguousarray(np.asarray(Image.open(ROOT / path).convert("RGB"))[::shrink, ::shrink])
    assert 0 < canny(picture).mean() < 128
    assert_same_as_opencv(picture)


@settings(max_examples=300)
@given(sizes | thin_sizes, seeds, st.integers(2, 256))
def test_noise(size, seed, levels):
    """Few levels give many equal magnitudes, of which only one may be an edge."""
    noise = np.random.default_rng(seed).integers(0, levels, (*size, 3)) * (255 // (levels - 1))
    assert_same_as_opencv(noise.astype(np.uint8))


@settings(max_examples=300)
@given(sizes | thin_sizes, seeds, st.integers(1, 255))
def test_grey_noise(size, seed, top):
    """Equal channels: every pixel has three largest gradients."""
    noise = np.random.default_rng(seed).integers(0, top + 1, (*size, 1), np.uint8)
    assert_same_as_opencv(np.repeat(noise, 3, axis=2))


@settings(max_examples=300)
@given(sizes | thin_sizes, st.tuples(*[st.integers(-60, 60)] * 6))
def test_gradients(size, slopes):
    """Ramps that wrap around at 255: straight edges in all directions."""
    y, x = np.mgrid[: size[0], : size[1]]
    channels = [y * down + x * right for down, right in zip(slopes[:3], slopes[3:], strict=True)]
    assert_same_as_opencv(np.stack(channels, axis=2).astype(np.uint8))


@settings(max_examples=300)
@given(sizes, seeds, st.integers(2, 9), st.integers(0, 30))
def test_patches(size, seed, side, noise):
    """Flat patches with a little noise: corners, and weak edges that hang on strong ones."""
    rng = np.random.default_rng(seed)
    colours = rng.integers(0, 200, (size[0] // side + 1, size[1] // side + 1, 3))
    patches = colours.repeat(side, 0).repeat(side, 1)[: size[0], : size[1]]
    assert_same_as_opencv((patches + rng.integers(0, noise + 1, patches.shape)).astype(np.uint8))


@settings(max_examples=100)
@given(sizes, seeds, st.integers(0, 600), st.integers(0, 600))
def test_thresholds(size, seed, low, more):
    assert_same_as_opencv(np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8), low, low + more)


def test_a_large_picture():
    """Large enough for OpenCV to cut it into strips for its threads; an edge may cross all of them."""
    rng = np.random.default_rng(0)
    patches = rng.integers(0, 256, (32, 32, 3)).repeat(32, 0).repeat(32, 1) // 2
    assert_same_as_opencv((patches + rng.integers(0, 30, patches.shape)).astype(np.uint8))
