"""The names of tensors in Stable Diffusion's original layout, and where to find each tensor of diffusers' layout there.

Single-file checkpoints hold the parts of a model under the names that its first training code gave them. A rule takes
the names of one part, without the part's prefix, and says for each tensor of diffusers' layout which stored tensor it
is, or which piece of one. A name that a rule does not know stays as it is, so that whoever reads the part refuses it.
"""

import functools
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import NamedTuple

import numpy as np

from dreamstyler_jax.stable_diffusion.checkpoint_files import TensorSource

_UNET_STARTS = {
    "input_blocks.0.0.": "conv_in.",
    "time_embed.0.": "time_embedding.linear_1.",
    "time_embed.2.": "time_embedding.linear_2.",
    "label_emb.0.0.": "add_embedding.linear_1.",
    "label_emb.0.2.": "add_embedding.linear_2.",
    "middle_block.0.": "mid_block.resnets.0.",
    "middle_block.1.": "mid_block.attentions.0.",
    "middle_block.2.": "mid_block.resnets.1.",
    "out.0.": "conv_norm_out.",
    "out.2.": "conv_out.",
}
_UNET_RESNET = {
    "in_layers.0.": "norm1.",
    "in_layers.2.": "conv1.",
    "emb_layers.1.": "time_emb_proj.",
    "out_layers.0.": "norm2.",
    "out_layers.3.": "conv2.",
    "skip_connection.": "conv_shortcut.",
}
_UNET_BLOCK = re.compile(r"(input|output)_blocks\.(\d+)\.(\d)\.(.+)")
_FIRST_DOWNSAMPLER = re.compile(r"input_blocks\.(\d+)\.0\.op\.")

_VAE_BLOCK = re.compile(r"(encoder\.down|decoder\.up)\.(\d+)\.(block|downsample|upsample)\.(.+)")
_VAE_BLOCK_PARTS = {"block": "resnets.", "downsample": "downsamplers.0.", "upsample": "upsamplers.0."}
_VAE_STARTS = {
    "mid.block_1.": "mid_block.resnets.0.",
    "mid.block_2.": "mid_block.resnets.1.",
    "mid.attn_1.norm.": "mid_block.attentions.0.group_norm.",
    "mid.attn_1.q.": "mid_block.attentions.0.to_q.",
    "mid.attn_1.k.": "mid_block.attentions.0.to_k.",
    "mid.attn_1.v.": "mid_block.attentions.0.to_v.",
    "mid.attn_1.proj_out.": "mid_block.attentions.0.to_out.0.",
    "norm_out.": "conv_norm_out.",
}

_OPEN_CLIP_STARTS = {
    "token_embedding.": "text_model.embeddings.token_embedding.",
    "ln_final.": "text_model.final_layer_norm.",
}
_OPEN_CLIP_LAYER = re.compile(r"transformer\.resblocks\.(\d+)\.(.+)")
_OPEN_CLIP_LAYER_PARTS = {
    "ln_1.": "layer_norm1.",
    "ln_2.": "layer_norm2.",
    "mlp.c_fc.": "mlp.fc1.",
    "mlp.c_proj.": "mlp.fc2.",
    "attn.out_proj.": "self_attn.out_proj.",
}


def _whole(tensor: np.ndarray) -> np.ndarray:
    return tensor


def _transposed(tensor: np.ndarray) -> np.ndarray:
    return tensor.T


def _matrix(tensor: np.ndarray) -> np.ndarray:
    """The kernel of a 1 x 1 convolution as a matrix; a matrix, or a bias, as it is."""
    return tensor.reshape(tensor.shape[:2]) if tensor.ndim == 4 and tensor.shape[2:] == (1, 1) else tensor


def _third(number: int, tensor: np.ndarray) -> np.ndarray:
    """One of the three tensors that are stored on top of each other."""
    rows = len(tensor) // 3 if tensor.ndim else 0
    return tensor[number * rows : (number + 1) * rows] if rows else tensor


class Piece(NamedTuple):
    """Where a tensor is: the name of the stored tensor, and the view of it that is wanted."""

    stored: str
    view: Callable[[np.ndarray], np.ndarray] = _whole


Pieces = dict[str, Piece]
Rule = Callable[[Collection[str]], Pieces]


class RenamedSource:
    """A part of another source's tensors under other names, see `checkpoint_files.TensorSource`.

    Args:
        source: holds the tensors.
        pieces: where each tensor is, by its new name.
        prefix: comes before the names in ``pieces``.
    """

    def __init__(self, source: TensorSource, pieces: Mapping[str, Piece], prefix: str = ""):
        self._source, self._pieces, self._prefix = source, dict(pieces), prefix

    def names(self) -> Iterable[str]:
        """The new names of all tensors."""
        return self._pieces.keys()

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor, without reading it."""
        stored, view = self._pieces[name]
        return view(np.broadcast_to(np.float32(0), self._source.shape(self._prefix + stored))).shape

    def tensor(self, name: str) -> np.ndarray:
        """Reads a tensor."""
        stored, view = self._pieces[name]
        return view(self._source.tensor(self._prefix + stored))


def unet_pieces(names: Collection[str]) -> Pieces:
    """The rule for the UNet. Levels and layers are counted from the places of the downsamplers."""
    downsamplers = [int(match[1]) for name in names if (match := _FIRST_DOWNSAMPLER.match(name))]
    blocks = {int(match[2]) for name in names if (match := _UNET_BLOCK.match(name)) and match[1] == "input"}
    layers = min(downsamplers, default=max(blocks, default=1) + 1) - 1
    return {_unet_name(name, max(layers, 1)): Piece(name) for name in names}


def _unet_name(name: str, layers: int) -> str:
    """The name in diffusers of a tensor of a UNet with so many ResNet blocks on each level of the way down."""
    match = _UNET_BLOCK.fullmatch(name)
    if not match or name.startswith("input_blocks.0."):
        start, rest = _split(name, _UNET_STARTS)
        return start + (_replaced(rest, _UNET_RESNET) if ".resnets." in start else rest)
    side, number, place, rest = match[1], int(match[2]), match[3], match[4]
    level, layer = divmod(number - 1 if side == "input" else number, layers + 1)
    block = f"{'down' if side == 'input' else 'up'}_blocks.{level}."
    if rest.startswith("op.") and place == "0":
        return f"{block}downsamplers.0.conv.{rest[3:]}"
    if rest.startswith("conv.") and place in "12":  # after the ResNet block, and the transformer if there is one
        return f"{block}upsamplers.0.{rest}"
    if place == "0":
        return f"{block}resnets.{layer}.{_replaced(rest, _UNET_RESNET)}"
    return f"{block}attentions.{layer}.{rest}" if place == "1" else name


def vae_pieces(names: Collection[str]) -> Pieces:
    """The rule for the autoencoder, whose decoder counts its levels in the other direction."""
    levels = [int(match[2]) for name in names if (match := _VAE_BLOCK.match(name)) and match[1] == "decoder.up"]
    return {
        _vae_name(name, max(levels, default=0)): Piece(name, _matrix if "mid.attn_1." in name else _whole)
        for name in names
    }


def _vae_name(name: str, last_level: int) -> str:
    if match := _VAE_BLOCK.fullmatch(name):
        side, level, kind, rest = match[1], int(match[2]), match[3], match[4]
        level = last_level - level if side == "decoder.up" else level
        rest = re.sub(r"^(\d+)\.nin_shortcut\.", r"\1.conv_shortcut.", rest)
        return f"{side}_blocks.{level}.{_VAE_BLOCK_PARTS[kind]}{rest}"
    coder, dot, rest = name.partition(".")
    return coder + dot + _replaced(rest, _VAE_STARTS)


def same_pieces(names: Collection[str]) -> Pieces:
    """The rule for parts that have the names of diffusers or transformers: CLIP's text encoder, some autoencoders."""
    return {name: Piece(name) for name in names}


def open_clip_pieces(names: Collection[str], layers: int) -> Pieces:
    """The rule for OpenCLIP's text encoder, where query, key and value are one tensor.

    Args:
        names: the stored names.
        layers: how many layers to keep; later ones are left out.
    """
    pieces: Pieces = {}
    for name in names:
        match = _OPEN_CLIP_LAYER.fullmatch(name)
        if not match:
            pieces |= _open_clip_edge(name)
        elif int(match[1]) < layers:
            pieces |= _open_clip_layer(name, f"text_model.encoder.layers.{match[1]}.", match[2])
    return pieces


def _open_clip_edge(name: str) -> Pieces:
    if name == "positional_embedding":
        return {"text_model.embeddings.position_embedding.weight": Piece(name)}
    if name == "text_projection":
        return {"text_projection.weight": Piece(name, _transposed)}
    return {_replaced(name, _OPEN_CLIP_STARTS): Piece(name)}


def _open_clip_layer(name: str, layer: str, rest: str) -> Pieces:
    if rest in ("attn.in_proj_weight", "attn.in_proj_bias"):
        leaf = rest.removeprefix("attn.in_proj_")
        return {
            f"{layer}self_attn.{part}_proj.{leaf}": Piece(name, functools.partial(_third, number))
            for number, part in enumerate("qkv")
        }
    return {layer + _replaced(rest, _OPEN_CLIP_LAYER_PARTS): Piece(name)}


def _split(name: str, starts: Mapping[str, str]) -> tuple[str, str]:
    """The replacement of a name's start, and the rest; an empty start if the table does not know it."""
    for old, new in starts.items():
        if name.startswith(old):
            return new, name[len(old) :]
    return "", name


def _replaced(name: str, starts: Mapping[str, str]) -> str:
    return "".join(_split(name, starts))
