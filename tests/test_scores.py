"""The formulas of the scores, for features, matrices and pictures whose scores are known."""

import math

import numpy as np
import pytest
from noise_pictures import noise_pictures

from dreamstyler_jax.evaluation import scores
from dreamstyler_jax.evaluation.scores import Grams, cosine_score, leakage_score
from dreamstyler_jax.runtime.errors import UserError

# Scores of features


def test_cosine_scores_go_from_0_to_100():
    a = np.array([[1, 0], [1, 0], [1, 0], [0.6, 0.8]], np.float32)
    b = np.array([[1, 0], [0, 1], [-1, 0], [1, 0]], np.float32)
    np.testing.assert_allclose(cosine_score(a, b), [100, 0, 0, 60])


def test_leakage_is_clips_probability_of_the_training_prompt():
    prompt, training = np.array([[1, 0]], np.float32), np.array([[0, 1]], np.float32)
    picture = np.array([[0.8, 0.6]], np.float32)
    assert leakage_score(picture, prompt, training, 5.0) == pytest.approx(100 / (1 + math.exp(5 * (0.8 - 0.6))))
    assert leakage_score(picture, training, prompt, 5.0) == pytest.approx(100 / (1 + math.exp(5 * (0.6 - 0.8))))
    assert leakage_score(picture, prompt, prompt, 100.0) == pytest.approx(50)
    extremes = [leakage_score(x, prompt, training, 1e4).item() for x in (prompt, training)]
    assert extremes == pytest.approx([0, 100], abs=1e-6)


# Gram matrices


def style_of_pictures(model, a, b):
    return scores.style_score(scores.grams(model, a), scores.grams(model, b))


def test_a_picture_has_its_own_style(tiny):
    pictures = noise_pictures(4)
    np.testing.assert_allclose(style_of_pictures(tiny, pictures, pictures), 100, atol=1e-4)
    others = style_of_pictures(tiny, pictures, pictures[::-1])
    assert ((others > 0) & (others < 99)).all()
    np.testing.assert_allclose(others, style_of_pictures(tiny, pictures[::-1], pictures))


def test_style_scores_do_not_depend_on_the_rest_of_the_batch(tiny):
    pictures, order = noise_pictures(37), np.random.default_rng(1).permutation(37)
    together = style_of_pictures(tiny, pictures, pictures[::-1])
    shuffled = style_of_pictures(tiny, pictures[order], pictures[::-1][order])
    np.testing.assert_allclose(shuffled, together[order], atol=1e-2)
    np.testing.assert_allclose(style_of_pictures(tiny, pictures[35:36], pictures[1:2]), together[35:36], atol=1e-2)


def test_the_size_of_batches_does_not_change_gram_matrices(tiny):
    pictures = noise_pictures(3, 24, 16)
    together = scores.grams(tiny, pictures).levels
    one_by_one = scores.grams(tiny, pictures, max_patch_pixels=scores.PATCHES * 8 * 8).levels
    for a, b in zip(one_by_one, together, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_batches_of_large_pictures_are_small():
    assert [scores.pictures_per_batch(side) for side in (32, 64, 224, 1024)] == [32, 32, 4, 1]
    assert scores.pictures_per_batch(8, max_patch_pixels=3 * 5 * 8 * 8) == 3


def test_style_scores_of_known_matrices():
    def of(*matrices):
        return Grams((np.tile(np.array(matrices, np.float32)[:, None], (1, 5, 1, 1)),))

    one, half, other = np.diag([1, 0]), np.diag([0.5, 0]), np.diag([0, 1])
    result = scores.style_score(of(one, half, one, one), of(one, one, other, 1e6 * one))
    np.testing.assert_allclose(result, [100, 100 * 2 / 3, 100 * (1 - 2**-0.5), 0], atol=1e-3)


def test_all_levels_and_patches_have_the_same_weight():
    def of(*sizes):
        return Grams(tuple(np.full((1, 5, 1, 1), size, np.float32) for size in sizes))

    assert scores.style_score(of(1, 1), of(1, 3)) == pytest.approx([75])
    patches = of(1).levels[0].copy()
    patches[0, 4] = 3
    assert scores.style_score(of(1), Grams((patches,))) == pytest.approx([90])


def test_patches_are_the_four_corners_and_the_centre(tiny):
    """A pixel of a wide picture changes the Gram matrices of the patch that it is in, and no others."""
    picture = noise_pictures(1, 32, 48)[0]
    corners = [(0, 0), (0, 47), (31, 0), (31, 47)]
    changed = [picture.copy() for _ in range(6)]
    for row, (y, x) in zip(changed, [*corners, (15, 23), (0, 23)], strict=True):
        row[y, x] = 1 - row[y, x]
    levels = scores.grams(tiny, np.stack([picture, *changed])).levels
    assert [level.shape for level in levels] == [(7, 5, 8, 8), (7, 5, 8, 8)]
    differs = np.abs(levels[0][1:] - levels[0][0]).max((-1, -2)) > 1e-4
    np.testing.assert_array_equal(differs, np.eye(6, 5, dtype=bool))


def test_pictures_can_be_as_small_as_one_latent(tiny):
    for size in ((2, 2), (3, 5), (7, 9)):
        small = noise_pictures(2, *size)
        np.testing.assert_allclose(style_of_pictures(tiny, small, small), 100, atol=1e-3)
    with pytest.raises(UserError, match="5 x 1 pixels are too small for this model, which needs at least 2 x 2"):
        scores.grams(tiny, noise_pictures(1, 1, 5))


# Structure


def test_structure_depends_on_outlines_but_not_on_colours_or_strokes():
    y, x = np.mgrid[:80, :120]
    disc = ((x - 40) ** 2 + (y - 40) ** 2 < 20**2).astype(float)[..., None] * np.ones(3)
    moved, strokes = np.roll(disc, 45, 1), 0.2 * np.random.default_rng(0).standard_normal(disc.shape)
    versions = np.stack([disc, -disc, 0.3 * disc + 0.5, disc + strokes, moved, np.zeros_like(disc)])
    same, negative, pale, painted, elsewhere, empty = scores.structure_score(versions, np.stack([disc] * 6))
    np.testing.assert_allclose([same, negative, pale], 100)
    assert 90 < painted < 99.9 and elsewhere < 5 and empty == 0
