"""A whole Stable Diffusion with random weights, small enough to compile in seconds, as a folder on disk."""

import dataclasses
from pathlib import Path

import jax
import numpy as np

from dreamstyler_jax.stable_diffusion.clip import CLIPTextConfig, CLIPTextModel
from dreamstyler_jax.stable_diffusion.controlnet import ControlNetConfig, ControlNetModel
from dreamstyler_jax.stable_diffusion.parts import save_folder
from dreamstyler_jax.stable_diffusion.schedule import NoiseSchedule
from dreamstyler_jax.stable_diffusion.tokenizer import Tokenizer
from dreamstyler_jax.stable_diffusion.unet import UNet2DConditionConfig, UNet2DConditionModel
from dreamstyler_jax.stable_diffusion.vae import AutoencoderKL, AutoencoderKLConfig
from dreamstyler_jax.stable_diffusion.weights import init_model, read_config, save_model

WIDTH = 16  # width of the text encoder
WINDOW = 24  # tokens of a prompt
CAPTIONS = (
    "a painting of a red house by the sea in the style of a master",
    "a drawing of a small dog in the mountains at sunset",
)


def write_tiny_model(folder: Path) -> Path:
    """Writes the model: pictures of 16 pixels, latents of 8 x 8 x 4, the pooled text in the time embedding."""
    tokenizer = Tokenizer.train(CAPTIONS * 20, 560, max_length=WINDOW)
    text = CLIPTextConfig(
        vocab_size=tokenizer.vocab_size, hidden_size=WIDTH, intermediate_size=32, projection_dim=WIDTH,
        num_hidden_layers=1, num_attention_heads=2, max_position_embeddings=WINDOW,
        bos_token_id=tokenizer.bos_id, eos_token_id=tokenizer.eos_id, pad_token_id=tokenizer.pad_id,
    )  # fmt: skip
    vae = AutoencoderKLConfig(block_out_channels=(8, 8), norm_num_groups=4, sample_size=16, scaling_factor=0.5)
    unet = UNet2DConditionConfig(
        sample_size=8, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4, attention_head_dim=2,
        cross_attention_dim=WIDTH, down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), addition_embed_type="text", addition_embed_type_num_heads=2,
    )  # fmt: skip
    models = {"text_encoder": (CLIPTextModel, text), "vae": (AutoencoderKL, vae), "unet": (UNet2DConditionModel, unet)}
    parts = {name: (config, with_random_vectors(init_model(cls, config)[1])) for name, (cls, config) in models.items()}
    save_folder(folder, tokenizers={"clip_l": tokenizer}, schedule=NoiseSchedule(), parts=parts)
    return folder


def write_text_encoder(folder: Path, layers: int) -> None:
    """Replaces the text encoder of the tiny model in a folder by one of so many layers."""
    config = dataclasses.replace(read_config(CLIPTextModel, folder / "text_encoder"), num_hidden_layers=layers)
    save_model(folder / "text_encoder", config, with_random_vectors(init_model(CLIPTextModel, config)[1]))


def with_random_vectors(params):
    """Changes norms and biases from their initial ones and zeros, which would hide mistakes."""
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda a: a + 0.1 * rng.standard_normal(a.shape, np.float32) if a.ndim == 1 else a, params)


def write_controlnet(folder: Path, **settings) -> Path:
    """Writes a ControlNet with random weights for the tiny model; settings as in `ControlNetConfig`."""
    family = dict(
        block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4, attention_head_dim=2,
        cross_attention_dim=WIDTH, down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        addition_embed_type="text", addition_embed_type_num_heads=2, conditioning_embedding_out_channels=(8, 8),
    )  # fmt: skip
    config = ControlNetConfig(**{**family, **settings})
    save_model(folder, config, init_model(ControlNetModel, config)[1])
    return folder
