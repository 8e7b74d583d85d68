"""LoRA (Hu et al. 2021): low-rank changes to a model's kernels, merged into its weights.

    kernel + scale * alpha / rank * up @ down

``down`` is [rank, in] and ``up`` [out, rank]. Of a convolution ``down`` has the height and width, and ``up`` is 1 x 1.
"""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from dreamstyler_jax.stable_diffusion.loras.files import Change, Lora, read_lora
from dreamstyler_jax.stable_diffusion.loras.names import layers_by_name
from dreamstyler_jax.stable_diffusion.loras.recipes import LoraRecipe, LoraTerm, parse_loras
from dreamstyler_jax.stable_diffusion.tensor_names import ParamPath, from_torch_layout, torch_shape


@dataclasses.dataclass(frozen=True, eq=False)
class LoraStack:
    """LoRAs with their scales; ``str`` is the recipe's text.

    Attributes:
        members: files as the recipe names them, and what is in them.
    """

    members: tuple[tuple[LoraTerm, Lora], ...] = ()

    def __str__(self) -> str:
        return str(LoraRecipe(tuple(term for term, _ in self.members)))

    def hash_on(self, model_hash: str) -> str:
        """The hash of a model's weights with these LoRAs; a scale of 0 changes nothing."""
        parts = [f"{lora.hash}*{term.scale}" for term, lora in self.members if term.scale]
        return hashlib.sha256(" ".join([model_hash, *parts]).encode()).hexdigest()[:12] if parts else model_hash

    @property
    def lines(self) -> list[str]:
        """What each LoRA changes, a line each."""
        return [
            f"LoRA {LoraRecipe((term,))} changes {' and '.join(_counted(part, lora) for part in lora.changes)}"
            for term, lora in self.members
        ]

    def changes_of(self, part: str) -> dict[ParamPath, list[tuple[float, Lora, Change]]]:
        """The changes of a part's kernels by path, each with its scale and its file."""
        found: dict[ParamPath, list[tuple[float, Lora, Change]]] = {}
        for term, lora in self.members:
            for path, change in lora.changes.get(part, {}).items() if term.scale else ():
                found.setdefault(path, []).append((term.scale, lora, change))
        return found


def _counted(part: str, lora: Lora) -> str:
    count = len(lora.changes[part])
    return f"{count} layer{'s' * (count > 1)} of the {part}"


def read_loras(texts: Sequence[str], params: Mapping[str, Any], model: str) -> list[LoraStack]:
    """Reads the LoRAs of recipes, each file once.

    Args:
        texts: the recipes, see `recipes.parse_loras`.
        params: `StableDiffusion.params` of the model that they are for.
        model: its name, for errors.

    Raises:
        UserError: a recipe cannot be read, or a file does not fit the model, see `files.read_lora`.
    """
    recipes = [parse_loras(text) for text in texts]
    paths = dict.fromkeys(term.path for recipe in recipes for term in recipe.terms)
    layers = layers_by_name(params) if paths else {}
    loras = {path: read_lora(path, layers, model) for path in paths}
    return [LoraStack(tuple((term, loras[term.path]) for term in recipe.terms)) for recipe in recipes]


def merge_loras(params: Mapping[str, Any], stack: LoraStack) -> dict[str, Any]:
    """The params with LoRAs merged into them, in float32 and then rounded to each kernel's dtype.

    Args:
        params: `StableDiffusion.params`. They stay as they are; the result shares what does not change.
        stack: the LoRAs, read for these params.
    """
    merged = dict(params)
    for part in params:
        if changes := stack.changes_of(part):
            arrays: dict[Any, Any] = flatten_dict(params[part])
            arrays |= {path: _changed(path, arrays[path], of_kernel) for path, of_kernel in changes.items()}
            merged[part] = unflatten_dict(arrays)
    return merged


def _changed(path: ParamPath, kernel: jax.Array, changes: Sequence[tuple[float, Lora, Change]]) -> jax.Array:
    """A kernel after its changes. NumPy adds them up: it compiles nothing, and all devices get the same numbers."""
    total = np.array(kernel, np.float32)
    for scale, lora, change in changes:
        down, up = lora.matrices(change)
        down = from_torch_layout(path, down.reshape(len(down), *torch_shape(path, kernel.shape)[1:]))
        up = np.float32(scale) * up.reshape(len(up), -1)
        total += (down.reshape(-1, down.shape[-1]) @ up.T).reshape(kernel.shape)
    return jax.device_put(total.astype(kernel.dtype))
