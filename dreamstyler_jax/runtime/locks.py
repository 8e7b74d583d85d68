"""A folder that one process at a time may write."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import filelock

from dreamstyler_jax.runtime.buckets import in_bucket
from dreamstyler_jax.runtime.errors import UserError


@contextlib.contextmanager
def only_process(folder: Path) -> Iterator[None]:
    """Keeps other processes that ask for the same folder out, and ends with this process, however it ends.

    Makes the folder, and in it the hidden file ``.lock``, which stays. A folder in a bucket
    cannot be locked: nothing keeps others out of it.

    Raises:
        UserError: another process has the folder.
        OSError: the folder cannot be written.
    """
    if in_bucket(folder):
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise UserError(f"another process is writing {folder}: wait for its end, or choose another --output") from None
    try:
        yield
    finally:
        lock.release()
