"""Settings as real repositories have them, which few models need: each means what it means in diffusers."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from dreamstyler_jax import guidance, sampling
from dreamstyler_jax.painting import Request, paint_requests
from dreamstyler_jax.runtime.errors import UserError
from dreamstyler_jax.solvers import solver_table
from dreamstyler_jax.stable_diffusion.controlnet import ControlNetConfig
from dreamstyler_jax.stable_diffusion.pipeline import StableDiffusion
from dreamstyler_jax.stable_diffusion.unet import UNet2DConditionConfig
from dreamstyler_jax.stable_diffusion.vae import AutoencoderKLConfig


@pytest.fixture
def folder(tiny_folder, tmp_path):
    return Path(shutil.copytree(tiny_folder, tmp_path / "model"))


def edit_json(file, **changes):
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


@pytest.mark.parametrize(
    ("settings", "side"),
    [
        ({"sample_size": 96, "_diffusers_version": "0.10.0.dev0"}, 96),
        ({"sample_size": [64, 64]}, 64),
        ({"sample_size": [48, 108]}, 72),
        ({"sample_size": None}, 64),
        ({}, 64),
        ({"sample_size": 32, "_diffusers_version": "0.2.2"}, 64),  # the first release of 1.4
        ({"sample_size": 32, "_diffusers_version": "0.8.0.dev0"}, 64),
        ({"sample_size": 32, "_diffusers_version": "0.9.0"}, 32),
        ({"sample_size": 32}, 32),
        ({"sample_size": 96, "_diffusers_version": "0.6.0"}, 96),
        (dict(addition_embed_type="text_time", addition_time_embed_dim=256,
              projection_class_embeddings_input_dim=2816), 128),
    ],
)  # fmt: skip
def test_the_size_of_latents(settings, side):
    assert UNet2DConditionConfig.from_dict(settings).latent_side == side


def test_layers_and_heads_are_numbers_for_each_level_or_for_all():
    unet = UNet2DConditionConfig.from_dict({"layers_per_block": [1, 2, 2, 3], "attention_head_dim": [5, 10, 20, 20]})
    assert (unet.layers, unet.heads) == ((1, 2, 2, 3), (5, 10, 20, 20))
    assert UNet2DConditionConfig.from_dict({"layers_per_block": 2}).layers == (2, 2, 2, 2)
    controlnet = ControlNetConfig.from_dict({"attention_head_dim": 64, "num_attention_heads": [5, 10, 20, 20]})
    assert controlnet.heads == (5, 10, 20, 20)


def test_a_shift_of_zero_is_none():
    assert AutoencoderKLConfig.from_dict({"shift_factor": 0.0}) == AutoencoderKLConfig()
    with pytest.raises(UserError, match=r"shift_factor = 0\.1159"):  # another family's
        AutoencoderKLConfig.from_dict({"shift_factor": 0.1159})


def test_an_old_model_paints_64_latents(folder):
    edit_json(folder / "unet" / "config.json", sample_size=32, _diffusers_version="0.2.2")
    edit_json(folder / "vae" / "config.json", sample_size=None)
    assert StableDiffusion.load(str(folder)).size(None, None) == (128, 128)


def test_attention_as_convolutions(folder, tiny):
    """An autoencoder whose attention was stored as 1 x 1 convolutions, by its old names."""
    file = folder / "vae" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    for name in [name for name in tensors if ".attentions.0.to_" in name and name.endswith("weight")]:
        tensors[name.replace("to_out.0", "proj_attn")] = tensors.pop(name)[:, :, None, None]
    save_file(tensors, file)
    model = StableDiffusion.load(str(folder))
    for part in ("encoder", "decoder"):
        ours, other = (m.params["vae"][part]["mid_block"]["attentions"][0] for m in (model, tiny))
        np.testing.assert_array_equal(ours["to_q"]["kernel"], other["to_q"]["kernel"])
        np.testing.assert_array_equal(ours["to_out"][0]["kernel"], other["to_out"][0]["kernel"])


def test_sides_need_only_be_multiples_of_the_pixels_of_a_latent(tiny):
    """Latents of 9 x 5, which are halved to 5 x 3 and doubled again."""
    size = tiny.size(18, 10)
    plan = sampling.plan_steps(solver_table("ddim", tiny.networks.schedule, 2))
    request = Request(("", "a red house", "", ""), guidance.cfg(2.0), 0)
    (picture,) = paint_requests(tiny, [request], {}, plan, size=size, batch_size=1)
    assert picture.shape == (18, 10, 3) and np.isfinite(picture).all()


def test_numbers_of_8_bits_are_refused_in_a_line(folder):
    """As in files that were quantised for less memory."""
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    header = {"conv_in.bias": {"dtype": "F8_E4M3", "shape": [8], "data_offsets": [0, 8]}}
    text = json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + bytes(8))
    with pytest.raises(UserError, match=r"model\.safetensors has 8-bit numbers, .*; give a 16-bit version"):
        StableDiffusion.load(str(folder))
