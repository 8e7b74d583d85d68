"""The weights of a model in the layout of ``diffusers`` and ``transformers``: finding and opening their files.

Only safetensors files are read: other formats can run code when they are opened. Where the user allows it,
`single_files.pickles` reads the tensors of some of them.
"""

import contextlib
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, TypedDict

import numpy as np
import safetensors

from dreamstyler_jax.runtime.documents import FileName
from dreamstyler_jax.runtime.errors import UserError, listing, shortened
from dreamstyler_jax.runtime.files import read_json
from dreamstyler_jax.stable_diffusion.weight_names import WeightNames, require_weights

_POINTER = b"version https://git-lfs"
_SAMPLE_BYTES = 4096  # per sample of a weights file's hash
_SAMPLES = 256
_MAX_NAME = 1000  # characters of a tensor's name
_BYTES_OF_AN_OPEN_FILE = 2**29


class WeightIndex(TypedDict):
    """What lists weights in several files: the file of each tensor."""

    weight_map: dict[str, FileName]


class TensorSource(Protocol):
    """Named tensors that are read one at a time."""

    def names(self) -> Iterable[str]:
        """The names of all tensors."""
        ...

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor, without reading it."""
        ...

    def tensor(self, name: str) -> np.ndarray:
        """Reads a tensor."""
        ...


class SafetensorsSource:
    """The tensors of one or several safetensors files, see :class:`TensorSource`.

    An open file keeps everything that was read from it in memory, and opening one takes milliseconds: a file is opened
    again whenever half a gigabyte has been read.

    Attributes:
        header: what the files say of themselves, by keys such as ``format``.

    Raises:
        UserError: tensors are stored with 8 bits or fewer, or a file is a pointer of Git LFS.
    """

    def __init__(self, files: Sequence[Path]):
        self._file_of: dict[str, Path] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._opened: tuple[Path, Any] | None = None
        self._bytes_read = 0
        self.header: dict[str, str] = {}
        for path in files:
            refuse_pointer(path)
            with safetensors.safe_open(path, framework="numpy") as file:
                self.header |= file.metadata() or {}
                check_names(path, file.keys())
                for name in file.keys():  # noqa: SIM118 (it is not a dict)
                    stored = file.get_slice(name)
                    if (kind := stored.get_dtype()).startswith(("F4", "F6", "F8")):
                        bits = f"{kind[1]}-bit numbers"
                        raise UserError(f"{path} has {bits}, which are not supported; give a 16-bit version")
                    self._file_of[name] = path
                    self._shapes[name] = tuple(stored.get_shape())

    def names(self) -> Iterable[str]:
        """The names of the tensors in all files."""
        return self._shapes.keys()

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor, from the header of its file."""
        return self._shapes[name]

    def tensor(self, name: str) -> np.ndarray:
        """Reads a tensor in the dtype that it has on disk."""
        path = self._file_of[name]
        if not self._opened or self._opened[0] != path or self._bytes_read > _BYTES_OF_AN_OPEN_FILE:
            self._opened, self._bytes_read = (path, safetensors.safe_open(path, framework="numpy")), 0
        tensor = self._opened[1].get_tensor(name)
        self._bytes_read += tensor.nbytes
        return tensor


@contextlib.contextmanager
def open_weights(folder: Path, variant: str | None = None) -> Iterator[SafetensorsSource]:
    """Opens the weights of one model, one file or several, while the block runs.

    Args:
        folder: holds the weights.
        variant: the word in names such as ``model.fp16.safetensors``; ``None`` for ``model.safetensors``, which is also
            opened where there is no file of the variant.

    Raises:
        UserError: weights are missing or damaged; also for damage that shows while the block reads.
    """
    files = files_of(folder, require_weights(str(folder), names_in(folder), variant))
    with naming_damage(folder):
        yield SafetensorsSource(files)


@contextlib.contextmanager
def naming_damage(origin: Path) -> Iterator[None]:
    """Lets an error that says where damaged safetensors files are take the place of the library's.

    Raises:
        UserError: the block found the files damaged.
    """
    try:
        yield
    except safetensors.SafetensorError as error:
        raise UserError(f"{origin}: the weights are damaged ({error}); download or convert them again") from error


def refuse_pointer(file: Path) -> None:
    """Raises a UserError if Git LFS has left a pointer in the place of a file."""
    with file.open("rb") as opened:
        if opened.read(len(_POINTER)) == _POINTER:
            raise UserError(f"{file} is only a pointer to the weights: fetch them with git lfs pull")


def check_names(file: Path, names: Iterable[Any]) -> None:
    """Raises a UserError if the tensors of a file have names that no network has: too long, or no texts."""
    for name in names:
        if not isinstance(name, str) or len(name) > _MAX_NAME:
            raise UserError(f"{file} is damaged, it has a tensor called {shortened(repr(name))}; download it again")


def names_in(folder: Path) -> list[str]:
    """The names of the files in a folder; empty if there is no such folder."""
    return sorted(file.name for file in folder.iterdir()) if folder.is_dir() else []


def files_of(folder: Path, weights: WeightNames) -> list[Path]:
    """The files of weights in a folder.

    Raises:
        UserError: one that the index lists is missing.
    """
    head = folder / weights.head
    return _shards(head) if weights.is_index else [head]


def _shards(index: Path) -> list[Path]:
    """The files that an index lists."""
    names = sorted(set(read_json(index, WeightIndex)["weight_map"].values()))
    if missing := [name for name in names if not (index.parent / name).is_file()]:
        raise UserError(f"{index.parent} lacks {listing(missing)}, listed in {index.name}; download the model again")
    return [index.parent / name for name in names]


def hash_files(paths: Sequence[Path], labels: Sequence[str] = ()) -> str:
    """A hash of each file's size and of 256 evenly spaced samples: it tells models apart without reading gigabytes.

    The samples come from the whole file, since many models differ from their parents in a few layers only.

    Args:
        paths: the files, in order.
        labels: a word for each file that enters the hash; by default the name of the file's folder.
    """
    digest = hashlib.sha256()
    for path, label in zip(paths, labels or [path.parent.name for path in paths], strict=True):
        size = path.stat().st_size
        digest.update(f"{label}/{size}".encode())
        with path.open("rb") as file:
            for start in range(0, size, max(size // _SAMPLES, _SAMPLE_BYTES)):
                file.seek(start)
                digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()[:12]
