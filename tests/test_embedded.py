"""The weights that the package carries: they load, obey words, and a style can be learned on them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dreamstyler_jax import guidance, inversion, prompts, sampling
from dreamstyler_jax.evaluation import scores
from dreamstyler_jax.mini import judge
from dreamstyler_jax.mini.shipped import EXAMPLE_PICTURE, EXAMPLE_STYLE
from dreamstyler_jax.mini.studies import check
from dreamstyler_jax.mini.world import captions, data, scenes
from dreamstyler_jax.runtime import images
from dreamstyler_jax.solvers import solver_table
from dreamstyler_jax.stable_diffusion.pipeline import EMBEDDED_MODEL, StableDiffusion
from dreamstyler_jax.style import Style


@pytest.fixture(scope="module")
def model():
    return StableDiffusion.load("mini")


@pytest.fixture(scope="module")
def same_painter():
    """Other pictures by the held-out painter of the example, which no training ever saw."""
    painter = int(images.read_text(EXAMPLE_PICTURE)["painter"])
    numbers = np.full(16, painter)
    scene = scenes.sample(jax.random.key(99), (16,))
    return data.render(jax.random.key(5), data.all_painters(), numbers, scene)


def held_out_loss(model, table, pictures) -> float:
    """The denoising loss on pictures with their own prompts, the noise and the timesteps fixed."""
    arrays = list(pictures.pixels.astype(np.float32) / 127.5 - 1)
    texts = [captions.full_prompt(*row[:4]) for row in pictures.labels]
    dataset = inversion.make_dataset(model, arrays, [[text] for text in texts], 1, flip=False)
    loss = jax.jit(lambda t, b: inversion.sample_losses(model.networks, model.params, t, b).mean())
    batches = [inversion.draw_batch(dataset, jax.random.key(i), 16) for i in range(4)]
    return float(np.mean([loss(jnp.asarray(table), batch) for batch in batches]))


def test_weights_are_small_enough_to_ship():
    assert sum(file.stat().st_size for file in EMBEDDED_MODEL.rglob("*.safetensors")) <= 40e6


def test_example_style_fits_its_painter_better_than_the_word_it_began_as(model, same_painter):
    learned = held_out_loss(model, Style.load(EXAMPLE_STYLE).table, same_painter)
    before = held_out_loss(model, prompts.initial_table(model, "painting", 6, 1), same_painter)
    assert learned < before - 0.002


def test_colour_words_colour_the_picture(model):
    texts = [f"A painting of a {colour} house in a field by day" for colour in ("red", "blue")]
    conditionings = prompts.encode(model, ["", *texts], {})
    requests = [sampling.Request((0, i, 0, 0), guidance.cfg(5), seed) for i in (1, 2) for seed in range(4)]
    table = solver_table("dpmpp_2m", model.networks.schedule, 12)
    painted = np.stack(list(sampling.paint(model, table, conditionings, requests, size=(64, 64), batch_size=8)))
    red_over_blue = painted[:, 20:44, 20:44, 0].mean((1, 2)) - painted[:, 20:44, 20:44, 2].mean((1, 2))
    assert red_over_blue[:4].mean() > red_over_blue[4:].mean() + 0.2


def test_clip_and_the_judge_recognise_the_painters_own_pictures():
    pictures = data.unseen(100, seed=1)
    pixels = pictures.pixels.astype(np.float32) / 127.5 - 1
    clip, referee = scores.Clip.load(EMBEDDED_MODEL / "clip"), judge.Referee.load(EMBEDDED_MODEL / "judge")
    seen = check.asked_of_clip(clip, pixels, pictures.labels)
    assert min(seen["colour"], seen["place"], seen["time"]) > 0.8 and seen["subject"] > 0.35
    judged = check.asked_of_judge(referee, pixels, pictures.labels)
    assert min(judged["subject"], judged["colour"], judged["place"], judged["time"]) > 0.9
    assert judged["painter"] > 0.7 and judged["painter, top 5"] > 0.9


def test_example_picture_has_the_models_size(model):
    assert images.load(EXAMPLE_PICTURE).size == (model.resolution, model.resolution)
