"""Paths on this machine and in buckets, the object stores of clouds; and writing, listing and reading objects there."""

import functools
import mimetypes
import os
import re
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

from dreamstyler_jax.runtime.errors import UserError

# Stores that etils.epath knows, by the scheme of their URLs, with the package that speaks to them for fsspec.
PACKAGES = {"gs": "gcsfs", "s3": "s3fs", "az": "adlfs"}
_URL = re.compile(r"([a-z][a-z0-9+.-]+)://", re.IGNORECASE)
_IN_BUCKET = re.compile(rf"({'|'.join(PACKAGES)})://", re.IGNORECASE)
_SHORTENED = re.compile(rf"({'|'.join(PACKAGES)}):/(?!/)", re.IGNORECASE)
_WILDCARDS = "*?[]"


def in_bucket(path: str | os.PathLike) -> bool:
    """Whether a path is the URL of something in a bucket."""
    return bool(_IN_BUCKET.match(os.fspath(path)))


def path_of(path: str | os.PathLike) -> Path:
    """The path that a text names: on this machine, or, for a URL such as ``gs://bucket/folder``, in a bucket.

    A path in a bucket is an `etils.epath.Path`, which reads, lists and removes as a `Path` does. To write there use
    `files.write_atomic`, `files.replacing` and `growing_files.growing_file`.

    Raises:
        UserError: a URL of another kind or with capitals, or the package for it is not installed.
    """
    text = os.fspath(path)
    if _SHORTENED.match(text):
        raise UserError(f"{text}: pathlib.Path drops a slash of URLs; give the URL as text, or as an etils.epath.Path")
    if url := _URL.match(text):
        _prepare(url[1])
        from etils import epath

        return cast(Path, epath.Path(text))
    return Path(text)


@functools.cache
def _prepare(scheme: str) -> None:
    """Makes sure that URLs of a scheme can be read, and that what other processes write is seen.

    Raises:
        UserError: as for `path_of`.
    """
    if scheme.lower() in PACKAGES and not scheme.islower():
        raise UserError(f"{scheme}:// is written in small letters, {scheme.lower()}://")
    if scheme not in PACKAGES:
        known = ", ".join(f"{known}://" for known in PACKAGES)
        raise UserError(f"{scheme}:// is not supported, only {known}: copy the files to this machine first")
    import fsspec
    from fsspec.config import conf

    os.environ.setdefault("EPATH_USE_TF", "false")  # or epath would import TensorFlow where that is installed
    conf.setdefault(scheme, {}).setdefault("use_listings_cache", False)
    try:
        fsspec.get_filesystem_class(scheme)
    except ImportError as error:
        raise UserError(f"{scheme}:// needs the package {PACKAGES[scheme]}: pip install {PACKAGES[scheme]}") from error


class Listed(NamedTuple):
    """An object in a folder.

    Attributes:
        name: relative to the folder.
        size: in bytes.
        version: what the store says of the object, which differs if it is written again.
    """

    name: str
    size: int
    version: str


def list_objects(folder: Path) -> list[Listed]:
    """All objects below a folder, sorted by name; none if there is no such folder."""
    store, start = _store(folder)
    found = sorted(store.find(start, detail=True).items())
    # An object whose name ends in a slash is what some tools leave for a folder.
    return [_listed(name.removeprefix(f"{start}/"), info) for name, info in found if not name.endswith("/")]


def look_up_object(path: Path) -> Listed:
    """What the store says of one object.

    Raises:
        FileNotFoundError: there is none.
    """
    store, name = _store(path)
    return _listed(path.name, store.info(name))


def write_object(path: Path, data: bytes) -> None:
    """Writes an object in one request, so that a reader sees the old content or the new, never a part."""
    store, name = _store(path)
    kind = mimetypes.guess_type(name)[0]
    described = {"content_type": kind} if kind and os.fspath(path).startswith("gs://") else {}  # a browser shows it
    store.pipe_file(name, data, **described)


def write_objects(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Writes objects of a folder, by their names in it, in any order and at once where the store allows it."""
    store, start = _store(folder)
    store.pipe({f"{start}/{name}": data for name, data in contents.items()})


def read_objects(folder: Path, names: Sequence[str]) -> dict[str, bytes]:
    """The contents of objects of a folder, by their names in it; read at once where the store allows it."""
    store, start = _store(folder)
    contents = store.cat([f"{start}/{name}" for name in names]) if names else {}
    return {name: contents[f"{start}/{name}"] for name in names}


def remove_objects(folder: Path, names: Sequence[str]) -> None:
    """Removes objects of a folder, by their names in it."""
    store, start = _store(folder)
    if names:
        store.rm([f"{start}/{name}" for name in names])


def upload(file: Path, path: Path) -> None:
    """Makes an object of a file on this machine."""
    store, name = _store(path)
    store.put_file(str(file), name)


def download(path: Path, file: Path) -> None:
    """Copies an object to a file on this machine."""
    store, name = _store(path)
    store.get_file(name, str(file))


def check_reachable(folder: Path, option: str = "output") -> None:
    """Refuses a folder for output whose bucket does not exist or cannot be read. Makes nothing.

    Args:
        folder: the folder.
        option: what the user gave it with, for errors.

    Raises:
        UserError: as said, or the folder has a wildcard in its name.
    """
    if set(_WILDCARDS) & set(os.fspath(folder)):
        raise UserError(f"{option}: {folder}: buckets take {' '.join(_WILDCARDS)} for wildcards; choose another name")
    store, name = _store(folder)
    try:
        try:
            store.ls(name)
        except FileNotFoundError:  # a new folder, or no bucket
            store.ls(name.partition("/")[0])
    except FileNotFoundError as error:
        raise UserError(f"{option}: there is no bucket for {folder}") from error
    except Exception as error:  # each store has its own kinds
        raise UserError(f"{option}: {folder} cannot be reached: {type(error).__name__}: {error}") from error


def is_of_store(error: BaseException) -> bool:
    """Whether an error came out of a store: no permission, no connection, ... Each store has its own kinds."""
    modules = [frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__)]
    return any(module.startswith("fsspec.") for module in modules) or (
        error.__cause__ is not None and is_of_store(error.__cause__)
    )


def _listed(name: str, info: Mapping[str, Any]) -> Listed:
    return Listed(name, info["size"], repr(sorted(info.items())))


def _store(path: Path) -> tuple[Any, str]:
    """The store of a path, and the name that the path has there."""
    from fsspec.core import url_to_fs

    return url_to_fs(os.fspath(path))
