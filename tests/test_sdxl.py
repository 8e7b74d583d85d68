"""SDXL from the command line: a style is two tables; every way of painting works with it."""

import json
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from script_tools import refusal, run, write_picture
from tiny_model import WIDTH, write_controlnet
from tiny_sdxl import WIDTH_2, write_sdxl_controlnet

from dreamstyler_jax.commands import sample, train
from dreamstyler_jax.commands.workloads import ModelConfigs, ProblemSize, make_workload, random_model
from dreamstyler_jax.encoding import encode
from dreamstyler_jax.runtime.errors import UserError
from dreamstyler_jax.runtime.flops import flops
from dreamstyler_jax.stable_diffusion.conditioning import Conditioning
from dreamstyler_jax.stable_diffusion.pipeline import StableDiffusion
from dreamstyler_jax.style import FILE_NAME, Style

pytestmark = pytest.mark.usefixtures("one_compilation")
PROMPT = "a painting of a {red house|small dog} in the style of {}"


@pytest.fixture(scope="module")
def run_folder(sdxl_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    words = ["--model", sdxl_folder, "--images", write_picture(folder / "wave.png", 0), "--batch_size", 2]
    words += ["--stages", 3, "--learning_rate", 0.05, "--log_every", 2, "--preview_prompts"]
    run(train, *words, "--steps", 4, "--save_every", 2, "--output", folder / "wave")
    return folder / "wave"


@pytest.fixture(scope="module")
def paint(sdxl_folder, run_folder):
    def paint(folder, *options):
        """The pictures that the command paints, in the order of the manifest."""
        words = ["--model", sdxl_folder, "--styles", run_folder, "--steps", 4, "--seeds", 0, "--prompts", PROMPT]
        run(sample, *words, *options, "--output", folder)
        lines = map(json.loads, (folder / "manifest.jsonl").read_text().splitlines())
        return [np.asarray(Image.open(folder / line["file"]), int) for line in lines]

    return paint


def test_both_tables_are_learned(run_folder):
    style, before = (
        Style.load(file) for file in (run_folder / FILE_NAME, run_folder / "steps/step_000002.safetensors")
    )
    assert style.widths == {"clip_l": WIDTH, "clip_g": WIDTH_2}
    for encoder, table in style.tables.items():
        assert table.shape[:2] == (3, 1)
        assert np.abs(table - before.tables[encoder]).max() > 0.01


def test_training_and_painting_are_told_the_sizes_asked_for(run_folder, sdxl_folder, paint, tmp_path):
    """A style learned as if from a scaled picture differs; the manifest names what a picture was painted as."""
    words = ["--model", sdxl_folder, "--images", run_folder.parent / "wave.png", "--batch_size", 2, "--stages", 3]
    words += ["--learning_rate", 0.05, "--log_every", 2, "--preview_prompts", "--steps", 2, "--output", tmp_path / "a"]
    run(train, *words, "--original_size", 8, 12)
    styles = [Style.load(file) for file in (run_folder / "steps/step_000002.safetensors", tmp_path / "a" / FILE_NAME)]
    assert [style.metadata.get("original_size") for style in styles] == [None, [8, 12]]
    assert np.abs(styles[0].tables["clip_g"] - styles[1].tables["clip_g"]).max() > 1e-4
    sizes = ["--original_size", 64, 32, "--crop_top_left", 0, 8]
    paint(tmp_path / "told", *sizes)
    line = json.loads((tmp_path / "told" / "manifest.jsonl").read_text().splitlines()[0])
    assert (line["original_size"], line["crop_top_left"]) == ([64, 32], [0, 8])
    assert " ".join(map(str, sizes)) in line["command"]
    painted_before = (tmp_path / "told" / "manifest.jsonl").read_bytes()
    paint(tmp_path / "told", *sizes)
    assert (tmp_path / "told" / "manifest.jsonl").read_bytes() == painted_before


@pytest.mark.parametrize(
    ("command", "options", "message"),
    [
        (sample, ["--original_size", 64], "original_size: give height and width, two numbers from 1 to 65536, not 64"),
        (train, ["--crop_top_left", 0, -1], "crop_top_left: give top and left, two numbers from 0 .*, not 0 -1"),
        (train, ["--original_size", 64, 64], "original_size, crop_top_left: only SDXL takes them, and .* is none"),
        (sample, ["--crop_top_left", 8, 8], "original_size, crop_top_left: only SDXL takes them, and .* is none"),
    ],
)
def test_sizes_that_cannot_be_told_are_refused(command, options, message, tiny_folder, tmp_path, capfd):
    words = ["--model", tiny_folder, *options, "--output", tmp_path / "a"]
    assert re.search(message, refusal(capfd, command, *words))


def test_every_way_of_painting(paint, run_folder, tmp_path):
    plain = paint(tmp_path / "plain")
    paper = paint(tmp_path / "paper", "--guidance", "paper")
    cached = paint(tmp_path / "cached", "--cache_interval", 2)
    mixed = paint(tmp_path / "mixed", "--mixes", "wave:2,wave:1-0")
    for pictures in (plain, paper, cached, mixed):
        assert len(pictures) == 2 and np.abs(pictures[0] - pictures[1]).max() > 2
    assert np.abs(paper[0] - plain[0]).max() > 2
    assert 0 < np.abs(cached[0] - plain[0]).max() < 80
    np.testing.assert_allclose(mixed, plain, atol=1)


def test_photographs_are_repainted_with_a_controlnet(paint, tmp_path):
    net = write_sdxl_controlnet(tmp_path / "net")
    photo = write_picture(tmp_path / "photo.png", 1, (16, 16))
    options = ["--content", photo, "--controlnets", f"edges={net}", "--control_scale", 0, 1]
    without, _, controlled, _ = paint(tmp_path / "out", *options)
    assert np.abs(without - controlled).max() > 2


def test_an_empty_prompt_is_zeros_unless_the_model_says_otherwise(sdxl, sdxl_folder, tmp_path):
    assert not any(np.any(leaf[0]) for leaf in jax.tree.leaves(encode(sdxl, ["", "a dog"], {})))
    folder = shutil.copytree(sdxl_folder, tmp_path / "model")
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"force_zeros_for_empty_prompt": False}))
    assert all(np.any(leaf[0]) for leaf in jax.tree.leaves(encode(StableDiffusion.load(folder), ["", "a dog"], {})))


def test_the_size_of_the_picture_is_a_condition(sdxl):
    rng = np.random.default_rng(0)
    width = sdxl.networks.unet_config.cross_attention_dim
    states, pooled = (jnp.asarray(rng.standard_normal(shape), jnp.float32) for shape in [(1, 24, width), (1, 12)])
    added = [
        sdxl.networks.added_conditions(jnp.zeros((1, *size, 4)), Conditioning(states, pooled)).time_ids[0].tolist()
        for size in [(8, 8), (8, 16)]
    ]
    assert added == [[16, 16, 0, 0, 16, 16], [16, 32, 0, 0, 16, 32]]


def test_the_benchmark_makes_one_of_random_weights(sdxl):
    networks = sdxl.networks
    second = networks.second_text_encoder.config
    configs = ModelConfigs(networks.text_config, networks.vae_config, networks.unet_config, second)
    model = random_model("random", configs, "bfloat16")
    assert jax.tree.map(jnp.shape, model.params) == jax.tree.map(jnp.shape, sdxl.params)
    assert flops(make_workload("unet", model, ProblemSize(2, (16, 16), 3)).trace().jaxpr) > 0


def test_a_style_of_another_family_is_refused(sdxl_folder, tmp_path, capfd):
    Style("old", {"clip_l": np.ones((1, 1, WIDTH), np.float32)}).save(tmp_path / "old.safetensors")
    words = ["--model", sdxl_folder, "--styles", tmp_path / "old.safetensors", "--output", tmp_path / "out"]
    message = refusal(capfd, sample, *words)
    assert f"'old' have width {WIDTH}, but the model's text encoders {WIDTH} and {WIDTH_2}" in message


def test_a_controlnet_of_another_family_is_refused(sdxl, tmp_path):
    with pytest.raises(UserError, match="is for another family of models"):
        sdxl.with_controlnets([write_controlnet(tmp_path)])


def test_the_refiner_is_refused_before_its_weights_are_read(sdxl_folder, tmp_path):
    folder = shutil.copytree(sdxl_folder, tmp_path / "refiner", ignore=shutil.ignore_patterns("text_encoder"))
    with pytest.raises(UserError, match="SDXL's refiner, which only finishes pictures; give a base model"):
        StableDiffusion.load(folder)
