"""Preview pictures of a style during its training, always with the same noise, so that only the style differs."""

from collections.abc import Sequence

from PIL import Image

from dreamstyler_jax.api import paint
from dreamstyler_jax.guidance import cfg_guidance
from dreamstyler_jax.provenance import first_picture
from dreamstyler_jax.runtime.contact_sheets import contact_sheet
from dreamstyler_jax.stable_diffusion.pipeline import StableDiffusion
from dreamstyler_jax.style import Style

STEPS, GUIDANCE, SEEDS = 20, cfg_guidance(3.5), (0, 1, 2, 3)


def paint_preview(
    model: StableDiffusion, style: Style, texts: Sequence[str], size: tuple[int, int], title: str
) -> Image.Image:
    """Paints each prompt with four seeds, on one contact sheet, behind the first picture that was learned from.

    Args:
        model: the model.
        style: the style so far.
        texts: prompts with the style's placeholder, at least one.
        size: height and width in pixels.
        title: of the sheet.
    """
    pictures = paint(
        model,
        texts,
        style,
        seeds=SEEDS,
        guidance=GUIDANCE,
        steps=STEPS,
        height=size[0],
        width=size[1],
        batch_size=len(SEEDS),
        progress=False,
    )
    rows: list[list[Image.Image | None]] = [
        [p.image for p in pictures[i : i + len(SEEDS)]] for i in range(0, len(pictures), len(SEEDS))
    ]
    columns = [f"seed {seed}" for seed in SEEDS]
    if learned := first_picture(style.metadata):
        rows = [[None if number else learned, *row] for number, row in enumerate(rows)]
        columns = ["learned from", *columns]
    return contact_sheet(rows, list(texts), columns, title=title)
