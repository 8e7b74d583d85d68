"""How soon ``dreamstyler sample`` paints, with nothing compiled yet and then with all programs in the cache.

    python -m benchmarks.starts

Each round runs it twice, in a process of its own each time, with a cache of programs that is empty at first.
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
from dreamstyler_jax.commands.config import SampleConfig
from dreamstyler_jax.mini.shipped import EXAMPLE_STYLE
from dreamstyler_jax.runtime.errors import UserError
from dreamstyler_jax.runtime.settings import check_values, option

BATCH_SIZE = SampleConfig.batch_size


@dataclasses.dataclass(frozen=True)
class StartsConfig:
    """Measure how soon painting starts."""

    repeats: int = option(3, "Rounds of two starts.", low=1, high=1000)

    def __post_init__(self):
        check_values(self)


class Start(NamedTuple):
    """Seconds from the start of the process until its first batch begins, and until its first picture is written."""

    begins: float
    first_picture: float


def run(config: StartsConfig) -> None:
    """Prints the medians."""
    rounds = []
    for _ in range(config.repeats):
        with tempfile.TemporaryDirectory() as folder:
            rounds.append([start(Path(folder) / "cache", Path(folder) / name) for name in ("first", "second")])
    (begins_first, first), (begins_second, second) = np.median(rounds, axis=0)
    print("| | begins to paint | first picture is written |\n|---|---|---|")
    print(f"| nothing compiled yet | {begins_first:.1f} s | {first:.1f} s |")
    print(f"| all programs in the cache | {begins_second:.1f} s | {second:.1f} s |")
    print(
        f"\nWith the cache, painting begins after {begins_second / first:.0%} of the time to the first picture without "
        f"it, and the first picture is written after {second / first:.0%}"
    )


def start(cache: Path, output: Path) -> Start:
    """Paints the four example prompts in the shipped style, a batch each.

    All batches take the same time, so the second one says when the first one began.
    """
    command = [sys.executable, "-m", "dreamstyler_jax", "sample", "--output", output]
    command += ["--styles", EXAMPLE_STYLE, "--seeds", f"0:{BATCH_SIZE}"]
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache)}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    began = time.time()
    if status := subprocess.run(command, env=environment, stdout=subprocess.DEVNULL).returncode:
        raise UserError(f"dreamstyler sample ended with status {status}")
    written = sorted(picture.stat().st_mtime - began for picture in (output / "images").glob("*.png"))
    batches = written[::BATCH_SIZE]
    return Start(batches[0] - float(np.median(np.diff(batches))), batches[0])


if __name__ == "__main__":
    run_and_exit(lambda: run(parse(StartsConfig)))
