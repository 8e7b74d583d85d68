"""Where a model's parts are read from: a folder in diffusers' layout, a single file, or another file for one part."""

import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import jax
import safetensors

from dreamstyler_jax.runtime.buckets import in_bucket
from dreamstyler_jax.runtime.errors import UserError
from dreamstyler_jax.runtime.files import read_json
from dreamstyler_jax.stable_diffusion.checkpoint_files import (
    SafetensorsSource,
    TensorSource,
    hash_files,
    names_in,
    naming_damage,
)
from dreamstyler_jax.stable_diffusion.folder_parts import FolderPart, find_parts
from dreamstyler_jax.stable_diffusion.hub import downloaded_file, resolve_model
from dreamstyler_jax.stable_diffusion.layers import ModelConfig
from dreamstyler_jax.stable_diffusion.model_kinds import PART_CLASSES, check_kind, read_index
from dreamstyler_jax.stable_diffusion.single_files.configs import vae_config
from dreamstyler_jax.stable_diffusion.single_files.families import FAMILIES, Family
from dreamstyler_jax.stable_diffusion.single_files.layout import VAE_PREFIX, OriginalModel, part_source
from dreamstyler_jax.stable_diffusion.single_files.names import Rule, same_pieces, vae_pieces
from dreamstyler_jax.stable_diffusion.single_files.pickles import PickledSource, is_pickle
from dreamstyler_jax.stable_diffusion.single_files.tiny_autoencoders import find_tiny, tiny_vae_config
from dreamstyler_jax.stable_diffusion.single_files.vocabulary import clip_tokenizer
from dreamstyler_jax.stable_diffusion.tokenizer import Tokenizer
from dreamstyler_jax.stable_diffusion.weight_names import require_variant
from dreamstyler_jax.stable_diffusion.weights import Loaded, ModelClass, read_model

ConfigT = TypeVar("ConfigT", bound=ModelConfig)

ADVICE = "give a model folder in diffusers' layout"
FILE_SUFFIXES = (".safetensors", ".ckpt", ".pt", ".pth", ".bin")
OPTIONAL_PARTS = ("text_encoder_2",)
# What an autoencoder's tensors do not tell.
_VAE_SETTINGS = ("scaling_factor", "norm_num_groups", "sample_size")
# The names of an autoencoder's tensors: their prefix, the rule for the rest, and a name that only these have.
_VAE_LAYOUTS: tuple[tuple[str, Rule, str], ...] = (
    (VAE_PREFIX, vae_pieces, "encoder.down."),
    ("", vae_pieces, "encoder.down."),
    ("", same_pieces, "encoder.down_blocks."),
)


class Part(Protocol):
    """One network of a model on the disk."""

    @property
    def files(self) -> Sequence[Path]:
        """The files of its weights."""
        ...

    @property
    def class_name(self) -> str:
        """The class that its ``config.json`` names; empty if it names none."""
        ...

    def config(self, cls: ModelClass[ConfigT]) -> ConfigT:
        """Its settings, for the class of its network."""
        ...

    def load(self, cls: ModelClass[ConfigT], config: ConfigT, dtype: jax.typing.DTypeLike) -> Loaded:
        """The network and its weights, as from `weights.load_model`."""
        ...


@dataclasses.dataclass(frozen=True)
class FilePart:
    """A part of a single file; see `Part`.

    Attributes:
        file: the file.
        name: of the part, for errors.
        settings: the contents of a ``config.json``.
        source: its tensors under the names of diffusers.
        standard: what they should fit, for errors.
        second_file: where other tensors of the source are, if it has two files.
    """

    file: Path
    name: str
    settings: Mapping[str, Any]
    source: TensorSource
    standard: str
    second_file: Path | None = None

    @property
    def files(self) -> Sequence[Path]:
        """The file, or both."""
        return [self.file, self.second_file] if self.second_file else [self.file]

    @property
    def class_name(self) -> str:
        """As its settings say."""
        return str(self.settings.get("_class_name", ""))

    def config(self, cls: ModelClass[ConfigT]) -> ConfigT:
        """The settings of its network."""
        try:
            return cls.config_class.from_dict(self.settings)
        except UserError as error:
            raise UserError(f"{self.file} ({self.name}): {error}") from None

    def load(self, cls: ModelClass[ConfigT], config: ConfigT, dtype: jax.typing.DTypeLike) -> Loaded:
        """Reads the weights."""
        origin = f"{self.file} ({self.name})"
        with naming_damage(self.file):
            return read_model(cls, config, self.source, dtype=dtype, origin=origin, standard=self.standard)


@dataclasses.dataclass(frozen=True)
class ModelFiles:
    """What a model is made from.

    Attributes:
        origin: folder or file, for errors.
        parts: the networks, by the names of the folders in diffusers' layout.
        scheduler: the contents of ``scheduler_config.json``.
        read_tokenizer: reads the tokenizer of one of these names, ``tokenizer`` or ``tokenizer_2``.
        folder: the model's folder; None for a single file.
        zeros_if_empty: whether SDXL encodes an empty prompt as zeros.
        changes: what the user asked for instead of what the files say; it enters the hash.
    """

    origin: str
    parts: Mapping[str, Part]
    scheduler: Mapping[str, Any]
    read_tokenizer: Callable[[str], Tokenizer]
    folder: Path | None = None
    zeros_if_empty: bool = True
    changes: tuple[str, ...] = ()

    def hash(self, names: Iterable[str]) -> str:
        """Twelve hexadecimal digits for the files from which the parts of these names are loaded, and for `changes`."""
        labels: dict[Path, str] = {}
        for name in sorted(names):
            for file in sorted(self.parts[name].files):
                labels.setdefault(file, name)
        digest = hash_files(list(labels), list(labels.values()))
        return hashlib.sha256(" ".join((digest, *self.changes)).encode()).hexdigest()[:12] if self.changes else digest


def find_model(
    model: str | Path,
    *,
    variant: str = "",
    revision: str = "",
    vae: str | Path = "",
    prediction_type: str | None = None,
    allow_pickle: bool = False,
    families: Mapping[int, Family] = FAMILIES,
) -> ModelFiles:
    """Finds a model's files and what they hold; reads no weights.

    Args:
        model: a folder in diffusers' layout, a file in the original layout, or the hub id or URL of one of them.
        variant, revision: of a folder or a hub id, as for `hub.resolve_model`; empty for none.
        vae: an autoencoder to use instead of the model's own, see `find_vae`; empty for none.
        prediction_type: what the model predicts; None for what its files say.
        allow_pickle: whether to read the tensors of pickles.
        families: of single files, by the width of the text states.

    Raises:
        UserError: it is not such a model; the message says what it is.
    """
    model = downloaded_file(model, revision=revision or None) or model
    if _is_file(model):
        return _in_file(Path(model), vae, prediction_type, allow_pickle, families)
    parts = [name for name in PART_CLASSES if not (vae and name == "vae")]
    folder = resolve_model(
        model,
        revision=revision or None,
        variant=variant or None,
        allow_pickle=allow_pickle,
        parts=parts,
        check=lambda small: check_kind(small, str(model), parts),
    )
    return _in_folder(folder, variant or None, vae, prediction_type, allow_pickle)


def _in_folder(
    folder: Path, variant: str | None, vae: str | Path, prediction_type: str | None, allow_pickle: bool
) -> ModelFiles:
    files = sorted(file.name for file in folder.glob("*.safetensors"))
    advice = f"{ADVICE}, or a single file, such as {folder / files[0]}" if files else ADVICE
    scheduler = read_json(folder / "scheduler" / "scheduler_config.json", advice=advice)
    own = scheduler.get("prediction_type") or "epsilon"
    folders = {name: folder / name for name in PART_CLASSES}
    folders = {name: path for name, path in folders.items() if name not in OPTIONAL_PARTS or path.is_dir()}
    if "text_encoder_2" not in folders:
        scheduler = {**scheduler, "steps_offset": 1}  # as diffusers' pipelines of 1.x and 2.x, whatever the file says
    own_vae = folders.pop("vae") if vae else folders["vae"]
    for path in folders.values():
        if not (path / "config.json").is_file():
            raise UserError(f"{path / 'config.json'} is missing; {advice}")
    require_variant(str(folder), map(names_in, folders.values()), variant)
    parts: dict[str, Part] = {**find_parts(folders, variant, allow_pickle=allow_pickle)}
    if vae:
        config = own_vae / "config.json"
        parts["vae"] = find_vae(vae, read_json(config) if config.is_file() else {}, allow_pickle)
    return ModelFiles(
        str(folder),
        parts,
        {**scheduler, "prediction_type": prediction_type or own},
        lambda name: Tokenizer.from_folder(folder / name),
        folder,
        zeros_if_empty=read_index(folder).get("force_zeros_for_empty_prompt") is not False,
        changes=_changes(prediction_type, own),
    )


def _in_file(
    file: Path, vae: str | Path, prediction_type: str | None, allow_pickle: bool, families: Mapping[int, Family]
) -> ModelFiles:
    source = open_tensors(file, allow_pickle)
    header = source.header if isinstance(source, SafetensorsSource) else {}
    original = OriginalModel.read(source, str(file), header=header, prediction_type=prediction_type, families=families)
    family = original.family
    parts: dict[str, Part] = {
        name: FilePart(file, name, original.configs[name], tensors, family.name)
        for name, tensors in original.sources.items()
    }
    if vae:
        parts["vae"] = find_vae(vae, family.vae, allow_pickle)
    elif "vae" not in parts:
        raise UserError(f"{file} has no autoencoder: name one with --vae, a file or a folder")
    if missing := [name for name in family.text_encoders if name not in parts]:
        raise UserError(f"{file} is a {family.name} without its {' and '.join(missing)}: give a whole checkpoint")
    return ModelFiles(
        str(file),
        parts,
        original.scheduler,
        lambda name: clip_tokenizer(family.text_encoders[name.replace("tokenizer", "text_encoder")].pad),
        changes=_changes(prediction_type, original.own_prediction_type),
    )


def find_vae(vae: str | Path, settings: Mapping[str, Any], allow_pickle: bool = False) -> Part:
    """Finds an autoencoder that is to take the place of a model's own.

    Args:
        vae: a file, in the original layout or with diffusers' names; or a folder or a hub id, of an autoencoder or of a
            whole model. The files of a folder are those without a variant in their names. Of a tiny autoencoder's
            encoder and decoder either file means both.
        settings: of the model's own autoencoder; a file has the same scaling factor, unless it is a tiny one.
        allow_pickle: as for `find_model`.

    Raises:
        UserError: there is no autoencoder.
    """
    vae = downloaded_file(vae) or vae
    if not _is_file(vae):
        folder = resolve_model(vae, allow_pickle=allow_pickle, parts=("vae",))
        folder = folder / "vae" if (folder / "vae" / "config.json").is_file() else folder
        return FolderPart.find(folder, allow_pickle=allow_pickle)
    file = Path(vae)
    source = open_tensors(file, allow_pickle)
    for prefix, rule, mark in _VAE_LAYOUTS:
        if any(name.startswith(prefix + mark) for name in source.names()):
            tensors = part_source(source, prefix, rule)
            kept = {key: settings[key] for key in _VAE_SETTINGS if key in settings}
            return FilePart(file, "vae", {**kept, **vae_config(tensors, str(file))}, tensors, "an autoencoder")
    if found := find_tiny(file, source, lambda other: open_tensors(other, allow_pickle)):
        tensors, other = found
        return FilePart(file, "vae", tiny_vae_config(tensors, str(file)), tensors, "a tiny autoencoder", other)
    raise UserError(f"{file} holds no autoencoder of Stable Diffusion; give another file or folder with --vae")


def open_tensors(file: Path, allow_pickle: bool) -> TensorSource:
    """The tensors of one file.

    Raises:
        UserError: it is missing or damaged, or a pickle that may not be read.
    """
    if not file.is_file():
        raise UserError(f"there is no file {file}")
    if is_pickle(file):
        if allow_pickle:
            return PickledSource(file)
        raise UserError(
            f"{file} is a pickle, which can run code when it is opened: convert it to safetensors, or add "
            "--allow_pickle, which reads nothing but its tensors"
        )
    try:
        return SafetensorsSource([file])
    except safetensors.SafetensorError as error:
        raise UserError(f"{file} is no safetensors file, or a damaged one ({error}); download it again") from error


def _is_file(model: str | Path) -> bool:
    """Whether a model is given as a file, be it there or not."""
    path = Path(model)
    if in_bucket(model):  # of files there is a copy on this machine by now
        return False
    return path.is_file() or (path.suffix in FILE_SUFFIXES and not path.is_dir())


def _changes(prediction_type: str | None, own: str) -> tuple[str, ...]:
    return (prediction_type,) if prediction_type and prediction_type != own else ()
