"""LoRA files with random numbers for a model, under the names that several tools give them."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors.numpy
from flax.traverse_util import flatten_dict

from dreamstyler_jax.stable_diffusion.tensor_names import from_torch_layout, tensor_name, torch_shape


class Matrices(NamedTuple):
    """The change of a layer, in a checkpoint's layout; ``alpha`` None stands for the rank."""

    down: np.ndarray
    up: np.ndarray
    alpha: float | None


Layers = dict[tuple[str, str], Matrices]  # by part and by name in diffusers and transformers
KOHYA = {"unet": "lora_unet_", "text_encoder": "lora_te_", "text_encoder_2": "lora_te2_"}
OLD = {
    "to_q": "to_q", "to_k": "to_k", "to_v": "to_v", "to_out.0": "to_out",
    "q_proj": "to_q", "k_proj": "to_k", "v_proj": "to_v", "out_proj": "to_out",
}  # fmt: skip


def kohya(part: str, name: str) -> tuple[str, str, str]:
    """The names of down, up and alpha."""
    layer = KOHYA[part] + name.replace(".", "_")
    return f"{layer}.lora_down.weight", f"{layer}.lora_up.weight", f"{layer}.alpha"


def peft(part: str, name: str) -> tuple[str, str, str]:
    return f"{part}.{name}.lora_A.weight", f"{part}.{name}.lora_B.weight", f"{part}.{name}.alpha"


def diffusers(part: str, name: str) -> tuple[str, str, str]:
    """As diffusers wrote them before PEFT."""
    infix = "lora" if part == "unet" else "lora_linear_layer"
    return f"{part}.{name}.{infix}.down.weight", f"{part}.{name}.{infix}.up.weight", f"{part}.{name}.alpha"


def processors(part: str, name: str) -> tuple[str, str, str]:
    """As diffusers wrote them at first: for attention layers, without alpha."""
    (projection,) = [ours for ours in OLD if name.endswith(f".{ours}")]
    infix = "processor." if part == "unet" else ""
    layer = f"{part}.{name.removesuffix(projection)}{infix}{OLD[projection]}"
    return f"{layer}_lora.down.weight", f"{layer}_lora.up.weight", ""


def is_attention(part: str, name: str) -> bool:
    """Whether `processors` has a name for the layer."""
    return part != "vae" and ("attn1" in name or "attn2" in name or "self_attn" in name)


def random_layers(
    params: Mapping[str, Any],
    wanted: Callable[[str, str], bool] = lambda part, name: True,
    *,
    rank: int = 2,
    alpha: float | None = 1.5,
    seed: int = 0,
) -> Layers:
    """Changes of all layers of UNet and text encoders, or of those wanted, about as large as the kernels."""
    rng = np.random.default_rng(seed)
    layers: Layers = {}
    for part in (part for part in params if part != "vae"):
        for path, kernel in flatten_dict(params[part]).items():
            name = tensor_name(path).removesuffix(".weight")
            if path[-1] == "kernel" and wanted(part, name):
                out, *inside = torch_shape(path, kernel.shape)
                down = rng.standard_normal((rank, *inside), np.float32) * np.prod(inside) ** -0.5
                up = rng.standard_normal((out, rank, *[1] * (len(inside) - 1)), np.float32)
                layers[part, name] = Matrices(np.float32(down), up, alpha)
    return layers


def tensors_of(layers: Layers, naming: Callable[[str, str], tuple[str, str, str]] = kohya) -> dict[str, np.ndarray]:
    """The tensors of a file."""
    tensors = {}
    for (part, name), matrices in layers.items():
        down, up, alpha = naming(part, name)
        tensors |= {down: matrices.down, up: matrices.up}
        if matrices.alpha is not None:
            tensors[alpha] = np.array(matrices.alpha, np.float32)
    return tensors


def write_lora(path: Path, layers: Layers, naming: Callable[[str, str], tuple[str, str, str]] = kohya) -> Path:
    safetensors.numpy.save_file(tensors_of(layers, naming), path)
    return path


def expected_params(params: Mapping[str, Any], *loras: tuple[Layers, float]) -> dict[str, dict]:
    """The kernels after these LoRAs, each with its scale, computed in float64; by part and path."""
    result: dict[str, dict] = {part: dict(flatten_dict(params[part])) for part in params}
    for part, kernels in result.items():
        for path in kernels:
            key = part, tensor_name(path).removesuffix(".weight")
            for layers, scale in loras:
                if path[-1] == "kernel" and key in layers:
                    down, up, alpha = layers[key]
                    down, up = down.astype(np.float64), up.reshape(up.shape[:2]).astype(np.float64)
                    delta = np.einsum("or,r...->o...", up, down)
                    factor = 1 if alpha is None else alpha / len(down)
                    kernels[path] = kernels[path] + scale * factor * from_torch_layout(path, delta)
    return result
