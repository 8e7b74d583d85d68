"""The hand-written gradient of the 3 x 3 convolution is the one automatic differentiation gives."""

import functools

import jax
import numpy as np
import pytest
from jax import lax

from dreamstyler_jax.models.convolution import convolve

CASES = {
    "stride 1": (1, ((1, 1), (1, 1)), (6, 5)),
    "stride 2, the UNet's padding, odd size": (2, ((1, 1), (1, 1)), (7, 6)),
    "stride 2, the autoencoder's padding": (2, ((0, 1), (0, 1)), (8, 6)),
    "stride 2, the autoencoder's padding, odd size": (2, ((0, 1), (0, 1)), (7, 5)),
}


@pytest.mark.parametrize("case", CASES)
def test_gradients(case):
    stride, padding, size = CASES[case]
    rng = np.random.default_rng(0)
    x, kernel = rng.standard_normal((2, *size, 3), np.float32), rng.standard_normal((3, 3, 3, 4), np.float32)
    reference = functools.partial(
        lax.conv_general_dilated, window_strides=(stride, stride), padding=padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )  # fmt: skip
    expected, by_rule = jax.vjp(reference, x, kernel)
    output, by_hand = jax.vjp(lambda x, kernel: convolve(x, kernel, stride, padding), x, kernel)
    np.testing.assert_array_equal(output, expected)
    dy = rng.standard_normal(output.shape, np.float32)
    for gradient, reference_gradient in zip(by_hand(dy), by_rule(dy), strict=True):
        np.testing.assert_allclose(gradient, reference_gradient, rtol=1e-5, atol=1e-5)
