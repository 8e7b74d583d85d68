"""The scores: what they are of pictures and texts that say what must come out."""

import json
import math
import shutil

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from tiny_clip import PREPROCESSING, write_tiny_clip

from dreamstyler_jax.evaluation import scores
from dreamstyler_jax.evaluation.scores import Clip, Estimate, Grams, Preprocessor, cosine_score, estimate, leakage_score
from dreamstyler_jax.runtime import images
from dreamstyler_jax.runtime.errors import UserError

TEXTS = ["a red house", "a small dog by the sea", "a drawing of mountains", "a painting"]


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    return write_tiny_clip(tmp_path_factory.mktemp("models") / "clip")


@pytest.fixture(scope="module")
def clip(clip_folder):
    return Clip.load(clip_folder)


def pictures(count, height=16, width=16, seed=0):
    """Coloured noise around colours that differ from picture to picture, in [-1, 1]."""
    rng = np.random.default_rng(seed)
    colours = rng.uniform(-0.7, 0.7, (count, 1, 1, 3))
    return (colours + rng.uniform(-0.3, 0.3, (count, height, width, 3))).astype(np.float32)


# CLIP


def test_features_are_of_unit_length_and_tell_pictures_and_texts_apart(clip):
    for features in (clip.pictures(pictures(4)), clip.texts(TEXTS)):
        assert features.dtype == np.float32
        cosines = features @ features.T
        np.testing.assert_allclose(np.diag(cosines), 1, atol=1e-5)
        assert (cosines[~np.eye(4, dtype=bool)] < 0.999).all()


def test_features_depend_on_neither_order_nor_company(clip):
    order = np.random.default_rng(1).permutation(37)
    many, texts = pictures(37), [f"{TEXTS[i % 4]} {i}" for i in range(37)]
    np.testing.assert_allclose(clip.pictures(many)[order], clip.pictures(many[order]), atol=1e-5)
    np.testing.assert_allclose(clip.pictures(many)[35:36], clip.pictures(many[35:36]), atol=1e-5)
    np.testing.assert_allclose(clip.texts(texts)[order], clip.texts([texts[i] for i in order]), atol=1e-5)
    np.testing.assert_allclose(clip.texts(texts)[35:36], clip.texts(texts[35:36]), atol=1e-5)


def test_pictures_of_all_sizes_go_together(clip):
    several = [pictures(1, *size)[0] for size in ((16, 16), (40, 23), (9, 31))]
    together = clip.pictures(several)
    for one, features in zip(several, together, strict=True):
        np.testing.assert_allclose(clip.pictures(one[None])[0], features, atol=1e-5)


def test_a_text_beyond_the_window_is_cut(clip):
    long = "red " * 40
    np.testing.assert_allclose(clip.texts([long]), clip.texts([long + "house by the sea"]), atol=1e-6)


def test_the_scale_of_logits_is_the_models(clip):
    assert clip.scale == pytest.approx(math.exp(float(clip.params["logit_scale"])))


@pytest.mark.parametrize("statistic", ["image_mean", "image_std"])
@pytest.mark.parametrize("file", ["preprocessor_config.json", "processor_config.json"])
def test_the_folders_own_statistics_count_in_either_file(file, statistic, clip, clip_folder, tmp_path):
    folder = tmp_path / "clip"
    shutil.copytree(clip_folder, folder)
    (folder / "preprocessor_config.json").unlink()
    content = {**PREPROCESSING, statistic: [0.1, 0.9, 0.4]}
    (folder / file).write_text(json.dumps({"image_processor": content} if file.startswith("processor") else content))
    other = Clip.load(folder)
    assert cosine_score(other.pictures(pictures(1)), clip.pictures(pictures(1)))[0] < 99.9


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors", "vocab.json", "preprocessor_config.json"])
def test_a_folder_that_lacks_a_file_is_refused(missing, clip_folder, tmp_path):
    shutil.copytree(clip_folder, tmp_path / "clip")
    (tmp_path / "clip" / missing).unlink()
    with pytest.raises(UserError, match="clip"):
        Clip.load(tmp_path / "clip")


def test_a_tokenizer_of_another_model_is_refused(clip_folder, tmp_path):
    shutil.copytree(clip_folder, tmp_path / "clip")
    settings = tmp_path / "clip" / "tokenizer_config.json"
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "model_max_length": 77}))
    with pytest.raises(UserError, match=r"77 positions .* more than the 24"):
        Clip.load(tmp_path / "clip")


# What CLIP is shown


def test_a_picture_of_the_networks_size_is_shown_as_it_is():
    picture = pictures(1)[0] * 1.5
    np.testing.assert_array_equal(Preprocessor(16, 16)(picture), np.clip(picture, -1, 1))


def test_an_oblong_picture_loses_its_ends_and_is_not_stretched():
    wide = np.full((30, 90, 3), -1, np.float32)
    wide[:, 30:60, 1] = 1  # a green square in the middle
    for picture in (wide, wide.swapaxes(0, 1)):
        shown = Preprocessor(10, 10)(picture)
        assert shown.shape == (10, 10, 3)
        assert (shown[1:-1, 1:-1, 1] > 0.95).all() and (shown[..., [0, 2]] == -1).all()
    np.testing.assert_array_equal(Preprocessor(10, 4)(wide), np.float32([-1, 1, -1]) * np.ones((4, 4, 1)))


def test_reducing_a_picture_averages_its_detail():
    fine = np.where(np.indices((64, 64)).sum(0) % 2, 1, -1)[..., None] * np.ones(3, np.float32)
    assert np.abs(Preprocessor(16, 16)(fine)).max() < 0.05


def test_the_filter_is_the_one_asked_for():
    picture = pictures(1, 40, 40)[0]
    nearest = Preprocessor(16, 16, Image.Resampling.NEAREST)(picture)
    np.testing.assert_array_equal(nearest, images.to_array(images.to_image(picture).resize((16, 16), 0)))
    assert np.abs(nearest - Preprocessor(16, 16)(picture)).max() > 0.1


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ({"crop_size": {"height": 8, "width": 16}}, "16 x 16 pixels by resizing and cropping"),
        ({"size": {"shortest_edge": 8}}, "16 x 16 pixels"),
        ({"size": {"height": 16, "width": 16}}, "16 x 16 pixels"),
        ({"do_normalize": False}, "16 x 16 pixels"),
        ({"image_mean": 3}, "not the preprocessing of a CLIP, or damaged"),
        ({"resample": 77}, "not the preprocessing of a CLIP, or damaged"),
        ([], "not the preprocessing of a CLIP, or damaged"),
    ],
)
def test_another_preprocessing_than_clips_is_refused(content, complaint, tmp_path):
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=complaint):
        Preprocessor.load(tmp_path, 16)


def test_sizes_may_be_written_as_numbers_or_left_out(tmp_path):
    for content, shortest in (({"size": 20, "crop_size": 16}, 20), ({}, 16)):
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(content))
        assert Preprocessor.load(tmp_path, 16) == Preprocessor(shortest, 16)


# Batches


@pytest.mark.parametrize(("rows", "most", "shapes"), [(1, 32, [1]), (5, 32, [8]), (70, 32, [32] * 3), (5, 3, [3, 3])])
def test_batches_have_one_shape_and_cover_every_row_in_order(rows, most, shapes):
    seen = []

    def function(batch):
        seen.append(len(batch))
        return jnp.asarray(batch) * 2, jnp.asarray(batch).sum(-1)

    values = np.random.default_rng(0).standard_normal((rows, 3), np.float32)
    doubled, sums = scores.in_batches(function, values, most)
    assert seen == shapes
    np.testing.assert_array_equal(doubled, values * 2)
    np.testing.assert_allclose(sums, values.sum(-1), rtol=1e-5, atol=1e-6)


# Scores of features


def test_cosine_scores_go_from_0_to_100():
    a = np.float32([[1, 0], [1, 0], [1, 0], [0.6, 0.8]])
    b = np.float32([[1, 0], [0, 1], [-1, 0], [1, 0]])
    np.testing.assert_allclose(cosine_score(a, b), [100, 0, 0, 60])


def test_leakage_is_clips_probability_of_the_training_prompt():
    own, training = np.float32([[1, 0]]), np.float32([[0, 1]])
    picture = np.float32([[0.8, 0.6]])
    assert leakage_score(picture, own, training, 5.0) == pytest.approx(100 / (1 + math.exp(5 * (0.8 - 0.6))))
    assert leakage_score(picture, training, own, 5.0) == pytest.approx(100 / (1 + math.exp(5 * (0.6 - 0.8))))
    assert leakage_score(picture, own, own, 100.0) == pytest.approx(50)
    extremes = [leakage_score(x, own, training, 1e4).item() for x in (own, training)]
    assert extremes == pytest.approx([0, 100], abs=1e-6)


# Gram matrices


def style(model, a, b):
    return scores.style_score(scores.grams(model, a), scores.grams(model, b))


def test_a_picture_has_its_own_style(tiny):
    several = pictures(4)
    np.testing.assert_allclose(style(tiny, several, several), 100, atol=1e-4)
    others = style(tiny, several, several[::-1])
    assert ((others > 0) & (others < 99)).all()
    np.testing.assert_allclose(others, style(tiny, several[::-1], several))


def test_styles_depend_on_neither_order_nor_company(tiny):
    many, order = pictures(37), np.random.default_rng(1).permutation(37)
    together = style(tiny, many, many[::-1])
    np.testing.assert_allclose(style(tiny, many[order], many[::-1][order]), together[order], atol=1e-2)
    np.testing.assert_allclose(style(tiny, many[35:36], many[1:2]), together[35:36], atol=1e-2)


def test_batches_shrink_with_the_size_of_pictures_and_change_nothing(tiny, monkeypatch):
    several = pictures(3, 24, 16)
    whole = scores.grams(tiny, several)
    monkeypatch.setattr(scores, "PATCH_PIXELS", 5 * 8 * 8)  # of one picture
    sizes, in_batches = [], scores.in_batches
    monkeypatch.setattr(scores, "in_batches", lambda f, rows, most: sizes.append(most) or in_batches(f, rows, most))
    for one, other in zip(scores.grams(tiny, several).levels, whole.levels, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
    assert sizes == [1]


def test_style_scores_of_known_matrices():
    def of(*matrices):
        return Grams((np.tile(np.float32(matrices)[:, None], (1, 5, 1, 1)),))

    one, half, other = np.diag([1, 0]), np.diag([0.5, 0]), np.diag([0, 1])
    result = scores.style_score(of(one, half, one, one), of(one, one, other, 1e6 * one))
    np.testing.assert_allclose(result, [100, 100 * 2 / 3, 100 * (1 - 2**-0.5), 0], atol=1e-3)


def test_levels_and_patches_count_alike():
    def of(*sizes):
        return Grams(tuple(np.full((1, 5, 1, 1), size, np.float32) for size in sizes))

    assert scores.style_score(of(1, 1), of(1, 3)) == pytest.approx([75])
    patches = of(1).levels[0].copy()
    patches[0, 4] = 3
    assert scores.style_score(of(1), Grams((patches,))) == pytest.approx([90])


def test_patches_are_the_four_corners_and_the_centre(tiny):
    """Of a picture wider than high; a change shows in the patch where it is, and in no other."""
    picture = pictures(1, 32, 48)[0]
    corners = [(0, 0), (0, 47), (31, 0), (31, 47)]
    changed = [picture.copy() for _ in range(6)]
    for row, (y, x) in zip(changed, [*corners, (15, 23), (0, 23)], strict=True):
        row[y, x] = 1 - row[y, x]
    levels = scores.grams(tiny, np.stack([picture, *changed])).levels
    assert [level.shape for level in levels] == [(7, 5, 8, 8), (7, 5, 8, 8)]
    differs = np.abs(levels[0][1:] - levels[0][0]).max((-1, -2)) > 1e-4
    np.testing.assert_array_equal(differs, np.eye(6, 5, dtype=bool))


def test_small_pictures_have_a_style_until_they_are_less_than_a_latent(tiny):
    for size in ((2, 2), (3, 5), (7, 9)):
        small = pictures(2, *size)
        np.testing.assert_allclose(style(tiny, small, small), 100, atol=1e-3)
    with pytest.raises(UserError, match="5 x 1 pixels are too small for a model of 2 pixels per latent"):
        scores.grams(tiny, pictures(1, 1, 5))


# Intervals


def test_structure_is_where_a_picture_changes_whatever_its_colours_and_strokes():
    y, x = np.mgrid[:80, :120]
    disc = ((x - 40) ** 2 + (y - 40) ** 2 < 20**2).astype(float)[..., None] * np.ones(3)
    moved, strokes = np.roll(disc, 45, 1), 0.2 * np.random.default_rng(0).standard_normal(disc.shape)
    versions = np.stack([disc, -disc, 0.3 * disc + 0.5, disc + strokes, moved, np.zeros_like(disc)])
    same, negative, pale, painted, elsewhere, empty = scores.structure_score(versions, np.stack([disc] * 6))
    np.testing.assert_allclose([same, negative, pale], 100)
    assert 90 < painted < 99.9 and elsewhere < 5 and empty == 0


def test_students_interval():
    assert estimate([1, 2, 3, 4]) == pytest.approx((2.5, 2.054260, 4), abs=1e-5)  # t(0.975, 3) = 3.182446
    assert estimate([4, 4]) == (4, 0, 2)


def test_too_few_values_have_no_interval():
    one, none = estimate([7]), estimate([])
    assert (one.mean, one.count, none.count) == (7, 1, 0)
    assert math.isnan(one.margin) and math.isnan(none.mean) and math.isnan(none.margin)


def test_estimates_as_text():
    assert str(Estimate(24.117, 0.504, 3)) == "24.12 ± 0.50"
    assert (str(estimate([7])), str(estimate([]))) == ("7.00", "-")
