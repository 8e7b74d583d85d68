"""diffusers loads what we save, and paints from the same noise, or the same picture, the same picture."""

import diffusers
import numpy as np
import pytest
import torch
import transformers
from parity_tools import to_numpy, to_torch
from tiny_model import WIDTH

from dreamstyler_jax import guidance, sampling, transfer
from dreamstyler_jax.encoding import encode
from dreamstyler_jax.painting import Request, paint_requests
from dreamstyler_jax.solvers import solver_table

STEPS, SCALE, SEED, SIZE = 10, 5.0, 7, (16, 24)
PROMPT, NEGATIVE = "a red house by the sea", "blurry"
TEXTS = (NEGATIVE, PROMPT, "", "")


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

    plan = sampling.plan_steps(solver_table("dpmpp_2m", tiny.networks.schedule, STEPS))
    request = Request(TEXTS, guidance.cfg(SCALE), SEED)
    (picture,) = paint_requests(tiny, [request], {}, plan, size=SIZE, batch_size=1)
    assert picture.shape == expected.shape == (*SIZE, 3)
    assert expected.std() > 0.05
    assert np.abs(picture - expected).max() <= 1e-3


CONTROL = dict(
    block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4, attention_head_dim=2, cross_attention_dim=WIDTH,
    down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), addition_embed_type="text",
    addition_embed_type_num_heads=2, conditioning_embedding_out_channels=(8, 8),
)  # fmt: skip


@pytest.fixture(scope="module")
def controlnets(tmp_path_factory):
    """Two folders that diffusers writes."""
    folders = [tmp_path_factory.mktemp("controlnet") for _ in range(2)]
    for seed, folder in enumerate(folders):
        torch.manual_seed(seed)
        model = diffusers.ControlNetModel(**CONTROL)
        for name, parameter in model.named_parameters():  # those that start as zero
            if "controlnet_down" in name or "controlnet_mid" in name or "embedding.conv_out" in name:
                torch.nn.init.normal_(parameter, std=0.3)
        model.save_pretrained(folder)
    return folders


@pytest.mark.parametrize(
    ("scheduler", "solver", "sigmas"),
    [
        (diffusers.UniPCMultistepScheduler, "unipc", "normal"),
        (diffusers.DPMSolverMultistepScheduler, "dpmpp_2m", "normal"),
        (diffusers.DDIMScheduler, "ddim", "normal"),
        (diffusers.EulerDiscreteScheduler, "euler", "karras"),
    ],
)
def test_image_to_image_with_controlnets_is_diffusers(
    tiny, tiny_folder, controlnets, scheduler, solver, sigmas, monkeypatch
):
    """30 steps, strength 0.8, control 0.8; two nets, of which the second holds from 20 to 70 % of the steps.

    With Karras' spacing the networks see timesteps between those of the training.
    """
    nets = [diffusers.ControlNetModel.from_pretrained(folder) for folder in controlnets]
    pipe = diffusers.StableDiffusionControlNetImg2ImgPipeline.from_pretrained(
        tiny_folder, controlnet=nets, image_processor=None
    )
    pipe.set_progress_bar_config(disable=True)
    spacing = {"timestep_spacing": "leading"} if solver == "euler" else {}
    pipe.scheduler = scheduler.from_config(pipe.scheduler.config, use_karras_sigmas=sigmas == "karras", **spacing)
    rng = np.random.default_rng(0)
    latents = rng.standard_normal((1, *tiny.networks.latent_shape(*SIZE)), np.float32)
    maps = [rng.random((1, *SIZE, 3), np.float32) for _ in nets]
    noise = sampling.initial_noise(np.array([SEED], np.uint32), latents.shape[1:])

    def same_latents(image, timestep, *_):
        return pipe.scheduler.add_noise(to_torch(latents), to_torch(noise), timestep)

    monkeypatch.setattr(pipe, "prepare_latents", same_latents)
    painted = pipe(
        PROMPT, negative_prompt=NEGATIVE, image=torch.zeros(1, 3, *SIZE), control_image=[to_torch(m) for m in maps],
        height=SIZE[0], width=SIZE[1], num_inference_steps=30, strength=0.8, guidance_scale=SCALE,
        controlnet_conditioning_scale=[0.8, 0.5], control_guidance_start=[0.0, 0.2], control_guidance_end=[1.0, 0.7],
        output_type="latent",
    ).images  # fmt: skip
    with torch.no_grad():
        expected = to_numpy(pipe.vae.decode(painted / pipe.vae.config.scaling_factor).sample)[0]

    model = tiny.with_controlnets([str(folder) for folder in controlnets])
    table = solver_table(
        solver,
        tiny.networks.schedule,
        30,
        strength=0.8,
        spacing=spacing.get("timestep_spacing", "auto"),
        sigmas=sigmas,
    )
    assert (table.timesteps.dtype == np.float32) == (sigmas == "karras")
    scales = transfer.control_scales([0.8, 0.5], [(0.0, 1.0), (0.2, 0.7)], len(table.timesteps))
    batch = sampling.Batch(
        conditioning=encode(model, [NEGATIVE, PROMPT], {}).take(np.array([[0], [1]])),
        weights=guidance.cfg(SCALE)[:2, None],
        seeds=np.array([SEED], np.uint32),
        content=sampling.ContentBatch(latents, tuple(maps), np.stack([scales, scales], 1)[None]),
    )
    (picture,) = sampling.sample_batch(
        model.networks, model.params, sampling.plan_steps(table), batch, size=SIZE, full_row=1
    )
    assert picture.shape == expected.shape == (*SIZE, 3)
    assert expected.std() > 0.05
    assert np.abs(picture - expected).max() <= 1e-3
