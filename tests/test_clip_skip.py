"""``--clip_skip``: recorded with styles and pictures, checked against the model, and named where it differs."""

import shutil
from pathlib import Path

import pytest
from PIL import Image
from sample_tools import difference, manifest, paint, pictures, write_style
from tiny_model import write_text_encoder

from dreamstyler_jax.commands.config import TrainConfig
from dreamstyler_jax.commands.train import painting_command
from dreamstyler_jax.runtime.errors import UserError
from dreamstyler_jax.stable_diffusion.pipeline import StableDiffusion
from dreamstyler_jax.train_settings import TrainSettings
from dreamstyler_jax.training import prepare


@pytest.fixture(scope="module")
def folder(tiny_folder, tmp_path_factory):
    """A model whose text encoder has two layers."""
    folder = Path(shutil.copytree(tiny_folder, tmp_path_factory.mktemp("models") / "model"))
    write_text_encoder(folder, layers=2)
    return folder


def test_a_style_says_with_how_many_layers_it_was_learned(folder):
    model = StableDiffusion.load(str(folder), clip_skip=1)
    lesson = prepare(
        model, "gogh", {"a.png": Image.new("RGB", (16, 16))}, ["a house in the style of {}"], TrainSettings()
    )
    assert lesson.style.metadata["clip_skip"] == 1
    assert "--clip_skip 1 --styles" in painting_command(TrainConfig(images=["a.png"], clip_skip=1))
    assert "--clip_skip" not in painting_command(TrainConfig(images=["a.png"]))


def test_pictures_say_with_how_many_layers_they_were_painted(folder, tmp_path, capfd, one_compilation):
    style = write_style(tmp_path / "gogh", "gogh", clip_skip=1)
    words = ["--model", folder, "--styles", style, "--prompts", "a red house in the style of {}", "--seeds", "0",
             "--steps", 2]  # fmt: skip
    paint(tmp_path / "skipped", *words, "--clip_skip", 1)
    assert "learned with" not in capfd.readouterr().err
    with pytest.warns(UserWarning, match="the style gogh was learned with --clip_skip 1, .* than 0"):
        paint(tmp_path / "whole", *words)
    (skipped,), (whole,) = manifest(tmp_path / "skipped"), manifest(tmp_path / "whole")
    assert (skipped["clip_skip"], whole["clip_skip"]) == (1, 0)
    assert skipped["id"] != whole["id"] and skipped["model_hash"] == whole["model_hash"]
    assert "--clip_skip 1" in skipped["command"] and "--clip_skip" not in whole["command"]
    assert difference(pictures(tmp_path / "skipped"), pictures(tmp_path / "whole")) > 3


def test_it_must_leave_a_layer(folder):
    model = StableDiffusion.load(str(folder), clip_skip=1)
    assert repr(model).endswith("float32, clip skip 1)")
    assert model.with_clip_skip(0).networks == StableDiffusion.load(str(folder)).networks
    for wrong in (-1, 2):
        with pytest.raises(UserError, match=f"clip_skip: must be from 0 to 1 for this model, not {wrong}"):
            model.with_clip_skip(wrong)
