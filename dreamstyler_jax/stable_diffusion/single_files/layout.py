"""Single-file checkpoints in Stable Diffusion's original layout: which model a file holds, and its parts.

The tensors tell the family and all sizes; what they cannot tell (heads, activations, the noise schedule) is the
family's. A part comes out as the contents of its ``config.json`` and a source of tensors under the names of diffusers.
"""

import dataclasses
import re
from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Any, Self

from dreamstyler_jax.runtime.errors import UserError, listing
from dreamstyler_jax.stable_diffusion.checkpoint_files import TensorSource
from dreamstyler_jax.stable_diffusion.single_files.configs import (
    Sizes,
    cross_attention_dim,
    text_config,
    unet_config,
    vae_config,
)
from dreamstyler_jax.stable_diffusion.single_files.families import FAMILIES, Family
from dreamstyler_jax.stable_diffusion.single_files.names import RenamedSource, Rule, unet_pieces, vae_pieces

UNET_PREFIX, VAE_PREFIX = "model.diffusion_model.", "first_stage_model."
# What training and other tools leave in a file beside the model: averaged weights, tables of the noise schedule,
# training losses, constants, and layers of the text encoders that Stable Diffusion does not use.
SET_ASIDE = re.compile(
    r"model_ema\..+|(first_stage_model\.)?loss\..+|(alphas_cumprod|posterior_|sqrt_|log_one_minus_alphas_cumprod).*"
    r"|betas|logvar|lvlb_weights|scale_factor|global_step|denoiser\.sigmas|v_pred|ztsnr"
    r"|(.+\.)?(position_ids|logit_scale)"
    r"|(cond_stage_model|conditioner\.embedders\.0)\.(.+\.)?text_projection(\.weight)?"
)
# As ModelSpec, and some of the tools that write its header, call them.
_PREDICTION_TYPES = {"epsilon": "epsilon", "v": "v_prediction", "v_prediction": "v_prediction"}


@dataclasses.dataclass(frozen=True)
class OriginalModel:
    """The parts of a model in a single file.

    Attributes:
        family: what it is.
        configs: for each part that the file holds, the contents of its ``config.json``.
        sources: for each of these parts, its tensors under the names of diffusers or transformers.
        scheduler: the contents of ``scheduler_config.json``.
        own_prediction_type: what it predicts according to the file, "epsilon" if the file does not say.
    """

    family: Family
    configs: Mapping[str, Mapping[str, Any]]
    sources: Mapping[str, TensorSource]
    scheduler: Mapping[str, Any]
    own_prediction_type: str

    @classmethod
    def read(
        cls,
        source: TensorSource,
        origin: str,
        *,
        header: Mapping[str, str] = MappingProxyType({}),
        prediction_type: str | None = None,
        families: Mapping[int, Family] = FAMILIES,
    ) -> Self:
        """Finds out which model a file holds, from the names and shapes of its tensors; reads none of them.

        Args:
            source: the file's tensors.
            origin: names the file in errors.
            header: what the file says of itself.
            prediction_type: what the model predicts, if the user says so.
            families: the families by the width of the text states.

        Raises:
            UserError: it is no text-to-image Stable Diffusion, or has tensors that such a model does not have.
        """
        names = set(source.names())
        if UNET_PREFIX + "input_blocks.0.0.weight" not in names:
            raise UserError(f"{origin} {_what_else(source)}")
        unet = part_source(source, UNET_PREFIX, unet_pieces)
        family = _family(unet, origin, families)
        text_encoders = {part: (text.prefix, text.pieces) for part, text in family.text_encoders.items()}
        rules = {**text_encoders, "unet": (UNET_PREFIX, unet_pieces), "vae": (VAE_PREFIX, vae_pieces)}
        prefixes = tuple(prefix for prefix, _ in rules.values())
        if unknown := sorted(name for name in names if not name.startswith(prefixes) and not SET_ASIDE.fullmatch(name)):
            raise UserError(f"{origin} is not a plain {family.name}; unknown: {listing(unknown)}")
        sources = {part: part_source(source, *rule) for part, rule in rules.items()}
        sources = {part: tensors for part, tensors in sources.items() if tensors.names()}
        own = _own_prediction_type(names, header) or ("epsilon" if family.tells_prediction else None)
        predicts = prediction_type or own
        if not predicts:
            raise UserError(
                f"{origin} is a {family.name}, whose tensors do not tell what it predicts: add --prediction_type "
                "v_prediction (most models for 768 pixels) or epsilon (those for 512)"
            )
        scheduler = {**family.scheduler, "prediction_type": predicts}
        if "ztsnr" in names and predicts == "v_prediction":
            scheduler["rescale_betas_zero_snr"] = True
        configs = {part: _config(family, part, tensors, origin) for part, tensors in sources.items()}
        configs["unet"]["sample_size"] = family.sample_sizes[predicts]
        return cls(family, configs, sources, scheduler, own or "epsilon")


def part_source(source: TensorSource, prefix: str, rule: Rule) -> RenamedSource:
    """The tensors of one part under the names that a rule of `names` gives them."""
    names = [name for name in source.names() if name.startswith(prefix) and not SET_ASIDE.fullmatch(name)]
    return RenamedSource(source, rule([name[len(prefix) :] for name in names]), prefix)


def _own_prediction_type(names: Collection[str], header: Mapping[str, str]) -> str | None:
    """What a model predicts by an empty tensor that marks it, or by the header that trainers write (ModelSpec)."""
    if "v_pred" in names:
        return "v_prediction"
    return _PREDICTION_TYPES.get(header.get("modelspec.prediction_type", ""))


def _config(family: Family, part: str, source: TensorSource, origin: str) -> dict[str, Any]:
    """The contents of ``config.json``: what the tensors tell, and the family's settings."""
    if part == "vae":
        return {**family.vae, **vae_config(source, origin)}
    if part in family.text_encoders:
        encoder = family.text_encoders[part]
        return {**encoder.config, **text_config(source, encoder.layers, origin)}
    config = {**family.unet, **unet_config(source, origin)}
    channels = config["block_out_channels"]
    config["attention_head_dim"] = family.heads or [max(width // family.head_width, 1) for width in channels]
    if config.get("addition_embed_type") == "text_time":
        width = Sizes(source, origin).size("add_embedding.linear_1.weight", 1)
        config["projection_class_embeddings_input_dim"] = width
    return config


# Kinds of models with another first layer: what it sees beside the latents.
OTHER_INPUTS = {
    9: "is an inpainting model",
    8: "is a model that edits pictures (InstructPix2Pix)",
    7: "is an upscaler",
    5: "is a model that paints over depth maps",
}
TEXT_TO_IMAGE_ADVICE = "give the text-to-image model that it was made from"
_REFINER_WIDTH = 1280
# Other files that are taken for models: a name that only they have, what they are, what to do.
_OTHER_KINDS = (
    (
        r"lora_.+|.+[._]lora[._].+|.+\.(lora_[AB]|hada_w\d.*|lokr_w\d.*|oft_blocks)(\..+)?",
        "is a LoRA, which changes a model: give it with --loras, and the model with --model",
    ),
    (
        r"(control_model|input_hint_block|controlnet_.+)\..+",
        "is a ControlNet: convert it to diffusers' layout and give its folder with --controlnets",
    ),
    (
        r"emb_params|string_to_param.*|clip_[lg]|<.+>",
        "is an embedding (textual inversion): give it to dreamstyler sample with --styles",
    ),
    (
        r"(first_stage_model\.)?(encoder\.down(_blocks)?|decoder\.up(_blocks)?|decoder\.layers)\..+",
        "is an autoencoder (VAE): give it with --vae, and the whole model with --model",
    ),
    (
        r"down_blocks\..+",
        "is the UNet alone, in diffusers' layout: give the folder that holds model_index.json",
    ),
    (
        r"(text_model|cond_stage_model|conditioner)\..+",
        "is a text encoder alone: give the whole model",
    ),
)


def _family(unet: TensorSource, origin: str, families: Mapping[int, Family]) -> Family:
    """The family of a model, by its UNet under the names of diffusers.

    Raises:
        UserError: it is a model for something else.
    """
    sizes = Sizes(unet, origin)
    channels = sizes.size("conv_in.weight", 1)
    if channels in OTHER_INPUTS:
        raise UserError(
            f"{origin} {OTHER_INPUTS[channels]} (its UNet has {channels} input channels): {TEXT_TO_IMAGE_ADVICE}"
        )
    width = cross_attention_dim(sizes)
    if width in families:
        return families[width]
    if width == _REFINER_WIDTH:
        raise UserError(f"{origin} is the refiner of Stable Diffusion XL: give the base model")
    known = listing([f"{family.name} ({size})" for size, family in families.items()])
    raise UserError(f"{origin} attends to text states of width {width}, which no supported model does: {known}")


def _what_else(source: TensorSource) -> str:
    """What a file without a Stable Diffusion's UNet is, and what to do with it."""
    names = sorted(source.names())
    for pattern, answer in _OTHER_KINDS:
        if any(re.fullmatch(pattern, name) for name in names):
            return answer
    if len(names) == 1:
        return "holds one tensor: if it is an embedding (textual inversion), give it with --styles"
    return f"is no Stable Diffusion 1.x, 2.x or XL in the original layout: it holds {listing(names, 3) or 'nothing'}"
