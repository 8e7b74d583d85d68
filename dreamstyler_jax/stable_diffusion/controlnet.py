"""ControlNet (Zhang et al. 2023): a copy of the UNet's encoder that sees a control map; laid out as in diffusers."""

import dataclasses
import itertools
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from dreamstyler_jax.runtime.documents import Size
from dreamstyler_jax.stable_diffusion.layers import Conv1x1, Levels
from dreamstyler_jax.stable_diffusion.ops.convolution import Conv3x3
from dreamstyler_jax.stable_diffusion.unet import UNetEncoder, UNetEncoderConfig
from dreamstyler_jax.stable_diffusion.unet_blocks import AddedConditions, TextStates, mean_states, of_each_transformer


@dataclasses.dataclass(frozen=True)
class ControlNetConfig(UNetEncoderConfig):
    """Settings of a ControlNet, named as in its ``config.json``, with the defaults of that format.

    ``conditioning_embedding_out_channels``: widths of the control map's encoder; each one after the first halves the
    height and width. ``global_pool_conditions``: each residual is replaced by its mean over the image.
    """

    conditioning_channels: Size = 3
    conditioning_embedding_out_channels: Levels = (16, 32, 96, 256)
    controlnet_conditioning_channel_order: str = "rgb"
    global_pool_conditions: bool = False

    supported: ClassVar = {
        **UNetEncoderConfig.supported,
        "controlnet_conditioning_channel_order": ("rgb", "bgr"),
    }
    identity: ClassVar = {"_class_name": "ControlNetModel"}

    @property
    def downsampling(self) -> int:
        """Pixels of the control map per latent."""
        return 2 ** (len(self.conditioning_embedding_out_channels) - 1)


class ControlNetConditioningEmbedding(nnx.Module):
    """Encodes a control map: the result has the size of the latents and the width of the UNet's first level."""

    def __init__(self, config: ControlNetConfig, *, rngs: nnx.Rngs):
        widths = config.conditioning_embedding_out_channels
        self.conv_in = Conv3x3(config.conditioning_channels, widths[0], rngs=rngs)
        blocks = []
        for before, after in itertools.pairwise(widths):
            blocks += [Conv3x3(before, before, rngs=rngs), Conv3x3(before, after, strides=2, rngs=rngs)]
        self.blocks = nnx.List(blocks)
        self.conv_out = Conv3x3(widths[-1], config.block_out_channels[0], rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps ``[B, H * downsampling, W * downsampling, 3]`` to ``[B, H, W, C]``."""
        for layer in (self.conv_in, *self.blocks):
            x = jax.nn.silu(layer(x))
        return self.conv_out(x)


class ControlNetModel(UNetEncoder):
    """Predicts residuals for the skip connections and the middle block of a UNet, given a control map."""

    config_class: ClassVar = ControlNetConfig
    config: ControlNetConfig

    def __init__(self, config: ControlNetConfig, *, rngs: nnx.Rngs):
        super().__init__(config, rngs=rngs)
        self.controlnet_cond_embedding = ControlNetConditioningEmbedding(config, rngs=rngs)
        # One residual per skip connection: the output of conv_in, of each layer, and of each downsampler.
        channels = config.block_out_channels
        widths = [channels[0]]
        for level, width in enumerate(channels):
            widths += [width] * (config.layers[level] + (level < len(channels) - 1))
        self.controlnet_down_blocks = nnx.List([Conv1x1(width, width, rngs=rngs) for width in widths])
        self.controlnet_mid_block = Conv1x1(channels[-1], channels[-1], rngs=rngs)

    def __call__(
        self,
        sample: jax.Array,
        timesteps: jax.Array,
        encoder_hidden_states: TextStates,
        hint: jax.Array,
        scale: jax.Array | float = 1.0,
        added: AddedConditions | None = None,
        *,
        guess_mode: bool = False,
    ) -> tuple[jax.Array, ...]:
        """Evaluates the ControlNet.

        Args:
            sample: as for the UNet.
            timesteps: as for the UNet.
            encoder_hidden_states: as for the UNet. The transformers of the ControlNet read what those of the UNet that
                they are copies of read: the first of the tuple.
            hint: the encoded control maps ``[B, H, W, C]`` from :meth:`hint`.
            scale: conditioning scale, a scalar or ``[B]``.
            added: as for the UNet.
            guess_mode: multiply the residuals by factors from 0.1 at the largest feature map to 1 at the smallest, as
                for images without a prompt (diffusers' ``ControlNetModel.forward``).

        Returns:
            The ``residuals`` for the UNet, in the parameters' dtype.
        """
        config, dtype = self.config, self.conv_in.kernel.dtype
        sample, states = jax.tree.map(lambda array: array.astype(dtype), (sample, encoder_hidden_states))
        time = self.embed(jnp.broadcast_to(timesteps, sample.shape[:1]), mean_states(states), added)
        contexts = of_each_transformer(states, config.encoder_transformers)
        maps = self.contract(self.conv_in(sample) + hint, time, contexts)
        layers = (*self.controlnet_down_blocks, self.controlnet_mid_block)
        graded = guess_mode and not config.global_pool_conditions
        # As Python numbers, which leave the dtype as it is; NumPy's would turn bfloat16 into float32.
        weights = (np.logspace(-1, 0, len(maps)) if graded else np.ones(len(maps))).tolist()
        scale = jnp.asarray(scale, dtype).reshape(-1, 1, 1, 1)
        residuals = (layer(x) * (scale * weight) for layer, x, weight in zip(layers, maps, weights, strict=True))
        if config.global_pool_conditions:
            return tuple(x.mean((1, 2), keepdims=True) for x in residuals)
        return tuple(residuals)

    def hint(self, control: jax.Array) -> jax.Array:
        """Encodes control maps, once for all timesteps.

        Args:
            control: ``[B, H * downsampling, W * downsampling, conditioning_channels]`` in [0, 1].

        Returns:
            ``[B, H, W, C]``, in the size of the latents.
        """
        if self.config.controlnet_conditioning_channel_order == "bgr":
            control = control[..., ::-1]
        return self.controlnet_cond_embedding(control.astype(self.conv_in.kernel.dtype))
