"""A 3 x 3 convolution whose gradient is as fast inside a ``lax.scan`` as outside, on the CPU too.

XLA:CPU brings convolutions into the layout of its fast kernel only in a program's outermost computation. Inside a
loop body the two gradients, which JAX writes with permuted axes, fall back to a naive kernel, 20 to 100 times slower;
written in the forward convolution's own layout (NHWC, HWIO) they do not. Other platforms keep JAX's gradient, which
their compilers recognise.
"""

import functools

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array, lax

from dreamstyler_jax.stable_diffusion.ops import winograd

# Weights are read, or drawn by `weights.init_model`; to trace a random initialiser for each would take longer.
UNSET = nnx.initializers.zeros

Padding = tuple[tuple[int, int], tuple[int, int]]
ONE_AROUND = ((1, 1), (1, 1))


class Conv3x3(nnx.Conv):
    """A 3 x 3 convolution of stride 1 or 2.

    Args:
        padding: rows (and columns) of zeros before and after.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        strides: int = 1,
        padding: tuple[int, int] = (1, 1),
        rngs: nnx.Rngs,
    ):
        super().__init__(
            in_features, out_features, (3, 3), strides=strides, padding=(padding, padding), kernel_init=UNSET, rngs=rngs
        )

    def __call__(self, x: Array) -> Array:
        """Maps ``[B, H, W, in]`` to ``[B, H', W', out]``."""
        kernel, bias = self.kernel[...], self.bias[...]
        x = x.astype(jnp.promote_types(x.dtype, kernel.dtype))
        return convolve(x, kernel.astype(x.dtype), self.strides, self.padding) + bias


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def convolve(x: Array, kernel: Array, stride: int, padding: Padding) -> Array:
    """Cross-correlation of ``x`` ``[B, H, W, in]`` with ``kernel`` ``[h, w, in, out]``, both of one dtype."""
    direct = functools.partial(_convolve, padding=padding, stride=stride)
    if stride == 1 and padding == ONE_AROUND and winograd.pays(x, kernel):
        return lax.platform_dependent(x, kernel, cpu=winograd.winograd, default=direct)
    return direct(x, kernel)


def _convolve(
    x: Array, kernel: Array, padding: Padding, *, stride: int = 1, spread: int = 1, dilation: int = 1
) -> Array:
    """``spread`` puts zeros between the pixels of ``x``, ``dilation`` between those of the kernel."""
    return lax.conv_general_dilated(
        x, kernel, (stride,) * 2, padding, (spread,) * 2, (dilation,) * 2, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def _forward(x: Array, kernel: Array, stride: int, padding: Padding) -> tuple[Array, tuple[Array, Array]]:
    return convolve(x, kernel, stride, padding), (x, kernel)


def _backward(stride: int, padding: Padding, residuals: tuple[Array, Array], dy: Array) -> tuple[Array, Array]:
    def by_rule(x, kernel, dy):
        return jax.vjp(functools.partial(_convolve, padding=padding, stride=stride), x, kernel)[1](dy)

    in_forward_layout = functools.partial(_gradients, stride, padding)
    return lax.platform_dependent(*residuals, dy, cpu=in_forward_layout, default=by_rule)


def _gradients(stride: int, padding: Padding, x: Array, kernel: Array, dy: Array) -> tuple[Array, Array]:
    """Gradients by ``x`` and by ``kernel`` as NHWC/HWIO convolutions, or as a matrix product on small maps."""
    size, reach, out = x.shape[1:3], kernel.shape[:2], dy.shape[1:3]
    rest = [s + sum(p) - k - (o - 1) * stride for s, p, k, o in zip(size, padding, reach, out, strict=True)]
    if dy[..., 0].size < dy.shape[-1]:
        dx = _by_patches(stride, padding, x, kernel, dy)
    elif stride == 1 and padding == ONE_AROUND and winograd.pays(dy, kernel):
        dx = winograd.winograd(dy, kernel[::-1, ::-1], transposed=True)
    else:
        full = tuple((k - 1 - p[0], k - 1 - p[1] + r) for k, p, r in zip(reach, padding, rest, strict=True))
        dx = _convolve(dy, kernel[::-1, ::-1].swapaxes(2, 3), full, spread=stride)
    cut = tuple((p[0], p[1] - r) for p, r in zip(padding, rest, strict=True))
    dkernel = _convolve(x.transpose(3, 1, 2, 0), dy.transpose(1, 2, 0, 3), cut, dilation=stride)
    return dx, dkernel.transpose(1, 2, 0, 3)


def _by_patches(stride: int, padding: Padding, x: Array, kernel: Array, dy: Array) -> Array:
    """The gradient by ``x``: that of all patches of ``x``, a product with the kernel as it lies, then their overlap.

    Where there are fewer pixels than channels, copying the kernel into another layout is what takes the time.
    """

    def patches(x: Array) -> Array:
        """``[h, w, in, B, H', W']`` of ``[in, B, H, W]``."""
        x = jnp.pad(x, ((0, 0), (0, 0), *padding))
        rows, columns = (
            [slice(k, side - reach + k + 1, stride) for k in range(reach)]
            for side, reach in zip(x.shape[2:], kernel.shape[:2], strict=True)
        )
        return jnp.stack([jnp.stack([x[:, :, row, column] for column in columns]) for row in rows])

    dpatches = lax.dot_general(kernel, dy, (((3,), (3,)), ((), ())))
    shape = jax.ShapeDtypeStruct((x.shape[3], *x.shape[:3]), x.dtype)
    (dx,) = jax.linear_transpose(patches, shape)(dpatches)
    return dx.transpose(1, 2, 3, 0)


convolve.defvjp(_forward, _backward)
