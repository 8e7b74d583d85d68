"""CLIP's features of pictures and texts, and the preprocessing that its files ask for."""

import json
import math
import shutil

import numpy as np
import pytest
from noise_pictures import noise_pictures
from PIL import Image
from tiny_clip import PREPROCESSING, write_tiny_clip

from dreamstyler_jax.evaluation.clip import Clip
from dreamstyler_jax.evaluation.encoders import Preprocessor
from dreamstyler_jax.evaluation.scores import cosine_score
from dreamstyler_jax.runtime import images
from dreamstyler_jax.runtime.errors import UserError

TEXTS = ["a red house", "a small dog by the sea", "a drawing of mountains", "a painting"]


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    return write_tiny_clip(tmp_path_factory.mktemp("models") / "clip")


@pytest.fixture(scope="module")
def clip(clip_folder):
    return Clip.load(clip_folder)


# Features


def test_features_have_unit_length_and_differ_between_pictures_and_between_texts(clip):
    for features in (clip.picture_features(noise_pictures(4)), clip.text_features(TEXTS)):
        assert features.dtype == np.float32
        cosines = features @ features.T
        np.testing.assert_allclose(np.diag(cosines), 1, atol=1e-5)
        assert (cosines[~np.eye(4, dtype=bool)] < 0.999).all()


def test_features_do_not_depend_on_the_rest_of_the_batch(clip):
    order = np.random.default_rng(1).permutation(37)
    pictures, texts = noise_pictures(37), [f"{TEXTS[i % 4]} {i}" for i in range(37)]
    np.testing.assert_allclose(
        clip.picture_features(pictures)[order], clip.picture_features(pictures[order]), atol=1e-5
    )
    np.testing.assert_allclose(
        clip.picture_features(pictures)[35:36], clip.picture_features(pictures[35:36]), atol=1e-5
    )
    np.testing.assert_allclose(
        clip.text_features(texts)[order], clip.text_features([texts[i] for i in order]), atol=1e-5
    )
    np.testing.assert_allclose(clip.text_features(texts)[35:36], clip.text_features(texts[35:36]), atol=1e-5)


def test_pictures_of_different_sizes_can_be_encoded_together(clip):
    pictures = [noise_pictures(1, *size)[0] for size in ((16, 16), (40, 23), (9, 31))]
    together = clip.picture_features(pictures)
    for one, features in zip(pictures, together, strict=True):
        np.testing.assert_allclose(clip.picture_features(one[None])[0], features, atol=1e-5)


def test_a_text_longer_than_the_window_is_cut(clip):
    long = "red " * 40
    np.testing.assert_allclose(clip.text_features([long]), clip.text_features([long + "house by the sea"]), atol=1e-6)


def test_the_logit_scale_is_the_models(clip):
    assert clip.logit_scale == pytest.approx(math.exp(float(clip.params["logit_scale"])))


@pytest.mark.parametrize("statistic", ["image_mean", "image_std"])
@pytest.mark.parametrize("file", ["preprocessor_config.json", "processor_config.json"])
def test_mean_and_std_are_read_from_either_file(file, statistic, clip, clip_folder, tmp_path):
    folder = tmp_path / "clip"
    shutil.copytree(clip_folder, folder)
    (folder / "preprocessor_config.json").unlink()
    content = {**PREPROCESSING, statistic: [0.1, 0.9, 0.4]}
    (folder / file).write_text(json.dumps({"image_processor": content} if file.startswith("processor") else content))
    other = Clip.load(folder)
    assert cosine_score(other.picture_features(noise_pictures(1)), clip.picture_features(noise_pictures(1)))[0] < 99.9


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors", "vocab.json", "preprocessor_config.json"])
def test_a_folder_without_one_of_its_files_is_refused(missing, clip_folder, tmp_path):
    shutil.copytree(clip_folder, tmp_path / "clip")
    (tmp_path / "clip" / missing).unlink()
    with pytest.raises(UserError, match="clip"):
        Clip.load(tmp_path / "clip")


def test_a_tokenizer_of_another_model_is_refused(clip_folder, tmp_path):
    shutil.copytree(clip_folder, tmp_path / "clip")
    settings = tmp_path / "clip" / "tokenizer_config.json"
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "model_max_length": 77}))
    with pytest.raises(UserError, match=r"77 positions .* more than the model's 24"):
        Clip.load(tmp_path / "clip")


# Preprocessing


def test_a_picture_of_the_right_size_is_not_resized():
    picture = noise_pictures(1)[0] * 1.5
    np.testing.assert_array_equal(Preprocessor(16, 16)(picture), np.clip(picture, -1, 1))


def test_an_oblong_picture_is_cropped_and_not_stretched():
    wide = np.full((30, 90, 3), -1, np.float32)
    wide[:, 30:60, 1] = 1  # a green square in the middle
    for picture in (wide, wide.swapaxes(0, 1)):
        prepared = Preprocessor(10, 10)(picture)
        assert prepared.shape == (10, 10, 3)
        assert (prepared[1:-1, 1:-1, 1] > 0.95).all() and (prepared[..., [0, 2]] == -1).all()
    np.testing.assert_array_equal(Preprocessor(10, 4)(wide), np.array([-1, 1, -1]) * np.ones((4, 4, 1)))


def test_shrinking_a_picture_averages_its_detail():
    fine = np.where(np.indices((64, 64)).sum(0) % 2, 1, -1)[..., None] * np.ones(3, np.float32)
    assert np.abs(Preprocessor(16, 16)(fine)).max() < 0.05


def test_the_filter_can_be_chosen():
    picture = noise_pictures(1, 40, 40)[0]
    nearest = Preprocessor(16, 16, Image.Resampling.NEAREST)(picture)
    np.testing.assert_array_equal(nearest, images.to_array(images.to_image(picture).resize((16, 16), 0)))
    assert np.abs(nearest - Preprocessor(16, 16)(picture)).max() > 0.1


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ({"crop_size": {"height": 8, "width": 16}}, "should resize pictures, crop them to 16 x 16 pixels"),
        ({"size": {"shortest_edge": 8}}, "16 x 16 pixels"),
        ({"size": {"height": 16, "width": 16}}, "16 x 16 pixels"),
        ({"do_normalize": False}, "16 x 16 pixels"),
        ({"image_mean": 3}, "image_mean should be a list of 3 entries, not 3"),
        ({"resample": 77}, "resample should be one of 0, 1, 2, 3, 4, 5, not 77"),
        ([], "it should be an object, not \\[\\]"),
    ],
)
def test_other_preprocessing_than_clips_is_refused(content, complaint, tmp_path):
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=complaint):
        Preprocessor.load(tmp_path, 16)


def test_sizes_can_be_numbers_or_missing(tmp_path):
    for content, shortest_edge in (({"size": 20, "crop_size": 16}, 20), ({}, 16)):
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(content))
        assert Preprocessor.load(tmp_path, 16) == Preprocessor(shortest_edge, 16)
