"""Networks in folders of their own, as diffusers and transformers save them."""

import dataclasses
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self, TypeVar

import jax

from dreamstyler_jax.runtime.errors import listing
from dreamstyler_jax.stable_diffusion.checkpoint_files import SafetensorsSource, files_of, names_in, naming_damage
from dreamstyler_jax.stable_diffusion.layers import ModelConfig
from dreamstyler_jax.stable_diffusion.single_files.pickles import PickledSource
from dreamstyler_jax.stable_diffusion.weight_names import WeightNames, require_weights
from dreamstyler_jax.stable_diffusion.weights import Loaded, ModelClass, class_name_in, read_config, read_model

ConfigT = TypeVar("ConfigT", bound=ModelConfig)


@dataclasses.dataclass(frozen=True)
class FolderPart:
    """A network in a folder with its ``config.json``; see `model_files.Part`.

    Attributes:
        folder: the folder.
        weights: which of its files are read.
    """

    folder: Path
    weights: WeightNames

    @classmethod
    def find(cls, folder: Path, variant: str | None = None, *, allow_pickle: bool = False) -> Self:
        """Finds the weights in a folder.

        Args:
            folder: the folder.
            variant: the word in the names of the files to look for first; those without a word are the second choice.
            allow_pickle: whether to read the tensors of ``.bin`` files where there is no safetensors file.

        Raises:
            UserError: there are none; the message says what there is.
        """
        return cls(folder, require_weights(str(folder), names_in(folder), variant, pickles=allow_pickle))

    @property
    def files(self) -> Sequence[Path]:
        """The files that are loaded."""
        return files_of(self.folder, self.weights)

    @property
    def class_name(self) -> str:
        """As ``config.json`` says."""
        return class_name_in(self.folder)

    def config(self, cls: ModelClass[ConfigT]) -> ConfigT:
        """Reads ``config.json``."""
        return read_config(cls, self.folder)

    def load(self, cls: ModelClass[ConfigT], config: ConfigT, dtype: jax.typing.DTypeLike) -> Loaded:
        """Reads the weights."""
        with naming_damage(self.folder):
            source = PickledSource(self.files[0]) if self.weights.is_pickle else SafetensorsSource(self.files)
            return read_model(cls, config, source, dtype=dtype, origin=str(self.folder))


def find_parts(
    folders: Mapping[str, Path], variant: str | None = None, *, allow_pickle: bool = False
) -> dict[str, FolderPart]:
    """Finds the weights of several networks; a warning names those that lack the variant.

    Args:
        folders: the folder of each network, by its name in the warning.
        variant, allow_pickle: as for `FolderPart.find`.

    Raises:
        UserError: one of them has no weights.
    """
    parts = {name: FolderPart.find(folder, variant, allow_pickle=allow_pickle) for name, folder in folders.items()}
    if others := [name for name, part in parts.items() if part.weights.variant != (variant or None)]:
        warnings.warn(
            f"no weights of the variant {variant} for {listing(others)}: reading the files without a variant",
            stacklevel=2,
        )
    return parts
