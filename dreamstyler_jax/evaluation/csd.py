"""CSD, contrastive style descriptors: a CLIP image encoder trained to see style alone (Somepalli et al. 2024).

The layout is that of OpenAI's CLIP, in which its checkpoint is published.
"""

import dataclasses
import re
from pathlib import Path
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from dreamstyler_jax.evaluation.encoders import PictureEncoder, Preprocessor
from dreamstyler_jax.evaluation.weight_files import Shapes, read_network
from dreamstyler_jax.stable_diffusion.layers import ACTIVATIONS, Linear, ModelConfig
from dreamstyler_jax.stable_diffusion.ops.attention import attention
from dreamstyler_jax.stable_diffusion.ops.convolution import UNSET
from dreamstyler_jax.stable_diffusion.ops.norms import LayerNorm

HEAD_WIDTH = 64  # of every CLIP of OpenAI's
_LAYER = re.compile(r"backbone\.transformer\.resblocks\.(\d+)\..+")


@dataclasses.dataclass(frozen=True)
class CsdConfig(ModelConfig):
    """Sizes of the network; by default those of the published ViT-L/14."""

    width: int = 1024
    layers: int = 24
    patch_size: int = 14
    patches: int = 256  # of a picture
    features: int = 768


class CsdAttention(nnx.Module):
    """Multi-head self-attention with one matrix for queries, keys and values."""

    def __init__(self, width: int, *, rngs: nnx.Rngs):
        self.heads = width // HEAD_WIDTH
        self.in_proj_weight = nnx.Param(UNSET(rngs.params(), (3 * width, width)))
        self.in_proj_bias = nnx.Param(UNSET(rngs.params(), (3 * width,)))
        self.out_proj = Linear(width, width, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps ``[B, L, D]`` to ``[B, L, D]``."""
        query, key, value = jnp.split(x @ self.in_proj_weight[...].T + self.in_proj_bias[...], 3, axis=-1)
        return self.out_proj(attention(query, key, value, self.heads))


class CsdMLP(nnx.Module):
    """The two-layer perceptron of a transformer layer."""

    def __init__(self, width: int, *, rngs: nnx.Rngs):
        self.c_fc = Linear(width, 4 * width, rngs=rngs)
        self.c_proj = Linear(4 * width, width, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps ``[..., D]`` to ``[..., D]``."""
        return self.c_proj(ACTIVATIONS["quick_gelu"](self.c_fc(x)))


class CsdLayer(nnx.Module):
    """One pre-norm transformer layer."""

    def __init__(self, width: int, *, rngs: nnx.Rngs):
        self.ln_1 = LayerNorm(width, rngs=rngs)
        self.attn = CsdAttention(width, rngs=rngs)
        self.ln_2 = LayerNorm(width, rngs=rngs)
        self.mlp = CsdMLP(width, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps ``[B, L, D]`` to ``[B, L, D]``."""
        x += self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class CsdTransformer(nnx.Module):
    """The stack of layers."""

    def __init__(self, config: CsdConfig, *, rngs: nnx.Rngs):
        self.resblocks = nnx.List([CsdLayer(config.width, rngs=rngs) for _ in range(config.layers)])


class CsdBackbone(nnx.Module):
    """CLIP's image encoder without its projection."""

    def __init__(self, config: CsdConfig, *, rngs: nnx.Rngs):
        width, patch = config.width, config.patch_size
        self.conv1 = nnx.Conv(
            3, width, (patch, patch), strides=patch, padding="VALID", use_bias=False, kernel_init=UNSET, rngs=rngs
        )
        self.class_embedding = nnx.Param(UNSET(rngs.params(), (width,)))
        self.positional_embedding = nnx.Param(UNSET(rngs.params(), (1 + config.patches, width)))
        self.ln_pre = LayerNorm(width, rngs=rngs)
        self.transformer = CsdTransformer(config, rngs=rngs)
        self.ln_post = LayerNorm(width, rngs=rngs)

    def __call__(self, pixels: jax.Array) -> jax.Array:
        """Maps pictures ``[B, S, S, 3]`` to the class states ``[B, D]``."""
        patches = self.conv1(pixels)
        patches = patches.reshape(patches.shape[0], -1, patches.shape[-1])
        class_token = jnp.broadcast_to(self.class_embedding[...], (patches.shape[0], 1, patches.shape[-1]))
        x = self.ln_pre(jnp.concatenate([class_token, patches], axis=1) + self.positional_embedding[...])
        for layer in self.transformer.resblocks:
            x = layer(x)
        return self.ln_post(x[:, 0])


class Csd(nnx.Module):
    """The style descriptor. The published content projection is left out: its authors advise against it."""

    config_class: ClassVar = CsdConfig
    unused: ClassVar = re.compile(r"last_layer_content(\..+)?")

    def __init__(self, config: CsdConfig, *, rngs: nnx.Rngs):
        self.backbone = CsdBackbone(config, rngs=rngs)
        self.last_layer_style = nnx.Param(UNSET(rngs.params(), (config.width, config.features)))

    @staticmethod
    def config_of(shapes: Shapes) -> CsdConfig:
        """The sizes that follow from the shapes of the tensors."""
        default = CsdConfig()
        width, _, patch, _ = shapes.get("backbone.conv1.weight", (default.width, 3, default.patch_size, 0))
        positions, _ = shapes.get("backbone.positional_embedding", (1 + default.patches, 0))
        _, features = shapes.get("last_layer_style", (0, default.features))
        layers = {match[1] for name in shapes if (match := _LAYER.fullmatch(name))}
        return CsdConfig(width, len(layers) or default.layers, patch, positions - 1, features)

    def __call__(self, pixels: jax.Array) -> jax.Array:
        """Maps pictures ``[B, S, S, 3]``, normalized as CLIP's, to style features ``[B, P]``, not of unit length."""
        return self.backbone(pixels) @ self.last_layer_style[...]


def load_csd(path: Path) -> PictureEncoder:
    """Reads CSD.

    Raises:
        UserError: see `weight_files.read_network`.
    """
    graphdef, params = read_network(Csd, path, "CSD")
    kernel = params["backbone"]["conv1"]["kernel"]
    positions = params["backbone"]["positional_embedding"]
    size = kernel.shape[0] * round((positions.shape[0] - 1) ** 0.5)
    return PictureEncoder(graphdef, params, Preprocessor(size, size))
