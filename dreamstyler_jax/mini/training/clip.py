"""Training of CLIP, and its text encoder as a part of Stable Diffusion."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import Array

from dreamstyler_jax.mini.training.batches import random_indices, randomly_mirrored
from dreamstyler_jax.mini.training.tokens import CAPTIONS_PER_PICTURE
from dreamstyler_jax.mini.training.trainer import Loss, Part, Plan, trained
from dreamstyler_jax.runtime import images
from dreamstyler_jax.stable_diffusion.clip import CLIPConfig, CLIPModel, CLIPTextModel
from dreamstyler_jax.stable_diffusion.weights import init_model

MAX_LOGIT_SCALE = 4.6  # the temperature stays above 1/100, as in CLIP


class CaptionedPictures(NamedTuple):
    """What CLIP learns from."""

    pixels: Array | np.ndarray  # uint8[N, 128, 128, 3]
    captions: Array | np.ndarray  # int16[N, CAPTIONS_PER_PICTURE, L], tokens


def train_clip(plan: Plan, config: CLIPConfig, pixels: np.ndarray, captions: np.ndarray) -> Part:
    """Trains both encoders of CLIP.

    Captions are cut one token after the longest. The text encoder is causal, so this loses nothing.

    Args:
        plan: how to train.
        config: sizes, with the tokenizer's ids.
        pixels: uint8[N, 128, 128, 3].
        captions: int16[N, CAPTIONS_PER_PICTURE, 77], as `tokens.tokenize_captions` returns them.
    """
    part = Part.untrained(CLIPModel, config, plan.seed)
    length = int((captions != config.text_config.pad_token_id).sum(-1).max()) + 1
    loss = contrastive_loss(part.graphdef, plan.batch_size)
    pairs = CaptionedPictures(pixels, captions[:, :, :length])
    return trained(plan, part, loss, pairs)


def contrastive_loss(graphdef: nnx.GraphDef, batch_size: int) -> Loss:
    """CLIP's symmetric contrastive loss (Radford et al. 2021, Fig. 3)."""

    def loss(params, pairs: CaptionedPictures, key):
        k_index, k_flip, k_caption = jax.random.split(key, 3)
        index = random_indices(k_index, batch_size, len(pairs.pixels))
        caption = jax.random.randint(k_caption, (batch_size,), 0, CAPTIONS_PER_PICTURE)
        clip = nnx.merge(graphdef, params)
        image = clip.get_image_features(randomly_mirrored(k_flip, images.to_unit(pairs.pixels[index])))
        text = clip.get_text_features(pairs.captions[index, caption].astype(jnp.int32))
        scale = jnp.exp(jnp.minimum(clip.logit_scale[...].astype(jnp.float32), MAX_LOGIT_SCALE))
        logits = _unit(image) @ _unit(text).T * scale
        matches = jnp.arange(batch_size)
        cross_entropy = optax.softmax_cross_entropy_with_integer_labels
        return (cross_entropy(logits, matches).mean() + cross_entropy(logits.T, matches).mean()) / 2

    return loss


def _unit(features: Array) -> Array:
    features = features.astype(jnp.float32)
    return features / jnp.linalg.norm(features, axis=-1, keepdims=True)


def text_encoder_of(clip: Part) -> Part:
    """CLIP's text encoder alone, as Stable Diffusion holds it."""
    assert isinstance(clip.config, CLIPConfig)
    config = clip.config.text_config
    graphdef, _ = init_model(CLIPTextModel, config)
    return Part(CLIPTextModel, config, graphdef, {"text_model": clip.params["text_model"]})
