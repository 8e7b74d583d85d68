"""What painting saves by guiding only a part of the sampling and by sharing deep features: `sample.py`'s options.

    python -m benchmarks.shortcuts

Prints pictures per second, all ways in turn in each round. What they cost in quality is in docs/results.md.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import ClassVar

import numpy as np

from dreamstyler_jax import guidance, prompts, sampling
from dreamstyler_jax.commands.benchmark import PROMPT, initial_style, timed
from dreamstyler_jax.commands.cli import main, parse
from dreamstyler_jax.commands.config import check_values
from dreamstyler_jax.runtime.compilation import set_up
from dreamstyler_jax.solvers import solver_table, steps_apart, steps_within
from dreamstyler_jax.stable_diffusion.pipeline import StableDiffusion

FORMS = {"two rows": guidance.cfg(3.5), "four rows": guidance.paper(5.0, 1.0, 3.0)}


@dataclasses.dataclass(frozen=True)
class ShortcutsConfig:
    """What to paint."""

    model: str = "mini"
    """`mini`, a folder or a hub id."""
    batch: int = 8
    """Pictures at once."""
    steps: int = 24
    """Steps of the solver."""
    repeats: int = 5
    """Rounds that are timed, after one that is not."""

    ranges: ClassVar[dict[str, tuple[float, float]]] = {"batch": (1, 1024), "steps": (1, 1000), "repeats": (1, 1000)}

    def __post_init__(self):
        check_values(self)


def ways(steps: int) -> dict[str, dict[str, np.ndarray]]:
    """How `sampling.paint` is to paint, by name."""
    return {
        "all": {},
        "guidance_end 0.5": {"guided_steps": steps_within(0, 0.5, steps)},
        **{f"cache_interval {n}": {"deep_steps": steps_apart(n, steps)} for n in (2, 3)},
    }


def painters(config: ShortcutsConfig) -> dict[tuple[str, str], Callable[[], float]]:
    """Functions that paint a batch, and return the seconds that it took."""
    model = StableDiffusion.load(config.model)
    texts = ["", PROMPT, prompts.context_only(PROMPT), prompts.style_only(PROMPT)]
    bank = prompts.encode(model, texts, {"style": initial_style(model)})
    table = solver_table("dpmpp_2m", model.networks.schedule, config.steps)
    options = dict(size=model.size(None, None), batch_size=config.batch)

    def seconds(weights: np.ndarray, chosen: dict[str, np.ndarray]) -> float:
        requests = [sampling.Request((0, 1, 2, 3), weights, seed) for seed in range(config.batch)]
        return timed(lambda: list(sampling.paint(model, table, bank, requests, **options, **chosen)))[0]

    return {
        (form, way): functools.partial(seconds, weights, chosen)
        for form, weights in FORMS.items()
        for way, chosen in ways(config.steps).items()
    }


def run(config: ShortcutsConfig) -> None:
    """Prints the table."""
    runners = painters(config)
    rounds = [{name: run() for name, run in runners.items()} for _ in range(1 + config.repeats)][1:]
    print(f"{config.model}, {config.steps} steps, batch {config.batch}\n")
    print("| guidance | | pictures/s | times as fast |\n|---|---|---|---|")
    for form, way in runners:
        own = np.array([seconds[form, way] for seconds in rounds])
        ratio = np.median([seconds[form, "all"] for seconds in rounds] / own)
        print(f"| {form} | {way} | {config.batch / np.median(own):.2f} | {ratio:.2f} |")


if __name__ == "__main__":
    set_up()
    main(lambda: run(parse(ShortcutsConfig)))
