"""Text states for each cross-attention layer act as in diffusers' UNet whose k-th layer is given its own."""

import diffusers
import jax
import numpy as np
import pytest
import torch
from parity_tools import loaded, randomised, relative_error, to_torch

from dreamstyler_jax.stable_diffusion.controlnet import ControlNetModel
from dreamstyler_jax.stable_diffusion.unet import UNet2DConditionModel

TOLERANCE = 1e-5
LAYERS = 7  # transformers: two on the way down, one in the middle, four on the way up; those below have two layers
ENCODER = dict(
    block_out_channels=(32, 48), cross_attention_dim=24, norm_num_groups=8, layers_per_block=1, attention_head_dim=4,
    down_block_types=("CrossAttnDownBlock2D",) * 2, transformer_layers_per_block=[1, 2],
    addition_embed_type="text", addition_embed_type_num_heads=3,
)  # fmt: skip


@pytest.fixture(autouse=True)
def full_precision():
    with jax.default_matmul_precision("highest"), torch.no_grad():
        yield


def with_own_states(model, states):
    """Gives every attention to the text the states of its transformer, in the order in which they are called."""
    met = []

    def hook(name):
        def give(module, arguments, keywords):
            if name not in met:
                met.append(name)
            return arguments, {**keywords, "encoder_hidden_states": states[met.index(name)]}

        return give

    for name, module in model.named_modules():
        if name.endswith("attn2"):
            module.register_forward_pre_hook(hook(name.split(".transformer_blocks")[0]), with_kwargs=True)
    return met


def test_each_layer_sees_its_own_text(tmp_path):
    """With a ControlNet; the embedding of the timestep sees the mean of the states."""
    torch.manual_seed(0)
    unet = randomised(diffusers.UNet2DConditionModel(**ENCODER, up_block_types=("CrossAttnUpBlock2D",) * 2))
    control = randomised(diffusers.ControlNetModel(**ENCODER))
    for name, parameter in control.named_parameters():  # layers that are initialised with zeros
        if "controlnet_down" in name or "controlnet_mid" in name or "embedding.conv_out" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    ours, controlnet = (
        loaded(UNet2DConditionModel, unet, tmp_path / "u"),
        loaded(ControlNetModel, control, tmp_path / "c"),
    )
    rng = np.random.default_rng(0)
    sample, states = rng.standard_normal((2, 8, 6, 4), np.float32), rng.standard_normal((LAYERS, 2, 5, 24), np.float32)
    image, timesteps = rng.random((2, 64, 48, 3), np.float32), np.array([7, 981])
    of_unet, of_control = (with_own_states(model, torch.from_numpy(states)) for model in (unet, control))
    inputs = to_torch(sample), torch.from_numpy(timesteps), torch.from_numpy(states.mean(0))
    down, middle = control(*inputs, to_torch(image), return_dict=False)
    expected = unet(*inputs, down_block_additional_residuals=down, mid_block_additional_residual=middle).sample
    assert len(of_unet) == LAYERS == ours.config.cross_attentions and of_control == of_unet[: len(of_control)]

    @jax.jit
    def predict(unet, controlnet, states):
        residuals = controlnet(sample, timesteps, states, controlnet.hint(image))
        return unet(sample, timesteps, states, residuals)

    assert relative_error(predict(ours, controlnet, tuple(states)), expected) < TOLERANCE
    assert relative_error(predict(ours, controlnet, tuple(states[::-1])), expected) > 100 * TOLERANCE
