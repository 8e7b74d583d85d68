"""Convolutions with fewer multiplications: the same numbers, and used where they are faster."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

from dreamstyler_jax.stable_diffusion.ops import winograd
from dreamstyler_jax.stable_diffusion.ops.convolution import ONE_AROUND, convolve

pytestmark = pytest.mark.skipif(jax.default_backend() != "cpu", reason="other platforms have kernels of their own")


def direct(x, kernel):
    return lax.conv_general_dilated(x, kernel, (1, 1), ONE_AROUND, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def operands(batch, height, width, channels, features):
    rng = np.random.default_rng(0)
    x, kernel = rng.standard_normal((batch, height, width, channels)), rng.standard_normal((3, 3, channels, features))
    return jnp.asarray(x, jnp.float32), jnp.asarray(kernel / 3, jnp.float32)


def assert_close(found, expected):
    assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
    assert np.linalg.norm(found - expected) <= 2e-6 * np.linalg.norm(expected)


@settings(max_examples=12)
@given(st.tuples(*(st.integers(1, largest) for largest in (3, 7, 6, 5, 4))))
def test_it_equals_the_direct_sum_at_any_size(sizes):
    x, kernel = operands(*sizes)
    ours = jax.jit(winograd.winograd, static_argnames="transposed")
    found = ours(x, kernel)
    assert_close(found, jax.jit(direct)(x, kernel))
    np.testing.assert_allclose(ours(x, kernel.swapaxes(2, 3), transposed=True), found, rtol=1e-5, atol=1e-5)


def by(convolution):
    """Value and gradient by the picture of a convolution, mapped over rows with one kernel, as guidance does."""

    def function(rows, kernel, dy):
        y, pull_back = jax.vjp(lambda x: convolution(x, kernel), rows)
        return y, *pull_back(dy)

    return jax.jit(jax.vmap(function, in_axes=(0, None, 0)))


def test_large_convolutions_and_their_gradients_are_computed_this_way():
    x, kernel = operands(4, 15, 18, 256, 260)
    rows = x.reshape(2, 2, 15, 18, 256)
    dy = jnp.cos(jnp.arange(rows[..., :1].size * 260, dtype=jnp.float32)).reshape(2, 2, 15, 18, 260)
    ours = by(lambda x, kernel: convolve(x, kernel, 1, ONE_AROUND)).lower(rows, kernel, dy).compile()
    assert " convolution(" not in ours.as_text()
    for found, expected in zip(ours(rows, kernel, dy), by(direct)(rows, kernel, dy), strict=True):
        assert_close(found, expected)


@pytest.mark.parametrize(
    ("change", "stride"),
    [(lambda x: x, 2), (lambda x: x.astype(jnp.bfloat16), 1)],
    ids=["stride", "bfloat16"],
)
def test_other_convolutions_are_computed_directly(change, stride):
    program = jax.jit(lambda x, kernel: convolve(x, kernel, stride, ONE_AROUND))
    assert "stablehlo.convolution" in program.lower(*map(change, operands(2, 16, 16, 256, 256))).as_text()


@pytest.mark.parametrize(
    ("sizes", "faster"),
    [
        ((1, 32, 32, 320, 320), True),
        ((8, 16, 16, 640, 640), True),
        ((1, 16, 16, 640, 640), False),
        ((8, 32, 32, 320, 4), False),
        ((8, 16, 16, 64, 64), False),
    ],
)
def test_it_is_used_where_it_was_measured_to_be_faster(sizes, faster):
    x, kernel = jax.eval_shape(lambda: (jnp.zeros(sizes[:4]), jnp.zeros((3, 3, *sizes[3:]))))
    assert winograd.is_faster(x, kernel) == faster
