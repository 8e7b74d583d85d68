"""The parts of a Stable Diffusion: their classes, whether they fit together, and how they are written to a folder."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flax import nnx

from dreamstyler_jax.runtime.errors import UserError
from dreamstyler_jax.runtime.files import write_json
from dreamstyler_jax.stable_diffusion.controlnet import ControlNetConfig
from dreamstyler_jax.stable_diffusion.model_files import Part
from dreamstyler_jax.stable_diffusion.model_kinds import PART_CLASSES, part_class
from dreamstyler_jax.stable_diffusion.networks import Networks, SecondTextEncoder
from dreamstyler_jax.stable_diffusion.schedule import NoiseSchedule
from dreamstyler_jax.stable_diffusion.tokenizer import Tokenizer
from dreamstyler_jax.stable_diffusion.weights import ModelClass, save_model

SDXL_PARTS = PART_CLASSES
PARTS = {name: SDXL_PARTS[name] for name in ("text_encoder", "vae", "unet")}


def part_classes(parts: Mapping[str, Part]) -> dict[str, ModelClass[Any]]:
    """The class of each part of a model, by the part's name; for an autoencoder the one that its settings name."""
    return {name: part_class(name, parts[name].class_name) for name in SDXL_PARTS if name in parts}


def networks_of(
    graphdefs: Mapping[str, nnx.GraphDef],
    configs: Mapping[str, Any],
    schedule: NoiseSchedule,
    *,
    end_id: int,
    zeros_if_empty: bool = True,
) -> Networks:
    """The networks of a model without their weights.

    Args:
        graphdefs, configs: of each part, by its name in `SDXL_PARTS`.
        schedule: the noise schedule.
        end_id: the token that ends a text.
        zeros_if_empty: whether SDXL encodes an empty prompt as zeros.
    """
    second = None
    if "text_encoder_2" in graphdefs:
        second = SecondTextEncoder(graphdefs["text_encoder_2"], configs["text_encoder_2"], end_id, zeros_if_empty)
    return Networks(
        text_encoder=graphdefs["text_encoder"],
        vae=graphdefs["vae"],
        unet=graphdefs["unet"],
        text_config=configs["text_encoder"],
        vae_config=configs["vae"],
        unet_config=configs["unet"],
        schedule=schedule,
        second_text_encoder=second,
    )


def settings_hash(
    configs: Mapping[str, Any], schedule: NoiseSchedule, tokenizers: Mapping[str, Tokenizer], zeros_if_empty: bool
) -> str:
    """Twelve hexadecimal digits of all that pictures depend on in a model's files besides its weights.

    Settings that have their default do not enter, so that a setting of a later version leaves the hash as it is.

    Args:
        configs, schedule, tokenizers: of the model, by name.
        zeros_if_empty: whether SDXL encodes an empty prompt as zeros.
    """
    of_files = {name: not_default(config) for name, config in {**configs, "scheduler": schedule}.items()}
    words = {name: tokenizer.hash for name, tokenizer in tokenizers.items()}
    content = json.dumps([of_files, words, zeros_if_empty], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:12]


def not_default(config: Any) -> dict[str, Any]:
    """The fields of a dataclass that do not have their default."""
    fields = {field.name: field.default for field in dataclasses.fields(config)}
    return {name: value for name, default in fields.items() if (value := getattr(config, name)) != default}


def save_folder(
    folder: Path,
    *,
    tokenizers: Mapping[str, Tokenizer],
    schedule: NoiseSchedule,
    parts: Mapping[str, tuple[Any, Any]],
) -> None:
    """Writes a model folder in diffusers' layout.

    Args:
        folder: is created where it does not exist.
        tokenizers, schedule: of the model.
        parts: config and params of each part, ``{"text_encoder": (config, params), "vae": ..., "unet": ...}``; with
            ``text_encoder_2`` it is an SDXL.
    """
    for name, (config, params) in parts.items():
        save_model(folder / name, config, params)
    for name, tokenizer in zip(("tokenizer", "tokenizer_2"), tokenizers.values(), strict=False):
        tokenizer.save(folder / name)
    write_json(folder / "scheduler" / "scheduler_config.json", schedule.to_config())
    index: dict[str, Any] = {
        "_class_name": "StableDiffusionPipeline",
        "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "vae": ["diffusers", "AutoencoderKL"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "safety_checker": [None, None],
        "feature_extractor": [None, None],
    }
    if "text_encoder_2" in parts:
        del index["safety_checker"]
        index |= {
            "_class_name": "StableDiffusionXLPipeline",
            "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
            "tokenizer_2": ["transformers", "CLIPTokenizer"],
            "force_zeros_for_empty_prompt": True,
        }
    write_json(folder / "model_index.json", index)


def check_fit(origin: str, configs: Mapping[str, Any], tokenizers: Mapping[str, Tokenizer]) -> None:
    """Raises a UserError if the parts are not those of one model."""
    vae, unet = configs["vae"], configs["unet"]
    encoders = {name: configs[name] for name in ("text_encoder", "text_encoder_2") if name in configs}
    pairs = [("vae latent_channels", vae.latent_channels, "unet in_channels", unet.in_channels)]
    for (name, text), tokenizer in zip(encoders.items(), tokenizers.values(), strict=True):
        if tokenizer.vocab_size > text.vocab_size:
            raise UserError(f"{origin}: the tokenizer has {tokenizer.vocab_size} tokens, the {name} {text.vocab_size}")
        window = (f"{name} max_position_embeddings", text.max_position_embeddings)
        pairs.append((*window, "tokenizer length", tokenizer.max_length))
    widths = [text.hidden_size for text in encoders.values()]
    label = " + ".join(f"{name} hidden_size" for name in encoders)
    pairs.insert(0, (label, sum(widths), "unet cross_attention_dim", unet.cross_attention_dim))
    for left, a, right, b in pairs:
        if a != b:
            raise UserError(f"{origin} is not a text-to-image Stable Diffusion: its {left} is {a}, but its {right} {b}")
    if ("text_encoder_2" in encoders) != (unet.addition_embed_type == "text_time"):
        raise UserError(
            f"{origin} is neither Stable Diffusion 1.x or 2.x nor SDXL: its unet's addition_embed_type is "
            f"{unet.addition_embed_type!r}, and it has {len(encoders)} text encoder(s)"
        )


def check_controlnet(folder: Path, config: ControlNetConfig, networks: Networks, model: str) -> None:
    """Raises a UserError if a ControlNet does not fit the model of this name."""
    unet, vae = networks.unet_config, networks.vae_config
    pairs = {
        "downsampling of its control map": (config.downsampling, vae.downsampling),
        "cross_attention_dim": (config.cross_attention_dim, unet.cross_attention_dim),
        "in_channels": (config.in_channels, unet.in_channels),
        "block_out_channels": (config.block_out_channels, unet.block_out_channels),
        "layers_per_block": (config.layers, unet.layers),
        "down_block_types": (config.down_block_types, unet.down_block_types),
        "addition_embed_type": (config.addition_embed_type, unet.addition_embed_type),
    }
    for name, (given, needed) in pairs.items():
        if given != needed:
            raise UserError(
                f"the ControlNet {folder} is for another family of models than {model}: {name} is {given}, not {needed}"
            )
