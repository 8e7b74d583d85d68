"""Does memory grow? The resident set of a grid of 5,000 pictures and of a training of 10,000 steps, from outside.

    python -m benchmarks.memory

Runs ``dreamstyler sample`` and ``dreamstyler train`` with a tiny model, each in a process of its own, and compares the
mean resident set during the first tenth of the pictures or steps with that during the last tenth.
"""

import dataclasses
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dreamstyler_jax.commands.cli import parse, run_and_exit
from dreamstyler_jax.mini.shipped import EXAMPLE_PICTURE
from dreamstyler_jax.runtime.errors import UserError
from dreamstyler_jax.runtime.settings import check_values, option

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from sample_tools import random_style
from tiny_model import write_tiny_model

SECONDS = 0.25  # between two looks
BATCH = 25


@dataclasses.dataclass(frozen=True)
class MemoryConfig:
    """Measure whether memory grows while a large grid is painted and during a long training."""

    pictures: int = option(5000, "Pictures of the grid.", low=100, high=100_000)
    steps: int = option(10_000, "Steps of the training.", low=100, high=10**7)
    limit: float = option(0.05, "By which share the memory may grow from the first to the last tenth.", low=0, high=10)

    def __post_init__(self):
        check_values(self)


class Look(NamedTuple):
    """How much of the work was done at a moment, from 0 to 1, and the resident set in MiB."""

    done: float
    memory: float


def run(config: MemoryConfig) -> None:
    """Measures both.

    Raises:
        UserError: memory grew, or a command failed.
    """
    grown = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = ["--model", str(write_tiny_model(folder / "model"))]
        random_style("gogh", stages=6).save(folder / "gogh.safetensors")
        picture, seeds, every = str(EXAMPLE_PICTURE), f"0:{config.pictures}", config.steps // 100
        paint = ["--styles", f"{folder}/gogh.safetensors", "--prompts", "A house in the style of {}", "--seeds", seeds]
        paint += ["--steps", "4", "--batch_size", str(BATCH), "--output", f"{folder}/grid"]
        learn = ["--images", picture, "--prompts", "A boat in the style of {}", "--steps", str(config.steps)]
        learn += ["--log_every", str(every), "--save_every", str(10 * every), "--output", f"{folder}/run"]
        for what, words, log, lines in (
            (
                f"{config.pictures} pictures",
                ["sample", *model, *paint],
                folder / "grid/manifest.jsonl",
                config.pictures,
            ),
            (f"{config.steps} training steps", ["train", *model, *learn], folder / "run/metrics.jsonl", 100),
        ):
            begun = time.perf_counter()
            looks = watch([sys.executable, "-m", "dreamstyler_jax", *words], log, lines)
            first, last = (mean_memory(looks, low, low + 0.1) for low in (0, 0.9))
            growth = last / first - 1
            peak, seconds = max(look.memory for look in looks), time.perf_counter() - begun
            print(
                f"{what}: {first:.0f} MiB in the first tenth, {last:.0f} in the last ({growth:+.1%}); at most ", end=""
            )
            print(f"{peak:.0f} MiB while it worked; {seconds:.0f} s, {len(looks)} looks", flush=True)
            grown += [what] if growth > config.limit else []
    if grown:
        raise UserError(f"memory grew by more than {config.limit:.0%} during {' and '.join(grown)}")


def watch(command: list[str], log: Path, lines: int) -> list[Look]:
    """Runs a command that adds lines to a file, and looks at its memory until all lines are there.

    Raises:
        UserError: it failed.
    """
    looks = []
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        while process.poll() is None:
            done = log.read_bytes().count(b"\n") / lines if log.exists() else 0
            if 0 < done < 1:
                looks.append(Look(done, resident(process.pid)))
            time.sleep(SECONDS)
        if process.returncode:
            output.seek(0)
            raise UserError(f"{command[3]} failed: {output.read().decode(errors='replace')[-3000:]}")
    return looks


def resident(process: int) -> float:
    """The resident set of a process in MiB, as Linux counts it."""
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def mean_memory(looks: list[Look], low: float, high: float) -> float:
    """The mean memory in MiB while a part of the work was done.

    Raises:
        UserError: it went too fast to be looked at.
    """
    memory = [look.memory for look in looks if low < look.done <= high]
    if not memory:
        raise UserError("too fast to be measured: ask for more --pictures or --steps")
    return float(np.mean(memory))


if __name__ == "__main__":
    run_and_exit(lambda: run(parse(MemoryConfig)))
