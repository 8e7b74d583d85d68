"""Canny's edge detector, as OpenCV computes it: ControlNets for edges were trained on its maps."""

import numpy as np
from scipy import ndimage

_TAN_BITS = 15
_TAN = 13573  # tan(22.5 degrees) * 2^15; tan(67.5 degrees) is tan(22.5 degrees) + 2


def canny(picture: np.ndarray, low: int = 100, high: int = 200) -> np.ndarray:
    """Finds the edges of a picture (Canny 1986), bit for bit like ``cv2.Canny(picture, low, high)``.

    Args:
        picture: uint8[H, W, 3].
        low: an edge ends where the gradient falls to this or less; L1 norm, from 0 to 2040.
        high: an edge counts if its gradient exceeds this somewhere.

    Returns:
        uint8[H, W]: 255 on edges, 0 elsewhere.
    """
    dx, dy, magnitude = _gradients(picture)
    ridge = (magnitude > low) & _is_local_maximum(dx, dy, magnitude)
    components = np.zeros(ridge.shape, np.int32)
    ndimage.label(ridge, np.ones((3, 3), bool), components)
    strong = np.unique(components[ridge & (magnitude > high)])
    return np.isin(components, strong).astype(np.uint8) * 255


def _gradients(picture: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sobel's dx, dy and |dx| + |dy|, int32[H, W] each, of every pixel's channel with the largest |dx| + |dy|."""
    pixels = picture.astype(np.int32)
    dx, dy = (_sobel(pixels, axis) for axis in (1, 0))
    magnitude = np.abs(dx) + np.abs(dy)
    channel = magnitude.argmax(axis=2)[..., None]
    dx, dy, magnitude = (np.take_along_axis(values, channel, axis=2)[..., 0] for values in (dx, dy, magnitude))
    return dx, dy, magnitude


def _sobel(pixels: np.ndarray, axis: int) -> np.ndarray:
    """Sobel's 3 x 3 derivative of [H, W, C] along axis 0 or 1, channel by channel; the border pixels are replicated."""
    difference = ndimage.correlate1d(pixels, [-1, 0, 1], axis, mode="nearest")
    return ndimage.correlate1d(difference, [1, 2, 1], 1 - axis, mode="nearest")


def _is_local_maximum(dx: np.ndarray, dy: np.ndarray, magnitude: np.ndarray) -> np.ndarray:
    """Whether the magnitude is largest across the edge, bool[H, W]; of two equal neighbours the first one wins."""
    height, width = magnitude.shape
    padded = np.pad(magnitude, 1)

    def neighbour(down: int, right: int) -> np.ndarray:
        return padded[1 + down : 1 + down + height, 1 + right : 1 + right + width]

    horizontal = (magnitude > neighbour(0, -1)) & (magnitude >= neighbour(0, 1))
    vertical = (magnitude > neighbour(-1, 0)) & (magnitude >= neighbour(1, 0))
    falling = (magnitude > neighbour(-1, -1)) & (magnitude > neighbour(1, 1))
    rising = (magnitude > neighbour(-1, 1)) & (magnitude > neighbour(1, -1))
    diagonal = np.where((dx ^ dy) < 0, rising, falling)

    x, y = np.abs(dx), np.abs(dy) << _TAN_BITS
    is_flat = y < x * _TAN  # the gradient is within 22.5 degrees of the horizontal
    is_steep = y > x * (_TAN + (2 << _TAN_BITS))
    return np.select([is_flat, is_steep], [horizontal, vertical], diagonal)
