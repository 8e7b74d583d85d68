"""The settings of the UNet, as its ``config.json`` holds them."""

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Self, TypeVar

from dreamstyler_jax.runtime.documents import Few, Range, Side, Size
from dreamstyler_jax.runtime.errors import UserError, shortened
from dreamstyler_jax.stable_diffusion.layers import Epsilon, Levels, ModelConfig

T = TypeVar("T")
Depths = Few | tuple[Few, ...]  # of the transformers of a level: the same for all, or one for each
Layers = Annotated[int, Range(1, 8)]  # ResNet blocks of a level
_PER_LEVEL = (
    "down_block_types", "up_block_types", "layers_per_block", "attention_head_dim", "num_attention_heads",
    "transformer_layers_per_block", "reverse_transformer_layers_per_block",
)  # fmt: skip
# Versions of diffusers before this one wrote the sample_size 32 for models of 64 x 64 latents.
_SIZES_ARE_RIGHT = (0, 9)
_OLD_SAMPLE_SIZE = 64


@dataclasses.dataclass(frozen=True)
class UNetEncoderConfig(ModelConfig):
    """Settings of the down and middle blocks, named as in ``config.json``, with the defaults of that format.

    ``attention_head_dim`` is, by a historic mistake of that format, the *number* of heads (one for all levels, or one
    per level), unless ``num_attention_heads`` gives it. ``upcast_attention`` is kept but has no influence: attention
    logits are always float32 in this package. ``addition_embed_type = "text"`` adds a pooled summary of the text states
    to the time embedding, ``"text_time"`` (SDXL) the pooled text and sizes, see `unet_blocks.AddedConditions`.
    Distilled models have no middle block (``mid_block_type = None``) or one without attention, or an own number of
    transformer layers after each ResNet block: an entry of ``transformer_layers_per_block`` is then a list.

    Raises:
        UserError: a setting per level or layer has the wrong number of entries, or the channels cannot be divided into
            groups or heads.
    """

    in_channels: Size = 4
    flip_sin_to_cos: bool = True
    freq_shift: Annotated[int, Range(0, 1)] = 0
    down_block_types: tuple[str, ...] = (
        "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"
    )  # fmt: skip
    mid_block_type: str | None = "UNetMidBlock2DCrossAttn"
    block_out_channels: Levels = (320, 640, 1280, 1280)
    layers_per_block: Layers | tuple[Layers, ...] = 2
    norm_num_groups: Size = 32
    norm_eps: Epsilon = 1e-5
    cross_attention_dim: Size = 1280
    transformer_layers_per_block: Few | tuple[Depths, ...] = 1
    attention_head_dim: Size | tuple[Size, ...] = 8
    num_attention_heads: Size | tuple[Size, ...] | None = None
    use_linear_projection: bool = False
    upcast_attention: bool = False
    addition_embed_type: str | None = None
    addition_embed_type_num_heads: Size = 64
    addition_time_embed_dim: Size | None = None
    projection_class_embeddings_input_dim: Size | None = None

    supported: ClassVar = {
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "mid_block_type": ("UNetMidBlock2DCrossAttn", "UNetMidBlock2D", None),
        "addition_embed_type": (None, "text", "text_time"),
        "act_fn": ("silu", "swish"),
        "only_cross_attention": (False,),
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
        for name in _PER_LEVEL:
            value = getattr(self, name, None)
            if isinstance(value, tuple) and len(value) != levels:
                raise UserError(f"config.json: {name} has {len(value)} entries for the {levels} of block_out_channels")
        for features, heads in zip(self.block_out_channels, self.heads, strict=True):
            if features % self.norm_num_groups or features % heads:
                raise UserError(
                    f"config.json: {features} channels are not divisible by norm_num_groups = {self.norm_num_groups} "
                    f"and {heads} attention heads"
                )
        if self.addition_embed_type == "text" and self.cross_attention_dim % self.addition_embed_type_num_heads:
            raise UserError(
                f"config.json: cross_attention_dim = {self.cross_attention_dim} cannot be divided into "
                f"addition_embed_type_num_heads = {self.addition_embed_type_num_heads}"
            )
        depths = self._per_level(self.transformer_layers_per_block)
        _check_depths("transformer_layers_per_block", depths, self.down_block_types, self.layers)
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
        return self._per_level(self.num_attention_heads or self.attention_head_dim)

    @property
    def layers(self) -> tuple[int, ...]:
        """Number of ResNet blocks per level on the way down, from the highest resolution to the lowest."""
        return self._per_level(self.layers_per_block)

    @property
    def down_depths(self) -> tuple[tuple[int, ...], ...]:
        """Layers of each transformer on the way down, per level from the highest resolution to the lowest."""
        depths = self._per_level(self.transformer_layers_per_block)
        return tuple(map(_by_layer, depths, self.layers, self.down_block_types))

    @property
    def mid_depth(self) -> int:
        """Layers of the middle block's transformer; 0 if it has none."""
        lowest = self._per_level(self.transformer_layers_per_block)[-1]
        depth = lowest if isinstance(lowest, int) else lowest[0]
        return depth if self.mid_block_type == "UNetMidBlock2DCrossAttn" else 0

    @property
    def encoder_transformers(self) -> int:
        """Number of transformers in the down and middle blocks."""
        return sum(map(len, self.down_depths)) + bool(self.mid_depth)

    def _per_level(self, value: int | tuple[T, ...]) -> tuple[int | T, ...]:
        return (value,) * len(self.block_out_channels) if isinstance(value, int) else value


def _check_depths(name: str, levels: Sequence[Depths], kinds: Sequence[str], counts: Sequence[int]) -> None:
    """Raises a UserError if the depths of a setting are not those of levels of these kinds and so many layers."""
    for depths, kind, layers in zip(levels, kinds, counts, strict=True):
        numbers = depths if isinstance(depths, tuple) else (depths,) * layers
        fits = len(numbers) == layers if kind.startswith("CrossAttn") else len(numbers) > 0
        if not fits:
            raise UserError(
                f"config.json: {name} has {shortened(repr(depths))} for a level of {layers} layers: it should be a "
                "number, or one for each layer"
            )


def _by_layer(depths: Depths, layers: int, kind: str) -> tuple[int, ...]:
    """The depth of each transformer of a level of so many layers; none in a level without attention."""
    if not kind.startswith("CrossAttn"):
        return ()
    return (depths,) * layers if isinstance(depths, int) else depths


@dataclasses.dataclass(frozen=True)
class UNet2DConditionConfig(UNetEncoderConfig):
    """Settings of the whole UNet.

    ``sample_size`` is the side of the latents, or their height and width; some models do not say.
    ``time_cond_proj_dim`` is the width of the embedded scale of guidance, which models distilled as LCM take (Luo et
    al. 2023, section 4.2).
    """

    sample_size: Side | tuple[Side, ...] | None = None
    time_cond_proj_dim: Size | None = None
    out_channels: Size = 4
    up_block_types: tuple[str, ...] = (
        "UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"
    )  # fmt: skip
    reverse_transformer_layers_per_block: tuple[Depths, ...] | None = None

    supported: ClassVar = {
        **UNetEncoderConfig.supported,
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "center_input_sample": (False,),
        "mid_block_only_cross_attention": (None, False),
        "dual_cross_attention": (False,),
        "cross_attention_norm": (None,),
        "attention_type": ("default",),
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

    def __post_init__(self):
        super().__post_init__()
        up = self.reverse_transformer_layers_per_block
        if up is not None:
            _check_depths("reverse_transformer_layers_per_block", up, self.up_block_types, self.layers_up)
        elif any(isinstance(depths, tuple) for depths in self._per_level(self.transformer_layers_per_block)):
            raise UserError(
                "config.json: transformer_layers_per_block has a number for each layer, so it needs "
                "reverse_transformer_layers_per_block for the way up"
            )

    @property
    def layers_up(self) -> tuple[int, ...]:
        """Number of ResNet blocks per level on the way up, from the lowest resolution to the highest."""
        return tuple(layers + 1 for layers in self.layers[::-1])

    @property
    def up_depths(self) -> tuple[tuple[int, ...], ...]:
        """Layers of each transformer on the way up, per level from the lowest resolution to the highest."""
        reverse = self.reverse_transformer_layers_per_block
        depths = self._per_level(self.transformer_layers_per_block)[::-1] if reverse is None else reverse
        return tuple(map(_by_layer, depths, self.layers_up, self.up_block_types))

    @property
    def cross_attentions(self) -> int:
        """K, the number of transformers, each of which reads the text: 16 in Stable Diffusion 1.x and 2.x, 11 in SDXL.

        The layers of one transformer (up to 10 in SDXL) count as one.
        """
        return self.encoder_transformers + sum(map(len, self.up_depths))

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Self:
        """Reads the settings; as in diffusers, a ``sample_size`` that its early versions wrote too small is mended."""
        config = super().from_dict(raw)
        version = re.match(r"(\d+)\.(\d+)", str(raw.get("_diffusers_version", "")))
        is_old = version is not None and tuple(map(int, version.groups())) < _SIZES_ARE_RIGHT
        if is_old and isinstance(config.sample_size, int) and config.sample_size < _OLD_SAMPLE_SIZE:
            return dataclasses.replace(config, sample_size=_OLD_SAMPLE_SIZE)
        return config

    @property
    def latent_side(self) -> int:
        """The side of square latents with about as many positions as those that the model was trained on."""
        match self.sample_size:
            case None:
                return 128 if self.addition_embed_type == "text_time" else 64
            case int(side):
                return side
            case sides:
                return round(math.prod(sides) ** 0.5)

    @property
    def guidance_features(self) -> int | None:
        """Width of the embedded scale of guidance, for models that take it."""
        return self.time_cond_proj_dim
