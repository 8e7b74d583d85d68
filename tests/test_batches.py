"""Functions of many rows in batches of one shape."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dreamstyler_jax.runtime.batches import in_batches
from dreamstyler_jax.runtime.errors import UserError


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


def fitting(most, message="RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes."):
    """A function of rows for which a device has the memory if there are at most so many."""

    def function(batch):
        if len(batch) > most:
            raise jax.errors.JaxRuntimeError(message)
        return batch * 2

    return function


def test_what_exhausts_the_memory_is_computed_in_smaller_batches():
    rows = np.arange(70.0)
    with pytest.warns(UserWarning, match="computing 8 at once") as said:
        np.testing.assert_array_equal(in_batches(fitting(8), rows), rows * 2)
    assert [str(warning.message).partition(" need")[0] for warning in said] == [
        "32 pictures at once",
        "16 pictures at once",
    ]
    with pytest.warns(UserWarning), pytest.raises(UserError, match=r"even one picture needs more memory than .*cpu"):
        in_batches(fitting(0), rows)


def test_another_error_of_a_program_is_raised():
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
        in_batches(fitting(0, "INTERNAL: broken"), np.arange(3.0))
