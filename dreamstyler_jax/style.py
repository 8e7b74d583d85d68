"""A learned style: a table of token vectors for each text encoder, and how it was made."""

import dataclasses
import functools
import hashlib
import json
import os
import re
import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np

from dreamstyler_jax.runtime.buckets import path_of
from dreamstyler_jax.runtime.errors import UserError, shortened
from dreamstyler_jax.style_files import SUFFIXES, StyleContent, export_style, is_second_file, read_style, write_style

FILE_NAME = "style.safetensors"


class StyleRef(NamedTuple):
    """A style by its name and, if it is not the final one, by the training step at which it was saved.

    Written as ``gogh``, or ``gogh@100`` for gogh after 100 steps, in prompts, recipes and mappings of styles. The name
    of a mix is its recipe, which may name steps of its styles itself, as in ``gogh@100:5-3,monet:2-0``.

    Attributes:
        name: the style's name, or a recipe.
        step: training steps done; 0 for the final style.
    """

    name: str
    step: int = 0

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads ``"gogh"`` or ``"gogh@100"``."""
        match = re.fullmatch(r"(?P<name>.+)@(?P<step>\d{1,9})", text, re.DOTALL)
        return cls(match["name"], int(match["step"])) if match else cls(text)

    @property
    def names_step(self) -> bool:
        """Whether it says itself at which training step a style is taken."""
        return bool(self.step) or bool(re.search(r"@\d+\s*[*+:,]", self.name))

    def at(self, step: int) -> Self:
        """The style after ``step`` training steps, unless it names a step already; 0 changes nothing."""
        return self if self.names_step or not step else self._replace(step=step)

    def __str__(self) -> str:
        return f"{self.name}@{self.step}" if self.step else self.name


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Style:
    """What style inversion learns (DreamStyler, Eq. 1-2): vectors that stand in for a word, one set per stage.

    Optimise, vmap and jit over :attr:`tables`, a plain pytree, and build a style from the result. A style is no pytree
    itself, since its name and metadata would become part of every compiled program's signature.

    Attributes:
        name: how prompts call it, as in "in the style of {name}"; without braces, | and line breaks.
        tables: for each text encoder float32[T, V, D], read-only and finite: T stages (stage 0 has the least noise), V
            vectors per stage, D the encoder's width. Or float32[T, K, V, D], with vectors for each of K cross-attention
            layers of the denoiser (P+, Voynov et al. 2023); an axis K of one is dropped. ``clip_l`` is the first text
            encoder, the only one of Stable Diffusion 1.x and 2.x; a single array stands for its table. Arrays are
            copied.
        metadata: how it was made, as JSON values: model, init_word, prompts, steps, ...

    Raises:
        UserError: an unusable name, or NaN or Inf in a table.
    """

    name: str
    tables: Mapping[str, np.ndarray]
    metadata: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        if not self.name.strip() or re.search(r"[{}|\r\n]", self.name) or self.name != self.name.strip():
            raise UserError(f"a style cannot be called {self.name!r}: choose a name without braces, | and outer spaces")
        tables = self.tables if isinstance(self.tables, Mapping) else {"clip_l": self.tables}
        copies = {encoder: self._read_only(table) for encoder, table in tables.items()}
        if len({table.shape[:-1] for table in copies.values()}) != 1:
            raise ValueError("the tables of a style have one number of stages, layers and vectors")
        object.__setattr__(self, "tables", copies)
        object.__setattr__(self, "metadata", json.loads(json.dumps(dict(self.metadata), default=_to_json)))

    def _read_only(self, table: Any) -> np.ndarray:
        table = np.array(table, np.float32, order="C")
        if table.ndim not in (3, 4) or not table.size:
            raise ValueError(
                "a style's table has the shape [stages, vectors, width] or [stages, layers, vectors, width], not "
                f"{list(table.shape)}"
            )
        table = table[:, 0] if table.ndim == 4 and table.shape[1] == 1 else table
        table.flags.writeable = False
        if not np.isfinite(table).all():
            raise UserError(f"the style {self.name!r} holds NaN or Inf: train it again at a lower learning rate")
        return table

    @property
    def stages(self) -> int:
        """T."""
        return next(iter(self.tables.values())).shape[0]

    @property
    def layers(self) -> int:
        """K, the cross-attention layers with vectors of their own; 1 if all share theirs."""
        return with_layers(next(iter(self.tables.values()))).shape[1]

    @property
    def vectors(self) -> int:
        """V, per stage and layer."""
        return next(iter(self.tables.values())).shape[-2]

    @property
    def widths(self) -> dict[str, int]:
        """D of each text encoder."""
        return {encoder: table.shape[-1] for encoder, table in self.tables.items()}

    @functools.cached_property
    def hash(self) -> str:
        """Twelve hexadecimal digits that identify the tables, whatever the style's name."""
        digest = hashlib.sha256()
        for encoder, table in sorted(self.tables.items()):
            label = "" if encoder == "clip_l" else encoder
            digest.update(f"{label}{table.shape}".encode() + table.astype("<f4").tobytes())
        return digest.hexdigest()[:12]

    def __repr__(self) -> str:
        steps = f", {self.metadata['steps']} steps" if "steps" in self.metadata else ""
        layers = f" x {self.layers} layers" if self.layers > 1 else ""
        return f"Style({shortened(self.name)!r}, {self.stages} stages{layers} x {self.vectors} vectors{steps})"

    def save(self, path: str | os.PathLike) -> None:
        """Writes the style with all its metadata as one ``.safetensors`` file, which appears whole or not at all."""
        write_style(path_of(path), StyleContent(self.name, dict(self.tables), self.metadata, self.hash))

    @classmethod
    def load(cls, path: str | os.PathLike) -> Self:
        """Reads a style, this project's or another tool's.

        * a file of :meth:`save`; tables that are not those saved are refused;
        * DreamStyler's ``{"<name>-T0": [D], "<name>-T1": [D], ...}``;
        * a textual inversion of diffusers, ``{"<name>": [V, D] or [D]}``, or of A1111, ``{"emb_params": [V, D]}`` or
          ``{"string_to_param": {"*": [V, D]}, ...}``: one stage.

        * for SDXL: ``{"clip_l": [V, D], "clip_g": [V, D']}``, or diffusers' pair of files ``NAME`` and ``NAME_2``, of
          which the first is given.

        Other tools' as safetensors, or as written by ``torch.save``; for files that it wrote before 2020 torch must be
        installed. Their style has the name in the file, or else the file's.

        Raises:
            UserError: no such file, a damaged one, one of another kind, NaN or Inf in it, torch needed and missing.
        """
        content = read_style(path_of(path))
        try:
            style = cls(content.name, content.tables, content.metadata)
        except UserError as error:
            raise UserError(f"{path}: {error}") from error
        except (ValueError, TypeError) as error:
            raise UserError(f"{path} is not a style, or a damaged one: {error}") from error
        if content.hash and style.hash != content.hash:
            raise UserError(f"{path}: the file is damaged: its vectors are not the ones that were saved")
        return style

    def export(self, path: str | os.PathLike, format: str = "dreamstyler") -> list[Path]:
        """Writes the style for another tool; a ``.bin`` or ``.pt`` path is written with torch, which must be installed.

        Args:
            path: the file; its suffix is ``.safetensors``, ``.bin`` or ``.pt``.
            format: ``"dreamstyler"``: one file, ``{"<name>-T0": ...}``, each ``[D]``, or ``[V, D]`` with several
                vectors. ``"diffusers"`` (``load_textual_inversion``) and ``"a1111"``: one stage per file; with T > 1
                there are T files, ``path`` with ``-T0``, ``-T1``, ... before the suffix, so that the stages can be
                switched while sampling (A1111: ``[name-T1:name-T0:0.5]``). The tokens in diffusers' files are
                ``<name>`` or ``<name-t0>``, in lower case: diffusers uses only one vector of a token with capitals. Of
                an SDXL style, diffusers' files come in pairs, the second text encoder's with ``_2`` before the suffix,
                and A1111's hold both as ``clip_l`` and ``clip_g``. ``"sd_concepts"`` is another word for diffusers'
                layout, and ``"comfyui"``, ``"invokeai"`` and ``"kohya"`` are for A1111's.

        Returns:
            The files written, in the order of the stages.

        Raises:
            UserError: an unknown format or suffix, one that has no room for two text encoders, or torch is needed and
                missing.
        """
        return export_style(path_of(path), self.name, self.tables, format)


def load_styles(
    paths: Iterable[str | os.PathLike], steps: Sequence[int] = (), refs: Collection[StyleRef] = ()
) -> dict[str, Style]:
    """Loads styles, in the order given.

    Args:
        paths: each a style's file, a run's folder (with ``style.safetensors``), or a folder of such files or folders.
            ``name=path`` gives a single style another name.
        steps: training steps; each style is then loaded as it was after each of them, instead of in its final form.
        refs: styles at a step to load as well, where they are among the paths.

    Returns:
        Styles by ``str(StyleRef)``.

    Raises:
        UserError: nothing there, an unreadable file, or two styles of one name.
    """
    styles: dict[str, Style] = {}
    sources: dict[str, Path] = {}
    for final_file, alias in _style_files(paths):
        if StyleRef.parse(alias).step:
            raise UserError(f"{alias}={final_file}: a style cannot be called so, since @ and a number mean a step")
        final = Style.load(final_file)
        name = alias or _without_step(final)
        named_steps = [ref.step for ref in refs if ref.name == name and ref.step]
        for step in dict.fromkeys([*(steps or [0]), *named_steps]):
            file = _file_at(final_file, step) if step else final_file
            style = dataclasses.replace(Style.load(file) if step else final, name=str(StyleRef(name).at(step)))
            if style.name in styles and sources[style.name].resolve() != file.resolve():
                raise UserError(
                    f"two styles are called {style.name!r}, {sources[style.name]} and {file}: "
                    f"give one of them another name, as in other={file}"
                )
            styles[style.name], sources[style.name] = style, file
    return styles


def names_in_paths(paths: Iterable[str]) -> dict[str, set[str]]:
    """The names of the styles that each of some paths stands for, in their final form; see `load_styles`.

    Raises:
        UserError: nothing there, or an unreadable file.
    """
    return {path: {alias or _without_step(Style.load(file)) for file, alias in _style_files([path])} for path in paths}


def check_widths(styles: Mapping[str, Style], widths: Mapping[str, int]) -> None:
    """Makes sure that styles fit a model.

    Args:
        styles: the styles by name.
        widths: the width of each of the model's text encoders, `Networks.text_widths`.

    Raises:
        UserError: one does not fit.
    """
    for name, style in styles.items():
        if style.widths != widths:
            made_for = f", {style.metadata['model']}" if style.metadata.get("model") else ""
            encoders = "text encoders" if len(widths) > 1 else "text encoder"
            raise UserError(
                f"the vectors of the style {name!r} have width {_widths(style.widths)}, but the model's {encoders} "
                f"{_widths(widths)}: use the model that the style was trained on{made_for}"
            )


def check_layers(styles: Mapping[str, Style], layers: int) -> None:
    """Makes sure that styles with vectors for each cross-attention layer fit a model with so many.

    Raises:
        UserError: one does not fit.
    """
    for name, style in styles.items():
        if style.layers not in (1, layers):
            remedy = "divide these" if "mix" in style.metadata else "use the model that the style was trained on"
            made_for = f", {style.metadata['model']}" if style.metadata.get("model") else ""
            raise UserError(
                f"the style {name!r} has vectors for each of {style.layers} cross-attention layers, but the model has "
                f"{layers}, 0 to {layers - 1}: {remedy}{made_for}"
            )


def with_layers(table: np.ndarray) -> np.ndarray:
    """A table [T, V, D] as [T, 1, V, D]; one with an axis of layers as it is."""
    return table if table.ndim == 4 else table[:, None]


def relative_norms(tables: Mapping[str, np.ndarray], word_norms: Mapping[str, float]) -> np.ndarray:
    """How long the vectors of each stage are beside words, float64[T]: 1 is the mean norm of a vocabulary's vectors.

    Args:
        tables: of each text encoder, float32[T, V, D] or float32[T, K, V, D]. Means go over all of a stage's vectors.
        word_norms: the mean norm of the vocabulary of each text encoder.
    """
    norms = {name: np.linalg.norm(np.asarray(table, np.float64), axis=-1) for name, table in tables.items()}
    return np.mean([of.reshape(len(of), -1).mean(1) / word_norms[name] for name, of in norms.items()], axis=0)


def step_file(folder: Path, step: int) -> Path:
    """Where a run keeps its style as it was after ``step`` training steps."""
    return folder / "steps" / f"step_{step:06d}.safetensors"


def _widths(widths: Mapping[str, int]) -> str:
    return " and ".join(map(str, widths.values()))


def _style_files(paths: Iterable[str | os.PathLike]) -> Iterator[tuple[Path, str]]:
    """The files of final styles, each with the name that ``name=path`` gives it, or ""."""
    for item in paths:
        alias, path = _split_alias(item)
        files = _files_in(path)
        if alias and len(files) > 1:
            raise UserError(f"{item}: {path} holds {len(files)} styles, and only one can be called {alias!r}")
        yield from ((file, alias) for file in files)


def _without_step(style: Style) -> str:
    """The name of a style, which may not end as if it named one of its training steps, as in "gogh@768"."""
    name, step = StyleRef.parse(style.name)
    if not step:
        return style.name
    warnings.warn(
        f"the style {style.name!r} is called {name}-{step} here, since @{step} means a training step", stacklevel=3
    )
    return f"{name}-{step}"


def _split_alias(item: str | os.PathLike) -> tuple[str, Path]:
    """Splits ``name=path``; a path that exists is never split."""
    name, equals, path = str(item).partition("=")
    if equals and name.strip() and not path_of(item).exists():
        return name.strip(), path_of(path)
    return "", path_of(item)


def _files_in(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    if (path / FILE_NAME).is_file():
        return [path / FILE_NAME]
    found = sorted(path.glob(f"*/{FILE_NAME}"))
    found += sorted(file for file in path.iterdir() if file.suffix.lower() in SUFFIXES and not is_second_file(file))
    found = [file for file in found if not file.relative_to(path).parts[0].startswith(".")]  # other programs' notes
    if not found:
        raise UserError(f"there is no style in {path}: it should hold {FILE_NAME}, or folders that do")
    return found


def _file_at(file: Path, step: int) -> Path:
    at = step_file(file.parent, step)
    if not at.exists():
        stems = sorted(path.stem.removeprefix("step_") for path in at.parent.glob("step_*.safetensors"))
        kept = ", ".join(stem.lstrip("0") for stem in stems if stem.isdigit())
        raise UserError(
            f"checkpoints: {file.parent} keeps no style of step {step}" + (f", but of {kept}" if kept else "")
        )
    return at


def _to_json(value: Any) -> Any:
    """What JSON makes of NumPy's numbers and of paths."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise TypeError(f"metadata cannot hold a {type(value).__name__}")
