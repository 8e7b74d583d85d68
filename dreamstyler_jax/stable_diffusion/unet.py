"""The conditional UNet of Stable Diffusion (Rombach et al. 2022), laid out as in ``diffusers``' checkpoints."""

import itertools
from collections.abc import Iterator, Sequence
from typing import ClassVar, NamedTuple, cast

import jax
import jax.numpy as jnp
from flax import nnx

from dreamstyler_jax.stable_diffusion.ops.convolution import Conv3x3
from dreamstyler_jax.stable_diffusion.ops.norms import GroupNorm
from dreamstyler_jax.stable_diffusion.unet_blocks import (
    AddedConditions,
    TextStates,
    TextTimeEmbedding,
    TimestepEmbedding,
    UNetBlock,
    UNetMidBlock,
    down_block,
    guidance_embedding,
    mean_states,
    of_each_transformer,
    timestep_embedding,
    up_block,
)
from dreamstyler_jax.stable_diffusion.unet_config import UNet2DConditionConfig, UNetEncoderConfig

__all__ = ["DeepFeatures", "UNet2DConditionConfig", "UNet2DConditionModel", "UNetEncoder", "UNetEncoderConfig"]


class UNetEncoder(nnx.Module):
    """The down and middle blocks, which a ControlNet has a copy of."""

    def __init__(self, config: UNetEncoderConfig, *, rngs: nnx.Rngs):
        self.config = config
        channels, levels = config.block_out_channels, range(len(config.block_out_channels))
        self.conv_in = Conv3x3(config.in_channels, channels[0], rngs=rngs)
        self.time_embedding = TimestepEmbedding(
            channels[0], config.time_embedding_features, config.guidance_features, rngs=rngs
        )
        if config.addition_embed_type == "text":
            self.add_embedding = TextTimeEmbedding(
                config.cross_attention_dim, config.time_embedding_features, config.addition_embed_type_num_heads,
                rngs=rngs,
            )  # fmt: skip
        elif config.addition_embed_type == "text_time":
            width = cast(int, config.projection_class_embeddings_input_dim)
            self.add_embedding = TimestepEmbedding(width, config.time_embedding_features, rngs=rngs)
        self.down_blocks = nnx.List([down_block(config, level, rngs=rngs) for level in levels])
        if config.mid_block_type:
            self.mid_block = UNetMidBlock(config, rngs=rngs)

    def embed(self, timesteps: jax.Array, context: jax.Array, added: AddedConditions | None = None) -> jax.Array:
        """The time embedding ``[B, 4 * block_out_channels[0]]``, plus what the config says to add to it."""
        sinusoids = self._sinusoids(timesteps, self.config.block_out_channels[0])
        time = self.time_embedding(sinusoids.astype(context.dtype), self._guidance(added, context.dtype))
        match self.config.addition_embed_type:
            case "text":
                return time + self.add_embedding(context)
            case "text_time":
                return time + self.add_embedding(self._text_and_sizes(added).astype(context.dtype))
        return time

    def _guidance(self, added: AddedConditions | None, dtype: jax.typing.DTypeLike) -> jax.Array | None:
        """The embedded scale of guidance ``[B, guidance_features]``, for a model that takes it."""
        if self.config.guidance_features is None:
            return None
        assert added is not None and added.guidance_scale is not None, "this denoiser takes the scale of guidance"
        return guidance_embedding(added.guidance_scale, self.config.guidance_features).astype(dtype)

    def _text_and_sizes(self, added: AddedConditions | None) -> jax.Array:
        """The pooled text and the sinusoids of the sizes, float32 ``[B, projection_class_embeddings_input_dim]``."""
        assert added is not None and added.pooled is not None and added.time_ids is not None
        sinusoids = self._sinusoids(added.time_ids.reshape(-1), cast(int, self.config.addition_time_embed_dim))
        return jnp.concatenate([added.pooled, sinusoids.reshape(len(added.pooled), -1)], axis=-1)

    def _sinusoids(self, values: jax.Array, features: int) -> jax.Array:
        config = self.config
        return timestep_embedding(
            values, features, flip_sin_to_cos=config.flip_sin_to_cos, freq_shift=config.freq_shift
        )

    def contract(self, x: jax.Array, time: jax.Array, contexts: Sequence[jax.Array]) -> tuple[jax.Array, ...]:
        """Runs the down and middle blocks on the output of ``conv_in``.

        Args:
            x: that output, ``[B, H, W, block_out_channels[0]]``.
            time: the time embedding.
            contexts: the text states ``[B, L, D]`` of each transformer; any that follow are not read.

        Returns:
            All skip connections in order (the first is ``x``), then the feature map of the middle block, or without
            one the last of them again.
        """
        skips, rest = [x], iter(contexts)
        for block in self.down_blocks:
            skips += block.down(skips[-1], time, _next(rest, block))
        if not self.config.mid_block_type:
            return (*skips, skips[-1])
        return (*skips, self.mid_block(skips[-1], time, _next(rest, self.mid_block)))


def _next(contexts: Iterator[jax.Array], block: UNetBlock | UNetMidBlock) -> list[jax.Array]:
    """The text states of a block's transformers, taken from those that are left."""
    return list(itertools.islice(contexts, len(block.attentions)))


class DeepFeatures(NamedTuple):
    """The features that change little from one timestep to the next (DeepCache, Ma et al. 2024, section 3).

    Attributes:
        features: input ``[B, H, W, block_out_channels[0]]`` of the last layer on the way up, without its skip
            connection.
        residual: the sum that ControlNets add to that skip connection, or ``None``.
    """

    features: jax.Array
    residual: jax.Array | None


class UNet2DConditionModel(UNetEncoder):
    """The denoiser: predicts the noise (or velocity) in latents, given the timestep and the text states."""

    config_class: ClassVar = UNet2DConditionConfig
    config: UNet2DConditionConfig

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
        encoder_hidden_states: TextStates,
        residuals: Sequence[jax.Array] = (),
        added: AddedConditions | None = None,
    ) -> jax.Array:
        """Evaluates the denoiser.

        Args:
            sample: noisy latents ``[B, H, W, in_channels]``, any H and W.
            timesteps: ``[B]`` or a scalar for the whole batch, in [0, 1000).
            encoder_hidden_states: text states ``[B, L, cross_attention_dim]``, or a tuple of them, one for each of the
                ``cross_attentions`` of the config (P+, Voynov et al. 2023).
            residuals: one array for each result of :meth:`contract`, added to it (ControlNets), or none.
            added: the pooled text and the sizes, for a config with ``addition_embed_type = "text_time"``; the scale of
                guidance, for one with ``time_cond_proj_dim``.

        Returns:
            ``[B, H, W, out_channels]`` in the parameters' dtype.
        """
        entry = self._enter(sample, timesteps, encoder_hidden_states, added)
        return self._surface(*entry, self._deep(*entry, residuals))

    def deep(
        self,
        sample: jax.Array,
        timesteps: jax.Array,
        encoder_hidden_states: TextStates,
        residuals: Sequence[jax.Array] = (),
        added: AddedConditions | None = None,
    ) -> DeepFeatures:
        """Evaluates all but the last layer on the way up; arguments as for a call."""
        return self._deep(*self._enter(sample, timesteps, encoder_hidden_states, added), residuals)

    def surface(
        self,
        sample: jax.Array,
        timesteps: jax.Array,
        encoder_hidden_states: TextStates,
        deep: DeepFeatures,
        added: AddedConditions | None = None,
    ) -> jax.Array:
        """Evaluates the last layer on the way up and the output layers.

        Args:
            sample: as for a call.
            timesteps: as for a call.
            encoder_hidden_states: as for a call.
            deep: the result of :meth:`deep` for the same arguments, or for a neighbouring timestep.
            added: as for a call.

        Returns:
            The prediction, as from a call.
        """
        return self._surface(*self._enter(sample, timesteps, encoder_hidden_states, added), deep)

    def _enter(
        self,
        sample: jax.Array,
        timesteps: jax.Array,
        encoder_hidden_states: TextStates,
        added: AddedConditions | None,
    ) -> tuple[jax.Array, jax.Array, tuple[jax.Array, ...]]:
        """The first feature map, the time embedding, the text states of each transformer."""
        dtype = self.conv_in.kernel.dtype
        states = jax.tree.map(lambda context: context.astype(dtype), encoder_hidden_states)
        time = self.embed(jnp.broadcast_to(timesteps, sample.shape[:1]), mean_states(states), added)
        contexts = of_each_transformer(states, self.config.cross_attentions)
        return self.conv_in(sample.astype(dtype)), time, contexts

    def _deep(
        self, first: jax.Array, time: jax.Array, contexts: Sequence[jax.Array], residuals: Sequence[jax.Array]
    ) -> DeepFeatures:
        """The deep features, from the results of :meth:`_enter`."""
        *skips, x = self.contract(first, time, contexts)
        rest = iter(contexts[self.config.encoder_transformers :])
        if residuals:
            *skips, x = (a + b for a, b in zip((*skips, x), residuals, strict=True))
        *blocks, last = self.up_blocks
        for block in blocks:
            layers = len(block.resnets)
            skips, block_skips = skips[:-layers], skips[-layers:]
            _, height, width, _ = skips[-1].shape
            x = block.up(x, block_skips[::-1], time, _next(rest, block), size=(height, width))
        # The last layer, whose skip connection is the first feature map, is left to `surface`.
        x = last.up(x, skips[:0:-1], time, _next(rest, last))
        return DeepFeatures(x, residuals[0] if residuals else None)

    def _surface(
        self, first: jax.Array, time: jax.Array, contexts: Sequence[jax.Array], deep: DeepFeatures
    ) -> jax.Array:
        """The prediction, from the results of :meth:`_enter` and :meth:`_deep`."""
        skip = first if deep.residual is None else first + deep.residual
        x = self.up_blocks[-1].layer(-1, jnp.concatenate([deep.features, skip], axis=-1), time, contexts)
        return self.conv_out(self.conv_norm_out.silu(x))
