"""The conditional UNet of Stable Diffusion (Rombach et al. 2022), laid out as in ``diffusers``' checkpoints."""

import dataclasses
import math
from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from dreamstyler_jax.runtime.errors import UserError
from dreamstyler_jax.stable_diffusion.layers import (
    ACTIVATIONS,
    Conv1x1,
    Downsample,
    Linear,
    ModelConfig,
    ResnetBlock,
    Upsample,
)
from dreamstyler_jax.stable_diffusion.ops.attention import attention
from dreamstyler_jax.stable_diffusion.ops.convolution import UNSET, Conv3x3
from dreamstyler_jax.stable_diffusion.ops.norms import GroupNorm, LayerNorm

# The longest period of the sinusoidal timestep embedding, in steps.
MAX_PERIOD = 10_000
TRANSFORMER_NORM_EPSILON = 1e-6


@dataclasses.dataclass(frozen=True)
class UNetEncoderConfig(ModelConfig):
    """Settings of the way down and the bottom of the U, named as in ``config.json``, with the defaults of that format.

    ``attention_head_dim`` is, by a historic mistake of that format, the *number* of heads (of all levels, or of each).
    ``upcast_attention`` has no influence, attention logits being float32 here in any case, and is only kept.
    ``addition_embed_type = "text"`` adds a pooled summary of the text states to the time embedding.
    """

    in_channels: int = 4
    flip_sin_to_cos: bool = True
    freq_shift: int = 0
    down_block_types: tuple[str, ...] = (
        "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"
    )  # fmt: skip
    block_out_channels: tuple[int, ...] = (320, 640, 1280, 1280)
    layers_per_block: int = 2
    norm_num_groups: int = 32
    norm_eps: float = 1e-5
    cross_attention_dim: int = 1280
    transformer_layers_per_block: int = 1
    attention_head_dim: int | tuple[int, ...] = 8
    use_linear_projection: bool = False
    upcast_attention: bool = False
    addition_embed_type: str | None = None
    addition_embed_type_num_heads: int = 64

    supported: ClassVar = {
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "mid_block_type": ("UNetMidBlock2DCrossAttn",),
        "addition_embed_type": (None, "text"),
        "act_fn": ("silu", "swish"),
        "only_cross_attention": (False,),
        "num_attention_heads": (None,),
        "encoder_hid_dim": (None,),
        "encoder_hid_dim_type": (None,),
        "class_embed_type": (None,),
        "num_class_embeds": (None,),
        "downsample_padding": (1,),
        "mid_block_scale_factor": (1,),
        "resnet_time_scale_shift": ("default",),
    }

    def __post_init__(self):
        levels = len(self.block_out_channels)
        for name in ("down_block_types", "up_block_types", "attention_head_dim"):
            value = getattr(self, name, None)
            if isinstance(value, tuple) and len(value) != levels:
                raise UserError(f"config.json: {name} has {len(value)} entries for the {levels} of block_out_channels")
        for features, heads in zip(self.block_out_channels, self.heads, strict=True):
            if features % self.norm_num_groups or features % heads:
                raise UserError(
                    f"config.json: {features} channels are not divisible by norm_num_groups = {self.norm_num_groups} "
                    f"and attention_head_dim = {heads}"
                )

    @property
    def time_embedding_features(self) -> int:
        """Width of the time embedding."""
        return 4 * self.block_out_channels[0]

    @property
    def heads(self) -> tuple[int, ...]:
        """Number of attention heads per level, from the highest resolution to the lowest."""
        heads = self.attention_head_dim
        return (heads,) * len(self.block_out_channels) if isinstance(heads, int) else heads


@dataclasses.dataclass(frozen=True)
class UNet2DConditionConfig(UNetEncoderConfig):
    """Settings of the whole UNet."""

    sample_size: int | tuple[int, ...] | None = None
    out_channels: int = 4
    up_block_types: tuple[str, ...] = (
        "UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"
    )  # fmt: skip

    supported: ClassVar = {
        **UNetEncoderConfig.supported,
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "center_input_sample": (False,),
        "mid_block_only_cross_attention": (None, False),
        "dual_cross_attention": (False,),
        "cross_attention_norm": (None,),
        "attention_type": ("default",),
        "reverse_transformer_layers_per_block": (None,),
        "class_embeddings_concat": (False,),
        "conv_in_kernel": (3,),
        "conv_out_kernel": (3,),
        "resnet_out_scale_factor": (1,),
        "resnet_skip_time_act": (False,),
        "time_cond_proj_dim": (None,),
        "time_embedding_act_fn": (None,),
        "time_embedding_dim": (None,),
        "time_embedding_type": ("positional",),
        "timestep_post_act": (None,),
    }
    identity: ClassVar = {"_class_name": "UNet2DConditionModel"}


def timestep_embedding(timesteps: jax.Array, features: int, *, flip_sin_to_cos: bool, freq_shift: int) -> jax.Array:
    """Sinusoids of the timestep at geometrically spaced frequencies (Vaswani et al. 2017, section 3.5).

    Args:
        timesteps: ``[B]``, integers or floats.
        features: even width of the embedding.
        flip_sin_to_cos: cosines first.
        freq_shift: 1 to let the frequencies end at exactly ``1 / MAX_PERIOD``, 0 to end one before.

    Returns:
        float32 ``[B, features]``.
    """
    half = features // 2
    # In float32 throughout, as the weights were trained: the phases reach 1000, where a last bit is visible.
    exponents = np.float32(-math.log(MAX_PERIOD)) * np.arange(half, dtype=np.float32) / np.float32(half - freq_shift)
    phases = timesteps.astype(jnp.float32)[:, None] * np.exp(exponents)
    parts = [jnp.sin(phases), jnp.cos(phases)]
    return jnp.concatenate(parts[::-1] if flip_sin_to_cos else parts, axis=-1)


class TimestepEmbedding(nnx.Module):
    """Two-layer perceptron on the sinusoids."""

    def __init__(self, in_features: int, features: int, *, rngs: nnx.Rngs):
        self.linear_1 = Linear(in_features, features, rngs=rngs)
        self.linear_2 = Linear(features, features, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps ``[B, in_features]`` to ``[B, features]``."""
        return self.linear_2(jax.nn.silu(self.linear_1(x)))


class AttentionPooling(nnx.Module):
    """Pools a sequence into the attention output of its mean, which also attends to itself (Radford et al. 2021)."""

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
    """A summary of the text states in the shape of the time embedding, to which it is added."""

    def __init__(self, text_features: int, features: int, heads: int, *, rngs: nnx.Rngs):
        self.norm1 = LayerNorm(text_features, rngs=rngs)
        self.pool = AttentionPooling(text_features, heads, rngs=rngs)
        self.proj = Linear(text_features, features, rngs=rngs)
        self.norm2 = LayerNorm(features, rngs=rngs)

    def __call__(self, context: jax.Array) -> jax.Array:
        """Maps text states ``[B, L, D]`` to ``[B, features]``."""
        return self.norm2(self.proj(self.pool(self.norm1(context))))


class Attention(nnx.Module):
    """Multi-head attention of a feature map to a context: itself, or the text states."""

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
    """GEGLU perceptron with fourfold width (Shazeer 2020)."""

    def __init__(self, features: int, *, rngs: nnx.Rngs):
        self.proj_in = Linear(features, 8 * features, rngs=rngs)
        self.proj_out = Linear(4 * features, features, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps ``[..., C]`` to ``[..., C]``."""
        value, gate = jnp.split(self.proj_in(x), 2, axis=-1)
        return self.proj_out(value * ACTIVATIONS["gelu"](gate))


class TransformerBlock(nnx.Module):
    """Self-attention, attention to the text, perceptron; each pre-norm around a shortcut."""

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
    """Transformer blocks over the positions of a feature map, around a shortcut."""

    def __init__(self, config: UNetEncoderConfig, features: int, heads: int, *, rngs: nnx.Rngs):
        project = Linear if config.use_linear_projection else Conv1x1
        self.norm = GroupNorm(features, config.norm_num_groups, TRANSFORMER_NORM_EPSILON, rngs=rngs)
        self.proj_in = project(features, features, rngs=rngs)
        blocks = [
            TransformerBlock(features, config.cross_attention_dim, heads, rngs=rngs)
            for _ in range(config.transformer_layers_per_block)
        ]
        self.transformer_blocks = nnx.List(blocks)
        self.proj_out = project(features, features, rngs=rngs)

    def __call__(self, x: jax.Array, context: jax.Array) -> jax.Array:
        """Maps ``x`` ``[B, H, W, C]`` and text states ``[B, L, D]`` to ``[B, H, W, C]``."""
        h = self.proj_in(self.norm(x).reshape(x.shape[0], -1, x.shape[-1]))
        for block in self.transformer_blocks:
            h = block(h, context)
        return x + self.proj_out(h).reshape(x.shape)


class UNetBlock(nnx.Module):
    """One resolution level, on the way down or up, with or without attention to the text.

    Args:
        widths: channels in front of each ResNet block (skip connection included).
        features: channels behind each.
        heads: number of attention heads; ``None`` for a level without attention.
        resample: ``"down"`` or ``"up"`` for a change of resolution at the end, ``None`` for none.
    """

    def __init__(
        self, config: UNetEncoderConfig, widths: Sequence[int], features: int, *, heads: int | None,
        resample: str | None, rngs: nnx.Rngs,
    ):  # fmt: skip
        self.resnets = nnx.List([unet_resnet(config, width, features, rngs=rngs) for width in widths])
        layers = [] if heads is None else [SpatialTransformer(config, features, heads, rngs=rngs) for _ in widths]
        self.attentions = nnx.List(layers)
        self.downsamplers = nnx.List([Downsample(features, (1, 1), rngs=rngs)] if resample == "down" else [])
        self.upsamplers = nnx.List([Upsample(features, rngs=rngs)] if resample == "up" else [])

    def down(self, x: jax.Array, time: jax.Array, context: jax.Array) -> list[jax.Array]:
        """The feature maps after each layer; the last is the input of the next level, all are skip connections."""
        outputs = []
        for index in range(len(self.resnets)):
            x = self.layer(index, x, time, context)
            outputs.append(x)
        for layer in self.downsamplers:
            outputs.append(layer(outputs[-1]))
        return outputs

    def up(self, x: jax.Array, skips: list[jax.Array], time: jax.Array, context: jax.Array) -> jax.Array:
        """Consumes one skip connection per layer from the end of ``skips``, and grows to the size of the next.

        Where there are fewer than layers, the last layers are left out.
        """
        for index in range(min(len(self.resnets), len(skips))):
            x = self.layer(index, jnp.concatenate([x, skips.pop()], axis=-1), time, context)
        for layer in self.upsamplers:
            x = layer(x, size=skips[-1].shape[1:3])
        return x

    def layer(self, index: int, x: jax.Array, time: jax.Array, context: jax.Array) -> jax.Array:
        """A ResNet block and, where the level has attention, a transformer."""
        x = self.resnets[index](x, time)
        return self.attentions[index](x, context) if self.attentions else x


class UNetMidBlock(nnx.Module):
    """The bottom of the U: ResNet block, transformer, ResNet block."""

    def __init__(self, config: UNetEncoderConfig, *, rngs: nnx.Rngs):
        features = config.block_out_channels[-1]
        self.resnets = nnx.List([unet_resnet(config, features, features, rngs=rngs) for _ in range(2)])
        self.attentions = nnx.List([SpatialTransformer(config, features, config.heads[-1], rngs=rngs)])

    def __call__(self, x: jax.Array, time: jax.Array, context: jax.Array) -> jax.Array:
        """Maps ``[B, H, W, C]`` to ``[B, H, W, C]``."""
        x = self.attentions[0](self.resnets[0](x, time), context)
        return self.resnets[1](x, time)


def unet_resnet(config: UNetEncoderConfig, in_features: int, features: int, *, rngs: nnx.Rngs) -> ResnetBlock:
    """A ResNet block with the UNet's normalisation and time embedding."""
    return ResnetBlock(
        in_features, features, groups=config.norm_num_groups, epsilon=config.norm_eps,
        time_features=config.time_embedding_features, rngs=rngs,
    )  # fmt: skip


def down_block(config: UNetEncoderConfig, level: int, *, rngs: nnx.Rngs) -> UNetBlock:
    """The block of resolution level ``level`` (0 is the highest resolution) on the way down."""
    channels = config.block_out_channels
    features = channels[level]
    widths = [channels[max(level - 1, 0)]] + [features] * (config.layers_per_block - 1)
    heads = config.heads[level] if config.down_block_types[level].startswith("CrossAttn") else None
    resample = "down" if level < len(channels) - 1 else None
    return UNetBlock(config, widths, features, heads=heads, resample=resample, rngs=rngs)


def up_block(config: UNet2DConditionConfig, index: int, *, rngs: nnx.Rngs) -> UNetBlock:
    """The ``index``-th block on the way up (0 is the lowest resolution)."""
    channels = config.block_out_channels[::-1]
    features = channels[index]
    layers = config.layers_per_block + 1
    before = [channels[max(index - 1, 0)]] + [features] * (layers - 1)
    skips = [features] * (layers - 1) + [channels[min(index + 1, len(channels) - 1)]]
    widths = [width + skip for width, skip in zip(before, skips, strict=True)]
    heads = config.heads[::-1][index] if config.up_block_types[index].startswith("CrossAttn") else None
    resample = "up" if index < len(channels) - 1 else None
    return UNetBlock(config, widths, features, heads=heads, resample=resample, rngs=rngs)


class UNetEncoder(nnx.Module):
    """The way down and the bottom of the U, which a ControlNet has a copy of."""

    def __init__(self, config: UNetEncoderConfig, *, rngs: nnx.Rngs):
        self.config = config
        channels, levels = config.block_out_channels, range(len(config.block_out_channels))
        self.conv_in = Conv3x3(config.in_channels, channels[0], rngs=rngs)
        self.time_embedding = TimestepEmbedding(channels[0], config.time_embedding_features, rngs=rngs)
        if config.addition_embed_type == "text":
            self.add_embedding = TextTimeEmbedding(
                config.cross_attention_dim, config.time_embedding_features, config.addition_embed_type_num_heads,
                rngs=rngs,
            )  # fmt: skip
        self.down_blocks = nnx.List([down_block(config, level, rngs=rngs) for level in levels])
        self.mid_block = UNetMidBlock(config, rngs=rngs)

    def embed(self, timesteps: jax.Array, context: jax.Array) -> jax.Array:
        """The time embedding ``[B, 4 * block_out_channels[0]]``, with the text's share where the config has it."""
        config = self.config
        sinusoids = timestep_embedding(
            timesteps, config.block_out_channels[0],
            flip_sin_to_cos=config.flip_sin_to_cos, freq_shift=config.freq_shift,
        )  # fmt: skip
        time = self.time_embedding(sinusoids.astype(context.dtype))
        return time + self.add_embedding(context) if config.addition_embed_type == "text" else time

    def contract(self, x: jax.Array, time: jax.Array, context: jax.Array) -> tuple[jax.Array, ...]:
        """From the output of ``conv_in`` down: all skip connections, and last the feature map of the middle block."""
        skips = [x]
        for block in self.down_blocks:
            skips += block.down(skips[-1], time, context)
        return (*skips, self.mid_block(skips[-1], time, context))


class DeepFeatures(NamedTuple):
    """What changes little from one timestep to the next (DeepCache, Ma et al. 2024, section 3).

    ``features``: what enters the last layer of the way up, ``[B, H, W, block_out_channels[0]]``, its skip connection
    aside. ``residual``: what ControlNets add to that, or None.
    """

    features: jax.Array
    residual: jax.Array | None


class UNet2DConditionModel(UNetEncoder):
    """The denoiser: predicts the noise (or velocity) in latents from the timestep and the text states."""

    config_class = UNet2DConditionConfig

    def __init__(self, config: UNet2DConditionConfig, *, rngs: nnx.Rngs):
        super().__init__(config, rngs=rngs)
        channels = config.block_out_channels
        self.up_blocks = nnx.List([up_block(config, index, rngs=rngs) for index in range(len(channels))])
        self.conv_norm_out = GroupNorm(channels[0], config.norm_num_groups, config.norm_eps, rngs=rngs)
        self.conv_out = Conv3x3(channels[0], config.out_channels, rngs=rngs)

    def __call__(
        self,
        sample: jax.Array,
        timesteps: jax.Array,
        encoder_hidden_states: jax.Array,
        residuals: Sequence[jax.Array] = (),
    ) -> jax.Array:
        """Evaluates the denoiser.

        Args:
            sample: noisy latents ``[B, H, W, in_channels]``, any H and W.
            timesteps: ``[B]`` or a scalar for the whole batch, in [0, 1000).
            encoder_hidden_states: text states ``[B, L, cross_attention_dim]``.
            residuals: what a ControlNet adds to the results of :meth:`contract`, or nothing.

        Returns:
            ``[B, H, W, out_channels]`` in the parameters' dtype.
        """
        entry = self._enter(sample, timesteps, encoder_hidden_states)
        return self._surface(*entry, self._deep(*entry, residuals))

    def deep(
        self,
        sample: jax.Array,
        timesteps: jax.Array,
        encoder_hidden_states: jax.Array,
        residuals: Sequence[jax.Array] = (),
    ) -> DeepFeatures:
        """All but the last layer of the way up; arguments as of a call."""
        return self._deep(*self._enter(sample, timesteps, encoder_hidden_states), residuals)

    def surface(
        self, sample: jax.Array, timesteps: jax.Array, encoder_hidden_states: jax.Array, deep: DeepFeatures
    ) -> jax.Array:
        """The rest: the prediction, from what :meth:`deep` gave for these arguments or for ones not far from them."""
        return self._surface(*self._enter(sample, timesteps, encoder_hidden_states), deep)

    def _enter(
        self, sample: jax.Array, timesteps: jax.Array, encoder_hidden_states: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """The first feature map, the time embedding, the text states."""
        dtype = self.conv_in.kernel.dtype
        context = encoder_hidden_states.astype(dtype)
        time = self.embed(jnp.broadcast_to(timesteps, sample.shape[:1]), context)
        return self.conv_in(sample.astype(dtype)), time, context

    def _deep(
        self, first: jax.Array, time: jax.Array, context: jax.Array, residuals: Sequence[jax.Array]
    ) -> DeepFeatures:
        *skips, x = self.contract(first, time, context)
        if residuals:
            *skips, x = (a + b for a, b in zip((*skips, x), residuals, strict=True))
        del skips[0]  # of the last layer
        for block in self.up_blocks:
            x = block.up(x, skips, time, context)
        return DeepFeatures(x, residuals[0] if residuals else None)

    def _surface(self, first: jax.Array, time: jax.Array, context: jax.Array, deep: DeepFeatures) -> jax.Array:
        skip = first if deep.residual is None else first + deep.residual
        x = self.up_blocks[-1].layer(-1, jnp.concatenate([deep.features, skip], axis=-1), time, context)
        return self.conv_out(jax.nn.silu(self.conv_norm_out(x)))
