"""The sizes of the networks to pretrain; `SIZES` are those of the embedded model."""

import dataclasses
from typing import Any

from dreamstyler_jax.mini.judge import JudgeConfig
from dreamstyler_jax.mini.world.data import CHUNK_SIZE
from dreamstyler_jax.mini.world.painters import SIZE
from dreamstyler_jax.stable_diffusion.clip import CLIPConfig, CLIPTextConfig, CLIPVisionConfig
from dreamstyler_jax.stable_diffusion.controlnet import ControlNetConfig
from dreamstyler_jax.stable_diffusion.tokenizer import Tokenizer
from dreamstyler_jax.stable_diffusion.unet import UNet2DConditionConfig
from dreamstyler_jax.stable_diffusion.vae import AutoencoderKLConfig


@dataclasses.dataclass(frozen=True)
class Sizes:
    """The networks to pretrain, and the units in which the work is done.

    Attributes:
        autoencoder, clip, judge, unet: the networks' configs; `clip_for` fills in CLIP's vocabulary.
        control_channels: widths of the control map's encoder in the ControlNet.
        pictures_per_file: rendered pictures in a file.
        steps_per_call: optimizer steps in one compiled call.
    """

    autoencoder: AutoencoderKLConfig
    clip: CLIPConfig
    judge: JudgeConfig
    unet: UNet2DConditionConfig
    control_channels: tuple[int, ...] = (16, 32, 64, 64)
    pictures_per_file: int = CHUNK_SIZE
    steps_per_call: int = 10

    def clip_for(self, tokenizer: Tokenizer) -> CLIPConfig:
        """CLIP with the vocabulary of ``tokenizer``."""
        text = dataclasses.replace(
            self.clip.text_config,
            vocab_size=tokenizer.vocab_size,
            bos_token_id=tokenizer.bos_id,
            eos_token_id=tokenizer.eos_id,
            pad_token_id=tokenizer.pad_id,
        )
        return dataclasses.replace(self.clip, text_config=text)

    @property
    def controlnet(self) -> ControlNetConfig:
        """A ControlNet for the UNet, with the sizes of its encoder."""
        names = {field.name for field in dataclasses.fields(ControlNetConfig)}
        encoder = {name: value for name, value in dataclasses.asdict(self.unet).items() if name in names}
        return ControlNetConfig(**encoder, conditioning_embedding_out_channels=self.control_channels)


_ENCODER: dict[str, Any] = dict(  # of CLIP's two encoders
    hidden_size=128, intermediate_size=512, projection_dim=128, num_hidden_layers=3, num_attention_heads=4
)
SIZES = Sizes(
    autoencoder=AutoencoderKLConfig(  # from 128 x 128 pixels to latents of 16 x 16 x 16
        block_out_channels=(16, 32, 64, 64),
        layers_per_block=1,
        latent_channels=16,
        norm_num_groups=8,
        sample_size=SIZE,
    ),
    clip=CLIPConfig(
        CLIPTextConfig(**_ENCODER), CLIPVisionConfig(**_ENCODER, image_size=SIZE, patch_size=16), projection_dim=128
    ),
    judge=JudgeConfig(),
    unet=UNet2DConditionConfig(  # the lower two levels with attention; the pooled prompt joins the time embedding
        sample_size=16,
        in_channels=16,
        out_channels=16,
        block_out_channels=(64, 96, 192),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        attention_head_dim=4,
        cross_attention_dim=128,
        use_linear_projection=True,
        addition_embed_type="text",
        addition_embed_type_num_heads=4,
    ),
)
