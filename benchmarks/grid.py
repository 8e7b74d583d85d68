"""A grid of 9,984 pictures: does it survive being killed, and does the device ever wait?

    python -m benchmarks.grid                  # paints it twice, killing the second run at 20 random moments
    python -m benchmarks.grid --measure idle   # how much of the time nothing is being computed

The styles are the names of 32 painters that the embedded model knows, as styles of one stage; the prompts are those of
the paper's evaluation. ``--styles``, ``--prompts`` and ``--seeds`` make the grid smaller.
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
from typing import Any

import numpy as np
from jax import Array

from dreamstyler_jax.commands.cli import parse, run_and_exit
from dreamstyler_jax.commands.prompt_lists import read_prompts
from dreamstyler_jax.commands.sample import paint_into
from dreamstyler_jax.grids.axes import Axes, make_cells
from dreamstyler_jax.grids.gallery import Gallery
from dreamstyler_jax.grids.painting import paint_cells, shape_of
from dreamstyler_jax.mini.world import captions
from dreamstyler_jax.runtime.compilation import set_up, share_cores
from dreamstyler_jax.runtime.errors import UserError
from dreamstyler_jax.runtime.parsing import MAX_SEED
from dreamstyler_jax.runtime.settings import check_values, option
from dreamstyler_jax.sampling import sample_batch
from dreamstyler_jax.stable_diffusion.pipeline import StableDiffusion
from dreamstyler_jax.style import Style

PROMPTS = Path(__file__).parent.parent / "configs" / "eval_prompts.txt"
WARM_UP = 3  # batches


@dataclasses.dataclass(frozen=True)
class GridBenchmarkConfig:
    """Paint a large grid, and measure whether it survives being killed and how long the device waits."""

    measure: str = option(
        "survival",
        "survival: compare a run that is killed again and again with an undisturbed one. idle: gaps between batches.",
        choices=("survival", "idle"),
    )
    styles: int = option(32, "Number of styles.", low=1, high=captions.PAINTERS)
    prompts: int = option(39, "Number of prompts.", low=1, high=39)
    seeds: int = option(8, "Number of seeds.", low=1, high=100_000)
    steps: int = option(10, "Solver steps.", low=1, high=1000)
    batch_size: int = option(32, "Pictures per batch.", low=1, high=1024)
    kills: int = option(20, "How often the second run is killed.", low=0, high=1000)
    seed: int = option(0, "Seed of the moments at which it is killed.", low=0, high=MAX_SEED)
    output: str = option("build/grid", "Folder of all results. An undisturbed run that is there is continued.")

    def __post_init__(self):
        check_values(self)


def run(config: GridBenchmarkConfig) -> None:
    """Measures what the settings ask for."""
    {"survival": measure_survival, "idle": measure_idle_time}[config.measure](config)


def painters_styles(model: StableDiffusion, count: int) -> dict[str, Style]:
    """The names of painters as styles, by name."""
    vectors = {encoder: np.asarray(table) for encoder, table in model.vocabulary_vectors.items()}
    styles = {}
    for name in captions.PAINTER_NAMES[:count]:
        tokens = model.tokenizer.words(name)
        styles[name] = Style(name, {encoder: table[tokens][None] for encoder, table in vectors.items()})
    return styles


def measure_survival(config: GridBenchmarkConfig) -> None:
    """Kills a run at moments spread over its time, restarts it each time, and compares the files with those of another.

    Raises:
        UserError: a run fails, or files differ.
    """
    options, folder = sample_options(config), Path(config.output)
    began = time.perf_counter()
    complete(start(options, folder / "undisturbed"))
    print(f"undisturbed: {time.perf_counter() - began:.0f} s", flush=True)
    total, images = config.styles * config.prompts * config.seeds, folder / "killed" / "images"
    rng = random.Random(config.seed)
    for goal in sorted(rng.randrange(total) for _ in range(config.kills)):
        process = start(options, folder / "killed")
        while process.poll() is None and sum(1 for _ in images.glob("*.png")) < goal:
            time.sleep(0.5)
        time.sleep(rng.random())
        process.send_signal(signal.SIGKILL)
        process.wait()
        print(f"killed at {sum(1 for _ in images.glob('*.png'))} of {total} pictures", flush=True)
    complete(start(options, folder / "killed"))
    expected, found = contents(folder / "undisturbed"), contents(folder / "killed")
    different = [name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)]
    pictures = sum(name.endswith(".png") for name in found)
    print(f"{len(expected)} files, {pictures} of them PNG, differ in: {', '.join(sorted(different)[:5]) or 'none'}")
    if different:
        raise UserError(f"{len(different)} files differ")


def sample_options(config: GridBenchmarkConfig) -> list[str]:
    """The options of ``dreamstyler sample`` for the grid, except its folder; writes styles and prompts."""
    folder = Path(config.output)
    for name, style in painters_styles(StableDiffusion.load("mini"), config.styles).items():
        style.save(folder / "styles" / f"{name}.safetensors")
    prompts = folder / "prompts.txt"
    prompts.write_text("\n".join(read_prompts(str(PROMPTS))[: config.prompts]) + "\n")
    options = ["--styles", folder / "styles", "--prompts_file", prompts, "--seeds", f"0:{config.seeds}"]
    options += ["--steps", config.steps, "--batch_size", config.batch_size]
    return list(map(str, options))


def start(options: list[str], output: Path) -> subprocess.Popen:
    """Starts ``dreamstyler sample`` as a process of its own."""
    command = [sys.executable, "-m", "dreamstyler_jax", "sample", *options, "--output", output]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL)


def complete(process: subprocess.Popen) -> None:
    """Waits until a process has ended.

    Raises:
        UserError: it failed.
    """
    if status := process.wait():
        raise UserError(f"dreamstyler sample ended with status {status}")


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


class WatchedSampler:
    """Samples batches, and records when each is handed to the device and when the device has finished it.

    Attributes:
        handed, done: these moments, in seconds.
    """

    def __init__(self):
        self.handed: list[float] = []
        self.done: list[float] = []
        self._queue: queue.SimpleQueue[Array] = queue.SimpleQueue()
        threading.Thread(target=self._watch, daemon=True).start()

    def __call__(self, *arguments: Any, **options: Any) -> Array:
        """As `sampling.sample_batch`."""
        pictures = sample_batch(*arguments, **options)
        self.handed.append(time.perf_counter())
        self._queue.put(pictures)
        return pictures

    def _watch(self) -> None:
        while True:
            self._queue.get().block_until_ready()
            self.done.append(time.perf_counter())

    def idle(self, warm_up: int) -> tuple[float, float]:
        """The seconds in which the device had nothing to do, and all seconds, after ``warm_up`` batches."""
        gaps = [max(0.0, handed - done) for handed, done in zip(self.handed[1:], self.done, strict=False)]
        return sum(gaps[warm_up:]), self.done[-1] - self.done[warm_up]


def measure_idle_time(config: GridBenchmarkConfig) -> None:
    """Paints the grid in this process, as ``dreamstyler sample`` does, and sums up the gaps between batches."""
    set_up()
    share_cores("mini", config.batch_size)
    model = StableDiffusion.load("mini")
    styles = painters_styles(model, config.styles)
    prompts = read_prompts(str(PROMPTS))[: config.prompts]
    axes = Axes({"": prompts}, list(styles), steps=[config.steps], seeds=range(config.seeds))
    cells = make_cells(axes, model, styles, model.size(None, None))
    gallery = Gallery(Path(config.output) / f"idle-{time.time():.0f}")
    shape, sampler = shape_of(cells, config.batch_size), WatchedSampler()
    paint_into(gallery, cells, lambda group: paint_cells(model, group, styles, shape, sample=sampler))
    while len(sampler.done) < len(sampler.handed):
        time.sleep(0.1)
    wasted, seconds = sampler.idle(WARM_UP)
    pictures = (len(sampler.done) - 1 - WARM_UP) * shape.batch_size
    print(f"idle {100 * wasted / seconds:.2f} % of {seconds:.0f} s, {pictures / seconds:.1f} pictures/s")


if __name__ == "__main__":
    run_and_exit(lambda: run(parse(GridBenchmarkConfig)))
