"""Writes models in Stable Diffusion's original layout: the way back from diffusers' names, for files to test with."""

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import safetensors.numpy

Tensors = Mapping[str, np.ndarray]

UNET_EDGES = {
    "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2",
    "mid_block.resnets.0": "middle_block.0", "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
}  # fmt: skip
UNET_RESNET = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0",
    "conv2": "out_layers.3", "conv_shortcut": "skip_connection",
}  # fmt: skip
VAE_PLACES = {
    "mid_block.resnets.0": "mid.block_1", "mid_block.resnets.1": "mid.block_2", "conv_norm_out": "norm_out",
    "conv_shortcut": "nin_shortcut", "mid_block.attentions.0.group_norm": "mid.attn_1.norm",
    "mid_block.attentions.0.to_q": "mid.attn_1.q", "mid_block.attentions.0.to_k": "mid.attn_1.k",
    "mid_block.attentions.0.to_v": "mid.attn_1.v", "mid_block.attentions.0.to_out.0": "mid.attn_1.proj_out",
}  # fmt: skip
OPEN_CLIP_PLACES = {
    "encoder.layers": "transformer.resblocks", "final_layer_norm": "ln_final", "layer_norm": "ln_",
    "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj", "self_attn": "attn",
    "embeddings.token_embedding": "token_embedding", "embeddings.position_embedding.weight": "positional_embedding",
}  # fmt: skip


def original_unet(tensors: Tensors) -> dict[str, np.ndarray]:
    """The UNet's tensors under their original names, without a prefix."""
    layers = 1 + max(int(match[1]) for name in tensors if (match := re.match(r"down_blocks\.0\.resnets\.(\d+)", name)))
    return {_original_unet_name(name, layers, tensors): tensor for name, tensor in tensors.items()}


def _original_unet_name(name: str, layers: int, tensors: Tensors) -> str:
    match = re.fullmatch(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)", name)
    if not match:
        place = next(place for place in UNET_EDGES if name.startswith(place + "."))
        rest = name[len(place) + 1 :]
        return f"{UNET_EDGES[place]}.{_original_resnet(rest) if 'resnets' in place else rest}"
    side, level, kind, layer, rest = match[1], int(match[2]), match[3], int(match[4]), match[5]
    if kind == "downsamplers":
        return f"input_blocks.{(level + 1) * (layers + 1)}.0.op.{rest.removeprefix('conv.')}"
    if kind == "upsamplers":
        has_attention = f"up_blocks.{level}.attentions.0.norm.weight" in tensors
        return f"output_blocks.{(level + 1) * (layers + 1) - 1}.{2 if has_attention else 1}.{rest}"
    block = f"input_blocks.{1 + level * (layers + 1) + layer}" if side == "down" else None
    block = block or f"output_blocks.{level * (layers + 1) + layer}"
    return f"{block}.0.{_original_resnet(rest)}" if kind == "resnets" else f"{block}.1.{rest}"


def _original_resnet(rest: str) -> str:
    layer, _, leaf = rest.rpartition(".")
    return f"{UNET_RESNET[layer]}.{leaf}"


def original_vae(tensors: Tensors) -> dict[str, np.ndarray]:
    """The autoencoder's tensors under their original names, without a prefix; its attention as 1 x 1 convolutions."""
    levels = 1 + max(int(match[1]) for name in tensors if (match := re.match(r"decoder\.up_blocks\.(\d+)", name)))
    converted = {}
    for name, tensor in tensors.items():
        renamed = re.sub(r"encoder\.down_blocks\.", "encoder.down.", name)
        renamed = re.sub(r"decoder\.up_blocks\.(\d+)", lambda m: f"decoder.up.{levels - 1 - int(m[1])}", renamed)
        renamed = re.sub(r"(?<=\d)\.(down|up)samplers\.0", r".\1sample", renamed)
        renamed = re.sub(r"\.(down|up)\.(\d+)\.resnets\.", r".\1.\2.block.", renamed)
        for place, original in VAE_PLACES.items():
            renamed = renamed.replace(place + ".", original + ".")
        attends = ".attn_1." in renamed and tensor.ndim == 2
        converted[renamed] = tensor[..., None, None] if attends else tensor
    return converted


def original_open_clip(tensors: Tensors) -> dict[str, np.ndarray]:
    """A text encoder's tensors under OpenCLIP's names, without a prefix; query, key and value in one tensor."""
    converted, waiting = {}, {}
    for name, tensor in tensors.items():
        renamed = name.removeprefix("text_model.")
        for place, original in OPEN_CLIP_PLACES.items():
            renamed = renamed.replace(place, original)
        if renamed == "text_projection.weight":
            converted["text_projection"] = tensor.T
        elif match := re.fullmatch(r"(.+\.attn)\.([qkv])_proj\.(weight|bias)", renamed):
            waiting.setdefault(f"{match[1]}.in_proj_{match[3]}", {})[match[2]] = tensor
        else:
            converted[renamed] = tensor
    return converted | {name: np.concatenate([parts[p] for p in "qkv"]) for name, parts in waiting.items()}


def with_prefix(prefix: str, tensors: Tensors) -> dict[str, np.ndarray]:
    return {prefix + name: tensor for name, tensor in tensors.items()}


def folder_tensors(folder: Path) -> dict[str, np.ndarray]:
    """The tensors of one part's folder."""
    (file,) = folder.glob("*.safetensors")
    return safetensors.numpy.load_file(file)


def original_tensors(folder: Path) -> dict[str, np.ndarray]:
    """A model folder's tensors in the original layout of 1.x."""
    return {
        **with_prefix("model.diffusion_model.", original_unet(folder_tensors(folder / "unet"))),
        **with_prefix("first_stage_model.", original_vae(folder_tensors(folder / "vae"))),
        **with_prefix("cond_stage_model.transformer.", folder_tensors(folder / "text_encoder")),
    }


def write_tensors(file: Path, tensors: Tensors, header: dict[str, str] | None = None) -> Path:
    """Writes tensors to a safetensors file."""
    contiguous = {name: np.asarray(tensor, order="C") for name, tensor in tensors.items()}
    safetensors.numpy.save_file(contiguous, file, metadata=header)
    return file
