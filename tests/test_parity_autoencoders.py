"""The tiny autoencoder gives the numbers of diffusers, from the files that diffusers writes; and back."""

import diffusers
import jax
import numpy as np
import pytest
import torch
from flax import nnx
from parity_tools import loaded, relative_error, to_torch

from dreamstyler_jax.stable_diffusion.tiny_autoencoder import AutoencoderTiny
from dreamstyler_jax.stable_diffusion.weights import load_model, save_model

TOLERANCE = 1e-5
VARIANTS = {
    "as published": {},
    "small": dict(
        encoder_block_out_channels=(8, 8), decoder_block_out_channels=(12, 12), latent_channels=6,
        num_encoder_blocks=(2, 1), num_decoder_blocks=(1, 2),
    ),
}  # fmt: skip


@pytest.fixture(autouse=True)
def full_precision():
    with jax.default_matmul_precision("highest"), torch.no_grad():
        yield


def tiny_reference(**settings):
    """With weights that keep the size of what they multiply, so that no layer hides behind a bias."""
    generator = torch.Generator().manual_seed(5)
    model = diffusers.AutoencoderTiny(**settings).eval()
    for parameter in model.parameters():
        deviation = 0.1 if parameter.ndim == 1 else parameter[0].numel() ** -0.5
        parameter.copy_(deviation * torch.randn(parameter.shape, generator=generator))
    return model


@pytest.mark.parametrize("variant", VARIANTS)
def test_tiny_autoencoder(variant, tmp_path):
    reference = tiny_reference(**VARIANTS[variant])
    ours = loaded(AutoencoderTiny, reference, tmp_path)
    rng, scale = np.random.default_rng(0), ours.config.downsampling
    picture = rng.uniform(-1, 1, (2, 3 * scale, 5 * scale, 3)).astype(np.float32)
    latents = 3 * rng.standard_normal((2, 3, 5, ours.config.latent_channels), np.float32)
    found, log_variance = jax.jit(AutoencoderTiny.encode)(ours, picture)
    expected = reference.encode(to_torch(picture)).latents
    assert found.shape == latents.shape and relative_error(found, expected) < TOLERANCE
    assert np.all(np.exp(log_variance) == 0)
    decoded = jax.jit(AutoencoderTiny.decode)(ours, latents)
    assert relative_error(decoded, reference.decode(to_torch(latents)).sample) < TOLERANCE


def test_diffusers_loads_what_we_save(tmp_path):
    reference = tiny_reference(**VARIANTS["small"])
    reference.save_pretrained(tmp_path / "theirs")
    graphdef, params = load_model(AutoencoderTiny, tmp_path / "theirs")
    save_model(tmp_path / "ours", nnx.merge(graphdef, params).config, params)
    back, report = diffusers.AutoencoderTiny.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(report.values())
    expected = reference.state_dict()
    assert back.state_dict().keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in back.state_dict().items())
    theirs, ours = ({k: v for k, v in m.config.items() if not k.startswith("_")} for m in (reference, back))
    assert {k: list(v) if isinstance(v, tuple) else v for k, v in ours.items()} == {
        k: list(v) if isinstance(v, tuple) else v for k, v in theirs.items()
    }
