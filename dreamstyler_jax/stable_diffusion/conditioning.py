"""What the denoiser gets from a prompt, as one pytree."""

from collections.abc import Sequence
from typing import NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array


class Conditioning(NamedTuple):
    """Encoded prompts, with any leading axes ``...`` (prompts, guidance rows, pictures).

    With a stage axis T it holds a prompt as every stage sees it; `at` picks one stage. A pytree, so ``jax.vmap``,
    batch splitting and ``lax.scan`` take it as it is. What a larger model gets besides the states (a pooled state,
    time ids) is another field, and another line in the methods below.

    Attributes:
        states: text states, ``[..., T, L, D]``, or ``[..., L, D]`` after `at`.
    """

    states: Array

    @property
    def stages(self) -> int:
        """T, the number of stages."""
        return self.states.shape[-3]

    def at(self, stage: Array | np.ndarray | int) -> Self:
        """The prompts as one stage (traced or not, 0 to T - 1) sees them, without the stage axis."""
        axis = self.states.ndim - 3
        return type(self)(jax.lax.dynamic_index_in_dim(self.states, stage, axis, keepdims=False))

    def take(self, indices: Array | np.ndarray) -> Self:
        """The prompts at ``indices`` of the first axis, in a shape like that of ``indices``."""
        return type(self)(jnp.take(self.states, indices, axis=0, mode="clip"))

    @classmethod
    def concatenate(cls, parts: Sequence[Self]) -> Self:
        """All prompts of several parts, along the first axis."""
        return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)
