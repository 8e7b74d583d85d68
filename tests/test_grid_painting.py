"""How the cells of a grid are painted: the batches, the programs, and what each picture is painted from."""

import dataclasses
from typing import Any

import jax
import numpy as np
import pytest
from compilations import compilations
from lora_tools import random_layers, write_lora
from test_cells import STYLES
from tiny_model import WIDTH

from dreamstyler_jax.encoding import encode
from dreamstyler_jax.grids.axes import Axes, make_cells
from dreamstyler_jax.grids.cells import Cell
from dreamstyler_jax.grids.painting import Shape, paint_cells, shape_of
from dreamstyler_jax.guidance import cfg_guidance, paper_guidance
from dreamstyler_jax.painting import Request, paint_requests, prepare_batches
from dreamstyler_jax.runtime.errors import UserError
from dreamstyler_jax.sampling import StepPlan, plan_steps, sample_batch
from dreamstyler_jax.solvers import solver_table
from dreamstyler_jax.stable_diffusion.loras.merging import read_loras
from dreamstyler_jax.stable_diffusion.pipeline import StableDiffusion
from dreamstyler_jax.style import Style
from dreamstyler_jax.transfer import ContentEncoder

TEXTS = [f"a painting of a {thing} in the style of {{}}" for thing in ("red house", "small dog", "sea", "sunset")]
TEXTS += [f"a drawing of a {thing} by {{}}" for thing in ("red house", "small dog", "sea", "sunset")]
SCALES = [paper_guidance(5, style, context) for style in range(5) for context in range(5)]
BATCH = 20  # no other test paints batches of this size


def cells_for(model, texts=("{}",), names=tuple(STYLES), **axes) -> list[Cell]:
    return make_cells(Axes(prompts={"": texts}, styles=names, **axes), model, STYLES, (16, 16))


def paint(model, cells, shape) -> dict[str, np.ndarray]:
    """The pictures by the ids of their cells."""
    painted = list(paint_cells(model, cells, STYLES, shape))
    assert sorted(cell.id for cell, _ in painted) == sorted(cell.id for cell in cells)
    return {cell.id: picture for cell, picture in painted}


@pytest.fixture(scope="module")
def sweep(tiny):
    """5 x 5 scales, 8 prompts, 2 styles: the cells, their pictures by id, and the programs that this took."""
    cells = cells_for(tiny, TEXTS, guidance=SCALES, steps=[2])
    with compilations("sample_batch") as programs:
        pictures = paint(tiny, cells, shape_of(cells, BATCH))
    return cells, pictures, programs


def test_a_sweep_is_one_program_and_each_other_number_of_steps_one_more(tiny, sweep):
    cells, _, programs = sweep
    assert (len(cells), len(programs)) == (400, 1)
    others = [dataclasses.replace(cell, solver="ddim", seed=5) for cell in cells[:30]]
    more = [dataclasses.replace(cell, steps=3) for cell in cells[:BATCH]]
    with compilations("sample_batch") as programs:
        paint(tiny, cells[:3] + others + more + cells[-2:], shape_of(cells, BATCH))
    assert len(programs) == 1


def test_a_cell_painted_in_any_batch_equals_itself_alone(tiny, sweep):
    """To the last bit, so that a grid painted in parts, or after an interruption, is the same."""
    cells, pictures, _ = sweep
    shape = shape_of(cells, BATCH)
    for part in ([cells[333]], [cells[0]], [cells[6]], cells[7:240:11], cells[::-9]):
        for id, picture in paint(tiny, part, shape).items():
            np.testing.assert_array_equal(picture, pictures[id])


def test_all_cells_differ_where_their_weights_do(sweep):
    cells, pictures, _ = sweep
    groups: dict[tuple, list[np.ndarray]] = {}
    for cell in cells:
        weights = tuple(cell.weights.tolist())
        groups.setdefault((cell.prompt, cell.style, weights), []).append(pictures[cell.id])
    assert len(groups) == len(cells)
    flat = np.stack([same[0].ravel() for same in groups.values()])
    distances = np.abs(flat[:, None, ::7] - flat[None, :, ::7]).max(-1) + 10 * np.eye(len(flat))
    assert distances.min() > 1e-4


def expected_picture(model, cell: Cell, plan: StepPlan) -> np.ndarray:
    """A cell's picture, requested on its own."""
    options: dict[str, Any] = dict(size=(16, 16), batch_size=BATCH, rows=range(4))
    (picture,) = paint_requests(model, [Request(cell.texts, cell.weights, cell.seed)], STYLES, plan, **options)
    return picture


def test_a_cell_is_painted_from_its_prompts_style_and_seed(tiny, sweep):
    cells, pictures, _ = sweep
    others = [dataclasses.replace(cell, solver="ddim", seed=7) for cell in cells[200:203]]
    pictures = pictures | paint(tiny, others, shape_of(cells, BATCH))
    for cell in [*cells[5:400:97], *others]:
        plan = plan_steps(solver_table(cell.solver, tiny.networks.schedule, cell.steps))
        np.testing.assert_allclose(pictures[cell.id], expected_picture(tiny, cell, plan), atol=1e-4)


def test_a_cell_decides_which_steps_are_guided_and_which_compute_all_features(tiny):
    (plain,) = cells_for(tiny, TEXTS[:1], ["gogh"], guidance=SCALES[7:8], steps=[4])
    table = solver_table(plain.solver, tiny.networks.schedule, plain.steps)
    half, first_and_last = np.array([True, True, False, False]), np.array([True, False, False, True])
    plans = [
        (plain, StepPlan(table)),
        (dataclasses.replace(plain, guidance_end=0.5), StepPlan(table, guided=half)),
        (dataclasses.replace(plain, cache_interval=3), StepPlan(table, deep=first_and_last)),
    ]
    cells = [cell for cell, _ in plans]
    pictures = paint(tiny, cells, Shape(BATCH, [0, 1, 2, 3]))
    for cell, plan in plans:
        np.testing.assert_allclose(pictures[cell.id], expected_picture(tiny, cell, plan), atol=1e-4)
    different = [pictures[cell.id] for cell in cells]
    assert all(np.abs(a - b).max() > 1e-3 for i, a in enumerate(different) for b in different[:i])


def test_a_cell_decides_how_noise_levels_are_spaced(tiny):
    """Timesteps between those of the training are of another type, and so of another program."""
    cells = cells_for(tiny, TEXTS[:1], ["gogh"], guidance=SCALES[7:8], steps=[4], solvers=["euler"])
    cells += [dataclasses.replace(cells[0], sigmas=sigmas) for sigmas in ("karras", "ays_sd")]
    pictures = paint(tiny, cells, Shape(BATCH, [0, 1, 2, 3]))
    for cell in cells:
        plan = plan_steps(solver_table("euler", tiny.networks.schedule, 4, sigmas=cell.sigmas))
        np.testing.assert_allclose(pictures[cell.id], expected_picture(tiny, cell, plan), atol=1e-4)
    different = [pictures[cell.id] for cell in cells]
    assert all(np.abs(a - b).max() > 1e-3 for i, a in enumerate(different) for b in different[:i])


def test_variants_of_guidance_are_one_program(tiny):
    """Also with the pictures that have none, which are the same as in a grid without variants."""
    numbers = [{"guidance_rescale": share} for share in (0.0, 0.3, 1.0)]
    numbers += [{"cfg_zero_star": 1.0}, {"apg_eta": 0.0}, {"apg_norm_threshold": 1.0}, {"apg_momentum": -0.5}]
    cells = cells_for(tiny, TEXTS[:1], ["gogh"], guidance=[cfg_guidance(7, **one) for one in numbers], steps=[3])
    shape = shape_of(cells, 7)
    assert shape == (7, [0, 1], True)
    with compilations("sample_batch") as programs:
        pictures = paint(tiny, cells, shape)
        paint(tiny, [dataclasses.replace(cells[1], scales={"guidance_scale": 3, "guidance_rescale": 0.9})], shape)
    assert len(programs) == 1
    different = [pictures[cell.id] for cell in cells]
    assert all(np.abs(a - b).max() > 1e-3 for i, a in enumerate(different) for b in different[:i])
    ((_, plain),) = paint_cells(tiny, cells[:1], STYLES, shape_of(cells[:1], 7))
    np.testing.assert_allclose(different[0], plain, atol=1e-4)


def test_a_weak_style_equal_to_the_style_changes_nothing_and_schedules_are_not_compiled_in(tiny):
    weak, same = (dataclasses.replace(STYLES[name], name="gogh@100") for name in ("wave", "gogh"))
    guidance = [cfg_guidance(3), cfg_guidance(3, weak_scale=2)]
    options: dict[str, Any] = dict(guidance=guidance, steps=[3], weak_checkpoint=100, guidance_schedule="linear")
    axes, styles = Axes(prompts={"": TEXTS[:1]}, styles=["gogh"], **options), {**STYLES, "gogh@100": weak}
    cells = make_cells(axes, tiny, styles, (16, 16))
    shape, table = shape_of(cells, 1), solver_table("dpmpp_2m", tiny.networks.schedule, 3)
    assert shape == (1, [0, 1, 4], False)

    def painted(cell, weak, schedule):
        request, plan = Request(cell.texts, cell.weights, cell.seed), plan_steps(table, guidance_schedule=schedule)
        given = {**STYLES, "gogh@100": weak}
        return next(paint_requests(tiny, [request], given, plan, size=(16, 16), batch_size=1, rows=shape.rows))

    with compilations("sample_batch") as programs:
        plain, guided, other = (
            painted(cells[i], weak, name) for i, name in ((0, "linear"), (1, "linear"), (1, "cosine"))
        )
        np.testing.assert_allclose(painted(cells[1], same, "linear"), plain, atol=1e-4)
        of_grid = [picture for _, picture in paint_cells(tiny, cells, styles, shape)]
    assert len(programs) == 1
    np.testing.assert_array_equal(of_grid, [plain, guided])
    different = [plain, guided, other]
    assert all(np.abs(a - b).max() > 1e-3 for i, a in enumerate(different) for b in different[:i])


def test_each_set_of_loras_is_merged_once(tiny, tmp_path):
    """Whatever the order of the cells and the number of their programs."""
    file = write_lora(tmp_path / "a.safetensors", random_layers(tiny.params))
    stacks = read_loras([f"{file}*0.5", "none", f"{file}"], tiny.params, "")
    merged: list[str] = []

    class Recording(StableDiffusion):
        def with_loras(self, loras):
            merged.append(str(loras))
            return super().with_loras(loras)

    model = Recording(**{field.name: getattr(tiny, field.name) for field in dataclasses.fields(tiny)})
    cells = cells_for(tiny, TEXTS[:1], ["gogh"], loras=stacks, guidance=SCALES[7:8], steps=[2, 3])
    assert shape_of(cells, BATCH).batch_size == 1, "a batch has one set"
    shape = Shape(BATCH, [0, 1, 2, 3])
    mixed = cells[::2] + cells[1::2]
    pictures = {cell.id: picture for cell, picture in paint_cells(model, mixed, STYLES, shape, loras=stacks)}
    assert sorted(merged) == sorted(map(str, stacks))
    for cell in cells[::5]:
        alone = tiny.with_loras(cell.loras)
        (same,) = cells_for(alone, TEXTS[:1], ["gogh"], guidance=SCALES[7:8], steps=[cell.steps])
        assert same.id == cell.id
        ((_, picture),) = paint_cells(alone, [same], STYLES, shape)
        np.testing.assert_array_equal(picture, pictures[cell.id])


class Unreadable:
    """Pictures whose program ran out of memory after it was started."""

    def __array__(self, *_, **__):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 9 bytes.")


@pytest.mark.parametrize("late", [False, True])
def test_a_grid_that_exhausts_memory_goes_on_in_smaller_batches(tiny, late):
    cells = cells_for(tiny, TEXTS[:1], ["gogh"], guidance=SCALES[7:8], steps=[2, 3], seeds=range(7))
    tried: list[int] = []

    def small(*arguments, **options) -> Any:
        tried.append(len(arguments[-1].seeds))
        if tried[-1] <= 2:
            return sample_batch(*arguments, **options)
        return Unreadable() if late else Unreadable().__array__()

    with pytest.warns(UserWarning) as warned:
        painted = list(paint_cells(tiny, cells, STYLES, shape_of(cells, 4), sample=small))
    assert [str(warning.message) for warning in warned] == [
        "4 pictures at once need more memory than cpu has; painting 2 at once (--batch_size 2 begins with that)"
    ]
    assert tried == [4] * (2 if late else 1) + [2] * 8, "what was found is kept for the other programs"
    assert [cell.id for cell, _ in painted] == [cell.id for cell in sorted(cells, key=lambda cell: cell.steps)]
    expected = paint(tiny, cells, Shape(2, shape_of(cells, 4).rows))
    for cell, picture in painted:
        np.testing.assert_array_equal(picture, expected[cell.id])


def test_a_picture_that_does_not_fit_and_other_errors_end_the_grid(tiny):
    cells = cells_for(tiny, TEXTS[:1], ["gogh"], guidance=SCALES[7:8], steps=[2], seeds=range(2))

    def never(message):
        def sample(*_, **__):
            raise jax.errors.JaxRuntimeError(message)

        return list(paint_cells(tiny, cells, STYLES, shape_of(cells, 2), sample=sample))

    with pytest.warns(UserWarning), pytest.raises(UserError, match="even one picture needs more memory than cpu has"):
        never("RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm")
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
        never("INTERNAL: broken")


def test_the_shape_of_a_grid(tiny):
    guidance = [cfg_guidance(1), cfg_guidance(3)]
    cells = cells_for(tiny, seeds=range(5), steps=[3, 4], solvers=["ddim", "euler"], guidance=guidance)
    assert shape_of(cells, 8) == (8, [0, 1], False)
    assert shape_of(cells, 1024).batch_size == 20, "as many as there are for one solver and number of steps"
    assert shape_of(cells_for(tiny, guidance=[cfg_guidance(1)]), 8).rows == [1]
    assert shape_of(cells_for(tiny, guidance=[paper_guidance(5, 3, 3)]), 8).rows == [0, 1]
    both = [paper_guidance(5, 3, 3), paper_guidance(5, 2, 3)]
    assert shape_of(cells_for(tiny, guidance=both), 8).rows == [0, 1, 2, 3]


class RecordingTokenizer:
    """A tokenizer that remembers the texts between placeholders that it has seen, by the call."""

    def __init__(self, tokenizer: Any):
        self._tokenizer, self.seen = tokenizer, []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)

    def words(self, text: str) -> list[int]:
        self.seen.append(text)
        return self._tokenizer.words(text)


@pytest.mark.parametrize(
    ("guidance", "distinct", "stages"), [(cfg_guidance(3.5), 21, 5), (paper_guidance(5, 1, 3), 42, 7)]
)
def test_distinct_prompts_are_encoded_once_and_always_as_many_at_once(tiny, guidance, distinct, stages):
    """Null and style-only prompts are shared. Those of rows without weight are not encoded, nor need they be valid."""
    tokenizer = RecordingTokenizer(tiny.tokenizer)
    model = dataclasses.replace(tiny, tokenizers={"clip_l": tokenizer})
    styles = {"gogh": Style("gogh", {"clip_l": np.ones((stages, 1, WIDTH))})}  # so many stages only here
    cells = cells_for(
        tiny, [f"a drawing of dog {i} by {{}}" for i in range(20)], ["gogh"], seeds=range(3), guidance=[guidance]
    )
    requests = [Request(cell.texts, cell.weights, cell.seed) for cell in cells]
    rows = shape_of(cells, 8).rows
    options: dict[str, Any] = dict(batch_size=8, rows=rows, encoder=ContentEncoder(model))
    with compilations("encode_tokens") as programs:
        batches = list(prepare_batches(model, requests, styles, **options))
    assert len(programs) == 1, "calls of different sizes would be several"
    texts = dict.fromkeys(cell.texts[row] for cell in cells for row in rows)
    assert len(texts) == distinct
    assert len([text for text in tokenizer.seen if "dog" in text]) == len([text for text in texts if "dog" in text])
    counted = [(batch, i) for count, batch in batches for i in range(count)]
    for cell, (batch, i) in zip(cells, counted, strict=True):
        assert batch.seeds[i] == cell.seed
        np.testing.assert_array_equal(batch.weights[:, i], cell.weights[rows])
    for number in (0, 17, 59):
        expected = encode(tiny, [cells[number].texts[row] for row in rows], styles)
        batch, i = counted[number]
        np.testing.assert_allclose(batch.conditioning.states[:, i], expected.states, atol=1e-5)
