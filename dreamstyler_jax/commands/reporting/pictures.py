"""The pictures of a report, each in the page itself: what was learned from, and what the style painted meanwhile."""

import html

import numpy as np
from PIL import Image

from dreamstyler_jax.commands.reporting.contents import RunContents
from dreamstyler_jax.provenance import TrainingPicture, first_picture
from dreamstyler_jax.provenance import training_pictures as recorded_pictures
from dreamstyler_jax.runtime import images
from dreamstyler_jax.runtime.errors import UserError

MAX_PREVIEWS, MAX_PICTURES = 24, 12  # in one report
_PREVIEW_SIDE, _PICTURE_SIDE = 1400, 512  # longest sides, in pixels


def training_pictures(run: RunContents) -> str:
    """The pictures that the style was learned from, with their prompts, as HTML; empty if none is known."""
    recorded = recorded_pictures(run.metadata) or list(map(TrainingPicture, run.config.images))
    shown = list(zip(recorded, run.config.prompts, strict=False))[:MAX_PICTURES]
    figures = [_learned(run, number, picture, prompt) for number, (picture, prompt) in enumerate(shown)]
    rest = len(recorded) - len(shown)
    more = f"<p>and {rest} more</p>" if rest > 0 else ""
    return f'<div class="pictures">{"".join(figures)}</div>{more}' if figures else ""


def _learned(run: RunContents, number: int, picture: TrainingPicture, prompt: str) -> str:
    """A picture with its prompt; of the first one that has moved the style keeps a thumbnail."""
    image = picture.seen() or (None if number else first_picture(run.metadata))
    name = html.escape(picture.path)
    shown = _embedded(image, _PICTURE_SIDE, f"The picture {picture.path}") if image else ""
    missing = "" if image else " is not there any more, or another picture"
    return f"<figure>{shown}<figcaption>{html.escape(prompt)}<br><small>{name}{missing}</small></figcaption></figure>"


def previews(run: RunContents) -> str:
    """The previews, one of which is seen at a time, with a slider over the steps, as HTML; empty if there is none."""
    kept = np.unique(np.linspace(0, len(run.previews) - 1, min(len(run.previews), MAX_PREVIEWS)).round().astype(int))
    figures = []
    for step, path in (run.previews[number] for number in kept):
        try:
            sheet = images.load(path)
        except UserError:
            continue
        alt = f"Pictures of {'; '.join(run.config.preview_prompts)} after {step} steps"
        figures.append(f'<figure data-step="{step}">{_embedded(sheet, _PREVIEW_SIDE, alt)}</figure>')
    if not figures:
        return ""
    last = len(figures) - 1
    slider = (
        f'<p class="slider" hidden><label for="step">Checkpoint</label> <input id="step" type="range" min="0" '
        f'max="{last}" value="{last}"> <output for="step" id="at"></output></p>'
    )
    return f'{slider if last else ""}<div id="previews">{"".join(figures)}</div>'


def _embedded(image: Image.Image, side: int, alt: str) -> str:
    text = images.to_thumbnail(image, side)
    return f'<img alt="{html.escape(alt)}" src="data:image/jpeg;base64,{text}">'
