"""An axis of a grid as an animation: a frame for each of its values, everything else being the same."""

import io
import json
from collections.abc import Sequence
from typing import Any

from PIL import Image, ImageDraw

from dreamstyler_jax.grids.cells import Cell
from dreamstyler_jax.grids.sheets import value_of
from dreamstyler_jax.runtime.contact_sheets import fit_label

FORMATS = ("webp", "gif")
_QUALITY = 90  # of WebP
# Parameters that follow from others, and may differ where those do.
_FOLLOWING = (
    "styles", "weak_styles", "weak_checkpoint", "model_hash", "content_hash", "sigmas", "guidance_schedule",
    "prompt_windows", "prompt_weights",
)  # fmt: skip
_FONT_SIZE, _MARGIN = 12, 4  # pixels; larger pictures have larger labels


def sequences(cells: Sequence[Cell], axis: str) -> list[list[Cell]]:
    """The cells of each combination of all other parameters, in the order of the axis.

    Numbers rise, other values keep the order of the grid. Combinations with a single cell are left out.

    Args:
        cells: a grid.
        axis: the name of one of its axes, see `sheets.axes`.
    """
    groups: dict[str, list[Cell]] = {}
    for cell in cells:
        groups.setdefault(_all_but(axis, cell), []).append(cell)
    order = {value: place for place, value in enumerate(dict.fromkeys(value_of(cell, axis) for cell in cells))}
    if all(isinstance(value, int | float) for value in order):
        order = {value: value for value in order}
    return [sorted(group, key=lambda cell: order[value_of(cell, axis)]) for group in groups.values() if len(group) > 1]


def _all_but(axis: str, cell: Cell) -> str:
    parameters = cell.parameters()
    parameters["scales"] = {name: scale for name, scale in cell.scales.items() if name != axis}
    return json.dumps({name: value for name, value in parameters.items() if name not in (axis, *_FOLLOWING)})


def with_labels(pictures: Sequence[Image.Image], labels: Sequence[str]) -> list[Image.Image]:
    """The pictures with a label below each of them, all in one size.

    Args:
        pictures: of one size.
        labels: one for each.
    """
    width, height = pictures[0].size
    font_size = max(_FONT_SIZE, width // 24)
    texts = [fit_label(label, font_size, width - 2 * _MARGIN, height) for label in labels]
    below = max(text.height for text in texts) + 2 * _MARGIN
    frames = []
    for picture, text in zip(pictures, texts, strict=True):
        frame = Image.new("RGB", (width, height + below), "white")
        frame.paste(picture)
        text.draw(ImageDraw.Draw(frame), _MARGIN, height + _MARGIN, "black")
        frames.append(frame)
    return frames


def to_animation(frames: Sequence[Image.Image], format: str, seconds_per_frame: float, *, bounce: bool) -> bytes:
    """The bytes of an animation that repeats for ever.

    Args:
        frames: of one size.
        format: one of `FORMATS`. GIF shows 256 colours, each frame those that suit it, and counts time in 1/100 s.
        seconds_per_frame: how long each is shown.
        bounce: whether to go back frame by frame, instead of jumping to the first.
    """
    shown = [*frames, *frames[-2:0:-1]] if bounce else list(frames)
    options: dict[str, Any] = {"quality": _QUALITY} if format == "webp" else {}
    buffer = io.BytesIO()
    shown[0].save(
        buffer,
        format,
        save_all=True,
        append_images=shown[1:],
        duration=round(1000 * seconds_per_frame),
        loop=0,
        **options,
    )
    return buffer.getvalue()
