"""The gradients of convolutions: JAX's numbers, in a form that the CPU's compiler makes fast."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from dreamstyler_jax.stable_diffusion.ops.convolution import convolve

CASES = [
    (size, stride, padding) for size in [(6, 8), (7, 5)] for stride, padding in [(1, (1, 1)), (2, (1, 1)), (2, (0, 1))]
]
LAYOUT = "b01f_01io->b01f"


def reference(x, kernel, stride, padding):
    return lax.conv_general_dilated(x, kernel, (stride,) * 2, padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def operands(size, dtype=jnp.float32, features=4):
    rng = np.random.default_rng(0)
    x, kernel = rng.standard_normal((2, *size, 3)), rng.standard_normal((3, 3, 3, features)) / 5
    return jnp.asarray(x, dtype), jnp.asarray(kernel, dtype)


def value_and_gradients(function, x, kernel):
    y, pull_back = jax.vjp(function, x, kernel)
    dy = jnp.asarray(np.random.default_rng(1).standard_normal(y.shape), y.dtype)
    return y, *pull_back(dy)


def assert_close(ours, expected, tolerance):
    for a, b in zip(ours, expected, strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        a, b = (np.asarray(array, np.float32) for array in (a, b))
        assert np.linalg.norm(a - b) <= tolerance * np.linalg.norm(b)


@pytest.mark.parametrize("features", [4, 120], ids=["large map", "small map"])
@pytest.mark.parametrize(("size", "stride", "padding"), CASES)
def test_value_and_gradients_are_jaxs(size, stride, padding, features):
    both = [
        jax.jit(functools.partial(value_and_gradients, functools.partial(f, stride=stride, padding=(padding, padding))))
        for f in (lambda x, k, stride, padding: convolve(x, k, stride, padding), reference)
    ]
    ours, expected = (f(*operands(size, features=features)) for f in both)
    assert_close(ours, expected, 1e-6)


def test_bfloat16_stays_bfloat16():
    ours, expected = (
        value_and_gradients(lambda x, k, f=f: f(x, k, 2, ((1, 1), (1, 1))), *operands((6, 8), jnp.bfloat16))
        for f in (convolve, reference)
    )
    assert_close(ours, expected, 1e-2)


@functools.cache
def looped(function):
    """The gradient by input and kernel through a loop of three strided and plain convolutions, compiled."""

    def loss(x, kernel):
        def body(h, _):
            down = function(h, kernel, 2, ((0, 1), (0, 1)))
            return h + function(jnp.repeat(jnp.repeat(down, 2, 1), 2, 2), kernel, 1, ((1, 1), (1, 1))), None

        return jnp.sin(lax.scan(body, x, None, 3)[0]).sum()

    x, kernel = operands((6, 8))
    x, kernel = x, kernel[..., :3]
    return jax.jit(jax.grad(loss, (0, 1))).lower(x, kernel).compile(), (x, kernel)


def test_gradients_in_a_loop_are_jaxs():
    (ours, arguments), (expected, _) = looped(convolve), looped(reference)
    assert_close(ours(*arguments), expected(*arguments), 1e-5)


def layouts(compiled):
    """The layout of every convolution in a compiled program."""
    return re.findall(r"dim_labels=(\S+?)[,\s]", compiled.as_text())


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="other platforms keep JAX's gradient")
def test_gradients_in_a_loop_keep_the_forward_layout():
    found = layouts(looped(convolve)[0])
    assert len(found) >= 6, "two forward convolutions and their four gradients"
    assert set(found) == {LAYOUT}
    assert set(layouts(looped(reference)[0])) != {LAYOUT}, "JAX's gradient keeps it too: drop the rule"


def test_vmap_over_pictures_is_jaxs():
    """Guidance maps the denoiser over its rows in this way; the kernel is shared."""
    x, kernel = operands((6, 8))
    x = jnp.stack([x, x[::-1] + 1])

    def mapped(function):
        def whole(x, kernel):
            return jax.vmap(lambda row: function(row, kernel, 2, ((1, 1), (1, 1))))(x)

        def of_one_row(row):
            return jnp.sin(function(row, kernel, 2, ((1, 1), (1, 1)))).sum()

        return *value_and_gradients(whole, x, kernel), jax.vmap(jax.grad(of_one_row))(x)

    assert_close(mapped(convolve), mapped(reference), 1e-6)
