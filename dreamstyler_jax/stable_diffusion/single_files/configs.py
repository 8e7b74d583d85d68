"""The settings of networks that the names and shapes of their tensors tell, as ``config.json`` has them."""

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
        """How many numbered members the list ``stem`` has: one more than its largest number."""
        start = f"{self._prefix}{stem}."
        numbers = (name[len(start) :].partition(".")[0] for name in self._names if name.startswith(start))
        return 1 + max((int(number) for number in numbers if number.isdecimal()), default=-1)

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
    channels = _channels(sizes, "down_blocks")
    stems = (f"down_blocks.{level}.attentions.0.transformer_blocks" for level in range(len(channels)))
    depths = [sizes.count(stem) for stem in stems]
    attends = [depth > 0 for depth in depths]
    middle = "mid_block.attentions.0"
    # A level without attention has a depth all the same: the last one's is that of the middle block.
    depths = [depth or 1 for depth in depths]
    if not attends[-1]:
        depths[-1] = sizes.count(f"{middle}.transformer_blocks")
    return {
        "_class_name": "UNet2DConditionModel",
        "in_channels": sizes.size("conv_in.weight", 1),
        "out_channels": sizes.size("conv_out.weight"),
        "block_out_channels": channels,
        "layers_per_block": sizes.count("down_blocks.0.resnets"),
        "down_block_types": ["CrossAttnDownBlock2D" if attention else "DownBlock2D" for attention in attends],
        "up_block_types": ["CrossAttnUpBlock2D" if attention else "UpBlock2D" for attention in reversed(attends)],
        "transformer_layers_per_block": depths[0] if len(set(depths)) == 1 else depths,
        "cross_attention_dim": sizes.size(f"{middle}.transformer_blocks.0.attn2.to_k.weight", 1),
        "use_linear_projection": sizes.rank(f"{middle}.proj_in.weight") == 2,
    }


def _channels(sizes: Sizes, blocks: str) -> list[int]:
    """The channels of each level."""
    levels = range(max(sizes.count(blocks), 1))
    return [sizes.size(f"{blocks}.{level}.resnets.0.conv2.weight") for level in levels]
