"""Files that grow line by line, on this machine and in buckets, whose objects nothing can be added to."""

import errno
import os
import threading
from pathlib import Path
from typing import Protocol

from dreamstyler_jax.runtime.buckets import in_bucket, write_object
from dreamstyler_jax.runtime.files import naming

PAUSE = 5.0  # seconds between two uploads of one object; stores refuse more than one in a second


class GrowingFile(Protocol):
    """A file that data is added to."""

    def write(self, data: bytes) -> None:
        """Adds data to the end of the file.

        Raises:
            OSError: it cannot be written.
        """
        ...

    def flush(self) -> None:
        """Does nothing: data is on its way after each `write`."""
        ...

    def close(self) -> None:
        """Waits until everything is in the file; data may be added again."""
        ...


def growing_file(path: Path) -> GrowingFile:
    """A file that data can be added to; it is made with the first data, if it does not exist."""
    return _InBucket(path) if in_bucket(path) else _OnDisk(path)


class _OnDisk:
    """A file on this machine. After `write` data is on the disk; a file that cannot hold all of it stays as it was."""

    def __init__(self, path: Path):
        self._path = path

    def write(self, data: bytes) -> None:
        with naming(self._path), self._path.open("ab", buffering=0) as file:
            size = file.tell()
            try:
                if file.write(data) < len(data):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                os.fsync(file.fileno())
            except BaseException:
                file.truncate(size)
                raise

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass


class _InBucket:
    """An object in a bucket. A thread writes the whole of it again when it has grown, `PAUSE` seconds apart.

    What was added after the last upload is lost if the process is killed. An upload that failed shows in the next call.
    """

    def __init__(self, path: Path):
        self._path, self._added = path, bytearray()
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None
        self._grown, self._closing = threading.Event(), threading.Event()

    def write(self, data: bytes) -> None:
        self._check()
        self._added += data
        self._grown.set()
        if self._thread is None:
            self._thread = threading.Thread(target=self._upload, daemon=True)
            self._thread.start()

    def flush(self) -> None:
        pass

    def close(self) -> None:
        if self._thread is not None:
            self._closing.set()
            self._grown.set()
            self._thread.join()
            self._thread, self._added = None, bytearray()
            self._closing.clear()
        try:
            self._check()
        finally:
            self._error = None

    def _upload(self) -> None:
        try:
            earlier = self._earlier()
            while True:
                self._grown.wait()
                self._grown.clear()
                is_last = self._closing.is_set()
                write_object(self._path, earlier + self._added)
                if is_last:
                    return
                self._closing.wait(PAUSE)
        except Exception as error:  # each store has its own kinds
            self._error = error

    def _earlier(self) -> bytes:
        try:
            return self._path.read_bytes()
        except FileNotFoundError:
            return b""

    def _check(self) -> None:
        if self._error is not None:
            raise OSError(f"cannot write {self._path}: {self._error}") from self._error
