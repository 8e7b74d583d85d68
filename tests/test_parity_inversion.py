"""Ten steps of inversion are those of a PyTorch loop over diffusers' and transformers' models."""

import dataclasses

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
import transformers
from diffusers.training_utils import compute_snr
from parity_tools import to_torch

from dreamstyler_jax import inversion
from dreamstyler_jax.stable_diffusion.schedule import NoiseSchedule
from dreamstyler_jax.timestep_sampling import min_snr_weights
from dreamstyler_jax.train_settings import TrainSettings
from dreamstyler_jax.training import make_optimizer

STEPS, STAGES, VECTORS, BATCH = 10, 6, 2, 4
LEARNING_RATE, WEIGHT_DECAY = 2e-3, 1e-2
PROMPTS = [["a red house in the style of {}"], ["a small dog by {}"]]


@pytest.fixture(scope="module")
def batches(tiny):
    pictures = np.random.default_rng(0).uniform(-1, 1, (2, 16, 16, 3)).astype(np.float32)
    dataset = inversion.make_dataset(tiny, pictures, PROMPTS, VECTORS, flip=True)
    draw = jax.jit(inversion.draw_batch, static_argnums=2)
    return [draw(dataset, key, BATCH) for key in jax.random.split(jax.random.key(0), STEPS)]


@pytest.fixture(scope="module")
def start():
    return np.random.default_rng(1).normal(0, 0.02, (STAGES, VECTORS, 16)).astype(np.float32)


def ours(tiny, prediction_type, batches, table):
    """Losses and table."""
    schedule = dataclasses.replace(tiny.networks.schedule, prediction_type=prediction_type)
    networks = dataclasses.replace(tiny.networks, schedule=schedule)
    optimizer = make_optimizer(TrainSettings(learning_rate=LEARNING_RATE, steps=STEPS, weight_decay=WEIGHT_DECAY))

    @jax.jit
    def step(params, tables, state, batch):
        grads, metrics = inversion.gradient(networks, params, tables, batch)
        updates, state = optimizer.update(grads, state, tables)
        return optax.apply_updates(tables, updates), state, metrics.loss

    tables, losses = {"clip_l": jnp.asarray(table)}, []
    state = optimizer.init(tables)
    with jax.default_matmul_precision("highest"):
        for batch in batches:
            tables, state, loss = step(tiny.params, tables, state, batch)
            losses.append(float(loss))
    return np.array(losses), np.asarray(tables["clip_l"])


def reference(folder, prediction_type, batches, table):
    """The same in PyTorch: vectors spliced sample by sample into the output of the token embedding."""
    text = transformers.CLIPTextModel.from_pretrained(folder / "text_encoder").eval()
    unet = diffusers.UNet2DConditionModel.from_pretrained(folder / "unet").eval()
    scheduler = diffusers.DDPMScheduler.from_pretrained(folder / "scheduler", prediction_type=prediction_type)
    table = torch.nn.Parameter(torch.from_numpy(table.copy()))
    optimizer = torch.optim.AdamW([table], lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    losses = []
    for batch in batches:
        ids, slots, t = (torch.from_numpy(np.array(a)).long() for a in (*batch.tokens["clip_l"][:2], batch.timesteps))

        def splice(module, inputs, output, slots=slots, t=t):
            rows = []
            for sample, places, timestep in zip(output, slots, t.tolist(), strict=True):
                vectors = table[int(timestep / 1000 * STAGES)]
                words = [vectors[slot] if slot >= 0 else word for word, slot in zip(sample, places, strict=True)]
                rows.append(torch.stack(words))
            return torch.stack(rows)

        hook = text.get_input_embeddings().register_forward_hook(splice)
        states = text(ids).last_hidden_state
        hook.remove()
        latents, noise = to_torch(batch.latents), to_torch(batch.noise)
        target = noise if prediction_type == "epsilon" else scheduler.get_velocity(latents, noise, t)
        prediction = unet(scheduler.add_noise(latents, noise, t), t, states).sample
        loss = torch.nn.functional.mse_loss(prediction, target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return np.array(losses), table.detach().numpy()


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_ten_steps_are_pytorchs(tiny, tiny_folder, batches, start, prediction_type):
    losses, table = ours(tiny, prediction_type, batches, start)
    expected_losses, expected = reference(tiny_folder, prediction_type, batches, start)
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-5)
    assert np.linalg.norm(table - expected) <= 1e-4 * np.linalg.norm(expected)
    moved, expected_move = table - start, expected - start
    assert np.linalg.norm(moved - expected_move) <= 1e-3 * np.linalg.norm(expected_move)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_min_snr_weights_are_those_of_diffusers_training_example(prediction_type):
    """Its ``--snr_gamma 5``: of the noise's loss min(SNR, 5) / SNR, of the velocity's min(SNR, 5) / (SNR + 1)."""
    schedule = NoiseSchedule(prediction_type=prediction_type)
    snr = compute_snr(diffusers.DDPMScheduler.from_config(schedule.to_config()), torch.arange(1000)).double()
    expected = snr.clamp(max=5) / (snr if prediction_type == "epsilon" else snr + 1)
    np.testing.assert_allclose(min_snr_weights(schedule), expected, rtol=1e-4)
