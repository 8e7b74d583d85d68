"""The settings of the UNet, as its ``config.json`` holds them."""

import dataclasses
from typing import ClassVar

from dreamstyler_jax.runtime.errors import UserError
from dreamstyler_jax.stable_diffusion.layers import ModelConfig


@dataclasses.dataclass(frozen=True)
class UNetEncoderConfig(ModelConfig):
    """Settings of the down and middle blocks, named as in ``config.json``, with the defaults of that format.

    ``attention_head_dim`` is, by a historic mistake of that format, the *number* of heads (one for all levels, or one
    per level). ``upcast_attention`` is kept but has no influence: attention logits are always float32 in this package.
    ``addition_embed_type = "text"`` adds a pooled summary of the text states to the time embedding, ``"text_time"``
    (SDXL) the pooled text and sizes, see `unet_blocks.AddedConditions`. Distilled models have no middle block:
    ``mid_block_type = None``.

    Raises:
        UserError: a setting per level has the wrong number of entries, or the channels cannot be divided into groups
            or heads.
    """

    in_channels: int = 4
    flip_sin_to_cos: bool = True
    freq_shift: int = 0
    down_block_types: tuple[str, ...] = (
        "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"
    )  # fmt: skip
    mid_block_type: str | None = "UNetMidBlock2DCrossAttn"
    block_out_channels: tuple[int, ...] = (320, 640, 1280, 1280)
    layers_per_block: int = 2
    norm_num_groups: int = 32
    norm_eps: float = 1e-5
    cross_attention_dim: int = 1280
    transformer_layers_per_block: int | tuple[int, ...] = 1
    attention_head_dim: int | tuple[int, ...] = 8
    use_linear_projection: bool = False
    upcast_attention: bool = False
    addition_embed_type: str | None = None
    addition_embed_type_num_heads: int = 64
    addition_time_embed_dim: int | None = None
    projection_class_embeddings_input_dim: int | None = None

    supported: ClassVar = {
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "mid_block_type": ("UNetMidBlock2DCrossAttn", None),
        "addition_embed_type": (None, "text", "text_time"),
        "act_fn": ("silu", "swish"),
        "only_cross_attention": (False,),
        "num_attention_heads": (None,),
        "encoder_hid_dim": (None,),
        "encoder_hid_dim_type": (None,),
        "class_embed_type": (None,),
        "num_class_embeds": (None,),
        "downsample_padding": (1,),
        "mid_block_scale_factor": (1,),
        "resnet_time_scale_shift": ("default",),
    }

    meaningful_null: ClassVar = ("norm_num_groups",)

    def __post_init__(self):
        levels = len(self.block_out_channels)
        for name in ("down_block_types", "up_block_types", "attention_head_dim", "transformer_layers_per_block"):
            value = getattr(self, name, None)
            if isinstance(value, tuple) and len(value) != levels:
                raise UserError(f"config.json: {name} has {len(value)} entries for the {levels} of block_out_channels")
        for features, heads in zip(self.block_out_channels, self.heads, strict=True):
            if features % self.norm_num_groups or features % heads:
                raise UserError(
                    f"config.json: {features} channels are not divisible by norm_num_groups = {self.norm_num_groups} "
                    f"and attention_head_dim = {heads}"
                )
        widths = (self.addition_time_embed_dim, self.projection_class_embeddings_input_dim)
        if self.addition_embed_type == "text_time" and None in widths:
            raise UserError(
                "config.json: addition_embed_type = 'text_time' needs addition_time_embed_dim and "
                "projection_class_embeddings_input_dim"
            )

    @property
    def time_embedding_features(self) -> int:
        """Width of the time embedding."""
        return 4 * self.block_out_channels[0]

    @property
    def guidance_features(self) -> int | None:
        """Width of the embedded scale of guidance, for models that take it."""
        return None

    @property
    def heads(self) -> tuple[int, ...]:
        """Number of attention heads per level, from the highest resolution to the lowest."""
        return self._per_level(self.attention_head_dim)

    @property
    def transformer_layers(self) -> tuple[int, ...]:
        """Number of layers of each transformer per level, from the highest resolution to the lowest."""
        return self._per_level(self.transformer_layers_per_block)

    def _per_level(self, value: int | tuple[int, ...]) -> tuple[int, ...]:
        return (value,) * len(self.block_out_channels) if isinstance(value, int) else value


@dataclasses.dataclass(frozen=True)
class UNet2DConditionConfig(UNetEncoderConfig):
    """Settings of the whole UNet.

    ``time_cond_proj_dim`` is the width of the embedded scale of guidance, which models distilled as LCM take (Luo et
    al. 2023, section 4.2).
    """

    sample_size: int | tuple[int, ...] | None = None
    time_cond_proj_dim: int | None = None
    out_channels: int = 4
    up_block_types: tuple[str, ...] = (
        "UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"
    )  # fmt: skip

    supported: ClassVar = {
        **UNetEncoderConfig.supported,
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "center_input_sample": (False,),
        "mid_block_only_cross_attention": (None, False),
        "dual_cross_attention": (False,),
        "cross_attention_norm": (None,),
        "attention_type": ("default",),
        "reverse_transformer_layers_per_block": (None,),
        "class_embeddings_concat": (False,),
        "conv_in_kernel": (3,),
        "conv_out_kernel": (3,),
        "resnet_out_scale_factor": (1,),
        "resnet_skip_time_act": (False,),
        "time_embedding_act_fn": (None,),
        "time_embedding_dim": (None,),
        "time_embedding_type": ("positional",),
        "timestep_post_act": (None,),
    }
    identity: ClassVar = {"_class_name": "UNet2DConditionModel"}

    @property
    def guidance_features(self) -> int | None:
        """Width of the embedded scale of guidance, for models that take it."""
        return self.time_cond_proj_dim
