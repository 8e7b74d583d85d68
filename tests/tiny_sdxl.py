"""A whole SDXL with random weights, small enough to compile in seconds, as a folder on disk."""

import json
from pathlib import Path

from tiny_model import CAPTIONS, WIDTH, WINDOW, with_random_vectors

from dreamstyler_jax.stable_diffusion.clip import CLIPTextConfig, CLIPTextConfigWithProjection
from dreamstyler_jax.stable_diffusion.controlnet import ControlNetConfig, ControlNetModel
from dreamstyler_jax.stable_diffusion.parts import SDXL_PARTS, save_folder
from dreamstyler_jax.stable_diffusion.schedule import NoiseSchedule
from dreamstyler_jax.stable_diffusion.tokenizer import Tokenizer
from dreamstyler_jax.stable_diffusion.unet import UNet2DConditionConfig
from dreamstyler_jax.stable_diffusion.vae import AutoencoderKLConfig
from dreamstyler_jax.stable_diffusion.weights import init_model, save_model

WIDTH_2, POOLED = 24, 12  # width of the second text encoder, and of its pooled state
_ENCODER = dict(  # of UNet and ControlNet
    block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4, attention_head_dim=(1, 2),
    cross_attention_dim=WIDTH + WIDTH_2, down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
    transformer_layers_per_block=(1, 2), use_linear_projection=True, addition_embed_type="text_time",
    addition_time_embed_dim=6, projection_class_embeddings_input_dim=POOLED + 6 * 6,
)  # fmt: skip


def write_tiny_sdxl(folder: Path) -> Path:
    """Writes the model: pictures of 16 pixels, latents of 8 x 8 x 4."""
    first = Tokenizer.train(CAPTIONS * 20, 560, max_length=WINDOW)
    sizes = dict(
        vocab_size=first.vocab_size, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=WINDOW, bos_token_id=first.bos_id,
    )  # fmt: skip
    vae = AutoencoderKLConfig(block_out_channels=(8, 8), norm_num_groups=4, sample_size=16, scaling_factor=0.13025)
    unet = UNet2DConditionConfig(
        sample_size=8, up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), **_ENCODER
    )  # fmt: skip
    configs = {
        "text_encoder": CLIPTextConfig(
            hidden_size=WIDTH, projection_dim=WIDTH, eos_token_id=first.eos_id, pad_token_id=first.eos_id, **sizes
        ),
        "text_encoder_2": CLIPTextConfigWithProjection(
            hidden_size=WIDTH_2, projection_dim=POOLED, hidden_act="gelu", eos_token_id=2, pad_token_id=1, **sizes
        ),  # the real one's config has these legacy ids, too
        "vae": vae,
        "unet": unet,
    }
    parts = {
        name: (config, with_random_vectors(init_model(SDXL_PARTS[name], config)[1])) for name, config in configs.items()
    }
    schedule = NoiseSchedule(timestep_spacing="leading", steps_offset=1)
    save_folder(folder, tokenizers={"clip_l": first, "clip_g": first}, schedule=schedule, parts=parts)
    _pad_with_exclamation_marks(folder / "tokenizer_2")
    return folder


def _pad_with_exclamation_marks(tokenizer: Path) -> None:
    """Changes the files of a tokenizer as those of SDXL's second one differ from the first's."""
    number = json.loads((tokenizer / "vocab.json").read_text())["!"]
    mark = {
        "content": "!",
        "special": True,
        "normalized": False,
        "lstrip": False,
        "rstrip": False,
        "single_word": False,
    }
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        content = json.loads((tokenizer / name).read_text()) | {"pad_token": "!"}
        if "added_tokens_decoder" in content:
            content["added_tokens_decoder"][str(number)] = mark
        (tokenizer / name).write_text(json.dumps(content))


def write_sdxl_controlnet(folder: Path) -> Path:
    """Writes a ControlNet with random weights for the tiny SDXL."""
    config = ControlNetConfig(conditioning_embedding_out_channels=(8, 8), **_ENCODER)
    save_model(folder, config, init_model(ControlNetModel, config)[1])
    return folder
