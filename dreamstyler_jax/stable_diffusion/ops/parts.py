"""A function of a batch that is computed part by part, so that its memory does not grow with the batch."""

from collections.abc import Callable

import jax


def by_parts(function: Callable[[jax.Array], jax.Array], rows: jax.Array, at_once: int) -> jax.Array:
    """Applies a function to equal parts of a batch, one after the other.

    Args:
        function: maps ``[B, ...]`` to ``[B, ...]``; each row of the result depends on that row alone.
        rows: ``[N, ...]``.
        at_once: the most rows in a part, at least 1. A part has the largest number of rows that divides N.

    Returns:
        ``[N, ...]``, what ``function`` makes of all rows; if they are one part, by the same program as a plain call.
    """
    count = len(rows)
    size = next(size for size in range(min(at_once, count), 0, -1) if count % size == 0)
    if size == count:
        return function(rows)
    results = jax.lax.map(function, rows.reshape(count // size, size, *rows.shape[1:]))
    return results.reshape(count, *results.shape[2:])
