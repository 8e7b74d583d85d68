"""CLIP's text and image encoders (Radford et al. 2021), laid out as in the ``transformers`` library's checkpoints."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, NamedTuple, Self, TypedDict

import jax
import jax.numpy as jnp
from flax import nnx

from dreamstyler_jax.runtime import documents
from dreamstyler_jax.runtime.devices import device as target_device
from dreamstyler_jax.runtime.documents import Few, Range, Side, Size
from dreamstyler_jax.stable_diffusion.layers import ACTIVATIONS, Embed, Epsilon, Linear, ModelConfig, check_heads
from dreamstyler_jax.stable_diffusion.ops.attention import attention
from dreamstyler_jax.stable_diffusion.ops.convolution import UNSET
from dreamstyler_jax.stable_diffusion.ops.norms import LayerNorm

# The wrong id in checkpoints made before transformers 4.31, where the end token is the one with the largest id.
LEGACY_EOS_TOKEN_ID = 2


@dataclasses.dataclass(frozen=True)
class CLIPTextConfig(ModelConfig):
    """Settings of a CLIP text encoder, named as in its ``config.json``, with the defaults of that format."""

    vocab_size: Size = 49408
    hidden_size: Size = 512
    intermediate_size: Size = 2048
    projection_dim: Size | None = 512
    num_hidden_layers: Few = 12
    num_attention_heads: Size = 8
    max_position_embeddings: Size = 77
    hidden_act: str = "quick_gelu"
    layer_norm_eps: Epsilon = 1e-5
    bos_token_id: int | None = 49406
    eos_token_id: Annotated[int, Range(0, 2**20)] = 49407
    pad_token_id: int | None = 1

    supported: ClassVar = {"hidden_act": tuple(ACTIVATIONS)}
    identity: ClassVar = {"architectures": ["CLIPTextModel"], "model_type": "clip_text_model"}

    def __post_init__(self):
        check_heads(self.hidden_size, self.num_attention_heads)


@dataclasses.dataclass(frozen=True)
class CLIPVisionConfig(ModelConfig):
    """Settings of a CLIP image encoder, named as in its ``config.json``, with the defaults of that format."""

    hidden_size: Size = 768
    intermediate_size: Size = 3072
    projection_dim: Size | None = 512
    num_hidden_layers: Few = 12
    num_attention_heads: Size = 12
    num_channels: Size = 3
    image_size: Side = 224
    patch_size: Side = 32
    hidden_act: str = "quick_gelu"
    layer_norm_eps: Epsilon = 1e-5

    supported: ClassVar = {"hidden_act": tuple(ACTIVATIONS)}
    identity: ClassVar = {"architectures": ["CLIPVisionModel"], "model_type": "clip_vision_model"}

    def __post_init__(self):
        check_heads(self.hidden_size, self.num_attention_heads)


class _Sections(TypedDict, total=False):
    """What the ``config.json`` of both encoders holds."""

    text_config: dict[str, Any]
    vision_config: dict[str, Any]
    projection_dim: Size


@dataclasses.dataclass(frozen=True)
class CLIPConfig(ModelConfig):
    """Settings of the two encoders and of their common space."""

    text_config: CLIPTextConfig
    vision_config: CLIPVisionConfig
    projection_dim: int = 512

    identity: ClassVar = {"architectures": ["CLIPModel"], "model_type": "clip"}

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Self:
        """Reads ``config.json``; settings that an encoder's section lacks get their defaults."""
        sections = documents.check(dict(raw), _Sections, "config.json")
        return cls(
            text_config=CLIPTextConfig.from_dict(sections.get("text_config", {})),
            vision_config=CLIPVisionConfig.from_dict(sections.get("vision_config", {})),
            projection_dim=sections.get("projection_dim", cls.projection_dim),
        )

    def to_dict(self) -> dict[str, Any]:
        """The contents of a ``config.json`` from which :meth:`from_dict` and other libraries build the same model."""
        return {
            **self.identity,
            "text_config": self.text_config.to_dict(),
            "vision_config": self.vision_config.to_dict(),
            "projection_dim": self.projection_dim,
        }


class CLIPAttention(nnx.Module):
    """Multi-head self-attention."""

    def __init__(self, config: CLIPTextConfig | CLIPVisionConfig, *, rngs: nnx.Rngs):
        width = config.hidden_size
        self.heads = config.num_attention_heads
        self.q_proj = Linear(width, width, rngs=rngs)
        self.k_proj = Linear(width, width, rngs=rngs)
        self.v_proj = Linear(width, width, rngs=rngs)
        self.out_proj = Linear(width, width, rngs=rngs)

    def __call__(self, x: jax.Array, *, causal: bool) -> jax.Array:
        """Maps ``[B, L, D]`` to ``[B, L, D]``."""
        return self.out_proj(attention(self.q_proj(x), self.k_proj(x), self.v_proj(x), self.heads, causal=causal))


class CLIPMLP(nnx.Module):
    """The two-layer perceptron of a transformer layer."""

    def __init__(self, config: CLIPTextConfig | CLIPVisionConfig, *, rngs: nnx.Rngs):
        self.activation = config.hidden_act
        self.fc1 = Linear(config.hidden_size, config.intermediate_size, rngs=rngs)
        self.fc2 = Linear(config.intermediate_size, config.hidden_size, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps ``[..., D]`` to ``[..., D]``."""
        return self.fc2(ACTIVATIONS[self.activation](self.fc1(x)))


class CLIPEncoderLayer(nnx.Module):
    """One pre-norm transformer layer."""

    def __init__(self, config: CLIPTextConfig | CLIPVisionConfig, *, rngs: nnx.Rngs):
        self.layer_norm1 = LayerNorm(config.hidden_size, config.layer_norm_eps, rngs=rngs)
        self.self_attn = CLIPAttention(config, rngs=rngs)
        self.layer_norm2 = LayerNorm(config.hidden_size, config.layer_norm_eps, rngs=rngs)
        self.mlp = CLIPMLP(config, rngs=rngs)

    def __call__(self, x: jax.Array, *, causal: bool) -> jax.Array:
        """Maps ``[B, L, D]`` to ``[B, L, D]``."""
        x += self.self_attn(self.layer_norm1(x), causal=causal)
        return x + self.mlp(self.layer_norm2(x))


class CLIPEncoder(nnx.Module):
    """The stack of transformer layers of the text and the image encoder."""

    def __init__(self, config: CLIPTextConfig | CLIPVisionConfig, *, rngs: nnx.Rngs):
        self.layers = nnx.List([CLIPEncoderLayer(config, rngs=rngs) for _ in range(config.num_hidden_layers)])

    def __call__(self, x: jax.Array, *, causal: bool) -> jax.Array:
        """Maps ``[B, L, D]`` to ``[B, L, D]``; ``causal`` hides later positions from earlier ones."""
        return self.all_states(x, causal=causal)[-1]

    def all_states(self, x: jax.Array, *, causal: bool) -> list[jax.Array]:
        """What enters the first layer, and what comes out of each layer, all ``[B, L, D]``.

        On a TPU a backward pass computes each layer again, to keep less while the denoiser runs.
        """
        states = [x]
        for layer in self.layers:
            run = functools.partial(layer, causal=causal)
            states.append((jax.checkpoint(run) if target_device().platform == "tpu" else run)(states[-1]))
        return states


class CLIPTextEmbeddings(nnx.Module):
    """The tables of token and position vectors."""

    def __init__(self, config: CLIPTextConfig, *, rngs: nnx.Rngs):
        self.token_embedding = Embed(config.vocab_size, config.hidden_size, rngs=rngs)
        self.position_embedding = Embed(config.max_position_embeddings, config.hidden_size, rngs=rngs)


class EncodedText(NamedTuple):
    """What the text encoder makes of a text.

    Attributes:
        states: the states ``[B, L, D]`` after the final layer norm.
        pooled: the state ``[B, D]`` at the end token after all layers and the final layer norm.
        penultimate: the states ``[B, L, D]`` one layer before, as SDXL uses them: without a layer norm.
    """

    states: jax.Array
    pooled: jax.Array
    penultimate: jax.Array


class CLIPTextTransformer(nnx.Module):
    """The text encoder, in two steps so that learned vectors can replace token vectors between them."""

    def __init__(self, config: CLIPTextConfig, *, rngs: nnx.Rngs):
        self.eos_token_id = config.eos_token_id
        self.embeddings = CLIPTextEmbeddings(config, rngs=rngs)
        self.encoder = CLIPEncoder(config, rngs=rngs)
        self.final_layer_norm = LayerNorm(config.hidden_size, config.layer_norm_eps, rngs=rngs)

    def embed_tokens(self, input_ids: jax.Array) -> jax.Array:
        """Looks up the token vectors ``[B, L, D]``, without positions, of ``input_ids`` int32 ``[B, L]``."""
        return self.embeddings.token_embedding(input_ids)

    def encode(self, token_embeddings: jax.Array, input_ids: jax.Array, clip_skip: int = 0) -> EncodedText:
        """Runs the transformer over token vectors.

        Args:
            token_embeddings: ``[B, L, D]`` from :meth:`embed_tokens`, where learned vectors may have replaced rows;
                L <= max_position_embeddings.
            input_ids: int32 ``[B, L]``; only the position of the end token matters.
            clip_skip: the number of last layers without influence on the states; less than there are.
        """
        positions = self.embeddings.position_embedding.embedding[: token_embeddings.shape[1]]
        all_states = self.encoder.all_states(token_embeddings.astype(positions.dtype) + positions, causal=True)
        last = self.final_layer_norm(all_states[-1])
        states = self.final_layer_norm(all_states[-1 - clip_skip]) if clip_skip else last
        pooled = jnp.take_along_axis(last, self._end_of_text(input_ids)[:, None, None], axis=1)
        return EncodedText(states, pooled[:, 0], all_states[-2 - clip_skip])

    def _end_of_text(self, input_ids: jax.Array) -> jax.Array:
        """Index ``[B]`` of each row's first end token."""
        if self.eos_token_id == LEGACY_EOS_TOKEN_ID:
            return jnp.argmax(input_ids, axis=-1)
        return jnp.argmax(input_ids == self.eos_token_id, axis=-1)


class CLIPTextModel(nnx.Module):
    """The text encoder of Stable Diffusion's checkpoints, in the folder ``text_encoder``."""

    config_class: ClassVar = CLIPTextConfig

    def __init__(self, config: CLIPTextConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.text_model = CLIPTextTransformer(config, rngs=rngs)

    def embed_tokens(self, input_ids: jax.Array) -> jax.Array:
        """The token vectors ``[B, L, D]`` of ``input_ids`` int32 ``[B, L]``, without positions."""
        return self.text_model.embed_tokens(input_ids)

    def encode(self, token_embeddings: jax.Array, input_ids: jax.Array, clip_skip: int = 0) -> EncodedText:
        """Encodes token vectors ``[B, L, D]``; see :meth:`CLIPTextTransformer.encode`."""
        return self.text_model.encode(token_embeddings, input_ids, clip_skip)

    def __call__(self, input_ids: jax.Array) -> EncodedText:
        """Encodes ``input_ids`` int32 ``[B, L]``."""
        return self.encode(self.embed_tokens(input_ids), input_ids)


@dataclasses.dataclass(frozen=True)
class CLIPTextConfigWithProjection(CLIPTextConfig):
    """Settings of SDXL's second text encoder, named as in its ``config.json``, with the defaults of that format."""

    identity: ClassVar = {"architectures": ["CLIPTextModelWithProjection"], "model_type": "clip_text_model"}


class CLIPTextModelWithProjection(CLIPTextModel):
    """SDXL's second text encoder, in the folder ``text_encoder_2``: its pooled state is projected."""

    config_class: ClassVar = CLIPTextConfigWithProjection

    def __init__(self, config: CLIPTextConfig, *, rngs: nnx.Rngs):
        super().__init__(config, rngs=rngs)
        width = config.projection_dim or config.hidden_size
        self.text_projection = Linear(config.hidden_size, width, use_bias=False, rngs=rngs)

    def encode(self, token_embeddings: jax.Array, input_ids: jax.Array, clip_skip: int = 0) -> EncodedText:
        """Encodes token vectors ``[B, L, D]``; the pooled states are ``[B, projection_dim]``."""
        text = super().encode(token_embeddings, input_ids, clip_skip)
        return text._replace(pooled=self.text_projection(text.pooled))


class CLIPVisionEmbeddings(nnx.Module):
    """Cuts a picture into patches, projects them, and prepends the class token."""

    def __init__(self, config: CLIPVisionConfig, *, rngs: nnx.Rngs):
        width, patch = config.hidden_size, config.patch_size
        self.class_embedding = nnx.Param(UNSET(rngs.params(), (width,)))
        self.patch_embedding = nnx.Conv(
            config.num_channels, width, (patch, patch), strides=patch, padding="VALID", use_bias=False,
            kernel_init=UNSET, rngs=rngs,
        )  # fmt: skip
        self.position_embedding = Embed((config.image_size // patch) ** 2 + 1, width, rngs=rngs)

    def __call__(self, pixel_values: jax.Array) -> jax.Array:
        """Maps ``[B, H, W, 3]`` to ``[B, 1 + patches, D]``."""
        positions = self.position_embedding.embedding[...]
        patches = self._project(pixel_values.astype(positions.dtype))
        class_token = jnp.broadcast_to(self.class_embedding[...], (patches.shape[0], 1, patches.shape[-1]))
        return jnp.concatenate([class_token, patches], axis=1) + positions

    def _project(self, pixels: jax.Array) -> jax.Array:
        """The patch embedding ``[B, patches, D]``: a convolution without overlap is a matrix product of patches."""
        kernel = self.patch_embedding.kernel[...]
        side, _, channels, width = kernel.shape
        batch, height, breadth = pixels.shape[0], pixels.shape[1] // side, pixels.shape[2] // side
        cut = pixels[:, : height * side, : breadth * side]
        cut = cut.reshape(batch, height, side, breadth, side, channels).swapaxes(2, 3)
        return cut.reshape(batch, height * breadth, -1) @ kernel.reshape(-1, width)


class CLIPVisionTransformer(nnx.Module):
    """The image encoder."""

    def __init__(self, config: CLIPVisionConfig, *, rngs: nnx.Rngs):
        self.embeddings = CLIPVisionEmbeddings(config, rngs=rngs)
        self.pre_layrnorm = LayerNorm(config.hidden_size, config.layer_norm_eps, rngs=rngs)
        self.encoder = CLIPEncoder(config, rngs=rngs)
        self.post_layernorm = LayerNorm(config.hidden_size, config.layer_norm_eps, rngs=rngs)

    def __call__(self, pixel_values: jax.Array) -> jax.Array:
        """Maps pictures ``[B, S, S, 3]`` to the normalised class states ``[B, D]``."""
        x = self.encoder(self.pre_layrnorm(self.embeddings(pixel_values)), causal=False)
        return self.post_layernorm(x[:, 0])


class CLIPModel(nnx.Module):
    """Text and image encoder with their projections into a common space of ``projection_dim`` dimensions."""

    config_class: ClassVar = CLIPConfig

    def __init__(self, config: CLIPConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.text_model = CLIPTextTransformer(config.text_config, rngs=rngs)
        self.vision_model = CLIPVisionTransformer(config.vision_config, rngs=rngs)
        self.text_projection = Linear(config.text_config.hidden_size, config.projection_dim, use_bias=False, rngs=rngs)
        self.visual_projection = Linear(
            config.vision_config.hidden_size, config.projection_dim, use_bias=False, rngs=rngs
        )
        self.logit_scale = nnx.Param(jnp.log(jnp.float32(1 / 0.07)))

    def get_text_features(self, input_ids: jax.Array) -> jax.Array:
        """Maps ``input_ids`` int32 ``[B, L]`` to features ``[B, projection_dim]``, not normalised."""
        embeddings = self.text_model.embed_tokens(input_ids)
        return self.text_projection(self.text_model.encode(embeddings, input_ids).pooled)

    def get_image_features(self, pixel_values: jax.Array) -> jax.Array:
        """Maps pictures to features ``[B, projection_dim]``, not normalised.

        Args:
            pixel_values: ``[B, S, S, 3]`` with S = image_size, normalised according to the checkpoint's
                ``preprocessor_config.json``.
        """
        return self.visual_projection(self.vision_model(pixel_values))
