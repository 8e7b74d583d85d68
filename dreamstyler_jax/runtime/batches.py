"""Applying a function to many rows in batches of one shape, so that it compiles once."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from dreamstyler_jax.runtime.memory import fewer, is_exhausted, nothing_fits, say_what_fits

BATCH_ROWS = 32


def in_batches(function: Callable[[np.ndarray], Any], rows: np.ndarray, max_rows: int = BATCH_ROWS) -> Any:
    """Applies ``function`` to all rows, batch by batch, and joins the results.

    All batches have the same number of rows: ``max_rows``, or the next power of two if there are fewer rows. The last
    row is repeated to fill the last batch, and the results of the repeats are dropped. If a device's memory is
    exhausted, the batches are smaller.

    Args:
        function: maps an array [B, ...] to an array [B, ...], or to a pytree of such arrays; each row of the result
            depends on that row alone.
        rows: [N, ...], at least one row.
        max_rows: the largest batch.

    Returns:
        What ``function`` returns, as NumPy arrays [N, ...].

    Raises:
        UserError: the memory is too small for a single row.
    """
    size = min(max_rows, 1 << (len(rows) - 1).bit_length())
    while True:
        padded = np.concatenate([rows, np.repeat(rows[-1:], -len(rows) % size, 0)])
        try:
            results = [jax.tree.map(np.asarray, function(padded[i : i + size])) for i in range(0, len(rows), size)]
        except jax.errors.JaxRuntimeError as error:
            size = _less(size, error)
            continue
        return jax.tree.map(lambda *parts: np.concatenate(parts)[: len(rows)], *results)


def _less(size: int, error: Exception) -> int:
    """How many rows to compute at once after an error, if memory was exhausted."""
    if not is_exhausted(error):
        raise error
    if size == 1:
        raise nothing_fits("one picture", "JAX_PLATFORMS=cpu in the environment computes on the CPU") from error
    say_what_fits(f"{size} pictures", f"computing {fewer(size)} at once")
    return fewer(size)
