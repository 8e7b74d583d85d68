"""The networks behind scores against PyTorch: small ones, in the layout and under the names of the published files.

`benchmarks/scores_true_size.py` compares them at their true size.
"""

import argparse
import shlex
import zipfile

import jax
import numpy as np
import pytest
import torch
import transformers
from noise_pictures import noise_pictures
from parity_tools import randomised, to_numpy, to_torch
from safetensors.torch import save_file
from scipy import linalg

from benchmarks import torch_scores
from dreamstyler_jax.evaluation import artfid, scores
from dreamstyler_jax.evaluation.checkpoints import CHECKPOINTS
from dreamstyler_jax.evaluation.csd import load_csd
from dreamstyler_jax.evaluation.dinov2 import bicubic, load_dinov2
from dreamstyler_jax.evaluation.inception import Inception, InceptionConfig, load_inception
from dreamstyler_jax.evaluation.lpips import load_lpips
from dreamstyler_jax.evaluation.vgg import load_vgg
from dreamstyler_jax.stable_diffusion.weights import init_model

TOLERANCE = 1e-4  # for features of unit length
SIZE = 28  # of pictures, in pixels


@pytest.fixture(autouse=True)
def full_precision():
    torch.manual_seed(0)
    with jax.default_matmul_precision("highest"), torch.no_grad():
        yield


def saved(reference, folder):
    """The file of a reference's weights."""
    save_file(reference.state_dict(), folder / "weights.safetensors")
    return folder / "weights.safetensors"


def normalized(pictures, preprocessor):
    return to_torch(((pictures + 1) / 2 - np.float32(preprocessor.mean)) / np.float32(preprocessor.std))


def test_csd(tmp_path):
    reference = randomised(torch_scores.Csd(width=128, heads=2, layers=2, patch=7, size=SIZE, features=16))
    ours, pictures = load_csd(saved(reference, tmp_path)), noise_pictures(2, SIZE, SIZE)
    expected = reference(normalized(pictures, ours.preprocessor))
    np.testing.assert_allclose(ours.picture_features(pictures), expected, atol=TOLERANCE, rtol=0)


def test_the_published_file_of_csd_is_converted_by_the_command(tmp_path, monkeypatch):
    """It is a whole state of training: a pickle with settings and numbers beside the tensors, of several devices."""
    reference = torch_scores.Csd(width=64, heads=1, layers=1, patch=7, size=SIZE, features=4)
    tensors = {f"module.{name}": tensor for name, tensor in reference.state_dict().items()}
    rate = np.float64(0.003)
    state = {"model_state_dict": tensors, "args": argparse.Namespace(arch="vit_large"), "opt_bb": {"lr": rate}}
    torch.save(state, tmp_path / "new.bin")
    with zipfile.ZipFile(tmp_path / "new.bin") as new, zipfile.ZipFile(tmp_path / "pytorch_model.bin", "w") as old:
        for name in new.namelist():  # NumPy 1, which wrote the published file, had another name for its module
            old.writestr(name, new.read(name).replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    monkeypatch.chdir(tmp_path)
    _, _, code = shlex.split(CHECKPOINTS["csd"].conversion)
    exec(code, {})
    style = load_csd(tmp_path / "csd.safetensors").params["last_layer_style"]
    np.testing.assert_array_equal(style, reference.last_layer_style.detach())


def test_dinov2_at_another_size_than_it_was_trained_at(tmp_path):
    config = transformers.Dinov2Config(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, image_size=42, patch_size=7, layerscale_value=0.5
    )
    reference = randomised(transformers.Dinov2Model(config))
    reference.embeddings.position_embeddings.normal_()
    reference.embeddings.cls_token.normal_()
    reference.save_pretrained(tmp_path)
    processor = transformers.BitImageProcessorPil(
        size={"shortest_edge": SIZE + 4}, crop_size={"height": SIZE, "width": SIZE}, image_mean=[0.5, 0.4, 0.3]
    )
    processor.save_pretrained(tmp_path)
    pictures = noise_pictures(2, 40, 50)
    levels = [np.rint((picture + 1) * 127.5).astype(np.uint8) for picture in pictures]
    expected = reference(**processor(images=levels, return_tensors="pt")).pooler_output
    expected = torch.nn.functional.normalize(expected)
    np.testing.assert_allclose(load_dinov2(tmp_path).picture_features(pictures), expected, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize(("new", "old"), [(16, 37), (5, 3), (4, 4)])
def test_position_vectors_are_interpolated_as_by_pytorch(new, old):
    grid = torch.eye(old)[None, :, :, None]  # [1, old, old, 1]: each column of the matrix
    expected = torch.nn.functional.interpolate(grid, size=(new, 1), mode="bicubic", align_corners=False)[0, :, :, 0].T
    np.testing.assert_allclose(bicubic(new, old), expected, atol=1e-6)


def test_vgg_gram_matrices_of_the_five_patches(tmp_path):
    reference = randomised(torch_scores.Vgg16((4, 4, 8, 8, 8)))
    for layer in reference.features:
        if isinstance(layer, torch.nn.Conv2d):
            layer.weight *= 10  # `randomised` makes them smaller than norms bear
    ours, pictures = load_vgg(saved(reference, tmp_path)), noise_pictures(2, 32, 48)
    side = 14  # 7/16 of 32
    corners = [(0, 0), (0, 34), (18, 0), (18, 34), (9, 17)]
    grams = ours.grams(pictures)
    for patch, (y, x) in enumerate(corners):
        levels = reference(to_torch(pictures[:, y : y + side, x : x + side]))
        for ours_at_level, level in zip(grams.levels, levels, strict=True):
            flat = level.flatten(2)
            expected = (flat @ flat.transpose(1, 2) / flat.shape[2]).numpy()
            np.testing.assert_allclose(ours_at_level[:, patch], expected, atol=1e-6, rtol=1e-4)
    assert scores.style_score(grams, grams) == pytest.approx([100, 100])


def test_lpips(tmp_path):
    reference = torch_scores.Lpips((4, 8, 8, 4, 4)).eval()
    ours, (a, b) = load_lpips(saved(reference, tmp_path)), noise_pictures(4, 40, 48).reshape(2, 2, 40, 48, 3)
    expected = reference(to_torch(a), to_torch(b))
    assert expected.min() > 0.01
    np.testing.assert_allclose(ours.distances(a, b), expected, rtol=1e-4)
    np.testing.assert_allclose(ours.distances(a, a), 0, atol=1e-7)


def test_inception(tmp_path):
    reference = randomised(torch_scores.Inception(divisor=16))
    for layer in reference.modules():
        if isinstance(layer, torch.nn.Conv2d):
            layer.weight *= 30
    ours, pictures = load_inception(saved(reference, tmp_path)), noise_pictures(2, 75, 80)
    expected = to_numpy(reference(to_torch((pictures + 1) / 2)))
    np.testing.assert_allclose(ours.features(pictures), expected, rtol=1e-3, atol=1e-4)


def test_inception_has_as_many_parameters_as_torchvisions():
    """21,785,568 without the classifiers; its batch normalisations have as many statistics as parameters."""
    sizes = [np.prod(leaf.shape) for leaf in jax.tree.leaves(init_model(Inception, InceptionConfig())[1])]
    assert sum(sizes) == 21_785_568 + 2 * 17_216


def test_frechet_distance_is_that_of_the_matrix_root():
    rng = np.random.default_rng(0)
    a, b = rng.normal(0, 1, (40, 6)), rng.normal(0.3, 2, (30, 6)) @ rng.normal(0, 1, (6, 6))
    roots = linalg.sqrtm(np.cov(a, rowvar=False) @ np.cov(b, rowvar=False)).real
    difference = a.mean(0) - b.mean(0)
    expected = difference @ difference + np.trace(np.cov(a, rowvar=False) + np.cov(b, rowvar=False) - 2 * roots)
    assert artfid.frechet_distance(a, b) == pytest.approx(expected)
    assert artfid.frechet_distance(a, a[::-1]) == pytest.approx(0, abs=1e-9)
    assert artfid.frechet_distance(a[:3], a[:3] + 1) == pytest.approx(6)  # fewer pictures than features
