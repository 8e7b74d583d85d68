"""The families of Stable Diffusion: what the tensors of a single-file checkpoint do not tell."""

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

from dreamstyler_jax.stable_diffusion.single_files.names import Pieces, open_clip_pieces, same_pieces


@dataclasses.dataclass(frozen=True)
class TextEncoder:
    """A text encoder of a family.

    Attributes:
        prefix: comes before the names of its tensors.
        layers: how many of its layers are used.
        config: other settings that its tensors do not tell.
        pad: the token that its tokenizer pads with.
        open_clip: whether its tensors have OpenCLIP's names, and otherwise those of transformers.
    """

    prefix: str
    layers: int
    config: Mapping[str, Any]
    pad: str
    open_clip: bool = False

    def pieces(self, names: Collection[str]) -> Pieces:
        """The rule for the names of its tensors, see `names`."""
        return open_clip_pieces(names, self.layers) if self.open_clip else same_pieces(names)


@dataclasses.dataclass(frozen=True)
class Family:
    """What the tensors of a model do not tell.

    Attributes:
        name: of the family.
        text_encoders: by the name of their part.
        unet, vae, scheduler: settings in ``config.json`` and ``scheduler_config.json``.
        heads: the number of attention heads on every level of the UNet; None if a head is ``head_width`` wide.
        head_width: channels of a head.
        sample_sizes: the side of the latents by prediction type.
        tells_prediction: whether a file says if it predicts the velocity.
    """

    name: str
    text_encoders: Mapping[str, TextEncoder]
    unet: Mapping[str, Any]
    vae: Mapping[str, Any]
    scheduler: Mapping[str, Any]
    sample_sizes: Mapping[str, int]
    heads: int | None = None
    head_width: int = 64
    tells_prediction: bool = True


_VAE = {"norm_num_groups": 32, "sample_size": 512, "scaling_factor": 0.18215}
_SCHEDULER = {
    "num_train_timesteps": 1000,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "steps_offset": 1,
    "set_alpha_to_one": False,
}
_CLIP_L = {"num_attention_heads": 12, "hidden_act": "quick_gelu", "projection_dim": 768}
_END, _EXCLAMATION_MARK = "<|endoftext|>", "!"


def _open_clip(prefix: str, layers: int, *, heads: int) -> TextEncoder:
    config = {"num_attention_heads": heads, "hidden_act": "gelu"}
    return TextEncoder(prefix, layers, config, _EXCLAMATION_MARK, open_clip=True)


SD1 = Family(
    "Stable Diffusion 1.x",
    {"text_encoder": TextEncoder("cond_stage_model.transformer.", 12, _CLIP_L, _END)},
    unet={"norm_num_groups": 32},
    vae=_VAE,
    scheduler=_SCHEDULER,
    sample_sizes={"epsilon": 64, "v_prediction": 64},
    heads=8,
)
SD2 = Family(
    "Stable Diffusion 2.x",
    # Of OpenCLIP's 24 layers all but the last are used.
    {"text_encoder": _open_clip("cond_stage_model.model.", 23, heads=16)},
    unet={"norm_num_groups": 32, "upcast_attention": True},
    vae=_VAE,
    scheduler=_SCHEDULER,
    sample_sizes={"epsilon": 64, "v_prediction": 96},
    tells_prediction=False,
)
SDXL = Family(
    "Stable Diffusion XL",
    {
        "text_encoder": TextEncoder("conditioner.embedders.0.transformer.", 12, _CLIP_L, _END),
        "text_encoder_2": _open_clip("conditioner.embedders.1.model.", 32, heads=20),
    },
    unet={"norm_num_groups": 32, "addition_embed_type": "text_time", "addition_time_embed_dim": 256},
    vae={**_VAE, "sample_size": 1024, "scaling_factor": 0.13025, "force_upcast": True},
    scheduler={**_SCHEDULER, "timestep_spacing": "leading"},
    sample_sizes={"epsilon": 128, "v_prediction": 128},
)
# By the width of the text states that the UNet attends to.
FAMILIES: Mapping[int, Family] = {768: SD1, 1024: SD2, 2048: SDXL}
