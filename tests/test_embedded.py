"""The weights that the package carries: they load, follow words, and learn a style."""

import jax
import numpy as np
import pytest
from compilations import optimised
from PIL import Image

from dreamstyler_jax import api, inversion
from dreamstyler_jax.encoding import initial_tables
from dreamstyler_jax.evaluation.clip import Clip
from dreamstyler_jax.guidance import cfg_guidance
from dreamstyler_jax.mini.judge import LoadedJudge
from dreamstyler_jax.mini.shipped import EXAMPLE_PICTURE, EXAMPLE_STYLE
from dreamstyler_jax.mini.studies import check, compare
from dreamstyler_jax.mini.world import captions, data, scenes
from dreamstyler_jax.runtime import contact_sheets, images
from dreamstyler_jax.stable_diffusion.pipeline import EMBEDDED_MODEL, StableDiffusion
from dreamstyler_jax.style import Style


@pytest.fixture(scope="module")
def model():
    return StableDiffusion.load("mini")


@pytest.fixture(scope="module")
def same_painter():
    """Other pictures by the held-out painter of the example, which were in no training set."""
    painter = int(images.read_text(EXAMPLE_PICTURE)["painter"])
    numbers = np.full(16, painter)
    scene = scenes.sample(jax.random.key(99), (16,))
    return data.render(jax.random.key(5), data.by_number(numbers), scene)


def held_out_losses(model, pictures, *tables) -> list[float]:
    """The denoising loss of each table on pictures with their own prompts; noise and timesteps are fixed."""
    prompts = [[captions.full_prompt(*row[:4])] for row in pictures.labels]
    dataset = inversion.make_dataset(model, list(images.to_unit(pictures.pixels)), prompts, 1, flip=False)
    loss = jax.jit(lambda tables, batch: inversion.sample_losses(model.networks, model.params, tables, batch).mean())
    batches = [inversion.draw_batch(dataset, jax.random.key(i), 16) for i in range(4)]
    return [float(np.mean([loss(dict(table), batch) for batch in batches])) for table in tables]


def test_the_weights_are_small_enough_to_ship():
    assert sum(file.stat().st_size for file in EMBEDDED_MODEL.rglob("*.safetensors")) <= 40e6


def test_the_example_style_fits_its_painter_better_than_the_word_that_it_started_from(model, same_painter):
    tables = Style.load(EXAMPLE_STYLE).tables, initial_tables(model, ["painting"] * 6, 1)
    learned, before = held_out_losses(model, same_painter, *tables)
    assert learned < before - 0.002


def test_colour_words_colour_the_picture(model):
    prompts = [f"A painting of a {colour} house in a field by day" for colour in ("red", "blue")]
    pictures = api.paint(model, prompts, seeds=range(4), guidance=cfg_guidance(5), steps=12, progress=False)
    middle = np.stack([picture.pixels for picture in pictures])[:, 40:88, 40:88]
    red_minus_blue = middle[..., 0].mean((1, 2)) - middle[..., 2].mean((1, 2))
    assert red_minus_blue[:4].mean() > red_minus_blue[4:].mean() + 0.2


def test_clip_and_the_judge_recognise_the_painters_own_pictures():
    with optimised():
        pictures = data.unseen(100, seed=1)
    pixels = images.to_unit(pictures.pixels)
    clip, judge = Clip.load(EMBEDDED_MODEL / "clip"), LoadedJudge.load(EMBEDDED_MODEL / "judge")
    by_clip = check.recognised_by_clip(clip, pixels, pictures.labels)
    assert min(by_clip["colour"], by_clip["place"], by_clip["time"]) > 0.8 and by_clip["subject"] > 0.35
    by_judge = check.recognised_by_judge(judge, pixels, pictures.labels)
    assert min(by_judge["subject"], by_judge["colour"], by_judge["place"], by_judge["time"]) > 0.9
    assert by_judge["painter"] > 0.7 and by_judge["painter, top 5"] > 0.9


def test_the_example_picture_has_the_size_of_the_models_pictures(model):
    assert images.load(EXAMPLE_PICTURE).size == (model.resolution, model.resolution)


def test_the_comparison_of_the_demo_is_drawn(tmp_path, monkeypatch):
    """Prompts without a style and with it, beside the painter's own pictures, each twice as large."""
    assert compare.scene_labels().shape == (len(compare.SCENES), 4)
    monkeypatch.setattr(compare, "SCENES", compare.SCENES[:2])
    monkeypatch.setattr(compare, "STEPS", 4)
    config = compare.CompareConfig(styles=[str(EXAMPLE_STYLE)], output=str(tmp_path / "compare.png"))
    compare.run(config)
    sheet = images.load(tmp_path / "compare.png")
    labels = [f"A painting of {captions.describe(*map(int, label))}" for label in compare.scene_labels()]
    four_columns = contact_sheets.contact_sheet([[Image.new("RGB", (128, 128))] * 4] * 2, labels, tile_size=256)
    assert sheet.width == four_columns.width and sheet.height > 2 * 256
    assert np.asarray(sheet).std() > 30
