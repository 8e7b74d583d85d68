"""The log of a training run, and the chart of its loss."""

import io
import json
import shutil
import struct

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image
from script_tools import largest_file
from tensorboardX.proto.event_pb2 import Event  # type: ignore[attr-defined]  # made when it is imported

from dreamstyler_jax.commands.loss_curves import draw_loss
from dreamstyler_jax.commands.run_log import RunLog, read_metrics
from dreamstyler_jax.runtime.charts import INK, ramp
from dreamstyler_jax.runtime.errors import UserError


def write_steps(folder, steps, start=0, **more):
    with RunLog(folder, start) as log:
        for step in steps:
            log.write(step, {"loss": 1 / step, **more})


def events(folder):
    """The TensorBoard events in ``folder``, to which a single process has written, in order."""
    (path,) = (folder / "tensorboard").iterdir()
    data = path.read_bytes()
    while data:  # a record: its length as uint64, a checksum of 4 bytes, the event, a checksum
        (length,) = struct.unpack("<Q", data[:8])
        yield Event.FromString(data[12 : 12 + length])
        data = data[16 + length :]


def scalars(folder):
    return [(event.step, value.tag, value.simple_value) for event in events(folder) for value in event.summary.value]


def test_metrics_are_on_the_disk_as_soon_as_they_are_written(tmp_path):
    with RunLog(tmp_path) as log:
        stage_loss = np.array([0.5, np.nan], np.float32)
        log.write(10, {"loss": np.float32(0.1), "stage_loss": stage_loss, "grad_norm": 3})
        text = (tmp_path / "metrics.jsonl").read_text()
        assert json.loads(text) == {"step": 10, "loss": 0.1, "stage_loss": [0.5, None], "grad_norm": 3.0}
        expected = [(10, "loss", pytest.approx(0.1)), (10, "stage_loss/0", 0.5), (10, "grad_norm", 3.0)]
        assert scalars(tmp_path) == expected, "TensorBoard's points as well"


def test_shares_have_a_curve_each(tmp_path):
    write_steps(tmp_path, [10], goodput={"steps": 0.75, "idle": 0.25})
    assert read_metrics(tmp_path / "metrics.jsonl")[0]["goodput"] == {"steps": 0.75, "idle": 0.25}
    assert scalars(tmp_path)[1:] == [(10, "goodput/steps", 0.75), (10, "goodput/idle", 0.25)]


def test_a_file_that_cannot_be_written_is_named(tmp_path):
    refused = pytest.raises(OSError, match=r"File too large: '.*(tensorboard|metrics\.jsonl)'")
    with RunLog(tmp_path) as log, largest_file(500), refused:
        for step in range(10, 1000, 10):
            log.write(step, {"loss": 1})
    assert read_metrics(tmp_path / "metrics.jsonl"), "what was logged before is whole"


def test_a_resumed_run_logs_no_step_twice(tmp_path):
    write_steps(tmp_path, [10, 20, 30, 40])
    write_steps(tmp_path, [30, 40], start=20, again=1)
    metrics = read_metrics(tmp_path / "metrics.jsonl")
    assert [line["step"] for line in metrics] == [10, 20, 30, 40]
    assert ["again" in line for line in metrics] == [False, False, True, True]


def test_tensorboard_is_told_at_which_step_a_resumed_run_continues(tmp_path):
    write_steps(tmp_path, [10], start=5)
    assert [event.step for event in events(tmp_path) if event.session_log.status] == [6]


def texts(folder):
    return [
        value.tensor.string_val[0].decode()
        for event in events(folder)
        for value in event.summary.value
        if value.tag == "prompts/text_summary"
    ]


def test_tensorboard_has_the_prompts_once_and_the_previews(tmp_path):
    sheet = Image.new("RGB", (6, 4), "red")
    with RunLog(tmp_path, texts={"prompts": "* boat.png: a boat"}) as log:
        log.picture(10, "previews", sheet)
    shown = [(event.step, value) for event in events(tmp_path) for value in event.summary.value]
    ((step, picture),) = [(step, value.image) for step, value in shown if value.tag == "previews"]
    assert step == 10 and np.array_equal(Image.open(io.BytesIO(picture.encoded_image_string)), sheet)
    assert texts(tmp_path) == ["* boat.png: a boat"]
    shutil.rmtree(tmp_path / "tensorboard")
    with RunLog(tmp_path, 10, texts={"prompts": "* boat.png: a boat"}):
        assert texts(tmp_path) == []


class Board:
    """Keeps what it is shown."""

    def __init__(self):
        self.shown = []

    def numbers(self, step, values):
        self.shown.append((step, values))

    def picture(self, step, tag, picture):
        self.shown.append((step, tag, picture.size))

    def close(self, *, failed):
        self.shown.append(failed)


def test_further_boards_are_shown_the_same(tmp_path):
    board = Board()
    with RunLog(tmp_path, boards=[board]) as log:
        log.write(10, {"loss": 0.5, "stage_loss": [0.25, np.nan]})
        log.picture(10, "previews", Image.new("RGB", (6, 4)))
    assert board.shown == [(10, {"loss": 0.5, "stage_loss/0": 0.25}), (10, "previews", (6, 4)), False]
    with pytest.raises(KeyboardInterrupt), RunLog(tmp_path, boards=[board]):
        raise KeyboardInterrupt
    assert board.shown[-1] is True


def test_a_run_that_starts_again_has_an_empty_log(tmp_path):
    write_steps(tmp_path, [10, 20])
    write_steps(tmp_path, [])
    assert read_metrics(tmp_path / "metrics.jsonl") == []


def test_a_line_that_a_killed_process_wrote_in_part_is_dropped(tmp_path):
    write_steps(tmp_path, [10, 20])
    path = tmp_path / "metrics.jsonl"
    path.write_text(path.read_text() + '{"step": 30, "lo')
    assert [line["step"] for line in read_metrics(path)] == [10, 20]
    write_steps(tmp_path, [30], start=20)
    assert [line["step"] for line in read_metrics(path)] == [10, 20, 30]


@pytest.mark.parametrize("line", ["{", "3", '{"step": 1}', '{"loss": 1}', '{"step": "x", "loss": 1}'])
def test_a_damaged_line_is_named_and_nothing_is_changed(line, tmp_path):
    path = tmp_path / "metrics.jsonl"
    content = '{"step": 1, "loss": 2}\n' + line + "\n"
    path.write_text(content)
    with pytest.raises(UserError, match=r"line 2 of .*metrics\.jsonl is damaged"):
        RunLog(tmp_path, 50)
    assert path.read_text() == content


@pytest.mark.parametrize("name", ["loss", "grad_norm"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_loss_that_is_not_finite_stops_the_run_and_is_not_logged(name, value, tmp_path):
    with RunLog(tmp_path) as log:
        log.write(10, {"loss": 1.0, "grad_norm": 1.0})
        before = (tmp_path / "metrics.jsonl").read_text()
        with pytest.raises(UserError, match=rf"{name} is {value} at step 20.*tenth of the --learning_rate.*float32"):
            log.write(20, {"loss": 1.0, "grad_norm": 1.0, name: value})
    assert (tmp_path / "metrics.jsonl").read_text() == before
    assert {step for step, _, _ in scalars(tmp_path)} == {10}


# The chart


def metrics_of(stage_losses, n=50):
    return [{"step": 10 * i, "loss": 0.1, "stage_loss": stage_losses} for i in range(1, n + 1)]


def rows_of(image, colour, x):
    """Rows of the pixels in column ``x`` that have about this colour."""
    column = np.asarray(image, int)[:, x]
    return np.flatnonzero(np.abs(column - 255 * np.array(to_rgb(colour))).max(-1) < 40)


def test_every_stage_has_its_curve_at_its_height(tmp_path):
    """Whatever their levels, all begin at 1: the stages end at 1, 0.9 and 0.8, all timesteps at 0.95."""
    metrics, ends = metrics_of([0.4, 0.02, 3.0]), [1, 0.95, 0.9, 0.8]
    for line in metrics[25:]:
        line |= {"loss": 0.1 * 0.95, "stage_loss": [0.4, 0.9 * 0.02, 0.8 * 3.0]}
    draw_loss(metrics, tmp_path / "loss.png")
    image = Image.open(tmp_path / "loss.png")
    assert image.size == (1280, 720) and image.mode == "RGB"
    colours = [ramp(3)[0], INK, *ramp(3)[1:]]
    rows = [rows_of(image, colour, 800).mean() for colour in colours]
    scale = (rows[3] - rows[0]) / (ends[0] - ends[3])
    assert scale > 100
    assert rows == pytest.approx([rows[0] + scale * (ends[0] - end) for end in ends], abs=2)


def test_a_stage_without_samples_at_some_steps_still_has_a_whole_curve(tmp_path):
    metrics = metrics_of([0.4, 0.2])
    for line in metrics:
        line["loss"] -= line["step"] / 10_000  # so that its curve is elsewhere
    for line in metrics[::2] + metrics[20:23]:
        line["stage_loss"] = [0.4, None]
    draw_loss(metrics, tmp_path / "loss.png")
    image = Image.open(tmp_path / "loss.png")
    rows = [rows_of(image, ramp(2)[1], x).mean() for x in range(300, 1000, 10)]
    assert np.ptp(rows) <= 1  # smoothing over the gaps keeps a constant constant


@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("stages", [0, 1, 50])
def test_short_runs_and_any_number_of_stages_can_be_drawn(n, stages, tmp_path):
    draw_loss(metrics_of([0.1 + 0.01 * i for i in range(stages)], n), tmp_path / "loss.png")
    inside = Image.open(tmp_path / "loss.png").crop((100, 100, 1000, 630))
    assert any(rows_of(inside, INK, x).size for x in range(inside.width))


def test_a_failed_drawing_leaves_the_old_chart(tmp_path):
    path = tmp_path / "loss.png"
    path.write_text("old")
    for metrics in [], [{"step": 1, "loss": 0.0}]:
        with pytest.raises(ValueError):
            draw_loss(metrics, path)
    assert path.read_text() == "old"
