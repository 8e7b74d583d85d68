"""Style transfer: what a content picture becomes before it is repainted (Ahn et al. 2024, section 3.4)."""

from collections.abc import Sequence

import cv2
import numpy as np


def control_scales(scales: Sequence[float], spans: Sequence[tuple[float, float]], steps: int) -> np.ndarray:
    """How much each ControlNet counts in each step: float32[steps, K].

    Args:
      scales: of each ControlNet.
      spans: the parts of the sampling, from 0 to 1, between which each is heeded; a step counts if it lies in it whole.
      steps: steps of the solver that are taken.
    """
    first, last = np.arange(steps) / steps, (np.arange(steps) + 1) / steps
    within = [(first >= start) & (last <= end) for start, end in spans]
    return (np.array(scales, np.float32)[:, None] * np.array(within)).T.astype(np.float32)


def edges(picture: np.ndarray) -> np.ndarray:
    """Canny's edges uint8[H, W], 0 or 255, of a picture uint8[H, W, 3], as ControlNets were trained on (100, 200)."""
    return cv2.Canny(picture, 100, 200)
