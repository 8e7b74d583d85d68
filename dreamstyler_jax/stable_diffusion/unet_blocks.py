"""The parts of the UNet: embeddings of the timestep and the text, attention, transformers, resolution levels."""

import math
from collections.abc import Sequence
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from dreamstyler_jax.runtime.devices import device as target_device
from dreamstyler_jax.stable_diffusion.layers import ACTIVATIONS, Conv1x1, Downsample, Linear, ResnetBlock, Upsample
from dreamstyler_jax.stable_diffusion.ops.attention import attention
from dreamstyler_jax.stable_diffusion.ops.convolution import UNSET
from dreamstyler_jax.stable_diffusion.ops.norms import GroupNorm, LayerNorm
from dreamstyler_jax.stable_diffusion.unet_config import UNet2DConditionConfig, UNetEncoderConfig

# The longest period of the sinusoidal timestep embedding, in steps.
MAX_PERIOD = 10_000
TRANSFORMER_NORM_EPSILON = 1e-6


def timestep_embedding(timesteps: jax.Array, features: int, *, flip_sin_to_cos: bool, freq_shift: int) -> jax.Array:
    """Sinusoids of the timestep at geometrically spaced frequencies (Vaswani et al. 2017, section 3.5).

    Args:
        timesteps: ``[B]``, integers or floats.
        features: even width of the embedding.
        flip_sin_to_cos: cosines first.
        freq_shift: 1 if the lowest frequency is exactly ``1 / MAX_PERIOD``, 0 if the sequence ends one step before.

    Returns:
        float32 ``[B, features]``.
    """
    half = features // 2
    # All in float32, as in training: the phases reach 1000, where the last bit makes a visible difference.
    exponents = np.float32(-math.log(MAX_PERIOD)) * np.arange(half, dtype=np.float32) / np.float32(half - freq_shift)
    phases = timesteps.astype(jnp.float32)[:, None] * np.exp(exponents)
    parts = [jnp.sin(phases), jnp.cos(phases)]
    return jnp.concatenate(parts[::-1] if flip_sin_to_cos else parts, axis=-1)


def guidance_embedding(scales: jax.Array, features: int) -> jax.Array:
    """Sinusoids of scales of guidance, float32 ``[B]``, to float32 ``[B, features]`` of even width.

    A scale of 1 stands for no guidance and is embedded as 0 (Luo et al. 2023, who subtract 1 from that of others).
    """
    half = features // 2
    frequencies = np.exp(np.arange(half, dtype=np.float32) * -(np.float32(math.log(MAX_PERIOD)) / (half - 1)))
    phases = (scales - 1.0)[:, None] * 1000.0 * frequencies
    return jnp.concatenate([jnp.sin(phases), jnp.cos(phases)], axis=-1)


class TimestepEmbedding(nnx.Module):
    """A two-layer perceptron on the sinusoids, to which a projection of a condition may be added."""

    def __init__(self, in_features: int, features: int, condition_features: int | None = None, *, rngs: nnx.Rngs):
        self.linear_1 = Linear(in_features, features, rngs=rngs)
        if condition_features is not None:
            self.cond_proj = Linear(condition_features, in_features, use_bias=False, rngs=rngs)
        self.linear_2 = Linear(features, features, rngs=rngs)

    def __call__(self, x: jax.Array, condition: jax.Array | None = None) -> jax.Array:
        """Maps ``[B, in_features]``, and a condition ``[B, condition_features]``, to ``[B, features]``."""
        if condition is not None:
            x = x + self.cond_proj(condition)
        return self.linear_2(jax.nn.silu(self.linear_1(x)))


class AttentionPooling(nnx.Module):
    """Attention pooling (Radford et al. 2021): the mean of a sequence attends to itself and the sequence."""

    def __init__(self, features: int, heads: int, *, rngs: nnx.Rngs):
        self.heads = heads
        self.positional_embedding = nnx.Param(UNSET(rngs.params(), (1, features)))
        self.q_proj = Linear(features, features, rngs=rngs)
        self.k_proj = Linear(features, features, rngs=rngs)
        self.v_proj = Linear(features, features, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps ``[B, L, D]`` to ``[B, D]``."""
        mean = x.mean(axis=1, keepdims=True) + self.positional_embedding[...]
        x = jnp.concatenate([mean, x], axis=1)
        return attention(self.q_proj(mean), self.k_proj(x), self.v_proj(x), self.heads)[:, 0]


class TextTimeEmbedding(nnx.Module):
    """A summary of the text states that is added to the time embedding."""

    def __init__(self, text_features: int, features: int, heads: int, *, rngs: nnx.Rngs):
        self.norm1 = LayerNorm(text_features, rngs=rngs)
        self.pool = AttentionPooling(text_features, heads, rngs=rngs)
        self.proj = Linear(text_features, features, rngs=rngs)
        self.norm2 = LayerNorm(features, rngs=rngs)

    def __call__(self, context: jax.Array) -> jax.Array:
        """Maps text states ``[B, L, D]`` to ``[B, features]``."""
        return self.norm2(self.proj(self.pool(self.norm1(context))))


# Text states [B, L, D] for all transformers alike, or a tuple of K, one for each in the order of the forward pass.
TextStates = jax.Array | tuple[jax.Array, ...]


def of_each_transformer(states: TextStates, count: int) -> tuple[jax.Array, ...]:
    """The text states that each of so many transformers reads."""
    return states if isinstance(states, tuple) else (states,) * count


def mean_states(states: TextStates) -> jax.Array:
    """What is read once for all transformers: the mean of their text states, ``[B, L, D]``."""
    return sum(states[1:], start=states[0]) / len(states) if isinstance(states, tuple) else states


class AddedConditions(NamedTuple):
    """What some denoisers get besides the text states.

    Attributes:
        pooled: the pooled text, ``[B, P]``, of SDXL (Podell et al. 2023, section 2.2).
        time_ids: ``[B, 6]``, of SDXL: the original height and width of the picture, the top and left of its crop, and
            its height and width, in pixels.
        guidance_scale: float32 ``[B]``, of models distilled as LCM.
    """

    pooled: jax.Array | None = None
    time_ids: jax.Array | None = None
    guidance_scale: jax.Array | None = None


class Attention(nnx.Module):
    """Multi-head attention of a feature map to itself or to the text states."""

    def __init__(self, features: int, context_features: int, heads: int, *, rngs: nnx.Rngs):
        self.heads = heads
        self.to_q = Linear(features, features, use_bias=False, rngs=rngs)
        self.to_k = Linear(context_features, features, use_bias=False, rngs=rngs)
        self.to_v = Linear(context_features, features, use_bias=False, rngs=rngs)
        self.to_out = nnx.List([Linear(features, features, rngs=rngs)])

    def __call__(self, x: jax.Array, context: jax.Array) -> jax.Array:
        """Maps ``x`` ``[B, T, C]`` and ``context`` ``[B, S, context_features]`` to ``[B, T, C]``."""
        return self.to_out[0](attention(self.to_q(x), self.to_k(context), self.to_v(context), self.heads))


class FeedForward(nnx.Module):
    """A GEGLU perceptron of four times the width (Shazeer 2020)."""

    def __init__(self, features: int, *, rngs: nnx.Rngs):
        self.proj_in = Linear(features, 8 * features, rngs=rngs)
        self.proj_out = Linear(4 * features, features, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps ``[..., C]`` to ``[..., C]``."""
        halves = two_products if target_device().platform == "tpu" else one_product
        value, gate = halves(x, self.proj_in)
        return self.proj_out(value * ACTIVATIONS["gelu"](gate))


def one_product(x: jax.Array, linear: nnx.Linear) -> tuple[jax.Array, jax.Array]:
    """Both halves of the channels of ``linear(x)``."""
    value, gate = jnp.split(linear(x), 2, axis=-1)
    return value, gate


def two_products(x: jax.Array, linear: nnx.Linear) -> tuple[jax.Array, jax.Array]:
    """The same without an array for both halves, whose gradient a TPU would write once more (docs/tpu.md)."""
    kernels = jnp.split(linear.kernel[...], 2, axis=-1)
    biases = jnp.split(cast(nnx.Param, linear.bias)[...], 2)
    value, gate = (x @ kernel + bias for kernel, bias in zip(kernels, biases, strict=True))
    return value, gate


class TransformerBlock(nnx.Module):
    """Self-attention, attention to the text and a perceptron, each after a norm and with a residual connection."""

    def __init__(self, features: int, context_features: int, heads: int, *, rngs: nnx.Rngs):
        self.norm1 = LayerNorm(features, rngs=rngs)
        self.attn1 = Attention(features, features, heads, rngs=rngs)
        self.norm2 = LayerNorm(features, rngs=rngs)
        self.attn2 = Attention(features, context_features, heads, rngs=rngs)
        self.norm3 = LayerNorm(features, rngs=rngs)
        self.ff = FeedForward(features, rngs=rngs)

    def __call__(self, x: jax.Array, context: jax.Array) -> jax.Array:
        """Maps ``x`` ``[B, T, C]`` and text states ``[B, L, D]`` to ``[B, T, C]``."""
        h = self.norm1(x)
        x += self.attn1(h, h)
        x += self.attn2(self.norm2(x), context)
        return x + self.ff(self.norm3(x))


class SpatialTransformer(nnx.Module):
    """So many transformer blocks over the positions of a feature map of one level, with a residual connection."""

    def __init__(self, config: UNetEncoderConfig, level: int, depth: int, *, rngs: nnx.Rngs):
        features, heads = config.block_out_channels[level], config.heads[level]
        project = Linear if config.use_linear_projection else Conv1x1
        self.norm = GroupNorm(features, config.norm_num_groups, TRANSFORMER_NORM_EPSILON, rngs=rngs)
        self.proj_in = project(features, features, rngs=rngs)
        blocks = [TransformerBlock(features, config.cross_attention_dim, heads, rngs=rngs) for _ in range(depth)]
        self.transformer_blocks = nnx.List(blocks)
        self.proj_out = project(features, features, rngs=rngs)

    def __call__(self, x: jax.Array, context: jax.Array) -> jax.Array:
        """Maps ``x`` ``[B, H, W, C]`` and text states ``[B, L, D]`` to ``[B, H, W, C]``."""
        h = self.proj_in(self.norm(x).reshape(x.shape[0], -1, x.shape[-1]))
        for block in self.transformer_blocks:
            h = block(h, context)
        return x + self.proj_out(h).reshape(x.shape)


class UNetBlock(nnx.Module):
    """One resolution level on the way down or up, with or without attention to the text.

    With the attribute ``remat`` a backward pass computes each layer again instead of keeping what is inside it.

    Args:
        config: the settings that all levels share.
        level: its number (0 is the highest resolution).
        widths: input channels of each ResNet block, skip connection included.
        depths: layers of the transformer after each ResNet block; empty if none follow.
        resample: ``"down"`` or ``"up"`` for a change of resolution at the end, ``None`` for none.
        rngs: as of every ``nnx`` module.
    """

    def __init__(
        self, config: UNetEncoderConfig, level: int, widths: Sequence[int], *, depths: Sequence[int],
        resample: str | None, rngs: nnx.Rngs,
    ):  # fmt: skip
        self.remat = False
        features = config.block_out_channels[level]
        self.resnets = nnx.List([unet_resnet(config, width, features, rngs=rngs) for width in widths])
        self.attentions = nnx.List([SpatialTransformer(config, level, depth, rngs=rngs) for depth in depths])
        self.downsamplers = nnx.List([Downsample(features, (1, 1), rngs=rngs)] if resample == "down" else [])
        self.upsamplers = nnx.List([Upsample(features, rngs=rngs)] if resample == "up" else [])

    def down(self, x: jax.Array, time: jax.Array, contexts: Sequence[jax.Array]) -> list[jax.Array]:
        """Runs the level on the way down.

        Args:
            x: ``[B, H, W, C]``.
            time: time embedding ``[B, time_embedding_features]``.
            contexts: the text states ``[B, L, D]`` of each of the level's transformers.

        Returns:
            The feature map after each layer. All are skip connections; the last is the input of the next level.
        """
        outputs = []
        for index in range(len(self.resnets)):
            x = self.layer(index, x, time, contexts)
            outputs.append(x)
        for layer in self.downsamplers:
            outputs.append(layer(outputs[-1]))
        return outputs

    def up(
        self,
        x: jax.Array,
        skips: Sequence[jax.Array],
        time: jax.Array,
        contexts: Sequence[jax.Array],
        size: tuple[int, int] | None = None,
    ) -> jax.Array:
        """Runs the first ``len(skips)`` layers of the level on the way up, then the upsampler if there is one.

        Args:
            x: ``[B, H, W, C]``.
            skips: the skip connection of each layer, ``[B, H, W, C']``.
            time: time embedding ``[B, time_embedding_features]``.
            contexts: as on the way down.
            size: height and width of the next level.

        Returns:
            The input of the next level.
        """
        for index, skip in enumerate(skips):
            x = self.layer(index, jnp.concatenate([x, skip], axis=-1), time, contexts)
        for layer in self.upsamplers:
            x = layer(x, size=size)
        return x

    def layer(self, index: int, x: jax.Array, time: jax.Array, contexts: Sequence[jax.Array]) -> jax.Array:
        """Runs a ResNet block and, in a level with attention, a transformer."""
        context = contexts[index] if self.attentions else None

        def run(x: jax.Array, time: jax.Array, context: jax.Array | None) -> jax.Array:
            x = self.resnets[index](x, time)
            return x if context is None else self.attentions[index](x, context)

        return jax.checkpoint(run)(x, time, context) if self.remat else run(x, time, context)


class UNetMidBlock(nnx.Module):
    """The lowest resolution: ResNet block, transformer, ResNet block; without attention a single ResNet block."""

    def __init__(self, config: UNetEncoderConfig, *, rngs: nnx.Rngs):
        features = config.block_out_channels[-1]
        lowest, depths = len(config.block_out_channels) - 1, [config.mid_depth] if config.mid_depth else []
        self.resnets = nnx.List([unet_resnet(config, features, features, rngs=rngs) for _ in range(1 + len(depths))])
        self.attentions = nnx.List([SpatialTransformer(config, lowest, depth, rngs=rngs) for depth in depths])

    def __call__(self, x: jax.Array, time: jax.Array, contexts: Sequence[jax.Array]) -> jax.Array:
        """Maps ``[B, H, W, C]`` to ``[B, H, W, C]``; ``contexts`` as in `UNetBlock.down`."""
        first, *rest = self.resnets
        x = first(x, time)
        for transformer, resnet, context in zip(self.attentions, rest, contexts, strict=True):
            x = resnet(transformer(x, context), time)
        return x


def unet_resnet(config: UNetEncoderConfig, in_features: int, features: int, *, rngs: nnx.Rngs) -> ResnetBlock:
    """A ResNet block with the UNet's normalisation and time embedding."""
    return ResnetBlock(
        in_features, features, groups=config.norm_num_groups, epsilon=config.norm_eps,
        time_features=config.time_embedding_features, rngs=rngs,
    )  # fmt: skip


def down_block(config: UNetEncoderConfig, level: int, *, rngs: nnx.Rngs) -> UNetBlock:
    """The block on the way down of resolution level ``level`` (0 is the highest resolution)."""
    channels = config.block_out_channels
    features = channels[level]
    widths = [channels[max(level - 1, 0)]] + [features] * (config.layers[level] - 1)
    resample = "down" if level < len(channels) - 1 else None
    return UNetBlock(config, level, widths, depths=config.down_depths[level], resample=resample, rngs=rngs)


def up_block(config: UNet2DConditionConfig, index: int, *, rngs: nnx.Rngs) -> UNetBlock:
    """The block number ``index`` on the way up (0 is the lowest resolution)."""
    channels = config.block_out_channels[::-1]
    features = channels[index]
    layers = config.layers[::-1][index] + 1
    before = [channels[max(index - 1, 0)]] + [features] * (layers - 1)
    skips = [features] * (layers - 1) + [channels[min(index + 1, len(channels) - 1)]]
    widths = [width + skip for width, skip in zip(before, skips, strict=True)]
    resample = "up" if index < len(channels) - 1 else None
    level = len(channels) - 1 - index
    return UNetBlock(config, level, widths, depths=config.up_depths[index], resample=resample, rngs=rngs)
