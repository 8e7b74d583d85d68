"""What commands say on a terminal or in a log: warnings, and what they are about to do."""

import re
import subprocess
import sys
import warnings
from pathlib import Path

import jax

from dreamstyler_jax.runtime import console


def test_a_warning_is_one_line(monkeypatch, capsys):
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    console.plain_warnings()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("two\n  lines", stacklevel=1)
    assert capsys.readouterr().err == "warning: two lines\n"


def test_an_announcement_says_the_model_the_devices_and_that_jax_compiles(capsys):
    console.announce("a model", "one line", "another line")
    printed = capsys.readouterr()
    first, *lines = printed.err.splitlines()
    assert re.fullmatch(rf"'a model' on {jax.local_device_count()} x \w+", first)
    assert lines == ["one line", "another line", "Compiling; later runs of the same shape start faster"]
    assert printed.out == ""


def test_the_command_line_is_read_without_importing_jax():
    code = "import sys, dreamstyler_jax.__main__; print([m for m in ('jax', 'flax', 'torch') if m in sys.modules])"
    root = Path(__file__).parent.parent
    assert subprocess.check_output([sys.executable, "-c", code], text=True, cwd=root) == "[]\n"
