"""Convolutions with fewer multiplications: the same numbers, and taken where they pay."""

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
def test_it_is_the_direct_sum_whatever_the_size(sizes):
    x, kernel = operands(*sizes)
    assert_close(winograd.winograd(x, kernel), direct(x, kernel))
    turned = winograd.winograd(x, kernel.swapaxes(2, 3), transposed=True)
    np.testing.assert_allclose(turned, winograd.winograd(x, kernel), rtol=1e-5, atol=1e-5)


@pytest.fixture
def always(monkeypatch):
    """As if all sizes were large enough."""
    monkeypatch.setattr(winograd, "MIN_CHANNELS", 1)
    monkeypatch.setattr(winograd, "MIN_PIXELS", 1)


def by(convolution):
    """Value and gradient by the picture of a convolution, mapped over rows with one kernel, as guidance does it."""

    def function(rows, kernel, dy):
        y, pull_back = jax.vjp(lambda x: convolution(x, kernel), rows)
        return y, *pull_back(dy)

    return jax.jit(jax.vmap(function, in_axes=(0, None, 0)))


def test_value_and_gradient_are_taken_this_way_and_are_the_same(always):
    x, kernel = operands(6, 5, 4, 8, 6)
    rows = x.reshape(3, 2, 5, 4, 8)
    dy = jnp.cos(jnp.arange(rows[..., :6].size, dtype=jnp.float32)).reshape(3, 2, 5, 4, 6)
    ours = by(lambda x, kernel: convolve(x, kernel, 1, ONE_AROUND)).lower(rows, kernel, dy).compile()
    assert " convolution(" not in ours.as_text()
    for found, expected in zip(ours(rows, kernel, dy), by(direct)(rows, kernel, dy), strict=True):
        assert_close(found, expected)


@pytest.mark.parametrize(
    ("change", "stride"),
    [(lambda x: x, 2), (lambda x: x.astype(jnp.bfloat16), 1)],
    ids=["stride", "bfloat16"],
)
def test_other_convolutions_stay_as_they_are(always, change, stride):
    program = jax.jit(lambda x, kernel: convolve(x, kernel, stride, ONE_AROUND))
    assert "stablehlo.convolution" in program.lower(*map(change, operands(2, 4, 4, 3, 3))).as_text()


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
def test_it_pays_where_it_was_measured_to(sizes, faster):
    x, kernel = jax.eval_shape(lambda: (jnp.zeros(sizes[:4]), jnp.zeros((3, 3, *sizes[3:]))))
    assert winograd.pays(x, kernel) == faster
