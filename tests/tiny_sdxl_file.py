"""An SDXL with random weights as a single file, small enough to compile in seconds, and the family that it is of.

The shapes of a file's tensors tell its sizes, and the width of its text states the family, which is SDXL's at 2048.
What a family fixes for all of its models is too large here, so the tiny file has a family of its own.
"""

import dataclasses
from pathlib import Path

from original_layout_tools import (
    folder_tensors,
    original_open_clip,
    original_unet,
    original_vae,
    with_prefix,
    write_tensors,
)
from tiny_model import with_random_vectors

from dreamstyler_jax.stable_diffusion.clip import CLIPTextConfig, CLIPTextConfigWithProjection
from dreamstyler_jax.stable_diffusion.parts import SDXL_PARTS
from dreamstyler_jax.stable_diffusion.single_files.families import FAMILIES, SDXL
from dreamstyler_jax.stable_diffusion.unet import UNet2DConditionConfig
from dreamstyler_jax.stable_diffusion.vae import AutoencoderKLConfig
from dreamstyler_jax.stable_diffusion.weights import init_model, save_model

WIDTH, WIDTH_2, POOLED = 16, 24, 20
_SIZES = dict(vocab_size=49_408, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2)
_UNET = dict(norm_num_groups=4)
_VAE = dict(norm_num_groups=4, sample_size=16, scaling_factor=0.13025)
CONFIGS = {
    "text_encoder": CLIPTextConfig(hidden_size=WIDTH, projection_dim=WIDTH, **_SIZES),
    "text_encoder_2": CLIPTextConfigWithProjection(
        hidden_size=WIDTH_2, projection_dim=POOLED, hidden_act="gelu", **_SIZES
    ),
    "vae": AutoencoderKLConfig(block_out_channels=(8, 8), layers_per_block=1, **_VAE),
    "unet": UNet2DConditionConfig(
        sample_size=8, block_out_channels=(8, 16), layers_per_block=1, attention_head_dim=(2, 4),
        cross_attention_dim=WIDTH + WIDTH_2, transformer_layers_per_block=(1, 1), use_linear_projection=True,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        addition_embed_type="text_time", addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=POOLED + 6 * 256, **_UNET,
    ),
}  # fmt: skip
PREFIXES = {"vae": "first_stage_model.", "unet": "model.diffusion_model."}
ORIGINAL = {"vae": original_vae, "unet": original_unet, "text_encoder": dict, "text_encoder_2": original_open_clip}


def know_tiny_sdxl() -> None:
    """Lets this process take the file for an SDXL."""
    heads = {"text_encoder": {"projection_dim": WIDTH}, "text_encoder_2": {"hidden_act": "gelu"}}
    encoders = {
        name: dataclasses.replace(SDXL.text_encoders[name], layers=2, config={"num_attention_heads": 2, **settings})
        for name, settings in heads.items()
    }
    FAMILIES[WIDTH + WIDTH_2] = dataclasses.replace(
        SDXL, unet={**SDXL.unet, **_UNET}, vae={**SDXL.vae, **_VAE}, head_width=4, sample_sizes={"epsilon": 8},
        text_encoders=encoders,
    )  # fmt: skip


def write_tiny_sdxl_file(folder: Path) -> Path:
    """Writes the model, of pictures of 16 pixels, as ``folder/sdxl.safetensors``."""
    prefixes = PREFIXES | {name: SDXL.text_encoders[name].prefix for name in ("text_encoder", "text_encoder_2")}
    tensors = {}
    for name, config in CONFIGS.items():
        save_model(folder / name, config, with_random_vectors(init_model(SDXL_PARTS[name], config)[1]))
        tensors |= with_prefix(prefixes[name], ORIGINAL[name](folder_tensors(folder / name)))
    return write_tensors(folder / "sdxl.safetensors", tensors)
