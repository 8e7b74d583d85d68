"""Folders as diffusers writes them, with what few models have: read as diffusers reads them."""

import shutil
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from flax.traverse_util import flatten_dict
from safetensors.torch import load_file
from tiny_model import write_text_encoder

from dreamstyler_jax.encoding import encode
from dreamstyler_jax.runtime.errors import UserError
from dreamstyler_jax.stable_diffusion.pipeline import StableDiffusion


@pytest.fixture
def folder(tiny_folder, tmp_path):
    return Path(shutil.copytree(tiny_folder, tmp_path / "model"))


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


def test_pickled_parts_are_read_if_the_user_allows_it(folder, tiny):
    """As in the repositories from before safetensors: ``.bin`` alone, here in half precision."""
    for name, stem in {"unet": "diffusion_pytorch_model", "text_encoder": "pytorch_model"}.items():
        (weights,) = (folder / name).glob("*.safetensors")
        torch.save({key: tensor.half() for key, tensor in load_file(weights).items()}, folder / name / f"{stem}.bin")
        weights.unlink()
    with pytest.raises(UserError, match=r"text_encoder has only pytorch_model\.bin, a pickle, .* add --allow_pickle"):
        StableDiffusion.load(str(folder))
    model = StableDiffusion.load(str(folder), allow_pickle=True)
    for name in ("unet", "text_encoder", "vae"):
        ours, theirs = (m.params[name] for m in (model, tiny))
        for path, array in flat(theirs).items():
            rounded = array if name == "vae" else array.astype(np.float16).astype(np.float32)
            np.testing.assert_array_equal(flat(ours)[path], rounded, err_msg=str(path))
    pickled = folder / "unet" / "diffusion_pytorch_model.bin"
    torch.save({"weights": load_file(folder / "vae/diffusion_pytorch_model.safetensors"), "code": print}, pickled)
    with pytest.raises(UserError, match=r"model\.bin holds more than plain tensors, or is damaged"):
        StableDiffusion.load(str(folder), allow_pickle=True)
    pickled.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:6c05\nsize 492265168\n")
    with pytest.raises(UserError, match="git lfs pull"):
        StableDiffusion.load(str(folder), allow_pickle=True)


PROMPTS = ("a painting of a red house by the sea", "blurry", "")


@pytest.mark.parametrize("clip_skip", [0, 1, 2])
def test_clip_skip_counts_as_in_diffusers(folder, clip_skip):
    """diffusers skips layers for the prompt alone; here also for the negative one, as programs with a Clip skip do."""
    write_text_encoder(folder, layers=3)
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(folder)
    # Where diffusers looks for the final layer norm, which transformers 5 has elsewhere.
    object.__setattr__(pipe.text_encoder, "text_model", pipe.text_encoder)
    expected, _ = pipe.encode_prompt(list(PROMPTS), "cpu", 1, False, clip_skip=clip_skip or None)
    states = encode(StableDiffusion.load(str(folder), clip_skip=clip_skip), PROMPTS, {}).states[:, 0]
    assert np.linalg.norm(states - expected.numpy()) < 1e-5 * np.linalg.norm(expected)


@pytest.mark.parametrize("clip_skip", [0, 1])
def test_clip_skip_of_sdxl(sdxl_folder, clip_skip):
    """The pooled text is that of all layers."""
    pipe = diffusers.StableDiffusionXLPipeline.from_pretrained(sdxl_folder)
    states, _, pooled, _ = pipe.encode_prompt(list(PROMPTS[:2]), do_classifier_free_guidance=False, clip_skip=clip_skip)
    ours = encode(StableDiffusion.load(str(sdxl_folder), clip_skip=clip_skip), PROMPTS[:2], {})
    assert np.linalg.norm(ours.states[:, 0] - states.numpy()) < 1e-5 * np.linalg.norm(states)
    assert np.linalg.norm(ours.pooled[:, 0] - pooled.numpy()) < 1e-5 * np.linalg.norm(pooled)


def flat(params):
    return {path: np.asarray(array) for path, array in flatten_dict(params).items()}
