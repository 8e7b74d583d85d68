"""Pictures for tests that need no model."""

import numpy as np


def noise_pictures(count: int, height: int = 16, width: int = 16, seed: int = 0) -> np.ndarray:
    """float32[count, height, width, 3] in [-1, 1]: noise around a colour, which differs from picture to picture."""
    rng = np.random.default_rng(seed)
    colours = rng.uniform(-0.7, 0.7, (count, 1, 1, 3))
    return (colours + rng.uniform(-0.3, 0.3, (count, height, width, 3))).astype(np.float32)
