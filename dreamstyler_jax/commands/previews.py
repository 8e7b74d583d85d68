"""Pictures of a style in the making, always with the same noise, so that two previews differ by the style alone."""

from collections.abc import Sequence
from pathlib import Path

from dreamstyler_jax import guidance, prompts, sampling
from dreamstyler_jax.runtime import images
from dreamstyler_jax.solvers import solver_table
from dreamstyler_jax.stable_diffusion.pipeline import StableDiffusion
from dreamstyler_jax.style import Style

STEPS, SCALE, SEEDS = 20, 3.5, (0, 1, 2, 3)


def preview(model: StableDiffusion, style: Style, texts: Sequence[str], size: tuple[int, int], path: Path) -> None:
    """Paints each prompt with four seeds, classifier-free guidance 3.5 and 20 steps, and writes one sheet to ``path``.

    Args:
      texts: prompts with the placeholder of ``style``; without any there is no sheet.
      size: height and width in pixels.
    """
    if not texts:
        return
    conditionings = prompts.encode(model, ["", *texts], {style.name: style})
    weights = guidance.cfg(SCALE)
    requests = [sampling.Request((0, row, 0, 0), weights, seed) for row in range(1, len(texts) + 1) for seed in SEEDS]
    solver = solver_table("dpmpp_2m", model.networks.schedule, STEPS)
    painted = sampling.paint(model, solver, conditionings, requests, size=size, batch_size=len(SEEDS))
    pictures = [images.to_image(image) for image in painted]
    rows = [pictures[i : i + len(SEEDS)] for i in range(0, len(pictures), len(SEEDS))]
    columns = [f"seed {seed}" for seed in SEEDS]
    images.save_png(path, images.contact_sheet(rows, list(texts), columns, title=path.stem.replace("_", " ")))
