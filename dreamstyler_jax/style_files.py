"""The files that styles live in: this project's, and the textual inversions of other tools.

Reading never runs code from a file. Everything here speaks of plain names, tables and metadata; `style.Style` is what
the rest of the project uses.
"""

import io
import json
import re
import struct
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

import ml_dtypes  # noqa: F401 (teaches NumPy bfloat16)
import numpy as np
import safetensors
import safetensors.numpy

from dreamstyler_jax.runtime.documents import FileText, check, parse_json
from dreamstyler_jax.runtime.errors import UserError
from dreamstyler_jax.runtime.files import write_atomic
from dreamstyler_jax.runtime.local_copies import local_copy
from dreamstyler_jax.stable_diffusion.single_files.pickles import as_array
from dreamstyler_jax.stable_diffusion.single_files.plain_tensors import StoredTensor, read_plain_tensors

SUFFIXES = (".safetensors", ".bin", ".pt")
# The layouts of other tools' files, and who reads them.
FORMATS = {
    "dreamstyler": "dreamstyler", "diffusers": "diffusers", "a1111": "a1111",
    "sd_concepts": "diffusers", "comfyui": "a1111", "invokeai": "a1111", "kohya": "a1111",
}  # fmt: skip
_KIND = "dreamstyler_jax.style/2"
_KIND_OF_ONE_TABLE = "dreamstyler_jax.style/1"  # one tensor, "table", of the only text encoder
_STAGE = re.compile(r"(?P<token>.+)-T(?P<stage>\d+)")

ENCODERS = ("clip_l", "clip_g")  # the text encoders of a style's tables: the first, and SDXL's second

Tables = dict[str, np.ndarray]


class Metadata(TypedDict, total=False):
    """What a style's file says of how it was made, of what is read again; see `training.prepare`."""

    model: str
    model_hash: str
    clip_skip: int
    images: list[FileText]
    prompts: list[str]
    steps: int
    norm: str
    mix: str
    word_norms: dict[str, float]


class _Header(TypedDict):
    """What the header of this project's files holds."""

    name: str
    metadata: str
    hash: str


class StyleContent(NamedTuple):
    """What a style's file holds.

    Attributes:
        name: the style's name.
        tables: float32[T, V, D] for each text encoder, or float32[T, K, V, D].
        metadata: how it was made; empty in other tools' files.
        hash: of the tables as they were saved; empty in other tools' files.
    """

    name: str
    tables: Tables
    metadata: Mapping[str, Any]
    hash: str


def read_style(path: Path) -> StyleContent:
    """Reads a style's file, in any of the layouts that `Style.load` lists.

    Raises:
        UserError: no such file, a damaged one, or one of another kind.
    """
    try:
        local = local_copy(path)
        with local.open("rb") as file:
            start = file.read(9)
        if start[8:] != b"{" and start.startswith((b"PK\x03\x04", b"\x80")):
            return _pickled(path, read_plain_tensors(local) if start.startswith(b"PK") else _read_old_pickle(local))
        with safetensors.safe_open(local, "numpy") as file:
            _refuse_small_numbers(file)
            header = file.metadata() or {}
            kind, keys = header.get("kind"), list(file.keys())
            if kind == _KIND:
                tables = {key: file.get_tensor(key) for key in keys}
            elif kind == _KIND_OF_ONE_TABLE:
                tables = {"clip_l": file.get_tensor("table")}
            else:
                return _foreign(path, keys, file.get_tensor)
            known = check(header, _Header, "the header")
            metadata = parse_json(known["metadata"], Metadata, "the metadata")
            return StyleContent(known["name"], tables, metadata, known["hash"])
    except FileNotFoundError as error:
        raise UserError(f"there is no style {path}") from error
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except (OSError, KeyError, ValueError, TypeError, AttributeError, safetensors.SafetensorError) as error:
        raise UserError(f"{path} is not a style, or a damaged one: {error}") from error


def _refuse_small_numbers(file: Any) -> None:
    """Raises a UserError if an opened safetensors file has numbers of 8 bits or fewer, which NumPy does not know."""
    kinds = {file.get_slice(key).get_dtype() for key in file.keys()}  # noqa: SIM118 (it is not a dict)
    if small := sorted(kind for kind in kinds if kind.startswith(("F8", "F6_", "F4"))):
        raise UserError(f"its numbers are {', '.join(small)}, which cannot be read: save it with 16 or 32 bits")


def write_style(path: Path, content: StyleContent) -> None:
    """Writes a style with its metadata as one ``.safetensors`` file.

    Raises:
        UserError: the path has another suffix.
        OSError: it cannot be written.
    """
    if path.suffix != ".safetensors":
        raise UserError(f"a style is saved as a .safetensors file, not as {path}")
    header = {
        "kind": _KIND,
        "name": content.name,
        "hash": content.hash,
        "metadata": json.dumps(content.metadata),
    }
    write_atomic(path, _with_sorted_header(safetensors.numpy.save(content.tables, header)))


def _with_sorted_header(file: bytes) -> bytes:
    """The same ``.safetensors`` file, always with the same bytes: the library writes metadata in random order."""
    (length,) = struct.unpack("<Q", file[:8])
    header = json.dumps(json.loads(file[8 : 8 + length]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return struct.pack("<Q", len(header)) + header + file[8 + length :]


def export_style(path: Path, name: str, tables: Mapping[str, np.ndarray], format: str) -> list[Path]:
    """Writes tables float32[T, V, D] for another tool, which has no room for layers; see `Style.export`."""
    if format not in FORMATS:
        raise UserError(f"styles can be exported as {', '.join(FORMATS)}, not as {format!r}")
    if path.suffix not in SUFFIXES:
        raise UserError(f"cannot export to {path}: the file name should end in {', '.join(SUFFIXES)}")
    if any(table.ndim > 3 for table in tables.values()):
        raise UserError(
            f"the style {name!r} has vectors for each cross-attention layer, and the files of other tools hold one set "
            "for all layers: learn it with --layers shared to export it"
        )
    layout = FORMATS[format]
    contents = _one_file(path, name, tables) if layout == "dreamstyler" else _file_per_stage(path, name, tables, layout)
    for file, tensors in contents.items():
        to_bytes = safetensors.numpy.save if path.suffix == ".safetensors" else _torch_bytes
        write_atomic(file, to_bytes({key: np.ascontiguousarray(value) for key, value in tensors.items()}))
    return list(contents)


def _one_file(path: Path, name: str, tables: Mapping[str, np.ndarray]) -> dict[Path, Tables]:
    """The contents of DreamStyler's one file, which has room for one text encoder."""
    if set(tables) != {"clip_l"}:
        raise UserError(f"the style {name!r} has tables of two text encoders: export it as diffusers or a1111")
    table = tables["clip_l"]
    rows = table[:, 0] if table.shape[1] == 1 else table
    return {path: {f"<{name}>-T{stage}": row for stage, row in enumerate(rows)}}


def _file_per_stage(path: Path, name: str, tables: Mapping[str, np.ndarray], layout: str) -> dict[Path, Tables]:
    """The contents of the files of each stage: of diffusers one for each text encoder, of A1111 one."""
    stages = len(tables["clip_l"])
    contents: dict[Path, Tables] = {}
    for stage, mark in enumerate([""] if stages == 1 else [f"-T{stage}" for stage in range(stages)]):
        file = path.with_name(path.stem + mark + path.suffix)
        rows = {encoder: table[stage] for encoder, table in tables.items()}
        if layout == "diffusers":
            token = f"<{name}{mark}>".lower()
            contents |= {_file_of(encoder, file): {token: of_encoder} for encoder, of_encoder in rows.items()}
        else:
            contents[file] = rows if len(rows) > 1 else {"emb_params": rows["clip_l"]}
    return contents


def _file_of(encoder: str, path: Path) -> Path:
    """Where diffusers' training scripts keep the vectors of a text encoder: the second's in ``learned_embeds_2``."""
    return path if encoder == "clip_l" else path.with_name(f"{path.stem}_2{path.suffix}")


def is_second_file(path: Path) -> bool:
    """Whether a file holds the vectors of SDXL's second text encoder, which come with those of the first."""
    return path.stem.endswith("_2") and path.with_name(path.stem[:-2] + path.suffix).is_file()


def _foreign(path: Path, keys: Sequence[str], read: Callable[[str], np.ndarray]) -> StyleContent:
    """Another tool's style, given the keys of its file and a reader of their tensors."""
    if set(keys) == set(ENCODERS):
        return StyleContent(path.stem, {encoder: _table([read(encoder)]) for encoder in ENCODERS}, {}, "")
    if list(keys) == ["clip_g"]:
        raise UserError("no style, it holds the vectors of SDXL's second text encoder alone")
    token, keys = _token_and_stages(path, keys)
    name = re.sub(r"[{}|\s]+", " ", token.removeprefix("<").removesuffix(">")).strip()
    tables = {"clip_l": _table([read(key) for key in keys])}
    second = _file_of("clip_g", path)
    if second.is_file():
        tables["clip_g"] = read_style(second).tables["clip_l"]
    return StyleContent(name or path.stem, tables, {}, "")


def _table(rows: Sequence[np.ndarray]) -> np.ndarray:
    """A table float32[T, V, D] of the vectors [V, D], or [D] for one, of each stage."""
    rows = [np.atleast_2d(row) for row in rows]
    if rows[0].ndim != 2 or any(row.shape != rows[0].shape for row in rows):
        raise UserError(f"no style, its tensors have the shapes {', '.join(str(row.shape) for row in rows[:4])}, ...")
    return np.stack([row.astype(np.float32) for row in rows])


def _token_and_stages(path: Path, keys: Sequence[str]) -> tuple[str, list[str]]:
    """The token that a file defines, and the keys of its stages in their order."""
    matches = [match for key in keys if (match := _STAGE.fullmatch(key))]
    if keys and len(matches) == len(keys) and len({match["token"] for match in matches}) == 1:
        matches.sort(key=lambda match: int(match["stage"]))
        if [int(match["stage"]) for match in matches] != list(range(len(keys))):
            raise UserError(f"stages are missing, there are only {', '.join(match[0] for match in matches)}")
        return matches[0]["token"], [match[0] for match in matches]
    if len(keys) == 1:
        return path.stem if keys[0] in ("emb_params", "*", "clip_l") else keys[0], list(keys)
    raise UserError(f"no style, its contents are {', '.join(sorted(keys)[:4]) or 'nothing'}, ...")


def _torch() -> Any:
    try:
        import torch
    except ImportError as error:
        raise UserError("files of this kind are read and written by PyTorch: pip install torch") from error
    return torch


class _WebuiFile(TypedDict, total=False):
    """What AUTOMATIC1111's web UI keeps beside the vectors."""

    name: str
    step: int
    sd_checkpoint_name: str


def _pickled(path: Path, content: Any) -> StyleContent:
    """Another tool's style, given what ``torch.save`` wrote."""
    known: dict[str, Any] = {}
    if isinstance(content, Mapping) and isinstance(content.get("string_to_param"), Mapping):
        known = {key: content[key] for key in _WebuiFile.__annotations__ if content.get(key) is not None}
        check(known, _WebuiFile, "it")
        content = content["string_to_param"]
    if not isinstance(content, Mapping) or not all(map(_is_tensor, content.values())):
        raise UserError("no style: it should hold named tensors")
    tensors = {str(key): value for key, value in content.items()}
    style = _foreign(path, list(tensors), lambda key: _numbers(tensors[key], key))
    metadata = {"steps": known.get("step"), "model": known.get("sd_checkpoint_name")}
    return style._replace(
        name=known.get("name") or style.name, metadata={key: value for key, value in metadata.items() if value}
    )


def _is_tensor(value: Any) -> bool:
    return isinstance(value, StoredTensor) or hasattr(value, "detach")


def _numbers(tensor: Any, name: str) -> np.ndarray:
    return tensor.array(name) if isinstance(tensor, StoredTensor) else as_array(tensor, name)


def _read_old_pickle(path: Path) -> Any:
    """What ``torch.save`` wrote before 2020, in no zip archive; by PyTorch, which runs no code found in the file."""
    try:
        return _torch().load(path, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except Exception as error:  # a damaged or dangerous file can make torch's unpickler raise anything
        if foreign := re.search(r"GLOBAL ([\w.]+)", str(error)):
            raise UserError(
                f"cannot be read, since it holds a {foreign[1]} and not only tensors: save a dictionary of tensors"
            ) from error
        raise UserError("cannot be read as a PyTorch file of plain tensors, it may be damaged") from error


def _torch_bytes(tensors: Mapping[str, np.ndarray]) -> bytes:
    """The tensors as ``torch.save`` writes them."""
    torch = _torch()
    buffer = io.BytesIO()
    torch.save({key: torch.tensor(value) for key, value in tensors.items()}, buffer)
    return buffer.getvalue()
