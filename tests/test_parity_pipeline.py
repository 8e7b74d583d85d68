"""diffusers loads what we save, and paints from the same noise the same picture."""

import diffusers
import numpy as np
import torch
import transformers
from parity_tools import to_numpy, to_torch

from dreamstyler_jax import guidance, prompts, sampling
from dreamstyler_jax.solvers import solver_table

STEPS, SCALE, SEED, SIZE = 10, 5.0, 7, (16, 24)
PROMPT, NEGATIVE = "a red house by the sea", "blurry"


def test_text_to_image_is_diffusers(tiny, tiny_folder):
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(tiny_folder)
    assert isinstance(pipe.text_encoder, transformers.CLIPTextModel)
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = diffusers.DPMSolverMultistepScheduler.from_config(pipe.scheduler.config)
    noise = sampling.initial_noise(np.array([SEED], np.uint32), tiny.networks.latent_shape(*SIZE))
    latents = pipe(
        PROMPT, negative_prompt=NEGATIVE, height=SIZE[0], width=SIZE[1], num_inference_steps=STEPS,
        guidance_scale=SCALE, latents=to_torch(noise), output_type="latent",
    ).images  # fmt: skip
    with torch.no_grad():
        expected = to_numpy(pipe.vae.decode(latents / pipe.vae.config.scaling_factor).sample)[0]

    table = solver_table("dpmpp_2m", tiny.networks.schedule, STEPS)
    bank = prompts.encode(tiny, [NEGATIVE, PROMPT], {})
    request = sampling.Request((0, 1, 0, 0), guidance.cfg(SCALE), SEED)
    (picture,) = sampling.paint(tiny, table, bank, [request], size=SIZE, batch_size=1)
    assert picture.shape == expected.shape == (*SIZE, 3)
    assert expected.std() > 0.05
    assert np.abs(picture - expected).max() <= 1e-3
