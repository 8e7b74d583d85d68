"""An object store in memory, behind the URLs of one bucket: what Google's does, and nothing that it cannot do.

Objects are written whole, there are no folders, and nothing can be renamed or added to.
"""

import contextlib
import hashlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

NAME = "gs://styles"


class Refused(OSError):
    """The store's answer to a change that it does not allow any more."""


class FakeBucket(fsspec.AbstractFileSystem):
    """The store.

    Attributes:
        objects: their contents, by names that begin with the bucket's.
        read: the names of the objects that were read, in order.
        changes_left: how many changes the store still takes; the state afterwards is that after a process was killed.
        fatal: the end of the name of an object before whose change the process is killed.
        is_locked: whether nobody may read anything.
    """

    protocol = ("gs", "gcs")
    cachable = False
    objects: dict[str, bytes]
    read: list[str]
    changes_left: float
    fatal: str
    is_locked = False

    @classmethod
    def empty(cls) -> None:
        cls.objects, cls.read, cls.changes_left, cls.fatal, cls.is_locked = {}, [], float("inf"), "", False

    @classmethod
    def contents(cls, folder: str) -> dict[str, bytes]:
        """The objects below a folder, given as a URL, by their names in it."""
        start = folder.removeprefix("gs://") + "/"
        return {name.removeprefix(start): data for name, data in cls.objects.items() if name.startswith(start)}

    @classmethod
    def add_folder(cls, url: str, folder: Path) -> str:
        """Copies a folder of this machine to a URL, which is returned."""
        for path in folder.rglob("*"):
            if path.is_file():
                name = f"{url.removeprefix('gs://')}/{path.relative_to(folder).as_posix()}"
                cls.objects[name] = path.read_bytes()
        return url

    def ls(self, path: str, detail: bool = True, **_: Any) -> list:
        path = self._strip_protocol(path).rstrip("/")
        self._check(path)
        if path in self.objects:
            found = [self._entry(path)]
        else:
            below = [name.removeprefix(f"{path}/") for name in self.objects if name.startswith(f"{path}/")]
            names = {f"{path}/{name.partition('/')[0]}" for name in below}
            found = [self._entry(name) for name in sorted(names)]
        if not found and path.partition("/")[2]:
            raise FileNotFoundError(path)
        return found if detail else [entry["name"] for entry in found]

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        path = self._strip_protocol(path).rstrip("/")
        self._check(path)
        if path not in self.objects and path.partition("/")[2]:
            self.ls(path)
        return self._entry(path)

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", content_type: str = "") -> None:
        path = self._strip_protocol(path)
        self._change(path)
        self.objects[path] = bytes(value)

    def put_file(self, lpath: str, rpath: str, **_: Any) -> None:
        self.pipe_file(rpath, Path(lpath).read_bytes())

    def rm_file(self, path: str) -> None:
        path = self._strip_protocol(path)
        self._change(path)
        del self.objects[path]

    def _rm(self, path: str) -> None:
        self.rm_file(path)

    def _open(self, path: str, mode: str = "rb", **_: Any) -> io.BytesIO:
        if mode != "rb":
            raise NotImplementedError("written objects are whole: use pipe_file")
        self._check(path)
        if path not in self.objects:
            raise FileNotFoundError(path)
        self.read.append(path)
        return io.BytesIO(self.objects[path])

    def _entry(self, path: str) -> dict[str, Any]:
        if path not in self.objects:
            return {"name": path, "size": 0, "type": "directory"}
        data = self.objects[path]
        return {"name": path, "size": len(data), "type": "file", "etag": hashlib.sha256(data).hexdigest()}

    def _check(self, path: str) -> None:
        if self.is_locked:
            raise PermissionError(f"no access to {path}")
        if path.partition("/")[0] != NAME.removeprefix("gs://"):
            raise FileNotFoundError(path)

    def _change(self, path: str) -> None:
        self._check(path)
        if self.fatal and path.endswith(self.fatal):
            type(self).changes_left, type(self).fatal = 0, ""
        if self.changes_left <= 0:
            raise Refused(f"no change of {path}")
        type(self).changes_left -= 1


@contextlib.contextmanager
def bucket(cache: Path) -> Iterator[type[FakeBucket]]:
    """An empty bucket, and an empty folder for copies of its objects on this machine."""
    for scheme in FakeBucket.protocol:
        fsspec.register_implementation(scheme, FakeBucket, clobber=True)
    FakeBucket.empty()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(cache))
        yield FakeBucket
