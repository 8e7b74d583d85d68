"""A grid of 9,984 pictures: does it survive being killed, and is the device ever idle?

    python -m benchmarks.grid                  # paints it twice, killing the second run at 20 random moments
    python -m benchmarks.grid --measure idle   # how much of the time nothing is being computed

The styles are the names of 32 painters that the embedded model knows, as styles of one stage; the prompts those of the
paper's evaluation. ``--styles``, ``--prompts`` and ``--seeds`` make the grid smaller.
"""

import dataclasses
import queue
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Literal

import jax
import numpy as np

from dreamstyler_jax import sampling
from dreamstyler_jax.commands import sample
from dreamstyler_jax.commands.cli import main, parse
from dreamstyler_jax.commands.config import SampleConfig
from dreamstyler_jax.mini.world import captions
from dreamstyler_jax.runtime.compilation import share_cores
from dreamstyler_jax.runtime.errors import UserError
from dreamstyler_jax.stable_diffusion.pipeline import StableDiffusion
from dreamstyler_jax.style import Style

ROOT = Path(__file__).parent.parent
PROMPTS = ROOT / "configs" / "eval_prompts.txt"


@dataclasses.dataclass(frozen=True)
class GridBenchmarkConfig:
    """What to measure on which grid."""

    measure: Literal["survival", "idle"] = "survival"
    """`survival`: a run that is killed again and again against an undisturbed one. `idle`: gaps between batches."""
    styles: int = 32
    """How many styles, 240 at most."""
    prompts: int = 39
    """How many prompts, 39 at most."""
    seeds: int = 8
    """How many seeds."""
    steps: int = 10
    """Steps of the solver."""
    batch_size: int = 32
    """Pictures per batch."""
    kills: int = 20
    """How often the second run is killed."""
    seed: int = 0
    """Of the moments at which it is."""
    output: str = "build/grid"
    """Folder of everything; an undisturbed run that is there is continued, not begun anew."""


def write_styles(folder: Path, count: int) -> Path:
    """The names of painters as styles."""
    model = StableDiffusion.load("mini")
    table = np.asarray(model.embedding_table)
    for name in captions.PAINTER_NAMES[:count]:
        Style(name, table[model.tokenizer.words(name)][None]).save(folder / f"{name}.safetensors")
    return folder


def write_prompts(file: Path, count: int) -> Path:
    """The first of the paper's prompts."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(PROMPTS.read_text().splitlines()[:count]) + "\n")
    return file


def options(config: GridBenchmarkConfig) -> list[str]:
    """The grid, without its folder."""
    folder = Path(config.output)
    values = {
        "styles": write_styles(folder / "styles", config.styles),
        "prompts_file": write_prompts(folder / "prompts.txt", config.prompts),
        "seeds": f"0:{config.seeds}",
        "steps": config.steps,
        "batch_size": config.batch_size,
    }
    return [str(word) for name, value in values.items() for word in (f"--{name}", value)]


def start(words: list[str], output: Path) -> subprocess.Popen:
    """sample.py as a process of its own."""
    return subprocess.Popen([sys.executable, ROOT / "sample.py", *words, "--output", output], stdout=subprocess.DEVNULL)


def complete(process: subprocess.Popen) -> None:
    """Waits for its end."""
    if status := process.wait():
        raise UserError(f"sample.py ended with status {status}")


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def survival(config: GridBenchmarkConfig) -> None:
    """Kills a run at moments spread over its time, restarts it each time, and compares what is there in the end."""
    words, folder = options(config), Path(config.output)
    began = time.perf_counter()
    complete(start(words, folder / "undisturbed"))
    print(f"undisturbed: {time.perf_counter() - began:.0f} s", flush=True)
    total, images = config.styles * config.prompts * config.seeds, folder / "killed" / "images"
    rng = random.Random(config.seed)
    for goal in sorted(rng.randrange(total) for _ in range(config.kills)):
        process = start(words, folder / "killed")
        while process.poll() is None and sum(1 for _ in images.glob("*.png")) < goal:
            time.sleep(0.5)
        time.sleep(rng.random())
        process.send_signal(signal.SIGKILL)
        process.wait()
        print(f"killed at {sum(1 for _ in images.glob('*.png'))} of {total} pictures", flush=True)
    complete(start(words, folder / "killed"))
    expected, found = contents(folder / "undisturbed"), contents(folder / "killed")
    different = [name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)]
    pictures = sum(name.endswith(".png") for name in found)
    print(f"{len(expected)} files, {pictures} of them PNG, differ in: {', '.join(sorted(different)[:5]) or 'none'}")
    if different:
        raise UserError(f"{len(different)} files differ")


class Gaps:
    """Watches batches: when each was handed to the device, and when it was done."""

    def __init__(self):
        self.handed: list[float] = []
        self.done: list[float] = []
        self._queue: queue.SimpleQueue[jax.Array] = queue.SimpleQueue()
        self._paint = sampling.paint_batch
        threading.Thread(target=self._watch, daemon=True).start()

    def __call__(self, *arguments, **options) -> jax.Array:
        pictures = self._paint(*arguments, **options)
        self.handed.append(time.perf_counter())
        self._queue.put(pictures)
        return pictures

    def _watch(self) -> None:
        while True:
            self._queue.get().block_until_ready()
            self.done.append(time.perf_counter())

    def idle(self, warm_up: int) -> tuple[float, float]:
        """Seconds in which all that had been handed over was done, and seconds in all, after ``warm_up`` batches."""
        gaps = [max(0.0, next - last) for next, last in zip(self.handed[1:], self.done, strict=False)]
        return sum(gaps[warm_up:]), self.done[-1] - self.done[warm_up]


def idle(config: GridBenchmarkConfig) -> None:
    """Paints the grid in this process and sums up the gaps."""
    words = [*options(config), "--output", str(Path(config.output) / f"idle-{time.time():.0f}")]
    share_cores("mini", config.batch_size)
    sampling.paint_batch = gaps = Gaps()
    sample.run(parse(SampleConfig, words))
    while len(gaps.done) < len(gaps.handed):
        time.sleep(0.1)
    wasted, seconds = gaps.idle(warm_up=3)
    pictures = (len(gaps.done) - 4) * config.batch_size
    print(f"idle {100 * wasted / seconds:.2f} % of {seconds:.0f} s, {pictures / seconds:.1f} pictures/s")


if __name__ == "__main__":
    config = parse(GridBenchmarkConfig)
    main(lambda: {"survival": survival, "idle": idle}[config.measure](config))
