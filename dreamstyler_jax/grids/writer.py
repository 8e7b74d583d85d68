"""The thread that writes the pictures of a grid while the next ones are painted."""

import concurrent.futures
from typing import Self

import numpy as np

from dreamstyler_jax.grids.cells import Cell
from dreamstyler_jax.grids.gallery import Gallery
from dreamstyler_jax.runtime.buckets import is_of_store
from dreamstyler_jax.runtime.files import LASTING_ERRORS

MAX_PENDING = 64  # pictures that may wait


class Writer:
    """Writes pictures in a thread of its own while the next ones are painted.

    A context manager; leaving it waits for everything handed over. What no picture after it would be spared, such as a
    full disk, is raised, by the next `save` or on leaving.

    Args:
        gallery: where to write.
        max_pending: how many pictures may wait.

    Attributes:
        failed: cells that could not be written, each with the reason.

    Raises:
        OSError: nothing can be written any more; all pictures whose lines are there are whole.
    """

    def __init__(self, gallery: Gallery, max_pending: int = MAX_PENDING):
        self._gallery, self._max_pending = gallery, max_pending
        self.failed: list[tuple[Cell, str]] = []
        self._pool = concurrent.futures.ThreadPoolExecutor(1, "writer")
        self._pending: list[tuple[Cell, concurrent.futures.Future[None]]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_) -> None:
        with self._pool:
            self._settle(0)

    def save(self, cell: Cell, picture: np.ndarray) -> None:
        """Hands a picture over; waits while too many are waiting already."""
        self._pending.append((cell, self._pool.submit(self._gallery.save, cell, picture)))
        self._settle(self._max_pending)

    def _settle(self, max_pending: int) -> None:
        while self._pending and (len(self._pending) > max_pending or self._pending[0][1].done()):
            cell, future = self._pending.pop(0)
            try:
                future.result()
            except (OSError, ValueError) as error:
                if _is_lasting(error):
                    raise
                self.failed.append((cell, str(error)))


def _is_lasting(error: Exception) -> bool:
    """Whether an error is of the disk, or of the bucket's manifest, and not of one picture."""
    return isinstance(error, OSError) and (
        error.errno in LASTING_ERRORS or (error.errno is None and is_of_store(error))
    )
