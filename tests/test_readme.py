"""The README as its reader follows it: every command in its order, in one folder.

To save time, training and sampling take few steps and seeds here, commands for a real model get a tiny one, and all
commands and the Python code are run by one process. Other tests start a process for a command.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from readme_tools import commands_of, python_of
from script_tools import ROOT, last_of_each, write_picture
from tiny_model import write_controlnet

README = ROOT / "README.md"
# All commands together take some minutes on a busy machine; the usual limit is meant for small tests.
pytestmark = pytest.mark.timeout(1800)
# Calls the commands one after another, says with which status each ended, and then runs the Python code.
FOLLOW = """
import gc, json, sys
from dreamstyler_jax.__main__ import main
gc.freeze()  # as in tests/memory_tools.py
gc.set_threshold(70_000, 10, 10)
for words in json.loads(sys.argv[1]):
    sys.argv = ["dreamstyler", *words]
    status = 0
    try:
        main()
    except SystemExit as ended:
        status = ended.code or 0
    print("\\nstatus", status, flush=True)
"""
NOT_RUN = {
    "make demo": "installs an environment of its own; run by hand before a release",
    "python3 -m venv .venv": "installs",
    ". .venv/bin/activate": "installs",
    "pip install -e .": "installs",
    "python -m benchmarks.peer_torch": "takes many minutes; tests/test_parity_*.py compare with PyTorch",
}
SHORTER = {
    "train": ["--steps", "4", "--save_every", "4", "--log_every", "2", "--preview_prompts"],
    "sample": ["--steps", "2", "--batch_size", "4"],  # in batches of one size, which share their programs
    "evaluate": [],
    "benchmark": ["--measure", "text", "--repeats", "1"],
}
# As many steps at once as `SHORTER` asks for: the Python code then takes the programs that the commands have compiled.
SHORTER_PYTHON = {"steps=200": "steps=2", "style, guidance=": "style, steps=2, guidance="}
SMALL = {
    "train": ["--resolution", "16", "--dtype", "float32", "--batch_size", "2"],
    "sample": ["--height", "16", "--width", "16", "--dtype", "float32", "--batch_size", "2"],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_folder):
    """What a clone holds for the commands, and what stands for the reader's own files."""
    folder = tmp_path_factory.mktemp("clone")
    for name in ("examples", "configs"):
        shutil.copytree(ROOT / name, folder / name)
    (folder / "model").symlink_to(tiny_folder)
    write_controlnet(folder / "controlnet")
    write_picture(folder / "photo.jpg", 0, (24, 24))
    write_picture(folder / "map.png", 1, (24, 24))
    return folder


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """The environment of a user with an empty cache."""
    kept = {name: value for name, value in os.environ.items() if name != "JAX_ENABLE_COMPILATION_CACHE"}
    return {**kept, "XDG_CACHE_HOME": str(tmp_path_factory.mktemp("cache")), "PYTHONPATH": str(ROOT)}


def shortened(command: str) -> list[str]:
    """The command with fewer steps, a quarter of the seeds of a range and, for a real model, tiny sizes."""
    _, name, *options = shlex.split(command)
    options = [re.sub(r"^0:(\d+)$", lambda seeds: f"0:{int(seeds[1]) // 4}", word) for word in options]
    options = [word.replace("edges=PATH", "edges=controlnet").replace("=PATH", "=controlnet") for word in options]
    options = [word.replace("PATH", "model").replace("runs/PHOTO", "runs/photo") for word in options]
    return [name, *last_of_each([*options, *SHORTER[name], *(SMALL[name] if "PATH" in command else [])])]


def test_every_command_is_run_or_says_why_not():
    commands = commands_of(README)
    assert len(commands) > 15
    others = [command for command in commands if not command.startswith("dreamstyler ")]
    assert set(others) == NOT_RUN.keys()


def test_every_command_and_the_python_code_work_in_their_order(folder, environment):
    commands = [command for command in commands_of(README) if command.startswith("dreamstyler ")]
    # The reader's own model and style come last: one command uses the style before the text comes to learning it.
    commands.sort(key=lambda command: ("PATH" in command, "runs/PHOTO" in command))
    (code,) = python_of(README)
    assert len([line for line in code.splitlines() if line]) == 5
    for written, shorter in SHORTER_PYTHON.items():
        assert written in code
        code = code.replace(written, shorter)
    words = ["-c", FOLLOW + code, json.dumps([shortened(one) for one in commands])]
    streams = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    ended = subprocess.run([sys.executable, *words], cwd=folder, env=environment, timeout=1200, **streams)
    assert ended.returncode == 0 and "Traceback" not in ended.stdout, ended.stdout
    *parts, _ = re.split(r"^status (\d+)$", ended.stdout, flags=re.MULTILINE)
    for command, text, status in zip(commands, parts[::2], parts[1::2], strict=True):
        assert status == "0", f"{command}\n{text}"
        if " sample " in command:
            assert "on sheets in" in text
            assert "does not know" not in text, "the embedded model does not know a word of the prompt"
    for sheet in ("out/boat/grid.png", "out/boat-2/grid.png", "out/boat-flower/grid_001.png", "grid.png"):
        assert np.asarray(Image.open(folder / sheet)).std() > 10
    assert (folder / "out/boat/evaluation.json").exists()
