"""The names that LoRA files give to a model's layers and to the matrices of each, in the ways of several tools.

    lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q.lora_down.weight         kohya
    lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q.lora_down.weight                   kohya for XL models
    unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.lora_A.weight                 PEFT and diffusers
    unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.processor.to_q_lora.down.weight    older diffusers

Underscores cannot be told from dots, so a name is never taken apart: every name that a layer can have is made from the
model's own parameters.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from flax.traverse_util import flatten_dict

from dreamstyler_jax.stable_diffusion.loras.original_names import original_names
from dreamstyler_jax.stable_diffusion.single_files.families import FAMILIES, SDXL
from dreamstyler_jax.stable_diffusion.tensor_names import TEXT_PREFIX, ParamPath, tensor_name, torch_shape

# The parts of a model that LoRAs change, with kohya's names of them.
KOHYA_PREFIXES = {"unet": ("lora_unet_",), "text_encoder": ("lora_te_", "lora_te1_"), "text_encoder_2": ("lora_te2_",)}
_ROLES = {
    ".lora_down.weight": "down", ".lora_up.weight": "up", ".lora_A.weight": "down", ".lora_B.weight": "up",
    ".lora.down.weight": "down", ".lora.up.weight": "up", "_lora.down.weight": "down", "_lora.up.weight": "up",
    ".lora_linear_layer.down.weight": "down", ".lora_linear_layer.up.weight": "up", ".alpha": "alpha",
}  # fmt: skip
# Relatives of LoRA by what is in the names of their tensors; $ is the name's end.
_OTHER_METHODS = {
    "DoRA": (".dora_scale", ".lora_magnitude_vector"), "LoHa": (".hada_",), "LoKr": (".lokr_",), "OFT": (".oft_",),
    "Tucker decomposition": (".lora_mid",), "full difference": (".diff$", ".diff_b$"),
    "norm": (".w_norm", ".b_norm"), "bias": (".lora_B.bias", ".lora_up.bias", ".lora.up.bias"),
}  # fmt: skip
# Older diffusers' names of the projections in attention layers.
_PROJECTIONS = {"to_q": "to_q", "to_k": "to_k", "to_v": "to_v", "to_out.0": "to_out"}
_PROJECTIONS |= {"q_proj": "to_q", "k_proj": "to_k", "v_proj": "to_v", "out_proj": "to_out"}
_XL_PREFIXES = ("lora_te2_", "text_encoder_2.")
_TRANSFORMER = re.compile(r"^(transformer\.|lora_transformer_)|double_blocks|joint_blocks")


class Layer(NamedTuple):
    """A layer of a model that a LoRA can change.

    Attributes:
        part: the key of the part in the model's params, such as ``"unet"``.
        path: the path of its kernel.
        name: its name in diffusers and transformers, without the part's.
        shape: the kernel's shape in a checkpoint, [out, in] or [out, in, height, width].
    """

    part: str
    path: ParamPath
    name: str
    shape: tuple[int, ...]


def layers_by_name(params: Mapping[str, Any]) -> dict[str, Layer]:
    """The layers of a model by every name that a LoRA file may call them.

    Args:
        params: `StableDiffusion.params`.
    """
    found: dict[str, Layer] = {}
    for part in filter(params.__contains__, KOHYA_PREFIXES):
        arrays: dict[Any, Any] = flatten_dict(params[part])
        layers = [
            Layer(part, path, tensor_name(path).removesuffix(".weight"), torch_shape(path, array.shape))
            for path, array in arrays.items()
            if path[-1] == "kernel"
        ]
        original = original_names([layer.name for layer in layers]) if part == "unet" else {}
        for layer in layers:
            found |= dict.fromkeys(_names(layer, original.get(layer.name)), layer)
    return found


def _names(layer: Layer, original: str | None) -> Iterator[str]:
    dotted = [layer.name, layer.name.removeprefix(TEXT_PREFIX)]  # transformers 5 writes no prefix
    underscored = [*dotted, original] if original else dotted
    for ours, theirs in _PROJECTIONS.items():
        if layer.name.endswith(f".{ours}"):
            parent = layer.name.removesuffix(ours)
            dotted += [f"{parent}processor.{theirs}", f"{parent}{theirs}"]
    for name in dotted:
        yield f"{layer.part}.{name}"
        if layer.part == "unet":
            yield name  # files of a UNet alone
    for prefix in KOHYA_PREFIXES[layer.part]:
        for name in underscored:
            yield prefix + name.replace(".", "_")


def split_name(tensor: str) -> tuple[str, str] | None:
    """The name of a layer and what the tensor is to it: ``"down"``, ``"up"`` or ``"alpha"``; None for other tensors."""
    for suffix, role in _ROLES.items():
        if tensor.endswith(suffix):
            return tensor.removesuffix(suffix), role
    return None


def other_methods(tensors: Sequence[str]) -> dict[str, list[str]]:
    """The tensors that belong to relatives of LoRA, by the name of the method."""
    found = {
        method: [name for name in tensors if any(marker in f"{name}$" for marker in markers)]
        for method, markers in _OTHER_METHODS.items()
    }
    return {method: names for method, names in found.items() if names}


def text_width(input_widths: Mapping[str, int]) -> int | None:
    """The width of the text states that a UNet attends to; None if no layer shows it.

    Args:
        input_widths: of each layer's kernel, by any of the layer's names.
    """
    keys = ("attn2.to_k", "attn2_to_k", "attn2.processor.to_k")
    return next((width for name, width in input_widths.items() if name.endswith(keys)), None)


def family(width: int | None, names: Iterable[str] = ()) -> str | None:
    """The family of models, in words; None if nothing shows it.

    Args:
        width: from `text_width`.
        names: of the layers in a LoRA file.
    """
    names = list(names)
    if any(map(_TRANSFORMER.search, names)):
        return "a transformer such as Flux"
    if any(name.startswith(_XL_PREFIXES) for name in names):
        return SDXL.name
    if not width:
        return None
    return FAMILIES[width].name if width in FAMILIES else f"a model with text states of width {width}"
