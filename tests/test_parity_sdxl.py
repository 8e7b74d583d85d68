"""SDXL: diffusers loads what we save, and its text states, networks, pictures, gradients and training are ours."""

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
import transformers
from parity_tools import relative_error, to_torch
from safetensors.torch import load_file
from tiny_sdxl import POOLED, WIDTH_2, write_sdxl_controlnet

from dreamstyler_jax import guidance, inversion, sampling
from dreamstyler_jax.encoding import encode
from dreamstyler_jax.painting import Request, paint_requests
from dreamstyler_jax.solvers import solver_table
from dreamstyler_jax.stable_diffusion.conditioning import Conditioning
from dreamstyler_jax.stable_diffusion.networks import Control
from dreamstyler_jax.style import Style
from dreamstyler_jax.train_settings import TrainSettings
from dreamstyler_jax.training import make_optimizer

TOLERANCE = 1e-5
SIZE = (16, 24)
STEPS, LEARNING_RATE, WEIGHT_DECAY = 10, 2e-3, 1e-2
PROMPT, NEGATIVE = "a red house! by the sea", "a small dog"


@pytest.fixture(autouse=True)
def full_precision():
    with jax.default_matmul_precision("highest"), torch.no_grad():
        yield


@pytest.fixture(scope="module")
def pipe(sdxl_folder):
    pipe = diffusers.StableDiffusionXLPipeline.from_pretrained(sdxl_folder)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def inputs(sdxl):
    """Latents, timesteps, conditioning."""
    rng = np.random.default_rng(0)
    width = sdxl.networks.unet_config.cross_attention_dim
    states, pooled = rng.standard_normal((2, 24, width), np.float32), rng.standard_normal((2, POOLED), np.float32)
    latents = rng.standard_normal((2, *sdxl.networks.latent_shape(*SIZE)), np.float32)
    return latents, np.array([17, 801]), Conditioning(jnp.asarray(states), jnp.asarray(pooled))


def added(conditioning):
    """diffusers' added conditions."""
    time_ids = torch.tensor([[*SIZE, 0, 0, *SIZE]] * len(conditioning.states), dtype=torch.float32)
    return {"text_embeds": torch.from_numpy(np.array(conditioning.pooled)), "time_ids": time_ids}


def test_prompts(sdxl, pipe):
    """An empty negative prompt is zeros where none is given; a "!" is padding to the second tokenizer alone."""
    assert isinstance(pipe.text_encoder_2, transformers.CLIPTextModelWithProjection)
    ours = encode(sdxl, [PROMPT, "", NEGATIVE], {})
    states, empty, pooled, empty_pooled = pipe.encode_prompt(PROMPT)
    for row, expected in enumerate((states, empty, pipe.encode_prompt(NEGATIVE)[0])):
        assert np.linalg.norm(ours.states[row, 0] - expected[0].numpy()) <= TOLERANCE * np.linalg.norm(states)
    for row, expected in enumerate((pooled, empty_pooled, pipe.encode_prompt(NEGATIVE)[2])):
        assert np.linalg.norm(ours.pooled[row, 0] - expected[0].numpy()) <= TOLERANCE * np.linalg.norm(pooled)


def test_unet_and_autoencoder(sdxl, pipe, inputs):
    latents, timesteps, conditioning = inputs
    states = torch.from_numpy(np.array(conditioning.states))
    expected = pipe.unet(
        to_torch(latents), torch.from_numpy(timesteps), states, added_cond_kwargs=added(conditioning)
    ).sample
    ours = jax.jit(sdxl.networks.denoise)(sdxl.params, latents, timesteps, conditioning)
    assert relative_error(ours, expected) <= TOLERANCE
    decoded = pipe.vae.decode(to_torch(latents) / pipe.vae.config.scaling_factor).sample
    assert relative_error(jax.jit(sdxl.networks.decode_latents)(sdxl.params, latents), decoded) <= TOLERANCE


def test_controlnet(sdxl, pipe, inputs, tmp_path):
    latents, timesteps, conditioning = inputs
    write_sdxl_controlnet(tmp_path)
    reference = diffusers.ControlNetModel.from_pretrained(tmp_path)
    control = np.random.default_rng(1).random((2, *SIZE, 3), np.float32)
    states = torch.from_numpy(np.array(conditioning.states))
    down, middle = reference(
        to_torch(latents), torch.from_numpy(timesteps), states, to_torch(control), 0.7,
        added_cond_kwargs=added(conditioning), return_dict=False,
    )  # fmt: skip
    expected = pipe.unet(
        to_torch(latents), torch.from_numpy(timesteps), states, added_cond_kwargs=added(conditioning),
        down_block_additional_residuals=down, mid_block_additional_residual=middle,
    ).sample  # fmt: skip
    model = sdxl.with_controlnets([tmp_path])
    hints = model.networks.encode_control_maps(model.params, [control])
    scales = jnp.full((2, 1), 0.7)
    ours = jax.jit(model.networks.denoise)(model.params, latents, timesteps, conditioning, Control(hints, scales))
    assert relative_error(ours, expected) <= TOLERANCE


@pytest.mark.parametrize(
    ("scheduler", "solver"),
    [
        (diffusers.DDIMScheduler, "ddim"),
        (diffusers.EulerDiscreteScheduler, "euler"),
        (diffusers.DPMSolverMultistepScheduler, "dpmpp_2m"),
        (diffusers.UniPCMultistepScheduler, "unipc"),
    ],
)
def test_pictures_of_every_solver(sdxl, pipe, scheduler, solver):
    pipe.scheduler = scheduler.from_config(pipe.scheduler.config)
    noise = sampling.initial_noise(np.array([7], np.uint32), sdxl.networks.latent_shape(*SIZE))
    latents = pipe(
        PROMPT, height=SIZE[0], width=SIZE[1], num_inference_steps=10, guidance_scale=5.0, latents=to_torch(noise),
        output_type="latent",
    ).images  # fmt: skip
    expected = pipe.vae.decode(latents / pipe.vae.config.scaling_factor).sample
    plan = sampling.plan_steps(solver_table(solver, sdxl.networks.schedule, 10))
    request = Request(("", PROMPT, "", ""), guidance.cfg(5.0), 7)
    (picture,) = paint_requests(sdxl, [request], {}, plan, size=SIZE, batch_size=1)
    assert relative_error(picture[None], expected) <= TOLERANCE


def test_other_sizes_than_the_pictures_own(sdxl, pipe):
    """``original_size`` and ``crops_coords_top_left``, for all rows of guidance."""
    pipe.scheduler = diffusers.DPMSolverMultistepScheduler.from_config(pipe.scheduler.config)
    noise = sampling.initial_noise(np.array([7], np.uint32), sdxl.networks.latent_shape(*SIZE))
    told: dict = dict(original_size=(40, 32), crops_coords_top_left=(4, 8))
    plain, expected = (
        pipe(
            PROMPT, height=SIZE[0], width=SIZE[1], num_inference_steps=2, guidance_scale=5.0, latents=to_torch(noise),
            output_type="latent", **sizes,
        ).images
        for sizes in ({}, told)
    )  # fmt: skip
    assert (plain - expected).abs().max() > 0.01
    expected = pipe.vae.decode(expected / pipe.vae.config.scaling_factor).sample
    plan = sampling.plan_steps(solver_table("dpmpp_2m", sdxl.networks.schedule, 2))
    request = Request(("", PROMPT, "", ""), guidance.cfg(5.0), 7)
    model = sdxl.with_size_conditions((40, 32), (4, 8))
    (picture,) = paint_requests(model, [request], {}, plan, size=SIZE, batch_size=1)
    assert relative_error(picture[None], expected) <= TOLERANCE


def test_exported_styles_are_diffusers_textual_inversions(sdxl, sdxl_folder, tmp_path):
    """Both kinds of files give the same embeddings, and the same prompt the same conditioning.

    With the legacy end token of SDXL's config, transformers reads the pooled state at the largest id. This is the end
    of the text only while no token is added to the vocabulary, so the reference gets the right end token here.
    """
    rng = np.random.default_rng(2)
    widths = sdxl.networks.text_widths
    style = Style("gogh", {name: rng.normal(0, 0.5, (1, 2, width)) for name, width in widths.items()})
    ours = encode(sdxl, ["a red house in the style of {gogh}"], {"gogh": style})
    pair = map(load_file, style.export(tmp_path / "a.safetensors", "diffusers"))
    by_encoder = dict(zip(widths, pair, strict=True))
    (one_file,) = style.export(tmp_path / "b.safetensors", "a1111")
    for files in (by_encoder, load_file(one_file)):
        pipe = diffusers.StableDiffusionXLPipeline.from_pretrained(sdxl_folder)
        for name, encoder, tokenizer in (
            ("clip_l", pipe.text_encoder, pipe.tokenizer),
            ("clip_g", pipe.text_encoder_2, pipe.tokenizer_2),
        ):
            pipe.load_textual_inversion(files[name], token="<gogh>", text_encoder=encoder, tokenizer=tokenizer)
            rows = encoder.get_input_embeddings().weight[tokenizer.convert_tokens_to_ids(["<gogh>", "<gogh>_1"])]
            np.testing.assert_array_equal(rows.numpy(), style.tables[name][0])
        pipe.text_encoder_2.text_model.eos_token_id = pipe.tokenizer.eos_token_id
        states, _, pooled, _ = pipe.encode_prompt("a red house in the style of <gogh>")
        assert relative_error(ours.states[0], states) <= TOLERANCE
        assert relative_error(ours.pooled[0], pooled) <= TOLERANCE


def test_gradients_of_both_tables(sdxl, pipe):
    """Of the training loss, by PyTorch with the vectors spliced into the output of both token embeddings."""
    picture = np.random.default_rng(0).uniform(-1, 1, (*SIZE, 3)).astype(np.float32)
    dataset = inversion.make_dataset(sdxl, [picture], [["a red house in the style of {}"]], 2, flip=True)
    batch = inversion.draw_batch(dataset, jax.random.key(0), 4)
    rng = np.random.default_rng(1)
    tables = {
        name: rng.normal(0, 0.5, (6, 2, width)).astype(np.float32) for name, width in sdxl.networks.text_widths.items()
    }
    assert sdxl.networks.text_widths["clip_g"] == WIDTH_2
    grads, metrics = jax.jit(inversion.gradient, static_argnums=0)(sdxl.networks, sdxl.params, tables, batch)
    with torch.enable_grad():
        learned = {name: torch.nn.Parameter(torch.from_numpy(table)) for name, table in tables.items()}
        loss = torch_loss(pipe, batch, learned)
        loss.backward()
    assert abs(float(metrics.loss) - loss.item()) <= TOLERANCE * loss.item()
    for name, parameter in learned.items():
        assert parameter.grad.abs().max() > 0
        assert relative_error(grads[name], parameter.grad) <= TOLERANCE


def test_a_style_of_ten_steps_is_pytorchs(sdxl, pipe):
    """Both tables, learned together by AdamW from the same pictures, timesteps and noise."""
    pictures = np.random.default_rng(2).uniform(-1, 1, (2, *SIZE, 3)).astype(np.float32)
    prompts = [["a red house in the style of {}"], ["a small dog by {}"]]
    dataset = inversion.make_dataset(sdxl, list(pictures), prompts, 2, flip=True)
    rng = np.random.default_rng(3)
    begin = {
        name: rng.normal(0, 0.5, (6, 2, width)).astype(np.float32) for name, width in sdxl.networks.text_widths.items()
    }
    optimizer = make_optimizer(TrainSettings(learning_rate=LEARNING_RATE, steps=STEPS, weight_decay=WEIGHT_DECAY))
    gradient, update = jax.jit(inversion.gradient, static_argnums=0), jax.jit(optimizer.update)
    draw = jax.jit(inversion.draw_batch, static_argnums=2)
    batches = [draw(dataset, key, 4) for key in jax.random.split(jax.random.key(0), STEPS)]
    losses, tables, state = [], jax.tree.map(jnp.asarray, begin), optimizer.init(begin)
    for batch in batches:
        grads, metrics = gradient(sdxl.networks, sdxl.params, tables, batch)
        updates, state = update(grads, state, tables)
        tables = optax.apply_updates(tables, updates)
        losses.append(float(metrics.loss))
    expected_losses, expected = torch_training(pipe, batches, begin)
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-5)
    for name, table in tables.items():
        assert relative_error(table, expected[name]) <= TOLERANCE
        assert relative_error(table - begin[name], expected[name] - torch.from_numpy(begin[name])) <= 1e-4


def torch_training(pipe, batches, begin):
    """Losses and tables."""
    tables = {name: torch.nn.Parameter(torch.from_numpy(table.copy())) for name, table in begin.items()}
    optimizer = torch.optim.AdamW(tables.values(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    losses = []
    for batch in batches:
        with torch.enable_grad():
            loss = torch_loss(pipe, batch, tables)
            optimizer.zero_grad()
            loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses, tables


def torch_loss(pipe, batch, tables):
    t = torch.from_numpy(np.array(batch.timesteps)).long()
    encoders = {"clip_l": pipe.text_encoder, "clip_g": pipe.text_encoder_2}
    texts = {}
    for name, encoder in encoders.items():
        ids, slots = (torch.from_numpy(np.array(a)).long() for a in batch.tokens[name][:2])
        vectors = tables[name][t * 6 // 1000]

        def splice(module, inputs, output, slots=slots, vectors=vectors):
            taken = torch.take_along_dim(vectors, slots.clamp(min=0)[..., None], 1)
            return torch.where(slots[..., None] >= 0, taken, output)

        hook = encoder.get_input_embeddings().register_forward_hook(splice)
        texts[name] = encoder(ids, output_hidden_states=True)
        hook.remove()
    states = torch.cat([text.hidden_states[-2] for text in texts.values()], -1)
    latents, noise = to_torch(batch.latents), to_torch(batch.noise)
    noisy = diffusers.DDPMScheduler.from_config(pipe.scheduler.config).add_noise(latents, noise, t)
    time_ids = torch.tensor([[*SIZE, 0, 0, *SIZE]] * len(t), dtype=torch.float32)
    added = {"text_embeds": texts["clip_g"].text_embeds, "time_ids": time_ids}
    return torch.nn.functional.mse_loss(pipe.unet(noisy, t, states, added_cond_kwargs=added).sample, noise)
