"""Files that are either there in full or not at all."""

import contextlib
import os
import uuid
from pathlib import Path


def write_atomic(path: str | Path, data: bytes) -> None:
    """Writes a file so that a reader, or a crash, sees the old content or the new, never a part.

    The bytes go to a hidden temporary file beside `path`, are flushed to the disk, and take its name in one step.
    Folders on the way are made. On failure the temporary file is removed and `path` is as it was.

    Raises:
        OSError: the disk is full, the folder cannot be written, ...
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Makes the new name itself survive a power cut, on systems that let a folder be opened."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
