"""Which kind of model a folder in diffusers' layout holds, by its small files alone."""

import re
from collections.abc import Collection
from pathlib import Path
from typing import Any, TypedDict

from dreamstyler_jax.runtime.errors import UserError, shortened
from dreamstyler_jax.runtime.files import read_json
from dreamstyler_jax.stable_diffusion.clip import CLIPTextModel, CLIPTextModelWithProjection
from dreamstyler_jax.stable_diffusion.single_files.layout import OTHER_INPUTS, TEXT_TO_IMAGE_ADVICE
from dreamstyler_jax.stable_diffusion.tiny_autoencoder import AutoencoderTiny
from dreamstyler_jax.stable_diffusion.unet import UNet2DConditionModel
from dreamstyler_jax.stable_diffusion.vae import AutoencoderKL
from dreamstyler_jax.stable_diffusion.weights import ModelClass, NetworkFile, class_name_in, read_config

PART_CLASSES: dict[str, ModelClass[Any]] = {
    "text_encoder": CLIPTextModel,
    "text_encoder_2": CLIPTextModelWithProjection,
    "unet": UNet2DConditionModel,
    "vae": AutoencoderKL,
}
AUTOENCODERS: dict[str, ModelClass[Any]] = {"AutoencoderKL": AutoencoderKL, "AutoencoderTiny": AutoencoderTiny}
# Pipelines that name models with another UNet, and the number of its input channels.
_PIPELINES = {"Inpaint": 9, "InstructPix2Pix": 8, "Upscale": 7, "Depth2Img": 5}
# How to give networks that are no whole model, by their class.
_ALONE = {
    "ControlNetModel": "give it with --controlnets and --content",
    "AutoencoderKL": "give it with --vae",
    "AutoencoderTiny": "give it with --vae",
    "CLIPModel": "give it to dreamstyler evaluate with --clip",
}
_CLASSES = {"text_encoder": ["CLIPTextModel"], "vae": list(AUTOENCODERS), "unet": ["UNet2DConditionModel"]}


class ModelIndex(TypedDict, total=False):
    """What ``model_index.json`` holds: a library and a class for each part, and settings of the pipeline."""

    _class_name: str
    text_encoder: list[str | None]
    unet: list[str | None]
    vae: list[str | None]
    force_zeros_for_empty_prompt: bool


def read_index(folder: Path) -> ModelIndex:
    """The ``model_index.json`` of a folder; empty if it has none.

    Raises:
        UserError: it is damaged.
    """
    file = folder / "model_index.json"
    return read_json(file, ModelIndex) if file.is_file() else {}


def part_class(part: str, class_name: str) -> ModelClass[Any]:
    """The class of a part; there are several of autoencoders, of which ``class_name`` tells."""
    return AUTOENCODERS.get(class_name, AutoencoderKL) if part == "vae" else PART_CLASSES[part]


def check_kind(folder: Path, where: str, parts: Collection[str]) -> None:
    """Refuses a folder whose ``model_index.json`` or configs are those of another kind of model; reads no weights.

    Args:
        folder: holds the small files of a model. What it lacks is not checked.
        where: names the model in errors.
        parts: those of its parts that will be used.

    Raises:
        UserError: it is not a text-to-image Stable Diffusion; the message says what it is.
    """
    index = read_index(folder)
    _refuse_single_networks(folder, where)
    pipeline = index.get("_class_name", "")
    for word, channels in _PIPELINES.items():
        if word in pipeline:
            raise UserError(f"{where} {OTHER_INPUTS[channels]} ({shortened(pipeline)}): {TEXT_TO_IMAGE_ADVICE}")
    if pipeline.startswith("Onnx"):
        raise UserError(f"{where} is an export for ONNX ({shortened(pipeline)}): give the model that it was made from")
    if index and not _has(index, "unet"):
        raise UserError(
            f"{where} is not Stable Diffusion 1.x, 2.x or XL: its model_index.json names {shortened(repr(pipeline))}"
        )
    if (folder / "text_encoder_2").is_dir() and not (folder / "text_encoder").is_dir():
        raise UserError(f"{where} is SDXL's refiner, which only finishes pictures; give a base model")
    for part, wanted in _CLASSES.items():
        if (
            part in parts
            and _has(index, part)
            and not re.match(f"(Flax)?({'|'.join(wanted)})", name := _class(index, part))
        ):
            raise UserError(f"{where} has a {part} of another kind: {shortened(name)}, not {' or '.join(wanted)}")
    configs = {
        part: read_config(part_class(part, class_name_in(folder / part)), folder / part)
        for part in parts
        if (folder / part / "config.json").is_file()
    }
    if "unet" in configs and "vae" in configs:
        channels = configs["unet"].in_channels
        if channels in OTHER_INPUTS and channels != configs["vae"].latent_channels:
            raise UserError(
                f"{where} {OTHER_INPUTS[channels]} (its UNet has {channels} input channels): {TEXT_TO_IMAGE_ADVICE}"
            )


def _refuse_single_networks(folder: Path, where: str) -> None:
    """Refuses the folder of one network, by its own config."""
    if not (folder / "config.json").is_file() or (folder / "unet").is_dir():
        return
    config = read_json(folder / "config.json", NetworkFile)
    name = config.get("_class_name") or "".join(config.get("architectures", [])[:1])
    advice = _ALONE.get(name)
    what = f"one network alone ({shortened(name)})" if name else "no whole model"
    raise UserError(f"{where} is {what}: " + (f"{advice}, and its model with --model" if advice else "give a model"))


def _has(index: ModelIndex, part: str) -> bool:
    """Whether ``model_index.json`` names a part: an absent one is missing, or a pair of nulls."""
    return bool(_class(index, part))


def _class(index: ModelIndex, part: str) -> str:
    entry: Any = index.get(part) or []
    return entry[1] or "" if len(entry) == 2 else ""
