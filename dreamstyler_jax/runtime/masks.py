"""Pictures that count in parts: a mask says where. It is the alpha channel of an RGBA picture, here and in PNG files.

A pixel counts if its alpha is at least half, and otherwise is hidden. So is everything behind it: `fill` replaces it.
"""

import os
from typing import Any

import numpy as np
from PIL import Image, ImageChops

from dreamstyler_jax.runtime import images
from dreamstyler_jax.runtime.buckets import path_of
from dreamstyler_jax.runtime.errors import UserError

SUFFIX = ".mask.png"
_HALF = 128


def as_masked_picture(value: images.PictureLike | Any) -> Image.Image:
    """Turns whatever holds a picture into an 8-bit picture with its mask, if it has one.

    Args:
        value: as `images.as_picture` takes it. The mask of a picture file is its transparency, or a file of the same
            size beside it, ``boat.mask.png`` for ``boat.jpg``: white counts, black does not. With both, what both let
            through counts.

    Returns:
        RGB if everything counts, otherwise RGBA.

    Raises:
        UserError: the value is no picture, is itself a mask file, or its mask cannot be read or has another size.
    """
    picture = images.as_picture(value, on_white=False)
    if not isinstance(value, str | os.PathLike):
        return picture
    if path_of(value).name.endswith(SUFFIX):
        raise UserError(f"{value} is by its name the mask of a picture: give the picture, and its mask is found")
    file = path_of(value).with_suffix(SUFFIX)
    if not file.exists():
        return picture
    mask = images.load(file).convert("L")
    if mask.size != picture.size:
        sizes = [f"{image.width} x {image.height}" for image in (mask, picture)]
        raise UserError(f"{file} has {sizes[0]} pixels, and {value} has {sizes[1]}: a mask has the size of its picture")
    if picture.mode == "RGBA":
        mask = ImageChops.darker(mask, picture.getchannel("A"))
    picture.putalpha(mask)
    return picture


def visible(picture: Image.Image) -> np.ndarray:
    """Which pixels count, bool[H, W]."""
    if picture.mode != "RGBA":
        return np.ones((picture.height, picture.width), bool)
    return np.asarray(picture.getchannel("A")) >= _HALF


def only_visible(picture: Image.Image) -> Image.Image:
    """The picture without what its mask hides: what is transparent holds nothing, and the rest is opaque."""
    if picture.mode != "RGBA":
        return picture
    pixels = np.where(visible(picture)[..., None], np.asarray(picture), 0)
    pixels[..., 3] = np.where(pixels[..., 3], 255, 0)
    return Image.fromarray(pixels.astype(np.uint8))


def fill(picture: Image.Image) -> Image.Image:
    """The picture in RGB, with the colour of the nearest visible pixel for each hidden one.

    What was hidden has no influence on the result. The autoencoder sees no edge where the mask begins.

    Raises:
        UserError: nothing is visible.
    """
    hidden = ~visible(picture)
    if hidden.all():
        raise UserError("its mask hides all of it; white counts, black does not")
    opaque = picture.convert("RGB")
    if not hidden.any():
        return opaque
    from scipy import ndimage  # takes long to import, and most pictures have no mask

    nearest: Any = ndimage.distance_transform_edt(hidden, return_distances=False, return_indices=True)
    return Image.fromarray(np.asarray(opaque)[tuple(nearest)])
