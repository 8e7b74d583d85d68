"""DINOv2 (Oquab et al. 2023), laid out as in the ``transformers`` library's checkpoints.

The similarity of two pictures is the cosine of their class tokens after the last layer norm, as DreamBooth (Ruiz et al.
2023) takes DINO's.
"""

import dataclasses
import re
from pathlib import Path
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from dreamstyler_jax.evaluation.encoders import PictureEncoder, Preprocessor
from dreamstyler_jax.evaluation.weight_files import Needed
from dreamstyler_jax.runtime.documents import Few, Side, Size
from dreamstyler_jax.stable_diffusion.checkpoint_files import open_weights
from dreamstyler_jax.stable_diffusion.layers import ACTIVATIONS, Epsilon, Linear, ModelConfig, check_heads
from dreamstyler_jax.stable_diffusion.ops.attention import attention
from dreamstyler_jax.stable_diffusion.ops.convolution import UNSET
from dreamstyler_jax.stable_diffusion.ops.norms import LayerNorm
from dreamstyler_jax.stable_diffusion.weights import read_config, read_model

_UNUSED = re.compile(r"embeddings\.mask_token")  # for pretraining
_CUBIC = -0.75  # the parameter of PyTorch's bicubic filter


@dataclasses.dataclass(frozen=True)
class Dinov2Config(ModelConfig):
    """Settings of a DINOv2, named as in its ``config.json``, with the defaults of that format."""

    hidden_size: Size = 768
    num_hidden_layers: Few = 12
    num_attention_heads: Size = 12
    mlp_ratio: Few = 4
    hidden_act: str = "gelu"
    layer_norm_eps: Epsilon = 1e-6
    image_size: Side = 224
    patch_size: Side = 14

    supported: ClassVar = {
        "model_type": ("dinov2",), "hidden_act": tuple(ACTIVATIONS), "qkv_bias": (True,), "use_swiglu_ffn": (False,),
    }  # fmt: skip
    identity: ClassVar = {"architectures": ["Dinov2Model"], "model_type": "dinov2"}

    def __post_init__(self):
        check_heads(self.hidden_size, self.num_attention_heads)


class Dinov2Embeddings(nnx.Module):
    """Cuts a picture into patches, projects them, and prepends the class token."""

    def __init__(self, config: Dinov2Config, *, rngs: nnx.Rngs):
        width, patch = config.hidden_size, config.patch_size
        projection = nnx.Conv(3, width, (patch, patch), strides=patch, padding="VALID", kernel_init=UNSET, rngs=rngs)
        self.cls_token = nnx.Param(UNSET(rngs.params(), (1, 1, width)))
        self.patch_embeddings = nnx.Dict(projection=projection)
        self.position_embeddings = nnx.Param(UNSET(rngs.params(), (1, 1 + (config.image_size // patch) ** 2, width)))

    def __call__(self, pixels: jax.Array) -> jax.Array:
        """Maps ``[B, H, W, 3]`` to ``[B, 1 + patches, D]``."""
        patches = self.patch_embeddings["projection"](pixels)
        batch, height, breadth, width = patches.shape
        class_position, positions = jnp.split(self.position_embeddings[...], [1], axis=1)
        positions = resized_positions(positions[0], height, breadth)
        class_token = jnp.broadcast_to(self.cls_token[...] + class_position, (batch, 1, width))
        return jnp.concatenate([class_token, patches.reshape(batch, -1, width) + positions], axis=1)


def resized_positions(positions: jax.Array, height: int, width: int) -> jax.Array:
    """Position vectors [G * G, D] of a square grid for another grid, [height * width, D], by a bicubic filter."""
    side = round(positions.shape[0] ** 0.5)
    if (height, width) == (side, side):
        return positions
    grid = positions.reshape(side, side, -1)
    resized = jnp.einsum("hg,wk,gkd->hwd", bicubic(height, side), bicubic(width, side), grid)
    return resized.reshape(height * width, -1)


def bicubic(new: int, old: int) -> np.ndarray:
    """The matrix float32[new, old] of PyTorch's bicubic interpolation without antialiasing (Keys 1981, a = -0.75)."""
    centres = (np.arange(new) + 0.5) * old / new - 0.5
    matrix = np.zeros((new, old))
    for tap in range(-1, 3):
        index = np.floor(centres) + tap
        distance = np.abs(centres - index)
        near = ((_CUBIC + 2) * distance - (_CUBIC + 3)) * distance**2 + 1
        far = _CUBIC * (((distance - 5) * distance + 8) * distance - 4)
        np.add.at(matrix, (np.arange(new), np.clip(index, 0, old - 1).astype(int)), np.where(distance <= 1, near, far))
    return matrix.astype(np.float32)


class Dinov2Layer(nnx.Module):
    """One pre-norm transformer layer whose two branches are scaled channel by channel."""

    def __init__(self, config: Dinov2Config, *, rngs: nnx.Rngs):
        width, inner = config.hidden_size, config.hidden_size * config.mlp_ratio
        self.heads, self.activation = config.num_attention_heads, config.hidden_act
        self.norm1 = LayerNorm(width, config.layer_norm_eps, rngs=rngs)
        projections = {name: Linear(width, width, rngs=rngs) for name in ("query", "key", "value")}
        self.attention = nnx.Dict(
            attention=nnx.Dict(projections), output=nnx.Dict(dense=Linear(width, width, rngs=rngs))
        )
        self.layer_scale1 = nnx.Dict(lambda1=nnx.Param(UNSET(rngs.params(), (width,))))
        self.norm2 = LayerNorm(width, config.layer_norm_eps, rngs=rngs)
        self.mlp = nnx.Dict(fc1=Linear(width, inner, rngs=rngs), fc2=Linear(inner, width, rngs=rngs))
        self.layer_scale2 = nnx.Dict(lambda1=nnx.Param(UNSET(rngs.params(), (width,))))

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps ``[B, L, D]`` to ``[B, L, D]``."""
        normed = self.norm1(x)
        query, key, value = (self.attention["attention"][name](normed) for name in ("query", "key", "value"))
        attended = self.attention["output"]["dense"](attention(query, key, value, self.heads))
        x += attended * self.layer_scale1["lambda1"][...]
        inner = ACTIVATIONS[self.activation](self.mlp["fc1"](self.norm2(x)))
        return x + self.mlp["fc2"](inner) * self.layer_scale2["lambda1"][...]


class Dinov2Model(nnx.Module):
    """The image encoder."""

    config_class: ClassVar = Dinov2Config

    def __init__(self, config: Dinov2Config, *, rngs: nnx.Rngs):
        self.config = config
        self.embeddings = Dinov2Embeddings(config, rngs=rngs)
        layers = [Dinov2Layer(config, rngs=rngs) for _ in range(config.num_hidden_layers)]
        self.encoder = nnx.Dict(layer=nnx.List(layers))
        self.layernorm = LayerNorm(config.hidden_size, config.layer_norm_eps, rngs=rngs)

    def __call__(self, pixels: jax.Array) -> jax.Array:
        """Maps pictures ``[B, H, W, 3]``, normalized as the files say, to class tokens ``[B, D]``, not of unit length.

        Sides are multiples of the patch size.
        """
        x = self.embeddings(pixels)
        for layer in self.encoder["layer"]:
            x = layer(x)
        return self.layernorm(x[:, 0])


def load_dinov2(folder: Path) -> PictureEncoder:
    """Reads a folder as ``transformers`` saves Dinov2Model and its image processor, or as the hub has it.

    Raises:
        UserError: one of the files is missing or damaged, or of another network.
    """
    config = read_config(Dinov2Model, folder)
    with open_weights(folder) as source:
        needed = Needed(source, _UNUSED)
        graphdef, params = read_model(Dinov2Model, config, needed, dtype=jnp.float32, origin=str(folder))
    return PictureEncoder(graphdef, params, Preprocessor.load(folder, None, "DINOv2"))
