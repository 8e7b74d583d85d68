"""How soon `sample.py` paints, with nothing compiled yet and then with all of it in the cache.

    python -m benchmarks.starts

Each round runs it twice, as a process of its own, with a cache of programs that is empty at first.
"""

import dataclasses
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np

from dreamstyler_jax.commands.cli import main, parse
from dreamstyler_jax.commands.config import SampleConfig, check_values
from dreamstyler_jax.mini.shipped import EXAMPLE_STYLE
from dreamstyler_jax.runtime.errors import UserError

ROOT = Path(__file__).parent.parent
BATCH = SampleConfig.batch_size


@dataclasses.dataclass(frozen=True)
class StartsConfig:
    """How often."""

    repeats: int = 3
    """Rounds of two starts."""

    ranges: ClassVar[dict[str, tuple[float, float]]] = {"repeats": (1, 1000)}

    def __post_init__(self):
        check_values(self)


class Start(NamedTuple):
    """Seconds from the process's beginning until the first batch is begun, and until its first picture is there."""

    begins: float
    first_picture: float


def start(cache: Path, output: Path) -> Start:
    """Paints four batches with the shipped style; all take one time, so the second says when the first began."""
    words = ["--styles", EXAMPLE_STYLE, "--seeds", f"0:{BATCH}"]
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache)}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    began = time.time()
    command = [sys.executable, ROOT / "sample.py", *words, "--output", output]
    if status := subprocess.run(command, env=environment, stdout=subprocess.DEVNULL).returncode:
        raise UserError(f"sample.py ended with status {status}")
    there = sorted(picture.stat().st_mtime - began for picture in (output / "images").glob("*.png"))
    batches = there[::BATCH]
    return Start(batches[0] - np.median(np.diff(batches)), batches[0])


def run(config: StartsConfig) -> None:
    """Prints the medians."""
    rounds = []
    for _ in range(config.repeats):
        with tempfile.TemporaryDirectory() as folder:
            rounds.append([start(Path(folder) / "cache", Path(folder) / name) for name in ("first", "second")])
    (begins_first, first), (begins_second, second) = np.median(rounds, axis=0)
    print("| | begins to paint | first picture is there |\n|---|---|---|")
    print(f"| nothing compiled yet | {begins_first:.1f} s | {first:.1f} s |")
    print(f"| all in the cache | {begins_second:.1f} s | {second:.1f} s |")
    print(
        f"\nOf the first one's time to a picture, the second begins to paint after {begins_second / first:.0%}, ",
        end="",
    )
    print(f"and has one after {second / first:.0%}")


if __name__ == "__main__":
    main(lambda: run(parse(StartsConfig)))
