"""TAESD, a small autoencoder with the latents of a large one, laid out as in ``diffusers``' checkpoints.

Layers have the numbers of their checkpoints, which also count the layers that have no parameters.
"""

import dataclasses
from typing import Annotated, Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from dreamstyler_jax.runtime.documents import Few, Range, Size
from dreamstyler_jax.runtime.errors import UserError
from dreamstyler_jax.stable_diffusion.layers import Levels, ModelConfig, doubled
from dreamstyler_jax.stable_diffusion.ops.convolution import Conv3x3

LATENT_RANGE = 3.0  # the decoder squeezes latents into -3 to 3


@dataclasses.dataclass(frozen=True)
class AutoencoderTinyConfig(ModelConfig):
    """Settings of the autoencoder, named as in its ``config.json``, with the defaults of that format.

    Height and width are halved once per entry of ``encoder_block_out_channels`` after the first.

    Raises:
        UserError: encoder and decoder do not have the same number of levels, or the levels of one have several widths.
    """

    in_channels: Size = 3
    out_channels: Size = 3
    encoder_block_out_channels: Levels = (64, 64, 64, 64)
    decoder_block_out_channels: Levels = (64, 64, 64, 64)
    latent_channels: Size = 4
    num_encoder_blocks: tuple[Few, ...] = (1, 3, 3, 3)
    num_decoder_blocks: tuple[Few, ...] = (3, 3, 3, 1)
    scaling_factor: Annotated[float, Range(1e-6, 1e6)] = 1.0

    supported: ClassVar = {
        "act_fn": ("relu",),
        "upsample_fn": ("nearest",),
        "upsampling_scaling_factor": (2,),
        "shift_factor": (0.0,),
    }
    identity: ClassVar = {"_class_name": "AutoencoderTiny"}

    def __post_init__(self):
        widths = self.encoder_block_out_channels, self.decoder_block_out_channels
        if len({len(entry) for entry in (*widths, self.num_encoder_blocks, self.num_decoder_blocks)}) != 1:
            raise UserError("config.json: encoder and decoder of a tiny autoencoder must have equally many levels")
        if any(len(set(entry)) != 1 for entry in widths):
            raise UserError("config.json: all levels of a tiny autoencoder must have the same number of channels")

    @property
    def downsampling(self) -> int:
        """Pixels per latent, along height and along width."""
        return 2 ** (len(self.encoder_block_out_channels) - 1)

    @property
    def full_size_channels(self) -> int:
        """The most channels that the decoder has at the size of the picture."""
        return self.decoder_block_out_channels[0]


class ReLU(nnx.Module):
    """The rectifier as a layer with a number."""

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps an array to one of its shape."""
        return jax.nn.relu(x)


class Doubling(nnx.Module):
    """`layers.doubled` as a layer with a number."""

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps ``[B, H, W, C]`` to ``[B, 2H, 2W, C]``."""
        return doubled(x)


class TinyBlock(nnx.Module):
    """Three 3 x 3 convolutions with a residual connection, a rectifier after each."""

    def __init__(self, features: int, *, rngs: nnx.Rngs):
        first, second, third = (Conv3x3(features, features, rngs=rngs) for _ in range(3))
        self.conv = nnx.List([first, ReLU(), second, ReLU(), third])

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps ``[B, H, W, C]`` to ``[B, H, W, C]``."""
        h = x
        for layer in self.conv:
            h = layer(h)
        return jax.nn.relu(h + x)


class TinyEncoder(nnx.Module):
    """Maps a picture to latents."""

    def __init__(self, config: AutoencoderTinyConfig, *, rngs: nnx.Rngs):
        width = config.encoder_block_out_channels[0]
        layers: list[Any] = [Conv3x3(config.in_channels, width, rngs=rngs)]
        for level, blocks in enumerate(config.num_encoder_blocks):
            if level:
                layers.append(Conv3x3(width, width, strides=2, use_bias=False, rngs=rngs))
            layers += [TinyBlock(width, rngs=rngs) for _ in range(blocks)]
        self.layers = nnx.List([*layers, Conv3x3(width, config.latent_channels, rngs=rngs)])

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps ``[B, H, W, in_channels]`` in [-1, 1] to ``[B, h, w, latent_channels]``."""
        return self.layers[-1](self.levels(x)[-1])

    def levels(self, x: jax.Array) -> list[jax.Array]:
        """The features ``[B, h, w, c]`` of every resolution level, the highest first, of ``[B, H, W, in_channels]``."""
        first, *layers, _ = self.layers
        x, features = first((x.astype(first.kernel.dtype) + 1) / 2), []
        for layer in layers:
            if isinstance(layer, Conv3x3):  # which halves the map
                features.append(x)
            x = layer(x)
        return [*features, x]


class TinyDecoder(nnx.Module):
    """Maps latents to a picture."""

    def __init__(self, config: AutoencoderTinyConfig, *, rngs: nnx.Rngs):
        width = config.decoder_block_out_channels[0]
        layers: list[Any] = [Conv3x3(config.latent_channels, width, rngs=rngs), ReLU()]
        for level, blocks in enumerate(config.num_decoder_blocks):
            if level:
                layers += [Doubling(), Conv3x3(width, width, use_bias=False, rngs=rngs)]
            layers += [TinyBlock(width, rngs=rngs) for _ in range(blocks)]
        self.layers = nnx.List([*layers, Conv3x3(width, config.out_channels, rngs=rngs)])

    def __call__(self, z: jax.Array) -> jax.Array:
        """Maps ``[B, h, w, latent_channels]`` to ``[B, H, W, out_channels]``, about in [-1, 1]."""
        x = LATENT_RANGE * jnp.tanh(z.astype(self.layers[0].kernel.dtype) / LATENT_RANGE)
        for layer in self.layers:
            x = layer(x)
        return 2 * x - 1


class AutoencoderTiny(nnx.Module):
    """An autoencoder for `vae.AutoencoderKL`'s place; its latents are certain and by default need no scaling."""

    config_class: ClassVar = AutoencoderTinyConfig

    def __init__(self, config: AutoencoderTinyConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.encoder = TinyEncoder(config, rngs=rngs)
        self.decoder = TinyDecoder(config, rngs=rngs)

    def encode(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Computes the latents of pictures, as the mean and log variance of a distribution without variance.

        Args:
            x: ``[B, H, W, 3]`` in [-1, 1]; H and W multiples of ``config.downsampling``.

        Returns:
            The latents and minus infinity, both ``[B, H/f, W/f, latent_channels]``.
        """
        latents = self.encoder(x)
        return latents, jnp.full_like(latents, -jnp.inf)

    def decode(self, z: jax.Array) -> jax.Array:
        """Maps unscaled latents ``[B, h, w, latent_channels]`` to pictures ``[B, h*f, w*f, 3]``, about in [-1, 1]."""
        return self.decoder(z)
