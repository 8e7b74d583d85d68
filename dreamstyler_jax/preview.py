"""Pictures of a style in the making, always with the same noise, so that two previews differ by the style alone."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jax import Array

from dreamstyler_jax import guidance, images, prompts, sampling
from dreamstyler_jax.pipeline import StableDiffusion
from dreamstyler_jax.solvers import solver_table
from dreamstyler_jax.style import Style

STEPS, SCALE, SEEDS = 20, 5.0, (0, 1, 2, 3)


def preview(model: StableDiffusion, name: str, table: Array, texts: Sequence[str], path: Path) -> None:
    """Paints each prompt with four seeds, classifier-free guidance 5 and 20 steps, and writes one sheet to ``path``."""
    conditionings = prompts.encode(model, ["", *texts], {name: Style(name, np.asarray(table))})
    weights = guidance.cfg(SCALE)
    requests = [sampling.Request((0, row, 0, 0), weights, seed) for row in range(1, len(texts) + 1) for seed in SEEDS]
    solver = solver_table("dpmpp_2m", model.networks.schedule, STEPS)
    size = model.size(None, None)
    painted = sampling.paint(model, solver, conditionings, requests, size=size, batch_size=len(SEEDS))
    pictures = [images.to_image(image) for image in painted]
    rows = [pictures[i : i + len(SEEDS)] for i in range(0, len(pictures), len(SEEDS))]
    sheet = images.contact_sheet(
        rows, list(texts), [f"seed {seed}" for seed in SEEDS], title=path.stem.replace("_", " ")
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    images.save_png(path, sheet)
