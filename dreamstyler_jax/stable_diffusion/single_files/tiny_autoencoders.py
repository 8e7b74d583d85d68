"""Tiny autoencoders (TAESD) in single files: in one, with diffusers' names, or as the pair that was published first.

The files of the pair are an encoder and a decoder, each of which counts its layers from 0.
"""

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from dreamstyler_jax.runtime.errors import UserError
from dreamstyler_jax.stable_diffusion.checkpoint_files import TensorSource
from dreamstyler_jax.stable_diffusion.single_files.configs import Sizes
from dreamstyler_jax.stable_diffusion.single_files.names import Piece, RenamedSource

_LAYER = re.compile(r"(\d+)\.(conv\.\d\.)?(weight|bias)")
_FIRST_LAYER = {"encoder": 0, "decoder": 1}  # in the files of the pair: the decoder's layer 0 has no parameters


class JoinedSource:
    """The tensors of several sources, see `checkpoint_files.TensorSource`."""

    def __init__(self, sources: Iterable[TensorSource]):
        self._source_of = {name: source for source in sources for name in source.names()}

    def names(self) -> Iterable[str]:
        """The names of all tensors."""
        return self._source_of.keys()

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor, without reading it."""
        return self._source_of[name].shape(name)

    def tensor(self, name: str) -> np.ndarray:
        """Reads a tensor."""
        return self._source_of[name].tensor(name)


def find_tiny(
    file: Path, source: TensorSource, open_file: Callable[[Path], TensorSource]
) -> tuple[TensorSource, Path | None] | None:
    """Recognises a tiny autoencoder.

    Args:
        file: a file, perhaps one of the pair.
        source: its tensors.
        open_file: opens the other file of the pair.

    Returns:
        All tensors under the names of diffusers, and the other file of the pair if there is one; None if it is
        something else.

    Raises:
        UserError: the other file of the pair is missing.
    """
    if any(name.startswith("decoder.layers.") for name in source.names()):
        return source, None
    half = _half_of_pair(source)
    if half is None:
        return None
    other = _other_half(file, half)
    return JoinedSource(map(_renamed, (source, open_file(other)))), other


def _half_of_pair(source: TensorSource) -> str | None:
    """Which file of the pair it is, ``encoder`` or ``decoder``; None if it is neither."""
    names = set(source.names())
    if not names or not all(map(_LAYER.fullmatch, names)):
        return None
    return "encoder" if "0.weight" in names else "decoder"


def _other_half(file: Path, half: str) -> Path:
    """Where the other file of the pair is: ``encoder`` and ``decoder`` take each other's place in the names."""
    path = file.with_name(file.name.replace(half, "decoder" if half == "encoder" else "encoder"))
    if path == file or not path.is_file():
        raise UserError(
            f"{file} is only the {half} of a tiny autoencoder: put encoder and decoder into one folder, under names "
            f"such as taesd_encoder{file.suffix} and taesd_decoder{file.suffix}"
        )
    return path


def _renamed(source: TensorSource) -> RenamedSource:
    half = _half_of_pair(source) or "encoder"
    pieces = {}
    for name in source.names():
        number, dot, rest = name.partition(".")
        pieces[f"{half}.layers.{int(number) - _FIRST_LAYER[half]}{dot}{rest}"] = Piece(name)
    return RenamedSource(source, pieces)


def tiny_vae_config(source: TensorSource, origin: str) -> dict[str, Any]:
    """The settings of a tiny autoencoder that its tensors, under the names of diffusers, tell."""
    sizes = Sizes(source, origin)
    encoder, decoder = (_blocks_by_level(source, sizes, half) for half in ("encoder", "decoder"))
    return {
        "_class_name": "AutoencoderTiny",
        "in_channels": sizes.size("encoder.layers.0.weight", 1),
        "out_channels": sizes.size(f"decoder.layers.{sizes.count('decoder.layers') - 1}.weight"),
        "latent_channels": sizes.size("decoder.layers.0.weight", 1),
        "encoder_block_out_channels": [sizes.size("encoder.layers.0.weight")] * len(encoder),
        "decoder_block_out_channels": [sizes.size("decoder.layers.0.weight")] * len(decoder),
        "num_encoder_blocks": encoder,
        "num_decoder_blocks": decoder,
    }


def _blocks_by_level(source: TensorSource, sizes: Sizes, half: str) -> list[int]:
    """How many blocks follow each convolution but the last one."""
    names = set(source.names())
    counts: list[int] = []
    for number in range(sizes.count(f"{half}.layers")):
        if f"{half}.layers.{number}.weight" in names:
            counts.append(0)
        elif counts and f"{half}.layers.{number}.conv.0.weight" in names:
            counts[-1] += 1
    return counts[:-1]
