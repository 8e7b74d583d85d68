"""Tensors in pickles, the files that PyTorch wrote before safetensors: ``.ckpt``, ``.pt``, ``.bin``.

A pickle can run code when it is opened. PyTorch's restricted unpickler reads those that hold plain tensors and refuses
all others.
"""

import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dreamstyler_jax.runtime.errors import UserError
from dreamstyler_jax.stable_diffusion.checkpoint_files import check_names, refuse_pointer

_STARTS = (b"PK\x03\x04", b"\x80")  # of a zip archive, in which newer pickles are, and of an older pickle
_ADVICE = "convert it to safetensors with a tool that you trust"


def is_pickle(path: Path) -> bool:
    """Whether a file looks like one that PyTorch wrote; a safetensors file does not, whatever it begins with."""
    with path.open("rb") as file:
        start = file.read(9)
    return start.startswith(_STARTS) and start[8:] != b"{"


def as_array(tensor: Any, name: str) -> np.ndarray:
    """A tensor of PyTorch in float32.

    Raises:
        UserError: it is sparse, quantized or without numbers, or has more of them than are stored: a small file
            could fill the memory.
    """
    try:
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise UserError(f"{name} is a tensor with more numbers than are stored: {_ADVICE}")
        return tensor.detach().float().numpy()
    except (RuntimeError, TypeError) as error:
        raise UserError(f"{name} is no plain tensor of numbers: {_ADVICE}") from error


class PickledSource:
    """The tensors of a pickled checkpoint, see `checkpoint_files.TensorSource`.

    Raises:
        UserError: PyTorch is not installed, or the file holds something other than tensors, or is damaged or a pointer
            of Git LFS.
    """

    def __init__(self, path: Path):
        refuse_pointer(path)
        try:
            import torch
        except ImportError as error:
            raise UserError(f"{path} was written by PyTorch: pip install torch to read it, or {_ADVICE}") from error
        try:
            # The tensors of a zip archive stay on the disk until they are used.
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
        except Exception as error:  # a damaged or dangerous file can make torch's unpickler raise anything
            raise UserError(f"{path} holds more than plain tensors, or is damaged: {_ADVICE}") from error
        while isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
            content = content["state_dict"]
        if not isinstance(content, Mapping):
            raise UserError(f"{path} holds no named tensors: give a checkpoint of Stable Diffusion")
        self._tensors: dict[str, Any] = {name: value for name, value in content.items() if hasattr(value, "detach")}
        check_names(path, self._tensors)

    def names(self) -> Iterable[str]:
        """The names of all tensors."""
        return self._tensors.keys()

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor, without reading it."""
        return tuple(self._tensors[name].shape)

    def tensor(self, name: str) -> np.ndarray:
        """Reads a tensor, in float32."""
        return as_array(self._tensors[name], name)
