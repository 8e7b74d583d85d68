"""The UNets of distilled SDXLs in their true sizes have the tensors of diffusers' modules."""

import diffusers
import pytest
import torch

from dreamstyler_jax.stable_diffusion.unet import UNet2DConditionConfig, UNet2DConditionModel
from dreamstyler_jax.stable_diffusion.weights import read_model

XL = dict(
    sample_size=128, block_out_channels=[320, 640, 1280], attention_head_dim=[5, 10, 20], use_linear_projection=True,
    down_block_types=["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    up_block_types=["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"], cross_attention_dim=2048,
    addition_embed_type="text_time", addition_time_embed_dim=256, projection_class_embeddings_input_dim=2816,
    mid_block_type="UNetMidBlock2D",
)  # fmt: skip
# Their depths, and how many million parameters are in their down, middle and up blocks (Segmind publishes Vega's).
PUBLISHED = {
    "SSD-1B": ([[1], [2, 2], [4, 4]], [[4, 4, 10], [2, 1, 1], 1], (406, 31, 887)),
    "Vega": ([[1], [1, 1], [2, 2]], [[2, 2, 2], [1, 1, 1], 1], (247, 31, 460)),
}


class AllFit(Exception):
    """All names and shapes are right, so that the first tensor would be read."""


class WithoutNumbers:
    """A source of tensors that knows their shapes alone."""

    def __init__(self, model):
        self.shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}

    def names(self):
        return self.shapes.keys()

    def shape(self, name):
        return self.shapes[name]

    def tensor(self, name):
        raise AllFit


@pytest.mark.parametrize("name", PUBLISHED)
def test_true_sizes(name):
    down, up, millions = PUBLISHED[name]
    settings = {**XL, "transformer_layers_per_block": down, "reverse_transformer_layers_per_block": up}
    with torch.device("meta"):
        reference = diffusers.UNet2DConditionModel(**settings)
    blocks = reference.down_blocks, reference.mid_block, reference.up_blocks
    assert tuple(round(sum(p.numel() for p in block.parameters()) / 1e6) for block in blocks) == millions
    config = UNet2DConditionConfig.from_dict({"_class_name": "UNet2DConditionModel", **settings})
    with pytest.raises(AllFit):
        read_model(UNet2DConditionModel, config, WithoutNumbers(reference), dtype="float32", origin=name)
