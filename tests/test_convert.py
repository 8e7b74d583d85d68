"""``dreamstyler convert``: a style goes to the files of every tool and comes back."""

import numpy as np
import pytest
from script_tools import refusal, run

from dreamstyler_jax.commands import convert
from dreamstyler_jax.style import Style


def style(stages, encoders, vectors=2):
    rng = np.random.default_rng(0)
    widths = dict(zip(("clip_l", "clip_g"), (6, 8), strict=True))
    return Style("gogh", {name: rng.standard_normal((stages, vectors, widths[name])) for name in encoders})


@pytest.mark.parametrize("encoders", [["clip_l"], ["clip_l", "clip_g"]])
@pytest.mark.parametrize("stages", [1, 3])
@pytest.mark.parametrize("format", ["diffusers", "a1111"])
def test_there_and_back(tmp_path, capsys, format, stages, encoders):
    before = style(stages, encoders)
    before.save(tmp_path / "before.safetensors")
    there = tmp_path / "there"
    run(
        convert, "--styles", tmp_path / "before.safetensors", "--output", there / "gogh.safetensors", "--format", format
    )
    run(convert, "--styles", there, "--output", tmp_path / "after.safetensors")
    after = Style.load(tmp_path / "after.safetensors")
    assert after.name == "gogh" and after.tables.keys() == before.tables.keys()
    for name, table in before.tables.items():
        np.testing.assert_array_equal(after.tables[name], table)
    assert f"Style('gogh', {stages} stages x 2 vectors) is in" in capsys.readouterr().out


def test_stages_that_do_not_belong_together_are_named(tmp_path, capfd):
    files = style(3, ["clip_l"]).export(tmp_path / "gogh.safetensors", "diffusers")
    Style("wave", np.ones((1, 1, 6))).save(tmp_path / "wave.safetensors")
    output = ["--output", tmp_path / "out.safetensors"]
    for words, message in [
        ([files[0], files[2]], "of gogh, the stages T1 are missing"),
        ([files[0], tmp_path / "wave.safetensors"], "are not the stages of one style; convert one at a time"),
    ]:
        assert message in refusal(capfd, convert, "--styles", *words, *output)
    assert "give the style to convert" in refusal(capfd, convert)
    assert not (tmp_path / "out.safetensors").exists()
