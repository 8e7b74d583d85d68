"""A folder that one process at a time may write."""

import contextlib
import errno
import warnings
from collections.abc import Iterator
from pathlib import Path

import filelock

from dreamstyler_jax.runtime.buckets import in_bucket
from dreamstyler_jax.runtime.errors import UserError

# How file systems without locks answer, such as NFS without its lock daemon.
_WITHOUT_LOCKS = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS}


@contextlib.contextmanager
def only_process(folder: Path) -> Iterator[None]:
    """Keeps other processes that ask for the same folder out, and ends with this process, however it ends.

    Makes the folder, and in it the hidden file ``.lock``, which stays. A folder in a bucket cannot be locked, nor one
    on a file system without locks, for which there is a warning: nothing keeps others out of it.

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
    except OSError as error:
        if error.errno not in _WITHOUT_LOCKS:
            raise
        warnings.warn(
            f"the file system of {folder} has no locks ({error.strerror}): nothing keeps a second process from writing "
            "there, so start no other with this --output",
            stacklevel=2,
        )
    try:
        yield
    finally:
        lock.release()
