"""From prompts to conditionings: learned vectors take their places among the token vectors, stage by stage.

A placeholder is never a token of the vocabulary. Its vectors are spliced in by position, between the token embedding
and the text encoder, so the text around it is encoded as in any other prompt.
"""

import functools
import itertools
import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from dreamstyler_jax.stable_diffusion.conditioning import Conditioning
from dreamstyler_jax.stable_diffusion.networks import Networks
from dreamstyler_jax.stable_diffusion.pipeline import StableDiffusion
from dreamstyler_jax.stable_diffusion.placeholders import PLAIN, Reading, tokenize_with_placeholders
from dreamstyler_jax.stable_diffusion.tokenizer import Tokenizer
from dreamstyler_jax.style import Style, check_layers, check_widths, with_layers


def initial_tables(
    model: StableDiffusion, words_of_stages: Sequence[str], vectors: int, layers: int = 1
) -> dict[str, np.ndarray]:
    """The tables before training, of each text encoder: in each stage, and all its layers, the embedding of its words.

    Several words give each vector a word; with fewer words than vectors the last one is repeated. A word of several
    tokens gives the mean of their embeddings.

    Returns:
        float32[T, V, D], or float32[T, K, V, D] where K, the ``layers``, are more than one.
    """

    def of_stage(encoder: str, words: Sequence[str]) -> np.ndarray:
        vocabulary, tokenizer = np.asarray(model.vocabulary_vectors[encoder]), model.tokenizers[encoder]
        means = np.stack([vocabulary[tokenizer.words(word)].mean(0) for word in words])
        return means[np.minimum(np.arange(vectors), len(words) - 1)]

    def table(encoder: str) -> np.ndarray:
        start = np.stack([of_stage(encoder, words.split()) for words in words_of_stages]).astype(np.float32)
        return np.repeat(start[:, None], layers, axis=1) if layers > 1 else start

    return {encoder: table(encoder) for encoder in model.tokenizers}


def stage_starts(styles: Mapping[str, Style]) -> list[Fraction]:
    """Where in the noise, from 0 to 1, a stage of one of these styles begins: R of them, in order.

    They divide the timesteps evenly if one style's number of stages is a multiple of all others'.
    """
    return sorted({Fraction(stage, style.stages) for style in styles.values() for stage in range(style.stages)})


def join_tables(styles: Mapping[str, Style]) -> dict[str, np.ndarray]:
    """The vectors of several styles side by side, float32[R, sum of V, D] for each text encoder.

    A row holds the vectors of all styles from one of `stage_starts` to the next. If one of them has vectors for each of
    K layers, those of the others are repeated for each: float32[R, K, sum of V, D].
    """
    starts, layers = stage_starts(styles), layers_of(styles)

    def stretched(table: np.ndarray) -> np.ndarray:
        table = table[[math.floor(start * len(table)) for start in starts]]
        shape = len(starts), layers, *table.shape[-2:]
        return np.broadcast_to(with_layers(table), shape) if layers > 1 else table

    def join(*tables: np.ndarray) -> np.ndarray:
        return np.concatenate([stretched(table) for table in tables], axis=-2)

    return jax.tree.map(join, *(dict(style.tables) for style in styles.values()))


def layers_of(styles: Mapping[str, Style]) -> int:
    """K of the conditionings of prompts that may name these styles."""
    return max((style.layers for style in styles.values()), default=1)


class Tokens(NamedTuple):
    """Prompts as a text encoder's tokenizer reads them, a pytree.

    Attributes:
        ids: token ids, int32[..., L].
        slots: int32[..., L]: -1 at an ordinary token, elsewhere the number of the learned vector that replaces it.
        weights: of the text states, float32[..., L]; None where all of them are 1.
    """

    ids: Array | np.ndarray
    slots: Array | np.ndarray
    weights: Array | np.ndarray | None = None


def tokenize(
    tokenizers: Mapping[str, Tokenizer],
    prompts: Sequence[str],
    vectors: Mapping[str, int],
    *,
    required: bool = False,
    reading: Reading = PLAIN,
) -> dict[str, Tokens]:
    """Tokens [P, L] of prompts, for each text encoder; L is its window times the number of windows.

    Args:
        tokenizers: the model's.
        prompts: texts with placeholders.
        vectors: how many vectors each style has per stage, by the name in its placeholder.
        required: refuse prompts without a placeholder, as training does.
        reading: weights and windows.

    Raises:
        UserError: an unknown placeholder, one beyond the tokenizer's window, or one that is required and missing.
    """

    def by(tokenizer: Tokenizer) -> Tokens:
        rows = [
            tokenize_with_placeholders(tokenizer, prompt, vectors, required=required, reading=reading)
            for prompt in prompts
        ]
        ids, slots, weights = (np.stack(column) for column in zip(*rows, strict=True))
        return Tokens(ids, slots, weights if (weights != 1).any() else None)

    return {encoder: by(tokenizer) for encoder, tokenizer in tokenizers.items()}


def splice(token_vectors: Array, slots: Array | np.ndarray, vectors: Array) -> Array:
    """Puts learned vectors among the token vectors.

    Args:
        token_vectors: [B, L, D].
        slots: as in `Tokens`, int32[B, L].
        vectors: the learned vectors of each row, [B, N, D].

    Returns:
        [B, L, D] in the dtype of ``token_vectors``.
    """
    taken = jnp.take_along_axis(vectors, jnp.maximum(slots, 0)[..., None], axis=1)
    return jnp.where(slots[..., None] >= 0, taken.astype(token_vectors.dtype), token_vectors)


def encode_spliced(
    networks: Networks, params: Any, tokens: Mapping[str, Tokens], vectors: Mapping[str, Array]
) -> Conditioning:
    """Encodes each text encoder's tokens [B, L] with learned vectors [B, N, D] in their slots.

    With vectors [B, K, N, D] the tokens are encoded once for each of K cross-attention layers (P+, Voynov et al. 2023).
    """
    ids = {name: of_encoder.ids for name, of_encoder in tokens.items()}
    token_vectors = networks.embed_tokens(params, ids)

    def encode(vectors: Mapping[str, Array]) -> Conditioning:
        spliced = {name: splice(token_vectors[name], tokens[name].slots, vectors[name]) for name in tokens}
        return networks.encode_text(params, spliced, ids)

    if vectors["clip_l"].ndim == 3:
        return encode(vectors)
    return Conditioning.of_layers(jax.vmap(encode, in_axes=1)(vectors))


@functools.partial(jax.jit, static_argnames="networks")
def encode_tokens(
    networks: Networks, params: Any, tokens: Mapping[str, Tokens], tables: Mapping[str, Array]
) -> Conditioning:
    """Encodes tokens [P, L] once per stage, with the vectors of tables [T, V, D]: a conditioning [P, T, L, D].

    With tables [T, K, V, D] once per stage and layer, and the conditioning has K of them.
    """
    count = len(tokens["clip_l"].ids)

    def one_stage(vectors: Mapping[str, Array]) -> Conditioning:
        of_each_prompt = {name: jnp.broadcast_to(rows, (count, *rows.shape)) for name, rows in vectors.items()}
        return encode_spliced(networks, params, tokens, of_each_prompt)

    stages_first = jax.lax.map(one_stage, tables)
    return jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 0, 1), stages_first)


def check_styles(model: StableDiffusion, styles: Mapping[str, Style]) -> None:
    """Raises a UserError if a style does not fit the model's text encoders and denoiser."""
    check_widths(styles, model.networks.text_widths)
    check_layers(styles, model.networks.unet_config.cross_attentions)


@functools.partial(jax.jit, static_argnames="widths")
def weigh(conditioning: Conditioning, weights: Array | np.ndarray, widths: tuple[int, ...]) -> Conditioning:
    """Multiplies the text states by the weights of their tokens, and restores the mean of each prompt's states.

    This is the formula of diffusers' community pipeline ``lpw_stable_diffusion`` and, for one prompt at a time, that of
    AUTOMATIC1111's web UI. Each stage, each layer and each text encoder has a mean of its own. The states of a prompt
    without weights stay as they are, bit for bit.

    Args:
        conditioning: [P, R, L, D], or K of them.
        weights: float32[P, L].
        widths: of the text encoders, whose states lie side by side in D.
    """
    factors = jnp.asarray(weights)[:, None, :, None]
    is_weighted = jnp.any(factors != 1, axis=(1, 2, 3), keepdims=True)

    def of_encoder(states: Array) -> Array:
        before = states.astype(jnp.float32)
        after = before * factors
        ratio = before.mean((-2, -1), keepdims=True) / after.mean((-2, -1), keepdims=True)
        return jnp.where(is_weighted, (after * ratio).astype(states.dtype), states)

    def of_all(states: Array) -> Array:
        parts = jnp.split(states, list(itertools.accumulate(widths[:-1])), axis=-1)
        return jnp.concatenate([of_encoder(part) for part in parts], axis=-1)

    return conditioning._replace(states=jax.tree.map(of_all, conditioning.states))


@functools.partial(jax.jit, static_argnames="windows")
def join_windows(conditioning: Conditioning, windows: int) -> Conditioning:
    """The conditioning [P, R, windows * L, D] of prompts whose windows were encoded one by one, [P * windows, R, L, D].

    The pooled text is that of the first window.
    """

    def join(states: Array) -> Array:
        by_window = states.reshape(-1, windows, *states.shape[1:])
        return jnp.concatenate([by_window[:, window] for window in range(windows)], axis=-2)

    pooled = None if conditioning.pooled is None else conditioning.pooled[::windows]
    return Conditioning(jax.tree.map(join, conditioning.states), pooled)


def encode(
    model: StableDiffusion, prompts: Sequence[str], styles: Mapping[str, Style], reading: Reading = PLAIN
) -> Conditioning:
    """The conditioning [P, R, L, D] of prompts, or K of them; R and K are 1 where there are no styles.

    Its R rows are for the timesteps between `stage_starts`, which is to say for T stages if all styles have as many.

    Args:
        model: its text encoders encode.
        prompts: texts with placeholders.
        styles: all that the prompts may name, by that name.
        reading: weights, and how many windows of tokens L takes.

    Raises:
        UserError: a style of another model, an unknown placeholder, or one beyond the window.
    """
    check_styles(model, styles)
    vectors = {name: style.vectors for name, style in styles.items()}
    tokens = tokenize(model.tokenizers, prompts, vectors, reading=reading)
    widths = model.networks.text_widths
    empty = {name: np.zeros((1, 1, width), np.float32) for name, width in widths.items()}
    by_window = {
        name: Tokens(*(rows.reshape(len(prompts) * reading.windows, -1) for rows in (of_encoder.ids, of_encoder.slots)))
        for name, of_encoder in tokens.items()
    }
    tables = join_tables(styles) if styles else empty
    conditioning = encode_tokens(model.networks, model.params, by_window, tables)
    if reading.windows > 1:
        conditioning = join_windows(conditioning, reading.windows)
    weights = tokens["clip_l"].weights  # the same for all text encoders
    return conditioning if weights is None else weigh(conditioning, weights, tuple(widths.values()))
