"""Files that are either there in full or not at all, and where those go that can be made again."""

import contextlib
import os
import uuid
from pathlib import Path

from dreamstyler_jax.runtime.errors import UserError


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


def remove_temporaries(folder: Path) -> None:
    """Removes what processes that were killed while they wrote have left in a folder."""
    for path in folder.glob(f".{'[0-9a-f]' * 32}.tmp"):
        path.unlink(missing_ok=True)


def check_output(folder: Path) -> None:
    """Refuses an output folder that cannot be written, before any work is done for it. Makes nothing.

    Raises:
        UserError: `folder`, or what it would be made in, is a file or not writable.
    """
    try:
        existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    except OSError as error:
        raise UserError(f"output: {error.strerror}: {folder.name[:40]}...; choose another folder") from error
    if not existing.is_dir():
        raise UserError(f"output: {existing} is a file; choose another folder")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise UserError(f"output: no permission to write in {existing}; choose another folder")


def cache_folder() -> Path:
    """Where this project keeps what it can make again.

    Raises:
        RuntimeError: the user has no home.
    """
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dreamstyler_jax"


def _sync_folder(folder: Path) -> None:
    """Makes the new name itself survive a power cut, on systems that let a folder be opened."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
