"""A learned style: a table of token vectors and where it came from; the files it lives in, ours and other tools'."""

import dataclasses
import functools
import hashlib
import io
import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from dreamstyler_jax.runtime.errors import UserError
from dreamstyler_jax.runtime.files import write_atomic

FILE_NAME = "style.safetensors"
FORMATS = ("dreamstyler", "diffusers", "a1111")
_SUFFIXES = (".safetensors", ".bin", ".pt")
_KIND = "dreamstyler_jax.style/1"
_STAGE = re.compile(r"(?P<token>.+)-T(?P<stage>\d+)")


@dataclasses.dataclass(frozen=True, eq=False)
class Style:
    """What style inversion learns (DreamStyler, Eq. 1-2): the vectors that stand in for a word, one set per stage.

    A style is deliberately not a pytree itself: its name and metadata would become part of every compiled program's
    signature. Optimise, vmap and jit over :attr:`table`, an ordinary array, and build a style from the result.

    Attributes:
        name: what prompts call it, as in "in the style of {name}"; no braces, no |, no line breaks.
        table: float32[T, V, D], read-only: T stages (0 has the least noise), V vectors per stage, D the width of the
            text encoder. Finite. Any array is accepted and copied.
        metadata: how it was made, as JSON values: model, init_word, prompts, steps, ...

    Raises:
        UserError: an unusable name, or NaN or Inf in the table.
    """

    name: str
    table: np.ndarray
    metadata: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        table = np.array(self.table, np.float32, order="C")
        table.flags.writeable = False
        if not self.name.strip() or re.search(r"[{}|\r\n]", self.name) or self.name != self.name.strip():
            raise UserError(f"a style cannot be called {self.name!r}: choose a name without braces, | and outer spaces")
        if table.ndim != 3 or not table.size:
            raise ValueError(f"a style's table has the shape [stages, vectors, width], not {list(table.shape)}")
        if not np.isfinite(table).all():
            raise UserError(f"the style {self.name!r} holds NaN or Inf: train it again at a lower learning rate")
        object.__setattr__(self, "table", table)
        object.__setattr__(self, "metadata", json.loads(json.dumps(dict(self.metadata), default=_plain)))

    @property
    def stages(self) -> int:
        """T."""
        return self.table.shape[0]

    @property
    def vectors(self) -> int:
        """V, per stage."""
        return self.table.shape[1]

    @property
    def width(self) -> int:
        """D."""
        return self.table.shape[2]

    @functools.cached_property
    def hash(self) -> str:
        """Twelve hexadecimal digits that identify the table, whatever it is called."""
        return hashlib.sha256(str(self.table.shape).encode() + self.table.astype("<f4").tobytes()).hexdigest()[:12]

    def save(self, path: str | Path) -> None:
        """Writes the style with all its metadata as one ``.safetensors`` file, atomically."""
        if Path(path).suffix != ".safetensors":
            raise UserError(f"a style is saved as a .safetensors file, not as {path}")
        header = {"kind": _KIND, "name": self.name, "hash": self.hash, "metadata": json.dumps(self.metadata)}
        write_atomic(path, safetensors.numpy.save({"table": self.table}, header))

    @classmethod
    def load(cls, path: str | Path) -> "Style":
        """Reads a style, ours or another tool's.

        * :meth:`save`'s file; a table that is not the one saved is refused;
        * DreamStyler's ``{"<name>-T0": [D], "<name>-T1": [D], ...}``;
        * a textual inversion of diffusers, ``{"<name>": [V, D] or [D]}``, or of A1111, ``{"emb_params": [V, D]}`` or
          ``{"string_to_param": {"*": [V, D]}, ...}``: one stage.

        The last two as safetensors, or as ``torch.save`` wrote them, for which torch must be installed. Such a style is
        called what the file calls it, or else by the file's name.

        Raises:
            UserError: no such file, a damaged one, one of another kind, NaN or Inf in it, torch needed and missing.
        """
        path = Path(path)
        try:
            with path.open("rb") as file:
                start = file.read(9)
            if start[8:] != b"{" and start.startswith((b"PK\x03\x04", b"\x80")):
                return cls(*_from_tensors(path, *_load_torch(path)))
            with safetensors.safe_open(path, "numpy") as file:
                header = file.metadata() or {}
                if header.get("kind") == _KIND:
                    return cls._load_own(file.get_tensor("table"), header)
                return cls(*_from_tensors(path, list(file.keys()), file.get_tensor))
        except FileNotFoundError as error:
            raise UserError(f"there is no style {path}") from error
        except UserError as error:
            raise UserError(f"{path}: {error}") from error
        except (OSError, KeyError, ValueError, TypeError, safetensors.SafetensorError) as error:
            raise UserError(f"{path} is not a style, or a damaged one: {error}") from error

    @classmethod
    def _load_own(cls, table: np.ndarray, header: Mapping[str, str]) -> "Style":
        style = cls(header["name"], table, json.loads(header["metadata"]))
        if style.hash != header["hash"]:
            raise UserError("the file is damaged: its vectors are not the ones that were saved")
        return style

    def export(self, path: str | Path, format: str = "dreamstyler") -> list[Path]:
        """Writes the style for another tool; a ``.bin`` or ``.pt`` path is written with torch, which must be installed.

        Args:
            path: the file; its suffix is ``.safetensors``, ``.bin`` or ``.pt``.
            format: "dreamstyler": one file, ``{"<name>-T0": ...}``, each ``[D]``, or ``[V, D]`` if there are several
                vectors. "diffusers" (``load_textual_inversion``) and "a1111": such a file holds one stage; with T > 1
                there are T files, ``path`` with ``-T0``, ``-T1``, ... before the suffix, so that the stages can be
                switched while sampling (A1111: ``[name-T1:name-T0:0.5]``). The tokens in diffusers' files are
                ``<name>`` or ``<name-t0>``, in lower case: of a token with capitals diffusers uses one vector only.

        Returns:
            The files written, in the order of the stages.

        Raises:
            UserError: an unknown format or suffix, or torch is needed and missing.
        """
        path = Path(path)
        if format not in FORMATS:
            raise UserError(f"styles can be exported as {', '.join(FORMATS)}, not as {format!r}")
        if path.suffix not in _SUFFIXES:
            raise UserError(f"cannot export to {path}: the file name should end in {', '.join(_SUFFIXES)}")
        if format == "dreamstyler":
            rows = self.table[:, 0] if self.vectors == 1 else self.table
            contents = {path: {f"<{self.name}>-T{stage}": row for stage, row in enumerate(rows)}}
        else:
            marks = [""] if self.stages == 1 else [f"-T{stage}" for stage in range(self.stages)]
            contents = {
                path.with_name(path.stem + mark + path.suffix): {
                    "emb_params" if format == "a1111" else f"<{self.name}{mark}>".lower(): rows
                }
                for mark, rows in zip(marks, self.table, strict=True)
            }
        for file, tensors in contents.items():
            save = safetensors.numpy.save if path.suffix == ".safetensors" else _torch_bytes
            write_atomic(file, save({key: np.ascontiguousarray(value) for key, value in tensors.items()}))
        return list(contents)


def load_styles(
    paths: Iterable[str | Path], steps: Sequence[int] = (), named: Collection[str] = ()
) -> dict[str, Style]:
    """Loads styles by name, in the order given.

    Args:
        steps: with some, each style as it was after so many training steps, called ``name@step``.
        named: what else is loaded of these styles, as ``name@step`` each.
        paths: each a style's file, a run's folder (with ``style.safetensors``), or a folder of such files or folders.
            ``name=path`` gives a single style another name.

    Raises:
        UserError: nothing there, an unreadable file, or two styles of one name.
    """
    styles: dict[str, Style] = {}
    sources: dict[str, Path] = {}
    for item in paths:
        alias, path = _alias(item)
        files = _style_files(path)
        if alias and len(files) > 1:
            raise UserError(f"{item}: {path} holds {len(files)} styles, and only one can be called {alias!r}")
        for final, step in ((file, step) for file in files for step in _steps_of(file, alias, steps, named)):
            file = _file_at(final, step) if step else final
            style = Style.load(file)
            style = dataclasses.replace(style, name=at_step(alias or style.name, step))
            if style.name in styles and sources[style.name].resolve() != file.resolve():
                raise UserError(
                    f"two styles are called {style.name!r}, {sources[style.name]} and {file}: "
                    f"give one of them another name, as in other={file}"
                )
            styles[style.name], sources[style.name] = style, file
    return styles


def check_width(styles: Mapping[str, Style], width: int) -> None:
    """Makes sure that styles fit a model whose text encoder has the given width.

    Raises:
        UserError: one does not.
    """
    for name, style in styles.items():
        if style.width != width:
            made_for = f", {style.metadata['model']}" if style.metadata.get("model") else ""
            raise UserError(
                f"the vectors of the style {name!r} have width {style.width}, but the model's text encoder {width}: "
                f"use the model that the style was trained on{made_for}"
            )


def _alias(item: str | Path) -> tuple[str | None, Path]:
    """Splits ``name=path``; a path that exists is never split."""
    name, equals, path = str(item).partition("=")
    if equals and name.strip() and not Path(item).exists():
        return name.strip(), Path(path)
    return None, Path(item)


# In the name of a style, or in a recipe, the training step that it is of.
STEP = re.compile(r"@\d+(?=\s*(?:[*+:,]|$))")


def at_step(name: str, step: int) -> str:
    """What a style, or mix, is called as it was after ``step`` training steps; 0: in the end, or as it says itself."""
    return name if not step or STEP.search(name) else f"{name}@{step}"


def step_file(folder: Path, step: int) -> Path:
    """Where a run keeps its style as it was after ``step`` training steps."""
    return folder / "steps" / f"step_{step:06d}.safetensors"


def _steps_of(file: Path, alias: str | None, steps: Sequence[int], named: Collection[str]) -> list[int]:
    """At which steps of its training a style is asked for; 0: in the end."""
    name = f"{alias or Style.load(file).name}@" if named else ""
    own = [
        int(other.removeprefix(name))
        for other in named
        if other.startswith(name) and STEP.fullmatch(other, len(name) - 1)
    ]
    return list(dict.fromkeys([*(steps or [0]), *own]))


def _file_at(file: Path, step: int) -> Path:
    at = step_file(file.parent, step)
    if not at.exists():
        stems = sorted(path.stem.removeprefix("step_") for path in at.parent.glob("step_*.safetensors"))
        kept = ", ".join(stem.lstrip("0") for stem in stems if stem.isdigit())
        raise UserError(
            f"checkpoints: {file.parent} keeps no style of step {step}" + (f", but of {kept}" if kept else "")
        )
    return at


def _style_files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    if (path / FILE_NAME).is_file():
        return [path / FILE_NAME]
    found = sorted(path.glob(f"*/{FILE_NAME}"))
    found += sorted(file for file in path.iterdir() if file.suffix in _SUFFIXES)
    if not found:
        raise UserError(f"there is no style in {path}: it should hold {FILE_NAME}, or folders that do")
    return found


def _from_tensors(path: Path, keys: list[str], read: Callable[[str], np.ndarray]) -> tuple[str, np.ndarray]:
    """Name and float32[T, V, D] table of another tool's file, given its keys and a reader of their tensors."""
    matches = [match for key in keys if (match := _STAGE.fullmatch(key))]
    if keys and len(matches) == len(keys) and len({match["token"] for match in matches}) == 1:
        matches.sort(key=lambda match: int(match["stage"]))
        if [int(match["stage"]) for match in matches] != list(range(len(keys))):
            raise UserError(f"stages are missing, there are only {', '.join(match[0] for match in matches)}")
        token, keys = matches[0]["token"], [match[0] for match in matches]
    elif len(keys) == 1:
        token = path.stem if keys[0] in ("emb_params", "*") else keys[0]
    else:
        raise UserError(f"no style, its contents are {', '.join(sorted(keys)[:4]) or 'nothing'}, ...")
    rows = [np.atleast_2d(read(key)) for key in keys]
    if rows[0].ndim != 2 or any(row.shape != rows[0].shape for row in rows):
        raise UserError(f"no style, its tensors have the shapes {', '.join(str(row.shape) for row in rows[:4])}, ...")
    name = re.sub(r"[{}|\s]+", " ", token.removeprefix("<").removesuffix(">")).strip()
    return name or path.stem, np.stack([row.astype(np.float32) for row in rows])


def _torch() -> Any:
    try:
        import torch
    except ImportError as error:
        raise UserError('PyTorch files need torch: pip install "dreamstyler-jax[torch]"') from error
    return torch


def _load_torch(path: Path) -> tuple[list[str], Callable[[str], np.ndarray]]:
    """Keys and reader of a ``torch.save``d dictionary of tensors; never runs code found in the file."""
    try:
        content = _torch().load(path, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except Exception as error:  # what a damaged or dangerous file makes of torch's unpickler is open
        raise UserError("cannot be read as a PyTorch file of plain tensors, it may be damaged") from error
    if isinstance(content, Mapping) and isinstance(content.get("string_to_param"), Mapping):
        content = content["string_to_param"]
    if not isinstance(content, Mapping) or not all(hasattr(value, "detach") for value in content.values()):
        raise UserError("no style: it should hold named tensors")
    return [str(key) for key in content], lambda key: content[key].detach().float().numpy()


def _torch_bytes(tensors: Mapping[str, np.ndarray]) -> bytes:
    """The tensors as ``torch.save`` writes them."""
    torch = _torch()
    buffer = io.BytesIO()
    torch.save({key: torch.tensor(value) for key, value in tensors.items()}, buffer)
    return buffer.getvalue()


def _plain(value: Any) -> Any:
    """What JSON makes of NumPy's numbers and of paths."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"metadata cannot hold a {type(value).__name__}")
