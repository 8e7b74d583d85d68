"""Functions of many rows in batches of one shape."""

import jax.numpy as jnp
import numpy as np
import pytest

from dreamstyler_jax.runtime.batches import in_batches


@pytest.mark.parametrize(
    ("rows", "max_rows", "sizes"), [(1, 32, [1]), (5, 32, [8]), (70, 32, [32] * 3), (5, 3, [3, 3])]
)
def test_batches_have_one_size_and_cover_all_rows_in_order(rows, max_rows, sizes):
    seen = []

    def function(batch):
        seen.append(len(batch))
        return jnp.asarray(batch) * 2, jnp.asarray(batch).sum(-1)

    values = np.random.default_rng(0).standard_normal((rows, 3), np.float32)
    doubled, sums = in_batches(function, values, max_rows)
    assert seen == sizes
    np.testing.assert_array_equal(doubled, values * 2)
    np.testing.assert_allclose(sums, values.sum(-1), rtol=1e-5, atol=1e-6)
