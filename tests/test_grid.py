"""The cells of a grid: their product, their ids, their definition, and how they are painted."""

import dataclasses
import itertools
import re
from types import SimpleNamespace

import numpy as np
import pytest
from cells import CELL, ODD_PROMPTS, cells_of
from hypothesis import example, given
from hypothesis import strategies as st

from dreamstyler_jax import prompts, sampling
from dreamstyler_jax.commands.config import SampleConfig
from dreamstyler_jax.grids import cells as grid
from dreamstyler_jax.sampling import Request
from dreamstyler_jax.solvers import solver_table
from dreamstyler_jax.stable_diffusion.schedule import NoiseSchedule
from dreamstyler_jax.style import Style

OTHER_VALUES = {
    "prompt": "another", "style": "wave", "negative_prompt": "blurry", "seed": 1, "guidance": "release",
    "scales": {**CELL.scales, "null_scale": 4.0}, "solver": "ddim", "steps": 24, "height": 24, "width": 16,
    "dtype": "bfloat16", "styles": {"gogh": "000000000000"}, "model": "other", "model_hash": "000000000000",
    "checkpoint": 100, "repaint": grid.Repaint("a.png", "0" * 12, 0.8, ("edges",), 0.8, 0.0, 1.0, False),
    "guidance_start": 0.2, "guidance_end": 0.8, "cache_interval": 2,
}  # fmt: skip
NETWORKS = SimpleNamespace(schedule=NoiseSchedule())
MODEL = SimpleNamespace(name="mini", hash="ba9876543210", networks=NETWORKS)
STAGES = 2


def style(name, seed, stages=STAGES):
    return Style(name, np.random.default_rng(seed).standard_normal((stages, 1, 16)).astype(np.float32) / 5)


STYLES = {"gogh": style("gogh", 0), "wave": style("wave", 1)}


def cells_for(texts, voices=tuple(STYLES), model=MODEL, **options):
    return grid.make_cells(SampleConfig(**options), model, {"": texts}, STYLES, voices, (16, 16))


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
    assert OTHER_VALUES.keys() == {field.name for field in dataclasses.fields(grid.Cell)}
    ids = {dataclasses.replace(CELL, **{name: value}).id for name, value in OTHER_VALUES.items()}
    assert len(ids | {CELL.id}) == len(OTHER_VALUES) + 1


def test_the_id_does_not_depend_on_the_order_of_scales_nor_on_how_numbers_were_given():
    assert dataclasses.replace(CELL, scales=dict(reversed(CELL.scales.items()))).id == CELL.id
    (as_float,), (as_int,) = (cells_for(["{}"], ["gogh"], seeds="0", guidance_scale=[v]) for v in (4.0, 4))
    assert as_float.id == as_int.id


@pytest.mark.parametrize(("name", "value"), [("guidance_end", 0.7), ("cache_interval", 3)])
def test_what_is_as_usual_is_not_in_the_id_nor_in_the_definition(name, value):
    """So that pictures of earlier versions are still known."""
    assert name not in CELL.parameters()
    assert dataclasses.replace(CELL, **{name: value}).parameters() == {**CELL.parameters(), name: value}


def test_the_sampler_is_told_which_steps_are_guided_and_which_compute_all(monkeypatch):
    asked = []

    def paint(model, table, bank, requests, *, guided_steps, deep_steps, **_):
        asked.append((guided_steps.tolist(), deep_steps.tolist()))
        return np.zeros((len(requests), 16, 16, 3))

    monkeypatch.setattr(grid, "_encode", lambda model, cells, *_: (None, cells))
    monkeypatch.setattr(sampling, "paint", paint)
    cells = [
        dataclasses.replace(CELL, steps=4, height=16, width=16, **more)
        for more in ({}, {"guidance_end": 0.5}, {"cache_interval": 3})
    ]
    list(grid.paint(MODEL, cells, STYLES, grid.shape_of(cells, 8)))
    always = [True] * 4
    assert asked == [(always, always), ([True, True, False, False], always), (always, [True, False, False, True])]


# The product

some = st.integers(1, 3)


@given(some, some, some, some, some, some, st.booleans())
def test_cells_are_the_product_of_all_axes(texts, voices, ln, ls, lc, seeds, cfg):
    texts = ["{}", "a {} {gogh}", "{wave} by {gogh}"][:texts]
    voices = ["gogh", "wave", "gogh"][: min(voices, 2)]
    options = {"solver": ["ddim", "unipc"], "steps": [3, 20, 4], "seeds": ",".join("975"[:seeds])}
    scales = {"null_scale": [5.0, 0.0, 1.5][:ln], "style_scale": [1.0, 2.0, 3.0][:ls], "context_scale": [1.0, 0.5][:lc]}
    values = [dict(zip(scales, combination, strict=True)) for combination in itertools.product(*scales.values())]
    if cfg:
        values = [{"guidance_scale": value} for value in scales["null_scale"]]
        cells = cells_for(texts, voices, guidance_scale=scales["null_scale"], **options)
    else:
        cells = cells_for(texts, voices, guidance="release", **scales, **options)
    voiced = [(text, voice) for text in texts for voice in (voices if "{}" in text else [""])]
    expected = [
        (*pair, scale, solver, steps, int(seed))
        for pair in voiced
        for scale in values
        for solver in options["solver"]
        for steps in options["steps"]
        for seed in options["seeds"].split(",")
    ]
    assert [(c.prompt, c.style, dict(c.scales), c.solver, c.steps, c.seed) for c in cells] == expected
    assert len({cell.id for cell in cells}) == len(cells)


def test_a_cell_knows_the_styles_that_its_prompts_name():
    hashes = {name: style.hash for name, style in STYLES.items()}
    options = {"seeds": "0", "negative_prompt": "a {wave}"}
    for text, voice, names in (
        ("a {}", "gogh", {"gogh", "wave"}),
        ("a {}", "wave", {"wave"}),
        ("a {gogh}", "", {"gogh", "wave"}),
    ):
        cell = next(cell for cell in cells_for([text], **options) if cell.style == voice)
        assert cell.styles == {name: hashes[name] for name in names}


def test_a_cells_texts_name_its_style_everywhere():
    (cell,) = cells_for(["A painting of a {gogh} house by {}"], ["wave"], seeds="0", negative_prompt="{} {{blurry}}")
    assert cell.texts == (
        "{wave} {{blurry}}",
        "A painting of a {gogh} house by {wave}",
        "A painting of a {gogh} house",
        "A painting in the style of {wave}",
    )
    every = cells_for(["a {gogh}"], seeds="0", negative_prompt="{}")
    assert [cell.style for cell in every] == ["gogh", "wave"], "a {} in the negative prompt stands for each style too"


# The definition


@st.composite
def some_cells(draw):
    """The cells of a small grid, of few enough values that two grids are often the same."""

    def chosen(*values):
        return draw(st.lists(st.sampled_from(values), min_size=1, max_size=2, unique=True))

    texts, voices = chosen("{}", "{gogh}"), chosen("gogh", "wave")
    return cells_for(
        texts, voices, seeds=draw(st.sampled_from(["0", "1", "0,1", "1,0"])), steps=chosen(3, 4),
        guidance="paper", style_scale=chosen(1.0, 2.0), context_scale=chosen(1.0, 2.0),
    )  # fmt: skip


@given(some_cells(), some_cells())
def test_definitions_are_equal_just_where_the_cells_are(one, other):
    assert (grid.definition(one) == grid.definition(other)) == (one == other)
    assert grid.definition(one) == grid.definition([dataclasses.replace(cell) for cell in one])


def test_every_parameter_counts_in_the_definition():
    for name, value in OTHER_VALUES.items():
        other = dataclasses.replace(CELL, **{name: value})
        assert grid.definition([other]) != grid.definition([CELL])
        both = grid.definition([CELL, other])
        if name in CELL.parameters():
            assert both[name] == [getattr(CELL, name), value]
        else:
            assert all(
                both[key] == other.parameters()[key] for key in other.parameters().keys() - CELL.parameters().keys()
            )


# Painting: one sweep for all that follows, in batches of a size that no other test has

TEXTS = [f"a painting of a {thing} in the style of {{}}" for thing in ("red house", "small dog", "sea", "sunset")]
TEXTS += [f"a drawing of a {thing} by {{}}" for thing in ("red house", "small dog", "sea", "sunset")]
SWEEP = {"guidance": "paper", "style_scale": [0, 1, 2, 3, 4], "context_scale": [0, 1, 2, 3, 4], "steps": [2]}
BATCH = 20


@pytest.fixture(scope="module")
def sweep(tiny):
    """5 x 5 scales, 8 prompts, 2 styles: the cells, their pictures by id, the programs that this took."""
    cells = cells_for(TEXTS, model=tiny, seeds="0", **SWEEP)
    before = sampling.paint_batch._cache_size()
    pictures = paint(tiny, cells, grid.shape_of(cells, BATCH))
    return cells, pictures, sampling.paint_batch._cache_size() - before


def paint(tiny, cells, shape):
    painted = list(grid.paint(tiny, cells, STYLES, shape))
    assert sorted(cell.id for cell, _ in painted) == sorted(cell.id for cell in cells)
    return {cell.id: picture for cell, picture in painted}


def test_a_sweep_is_one_program_and_each_other_number_of_steps_one_more(tiny, sweep):
    cells, _, programs = sweep
    assert (len(cells), programs) == (400, 1)
    before = sampling.paint_batch._cache_size()
    others = [dataclasses.replace(cell, solver="ddim", seed=5) for cell in cells[:30]]
    more = [dataclasses.replace(cell, steps=3) for cell in cells[:BATCH]]
    paint(tiny, cells[:3] + others + more + cells[-2:], grid.shape_of(cells, BATCH))
    assert sampling.paint_batch._cache_size() - before == 1


def test_a_cell_painted_in_any_batch_equals_itself_alone(tiny, sweep):
    """Not only nearly: so that a grid painted in parts, or after an interruption, is the same to the last bit."""
    cells, pictures, _ = sweep
    shape = grid.shape_of(cells, BATCH)
    for some in ([cells[333]], [cells[0]], [cells[6]], cells[7:240:11], cells[::-9]):
        for id, picture in paint(tiny, some, shape).items():
            np.testing.assert_array_equal(picture, pictures[id])


def test_all_cells_differ_where_their_weights_do(sweep):
    cells, pictures, _ = sweep
    groups = {}
    for cell in cells:
        weights = tuple(cell.weights.tolist())
        groups.setdefault((cell.prompt, cell.style, weights), []).append(pictures[cell.id])
    assert len(groups) == len(cells)
    flat = np.stack([same[0].ravel() for same in groups.values()])
    distances = np.abs(flat[:, None, ::7] - flat[None, :, ::7]).max(-1) + 10 * np.eye(len(flat))
    assert distances.min() > 1e-4


def test_a_cell_is_painted_from_its_own_prompts_style_and_seed(tiny, sweep):
    """Against the sampler, asked for one cell after the other."""
    cells, pictures, _ = sweep
    others = [dataclasses.replace(cell, solver="ddim", seed=7) for cell in cells[200:203]]
    chosen = [*cells[5:400:97], *others]
    pictures = pictures | paint(tiny, others, grid.shape_of(cells, BATCH))
    for cell in chosen:
        bank = prompts.encode(tiny, cell.texts, STYLES)
        table = solver_table(cell.solver, tiny.networks.schedule, cell.steps)
        requests = [Request((0, 1, 2, 3), cell.weights, cell.seed)] * BATCH
        options = {"size": (16, 16), "batch_size": BATCH, "needed": range(4)}
        expected = next(sampling.paint(tiny, table, bank, requests, **options))
        np.testing.assert_allclose(pictures[cell.id], expected, atol=1e-4)


def test_the_shape_of_a_grid():
    cells = cells_for(["{}"], seeds="0:5", steps=[3, 4], solver=["ddim", "euler"], guidance_scale=[1, 3])
    assert grid.shape_of(cells, 8) == (8, [0, 1])
    assert grid.shape_of(cells, 1024).batch_size == 20, "as many as one solver and number of steps has"
    assert grid.shape_of(cells_for(["{}"], guidance_scale=[1]), 8).rows == [1]
    assert grid.shape_of(cells_for(["{}"], guidance="paper", style_scale=[3]), 8).rows == [0, 1]
    assert grid.shape_of(cells_for(["{}"], guidance="paper", style_scale=[3, 2]), 8).rows == [0, 1, 2, 3]


@pytest.mark.parametrize(("guidance", "each"), [("cfg", 1), ("paper", 2)])
def test_prompts_are_encoded_once_each_and_always_as_many_at_once(monkeypatch, guidance, each):
    """Null and style-only prompts are shared; those of rows without weight do not count, nor need they be possible."""
    encoded, requests = [], []

    def encode(model, texts, styles):
        encoded.append(texts)
        return np.zeros((len(texts), STAGES, 4, 16))

    monkeypatch.setattr(prompts, "encode", encode)

    def paint(model, table, bank, asked, **_):
        requests.extend(asked)
        return iter(np.zeros((len(asked), 16, 16, 3)))

    monkeypatch.setattr(sampling, "paint", paint)
    texts = [f"a painting of thing {i} in the style of {{}}" for i in range(20)]
    cells = cells_for(texts, ["gogh"], seeds="0:3", guidance=guidance)
    model = SimpleNamespace(networks=SimpleNamespace(schedule=NoiseSchedule()))
    list(grid.paint(model, cells, STYLES, grid.shape_of(cells, 8)))
    assert {len(chunk) for chunk in encoded} == {32}
    distinct = {text for chunk in encoded for text in chunk}
    assert len(distinct) == 1 + 20 * each + (guidance == "paper")
    for cell, request in zip(cells, requests, strict=True):
        assert request.seed == cell.seed
        np.testing.assert_array_equal(request.weights, cell.weights)
        flat = list(itertools.chain.from_iterable(encoded))
        for row in grid.shape_of(cells, 8).rows:
            assert flat[request.rows[row]] == cell.texts[row]
