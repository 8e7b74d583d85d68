"""3 x 3 convolutions with 2.25 times fewer multiplications, for the CPU (Lavin & Gray 2016, "Fast algorithms ...").

F(2 x 2, 3 x 3): every 2 x 2 tile of the result comes from a 4 x 4 tile of the input. Along one axis, with the tile's
values d, the kernel's g and ``*`` multiplying channels by channels:

    m = (B d) * (G g)     B d = (d0 - d2, d1 + d2, d2 - d1, d1 - d3)
                          G g = (g0, (g0 + g1 + g2) / 2, (g0 - g1 + g2) / 2, g2)
    y = A m = (m0 + m1 + m2, m1 - m2 - m3)

Along both, that is 16 matrix products over all tiles, which XLA:CPU leaves to Eigen. The rounding errors are those of
float32, about as large as of the direct sum.
"""

from collections.abc import Sequence

import jax.numpy as jnp
from jax import Array, lax

# Below these, transforming the tiles, or the kernel, takes the time that the products save.
MIN_CHANNELS = 256
MIN_PIXELS = 512


def pays(x: Array, kernel: Array) -> bool:
    """Whether `winograd` is the faster way, on a CPU; measured in docs/performance.md."""
    large = min(kernel.shape[2:]) >= MIN_CHANNELS and x.size // x.shape[-1] >= MIN_PIXELS
    return large and kernel.shape[:2] == (3, 3) and x.dtype == jnp.float32


def winograd(x: Array, kernel: Array, *, transposed: bool = False) -> Array:
    """Cross-correlation of stride 1, with one row (and column) of zeros on every side.

    Args:
        x: float32 ``[B, H, W, in]``.
        kernel: float32 ``[3, 3, in, out]``, or ``[3, 3, out, in]`` where it is ``transposed``.

    Returns:
        float32 ``[B, H, W, out]``.
    """
    batch, height, width, channels = x.shape
    rows, columns = -(-height // 2), -(-width // 2)
    margin = ((1, 1 + 2 * rows - height), (1, 1 + 2 * columns - width))
    x = jnp.pad(x, ((0, 0), *margin, (0, 0)))
    by_rows = _of_input([x[:, i : i + 2 * rows - 1 : 2] for i in range(4)])
    tiles = [_of_input([part[:, :, j : j + 2 * columns - 1 : 2] for j in range(4)]) for part in by_rows]
    kernels = [_of_kernel(part) for part in _of_kernel(kernel)]
    contracted = (((1,), (1 if transposed else 0,)), ((), ()))
    products = [
        [lax.dot_general(tiles[i][j].reshape(-1, channels), kernels[i][j], contracted) for i in range(4)]
        for j in range(4)
    ]
    halves = zip(*map(_of_products, products), strict=True)  # for each row of a tile of the result, four columns
    y = jnp.stack([jnp.stack(_of_products(half), axis=1) for half in halves])
    y = y.reshape(2, batch, rows, columns, 2, -1).transpose(1, 2, 0, 3, 4, 5)
    return y.reshape(batch, 2 * rows, 2 * columns, -1)[:, :height, :width]


def _of_input(d: Sequence[Array]) -> list[Array]:
    return [d[0] - d[2], d[1] + d[2], d[2] - d[1], d[1] - d[3]]


def _of_kernel(g: Array) -> list[Array]:
    return [g[0], (g[0] + g[1] + g[2]) / 2, (g[0] - g[1] + g[2]) / 2, g[2]]


def _of_products(m: Sequence[Array]) -> list[Array]:
    return [m[0] + m[1] + m[2], m[1] - m[2] - m[3]]
