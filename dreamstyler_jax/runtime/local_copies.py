"""Copies of files in buckets in the user's cache folder, for libraries that read files of this machine alone."""

import dataclasses
import hashlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from dreamstyler_jax.runtime.buckets import download, in_bucket, list_objects, look_up_object
from dreamstyler_jax.runtime.errors import UserError
from dreamstyler_jax.runtime.files import cache_folder, replacing

_LARGE = 10_000_000  # bytes of a file that takes a moment


def local_copy(path: Path) -> Path:
    """The file itself or, if it is in a bucket, its copy on this machine, which is made if there is none.

    The copy is of what is in the bucket now: an object that was written again gets another copy.

    Raises:
        FileNotFoundError: there is no such object.
    """
    if not in_bucket(path):
        return path
    found = look_up_object(path)
    copy = _folder_for(f"{path} {found}") / path.name
    if found.size > _LARGE and not copy.exists():
        announce_download(str(path), [found.size])
    _copy(path, copy)
    return copy


@dataclasses.dataclass(frozen=True)
class BucketFolder:
    """A folder in a bucket, as it is now.

    Attributes:
        path: the folder.
        files: the size in bytes of each file below it, by its path in the folder.
        copy: the folder for copies of its files, another one for other files.
    """

    path: Path
    files: Mapping[str, int]
    copy: Path

    @classmethod
    def look_up(cls, path: Path) -> Self:
        """Lists a folder.

        Raises:
            UserError: there is none.
        """
        found = list_objects(path)
        if not found:
            raise UserError(f"there is no folder {path}")
        copy = _folder_for(f"{path} {found}") / path.name
        return cls(path, {item.name: item.size for item in found}, copy)

    @property
    def name(self) -> str:
        """Its URL."""
        return str(self.path)

    def fetch(self, files: Sequence[str]) -> Path:
        """Copies those of these files that have no copy yet; returns the folder that holds them."""
        missing = [file for file in files if not (self.copy / file).exists()]
        announce_download(self.name, [self.files[file] for file in missing])
        for file in missing:
            _copy(self.path / file, self.copy / file)
        return self.copy


def announce_download(origin: str, sizes: Sequence[int]) -> None:
    """Says that files of these sizes in bytes are being downloaded; nothing if there are none."""
    if size := sum(sizes):
        count = f"{len(sizes)} file{'s' * (len(sizes) > 1)}"
        print(f"Downloading {count} of {origin}, {_readable(size)}", file=sys.stderr, flush=True)


def _readable(size: int) -> str:
    """A number of bytes as people read it."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{size / 1e3:.0f} kB"


def _folder_for(content: str) -> Path:
    return cache_folder() / "buckets" / hashlib.sha256(content.encode()).hexdigest()[:24]


def _copy(path: Path, copy: Path) -> None:
    if not copy.exists():
        with replacing(copy) as temporary:
            download(path, temporary)
