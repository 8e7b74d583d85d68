"""The networks of a model without their weights, as functions of the weights.

`Networks` is hashable and describes the compiled program, so it enters ``jax.jit`` as a static argument. The weights
are a pytree and always enter as an ordinary argument.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Self

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from dreamstyler_jax.stable_diffusion.clip import CLIPTextConfig, CLIPTextModel
from dreamstyler_jax.stable_diffusion.conditioning import Conditioning
from dreamstyler_jax.stable_diffusion.controlnet import ControlNetModel
from dreamstyler_jax.stable_diffusion.ops.parts import by_parts
from dreamstyler_jax.stable_diffusion.schedule import NoiseSchedule
from dreamstyler_jax.stable_diffusion.tiny_autoencoder import AutoencoderTinyConfig
from dreamstyler_jax.stable_diffusion.unet import DeepFeatures, UNet2DConditionConfig
from dreamstyler_jax.stable_diffusion.unet_blocks import AddedConditions
from dreamstyler_jax.stable_diffusion.vae import AutoencoderKLConfig

# Numbers in the decoder's largest map: Stable Diffusion decodes a picture of 1024 x 1024 pixels at once, or four of 512
# x 512, in about 5 GiB with float32.
MAX_DECODED = 2**28


class Control(NamedTuple):
    """What ControlNets add to a denoiser call.

    Attributes:
        hints: for each ControlNet its encoded control maps, from `Networks.encode_control_maps`.
        scales: conditioning scales, float32[B, K].
    """

    hints: tuple[Array, ...]
    scales: Array


class SecondTextEncoder(NamedTuple):
    """SDXL's second text encoder, without its weights.

    Attributes:
        graphdef, config: as of the first.
        end_id: the token that ends a text.
        zeros_if_empty: whether an empty prompt is encoded as zeros (``force_zeros_for_empty_prompt``).
    """

    graphdef: nnx.GraphDef
    config: CLIPTextConfig
    end_id: int
    zeros_if_empty: bool = True


@dataclasses.dataclass(frozen=True)
class Networks:
    """The networks without their weights; ``params`` in every method is `StableDiffusion.params`.

    Attributes:
        text_encoder, vae, unet: graph definitions of the modules.
        text_config, vae_config, unet_config: their settings.
        schedule: noise schedule and prediction type.
        second_text_encoder: SDXL's.
        controlnets: graph definitions of ControlNets, whose residuals add up.
        guess_mode: whether the ControlNets work without the prompt, see `controlnet.ControlNetModel`.
        clip_skip: the number of the text encoders' last layers without influence on the text states.
        original_size: the height and width in pixels that SDXL is told a picture had before it was scaled; None for
            the size of the picture itself.
        crop_top_left: the top and left in pixels at which SDXL is told the picture was cut out of that.
    """

    text_encoder: nnx.GraphDef
    vae: nnx.GraphDef
    unet: nnx.GraphDef
    text_config: CLIPTextConfig
    vae_config: AutoencoderKLConfig | AutoencoderTinyConfig
    unet_config: UNet2DConditionConfig
    schedule: NoiseSchedule
    second_text_encoder: SecondTextEncoder | None = None
    controlnets: tuple[nnx.GraphDef, ...] = ()
    guess_mode: bool = False
    clip_skip: int = 0
    original_size: tuple[int, int] | None = None
    crop_top_left: tuple[int, int] = (0, 0)

    def with_remat(self, params: Any) -> Self:
        """The same networks, whose UNet computes its layers again in a backward pass: less memory, more time."""
        unet = nnx.merge(self.unet, params["unet"])
        unet.set_attributes(remat=True)
        return dataclasses.replace(self, unet=nnx.split(unet)[0])

    @property
    def text_widths(self) -> dict[str, int]:
        """The width D of each text encoder's token vectors, by the name under which a style keeps its table."""
        second = self.second_text_encoder
        return {"clip_l": self.text_config.hidden_size} | ({"clip_g": second.config.hidden_size} if second else {})

    def token_tables(self, params: Any) -> dict[str, Array]:
        """The vectors of all tokens, [vocabulary, D], for each text encoder."""
        encoders = self._encoders(params).items()
        return {name: encoder.text_model.embeddings.token_embedding.embedding[...] for name, encoder in encoders}

    def embed_tokens(self, params: Any, ids: Mapping[str, Array | np.ndarray]) -> dict[str, Array]:
        """Token vectors [B, L, D] of ids int32[B, L], for each text encoder."""
        return {name: encoder.embed_tokens(jnp.asarray(ids[name])) for name, encoder in self._encoders(params).items()}

    def encode_text(
        self, params: Any, token_vectors: Mapping[str, Array], ids: Mapping[str, Array | np.ndarray]
    ) -> Conditioning:
        """Encodes token vectors [B, L, D] of each text encoder; ids int32[B, L] mark the end of the text.

        With two encoders (SDXL) the states are both encoders' penultimate ones side by side, and the pooled state is
        the second's, which ``clip_skip`` does not change.
        """
        texts = {
            name: encoder.encode(token_vectors[name], jnp.asarray(ids[name]), self.clip_skip)
            for name, encoder in self._encoders(params).items()
        }
        if not self.second_text_encoder:
            return Conditioning(texts["clip_l"].states)
        states = jnp.concatenate([text.penultimate for text in texts.values()], axis=-1)
        pooled = texts["clip_g"].pooled
        if not self.second_text_encoder.zeros_if_empty:
            return Conditioning(states, pooled)
        has_words = (jnp.asarray(ids["clip_l"])[:, 1] != self.second_text_encoder.end_id)[:, None]
        return Conditioning(jnp.where(has_words[:, None], states, 0), jnp.where(has_words, pooled, 0))

    def encode_images(self, params: Any, images: Array) -> tuple[Array, Array]:
        """Mean and deviation, float32[B, h, w, c], of the scaled latents of images [B, H, W, 3] in [-1, 1]."""
        mean, logvar = nnx.merge(self.vae, params["vae"]).encode(images)
        scale = self.vae_config.scaling_factor
        return mean.astype(jnp.float32) * scale, jnp.exp(0.5 * logvar.astype(jnp.float32)) * scale

    def decode_latents(self, params: Any, latents: Array) -> Array:
        """Images float32[B, H, W, 3], about in [-1, 1], of scaled latents [B, h, w, c].

        If there are many large ones, they are decoded part by part, so that the memory does not grow with the batch.
        """

        def decode(part: Array) -> Array:
            vae = nnx.merge(self.vae, params["vae"])
            return vae.decode(part / self.vae_config.scaling_factor).astype(jnp.float32)

        _, rows, columns, _ = latents.shape
        largest_map = rows * columns * self.vae_config.downsampling**2 * self.vae_config.full_size_channels
        return by_parts(decode, latents, at_once=max(1, MAX_DECODED // largest_map))

    def encode_control_maps(self, params: Any, maps: Sequence[Array | np.ndarray]) -> tuple[Array, ...]:
        """Each ControlNet's encoding of its control maps [B, H, W, 3] in [0, 1]; it serves all timesteps."""
        return tuple(
            net.hint(jnp.asarray(control)) for net, control in zip(self._controlnets(params), maps, strict=True)
        )

    @property
    def embeds_guidance(self) -> bool:
        """Whether the UNet takes the scale of guidance as a condition (LCM), and is asked with one prompt alone."""
        return self.unet_config.time_cond_proj_dim is not None

    def denoise(
        self,
        params: Any,
        latents: Array,
        timesteps: Array,
        conditioning: Conditioning,
        control: Control | None = None,
        guidance_scale: Array | None = None,
    ) -> Array:
        """The UNet's output float32[B, h, w, c].

        Args:
            params: the weights.
            latents: [B, h, w, c].
            timesteps: [] or [B], in [0, 1000).
            conditioning: of one stage.
            control: what ControlNets add.
            guidance_scale: float32[B], where the UNet embeds it.
        """
        unet = nnx.merge(self.unet, params["unet"])
        residuals = self._residuals(params, latents, timesteps, conditioning, control)
        added = self.added_conditions(latents, conditioning, guidance_scale)
        return unet(latents, timesteps, conditioning.states, residuals, added).astype(jnp.float32)

    def denoise_deep(
        self,
        params: Any,
        latents: Array,
        timesteps: Array,
        conditioning: Conditioning,
        control: Control | None = None,
        guidance_scale: Array | None = None,
    ) -> DeepFeatures:
        """The deep features of `denoise`, which the following timesteps may share; same arguments."""
        unet = nnx.merge(self.unet, params["unet"])
        residuals = self._residuals(params, latents, timesteps, conditioning, control)
        added = self.added_conditions(latents, conditioning, guidance_scale)
        return unet.deep(latents, timesteps, conditioning.states, residuals, added)

    def denoise_surface(
        self,
        params: Any,
        latents: Array,
        timesteps: Array,
        conditioning: Conditioning,
        deep: DeepFeatures,
        guidance_scale: Array | None = None,
    ) -> Array:
        """The rest of `denoise`: the UNet's output float32[B, h, w, c] from given deep features."""
        unet = nnx.merge(self.unet, params["unet"])
        added = self.added_conditions(latents, conditioning, guidance_scale)
        return unet.surface(latents, timesteps, conditioning.states, deep, added).astype(jnp.float32)

    def added_conditions(
        self, latents: Array, conditioning: Conditioning, guidance_scale: Array | None = None
    ) -> AddedConditions:
        """What the denoiser gets besides: SDXL the pooled text and the sizes, LCM the scale of guidance."""
        if conditioning.pooled is None:
            return AddedConditions(guidance_scale=guidance_scale)
        batch, rows, columns, _ = latents.shape
        size = [side * self.vae_config.downsampling for side in (rows, columns)]
        time_ids = jnp.array([*(self.original_size or size), *self.crop_top_left, *size], jnp.float32)
        return AddedConditions(conditioning.pooled, jnp.broadcast_to(time_ids, (batch, 6)), guidance_scale)

    def _residuals(
        self, params: Any, latents: Array, timesteps: Array, conditioning: Conditioning, control: Control | None
    ) -> list[Array]:
        """The sum of all ControlNets' additions to the UNet's feature maps."""
        if control is None:
            return []
        added = self.added_conditions(latents, conditioning)
        residuals = [
            net(latents, timesteps, conditioning.states, hint, control.scales[:, k], added, guess_mode=self.guess_mode)
            for k, (net, hint) in enumerate(zip(self._controlnets(params), control.hints, strict=True))
        ]
        return [functools.reduce(jnp.add, parts) for parts in zip(*residuals, strict=True)]

    def _encoders(self, params: Any) -> dict[str, CLIPTextModel]:
        """The text encoders, the first one first."""
        encoders = {"clip_l": nnx.merge(self.text_encoder, params["text_encoder"])}
        if self.second_text_encoder:
            encoders["clip_g"] = nnx.merge(self.second_text_encoder.graphdef, params["text_encoder_2"])
        return encoders

    def _controlnets(self, params: Any) -> list[ControlNetModel]:
        pairs = zip(self.controlnets, params.get("controlnets", ()), strict=True)
        return [nnx.merge(graphdef, weights) for graphdef, weights in pairs]

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """The shape (h, w, c) of the latents of an image of ``height`` x ``width`` pixels."""
        factor = self.vae_config.downsampling
        return height // factor, width // factor, self.vae_config.latent_channels
