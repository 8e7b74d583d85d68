"""From pictures to the squares that a style is learned from, and how much of them counts."""

import itertools
import math
import warnings
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
from PIL import Image

from dreamstyler_jax.runtime import images, masks
from dreamstyler_jax.runtime.errors import UserError

CROPS = 16  # of each picture, with random framing
SMALLEST = 0.5  # the side of the smallest crop, as a share of the picture's shorter side
MAX_ENLARGED = 1.5  # crops are not enlarged more than this
MIN_COUNTED = 0.05  # of a square
_TRIES = 50  # of crops for each one, where a mask hides much

Box = tuple[int, int, int, int]  # left, top, right, bottom


class Squares(NamedTuple):
    """The squares of a picture.

    Attributes:
        pixels: float32[C, side, side, 3] in [-1, 1].
        counted: how much of each pixel counts, float32[C, side, side] in [0, 1]; None if everything does.
        share: the share of the picture's pixels that count.
    """

    pixels: np.ndarray
    counted: np.ndarray | None
    share: float


def squares_of(pictures: Mapping[str, Image.Image], side: int, framing: str, seed: int) -> list[Squares]:
    """The squares of each picture, as many of each.

    Args:
        pictures: by name; RGB, or RGBA with a mask, see `masks`.
        side: of the squares, in pixels.
        framing: "crop" or "fit" for one square each, see `images.fit`, or "random" for crops. The first of these are
            squares over the picture's whole shorter side, from end to end, so that together they show all of it. The
            others have random sizes and places.
        seed: of the random crops.

    Raises:
        UserError: a mask leaves too little.
    """
    crops = max([CROPS, *(2 * _squares_to_cover(*picture.size) for picture in pictures.values())])
    framed = []
    for number, (name, picture) in enumerate(pictures.items()):
        try:
            filled, visible = masks.fill(picture), masks.visible(picture)
            if framing == "random":
                smallest = _smallest_crop(name, picture, side)
                boxes = crop_boxes(*picture.size, smallest, np.random.default_rng((seed, number)))
                squares = _crops(filled, visible, boxes, side, crops)
            else:
                squares = _one_square(filled, visible, side, framing)
        except UserError as error:
            raise UserError(f"{name}: {error}") from error
        framed.append(squares)
    return framed


def crop_boxes(width: int, height: int, smallest: int, rng: np.random.Generator) -> Iterator[Box]:
    """Endless square crops of a picture, all of ``rng``.

    Args:
        width, height: of the picture, in pixels.
        smallest: the smallest side of a crop.
        rng: draws them.
    """
    largest = min(width, height)
    count = _squares_to_cover(width, height)
    for position in np.linspace(0, 1, count) if count > 1 else [0]:
        left, top = round(position * (width - largest)), round(position * (height - largest))
        yield left, top, left + largest, top + largest
    while True:
        size = int(rng.integers(smallest, largest, endpoint=True))
        left, top = (int(rng.integers(0, extent - size, endpoint=True)) for extent in (width, height))
        yield left, top, left + size, top + size


def latent_weights(counted: np.ndarray, height: int, width: int) -> np.ndarray:
    """How much each latent of a square counts in its loss: in proportion to its pixels that count, 1 on average.

    Args:
        counted: how much of each pixel counts, float32[..., H, W]; something counts in each square.
        height, width: of the latents, which divide H and W.

    Returns:
        float32[..., height, width].
    """
    *squares, rows, columns = counted.shape
    blocks = counted.reshape(*squares, height, rows // height, width, columns // width)
    shares = blocks.mean((-3, -1), dtype=np.float64)
    return (shares / shares.mean((-2, -1), keepdims=True)).astype(np.float32)


def _squares_to_cover(width: int, height: int) -> int:
    return math.ceil(max(width, height) / min(width, height))


def _smallest_crop(name: str, picture: Image.Image, side: int) -> int:
    """The side of the smallest crop of a picture, in its own pixels."""
    shorter = min(picture.size)
    smallest = math.ceil(max(SMALLEST * shorter, side / MAX_ENLARGED))
    if smallest >= shorter:
        warnings.warn(
            f"{name} has only {picture.width} x {picture.height} pixels: its crops for {side} x {side} all take the "
            "whole shorter side",
            stacklevel=2,
        )
    return min(smallest, shorter)


def _one_square(filled: Image.Image, visible: np.ndarray, side: int, framing: str) -> Squares:
    """The square of a picture; of a masked one the margins do not count either."""
    pixels = images.to_array(images.fit(filled, side, side, framing))[None]
    if visible.all():
        return Squares(pixels, None, 1.0)
    mask = images.fit(_to_grey(visible), side, side, framing, resample=Image.Resampling.BOX, mat=0)
    counted = _to_shares(mask)[None]
    if counted.mean() < MIN_COUNTED:
        raise UserError(_too_little(counted.mean()))
    return Squares(pixels, counted, float(visible.mean()))


def _crops(filled: Image.Image, visible: np.ndarray, boxes: Iterator[Box], side: int, count: int) -> Squares:
    """The first crops of a picture in which enough counts."""
    size, mask = (side, side), _to_grey(visible)
    pixels, counted = [], []
    for box in itertools.islice(boxes, _TRIES * count):
        of_pixels = _to_shares(mask.resize(size, Image.Resampling.BOX, box))
        if of_pixels.mean() < MIN_COUNTED:
            continue
        pixels.append(images.to_array(filled.resize(size, Image.Resampling.LANCZOS, box)))
        counted.append(of_pixels)
        if len(pixels) == count:
            return Squares(np.stack(pixels), None if visible.all() else np.stack(counted), float(visible.mean()))
    raise UserError(_too_little(visible.mean()))


def _to_grey(visible: np.ndarray) -> Image.Image:
    return Image.fromarray(visible.astype(np.uint8) * 255)


def _to_shares(mask: Image.Image) -> np.ndarray:
    return np.asarray(mask, np.float32) / 255


def _too_little(share: float) -> str:
    return f"its mask leaves {100 * share:.1f} % of what is to be learned from; white counts, black does not"
