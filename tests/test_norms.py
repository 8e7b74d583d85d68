"""Normalisation with its hand-written gradient, and GELU, which replaces JAX's."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from dreamstyler_jax.stable_diffusion.layers import gelu
from dreamstyler_jax.stable_diffusion.ops.norms import GroupNorm, LayerNorm, silu_of_norm
from dreamstyler_jax.stable_diffusion.unet_blocks import FeedForward, one_product, two_products


def by_definition(x, scale, bias, axes, epsilon=1e-5):
    mean = x.mean(axes, keepdims=True)
    return (x - mean) / jnp.sqrt(((x - mean) ** 2).mean(axes, keepdims=True) + epsilon) * scale + bias


def group_norm(x, scale, bias):
    grouped = x.reshape(*x.shape[:-1], 2, -1)
    return by_definition(grouped, scale.reshape(2, -1), bias.reshape(2, -1), (1, 2, 4)).reshape(x.shape)


def layer_norm(x, scale, bias):
    return by_definition(x, scale, bias, (-1,))


def computed(module):
    graph, _ = nnx.split(module)

    def function(x, scale, bias):
        return nnx.merge(graph, nnx.State({"scale": nnx.Param(scale), "bias": nnx.Param(bias)}))(x)

    return function


@pytest.mark.parametrize(
    ("module", "expected"),
    [(GroupNorm(6, 2, 1e-5, rngs=nnx.Rngs(0)), group_norm), (LayerNorm(6, rngs=nnx.Rngs(0)), layer_norm)],
    ids=["group", "layer"],
)
@pytest.mark.parametrize("mean", [0, 30])
@pytest.mark.parametrize("sizes", [(3, 4, 5), (1, 1, 1)])
def test_values_and_all_gradients_are_those_of_the_definition(module, expected, mean, sizes):
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(shape).astype(np.float32) for shape in ((*sizes, 6), 6, 6)]
    arrays[0] += mean
    slope = rng.standard_normal(arrays[0].shape).astype(np.float32)

    @functools.partial(jax.jit, static_argnums=0)
    def value_and_slopes(function, slope, *arrays):
        value, pull_back = jax.vjp(function, *arrays)
        return value, pull_back(slope)

    found, expected = (value_and_slopes(function, slope, *arrays) for function in (computed(module), expected))
    np.testing.assert_allclose(found[0], expected[0], atol=3e-4)
    for one, other in zip(found[1], expected[1], strict=True):
        np.testing.assert_allclose(one, other, atol=3e-3, rtol=3e-3)


def test_the_gradient_keeps_nothing_in_float32_that_is_as_large_as_its_input():
    x = jnp.ones((2, 16, 16, 6), jnp.bfloat16)
    norm = nnx.split(GroupNorm(6, 2, 1e-5, rngs=nnx.Rngs(0)))
    _, back = jax.vjp(lambda x: nnx.merge(*norm)(x), x)
    kept = [leaf for leaf in jax.tree.leaves(back) if leaf.size >= x.size]
    assert [leaf.dtype for leaf in kept] == [jnp.bfloat16]


def silu_and_gradients(function, *arrays):
    value, back = jax.vjp(function, *arrays)
    return [value, *back(jnp.cos(jnp.arange(value.size, dtype=value.dtype)).reshape(value.shape))]


def test_silu_of_a_norm_is_that_of_the_definition_and_its_gradient_keeps_one_array():
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(shape).astype(np.float32) + 1 for shape in ((2, 20, 6), 6, 6)]

    def defined(x, scale, bias):
        return jax.nn.silu(group_norm(x[:, :, None, :], scale, bias)[:, :, 0])

    def ours(x, scale, bias):
        return silu_of_norm(x, scale, bias, 2, 1e-5)

    for one, other in zip(silu_and_gradients(ours, *arrays), silu_and_gradients(defined, *arrays), strict=True):
        np.testing.assert_allclose(one, other, atol=2e-5, rtol=2e-5)
    _, back = jax.vjp(ours, jnp.asarray(arrays[0], jnp.bfloat16), *arrays[1:])
    assert [leaf.dtype for leaf in jax.tree.leaves(back) if leaf.size >= arrays[0].size] == [jnp.bfloat16]


def test_two_products_are_one():
    linear = FeedForward(4, rngs=nnx.Rngs(0)).proj_in
    rng = np.random.default_rng(0)
    linear.kernel.set_value(rng.standard_normal((4, 32), np.float32))
    linear.bias.set_value(rng.standard_normal(32, np.float32))
    x = rng.standard_normal((2, 3, 4), np.float32)
    for one, other in zip(one_product(x, linear), two_products(x, linear), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_gelu_is_rounded_once():
    """If all steps were in bfloat16, 1 + erf of a negative number would lose all its digits."""
    x = jnp.linspace(-3, 3, 1001).astype(jnp.bfloat16)
    exact = jax.nn.gelu(x.astype(jnp.float32), approximate=False)
    found = gelu(x)
    assert found.dtype == jnp.bfloat16
    np.testing.assert_allclose(found.astype(jnp.float32), exact, rtol=2**-8)
    np.testing.assert_allclose(gelu(x.astype(jnp.float32)), exact, atol=3e-7)
