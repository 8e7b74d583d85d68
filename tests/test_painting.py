"""From requests to pictures: batches, rows of guidance, prompts and contents."""

import os
import signal

import jax
import numpy as np
import pytest
from compilations import compilations
from PIL import Image
from tiny_model import write_controlnet

from dreamstyler_jax import guidance
from dreamstyler_jax.encoding import encode
from dreamstyler_jax.guidance import ROWS
from dreamstyler_jax.painting import Request, needed_rows, paint_requests, prepare_batches, with_stages_of
from dreamstyler_jax.runtime import images
from dreamstyler_jax.runtime.interruption import listening, patiently
from dreamstyler_jax.sampling import plan_steps
from dreamstyler_jax.solvers import solver_table
from dreamstyler_jax.style import Style
from dreamstyler_jax.transfer import ContentEncoder, Net, make_content, with_nets

STEPS, BATCH, SIZE = 4, 8, (16, 16)
NULL, FULL = ROWS.index("null"), ROWS.index("full")
HOUSE = ("", "a house in the style of {gogh}", "a house", "A painting in the style of {gogh}")
DOG = ("blurry", "a dog by {gogh}", "a dog", "A painting in the style of {gogh}")
STYLES = {"gogh": Style("gogh", np.random.default_rng(0).standard_normal((3, 1, 16)))}


@pytest.fixture(scope="module")
def plan(tiny):
    return plan_steps(solver_table("dpmpp_2m", tiny.networks.schedule, STEPS))


@pytest.fixture(scope="module")
def paint(tiny, plan):
    """The pictures of requests, as one array."""

    def paint(requests, *, model=tiny, batch_size=BATCH, **options):
        painted = paint_requests(model, requests, STYLES, plan, size=SIZE, batch_size=batch_size, **options)
        return np.stack(list(painted))

    return paint


@pytest.fixture(scope="module")
def batches_of(tiny):
    """The batches of requests, each with the number of its pictures that count."""

    def batches_of(requests, *, model=tiny, batch_size=BATCH, rows=(NULL, FULL), encoder=None):
        encoder = encoder or ContentEncoder(model)
        return prepare_batches(model, requests, STYLES, batch_size=batch_size, rows=rows, encoder=encoder)

    return batches_of


def noise_content(seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (16, 16, 3), np.uint8)
    return make_content(Image.fromarray(pixels), f"noise {seed}", 16, 4)


def difference(ours, others):
    """The largest difference of a pixel, of 255."""
    ours, others = (np.asarray(images.to_image(image), np.int32) for image in (ours, others))
    return np.abs(ours - others).max()


# A picture by itself


def test_styles_with_other_numbers_of_stages_change_no_picture(tiny, plan, paint):
    """Their rows are where a stage of one of them begins, not as many as the least common multiple."""
    both = {**STYLES, "wave": Style("wave", np.random.default_rng(1).standard_normal((2, 1, 16)))}
    steps = with_stages_of(plan, both)
    timesteps = plan.solver.timesteps
    rows = [sum(bool(t >= begin) for begin in (1000 / 3, 500, 2000 / 3)) for t in timesteps]
    np.testing.assert_array_equal(steps.stages, rows)
    assert with_stages_of(plan, STYLES) is plan, "and no other program where all have as many"
    requests = [Request(HOUSE, guidance.cfg(3.0), 0), Request(DOG, guidance.cfg(3.0), 1)]
    together = list(paint_requests(tiny, requests, both, plan, size=SIZE, batch_size=BATCH))
    for one, other in zip(paint(requests), together, strict=True):
        assert difference(one, other) <= 1


def test_a_picture_does_not_depend_on_its_batch(paint):
    """It is the same alone, among eight, in another order, or before the copies that fill up the last batch."""
    requests = [Request(HOUSE if seed % 3 else DOG, guidance.cfg(1.5 + seed), seed) for seed in range(BATCH + 3)]
    alone = paint(requests, batch_size=1)
    together = paint(requests)
    backwards = paint(requests[::-1])[::-1]
    assert len(alone) == len(together) == len(backwards) == len(requests)
    for one, other, another in zip(alone, together, backwards, strict=True):
        assert difference(one, other) <= 1
        assert difference(one, another) <= 1
    assert difference(alone[0], alone[1]) > 10


def test_a_picture_does_not_depend_on_the_prompts_encoded_with_it(paint):
    """It is bit for bit the same with few prompts and with many, which are encoded in several calls."""
    request = Request(HOUSE, guidance.cfg(3), 3)
    (alone,) = paint([request])
    others = [request._replace(prompts=(f"no {i}", f"{i} dogs by {{gogh}}", *HOUSE[2:])) for i in range(30)]
    with compilations() as programs:
        before, among, after = paint([request, *others])[0], paint([*others[:20], request]), paint([*others, request])
    np.testing.assert_array_equal(before, alone)
    np.testing.assert_array_equal(among[-1], alone)
    np.testing.assert_array_equal(after[-1], alone)
    assert difference(among[0], among[1]) > 0, "the other prompts matter to their pictures"
    assert not [name for name in programs if name in ("jit(encode_tokens)", "jit(sample_batch)")]


def test_a_process_that_is_told_to_stop_yields_what_it_has_begun(tiny, plan):
    """While the first picture is taken, the second batch is being painted; the third does not begin."""
    requests = [Request(HOUSE, guidance.cfg(3), seed) for seed in range(4 * BATCH)]
    begun, painted = [], []

    def sample(*arguments, **options):
        begun.append(1)
        return np.zeros((BATCH, *SIZE, 3), np.float32)

    pictures = paint_requests(tiny, requests, STYLES, plan, size=SIZE, batch_size=BATCH, sample=sample)
    with listening(lambda: None), patiently("stopping"), pytest.raises(KeyboardInterrupt):
        for picture in pictures:
            painted.append(picture)
            if len(painted) == 1:
                os.kill(os.getpid(), signal.SIGTERM)
    assert (len(begun), len(painted)) == (2, 2 * BATCH)


# Rows of guidance


@pytest.mark.parametrize(
    ("weights", "rows"),
    [
        ([guidance.cfg(5)], [0, 1]),
        ([guidance.cfg(1)], [1]),
        ([guidance.cfg(0)], [0]),
        ([guidance.paper(5, 2, 2)], [0, 1]),
        ([guidance.release(5, 1.5, 1.5)], [0, 1]),
        ([guidance.paper(5, 1, 3)], [0, 1, 2, 3]),
        ([guidance.cfg(5), guidance.paper(5, 1, 3)], [0, 1, 2, 3]),
    ],
)
def test_rows_without_weight_are_not_needed(weights, rows):
    assert needed_rows(weights, partly_guided=False) == rows
    assert needed_rows(weights, partly_guided=True) == sorted({*rows, FULL})


@pytest.mark.parametrize("rows", [[0, 1], [1], [0, 1, 2, 3]])
def test_only_the_rows_asked_for_are_computed(tiny, batches_of, rows):
    weights = [guidance.cfg(5), guidance.paper(5, 1, 3)]
    requests = [Request(HOUSE, weights[0], 7), Request(DOG, weights[1], 2**32 - 1)]
    ((count, batch),) = batches_of(requests, batch_size=2, rows=rows)
    assert count == 2
    assert batch.content is None
    np.testing.assert_array_equal(batch.weights, np.stack(weights, 1)[rows])
    assert batch.seeds.tolist() == [7, 2**32 - 1] and batch.seeds.dtype == np.uint32
    texts = [[request.prompts[row] for request in requests] for row in rows]
    for row, prompts in zip(batch.conditioning.states, texts, strict=True):
        np.testing.assert_allclose(row, encode(tiny, prompts, STYLES).states, atol=2e-5)


def test_a_row_that_other_pictures_of_a_grid_need_changes_nothing(paint):
    request = Request(HOUSE, guidance.cfg(3), 3)
    (few,), (all_rows,) = paint([request]), paint([request], rows=range(4))
    assert difference(few, all_rows) <= 1


# Batches, one after another


def test_the_last_batch_is_filled_up_with_copies(batches_of):
    batches = list(batches_of([Request(HOUSE, guidance.cfg(5), seed) for seed in range(11)], batch_size=2))
    assert [count for count, _ in batches] == [2, 2, 2, 2, 2, 1]
    assert [batch.seeds.tolist() for _, batch in batches] == [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9], [10, 10]]
    assert {batch.weights.shape for _, batch in batches} == {(2, 2)}


class RecordingEncoder(ContentEncoder):
    """Records which contents are encoded, in order."""

    def __init__(self, model):
        super().__init__(model)
        self.names = []

    def encode(self, content):
        self.names.append(content.name)
        return super().encode(content)


def test_while_a_picture_is_taken_the_next_batch_is_prepared_but_no_more(tiny, plan):
    """So contents are encoded when their batch is prepared."""
    contents = [noise_content(seed) for seed in range(7)]
    requests = [Request(HOUSE, guidance.cfg(1), 0, content) for content in contents]
    encoder = RecordingEncoder(tiny)
    painted = paint_requests(tiny, requests, STYLES, plan, size=SIZE, batch_size=2, encoder=encoder)
    assert not encoder.names
    begun = [len(encoder.names) for _ in painted]
    assert begun == [4, 4, 6, 6, 8, 8, 8]
    assert encoder.names == [content.name for content in contents] + [contents[-1].name]


def test_without_requests_there_are_no_batches(batches_of):
    assert list(batches_of([])) == []


# Contents and ControlNets


@pytest.fixture(scope="module")
def controlnet(tmp_path_factory):
    return write_controlnet(tmp_path_factory.mktemp("controlnet"))


@pytest.fixture(scope="module")
def nets(controlnet):
    return [Net("edges", 1.0, str(controlnet))]


def test_contents_stand_in_their_pictures_place(tiny, batches_of):
    contents = [noise_content(seed) for seed in range(2)]
    encoder = ContentEncoder(tiny)
    requests = [Request(HOUSE, guidance.cfg(5), 0, content) for content in contents]
    ((_, batch),) = batches_of(requests, batch_size=2, encoder=encoder)
    expected = np.stack([encoder.encode(content).latents for content in contents])
    np.testing.assert_array_equal(batch.content.latents, expected)
    assert batch.content.maps == () and batch.content.scales is None


@pytest.mark.parametrize("guess_mode", [False, True])
def test_in_guess_mode_controlnets_leave_the_null_prompt_alone(tiny, batches_of, nets, guess_mode):
    model = with_nets(tiny, nets, guess_mode=guess_mode)
    encoder = ContentEncoder(model, nets)
    scales = [encoder.control_scales(0.5 + seed, (0, 1), STEPS) for seed in range(2)]
    requests = [Request(HOUSE, guidance.cfg(5), 0, noise_content(seed), scales[seed]) for seed in range(2)]
    ((_, batch),) = batches_of(requests, model=model, batch_size=2, encoder=encoder)
    assert batch.content.scales.shape == (2, STEPS, 2, 1)
    np.testing.assert_array_equal(batch.content.scales[:, :, 1], scales)
    np.testing.assert_array_equal(batch.content.scales[:, :, 0], np.zeros_like(scales) if guess_mode else scales)
    (edges,) = batch.content.maps
    assert edges.shape == (2, *SIZE, 3)
    np.testing.assert_array_equal(edges[1], encoder.control_maps(requests[1].content)[0])


def test_a_picture_of_the_null_prompt_is_controlled_except_in_guess_mode(tiny, paint, nets):
    content = noise_content(0)
    (without,) = paint([Request(HOUSE, guidance.cfg(0), 0, content)], batch_size=1)

    def controlled(guess_mode):
        model = with_nets(tiny, nets, guess_mode=guess_mode)
        encoder = ContentEncoder(model, nets)
        request = Request(HOUSE, guidance.cfg(0), 0, content, encoder.control_scales(1, (0, 1), STEPS))
        return paint([request], model=model, batch_size=1, encoder=encoder)[0]

    assert difference(controlled(True), without) <= 1
    assert difference(controlled(False), without) > 2


def test_all_batches_have_one_shape(batches_of):
    requests = [Request(HOUSE, guidance.cfg(5), seed) for seed in range(5)]
    batches = [batch for _, batch in batches_of(requests, batch_size=2)]
    shapes = {(jax.tree.structure(batch), *(leaf.shape for leaf in jax.tree.leaves(batch))) for batch in batches}
    assert len(batches) == 3 and len(shapes) == 1
