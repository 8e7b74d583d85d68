"""What painting saves by guiding only a part of the sampling and by sharing deep features.

    python -m benchmarks.shortcuts

These are the options ``--guidance_end`` and ``--cache_interval`` of ``dreamstyler sample``. Prints pictures per second;
all variants take turns in each round. What they cost in quality is in docs/results.md.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from dreamstyler_jax.commands.cli import parse, run_and_exit
from dreamstyler_jax.commands.measuring import timed
from dreamstyler_jax.commands.workloads import WEIGHTS, ProblemSize, Workload, painting_workload
from dreamstyler_jax.runtime.compilation import set_up
from dreamstyler_jax.runtime.settings import check_values, option
from dreamstyler_jax.stable_diffusion.pipeline import StableDiffusion

ALL = "all"
SHORTCUTS: dict[str, dict[str, Any]] = {  # arguments of `painting_workload`
    ALL: {},
    "guidance_end 0.5": {"guidance_span": (0.0, 0.5)},
    "cache_interval 2": {"cache_interval": 2},
    "cache_interval 3": {"cache_interval": 3},
}
FORMS = {"cfg": "two rows", "paper": "four rows"}


@dataclasses.dataclass(frozen=True)
class ShortcutsConfig:
    """Measure what shortcuts in painting save."""

    model: str = option("mini", "mini, a folder or a hub id.")
    batch: int = option(8, "Pictures at once.", low=1, high=1024)
    steps: int = option(24, "Solver steps.", low=1, high=1000)
    repeats: int = option(5, "Timed rounds, after one that is not timed.", low=1, high=1000)

    def __post_init__(self):
        check_values(self)


def run(config: ShortcutsConfig) -> None:
    """Prints the table."""
    paint = painters(config)
    rounds = [{name: seconds() for name, seconds in paint.items()} for _ in range(1 + config.repeats)][1:]
    print(f"{config.model}, {config.steps} steps, batch {config.batch}\n")
    print("| guidance | | pictures/s | times as fast |\n|---|---|---|---|")
    for form, shortcut in paint:
        seconds = np.array([times[form, shortcut] for times in rounds])
        ratio = np.median([times[form, ALL] for times in rounds] / seconds)
        print(f"| {FORMS[form]} | {shortcut} | {config.batch / np.median(seconds):.2f} | {ratio:.2f} |")


def painters(config: ShortcutsConfig) -> dict[tuple[str, str], Callable[[], float]]:
    """For each form of guidance and each shortcut a function that paints a batch and returns the seconds it took."""
    model = StableDiffusion.load(config.model)
    problem = ProblemSize(config.batch, model.size(None, None), config.steps)

    def seconds(workload: Workload) -> float:
        return timed(workload.call, workload.inputs)[0]

    return {
        (form, name): functools.partial(seconds, painting_workload(model, problem, WEIGHTS[form], **shortcut))
        for form in FORMS
        for name, shortcut in SHORTCUTS.items()
    }


if __name__ == "__main__":
    set_up()
    run_and_exit(lambda: run(parse(ShortcutsConfig)))
