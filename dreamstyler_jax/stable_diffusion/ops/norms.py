"""Normalisation in float32 and two passes; its gradient keeps only the input and the statistics."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from dreamstyler_jax.runtime.devices import device as target_device

Residuals = tuple[Array, Array, Array]


class LayerNorm(nnx.LayerNorm):
    """Layer normalisation over the last axis, output in the input's dtype."""

    scale: nnx.Param
    bias: nnx.Param

    def __init__(self, features: int, epsilon: float = 1e-5, *, rngs: nnx.Rngs):
        super().__init__(features, epsilon=epsilon, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        """Normalises the channels of each position of ``[..., C]``."""
        h = standardize(x.reshape(-1, 1, x.shape[-1]), 1, self.epsilon)
        return (h * self.scale[...] + self.bias[...]).astype(x.dtype).reshape(x.shape)


class GroupNorm(nnx.GroupNorm):
    """Group normalisation of ``[B, ..., C]``, output in the input's dtype."""

    scale: nnx.Param
    bias: nnx.Param

    def __init__(self, features: int, groups: int, epsilon: float, *, rngs: nnx.Rngs):
        super().__init__(features, groups, epsilon=epsilon, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        """Normalises each group of channels of each image over all positions."""
        h = standardize(x.reshape(x.shape[0], -1, x.shape[-1]), self.num_groups, self.epsilon)
        return (h * self.scale[...] + self.bias[...]).astype(x.dtype).reshape(x.shape)

    def silu(self, x: Array) -> Array:
        """``jax.nn.silu`` of the normalised ``[B, ..., C]``; on a TPU with the gradient of :func:`silu_of_norm`."""
        if target_device().platform != "tpu":
            return jax.nn.silu(self(x))
        h = x.reshape(x.shape[0], -1, x.shape[-1])
        return silu_of_norm(h, self.scale[...], self.bias[...], self.num_groups, self.epsilon).reshape(x.shape)


def _standardize(x: Array, groups: int, epsilon: float) -> Array:
    """Shifts and scales each group of channels of each image to mean 0 and variance 1.

    The variance is the mean square of the differences from the mean. ``E[x^2] - E[x]^2`` would cancel
    catastrophically on the VAE's activations, whose mean is large compared with their spread.

    Args:
        x: ``[B, N, C]``; the statistics are over N and the channels of a group.
        groups: number of groups, divides C.
        epsilon: added to the variance.

    Returns:
        float32 ``[B, N, C]``.
    """
    return _forward(x, groups, epsilon)[0]


standardize = jax.custom_vjp(_standardize, nondiff_argnums=(1, 2))


def _forward(x: Array, groups: int, epsilon: float) -> tuple[Array, Residuals]:
    mean = _group_mean(x.astype(jnp.float32), groups)
    difference = x.astype(jnp.float32) - mean
    inverse = jax.lax.rsqrt(_group_mean(jnp.square(difference), groups) + epsilon)
    return difference * inverse, (x, mean, inverse)


def _backward(groups: int, epsilon: float, residuals: Residuals, dy: Array) -> tuple[Array]:
    x, mean, inverse = residuals
    y = (x.astype(jnp.float32) - mean) * inverse
    dx = inverse * (dy - _group_mean(dy, groups) - y * _group_mean(y * dy, groups))
    return (dx.astype(x.dtype),)


standardize.defvjp(_forward, _backward)


def _silu_of_norm(x: Array, scale: Array, bias: Array, groups: int, epsilon: float) -> Array:
    """The SiLU of group normalisation, whose gradient keeps no more than that of the normalisation.

    JAX's gradient would keep the normalised array and its sigmoid as well.

    Args:
        x: ``[B, N, C]``.
        scale: ``[C]``.
        bias: ``[C]``.
        groups: number of groups, divides C.
        epsilon: added to the variance.

    Returns:
        ``[B, N, C]`` in the dtype of ``x``.
    """
    return _silu_forward(x, scale, bias, groups, epsilon)[0]


silu_of_norm = jax.custom_vjp(_silu_of_norm, nondiff_argnums=(3, 4))


def _silu_forward(x: Array, scale: Array, bias: Array, groups: int, epsilon: float) -> tuple[Array, Any]:
    h, residuals = _forward(x, groups, epsilon)
    return jax.nn.silu((h * scale + bias).astype(x.dtype)), (residuals, scale, bias)


def _silu_backward(groups: int, epsilon: float, kept: Any, dz: Array) -> tuple[Array, Array, Array]:
    residuals, scale, bias = kept
    x, mean, inverse = residuals
    h = (x.astype(jnp.float32) - mean) * inverse
    y = (h * scale + bias).astype(x.dtype).astype(jnp.float32)
    sigmoid = jax.nn.sigmoid(y)
    dy = dz.astype(jnp.float32) * sigmoid * (1 + y * (1 - sigmoid))
    (dx,) = _backward(groups, epsilon, residuals, dy * scale)
    return dx, (dy * h).sum((0, 1)).astype(scale.dtype), dy.sum((0, 1)).astype(bias.dtype)


silu_of_norm.defvjp(_silu_forward, _silu_backward)


def _group_mean(x: Array, groups: int) -> Array:
    """The mean over N and each group of channels of ``[B, N, C]``, repeated for its channels: ``[B, 1, C]``."""
    batch, _, features = x.shape
    # Positions first: the inner loop then runs over contiguous channels.
    means = x.mean(axis=1).reshape(batch, groups, -1).mean(axis=-1)
    return jnp.repeat(means, features // groups, axis=-1)[:, None, :]
