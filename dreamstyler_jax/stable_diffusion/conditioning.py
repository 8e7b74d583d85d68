"""What the denoiser gets from a prompt, as one pytree."""

from collections.abc import Sequence
from typing import NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from dreamstyler_jax.stable_diffusion.unet_blocks import TextStates


class Conditioning(NamedTuple):
    """Encoded prompts, with any leading axes ``...`` (prompts, guidance rows, pictures).

    With a stage axis T it holds a prompt as every stage sees it; `at` picks one stage. A pytree, so ``jax.vmap``,
    batch splitting and ``lax.scan`` take it as it is.

    Attributes:
        states: text states, ``[..., T, L, D]``, or ``[..., L, D]`` after `at`; or a tuple of K such arrays, for each
            cross-attention layer of the denoiser its own. Programs for one array know nothing of layers.
        pooled: the pooled text, ``[..., T, P]``, or ``[..., P]`` after `at`; None unless the denoiser takes it (SDXL).
    """

    states: TextStates
    pooled: Array | None = None

    @property
    def stages(self) -> int:
        """T, the number of stages."""
        return jax.tree.leaves(self.states)[0].shape[-3]

    def at(self, stage: Array | np.ndarray | int) -> Self:
        """The prompts as one stage (traced or not, 0 to T - 1) sees them, without the stage axis."""
        axis = jax.tree.leaves(self.states)[0].ndim - 3  # the same for all: what comes before it is common to them
        return jax.tree.map(lambda leaf: jax.lax.dynamic_index_in_dim(leaf, stage, axis, keepdims=False), self)

    def take(self, indices: Array | np.ndarray) -> Self:
        """The prompts at ``indices`` of the first axis, in a shape like that of ``indices``."""
        return jax.tree.map(lambda leaf: jnp.take(leaf, indices, axis=0, mode="clip"), self)

    @classmethod
    def of_layers(cls, encoded: Self) -> Self:
        """The prompts whose encodings for each of K cross-attention layers lie along a first axis, ``[K, ...]``.

        The pooled text, which the denoiser reads once, is the mean of theirs.
        """
        return cls(tuple(encoded.states), None if encoded.pooled is None else encoded.pooled.mean(0))

    @classmethod
    def concatenate(cls, parts: Sequence[Self]) -> Self:
        """All prompts of several parts, along the first axis."""
        return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)
