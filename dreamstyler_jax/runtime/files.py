"""Files that appear whole or not at all, here or in buckets, JSON files, and the folder for what can be made again."""

import contextlib
import json
import os
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dreamstyler_jax.runtime.buckets import check_reachable, in_bucket, path_of, upload, write_object
from dreamstyler_jax.runtime.errors import UserError


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """Yields a temporary path to write a file to, which then takes the place of `path`.

    A reader, or a crash, sees the old content or the new, never a part. The temporary file is hidden, lies in the
    folder of `path` and does not have its suffix; it is flushed to the disk and renamed in one step. Missing folders
    are made. If the block raises, the temporary file is removed and `path` stays as it was. For a path in a bucket the
    temporary file lies on this machine, and becomes one object.

    Raises:
        OSError: the disk is full, the folder cannot be written, or the block wrote no file.
    """
    path = path_of(path)
    if in_bucket(path):
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder) / path.name
            upload(Path(folder) / path.name, path)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def write_atomic(path: str | os.PathLike, data: bytes) -> None:
    """Writes a file whole or not at all, as :func:`replacing` does.

    Raises:
        OSError: the disk is full, the folder cannot be written, ...
    """
    path = path_of(path)
    if in_bucket(path):
        write_object(path, data)
        return
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def remove_temporaries(folder: Path) -> None:
    """Removes the temporary files that killed processes have left in a folder."""
    for path in folder.glob(f".{'[0-9a-f]' * 32}.tmp"):
        path.unlink(missing_ok=True)


def read_json(path: str | os.PathLike, *, advice: str = "make or download it again") -> dict[str, Any]:
    """Reads the object in a JSON file.

    Args:
        path: the file.
        advice: what the user can do about a missing or damaged file; the end of the error's message.

    Raises:
        UserError: the file is missing, unreadable, not valid JSON, or holds something other than an object.
    """
    path = path_of(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{path} is missing; {advice}") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:  # not UTF-8, not JSON, nested too deeply
        raise UserError(f"{path} is damaged, it is not valid JSON ({error}); {advice}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} is damaged, it should hold a JSON object; {advice}")
    return content


def write_json(path: str | os.PathLike, content: Mapping[str, Any]) -> None:
    """Writes an object as indented JSON in UTF-8, whole or not at all."""
    write_atomic(path, (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode("utf-8"))


def check_output(folder: Path) -> None:
    """Refuses an output folder that cannot be written, before any work is done for it. Makes nothing.

    Raises:
        UserError: the folder, or the existing one that it would be made in, is a file or not writable; or its bucket
            cannot be reached.
    """
    if in_bucket(folder):
        check_reachable(folder)
        return
    try:
        existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    except OSError as error:
        raise UserError(f"output: {error.strerror}: {folder.name[:40]}...; choose another folder") from error
    if not existing.is_dir():
        raise UserError(f"output: {existing} is a file; choose another folder")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise UserError(f"output: no permission to write in {existing}; choose another folder")


def cache_folder() -> Path:
    """The folder for files that this project can make again.

    Raises:
        RuntimeError: the user has no home folder.
    """
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dreamstyler_jax"


def _sync_folder(folder: Path) -> None:
    """Flushes a folder, so that a rename survives a power cut, where the system allows it."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
