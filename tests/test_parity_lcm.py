"""Models distilled as LCM, which take the scale of guidance as an input: diffusers' UNet and pipeline."""

import sys
from typing import Any

import diffusers
import jax
import numpy as np
import pytest
import torch
from parity_tools import randomised, relative_error, to_torch

from dreamstyler_jax import guidance, sampling
from dreamstyler_jax.encoding import encode
from dreamstyler_jax.grids.axes import Axes, make_cells
from dreamstyler_jax.guidance import cfg_guidance, paper_guidance
from dreamstyler_jax.painting import Request, paint_requests
from dreamstyler_jax.runtime.errors import UserError
from dreamstyler_jax.solvers import solver_table
from dreamstyler_jax.stable_diffusion.pipeline import StableDiffusion
from dreamstyler_jax.train_settings import TrainSettings
from dreamstyler_jax.training import prepare

TOLERANCE = 1e-5
SIZE, SEED = (16, 16), 5
PROMPT = "a red house by the sea"


@pytest.fixture(autouse=True)
def full_precision():
    with jax.default_matmul_precision("highest"), torch.no_grad():
        yield


@pytest.fixture(scope="module")
def pipe(tiny_folder):
    """The tiny model with a random UNet of LCM."""
    plain = diffusers.StableDiffusionPipeline.from_pretrained(tiny_folder, safety_checker=None)
    torch.manual_seed(1)
    unet = diffusers.UNet2DConditionModel.from_config({**plain.unet.config, "time_cond_proj_dim": 256})
    pipe = diffusers.LatentConsistencyModelPipeline(
        plain.vae, plain.text_encoder, plain.tokenizer, randomised(unet),
        diffusers.LCMScheduler.from_config(plain.scheduler.config), None, None, requires_safety_checker=False,
    )  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def lcm(pipe, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "lcm"
    pipe.save_pretrained(folder)
    return StableDiffusion.load(folder)


def test_the_scale_of_guidance_is_an_input_of_the_unet(lcm, pipe):
    latents = np.random.default_rng(0).standard_normal((2, *lcm.networks.latent_shape(*SIZE)), np.float32)
    timesteps, scales = np.array([19, 801]), np.array([8.5, 1.0], np.float32)
    conditioning = encode(lcm, [PROMPT, "a small dog"], {}).at(0)
    embedded = pipe.get_guidance_scale_embedding(torch.from_numpy(scales - 1), embedding_dim=256)
    expected = pipe.unet(
        to_torch(latents),
        torch.from_numpy(timesteps),
        torch.from_numpy(np.array(conditioning.states)),
        timestep_cond=embedded,
    ).sample
    ours = jax.jit(lcm.networks.denoise)(
        lcm.params, latents, timesteps, conditioning, guidance_scale=jax.numpy.asarray(scales)
    )
    assert relative_error(ours, expected) <= TOLERANCE


def test_a_picture_in_four_steps(lcm, pipe, monkeypatch):
    """With the same initial and fresh noise; a negative prompt and the second row of guidance are not needed."""
    shape, seeds = lcm.networks.latent_shape(*SIZE), np.array([SEED], np.uint32)
    draws = (to_torch(sampling.fresh_noise(seeds, step, shape)) for step in range(4))
    monkeypatch.setattr(sys.modules[diffusers.LCMScheduler.__module__], "randn_tensor", lambda *_, **__: next(draws))
    latents = pipe(
        PROMPT, height=SIZE[0], width=SIZE[1], num_inference_steps=4, guidance_scale=8.0,
        latents=to_torch(sampling.initial_noise(seeds, shape)), output_type="latent",
    ).images  # fmt: skip
    expected = pipe.vae.decode(latents / pipe.vae.config.scaling_factor).sample
    plan = sampling.plan_steps(solver_table("lcm", lcm.networks.schedule, 4))

    def paint(scale: float) -> np.ndarray:
        requests = [Request(("the sea", PROMPT, "", ""), guidance.cfg(scale), SEED)]
        (picture,) = paint_requests(lcm, requests, {}, plan, size=SIZE, batch_size=1)
        return picture

    assert relative_error(paint(8.0)[None], expected) <= TOLERANCE
    assert np.abs(paint(2.0) - paint(8.0)).max() > 1e-3


def test_what_such_a_model_cannot_do_is_refused(lcm):
    axes: Any = dict(prompts={"": ["a dog"]}, styles=[], solvers=["lcm"], steps=[4])
    assert len(make_cells(Axes(**axes, guidance=[cfg_guidance(8.0)]), lcm, {}, SIZE)) == 1
    with pytest.raises(UserError, match=r"guidance: a model distilled as LCM .* --guidance cfg alone"):
        make_cells(Axes(**axes, guidance=[paper_guidance(5.0, 1.0, 3.0)]), lcm, {}, SIZE)
    with pytest.raises(UserError, match=r"is distilled as LCM, .*: learn the style with the model that it was"):
        prepare(lcm, "style", {}, [], TrainSettings())
