"""Variants of guidance against diffusers' guiders, and a picture with rescaled guidance against its pipeline."""

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers import guiders
from diffusers.guiders.adaptive_projected_guidance import MomentumBuffer
from parity_tools import relative_error, to_torch

from dreamstyler_jax import guidance, sampling
from dreamstyler_jax.guidance_variants import NUMBERS
from dreamstyler_jax.painting import Request, paint_requests
from dreamstyler_jax.solvers import solver_table

TOLERANCE = 1e-5
SHAPE, STEPS, SCALE = (2, 8, 8, 4), 3, 6.0
_random = np.random.default_rng(0)
COEFFICIENTS = np.float32([(1.1, -0.4, 0, 0, 0, 0), (1.5, -1.1, 0, 0, 0, 0), (4.0, -3.9, 0, 0, 0, 0)])
X, COMMON = _random.standard_normal((2, STEPS, *SHAPE)).astype(np.float32)
NULL, FULL = COMMON + 0.3 * _random.standard_normal((2, STEPS, *SHAPE)).astype(np.float32)


def trajectory(**numbers):
    """The guided predictions of all steps, as the sampler computes them: [N, *SHAPE]."""
    variants = {name: np.full(2, numbers.get(name, number.default), np.float32) for name, number in NUMBERS.items()}
    weights = np.stack([guidance.cfg(SCALE)[:2]] * 2, 1)
    guide = guidance.guided(lambda x, t, row: row, weights, 1, variants)

    def step(average, row):
        x, predictions, coefficients = row
        prediction, average = guide(x, jnp.int32(0), predictions, guidance.StepInputs(coefficients), average)
        return average, prediction

    return jax.lax.scan(step, jnp.zeros(SHAPE), (X, np.stack([NULL, FULL], 1), COEFFICIENTS))[1]


def guided_by(guider, null=NULL, full=FULL):
    """The same by a guider of diffusers."""
    outputs = []
    for step in range(STEPS):
        guider.set_state(step, STEPS, None)
        outputs.append(guider.forward(to_torch(full[step]), to_torch(null[step])).pred)
    return outputs


def assert_same(ours, expected):
    for one, other in zip(ours, expected, strict=True):
        assert relative_error(one, other) <= TOLERANCE


@pytest.mark.parametrize("rescale", [0.0, 0.7, 1.0])
def test_rescaled_guidance_is_diffusers(rescale):
    guider = guiders.ClassifierFreeGuidance(guidance_scale=SCALE, guidance_rescale=rescale)
    assert_same(trajectory(guidance_rescale=rescale), guided_by(guider))


@pytest.mark.parametrize("rescale", [0.0, 0.7])
def test_zero_star_is_diffusers(rescale):
    """Without its first steps of zero, see `guidance_variants.zero_star`."""
    guider = guiders.ClassifierFreeZeroStarGuidance(SCALE, zero_init_steps=0, guidance_rescale=rescale)
    assert_same(trajectory(cfg_zero_star=1.0, guidance_rescale=rescale), guided_by(guider))


@pytest.mark.parametrize(("eta", "norm_threshold", "momentum"), [(0.0, 2.0, -0.5), (0.3, 0.0, 0.7), (1.0, 1.0, 0.0)])
def test_projected_guidance_is_diffusers_on_x0_predictions(eta, norm_threshold, momentum):
    """As in the paper's Algorithm 1: added to the full prompt's prediction, with one less than the scale."""
    guider = guiders.AdaptiveProjectedGuidance(
        SCALE - 1,
        adaptive_projected_guidance_rescale=norm_threshold,
        eta=eta,
        use_original_formulation=True,
    )
    guider.momentum_buffer = MomentumBuffer(momentum) if momentum else None

    def x0(predictions):
        a, b = COEFFICIENTS.T[:2, :, None, None, None, None]
        return a * X + b * predictions

    ours = trajectory(apg_eta=eta, apg_norm_threshold=norm_threshold, apg_momentum=momentum)
    assert_same(x0(np.asarray(ours)), guided_by(guider, x0(NULL), x0(FULL)))


def test_a_picture_with_rescaled_guidance_is_the_pipelines(tiny, tiny_folder):
    prompt, size, seed = "a red house by the sea", (16, 16), 7
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(tiny_folder)
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = diffusers.DPMSolverMultistepScheduler.from_config(pipe.scheduler.config)
    noise = sampling.initial_noise(np.array([seed], np.uint32), tiny.networks.latent_shape(*size))
    with torch.no_grad(), jax.default_matmul_precision("highest"):
        latents = pipe(
            prompt, negative_prompt="blurry", height=16, width=16, num_inference_steps=6, guidance_scale=SCALE,
            guidance_rescale=0.7, latents=to_torch(noise), output_type="latent",
        ).images  # fmt: skip
        expected = pipe.vae.decode(latents / pipe.vae.config.scaling_factor).sample
        plan = sampling.plan_steps(solver_table("dpmpp_2m", tiny.networks.schedule, 6))
        rescaled = guidance.cfg_guidance(SCALE, guidance_rescale=0.7)
        request = Request(("blurry", prompt), rescaled.weights, seed, variants=rescaled.variants)
        (picture,) = paint_requests(tiny, [request], {}, plan, size=size, batch_size=1)
    assert relative_error(picture[None], expected) <= TOLERANCE
