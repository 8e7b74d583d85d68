"""Files that appear whole or not at all, here or in buckets, JSON files, and the folder for what can be made again."""

import contextlib
import errno
import json
import os
import tempfile
import uuid
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar, overload

from dreamstyler_jax.runtime.buckets import check_reachable, in_bucket, path_of, upload, write_object
from dreamstyler_jax.runtime.documents import parse_json
from dreamstyler_jax.runtime.errors import UserError, listing, shortened

T = TypeVar("T")

_MAX_BYTES = 2**28
# Errors that whatever else is written to a disk meets as well, and that do not pass by themselves.
LASTING_ERRORS = {
    *(errno.EACCES, errno.EDQUOT, errno.ENOSPC, errno.ENOTCONN, errno.EPERM, errno.EROFS, errno.ESTALE),
}


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
        with naming(path):
            yield temporary
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


@contextlib.contextmanager
def naming(path: str | os.PathLike) -> Iterator[None]:
    """Within this context an OSError without a file's name, such as a full disk while writing, gets this one."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            error.filename = str(path)
        raise


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
    """Removes the temporary files that killed processes have left in a folder; in a bucket there are none."""
    if in_bucket(folder):
        return
    for path in folder.glob(f".{'[0-9a-f]' * 32}.tmp"):
        path.unlink(missing_ok=True)


def read_file(path: str | os.PathLike, *, advice: str = "make or download it again") -> bytes:
    """Reads a whole file of at most 256 MiB, such as a list or settings.

    Args:
        path: the file.
        advice: what the user can do about a missing or unreadable file; the end of the error's message.

    Raises:
        UserError: it is missing, unreadable, larger, or its name is none.
    """
    try:
        with path_of(path).open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{path} is missing; {advice}") from None
    except OSError as error:
        raise UserError(f"cannot read {shortened(str(path), 300)}: {error.strerror or error}") from error
    except ValueError as error:  # a NUL in the name
        raise UserError(f"cannot read {str(path)!r}: {error}") from error
    if len(content) > _MAX_BYTES:
        raise UserError(f"{path} is larger than {_MAX_BYTES >> 20} MiB, too large for what it should hold; {advice}")
    return content


def text_of(content: bytes) -> str:
    """The text in a file in UTF-8, with or without a byte order mark, with line breaks of any system as \\n.

    Raises:
        UnicodeDecodeError: it is not UTF-8.
    """
    return content.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")


@overload
def read_json(path: str | os.PathLike, *, advice: str = ...) -> dict[str, Any]: ...
@overload
def read_json(path: str | os.PathLike, shape: type[T], *, advice: str = ...) -> T: ...
def read_json(
    path: str | os.PathLike, shape: Any = dict[str, Any], *, advice: str = "make or download it again"
) -> Any:
    """Reads a JSON file, an object unless its description says otherwise.

    Args:
        path: the file.
        shape: what it should hold, see `documents`.
        advice: what the user can do about a missing or damaged file; the end of the error's message.

    Raises:
        UserError: the file is missing, unreadable, not valid JSON, or not as described; the message names the key.
    """
    return parse_json(read_file(path, advice=advice), shape, str(path), advice)


def write_json(path: str | os.PathLike, content: Mapping[str, Any]) -> None:
    """Writes an object as indented JSON in UTF-8, whole or not at all."""
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    write_atomic(path, text.encode("utf-8", "backslashreplace"))  # lone surrogates as JSON's own \udcff


def check_output(folder: Path, option: str = "output") -> None:
    """Refuses an output folder that cannot be written, before any work is done for it. Makes nothing.

    Args:
        folder: the folder.
        option: what the user gave it with, for errors.

    Raises:
        UserError: the folder, or the existing one that it would be made in, is a file or not writable; or its bucket
            cannot be reached.
    """
    if in_bucket(folder):
        check_reachable(folder, option)
        return
    try:
        existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    except OSError as error:
        raise UserError(f"{option}: {error.strerror}: {folder.name[:40]}...; choose another folder") from error
    if not existing.is_dir():
        raise UserError(f"{option}: {existing} is a file; choose another folder")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise UserError(f"{option}: no permission to write in {existing}; choose another folder")


def check_own(folder: Path, written: Iterable[str], signs: Iterable[str]) -> None:
    """Refuses to write into a folder of somebody else's where files would be replaced.

    Args:
        folder: the folder.
        written: names, or patterns of names, of what will be written or removed in it.
        signs: patterns of what shows that this project made the folder: with any of these all is well.

    Raises:
        UserError: there is something to be replaced, and no sign.
    """
    if any(True for sign in signs for _ in folder.glob(sign)):
        return
    if found := sorted(path.name for pattern in written for path in folder.glob(pattern)):
        raise UserError(
            f"output: {folder} holds {listing(found)}, which this program has not written there and would replace: "
            "choose another folder"
        )


def inside(folder: Path, name: object) -> Path | None:
    """The file of that name in a folder; None if it is no name, or one that leads out of the folder."""
    if not isinstance(name, str) or not name or "\0" in name:
        return None
    path = os.path.normpath(name)
    return None if os.path.isabs(path) or path.split(os.sep)[0] in (os.pardir, os.curdir) else folder / path


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
