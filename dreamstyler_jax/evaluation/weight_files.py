"""Weights of the networks that scores need: one safetensors file whose tensors say how large the network is."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

import jax.numpy as jnp
from flax import nnx

from dreamstyler_jax.runtime.errors import UserError
from dreamstyler_jax.stable_diffusion.checkpoint_files import (
    SafetensorsSource,
    TensorSource,
    files_of,
    names_in,
    naming_damage,
)
from dreamstyler_jax.stable_diffusion.layers import ModelConfig
from dreamstyler_jax.stable_diffusion.single_files.pickles import is_pickle
from dreamstyler_jax.stable_diffusion.weight_names import require_weights
from dreamstyler_jax.stable_diffusion.weights import Loaded, read_model

Shapes = Mapping[str, tuple[int, ...]]  # of tensors in a file, by name


class SizedByItsTensors(Protocol):
    """A class of networks whose config follows from the shapes of its tensors."""

    @property
    def unused(self) -> re.Pattern:
        """Matches the names of tensors of published files that scores do not need, such as a classifier's."""
        ...

    @property
    def config_class(self) -> type:
        """The class of the config."""
        ...

    def config_of(self, shapes: Shapes) -> ModelConfig:
        """The config of a file with tensors of these shapes; that of the published file for tensors that it lacks."""
        ...

    def __call__(self, config: Any, *, rngs: Any) -> nnx.Module:
        """Builds a network."""
        ...


class Needed:
    """The tensors of a source whose names do not match a pattern, see `checkpoint_files.TensorSource`."""

    def __init__(self, source: TensorSource, unused: re.Pattern):
        self._source, self._unused = source, unused
        self.shape, self.tensor = source.shape, source.tensor

    def names(self) -> Iterable[str]:
        """The names of the tensors that are needed."""
        return [name for name in self._source.names() if not self._unused.fullmatch(name)]


def read_network(cls: SizedByItsTensors, path: Path, network: str) -> Loaded:
    """Reads a network from a safetensors file, or from a folder that holds one.

    Args:
        cls: its class.
        path: the file or the folder.
        network: what to call it in errors.

    Returns:
        ``(graphdef, params)``, in float32.

    Raises:
        UserError: the file is damaged or a pickle, or its tensors are not those of the network.
    """
    if path.is_file() and is_pickle(path):
        raise UserError(f"{path} is a pickle, which can run code when it is opened, and not a safetensors file")
    files = files_of(path, require_weights(str(path), names_in(path))) if path.is_dir() else [path]
    with naming_damage(path):
        source = Needed(SafetensorsSource(files), cls.unused)
        try:
            config = cls.config_of({name: source.shape(name) for name in source.names()})
        except (ValueError, IndexError, ZeroDivisionError) as error:  # tensors of another rank
            raise UserError(f"the weights in {path} do not fit {network}; their shapes are others") from error
        return read_model(cls, config, source, dtype=jnp.float32, origin=str(path), standard=network)
