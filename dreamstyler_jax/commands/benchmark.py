"""How fast this machine trains, paints, encodes and decodes: ``dreamstyler benchmark``.

Tracing, lowering, compiling (without and with a cache) and running are measured separately. The operations are counted,
and the utilisation is against the device's peak, from a table or measured with a matrix product.

For a TPU that is not here (``--target``), programs are compiled and nothing is run: see `estimating`.
"""

import dataclasses
import itertools
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

from dreamstyler_jax.commands import comparing, estimating
from dreamstyler_jax.commands.measuring import build, conditions, measure, peak, statistics, timed
from dreamstyler_jax.commands.shared_options import DTYPES
from dreamstyler_jax.commands.workloads import (
    GRID_BATCHES,
    SIZES,
    ProblemSize,
    grid_painter,
    latency_painter,
    make_workload,
    random_model,
)
from dreamstyler_jax.grids.gallery import Gallery
from dreamstyler_jax.runtime.compilation import share_cores
from dreamstyler_jax.runtime.devices import padded_batch_size, programs_for
from dreamstyler_jax.runtime.errors import UserError
from dreamstyler_jax.runtime.files import write_atomic
from dreamstyler_jax.runtime.settings import check_values, option
from dreamstyler_jax.runtime.topologies import described_chip
from dreamstyler_jax.stable_diffusion.pipeline import StableDiffusion

MEASURES = ("train", "cfg", "paper", "grid", "latency", "unet", "encode", "decode", "text")
HEADS = (
    "", "batch", "trace, lower s", "compile s", "from cache s", "median ms", "p10 to p90", "images/s", "steps/s",
    "GFLOP", "of peak", "MiB",
)  # fmt: skip
HEAD = f"| {' | '.join(HEADS)} |\n{'|---' * len(HEADS)}|"


@dataclasses.dataclass(frozen=True)
class BenchmarkConfig:
    """Measure how fast this machine trains and paints.

    Raises:
        UserError: a value is out of range, or the sweep cannot be read.
    """

    model: str = option("mini", "mini, a folder or a hub id; or sd15, sd21, sdxl: random weights of that size.")
    measure: list[str] = option(
        list(MEASURES),
        "train: training steps. cfg, paper: painting, with two rows of guidance and with four. grid: painting four "
        "batches as cfg does, with prompts and files. latency: one picture as cfg does, from its prompt until its "
        "pixels are here, whatever the batch. unet: one pass. encode, decode: the autoencoder. text: prompts "
        "in six stages.",
        choices=MEASURES,
    )
    batch: int = option(8, "Pictures, or prompts, at once.", low=1, high=1024)
    resolution: int | None = option(
        None, "Side of the pictures in pixels. null: the model's resolution.", low=8, high=4096
    )
    steps: int = option(25, "Solver steps.", low=1, high=1000)
    styles: int = option(1, "Styles trained at once, each with batch pictures per step.", low=1, high=1024)
    sweep: str = option(
        "", "Several values of one of these, such as batch=1,2,4,8 or resolution=256,512 or styles=1,8."
    )
    dtype: str = option("float32", "Precision of the model's computations.", choices=DTYPES)
    remat: bool = option(False, "Train as with --remat: less memory, more time.")
    repeats: int = option(5, "Timed runs, after one that is not timed.", low=1, high=1000)
    target: str | None = option(
        None,
        "A TPU that need not be here, such as v5e:2x2 or v6e:2x2: compile for one chip of it, and print what its "
        "compiler estimates (docs/tpu.md). All measures but grid and latency, whose program is cfg's. In a sweep the "
        "values above one that does not fit are left out. Needs the extra tpu.",
    )
    compare: str = option(
        "", "File of an earlier run: print how many times as fast each of its measures is now, with 95 % intervals."
    )
    output: str = option(
        "build/benchmark.jsonl", "File of the results, one line each, with all that is needed to measure them again."
    )

    def __post_init__(self):
        check_values(self)
        self.points()
        if self.compare and self.target:
            raise UserError("compare: estimates are no measurements; leave out compare or target")

    def points(self) -> list[Self]:
        """The settings with each value of the sweep."""
        if not self.sweep:
            return [self]
        match = re.fullmatch(r"(batch|resolution|steps|styles)=(\d{1,6}(?:,\d{1,6})*)", self.sweep)
        if not match:
            raise UserError(f"sweep: {self.sweep!r} should read like batch=1,2,4,8")
        return [dataclasses.replace(self, sweep="", **{match[1]: int(value)}) for value in match[2].split(",")]

    def problem(self, model: StableDiffusion) -> ProblemSize:
        """How much to compute with a model."""
        size = model.size(self.resolution, self.resolution)
        return ProblemSize(self.batch, size, self.steps, self.styles, self.remat)


def run(config: BenchmarkConfig) -> None:
    """Prints a table as it grows, and writes the results."""
    earlier = comparing.read_results(config.compare) if config.compare else {}
    lines, compared = [], []
    for result in estimates(config, config.target) if config.target is not None else measurements(config):
        lines.append(json.dumps(result))
        write_atomic(config.output, "".join(f"{line}\n" for line in lines).encode())
        if before := earlier.get(comparing.key_of(result)):
            compared.append(comparing.row(result["measure"], before, result))
    if config.compare:
        print("\n" + "\n".join([comparing.HEAD, *compared]))
        if len(compared) < len(lines):
            print(f"{config.compare} has {len(compared)} of these {len(lines)} measures")


def measurements(config: BenchmarkConfig) -> Iterator[dict[str, Any]]:
    """Measures this machine, prints a table as it grows, and yields its lines as they are written."""
    share_cores(config.model, *[point.batch for point in config.points()])
    if config.model in SIZES:
        model = random_model(config.model, SIZES[config.model], config.dtype)
    else:
        model = StableDiffusion.load(config.model, dtype=config.dtype)
    limit, source = peak(config.dtype)
    common = {**conditions(), "peak_flop_per_s": limit, "peak_from": source}
    print(f"{common['device']} x {common['devices']}, {config.dtype}, peak {limit / 1e12:.3g} TFLOP/s ({source})")
    print(f"\n{HEAD}")
    for point, name in itertools.product(config.points(), config.measure):
        problem = point.problem(model)
        if name == "grid":
            costs = measure_grid(model, problem, config.repeats)
        elif name == "latency":
            costs = measure_latency(model, problem, config.repeats)
        else:
            costs = measure(make_workload(name, model, problem), config.repeats)
        utilisation = {"utilisation": costs["flop_per_s"] / limit}
        result = {**dataclasses.asdict(point), "measure": name, **utilisation, **costs}
        print(row(label(point, name), result), flush=True)
        yield {**result, **common}


def estimates(config: BenchmarkConfig, target: str) -> Iterator[dict[str, Any]]:
    """Estimates what programs take on a target, prints a table as it grows, and yields its lines."""
    device = described_chip(target)
    chip = estimating.chip_of(device)
    model = estimating.model_without_weights(config.model, config.dtype)
    common = estimating.conditions_for(chip)
    print(f"{config.model} in {config.dtype}, {chip}.\n{estimating.NOTE}\n\n{estimating.HEAD}")
    too_large: dict[str, ProblemSize] = {}
    for point, name in itertools.product(config.points(), config.measure):
        problem = point.problem(model)
        if name in ("grid", "latency") or (name in too_large and too_large[name] <= problem):
            continue
        with programs_for(device):
            costs = estimating.estimate(estimating.describe_workload(name, model, problem), chip)
        if not costs["fits"]:
            too_large[name] = problem
        print(estimating.row(label(point, name), point.batch, costs, chip), flush=True)
        yield {**dataclasses.asdict(point), "measure": name, **costs, **common}


def measure_grid(
    model: StableDiffusion, problem: ProblemSize, repeats: int, open_gallery: Callable[[Path], Gallery] = Gallery
) -> dict[str, Any]:
    """What a grid costs, from its prompts to the files of its pictures; its program is that of ``cfg``.

    Args:
        model, problem, open_gallery: as of `grid_painter`.
        repeats: timed runs.
    """
    costs, _ = build(make_workload("cfg", model, problem))
    paint = grid_painter(model, problem, open_gallery)
    seconds = [timed(paint)[0] for _ in range(1 + repeats)]
    count = GRID_BATCHES
    return costs | statistics(seconds[1:], count * problem.batch, count * problem.steps, count * costs["flop"])


def measure_latency(model: StableDiffusion, problem: ProblemSize, repeats: int) -> dict[str, Any]:
    """What one picture costs, from its prompt until its pixels are in the host's memory.

    Args:
        model, problem: as of `latency_painter`.
        repeats: timed runs.
    """
    costs, _ = build(make_workload("cfg", model, problem._replace(batch=padded_batch_size(1))))
    paint = latency_painter(model, problem)
    seconds = [timed(paint)[0] for _ in range(1 + repeats)]
    return costs | statistics(seconds[1:], 1, problem.steps, costs["flop"])


def label(point: BenchmarkConfig, name: str) -> str:
    """What a line of a table is called."""
    styles = f" {point.styles} styles" if name == "train" and point.styles > 1 else ""
    remat = " remat" if name == "train" and point.remat else ""
    return f"{name}{styles}{remat}"


def row(name: str, result: dict[str, Any]) -> str:
    """A line of the table of measurements."""
    cells = [
        name,
        result["batch"],
        f"{result['trace_s'] + result['lower_s']:.2f}",
        f"{result['compile_s']:.2f}",
        f"{result['compile_cached_s']:.2f}",
        f"{1e3 * result['median_s']:.1f}",
        f"{1e3 * result['p10_s']:.1f} to {1e3 * result['p90_s']:.1f}",
        f"{result['images_per_s']:.2f}",
        f"{result['steps_per_s']:.2f}",
        f"{result['flop'] / 1e9:.1f}",
        f"{100 * result['utilisation']:.1f} %",
        f"{(result['argument_bytes'] + result['temporary_bytes']) / 2**20:.0f}",
    ]
    return "| " + " | ".join(map(str, cells)) + " |"
