"""The networks at the exact sizes of Stable Diffusion 1.5 and 2.1, with random weights, against the references."""

import functools
import shutil

import diffusers
import jax
import numpy as np
import pytest
import torch
import transformers
from flax import nnx
from memory_tools import release_memory
from parity_tools import loaded, randomised, relative_error, to_torch

from dreamstyler_jax.stable_diffusion.clip import CLIPTextModel
from dreamstyler_jax.stable_diffusion.unet import UNet2DConditionModel
from dreamstyler_jax.stable_diffusion.vae import AutoencoderKL
from dreamstyler_jax.stable_diffusion.weights import load_model

TOLERANCE = 2e-5
# It takes a minute on two free cores; the usual limit is meant for small tests.
pytestmark = pytest.mark.timeout(1800)

# config.json of stable-diffusion-v1-5 and stable-diffusion-2-1, without the defaults of the format.
TEXT = {
    "1.5": dict(
        hidden_size=768, intermediate_size=3072, num_attention_heads=12, num_hidden_layers=12, hidden_act="quick_gelu",
        projection_dim=768, bos_token_id=0, eos_token_id=2, pad_token_id=1,
    ),
    "2.1": dict(
        hidden_size=1024, intermediate_size=4096, num_attention_heads=16, num_hidden_layers=23, hidden_act="gelu",
        projection_dim=512, bos_token_id=0, eos_token_id=2, pad_token_id=1,
    ),
}  # fmt: skip
UNET = {
    "1.5": dict(cross_attention_dim=768, attention_head_dim=8, sample_size=64),
    "2.1": dict(
        cross_attention_dim=1024, attention_head_dim=[5, 10, 20, 20], use_linear_projection=True, upcast_attention=True,
        sample_size=96,
    ),
}  # fmt: skip
VAE = dict(
    block_out_channels=(128, 256, 512, 512), layers_per_block=2, sample_size=512,
    down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
)  # fmt: skip


@pytest.fixture(autouse=True)
def full_precision_and_no_leftovers(tmp_path):
    torch.manual_seed(0)
    with jax.default_matmul_precision("highest"), torch.no_grad():
        yield
    shutil.rmtree(tmp_path)
    release_memory()


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def drawn(build):
    """The model that ``build`` makes, in float16, with weights of the usual sizes that repeat a million random numbers.

    PyTorch's initialisers would draw a billion, which takes longer than what is tested. As their count is prime, no two
    rows of a weight begin at the same number.
    """
    with torch.device("meta"):
        model = build().half()
    model.to_empty(device="cpu")
    numbers = torch.randn(1_000_003)
    scaled = functools.cache(lambda inputs: (numbers * (3 * inputs) ** -0.5).half())  # as PyTorch's sizes
    for name, buffer in model.named_buffers():
        assert name.endswith("position_ids")
        buffer.copy_(torch.arange(buffer.shape[1]))
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:  # `randomised` moves these
            parameter.fill_(0 if name.endswith("bias") else 1)
            continue
        for piece in parameter.view(-1).split(len(numbers)):
            piece.copy_(scaled(parameter[0].numel())[: len(piece)])
    return randomised(model)


def save(reference, folder):
    """Writes the files of a model in float16 and widens it to float32.

    In parts, so that there is no second copy of it in memory. Delete it before ours is loaded.
    """
    reference.save_pretrained(folder, max_shard_size="500MB")
    reference.float()


@pytest.mark.parametrize("version", TEXT)
def test_text_encoder(version, tmp_path, rng):
    reference = drawn(lambda: transformers.CLIPTextModel(transformers.CLIPTextConfig(**TEXT[version])))
    ids = np.full((2, 77), 49407, np.int32)
    ids[:, 0], ids[0, 1:9], ids[1, 1:60] = 49406, rng.integers(0, 49406, 8), rng.integers(0, 49406, 59)
    save(reference, tmp_path)
    expected = reference(torch.from_numpy(ids))
    del reference
    ours = nnx.merge(*load_model(CLIPTextModel, tmp_path))
    states, pooled, _ = jax.jit(CLIPTextModel.__call__)(ours, ids)
    assert relative_error(states, expected.last_hidden_state) < TOLERANCE
    assert relative_error(pooled, expected.pooler_output) < TOLERANCE


def test_autoencoder(tmp_path, rng):
    reference = drawn(lambda: diffusers.AutoencoderKL(**VAE)).float()
    picture = rng.uniform(-1, 1, (1, 64, 64, 3)).astype(np.float32)
    latents = rng.standard_normal((1, 8, 8, 4), np.float32)
    posterior, decoded = reference.encode(to_torch(picture)).latent_dist, reference.decode(to_torch(latents)).sample
    ours = loaded(AutoencoderKL, reference, tmp_path)
    mean, log_variance = jax.jit(AutoencoderKL.encode)(ours, picture)
    assert relative_error(mean, posterior.mean) < TOLERANCE
    assert relative_error(log_variance, posterior.logvar) < TOLERANCE
    assert relative_error(jax.jit(AutoencoderKL.decode)(ours, latents), decoded) < TOLERANCE


@pytest.mark.parametrize("version", UNET)
def test_unet(version, tmp_path, rng):
    reference = drawn(lambda: diffusers.UNet2DConditionModel(**UNET[version]))
    # The lowest level has 3 x 3 pixels: a kernel that is larger than its picture takes XLA:CPU ten times as long.
    sample, timesteps = rng.standard_normal((1, 24, 24, 4), np.float32), np.array([981])
    context = rng.standard_normal((1, 77, UNET[version]["cross_attention_dim"]), np.float32)
    save(reference, tmp_path)
    expected = reference(to_torch(sample), torch.from_numpy(timesteps), torch.from_numpy(context)).sample
    del reference
    ours = nnx.merge(*load_model(UNet2DConditionModel, tmp_path))
    prediction = jax.jit(UNet2DConditionModel.__call__)(ours, sample, timesteps, context)
    assert relative_error(prediction, expected) < TOLERANCE
