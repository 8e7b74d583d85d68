"""Where the wall time goes, traces of a window, and locks on folders."""

import time
import warnings

import jax
import jax.numpy as jnp
import pytest
from fake_bucket import bucket

from dreamstyler_jax.runtime.errors import UserError
from dreamstyler_jax.runtime.goodput import KINDS, Goodput
from dreamstyler_jax.runtime.locks import only_process
from dreamstyler_jax.runtime.profiling import tracing


def slow_numbers(count, seconds):
    for number in range(count):
        time.sleep(seconds)
        yield number


def test_shares_say_what_the_time_was_spent_on():
    clock = Goodput()
    with clock.spending("checkpoint"):
        time.sleep(0.1)
    for _ in clock.each("steps", slow_numbers(4, 0.05)):
        time.sleep(0.1)  # what a step's results are used for does not count as steps
    shares = clock.shares()
    assert list(shares) == [*KINDS, "idle"]
    assert sum(shares.values()) == pytest.approx(1, abs=1e-3)
    expected = {"checkpoint": 1 / 7, "steps": 2 / 7, "idle": 4 / 7}
    assert shares == pytest.approx(dict.fromkeys(KINDS, 0) | expected, abs=0.1)
    assert str(clock).startswith("Time 00:00: steps 2") and "idle 5" in str(clock)


def test_compiling_counts_by_itself():
    clock = Goodput()
    with clock.spending("steps"):
        jax.jit(lambda x: jnp.sin(x) * 3 + jnp.cos(x))(jnp.ones(3)).block_until_ready()
    shares = clock.shares()
    assert shares["compile"] > shares["steps"] and shares["compile"] > 0.2


def pieces(*numbers):
    for number in numbers:
        with jax.profiler.TraceAnnotation(f"piece {number}"):
            pass
        yield number


def test_a_trace_shows_the_window_and_nothing_else(tmp_path, capsys):
    """Also if the warm-up ends in what is tried again."""
    folder = tmp_path / "traces"
    with tracing(str(folder)) as window:
        for numbers in ([0, 1], [2, 3, 4]):
            assert list(window.over(pieces(*numbers), first=2, count=2)) == numbers
    (trace,) = folder.rglob("*.xplane.pb")
    names = [f"piece {number}".encode() in trace.read_bytes() for number in range(5)]
    assert names == [False, False, True, True, False]
    (perfetto,) = folder.rglob("perfetto_trace.json.gz")
    said = f"The trace is in {folder}: xprof --logdir {folder}, or {perfetto} at https://ui.perfetto.dev\n"
    assert capsys.readouterr().out == said


def test_a_trace_goes_into_a_bucket(tmp_path):
    with bucket(tmp_path) as store:
        with tracing("gs://styles/traces") as window:
            list(window.over(pieces(0, 1), first=0))
        assert sum(name.startswith("styles/traces/plugins/profile/") for name in store.objects) >= 2


def test_where_no_trace_can_be_written_nothing_is_begun(tmp_path):
    (tmp_path / "boat.png").write_bytes(b"")
    refused = pytest.raises(UserError, match=r"^profile: .*boat.png is a file; choose another folder$")
    with refused, tracing(str(tmp_path / "boat.png")):
        raise AssertionError


@pytest.mark.parametrize("counts", [[], [2]])
def test_too_short_a_run_is_not_traced_silently_and_leaves_no_folder(tmp_path, counts):
    with pytest.warns(UserWarning, match="nothing was traced"), tracing(str(tmp_path / "traces")) as window:
        for count in counts:
            assert list(window.over(range(count), first=2)) == [*range(count)]
    assert not (tmp_path / "traces").exists()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with tracing("") as window:
            assert list(window.over(range(2), first=2)) == [0, 1]


def test_a_folder_belongs_to_one_process_at_a_time(tmp_path):
    folder = tmp_path / "run"
    with only_process(folder):
        with (
            pytest.raises(UserError, match=r"another process is writing .*run: wait for its end"),
            only_process(folder),
        ):
            pass
        with only_process(tmp_path / "other"):
            pass
    with only_process(folder):
        pass
