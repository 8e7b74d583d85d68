"""``dreamstyler sample --loras``: sets of LoRAs as an axis of a grid."""

import json
import re
import shlex
import shutil

import numpy as np
import pytest
from compilations import compilations
from lora_tools import random_layers, write_lora
from sample_tools import HOUSE, difference, manifest, paint, pictures
from script_tools import contents, refusal, run

from dreamstyler_jax.commands import cli, sample
from dreamstyler_jax.commands.config import SampleConfig
from dreamstyler_jax.runtime.errors import UserError


@pytest.fixture(scope="module")
def gogh(tiny, tmp_path_factory):
    """A LoRA's file."""
    return write_lora(tmp_path_factory.mktemp("loras") / "gogh.safetensors", random_layers(tiny.params))


@pytest.fixture(scope="module")
def texts(tiny, gogh):
    """Four values of the axis."""
    ink = write_lora(gogh.parent / "ink.safetensors", random_layers(tiny.params, rank=3, seed=1))
    return [f"{gogh}*0.5", f"{gogh}*0.5+{ink}", f"{ink}*0", "none"]


@pytest.fixture(scope="module")
def plain(words, styles):
    """The options of a grid of two pictures."""
    return [*words, "--styles", styles / "gogh", "--prompts", HOUSE, "--seeds", "0:2"]


@pytest.fixture(scope="module")
def grid(plain, texts, tmp_path_factory):
    """A grid of eight pictures, not to be changed, and the programs that it took."""
    folder = tmp_path_factory.mktemp("out") / "grid"
    with compilations() as programs:
        run(sample, *plain, "--loras", *texts, "--output", folder)
    return folder, programs


def test_each_value_of_the_axis_has_its_pictures(grid, tiny, texts):
    folder, _ = grid
    lines = manifest(folder)
    expected = [(text, tiny.with_loras(text).hash, seed) for text in texts for seed in (0, 1)]
    assert [(line["loras"], line["model_hash"], line["seed"]) for line in lines] == expected
    one, two, zero, none = (pictures(folder, loras=text) for text in texts)
    assert min(difference(a, b) for a, b in ((one, two), (one, none), (two, none))) > 3
    np.testing.assert_array_equal(zero, none)


def test_the_pictures_without_loras_are_those_of_a_grid_without_the_axis(grid, plain, tmp_path):
    np.testing.assert_array_equal(paint(tmp_path, *plain), pictures(grid[0], loras="none"))
    assert {line["loras"] for line in manifest(tmp_path)} == {"none"}


def test_the_axis_needs_no_program_of_its_own(grid):
    _, programs = grid
    assert [programs.count(f"jit({name})") for name in ("sample_batch", "encode_tokens")] == [1, 1]


def test_a_grid_is_resumed(grid, plain, texts, tmp_path, capfd):
    folder = shutil.copytree(grid[0], tmp_path / "copy")
    lines = manifest(folder)
    for number in (0, 3, 7):
        (folder / lines[number]["file"]).unlink()
    run(sample, *plain, "--loras", *texts, "--output", folder)
    assert contents(folder) == contents(grid[0])
    printed = capfd.readouterr()
    assert "5 of 8 pictures are there and whole" in printed.out
    assert "Painting 3 pictures" in printed.err
    changes = re.findall(r"LoRA (\S+) changes \d+ layers of the text_encoder and \d+ layers of the unet\n", printed.err)
    assert changes == [texts[0], texts[1].partition("+")[2], texts[2]]


def test_other_loras_are_another_grid(grid, plain, gogh, texts, tmp_path, capfd):
    line = refusal(capfd, sample, *plain, "--loras", *texts[:2], f"{gogh}*0.6", "none", "--output", grid[0])
    assert "holds the pictures of another grid (model_hash, loras differ)" in line
    changed = tmp_path / "gogh.safetensors"
    changed.write_bytes(gogh.read_bytes())
    options = [*plain, "--loras", changed, "--output", tmp_path / "out"]
    run(sample, *options)
    content = bytearray(gogh.read_bytes())
    content[-1] ^= 1  # the last bit of a number
    changed.write_bytes(content)
    assert "another grid (model_hash differs)" in refusal(capfd, sample, *options)


def test_a_grid_of_an_earlier_version_is_continued(grid, plain, texts, tmp_path, capfd):
    folder = tmp_path / "out"
    run(sample, *plain, "--output", folder)
    before = manifest(folder)
    (folder / "manifest.jsonl").write_text(
        "".join(json.dumps({key: value for key, value in line.items() if key != "loras"}) + "\n" for line in before)
    )
    definition = (folder / "grid.yaml").read_text()
    assert "loras: none\n" in definition
    (folder / "grid.yaml").write_text(definition.replace("loras: none\n", ""))
    capfd.readouterr()
    run(sample, *plain, "--output", folder)
    assert "2 of 2 pictures are there and whole" in capfd.readouterr().out
    run(sample, *plain, "--loras", *texts, "--merge", "--output", folder)
    assert "2 of 8 pictures are there and whole" in capfd.readouterr().out
    assert manifest(folder)[-2:] == before


def test_the_command_of_a_picture_names_its_loras(grid, texts):
    for line in manifest(grid[0]):
        again = cli.parse(SampleConfig, shlex.split(line["command"])[2:])
        assert again.loras == [line["loras"]]
    assert f"--loras '{texts[0]}'" in manifest(grid[0])[0]["command"]


def test_the_page_calls_the_loras_by_their_files_names(grid):
    page = (grid[0] / "index.html").read_text()
    assert '"labels":["gogh*0.5","gogh*0.5+ink","ink*0","none"]' in page


@pytest.mark.parametrize("words", [["a.safetensors", "a.safetensors*1.0"], [], ["gogh"]])
def test_unusable_values_are_refused(words):
    with pytest.raises(UserError, match="loras: "):
        cli.parse(SampleConfig, ["--loras", *words])
