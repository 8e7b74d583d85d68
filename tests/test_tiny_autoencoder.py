"""A tiny autoencoder takes the place of a model's own: where it is read from, and what is done with it."""

import dataclasses

import jax
import numpy as np
import pytest
from flax import nnx
from flax.traverse_util import flatten_dict
from original_layout_tools import folder_tensors, write_tensors
from tiny_model import with_random_vectors

from dreamstyler_jax.evaluation.scores import grams
from dreamstyler_jax.runtime.errors import UserError
from dreamstyler_jax.stable_diffusion.model_files import find_model, find_vae
from dreamstyler_jax.stable_diffusion.pipeline import StableDiffusion
from dreamstyler_jax.stable_diffusion.tiny_autoencoder import AutoencoderTiny, AutoencoderTinyConfig
from dreamstyler_jax.stable_diffusion.weights import init_model, save_model

CONFIG = AutoencoderTinyConfig(
    encoder_block_out_channels=(8, 8), decoder_block_out_channels=(12, 12), num_encoder_blocks=(2, 1),
    num_decoder_blocks=(1, 2),
)  # fmt: skip
OWN = {"scaling_factor": 0.18215, "norm_num_groups": 32, "sample_size": 512}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("taesd")
    save_model(folder, CONFIG, with_random_vectors(init_model(AutoencoderTiny, CONFIG)[1]))
    return folder


def write_pair(folder, tensors, encoder="taesd_encoder.safetensors", decoder="taesd_decoder.safetensors"):
    """Writes both files of a pair, in which the decoder's first layer has no parameters."""
    halves = {"encoder": {}, "decoder": {}}
    for name, tensor in tensors.items():
        half, _, number, rest = name.split(".", 3)
        halves[half][f"{int(number) + (half == 'decoder')}.{rest}"] = tensor
    return write_tensors(folder / encoder, halves["encoder"]), write_tensors(folder / decoder, halves["decoder"])


def test_folder_single_file_and_pair_are_the_same(folder, tmp_path):
    tensors = folder_tensors(folder)
    encoder, decoder = write_pair(tmp_path, tensors)
    places = [folder, write_tensors(tmp_path / "taesd.safetensors", tensors), encoder, decoder]
    expected = flatten_dict(find_vae(folder, OWN).load(AutoencoderTiny, CONFIG, "float32")[1])
    for place in places:
        part = find_vae(place, OWN)
        assert part.class_name == "AutoencoderTiny"
        assert part.config(AutoencoderTiny) == CONFIG, "scaled by 1, unlike the model's own"
        params = flatten_dict(part.load(AutoencoderTiny, CONFIG, "float32")[1])
        assert params.keys() == expected.keys()
        assert all(np.array_equal(params[path], array) for path, array in expected.items())
    assert set(find_vae(encoder, OWN).files) == set(find_vae(decoder, OWN).files) == {encoder, decoder}


def test_one_file_of_a_pair_alone_is_refused(folder, tmp_path):
    encoder, decoder = write_pair(tmp_path, folder_tensors(folder), encoder="small.safetensors")
    for file, half in ((encoder, "encoder"), (decoder, "decoder")):
        with pytest.raises(UserError, match=f"^{file} is only the {half} of a tiny autoencoder: put .*taesd_decoder"):
            find_vae(file, OWN)
    with pytest.raises(UserError, match=f"^{encoder} is no Stable Diffusion"):
        find_model(encoder)
    file = write_tensors(tmp_path / "whole.safetensors", folder_tensors(folder))
    with pytest.raises(UserError, match=r"is an autoencoder \(VAE\): give it with --vae"):
        find_model(file)
    less = {name: tensor for name, tensor in folder_tensors(folder).items() if name != "decoder.layers.2.conv.2.bias"}
    part = find_vae(write_tensors(file, less), OWN)
    with pytest.raises(UserError, match=r"do not fit a tiny autoencoder; missing: decoder\.layers\.2\.conv\.2\.bias$"):
        part.load(AutoencoderTiny, part.config(AutoencoderTiny), "float32")


def test_a_model_uses_it_for_everything(folder, tiny_folder, tiny):
    model = StableDiffusion.load(tiny_folder, vae=folder)
    assert model.networks.vae_config == CONFIG and model.hash != tiny.hash
    assert (model.resolution, model.multiple) == (tiny.resolution, tiny.multiple)
    network = nnx.merge(model.networks.vae, model.params["vae"])
    pictures = np.random.default_rng(0).uniform(-1, 1, (2, 16, 16, 3)).astype(np.float32)
    mean, deviation = model.encode_images(pictures)
    np.testing.assert_allclose(mean, network.encoder(pictures), rtol=1e-4, atol=1e-5)
    assert mean.shape == (2, *model.networks.latent_shape(16, 16)) and not np.any(deviation)
    decoded = jax.jit(model.networks.decode_latents)(model.params, mean)
    np.testing.assert_allclose(decoded, network.decoder(mean), rtol=1e-4, atol=1e-5)
    levels = grams(model, pictures).levels
    assert [level.shape for level in levels] == [(2, 5, 8, 8)] * 2 and np.all(np.isfinite(levels))


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"num_decoder_blocks": (1, 2, 1)}, "equally many levels"),
        ({"encoder_block_out_channels": (8, 16)}, "the same number of channels"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(change, line):
    with pytest.raises(UserError, match=line):
        dataclasses.replace(CONFIG, **change)
    with pytest.raises(UserError, match='not that of a supported AutoencoderTiny: act_fn = "silu"'):
        AutoencoderTinyConfig.from_dict({"_class_name": "AutoencoderTiny", "act_fn": "silu"})
