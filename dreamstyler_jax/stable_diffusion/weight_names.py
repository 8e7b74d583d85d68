"""Which files of a folder hold the weights of its network, by their conventional names.

The names alone decide, so the same rules hold for a folder on the disk and for the list of files of a repository.
"""

import dataclasses
import re
from collections.abc import Collection, Iterable

from dreamstyler_jax.runtime.errors import UserError, listing

DIFFUSERS_STEM = "diffusion_pytorch_model"
TRANSFORMERS_STEM = "model"
_STEMS = (DIFFUSERS_STEM, TRANSFORMERS_STEM)
_PICKLE_STEMS = (DIFFUSERS_STEM, "pytorch_model")
_VARIANT = re.compile(rf"(?:{'|'.join((*_STEMS, 'pytorch_model'))})\.([^.]+?)(?:-\d+-of-\d+)?\.(?:safetensors|bin)")
_PICKLES = (".bin", ".ckpt", ".pt", ".pth")
# Endings of what other programs run, and what they are called.
_EXPORTS = {
    ".onnx": "ONNX", ".onnx_data": "ONNX", ".pb": "ONNX", ".msgpack": "Flax", ".xml": "OpenVINO", ".h5": "Keras",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class WeightNames:
    """The files of a network's weights.

    Attributes:
        head: the only file, or the index that lists several.
        variant: the word in their names, such as ``fp16``; None without one.
    """

    head: str
    variant: str | None = None

    @property
    def is_index(self) -> bool:
        """Whether the weights are in several files, which the head lists."""
        return self.head.endswith(".json")

    @property
    def is_pickle(self) -> bool:
        """Whether PyTorch pickled them."""
        return self.head.endswith(".bin")

    def covers(self, name: str) -> bool:
        """Whether a file is the head or, by its name, one of those that the head lists."""
        stem = self.head.partition(".")[0] + _infix(self.variant)
        shard = re.fullmatch(rf"{re.escape(stem)}-\d+-of-\d+\.safetensors", name)
        return name == self.head or (self.is_index and shard is not None)


def find_weights(names: Collection[str], variant: str | None = None, *, pickles: bool = False) -> WeightNames | None:
    """The weights among the files of a folder; None if there are none.

    Args:
        names: the names of the files.
        variant: the word to look for first; without such files, those without a word are found, as in diffusers.
        pickles: whether ``.bin`` files count, where there is no safetensors file of the same variant.
    """
    for word in dict.fromkeys((variant or None, None)):
        infix = _infix(word)
        heads = [f"{stem}.safetensors.index{infix}.json" for stem in _STEMS]
        heads += [f"{stem}{infix}.safetensors" for stem in _STEMS]
        heads += [f"{stem}{infix}.bin" for stem in _PICKLE_STEMS if pickles]
        for head in heads:
            if head in names:
                return WeightNames(head, word)
    return None


def require_weights(
    where: str, names: Collection[str], variant: str | None = None, *, pickles: bool = False
) -> WeightNames:
    """As :func:`find_weights`.

    Raises:
        UserError: there are none; the message says what ``where``, a folder, holds instead.
    """
    found = find_weights(names, variant, pickles=pickles)
    if found is None:
        raise UserError(f"{where} {_instead_of_weights(sorted(names), pickles)}")
    return found


def require_variant(origin: str, folders: Iterable[Collection[str]], variant: str | None) -> None:
    """Raises a UserError if none of a model's folders, given by their files, has weights of a variant."""
    folders = list(folders)
    found = [find_weights(names, variant, pickles=True) for names in folders]
    if variant and not any(weights and weights.variant for weights in found):
        others = variants_in(name for names in folders for name in names)
        advice = f"choose {' or '.join(others)}, or leave --variant out" if others else "leave --variant out"
        raise UserError(f"{origin} has no weights of the variant {variant}: {advice}")


def variants_in(names: Iterable[str]) -> list[str]:
    """The variants whose files are among these names."""
    return sorted({match[1] for name in names if (match := _VARIANT.fullmatch(name))})


def _infix(variant: str | None) -> str:
    return f".{variant}" if variant else ""


def _instead_of_weights(names: list[str], pickles: bool) -> str:
    """What a folder without weights holds, and what to do."""
    if others := [name for name in names if name.endswith(".safetensors")]:
        advice = f"add --variant {' or '.join(variants)}" if (variants := variants_in(others)) else "rename them"
        return f"has no weights without a variant in their name, only {listing(others)}: {advice}"
    if others := [name for name in names if name.endswith(_PICKLES)]:
        convert = "convert it to safetensors (in Python: from_pretrained, then save_pretrained)"
        if pickles:
            return f"has only {listing(others)}, none of which can be read: {convert}"
        variants = "" if find_weights(names, pickles=True) or not variants_in(others) else variants_in(others)[0]
        options = f"--variant {variants} --allow_pickle" if variants else "--allow_pickle"
        return (
            f"has only {listing(others)}, a pickle, which can run code when it is opened: {convert}, or add {options}, "
            "which reads nothing but its tensors"
        )
    for ending, program in _EXPORTS.items():
        if others := [name for name in names if name.endswith(ending)]:
            return f"holds weights for {program} alone ({listing(others)}): give the model that they were made from"
    return "has no weights in safetensors format; download the model again"
