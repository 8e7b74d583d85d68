"""The files of a model in the layout of ``diffusers`` and ``transformers``: finding, downloading and opening them.

Only safetensors files are read: other formats can run code when they are opened. Where the user allows it,
`single_files.pickles` reads the tensors of some of them.
"""

import contextlib
import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import safetensors

from dreamstyler_jax.runtime.errors import UserError, listing
from dreamstyler_jax.runtime.files import read_json

DIFFUSERS_STEM = "diffusion_pytorch_model"
TRANSFORMERS_STEM = "model"

PARTS_WITH_WEIGHTS = {"text_encoder/": TRANSFORMERS_STEM, "unet/": DIFFUSERS_STEM, "vae/": DIFFUSERS_STEM}
SMALL_FILES = (
    "model_index.json", "config.json", "preprocessor_config.json", "processor_config.json",
    "vocab.json", "merges.txt", "tokenizer_config.json",
    "special_tokens_map.json", "scheduler/*.json", "tokenizer/*.json", "tokenizer/merges.txt",
)  # fmt: skip
OTHER_FORMATS = (".bin", ".ckpt", ".msgpack", ".pt")
_SAMPLE_BYTES = 4096  # per sample of a weights file's hash
_SAMPLES = 256
_BYTES_OF_AN_OPEN_FILE = 2**29


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
        UserError: tensors are stored with 8 bits.
    """

    def __init__(self, files: Sequence[Path]):
        self._file_of: dict[str, Path] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._opened: tuple[Path, Any] | None = None
        self._bytes_read = 0
        self.header: dict[str, str] = {}
        for path in files:
            with safetensors.safe_open(path, framework="numpy") as file:
                self.header |= file.metadata() or {}
                for name in file.keys():  # noqa: SIM118 (it is not a dict)
                    stored = file.get_slice(name)
                    if stored.get_dtype().startswith("F8"):
                        raise UserError(f"{path} has 8-bit numbers, which are not supported; give a 16-bit version")
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
        variant: the word in names such as ``model.fp16.safetensors``; ``None`` for ``model.safetensors``.

    Raises:
        UserError: weights are missing or damaged; also for damage that shows while the block reads.
    """
    files = weight_files(folder, variant)
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


def weight_files(folder: Path, variant: str | None = None) -> list[Path]:
    """Finds the safetensors files of one model by their conventional names.

    Raises:
        UserError: there are none, or one that the index lists is missing.
    """
    infix = f".{variant}" if variant else ""
    for stem in (DIFFUSERS_STEM, TRANSFORMERS_STEM):
        index = folder / f"{stem}.safetensors.index{infix}.json"
        if index.is_file():
            return _shards(index)
        single = folder / f"{stem}{infix}.safetensors"
        if single.is_file():
            return [single]
    raise UserError(_why_no_weights(folder, variant))


def resolve_model(path_or_hub_id: str | Path, *, revision: str | None = None, variant: str | None = None) -> Path:
    """Finds a model folder on this machine or, by its name, on the Hugging Face Hub.

    Args:
        path_or_hub_id: a local folder, or ``owner/name``; an existing folder of that name has precedence.
        revision: branch, tag or commit of the hub repository.
        variant: as for :func:`open_weights`; only these weights are downloaded.

    Returns:
        The folder. A downloaded one lies in the hub's cache and holds only the files that this package reads.

    Raises:
        UserError: there is no such folder and it is not a hub name, or the download failed.
    """
    folder = Path(path_or_hub_id)
    if folder.is_dir():
        return folder
    name = str(path_or_hub_id)
    if folder.is_file():
        raise UserError(f"{name} is a file: give the folder of a model")
    if not _is_hub_id(name):
        raise UserError(f"no model folder {name!r}; give an existing folder or a hub name such as owner/name")
    import huggingface_hub

    try:
        patterns = _download_patterns(variant)
        return Path(huggingface_hub.snapshot_download(name, revision=revision, allow_patterns=patterns))
    except Exception as error:  # the hub client's errors share no base class; the cause stays attached
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"no model folder {name!r}, and it could not be downloaded from the hub: {reason}") from error


def _is_hub_id(name: str) -> bool:
    return re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+", name) is not None


def _shards(index: Path) -> list[Path]:
    """The files that an index lists."""
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict):
        raise UserError(f"{index} is not an index of weights: it has no weight_map; download it again")
    names = sorted({str(name) for name in weight_map.values()})
    if missing := [name for name in names if not (index.parent / name).is_file()]:
        raise UserError(f"{index.parent} lacks {listing(missing)}, listed in {index.name}; download the model again")
    return [index.parent / name for name in names]


def _why_no_weights(folder: Path, variant: str | None) -> str:
    """The message for a folder without the weights of `variant`: what it holds instead."""
    names = sorted(file.name for file in folder.iterdir())
    if others := [name for name in names if name.endswith(".safetensors")]:
        wanted = f"of variant {variant}" if variant else "without a variant in their name"
        return f"{folder} has no weights {wanted}, only {listing(others)}; set the variant to match"
    if others := [name for name in names if name.endswith(OTHER_FORMATS)]:
        return (
            f"{folder} has only {listing(others)}, a format that can run code when read; convert it to safetensors "
            "(from_pretrained, then save_pretrained, in the library that wrote it)"
        )
    return f"{folder} has no weights in safetensors format; download the model again"


def _download_patterns(variant: str | None) -> list[str]:
    """The files to ask the hub for: configs, tokenizer, and the weights of one variant as safetensors."""
    infix = f".{variant}" if variant else ""
    patterns = [*SMALL_FILES, *(f"{part}config.json" for part in PARTS_WITH_WEIGHTS)]
    for part, stem in [*PARTS_WITH_WEIGHTS.items(), ("", DIFFUSERS_STEM), ("", TRANSFORMERS_STEM)]:
        patterns += [f"{part}{stem}{infix}.safetensors", f"{part}{stem}.safetensors.index{infix}.json"]
        patterns += [f"{part}{stem}{infix}-*-of-*.safetensors"]
    return patterns


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
