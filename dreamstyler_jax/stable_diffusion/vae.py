"""The autoencoder of latent diffusion (Rombach et al. 2022), laid out as in ``diffusers``' checkpoints."""

import dataclasses
import itertools
from typing import Annotated, Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from dreamstyler_jax.runtime.documents import Few, Range, Size
from dreamstyler_jax.runtime.errors import UserError
from dreamstyler_jax.stable_diffusion.layers import (
    Conv1x1,
    Downsample,
    Levels,
    Linear,
    ModelConfig,
    ResnetBlock,
    Upsample,
)
from dreamstyler_jax.stable_diffusion.ops.attention import attention
from dreamstyler_jax.stable_diffusion.ops.convolution import Conv3x3
from dreamstyler_jax.stable_diffusion.ops.norms import GroupNorm

EPSILON = 1e-6
LOG_VARIANCE_RANGE = (-30.0, 20.0)


@dataclasses.dataclass(frozen=True)
class AutoencoderKLConfig(ModelConfig):
    """Settings of the autoencoder, named as in its ``config.json``, with the defaults of that format.

    Height and width are halved once per entry of ``block_out_channels`` after the first. Diffusion works on
    ``latents * scaling_factor``. ``sample_size`` (the training size in pixels) is kept but has no influence.

    Raises:
        UserError: the channels cannot be divided into groups.
    """

    in_channels: Size = 3
    out_channels: Size = 3
    block_out_channels: Levels = (64,)
    layers_per_block: Few = 1
    latent_channels: Size = 4
    norm_num_groups: Size = 32
    sample_size: Size | tuple[Size, ...] | None = 32
    scaling_factor: Annotated[float, Range(1e-6, 1e6)] = 0.18215
    use_quant_conv: bool = True
    use_post_quant_conv: bool = True
    mid_block_add_attention: bool = True

    supported: ClassVar = {
        "down_block_types": ("DownEncoderBlock2D",),
        "up_block_types": ("UpDecoderBlock2D",),
        "act_fn": ("silu", "swish"),
        "shift_factor": (None, 0.0),
        "latents_mean": (None,),
        "latents_std": (None,),
    }
    identity: ClassVar = {"_class_name": "AutoencoderKL"}

    def __post_init__(self):
        for channels in self.block_out_channels:
            if channels % self.norm_num_groups:
                raise UserError(f"config.json: {channels} channels are no {self.norm_num_groups} equal norm_num_groups")

    def to_dict(self) -> dict[str, Any]:
        """The contents of a ``config.json`` from which :meth:`from_dict` and other libraries build the same model."""
        levels = len(self.block_out_channels)
        types = {"down_block_types": ["DownEncoderBlock2D"] * levels, "up_block_types": ["UpDecoderBlock2D"] * levels}
        return {**super().to_dict(), **types}

    @property
    def downsampling(self) -> int:
        """Pixels per latent, along height and along width."""
        return 2 ** (len(self.block_out_channels) - 1)

    @property
    def full_size_channels(self) -> int:
        """The most channels that the decoder has at the size of the picture."""
        return max(self.block_out_channels[:2])


class VAEAttention(nnx.Module):
    """Single-head self-attention over all positions of a feature map, with a residual connection."""

    def __init__(self, features: int, groups: int, *, rngs: nnx.Rngs):
        self.group_norm = GroupNorm(features, groups, EPSILON, rngs=rngs)
        self.to_q = Linear(features, features, rngs=rngs)
        self.to_k = Linear(features, features, rngs=rngs)
        self.to_v = Linear(features, features, rngs=rngs)
        self.to_out = nnx.List([Linear(features, features, rngs=rngs)])

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps ``[B, H, W, C]`` to ``[B, H, W, C]``."""
        h = self.group_norm(x).reshape(x.shape[0], -1, x.shape[-1])
        h = attention(self.to_q(h), self.to_k(h), self.to_v(h), heads=1)
        return x + self.to_out[0](h).reshape(x.shape)


class VAEMidBlock(nnx.Module):
    """The lowest resolution: ResNet block, attention (if the config has it), ResNet block."""

    def __init__(self, config: AutoencoderKLConfig, *, rngs: nnx.Rngs):
        features, groups = config.block_out_channels[-1], config.norm_num_groups
        self.resnets = nnx.List(
            [ResnetBlock(features, features, groups=groups, epsilon=EPSILON, rngs=rngs) for _ in range(2)]
        )
        layers = [VAEAttention(features, groups, rngs=rngs)] if config.mid_block_add_attention else []
        self.attentions = nnx.List(layers)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps ``[B, H, W, C]`` to ``[B, H, W, C]``."""
        x = self.resnets[0](x)
        for layer in self.attentions:
            x = layer(x)
        return self.resnets[1](x)


class VAEBlock(nnx.Module):
    """One resolution level: ResNet blocks, then a change of resolution (``"down"``, ``"up"``) or ``None``."""

    def __init__(
        self, in_features: int, features: int, *, layers: int, groups: int, resample: str | None, rngs: nnx.Rngs
    ):
        widths = [in_features] + [features] * layers
        resnets = [
            ResnetBlock(before, after, groups=groups, epsilon=EPSILON, rngs=rngs)
            for before, after in itertools.pairwise(widths)
        ]
        self.resnets = nnx.List(resnets)
        self.downsamplers = nnx.List([Downsample(features, (0, 1), rngs=rngs)] if resample == "down" else [])
        self.upsamplers = nnx.List([Upsample(features, rngs=rngs)] if resample == "up" else [])

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps ``[B, H, W, in_features]`` to ``[B, H', W', features]``."""
        for layer in (*self.resnets, *self.downsamplers, *self.upsamplers):
            x = layer(x)
        return x


class Encoder(nnx.Module):
    """Maps a picture to the moments of its latent distribution (before ``quant_conv``)."""

    def __init__(self, config: AutoencoderKLConfig, *, rngs: nnx.Rngs):
        widths, groups = config.block_out_channels, config.norm_num_groups
        self.conv_in = Conv3x3(config.in_channels, widths[0], rngs=rngs)
        blocks = []
        for level, width in enumerate(widths):
            resample = "down" if level < len(widths) - 1 else None
            before = widths[max(level - 1, 0)]
            layers = config.layers_per_block
            blocks.append(VAEBlock(before, width, layers=layers, groups=groups, resample=resample, rngs=rngs))
        self.down_blocks = nnx.List(blocks)
        self.mid_block = VAEMidBlock(config, rngs=rngs)
        self.conv_norm_out = GroupNorm(widths[-1], groups, EPSILON, rngs=rngs)
        self.conv_out = Conv3x3(widths[-1], 2 * config.latent_channels, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps ``[B, H, W, in_channels]`` to ``[B, h, w, 2 * latent_channels]``."""
        x = self.mid_block(self.levels(x)[-1])
        return self.conv_out(self.conv_norm_out.silu(x))

    def levels(self, x: jax.Array) -> list[jax.Array]:
        """The features ``[B, h, w, c]`` of every resolution level, the highest first, of ``[B, H, W, in_channels]``."""
        x, features = self.conv_in(x.astype(self.conv_in.kernel.dtype)), []
        for block in self.down_blocks:
            for layer in block.resnets:
                x = layer(x)
            features.append(x)
            for layer in block.downsamplers:
                x = layer(x)
        return features


class Decoder(nnx.Module):
    """Maps latents (after ``post_quant_conv``) to a picture."""

    def __init__(self, config: AutoencoderKLConfig, *, rngs: nnx.Rngs):
        widths, groups = config.block_out_channels[::-1], config.norm_num_groups
        self.conv_in = Conv3x3(config.latent_channels, widths[0], rngs=rngs)
        self.mid_block = VAEMidBlock(config, rngs=rngs)
        blocks = []
        for level, width in enumerate(widths):
            resample = "up" if level < len(widths) - 1 else None
            before = widths[max(level - 1, 0)]
            layers = config.layers_per_block + 1
            blocks.append(VAEBlock(before, width, layers=layers, groups=groups, resample=resample, rngs=rngs))
        self.up_blocks = nnx.List(blocks)
        self.conv_norm_out = GroupNorm(widths[-1], groups, EPSILON, rngs=rngs)
        self.conv_out = Conv3x3(widths[-1], config.out_channels, rngs=rngs)

    def __call__(self, z: jax.Array) -> jax.Array:
        """Maps ``[B, h, w, latent_channels]`` to ``[B, H, W, out_channels]``."""
        x = self.mid_block(self.conv_in(z))
        for block in self.up_blocks:
            x = block(x)
        return self.conv_out(self.conv_norm_out.silu(x))


class AutoencoderKL(nnx.Module):
    """The autoencoder between pictures in [-1, 1] and the latents in which diffusion works.

    ``encode`` and ``decode`` use unscaled latents ``z``: the diffusion model's are ``z * config.scaling_factor``.
    """

    config_class: ClassVar = AutoencoderKLConfig

    def __init__(self, config: AutoencoderKLConfig, *, rngs: nnx.Rngs):
        self.config = config
        channels = config.latent_channels
        self.encoder = Encoder(config, rngs=rngs)
        self.decoder = Decoder(config, rngs=rngs)
        if config.use_quant_conv:
            self.quant_conv = Conv1x1(2 * channels, 2 * channels, rngs=rngs)
        if config.use_post_quant_conv:
            self.post_quant_conv = Conv1x1(channels, channels, rngs=rngs)

    def encode(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Computes the Gaussian posterior of the latents of pictures.

        Args:
            x: ``[B, H, W, 3]`` in [-1, 1]; H and W multiples of ``config.downsampling``.

        Returns:
            Mean and log variance, both ``[B, H/f, W/f, latent_channels]``; the log variance is clamped to [-30, 20].
        """
        moments = self.encoder(x)
        if self.config.use_quant_conv:
            moments = self.quant_conv(moments)
        mean, log_variance = jnp.split(moments, 2, axis=-1)
        return mean, jnp.clip(log_variance, *LOG_VARIANCE_RANGE)

    def decode(self, z: jax.Array) -> jax.Array:
        """Maps unscaled latents ``[B, h, w, latent_channels]`` to pictures ``[B, h*f, w*f, 3]``, about in [-1, 1]."""
        z = z.astype(self.decoder.conv_in.kernel.dtype)
        if self.config.use_post_quant_conv:
            z = self.post_quant_conv(z)
        return self.decoder(z)
