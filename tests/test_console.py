"""What commands say on a terminal or in a log: warnings, and what they are about to do."""

import os
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


DAMAGED = """
import sys
import numpy as np
from pathlib import Path
from dreamstyler_jax import __main__
from dreamstyler_jax.runtime.checkpoints import open_checkpoints
__main__.set_up()
state, folder = [np.ones(64, np.float32)] * 12, Path(sys.argv[1])
with open_checkpoints(folder) as checkpoints:
    checkpoints.save(1, state)
for file in (folder / "1").rglob("d/*"):
    data = bytearray(file.read_bytes())
    data[-20] ^= 1
    file.write_bytes(data)
with open_checkpoints(folder) as checkpoints:
    for _ in range(10):
        assert checkpoints.restore(state) is None
"""


def test_a_damaged_checkpoint_is_a_line_and_no_traceback_of_the_reads_beside_the_one_that_failed(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    words = [sys.executable, "-c", DAMAGED, str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, env=environment, check=True)
    assert set(done.stderr.splitlines()) == {"warning: the checkpoint of step 1 is damaged; using an older one"}


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
