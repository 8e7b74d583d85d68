"""The settings of networks that the names and shapes of their tensors tell, as ``config.json`` has them."""

import re
from typing import Any

from dreamstyler_jax.runtime.errors import UserError
from dreamstyler_jax.stable_diffusion.checkpoint_files import TensorSource


class Sizes:
    """What the names and shapes of a part's tensors tell.

    Args:
        source: the tensors.
        origin: names the file in errors.
        prefix: comes before all names.
    """

    def __init__(self, source: TensorSource, origin: str, prefix: str = ""):
        self._source, self._origin, self._prefix = source, origin, prefix
        self._names = set(source.names())

    def size(self, name: str, axis: int = 0) -> int:
        """The length of an axis of a tensor that the part must have."""
        shape = self._shape(name)
        if axis >= len(shape):
            raise UserError(f"{self._origin} is damaged; misshapen: {self._prefix + name} {shape}")
        return shape[axis]

    def rank(self, name: str) -> int:
        """The number of axes of a tensor that the part must have."""
        return len(self._shape(name))

    def count(self, stem: str) -> int:
        """How many numbered members the list ``stem`` has: one more than its largest number, of at most two digits."""
        start = f"{self._prefix}{stem}."
        numbers = (name[len(start) :].partition(".")[0] for name in self._names if name.startswith(start))
        return 1 + max((int(number) for number in numbers if re.fullmatch("[0-9]{1,2}", number)), default=-1)

    def _shape(self, name: str) -> tuple[int, ...]:
        if self._prefix + name not in self._names:
            raise UserError(f"{self._origin} is not complete; missing: {self._prefix + name}")
        return self._source.shape(self._prefix + name)


def text_config(source: TensorSource, layers: int, origin: str) -> dict[str, Any]:
    """The settings of a text encoder of so many layers that its tensors tell: the names are those of transformers."""
    sizes = Sizes(source, origin, "text_model." if any(n.startswith("text_model.") for n in source.names()) else "")
    settings = {
        "architectures": ["CLIPTextModel"],
        "vocab_size": sizes.size("embeddings.token_embedding.weight"),
        "hidden_size": sizes.size("embeddings.token_embedding.weight", 1),
        "intermediate_size": sizes.size("encoder.layers.0.mlp.fc1.weight"),
        "num_hidden_layers": layers,
        "max_position_embeddings": sizes.size("embeddings.position_embedding.weight"),
    }
    if "text_projection.weight" in source.names():
        projection = Sizes(source, origin).size("text_projection.weight")
        settings |= {"architectures": ["CLIPTextModelWithProjection"], "projection_dim": projection}
    return settings


def vae_config(source: TensorSource, origin: str) -> dict[str, Any]:
    """The settings of an autoencoder that its tensors tell: the names are those of diffusers."""
    sizes, names = Sizes(source, origin), set(source.names())
    return {
        "_class_name": "AutoencoderKL",
        "in_channels": sizes.size("encoder.conv_in.weight", 1),
        "out_channels": sizes.size("decoder.conv_out.weight"),
        "latent_channels": sizes.size("decoder.conv_in.weight", 1),
        "block_out_channels": _channels(sizes, "encoder.down_blocks"),
        "layers_per_block": sizes.count("encoder.down_blocks.0.resnets"),
        "use_quant_conv": "quant_conv.weight" in names,
        "use_post_quant_conv": "post_quant_conv.weight" in names,
        "mid_block_add_attention": "encoder.mid_block.attentions.0.group_norm.weight" in names,
    }


def unet_config(source: TensorSource, origin: str) -> dict[str, Any]:
    """The settings of a UNet that its tensors tell: the names are those of diffusers."""
    sizes = Sizes(source, origin)
    channels, layers = _channels(sizes, "down_blocks"), sizes.count("down_blocks.0.resnets")
    down, up = (
        [_depths(sizes, f"{side}_blocks.{level}", count) for level in range(len(channels))]
        for side, count in (("down", layers), ("up", layers + 1))
    )
    attends, middle = [level[0] > 0 for level in down], _depths(sizes, "mid_block", 1)
    return {
        "_class_name": "UNet2DConditionModel",
        "in_channels": sizes.size("conv_in.weight", 1),
        "out_channels": sizes.size("conv_out.weight"),
        "block_out_channels": channels,
        "layers_per_block": layers,
        "down_block_types": ["CrossAttnDownBlock2D" if attention else "DownBlock2D" for attention in attends],
        "mid_block_type": _mid_block_type(sizes),
        "up_block_types": ["CrossAttnUpBlock2D" if attention else "UpBlock2D" for attention in reversed(attends)],
        **_depth_settings(down, middle, up),
        "cross_attention_dim": cross_attention_dim(sizes),
        "use_linear_projection": sizes.rank(f"{_first_transformer(sizes)}.proj_in.weight") == 2,
    }


def cross_attention_dim(sizes: Sizes) -> int:
    """The width of the text states that a UNet attends to."""
    return sizes.size(f"{_first_transformer(sizes)}.transformer_blocks.0.attn2.to_k.weight", 1)


def _first_transformer(sizes: Sizes) -> str:
    """The name of the first transformer on the way down."""
    levels = range(sizes.count("down_blocks"))
    level = next((level for level in levels if sizes.count(f"down_blocks.{level}.attentions")), 0)
    return f"down_blocks.{level}.attentions.0"


def _depths(sizes: Sizes, block: str, layers: int) -> list[int]:
    """How many layers each transformer of a block has; 0 for one that is not there."""
    return [sizes.count(f"{block}.attentions.{layer}.transformer_blocks") for layer in range(max(layers, 1))]


def _mid_block_type(sizes: Sizes) -> str | None:
    """The middle block's type; distilled models have none, or one ResNet block and no attention."""
    types = {0: None, 1: "UNetMidBlock2D"}
    return types.get(sizes.count("mid_block.resnets"), "UNetMidBlock2DCrossAttn")


def _depth_settings(down: list[list[int]], middle: list[int], up: list[list[int]]) -> dict[str, Any]:
    """The settings for the depths of all transformers: one number, one for each level, or one for each transformer.

    A level without attention has a depth all the same: the last one's is that of the middle block.
    """
    filled = [level if level[0] else [1] for level in down]
    if not down[-1][0]:
        filled[-1] = [middle[0] or 1]
    equal = all(len(set(level)) == 1 for level in (*down, *up))
    if equal and [level[0] for level in down] == [level[0] for level in reversed(up)]:
        depths = [level[0] for level in filled]
        return {"transformer_layers_per_block": depths[0] if len(set(depths)) == 1 else depths}
    return {
        "transformer_layers_per_block": filled,
        "reverse_transformer_layers_per_block": [level if level[0] else [1] for level in up],
    }


def _channels(sizes: Sizes, blocks: str) -> list[int]:
    """The channels of each level."""
    levels = range(max(sizes.count(blocks), 1))
    return [sizes.size(f"{blocks}.{level}.resnets.0.conv2.weight") for level in levels]
