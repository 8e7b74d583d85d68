"""Reads a LoRA file and makes sure that every tensor in it fits a model."""

import dataclasses
import hashlib
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors

from dreamstyler_jax.runtime.buckets import path_of
from dreamstyler_jax.runtime.documents import parse_json
from dreamstyler_jax.runtime.errors import UserError, listing, shortened
from dreamstyler_jax.runtime.local_copies import local_copy
from dreamstyler_jax.stable_diffusion.checkpoint_files import SafetensorsSource
from dreamstyler_jax.stable_diffusion.loras.names import Layer, family, other_methods, split_name, text_width
from dreamstyler_jax.stable_diffusion.tensor_names import TEXT_PREFIX, ParamPath

SETTINGS_KEY = "lora_adapter_metadata"  # where diffusers keeps the settings of PEFT, alpha among them
DTYPES = {"F64", "F32", "F16", "BF16", "I64", "I32"}  # integers for alpha
_PATTERN = re.compile(r"\^?[\w.]+")
_Roles = dict[str, str]  # the tensors of one layer, by what they are to it


class Change(NamedTuple):
    """The change of one kernel.

    Attributes:
        down, up: names of its matrices in the file.
        factor: alpha / rank.
    """

    down: str
    up: str
    factor: float


@dataclasses.dataclass(frozen=True, eq=False)
class Lora:
    """A LoRA file that fits a model. Its tensors are read when they are needed.

    Attributes:
        hash: twelve hexadecimal digits of the file's content.
        changes: of kernels, by their paths, for each part of the model.
        source: the file.
    """

    hash: str
    changes: Mapping[str, Mapping[ParamPath, Change]]
    source: SafetensorsSource

    def matrices(self, change: Change) -> tuple[np.ndarray, np.ndarray]:
        """``down`` [rank, in, ...] and alpha / rank times ``up`` [out, rank, ...], float32."""
        down, up = (self.source.tensor(name).astype(np.float32) for name in (change.down, change.up))
        return down, np.float32(change.factor) * up


def read_lora(path: str, layers: Mapping[str, Layer], model: str) -> Lora:
    """Reads a file.

    Args:
        path: the file.
        layers: the model's, from `names.layers_by_name`.
        model: the model's name, for errors.

    Raises:
        UserError: the file is missing, damaged, no LoRA, or for another model; or it holds numbers that are not finite,
            tensors that fit no layer, or methods that are not implemented. The message names the tensors.
    """
    if not path_of(path).is_file():
        raise UserError(f"loras: there is no file {path}")
    file = local_copy(path_of(path))
    try:
        source = SafetensorsSource([file])
        settings = _settings(path, file)
        named = _by_layer(path, source)
        _check_family(path, source, named, layers, model)
        changes = _matched(path, source, named, layers, model, settings)
        _check_numbers(path, source)
    except safetensors.SafetensorError as error:
        raise UserError(f"loras: {path} cannot be read, it is damaged or no safetensors file ({error})") from error
    with file.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()[:12]
    return Lora(digest, changes, source)


def _settings(path: str, file: Path) -> dict[str, Any]:
    """The settings of PEFT for each part, such as ``{"unet.lora_alpha": 8}``; most files have none."""
    with safetensors.safe_open(file, framework="numpy") as opened:
        text = (opened.metadata() or {}).get(SETTINGS_KEY, "{}")
        types = {opened.get_slice(name).get_dtype() for name in opened.keys()}  # noqa: SIM118 (it is not a dict)
    if unknown := sorted(types - DTYPES):
        raise UserError(f"loras: {path} holds numbers of the type {listing(unknown)}; convert it to float16 or float32")
    return parse_json(text, dict[str, Any], f"loras: the metadata {SETTINGS_KEY} in {path}")


def _by_layer(path: str, source: SafetensorsSource) -> dict[str, _Roles]:
    """The tensors of each layer, by the file's name of it."""
    names = sorted(source.names())
    if methods := other_methods(names):
        found = "; ".join(f"{method}: {listing(tensors, 2)}" for method, tensors in methods.items())
        raise UserError(f"loras: {path} holds what is not implemented, only LoRA and LoCon are: {found}")
    split = {name: split_name(name) for name in names}
    if not any(split.values()):
        raise UserError(f"loras: {path} is no LoRA: its tensors are {listing(names, 2) or 'none at all'}")
    named: dict[str, _Roles] = {}
    odd = []
    for name, parts in split.items():
        layer, role = parts or (name, "")
        if not role or role in named.setdefault(layer, {}):
            odd.append(name)
        else:
            named[layer][role] = name
    if odd:
        raise UserError(f"loras: {path} holds tensors that are no matrices of a LoRA, or twice: {listing(odd)}")
    return named


def _check_family(
    path: str, source: SafetensorsSource, named: Mapping[str, _Roles], layers: Mapping[str, Layer], model: str
) -> None:
    widths = {name: source.shape(roles["down"])[1] for name, roles in named.items() if _is_matrix(source, roles)}
    theirs = family(text_width(widths), named)
    ours = family(text_width({name: layer.shape[1] for name, layer in layers.items()}), layers)
    if theirs and theirs != ours:
        raise UserError(f"loras: {path} is for {theirs}, but {model} is {ours}")


def _is_matrix(source: SafetensorsSource, roles: _Roles) -> bool:
    return "down" in roles and len(source.shape(roles["down"])) > 1


def _matched(
    path: str,
    source: SafetensorsSource,
    named: Mapping[str, _Roles],
    layers: Mapping[str, Layer],
    model: str,
    settings: Mapping[str, Any],
) -> dict[str, dict[ParamPath, Change]]:
    """The changes of kernels by part and path; one error for all tensors that do not fit."""
    problems: dict[str, list[str]] = {"of no layer": [], "without a partner": [], "misshapen": [], "twice": []}
    changes: dict[str, dict[ParamPath, Change]] = {}
    for name, roles in named.items():
        layer = layers.get(name)
        if layer is None:
            problems["of no layer"] += roles.values()
        elif not {"down", "up"} <= roles.keys():
            problems["without a partner"] += roles.values()
        elif misfit := _misfit(source, name, roles, layer):
            problems["misshapen"].append(misfit)
        elif layer.path in changes.setdefault(layer.part, {}):
            problems["twice"] += roles.values()
        else:
            rank = source.shape(roles["down"])[0]
            alpha = float(source.tensor(roles["alpha"]).item()) if "alpha" in roles else None
            factor = _factor(path, settings, layer, rank, alpha)
            changes[layer.part][layer.path] = Change(roles["down"], roles["up"], factor)
    if text := "; ".join(f"{problem}: {listing(names)}" for problem, names in problems.items() if names):
        raise UserError(f"loras: {path} does not fit {model}; {text}")
    return changes


def _misfit(source: SafetensorsSource, name: str, roles: _Roles, layer: Layer) -> str:
    """What is wrong with the shapes of a layer's tensors; empty if they fit."""
    down, up = source.shape(roles["down"]), source.shape(roles["up"])
    if "alpha" in roles and math.prod(source.shape(roles["alpha"])) != 1:
        return f"{roles['alpha']} is not one number"
    if min(len(down), len(up)) < 2 or not down[0] or _cut(up[2:]):
        return f"{name} has matrices {down} and {up}"
    if down[0] != up[1]:
        return f"{name} has rank {down[0]} in one matrix and {up[1]} in the other"
    if (up[0], *_cut(down[1:])) != _cut(layer.shape):
        return f"{name} changes {(up[0], *down[1:])} instead of {layer.shape}"
    return ""


def _cut(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape without ones at its end: a 1 x 1 convolution may be given as a matrix, and the other way around."""
    while shape and shape[-1] == 1:
        shape = shape[:-1]
    return shape


def _factor(path: str, settings: Mapping[str, Any], layer: Layer, rank: int, alpha: float | None) -> float:
    """Alpha / rank, with alpha from its tensor, from the settings, or else the rank."""
    patterns = settings.get(f"{layer.part}.alpha_pattern") or {}
    if alpha is None:
        alpha = settings.get(f"{layer.part}.lora_alpha", rank)
        if not isinstance(patterns, dict) or not all(map(_PATTERN.fullmatch, patterns)):
            raise UserError(f"loras: alpha_pattern in the metadata {SETTINGS_KEY} of {path} is damaged or too general")
        alpha = next((value for pattern, value in patterns.items() if _names(pattern, layer)), alpha)
    if not isinstance(alpha, int | float) or not abs(alpha) < 1e6:
        raise UserError(
            f"loras: alpha of {layer.name} in {path} is {shortened(repr(alpha), 30)}, not a number below 1e6"
        )
    return alpha / (rank**0.5 if settings.get(f"{layer.part}.use_rslora") else rank)


def _names(pattern: str, layer: Layer) -> bool:
    """Whether a key of PEFT's patterns, the end of a name or ``^`` and a whole one, names the layer."""
    if pattern.startswith("^"):
        return pattern[1:] in (layer.name, layer.name.removeprefix(TEXT_PREFIX))
    return f".{layer.name}".endswith(f".{pattern}")


def _check_numbers(path: str, source: SafetensorsSource) -> None:
    if bad := [name for name in source.names() if not np.isfinite(source.tensor(name).astype(np.float32)).all()]:
        raise UserError(f"loras: {path} holds NaN or Inf: {listing(bad)}")
