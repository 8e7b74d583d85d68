"""Where the wall time goes, traces of a window, and locks on folders."""

import time
import warnings

import jax
import jax.numpy as jnp
import pytest

from dreamstyler_jax.runtime.errors import UserError
from dreamstyler_jax.runtime.goodput import KINDS, Goodput
from dreamstyler_jax.runtime.locks import only_process
from dreamstyler_jax.runtime.profiling import traced


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


def test_a_trace_shows_the_window_and_nothing_else(tmp_path):
    def work():
        for number in range(4):
            with jax.profiler.TraceAnnotation(f"piece {number}"):
                pass
            yield number

    assert list(traced(work(), str(tmp_path), first=1, count=2)) == [0, 1, 2, 3]
    (trace,) = tmp_path.rglob("*.xplane.pb")
    names = [f"piece {number}".encode() in trace.read_bytes() for number in range(4)]
    assert names == [False, True, True, False]
    assert list(tmp_path.rglob("perfetto_trace.json.gz"))


def test_too_short_a_run_is_not_traced_silently(tmp_path):
    with pytest.warns(UserWarning, match="nothing was traced"):
        assert list(traced(range(2), str(tmp_path), first=2)) == [0, 1]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert list(traced(range(2), "", first=2)) == [0, 1]


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
