"""3 x 3 convolutions with 2.25 times fewer multiplications, for the CPU (Lavin & Gray 2016, "Fast algorithms ...").

F(2 x 2, 3 x 3): every 2 x 2 tile of the result comes from a 4 x 4 tile of the input. Along one axis, with the tile's
values d, the kernel's g and ``*`` multiplying channels by channels:

    m = (B d) * (G g)     B d = (d0 - d2, d1 + d2, d2 - d1, d1 - d3)
                          G g = (g0, (g0 + g1 + g2) / 2, (g0 - g1 + g2) / 2, g2)
    y = A m = (m0 + m1 + m2, m1 - m2 - m3)

Along both axes, that makes 16 matrix products over all tiles, which XLA:CPU computes with Eigen. The rounding errors
are about as large as those of the direct sum in float32.
"""

from collections.abc import Sequence

import jax.numpy as jnp
from jax import Array, lax

# With fewer, transforming the tiles or the kernel takes more time than the products save.
MIN_CHANNELS = 256
MIN_PIXELS = 512


def is_faster(x: Array, kernel: Array) -> bool:
    """Whether :func:`winograd` is faster than a direct convolution on a CPU, as measured in docs/performance.md.

    Args:
        x: ``[B, H, W, C]``, or its shape and dtype.
        kernel: ``[h, w, in, out]``, or its shape and dtype.
    """
    large = min(kernel.shape[2:]) >= MIN_CHANNELS and x.size // x.shape[-1] >= MIN_PIXELS
    return large and kernel.shape[:2] == (3, 3) and x.dtype == jnp.float32


def winograd(x: Array, kernel: Array, *, transposed: bool = False) -> Array:
    """Cross-correlation of stride 1, with one row (and column) of zeros on every side.

    Args:
        x: float32 ``[B, H, W, in]``.
        kernel: float32 ``[3, 3, in, out]``, or ``[3, 3, out, in]`` if ``transposed``.
        transposed: swap the kernel's last two axes.

    Returns:
        float32 ``[B, H, W, out]``.
    """
    batch, height, width, channels = x.shape
    rows, columns = -(-height // 2), -(-width // 2)
    margin = ((1, 1 + 2 * rows - height), (1, 1 + 2 * columns - width))
    x = jnp.pad(x, ((0, 0), *margin, (0, 0)))
    by_rows = _transformed_input([x[:, i : i + 2 * rows - 1 : 2] for i in range(4)])
    tiles = [_transformed_input([part[:, :, j : j + 2 * columns - 1 : 2] for j in range(4)]) for part in by_rows]
    kernels = [_transformed_kernel(part) for part in _transformed_kernel(kernel)]
    contracted = (((1,), (1 if transposed else 0,)), ((), ()))
    products = [
        [lax.dot_general(tiles[i][j].reshape(-1, channels), kernels[i][j], contracted) for i in range(4)]
        for j in range(4)
    ]
    halves = zip(*map(_result, products), strict=True)  # for each row of a tile of the result, four columns
    y = jnp.stack([jnp.stack(_result(half), axis=1) for half in halves])
    y = y.reshape(2, batch, rows, columns, 2, -1).transpose(1, 2, 0, 3, 4, 5)
    return y.reshape(batch, 2 * rows, 2 * columns, -1)[:, :height, :width]


def _transformed_input(d: Sequence[Array]) -> list[Array]:
    """B d along one axis, see above."""
    return [d[0] - d[2], d[1] + d[2], d[2] - d[1], d[1] - d[3]]


def _transformed_kernel(g: Array) -> list[Array]:
    """G g along the first axis."""
    return [g[0], (g[0] + g[1] + g[2]) / 2, (g[0] - g[1] + g[2]) / 2, g[2]]


def _result(m: Sequence[Array]) -> list[Array]:
    """A m along one axis."""
    return [m[0] + m[1] + m[2], m[1] - m[2] - m[3]]
