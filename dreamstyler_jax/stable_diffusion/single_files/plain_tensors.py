"""Tensors in the files that ``torch.save`` writes since 2020, zip archives, read without PyTorch.

A pickle can run code when it is opened. Here only those operations of a pickle are allowed that dictionaries and lists
of numbers, texts and plain tensors consist of; any other is refused before the first one is done.
"""

import math
import pickle
import pickletools
import zipfile
from collections import OrderedDict
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from dreamstyler_jax.runtime.errors import UserError

_ADVICE = "convert it to safetensors with a tool that you trust"
_DAMAGED = "cannot be read as a PyTorch file of plain tensors, it may be damaged"
_MAX_PICKLE = 2**24  # bytes; the numbers are not in it
_OPERATIONS = {
    *("PROTO", "STOP", "MARK", "GLOBAL", "REDUCE", "BINPERSID", "BINPUT", "LONG_BINPUT", "BINGET", "LONG_BINGET"),
    *("EMPTY_DICT", "SETITEM", "SETITEMS", "EMPTY_LIST", "APPEND", "APPENDS"),
    *("EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "BINUNICODE", "SHORT_BINSTRING"),
    *("NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"),
}
_DTYPES: dict[str, Any] = {
    "DoubleStorage": np.float64, "FloatStorage": np.float32, "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16, "LongStorage": np.int64, "IntStorage": np.int32, "ShortStorage": np.int16,
    "CharStorage": np.int8, "ByteStorage": np.uint8,
}  # fmt: skip


class StoredTensor(NamedTuple):
    """A tensor in a file; its numbers are read when they are needed.

    Attributes:
        file: the archive.
        entry: the part of it with the numbers.
        dtype: of the numbers.
        offset, shape, strides: where the tensor is among them, in numbers.
    """

    file: Path
    entry: str
    dtype: np.dtype
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def array(self, name: str) -> np.ndarray:
        """Reads it, in float32.

        Args:
            name: how an error calls it.

        Raises:
            UserError: it has more numbers than are stored, since a small file could fill the memory, or is damaged.
        """
        wanted = (self.offset, *self.shape, *self.strides)
        if len(self.shape) != len(self.strides) or not all(isinstance(n, int) and n >= 0 for n in wanted):
            raise UserError(_DAMAGED)
        stored = np.frombuffer(_read(self.file, self.entry), self.dtype)
        last = self.offset + sum((n - 1) * step for n, step in zip(self.shape, self.strides, strict=True))
        if math.prod(self.shape) > len(stored) or (all(self.shape) and last >= len(stored)):
            raise UserError(f"{name} is a tensor with more numbers than are stored: {_ADVICE}")
        strides = [step * self.dtype.itemsize for step in self.strides]
        return np.lib.stride_tricks.as_strided(stored[self.offset :], self.shape, strides).astype(np.float32)


def read_plain_tensors(file: Path) -> Any:
    """What ``torch.save`` wrote, with a `StoredTensor` for each tensor.

    Raises:
        UserError: it holds anything but dictionaries and lists of numbers, texts and plain tensors, or is damaged.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            (name,) = (entry for entry in archive.namelist() if entry.endswith("/data.pkl"))
        folder = name.removesuffix("data.pkl")
        data = _read(file, name, _MAX_PICKLE)
        for operation, argument, _ in pickletools.genops(data):
            # The number of a memo could be so large that the list of memos fills the memory.
            is_far = "PUT" in operation.name and isinstance(argument, int) and argument > len(data)
            if operation.name == "GLOBAL":
                _class_named(str(argument))
            elif operation.name not in _OPERATIONS or is_far:
                raise UserError(f"cannot be read, since it holds more than plain tensors: {_ADVICE}")
        return _Unpickler(data, file, folder).load()
    except UserError:
        raise
    except Exception as error:  # a damaged file can make zipfile and pickle raise anything
        raise UserError(_DAMAGED) from error


class _Unpickler(pickle.Unpickler):
    """Knows nothing but `_class_named`."""

    def __init__(self, data: bytes, file: Path, folder: str):
        super().__init__(BytesIO(data), encoding="utf-8")
        self._file, self._folder = file, folder

    def find_class(self, module: str, name: str) -> Any:
        return _class_named(f"{module} {name}")

    def persistent_load(self, pid: Any) -> tuple[Path, str, np.dtype]:
        kind, dtype, key, _, _ = pid
        if kind != "storage" or not isinstance(dtype, np.dtype) or not isinstance(key, str):
            raise UserError(_DAMAGED)
        return self._file, f"{self._folder}data/{key}", dtype


def _class_named(name: str) -> Any:
    """What stands for one of PyTorch's names, such as ``"torch FloatStorage"``."""
    module, _, short = name.partition(" ")
    if module == "torch" and short in _DTYPES:
        return np.dtype(_DTYPES[short])
    known = {
        "torch._utils _rebuild_tensor_v2": _tensor,
        "torch._utils _rebuild_parameter": _parameter,
        "collections OrderedDict": OrderedDict,
    }
    if name not in known:
        dotted = name.replace(" ", ".")
        raise UserError(f"cannot be read, since it holds a {dotted} and not only tensors: save a dictionary of tensors")
    return known[name]


def _tensor(
    storage: tuple[Path, str, np.dtype], offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: Any
) -> StoredTensor:
    return StoredTensor(*storage, offset, tuple(shape), tuple(strides))


def _parameter(tensor: StoredTensor, *_: Any) -> StoredTensor:
    return tensor


def _read(file: Path, entry: str, most: int | None = None) -> bytes:
    """The bytes of an entry, which has to be stored as it is: a packed one could fill the memory."""
    try:
        with zipfile.ZipFile(file) as archive:
            info = archive.getinfo(entry)
            if info.compress_type != zipfile.ZIP_STORED or (most and info.file_size > most):
                raise UserError(_DAMAGED)
            return archive.read(info)
    except (KeyError, RuntimeError, zipfile.BadZipFile) as error:
        raise UserError(_DAMAGED) from error
