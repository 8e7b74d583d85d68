"""Captions by models of transformers, of its own classes and with random weights, from real files."""

import pytest
import torch
from script_tools import ROOT, refusal, run
from tiny_captioners import write_tiny_blip, write_tiny_blip2
from transformers import AutoModelForImageTextToText, AutoProcessor

from dreamstyler_jax.captioning.vision_language import VisionLanguageCaptioner, training_caption
from dreamstyler_jax.commands import caption
from dreamstyler_jax.runtime import images

PICTURE = ROOT / "examples" / "boat.png"


@pytest.fixture(scope="module", params=[write_tiny_blip2, write_tiny_blip])
def folder(request, tmp_path_factory):
    return request.param(tmp_path_factory.mktemp("captioner") / "model")


def test_a_caption_is_what_the_model_says(folder):
    captioner = VisionLanguageCaptioner.load(str(folder))
    picture = images.load(PICTURE)
    said = captioner.say(picture)
    processor, model = AutoProcessor.from_pretrained(folder), AutoModelForImageTextToText.from_pretrained(folder)
    with torch.no_grad():
        ids = model.generate(**processor(images=picture, return_tensors="pt"), max_new_tokens=80, do_sample=False)
    assert said == processor.decode(ids[0], skip_special_tokens=True).strip() and len(said.split()) > 10
    assert captioner(picture) == training_caption(said)


def test_the_command_captions_with_a_model_from_a_folder(folder, tmp_path, capsys):
    images.load(PICTURE).save(tmp_path / "a.png")
    run(caption, tmp_path, "--captioner", folder)
    printed = capsys.readouterr()
    assert f"Describing 1 picture by {folder} (blip" in printed.err and str(tmp_path) in printed.out


def test_a_folder_of_something_else_is_one_line(tmp_path, capfd):
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    line = refusal(capfd, caption, PICTURE, "--overwrite", "--captioner", tmp_path)
    assert line.startswith(f"captioner: {tmp_path} cannot be used (") and "Salesforce/blip2-opt-2.7b" in line
