"""The cells of a grid: their product, their ids, and the grid's definition."""

import dataclasses
import hashlib
import itertools
import json
import re
import warnings
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from cells import CELL, MODEL, ODD_PROMPTS, cells_of
from hypothesis import example, given
from hypothesis import strategies as st

from dreamstyler_jax.grids.axes import Axes, make_cells
from dreamstyler_jax.grids.cells import ABSENT, Cell, Repaint, cell_of_line, definition, id_of_line, warn_of_equal_cells
from dreamstyler_jax.guidance import FORMS, Guidance, cfg_guidance, paper_guidance
from dreamstyler_jax.runtime.errors import UserError
from dreamstyler_jax.stable_diffusion.schedule import NoiseSchedule
from dreamstyler_jax.style import Style
from dreamstyler_jax.transfer import Content, Frame

REPAINT = Repaint("a.png", "0" * 12, 0.8, ("edges",), 0.8, 0.0, 1.0, False)
OTHER_VALUES = {
    "prompt": "another", "style": "wave", "negative_prompt": "blurry", "seed": 1, "guidance": "release",
    "scales": {**CELL.scales, "null_scale": 4.0}, "solver": "ddim", "steps": 24, "height": 24, "width": 16,
    "dtype": "bfloat16", "styles": {"gogh": "000000000000"}, "model": "other", "model_hash": "000000000000",
    "checkpoint": 100, "repaint": REPAINT, "guidance_start": 0.2, "guidance_end": 0.8, "cache_interval": 2,
    "spacing": "trailing", "loras": "gogh.safetensors", "clip_skip": 1, "sigmas": "karras",
    "original_size": (32, 24), "crop_top_left": (0, 4), "guidance_schedule": "linear", "weak_checkpoint": 100,
    "weak_styles": {"gogh@100": "000000000000"}, "format": "jpeg", "quality": 80, "prompt_weights": True,
    "prompt_windows": 2, "model_settings": "000000000000",
}  # fmt: skip
OTHER_REPAINTS = {
    "content": "b.png", "content_hash": "1" * 12, "strength": 0.7, "controlnets": ("depth",), "control_scale": 0.7,
    "control_start": 0.1, "control_end": 0.9, "guess_mode": True,
}  # fmt: skip


def style(name: str, seed: int) -> Style:
    return Style(name, {"clip_l": np.random.default_rng(seed).standard_normal((2, 1, 16), np.float32) / 5})


STYLES = {"gogh": style("gogh", 0), "wave": style("wave", 1)}


def cells_for(texts, names=tuple(STYLES), styles=STYLES, **axes) -> list[Cell]:
    return make_cells(Axes(prompts={"": texts}, styles=names, **axes), MODEL, styles, (16, 16))


# Ids

any_text = st.text(st.characters())


@given(any_text, any_text)
@example(ODD_PROMPTS[7], ODD_PROMPTS[7][1:])
@example("lone \udcff", "lone \udcfe")
def test_ids_are_safe_file_names_and_differ_with_the_prompt(one, other):
    ids = [dataclasses.replace(CELL, prompt=prompt).id for prompt in (one, other)]
    assert all(re.fullmatch("[0-9a-f]{16}", id) for id in ids)
    assert (ids[0] == ids[1]) == (one == other)


def test_ids_of_a_large_grid_are_all_different():
    ids = {cell.id for cell in cells_of(ODD_PROMPTS, (*range(500), 2**32 - 1))}
    assert len(ids) == len(ODD_PROMPTS) * 501


def test_every_parameter_counts_in_the_id():
    assert OTHER_VALUES.keys() == {field.name for field in dataclasses.fields(Cell)}
    assert OTHER_REPAINTS.keys() == {field.name for field in dataclasses.fields(Repaint)}
    others = [dataclasses.replace(CELL, **{name: value}) for name, value in OTHER_VALUES.items()]
    others += [
        dataclasses.replace(CELL, repaint=dataclasses.replace(REPAINT, **{name: value}))
        for name, value in OTHER_REPAINTS.items()
    ]
    assert len({cell.id for cell in [CELL, *others]}) == len(others) + 1


def test_a_parameter_counts_in_the_id_also_at_its_default():
    """So that a new default cannot make a picture of the old one pass for a picture of the new one."""
    assert ABSENT.items() <= CELL.parameters().items()
    assert id_of_line(CELL.parameters()) == CELL.id
    for name in set(CELL.parameters()) - set(ABSENT):
        with pytest.raises(KeyError):
            id_of_line({key: value for key, value in CELL.parameters().items() if key != name})


@pytest.mark.parametrize("cell", [CELL, dataclasses.replace(CELL, repaint=REPAINT)], ids=["from noise", "repainted"])
def test_a_line_of_an_older_version_has_the_id_that_its_cell_has_today(cell):
    line = {"id": "0", "file": "images/0.png", "sha256": "0", **cell.parameters(), "command": "python sample.py"}
    older = json.loads(json.dumps({name: value for name, value in line.items() if name not in ABSENT}))
    assert len(older) == len(line) - len(ABSENT)
    assert id_of_line(older) == id_of_line(line) == cell.id


def test_a_cell_is_read_from_its_line():
    cells = [CELL, *(dataclasses.replace(CELL, **{name: value}) for name, value in OTHER_VALUES.items())]
    for cell in cells:
        line = json.loads(json.dumps({"id": cell.id, "file": "a.png", **cell.parameters()}))
        assert cell_of_line(line, "the manifest") == cell
    older = {name: value for name, value in CELL.parameters().items() if name not in ABSENT}
    assert cell_of_line(older, "the manifest") == CELL


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("seed", "x", 'the manifest is damaged, seed should be a whole number, not "x"'),
        ("scales", {"null_scale": None}, "the manifest is damaged, scales.null_scale should be a finite number"),
        ("controlnets", 5, "the manifest is damaged, controlnets should be a list"),
    ],
)
def test_a_line_that_describes_no_cell_is_refused(name, value, message):
    line = {**dataclasses.replace(CELL, repaint=REPAINT).parameters(), "id": "0"}
    with pytest.raises(UserError, match=re.escape(message)):
        cell_of_line({**line, name: value}, "the manifest")
    with pytest.raises(UserError, match=f"the picture 0 lacks its {name}"):
        cell_of_line({key: item for key, item in line.items() if key != name}, "the manifest")


NEWER = (
    "clip_skip", "sigmas", "original_size", "crop_top_left", "guidance_schedule", "weak_checkpoint", "weak_styles",
    "format", "quality", "prompt_weights", "prompt_windows", "model_settings",
)  # fmt: skip


@pytest.mark.parametrize("name", NEWER)
def test_pictures_without_newer_parameters_have_the_ids_from_before_there_were_any(name):
    older = {key: value for key, value in CELL.parameters().items() if key not in NEWER}
    digest = hashlib.sha256(json.dumps(older, sort_keys=True).encode()).hexdigest()
    assert CELL.id == digest[:16] == id_of_line(older)
    assert dataclasses.replace(CELL, **{name: OTHER_VALUES[name]}).id != CELL.id


def test_the_id_does_not_depend_on_the_order_of_scales():
    assert dataclasses.replace(CELL, scales=dict(reversed(list(CELL.scales.items())))).id == CELL.id


# The product

few = st.integers(1, 3)


@given(few, few, few, few, few, few, st.sampled_from(["cfg", "paper", "release"]))
def test_cells_are_the_product_of_all_axes(texts, names, ln, ls, lc, seeds, form):
    texts = ["{}", "a {} {gogh}", "{wave} by {gogh}"][:texts]
    names = ["gogh", "wave"][:names]
    solvers, steps, seeds = ["ddim", "unipc"], [3, 20, 4], [9, 7, 5][:seeds]
    values = {
        "guidance_scale": [4.0, 3.0][:ln], "null_scale": [5.0, 0.0, 1.5][:ln], "style_scale": [1.0, 2.0, 3.0][:ls],
        "context_scale": [1.0, 0.5][:lc],
    }  # fmt: skip
    guidance = [
        Guidance(form, dict(zip(FORMS[form].scales, scales, strict=True)))
        for scales in itertools.product(*(values[name] for name in FORMS[form].scales))
    ]
    cells = cells_for(texts, names, guidance=guidance, solvers=solvers, steps=steps, seeds=seeds)
    prompt_styles = [(text, name) for text in texts for name in (names if "{}" in text else [""])]
    expected = [
        (*pair, one.form, one.scales, solver, count, seed)
        for pair in prompt_styles
        for one in guidance
        for solver in solvers
        for count in steps
        for seed in seeds
    ]
    assert [(c.prompt, c.style, c.guidance, c.scales, c.solver, c.steps, c.seed) for c in cells] == expected
    assert len({cell.id for cell in cells}) == len(cells)


def test_each_solver_spaces_its_noise_levels_as_the_checkpoint_does_or_as_asked():
    """The manifest says what was done, not "auto", so that pictures from before it was followed stay what they are."""
    asks, solvers = NoiseSchedule(sigmas="karras"), ["ddim", "euler", "dpmpp_2m", "euler_a"]

    def sigmas(networks, solvers, **axes) -> list[str]:
        model: Any = SimpleNamespace(**{**vars(MODEL), "networks": networks})
        return [cell.sigmas for cell in make_cells(Axes({"": ["a"]}, [], solvers=solvers, **axes), model, {}, (16, 16))]

    plain = MODEL.networks
    own, sdxl = (
        SimpleNamespace(**{**vars(plain), "schedule": asks, "second_text_encoder": second})
        for second in (None, "clip_g")
    )
    assert sigmas(plain, solvers) == ["normal"] * 4
    assert sigmas(own, solvers) == ["normal", "karras", "karras", "karras"]
    assert sigmas(own, solvers, sigmas="normal") == ["normal"] * 4
    assert sigmas(own, ["unipc"], sigmas="beta") == ["beta"]
    assert sigmas(own, ["unipc"], sigmas="ays") + sigmas(sdxl, ["unipc"], sigmas="ays") == ["ays_sd", "ays_sdxl"]
    with pytest.raises(UserError, match=r"sigmas: ddim has no ays spacing.*: euler, dpmpp_2m, unipc, euler_a"):
        sigmas(plain, ["euler", "ddim"], sigmas="ays")
    with pytest.raises(UserError, match="did you mean 'karras'"):
        sigmas(plain, ["euler"], sigmas="karas")


def test_guidance_at_scale_zero_is_none_as_in_diffusers():
    """It is the prompt alone, scale 1 here, and not the formula's 0, which no prompt and no style would influence."""
    cells = cells_for(["a {}"], ["gogh"], guidance=[cfg_guidance(scale) for scale in (0.0, 2.0, 1.0)])
    assert [cell.scales["guidance_scale"] for cell in cells] == [1.0, 2.0]
    assert cells[0].weights.tolist() == [0, 1, 0, 0, 0]
    (cell,) = cells_for(["a {}"], ["gogh"], guidance=[paper_guidance(0.0, 1.0, 3.0)])
    assert cell.scales["null_scale"] == 0


def test_contents_strengths_and_control_scales_are_axes():
    def content(name: str, height: int) -> Content:
        picture: Any = None
        return Content(name, f"hash of {name}", Frame(16, 16, height, 16), picture, None)

    contents = [content("a.png", 12), content("b.png", 16)]
    texts = {"a.png": ["{}"], "b.png": ["a {}", "b {}"]}
    shared: dict[str, Any] = dict(prompts=texts, styles=["gogh"], contents=contents)
    shared |= dict(strengths=[0.5, 1], control_span=(0.1, 0.9))
    with_nets = make_cells(Axes(**shared, controlnets=["edges"], control_scales=[0, 1]), MODEL, STYLES, (64, 64))
    expected = [
        (name, strength, float(scale), text)
        for name, prompts in texts.items()
        for strength in (0.5, 1.0)
        for scale in (0, 1)
        for text in prompts
    ]
    repaints = [cell.repaint for cell in with_nets if cell.repaint]
    found = [(r.content, r.strength, r.control_scale, c.prompt) for r, c in zip(repaints, with_nets, strict=True)]
    assert found == expected
    assert {(r.control_start, r.control_end) for r in repaints} == {(0.1, 0.9)}
    assert {(cell.height, cell.width) for cell in with_nets} == {(12, 16), (16, 16)}
    without = [cell.repaint for cell in make_cells(Axes(**shared, control_scales=[0, 1]), MODEL, STYLES, (64, 64))]
    assert len(without) == len(expected) / 2
    assert {(r.control_scale, r.control_start, r.control_end) for r in without if r} == {(0.0, 0.0, 1.0)}


def test_a_solver_that_cannot_take_so_many_steps_is_refused():
    with pytest.raises(UserError, match="steps"):
        cells_for(["{}"], steps=[3, 2000])


def test_a_cell_knows_the_styles_that_its_prompts_name():
    hashes = {name: style.hash for name, style in STYLES.items()}
    for text, name, used in (
        ("a {}", "gogh", {"gogh", "wave"}),
        ("a {}", "wave", {"wave"}),
        ("a {gogh}", "", {"gogh", "wave"}),
    ):
        cell = next(cell for cell in cells_for([text], negative_prompt="a {wave}") if cell.style == name)
        assert cell.styles == {name: hashes[name] for name in used}


def test_checkpoints_are_an_axis_of_the_prompts_that_depend_on_them():
    styles = {f"gogh@{step}": style(f"gogh@{step}", step) for step in (100, 200)}
    cells = cells_for(["a {}", "a {gogh@100}"], ["gogh"], styles, checkpoints=[200, 100])
    assert [(cell.prompt, cell.checkpoint) for cell in cells] == [("a {}", 200), ("a {}", 100), ("a {gogh@100}", 0)]
    assert [cell.styles for cell in cells] == [
        {"gogh": styles["gogh@200"].hash}, {"gogh": styles["gogh@100"].hash}, {"gogh@100": styles["gogh@100"].hash}
    ]  # fmt: skip
    assert cells[0].texts[1] == "a {gogh@200}"


def test_a_cells_texts_name_its_style_everywhere():
    (cell,) = cells_for(["A painting of a {gogh} house by {}"], ["wave"], negative_prompt="{} {{blurry}}")
    assert cell.texts == (
        "{wave} {{blurry}}",
        "A painting of a {gogh} house by {wave}",
        "A painting of a {gogh} house",
        "A painting in the style of {wave}",
        "A painting of a {gogh} house by {wave}",
    )
    cells = cells_for(["a {gogh}"], negative_prompt="{}")
    assert [cell.style for cell in cells] == ["gogh", "wave"], "a {} in the negative prompt stands for each style too"


# The definition


@st.composite
def small_grids(draw) -> list[Cell]:
    """The cells of a small grid, of so few values that two grids are often the same."""

    def chosen(*values):
        return draw(st.lists(st.sampled_from(values), min_size=1, max_size=2, unique=True))

    guidance = [paper_guidance(5, ls, lc) for ls in chosen(1.0, 2.0) for lc in chosen(1.0, 2.0)]
    return cells_for(
        chosen("{}", "{gogh}"), chosen("gogh", "wave"), guidance=guidance, seeds=chosen(0, 1), steps=chosen(3, 4)
    )


@given(small_grids(), small_grids())
def test_definitions_are_equal_just_where_the_cells_are(one, other):
    assert (definition(one) == definition(other)) == (one == other)
    assert definition(one) == definition([dataclasses.replace(cell) for cell in one])


def test_every_parameter_counts_in_the_definition():
    for name, value in OTHER_VALUES.items():
        other = dataclasses.replace(CELL, **{name: value})
        assert definition([other]) != definition([CELL])
        both = definition([CELL, other])
        if name == "repaint":
            added = other.parameters().keys() - CELL.parameters().keys()
            assert added == OTHER_REPAINTS.keys() and all(both[key] == other.parameters()[key] for key in added)
        else:
            assert both[name] == [getattr(CELL, name), value]


def test_guidance_of_a_cell():
    (cell,) = cells_for(["{}"], ["gogh"], guidance=[cfg_guidance(4)], guidance_span=(0.25, 0.5))
    np.testing.assert_array_equal(cell.weights, [-3, 4, 0, 0, 0])
    assert cell.guidance_span == (0.25, 0.5)


def test_variants_and_the_weak_style_belong_to_the_cells_that_they_change():
    """So a picture without them has the id that it had before there were any."""
    styles = {**STYLES, "gogh@100": style("gogh@100", 2)}
    options: dict[str, Any] = dict(guidance_schedule="linear", weak_checkpoint=100)
    numbers = [{}, {"guidance_rescale": 0.5}, {"weak_scale": 2.0}]
    guidance = [cfg_guidance(scale, **optional) for scale in (1.0, 3.0) for optional in numbers]
    cells = cells_for(["a {}"], ["gogh"], styles, guidance=guidance, **options)
    (plain,) = cells_for(["a {}"], ["gogh"], guidance=[cfg_guidance(1.0)])
    assert [cell.scales for cell in cells] == [
        {"guidance_scale": 1.0},  # once: rescaled it is the same
        {"guidance_scale": 1.0, "weak_scale": 2.0},
        {"guidance_scale": 3.0},
        {"guidance_scale": 3.0, "guidance_rescale": 0.5},
        {"guidance_scale": 3.0, "weak_scale": 2.0},
    ]
    assert cells[0].id == plain.id
    assert [cell.guidance_schedule for cell in cells] == ["constant", *["linear"] * 4]
    assert [bool(cell.variants) for cell in cells] == [False, False, False, True, False]
    for cell in cells:
        weak = "weak_scale" in cell.scales
        assert cell.weak_styles == ({"gogh@100": styles["gogh@100"].hash} if weak else None)
        assert cell.texts[1] == "a {gogh}" and cell.texts[4] == ("a {gogh@100}" if weak else "a {gogh}")
        assert id_of_line(json.loads(json.dumps(cell.parameters()))) == cell.id
    with pytest.raises(UserError, match="weak_scale: name the training step of the weak styles, with weak_checkpoint"):
        cells_for(["a {}"], ["gogh"], guidance=guidance)
    with pytest.raises(UserError, match="weak_checkpoint: the style gogh@200 is not among those given"):
        cells_for(["a {}"], ["gogh"], styles, guidance=guidance, weak_checkpoint=200)


def test_pictures_that_will_be_the_same_are_said():
    repaints = [dataclasses.replace(REPAINT, strength=strength) for strength in (0.8, 0.81, 0.9)]
    cells = [dataclasses.replace(CELL, repaint=repaint) for repaint in repaints]
    with pytest.warns(UserWarning, match=r"the same .* those with strength 0\.8 and 0\.81$"):
        warn_of_equal_cells(cells)
    two_names = [dataclasses.replace(CELL, style=name, styles={name: "0" * 12}) for name in ("a", "b")]
    with pytest.warns(UserWarning, match=r"the same .* those with style a and b$"):
        warn_of_equal_cells(two_names)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in OTHER_VALUES.keys() - {"loras", "checkpoint", "styles", "weak_styles"}:  # the hash is what counts
            warn_of_equal_cells([CELL, dataclasses.replace(CELL, **{name: OTHER_VALUES[name]})])
