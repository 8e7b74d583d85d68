"""Vectors of which only the direction is learned (Kim et al. 2026, "Directional Textual Inversion", arXiv 2512.13672).

Free vectors grow to norms far beyond those of words and drown the rest of the prompt, while what a vector means lies in
its direction. Here every vector keeps the norm m that it starts with, the mean norm of the vocabulary, and the
optimizer moves its direction v = e / m over the unit sphere. Stages, vectors and text encoders have spheres of their
own: everything here works along the last axis.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from dreamstyler_jax.runtime.errors import UserError

BETA = 0.9  # of the second moment; the authors' 0 makes each step as long as the learning rate and never settles
_EPSILON = 1e-8
_MAX_ITERATIONS = 100  # of the spherical mean; each shortens the rest by more than half for directions that are near


def with_norm(vectors: np.ndarray, vocabulary: np.ndarray) -> np.ndarray:
    """Vectors [..., D] with the mean norm of the words in a vocabulary [N, D]; rows of zeros are no words.

    Raises:
        UserError: a vector is zero.
    """
    if not np.linalg.norm(vectors, axis=-1).all():
        raise UserError("init_word: the vector of this word is zero, so it has no direction: choose another word")
    return _unit(vectors) * mean_norm(vocabulary)


def mean_norm(vocabulary: np.ndarray) -> np.floating:
    """The mean norm of the words in a vocabulary [N, D]; rows of zeros are no words."""
    norms = np.linalg.norm(np.asarray(vocabulary, np.float32), axis=-1)
    return norms[norms > 0].mean()


def with_norms_of(vectors: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Vectors [..., D] with the norms of others [..., D]."""
    return _unit(vectors) * np.linalg.norm(others, axis=-1, keepdims=True)


class SphereState(NamedTuple):
    """The state of `descend_on_sphere`.

    Attributes:
        start: the vectors at the beginning, which give norms and the prior's directions mu.
        moment: s, the running mean of squared gradients, float32[...], one number for each vector.
        moves: k, how many steps each vector has moved, int32[...].
        step: steps done, int32[].
    """

    start: Any
    moment: Any
    moves: Any
    step: Array


def descend_on_sphere(
    learning_rate: optax.Schedule, prior: float = 0.0, beta: float = BETA
) -> optax.GradientTransformation:
    """Riemannian gradient descent that turns vectors and leaves their norms as they are (Kim et al. 2026, section 4).

    With the gradient g of the loss by v, in which the prior of von Mises and Fisher counts as -prior * mu:
    g is projected onto the tangent space; s <- beta s + (1 - beta) |g|^2; v <- v - rate * g / (sqrt(s / (1 - beta^k)) +
    eps), and back to the sphere. A vector whose gradient is exactly zero, since the batch had no sample of its stage,
    stands still: the prior alone would make a full step.

    Args:
        learning_rate: maps steps done to the rate, in radians per step.
        prior: kappa, how strongly each vector is drawn to the direction that it started with.
        beta: of the second moment; 0 makes all steps equally long.
    """

    def init(params: Any) -> SphereState:
        per_vector = jax.tree.map(lambda table: table[..., 0], params)
        zeros = jax.tree.map(jnp.zeros_like, per_vector)
        return SphereState(params, zeros, jax.tree.map(lambda zero: zero.astype(jnp.int32), zeros), jnp.int32(0))

    def move(table: Array, gradient: Array, start: Array, s: Array, k: Array, rate: Array) -> tuple[Array, ...]:
        norm = jnp.linalg.norm(start, axis=-1, keepdims=True)
        mu, v = start / norm, table / jnp.linalg.norm(table, axis=-1, keepdims=True)
        g = norm * gradient - prior * mu
        g -= jnp.sum(g * v, -1, keepdims=True) * v
        moves = jnp.any(gradient != 0, axis=-1)
        k = k + moves
        s = jnp.where(moves, beta * s + (1 - beta) * jnp.sum(g**2, -1), s)
        corrected = s / (1 - jnp.power(beta, jnp.maximum(k, 1)))
        v -= rate * g / (jnp.sqrt(corrected) + _EPSILON)[..., None]
        moved = norm * v / jnp.linalg.norm(v, axis=-1, keepdims=True)
        return jnp.where(moves[..., None], moved - table, 0.0), s, k

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, SphereState]:
        at_rate = functools.partial(move, rate=jnp.asarray(learning_rate(state.step)))
        moved = jax.tree.map(at_rate, params, updates, state.start, state.moment, state.moves)
        moves_by_table, moment, moves = jax.tree.transpose(
            jax.tree.structure(params), jax.tree.structure((0, 0, 0)), moved
        )
        return moves_by_table, SphereState(state.start, moment, moves, state.step + 1)

    return optax.GradientTransformation(init, update)


def spherical_mean(vectors: Sequence[np.ndarray], weights: Sequence[float]) -> np.ndarray:
    """The mean of directions on the sphere, which for two is spherical interpolation, with the weighted mean of norms.

    The point at which the vectors to all directions, along great circles, cancel out by their weights; it is found by
    walking along their sum, from the direction of the heaviest. Of two, the first step arrives.

    Args:
        vectors: arrays [..., D], without zeros.
        weights: one for each, adding up to 1; a negative one leads away.
    """
    directions = np.stack([_unit(array.astype(np.float64)) for array in vectors])
    share = np.asarray(weights, np.float64).reshape(-1, *[1] * vectors[0].ndim)
    norm = np.sum(share * np.linalg.norm(np.stack(vectors).astype(np.float64), axis=-1, keepdims=True), axis=0)
    mean = directions[int(np.argmax(weights))]
    for _ in range(1 if len(vectors) == 2 else _MAX_ITERATIONS):
        step = np.sum(share * _towards(mean, directions), axis=0)
        angle = np.linalg.norm(step, axis=-1, keepdims=True)
        mean = _unit(np.cos(angle) * mean + np.sinc(angle / np.pi) * step)
        if angle.max() < 1e-12:
            break
    return (norm * mean).astype(np.float32)


def _towards(origin: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """The tangent vectors at ``origin`` that lead to directions; their lengths are the angles."""
    along = np.clip(np.sum(origin * directions, axis=-1, keepdims=True), -1, 1)
    across = directions - along * origin
    length = np.linalg.norm(across, axis=-1, keepdims=True)
    angle = np.arctan2(length, along)
    return np.divide(across * angle, length, out=np.zeros_like(across), where=length > 0)


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
