"""``dreamstyler convert``: a style goes to the files of every tool and comes back."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from script_tools import refusal, run

from dreamstyler_jax.commands import convert
from dreamstyler_jax.runtime.errors import UserError
from dreamstyler_jax.stable_diffusion.schedule import NoiseSchedule, stage_of
from dreamstyler_jax.stage_recipes import a1111_prompt, comfyui_ranges, even_shares, karras_shares, recipe
from dreamstyler_jax.style import Style


def style(stages, encoders, vectors=2):
    rng = np.random.default_rng(0)
    widths = dict(zip(("clip_l", "clip_g"), (6, 8), strict=True))
    return Style("gogh", {name: rng.standard_normal((stages, vectors, widths[name])) for name in encoders})


@pytest.mark.parametrize("encoders", [["clip_l"], ["clip_l", "clip_g"]])
@pytest.mark.parametrize("stages", [1, 3])
@pytest.mark.parametrize("format", ["diffusers", "sd_concepts", "a1111", "comfyui", "invokeai", "kohya"])
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


def test_the_last_word_is_the_output_unless_it_is_there(tmp_path, capfd):
    style(3, ["clip_l"]).save(tmp_path / "gogh.safetensors")
    run(convert, tmp_path / "gogh.safetensors", tmp_path / "a.safetensors", "--format", "comfyui")
    assert [path.name for path in sorted(tmp_path.iterdir())] == [
        "a-T0.safetensors", "a-T1.safetensors", "a-T2.safetensors", "a-stages.txt", "gogh.safetensors",
    ]  # fmt: skip
    run(convert, *(tmp_path / f"a-T{stage}.safetensors" for stage in range(3)), tmp_path / "b.safetensors")
    joined = Style.load(tmp_path / "b.safetensors").tables["clip_l"]
    np.testing.assert_array_equal(joined, style(3, ["clip_l"]).tables["clip_l"])
    line = refusal(capfd, convert, tmp_path / "gogh.safetensors", tmp_path / "b.safetensors")
    assert "b.safetensors is there already; give --output" in line
    line = refusal(capfd, convert, tmp_path / "gogh.safetensors", tmp_path / "a.safetensors", "--format", "a1111")
    assert "a-T0.safetensors is there already; give --output" in line


# How others switch stages


def test_the_recipe_is_beside_the_stages_and_no_file_of_the_users_is_replaced(tmp_path, capfd):
    style(3, ["clip_l"]).save(tmp_path / "gogh.safetensors")
    words = [tmp_path / "gogh.safetensors", "--output", tmp_path / "a.safetensors", "--format", "a1111"]
    (tmp_path / "a-stages.txt").write_text("a boat")
    assert "a-stages.txt is a file of yours" in refusal(capfd, convert, *words)
    assert (tmp_path / "a-stages.txt").read_text() == "a boat" and not (tmp_path / "a-T0.safetensors").exists()
    (tmp_path / "a-stages.txt").unlink()
    run(convert, *words)
    run(convert, *words)
    text = (tmp_path / "a-stages.txt").read_text()
    assert text == recipe("a", 3)
    assert "[[a-T2:a-T1:0.3334]:a-T0:0.6667]" in text
    assert "embedding:a-T2   start 0.000   end 0.333" in text
    with pytest.raises(UserError, match="\\[, which prompts give a meaning to"):
        recipe("a[b", 3)


def at_step(text, step, steps):
    """What is left at a step, counted from 1, of a prompt with edits ``[before:after:when]``, as A1111 reads them."""
    while match := re.search(r"\[([^\[\]:]*):([^\[\]:]*):([\d.]+)\]", text):
        before, after, when = match.groups()
        chosen = before if step <= min(steps, int(float(when) * steps)) else after
        text = text[: match.start()] + chosen + text[match.end() :]
    return text


@given(stages=st.integers(2, 12), steps=st.integers(1, 150))
def test_the_nested_edits_choose_the_stages_by_which_the_style_was_learned(stages, steps):
    """With timesteps that are evenly spaced, each step in the middle of its part of them."""
    prompt = a1111_prompt("gogh", even_shares(stages))
    for step in range(1, steps + 1):
        exact = {1000 * (steps - step) / steps, 1000 * (steps - step + 1) / steps - 1e-6}
        wanted = {f"gogh-T{int(stage_of(np.float64(t), stages))}" for t in exact}
        assert at_step(prompt, step, steps) in wanted


def test_shares_for_noise_levels_of_karras_are_where_the_stages_change():
    steps, stages = 1000, 6
    levels = np.sqrt(1 / NoiseSchedule().alphas_cumprod - 1)
    roots = np.linspace(levels[-1] ** (1 / 7), levels[0] ** (1 / 7), steps)
    timesteps = np.interp(np.log(roots**7), np.log(levels), np.arange(1000))
    stage_by_step = stage_of(timesteps, stages)
    shares = [np.argmax(stage_by_step <= stage) / steps for stage in range(stages - 2, -1, -1)]
    np.testing.assert_allclose(karras_shares(stages), shares, atol=0.003)


@given(stages=st.integers(2, 50))
def test_the_ranges_of_comfyui_are_the_stages(stages):
    """It turns a share into the timestep 999 (1 - share)."""
    ranges = comfyui_ranges(stages)
    assert ranges[0][1] == 0 and ranges[-1][2] == 1 and [stage for stage, *_ in ranges] == list(range(stages))[::-1]
    for stage, start, end in ranges:
        middle = 999 * (1 - (start + end) / 2)
        assert stage_of(np.float64(middle), stages) == stage
