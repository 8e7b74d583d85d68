"""Progress on a terminal and in a log."""

import io
import re
import sys
import time

import jax
import jax.numpy as jnp

from dreamstyler_jax.runtime.progress import TrainingProgress, progress

COMPILING = 1.0  # seconds, at least, of tracing `slow_to_compile`


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def slow_to_compile() -> None:
    """Compiles a program that no call before has compiled."""

    def traced(x):
        time.sleep(COMPILING)
        return x + 1

    jax.jit(traced)(jnp.zeros(()))


def seconds_in(text: str) -> float:
    """The seconds in ``01:23``."""
    minutes, seconds = text.split(":")
    return 60 * int(minutes) + int(seconds)


# Progress of items


def test_in_a_log_progress_is_a_line_now_and_then(capsys):
    seen = []
    for item in progress(range(10), "painting", 10, "picture", log_every=0.2):
        seen.append(item)
        time.sleep(0.1)
    assert seen == list(range(10))
    lines = capsys.readouterr().err.splitlines()
    assert 2 <= len(lines) <= 6 and all(line.startswith("painting") and "picture" in line for line in lines)
    assert "\r" not in "".join(lines)


def test_a_short_run_logs_nothing(capsys):
    assert list(progress(range(3), "painting", 3, "picture")) == [0, 1, 2]
    assert capsys.readouterr().err == ""


def test_the_rate_and_the_time_left_do_not_count_compiling(capsys):
    def items():
        slow_to_compile()
        yield from range(10)

    for _ in progress(items(), "painting", 100, "picture", log_every=0.01):
        time.sleep(0.02)
    *_, last = capsys.readouterr().err.splitlines()
    found = re.search(r"\[(.*)<(.*), +(.*)picture/s\]", last)
    assert found
    elapsed, left, rate = found.groups()
    assert float(rate) > 10 / COMPILING, "the rate with compiling is less"
    assert seconds_in(elapsed) < 0.9 * COMPILING and seconds_in(left) < 90 * COMPILING / 10


def test_on_a_terminal_progress_is_a_bar(monkeypatch):
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    assert list(progress(range(3), "painting", 3, "picture")) == [0, 1, 2]
    assert "\r" in terminal.getvalue() and "3/3" in terminal.getvalue()


# Progress of a training


def show_steps(steps, start=0):
    with TrainingProgress(100, start) as shown:
        for step in steps:
            shown.show(step, 1 / step)


def test_in_a_log_each_call_is_a_line(capsys):
    show_steps([10, 20])
    assert [line.split("  ")[:2] for line in capsys.readouterr().err.splitlines()] == [
        ["step 10/100", "loss 0.1000"],
        ["step 20/100", "loss 0.0500"],
    ]


def test_on_a_terminal_a_bar_counts_from_the_start_on(monkeypatch):
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    show_steps([60, 100], start=50)
    assert "50/100" in terminal.getvalue()
    assert "100/100" in terminal.getvalue() and "loss=0.0100" in terminal.getvalue()
    assert "step 60/100" not in terminal.getvalue()


def test_nothing_is_shown_if_disabled(capsys):
    with TrainingProgress(10, enabled=False) as shown:
        shown.show(5, 0.1)
    assert capsys.readouterr().err == ""


def test_the_time_left_of_a_training_does_not_count_compiling(capsys):
    with TrainingProgress(1000) as shown:
        slow_to_compile()
        shown.show(10, 0.1)
    (line,) = capsys.readouterr().err.splitlines()
    left = re.fullmatch(r"step 10/1000  loss 0.1000  (.*) left", line)
    assert left and seconds_in(left[1]) < 99 * COMPILING / 2


def test_a_training_that_may_end_earlier_says_so(capsys):
    with TrainingProgress(1000, at_most=True) as shown:
        shown.show(10, 0.1)
    line = capsys.readouterr().err.strip()
    assert re.fullmatch(r"step 10/at most 1000  loss 0.1000  at most .* left", line)
