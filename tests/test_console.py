"""Progress on a terminal and in a log."""

import time

from dreamstyler_jax.runtime import console


def test_in_a_log_progress_is_a_line_now_and_then(capsys, monkeypatch):
    monkeypatch.setattr(console, "LOG_EVERY", 0.2)
    seen = []
    for item in console.progress(range(10), "painting", 10, "picture"):
        seen.append(item)
        time.sleep(0.1)
    assert seen == list(range(10))
    lines = capsys.readouterr().err.splitlines()
    assert 2 <= len(lines) <= 6 and all(line.startswith("painting") and "picture" in line for line in lines)
    assert "\r" not in "".join(lines)


def test_a_short_run_leaves_the_log_alone(capsys):
    assert list(console.progress(range(3), "painting", 3, "picture")) == [0, 1, 2]
    assert capsys.readouterr().err == ""
