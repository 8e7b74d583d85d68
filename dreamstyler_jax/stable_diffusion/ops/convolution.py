"""A 3 x 3 convolution whose gradient is as fast inside a ``lax.scan`` as outside, on the CPU too.

XLA:CPU brings convolutions into the layout of its fast kernel only in a program's outermost computation. Inside a
loop body the two gradients, which JAX writes with permuted axes, fall back to a naive kernel, 20 to 100 times slower;
written in the forward convolution's layout (NHWC, HWIO) they use the fast one. Other platforms keep JAX's gradient,
which their compilers recognise.
"""

import functools

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array, lax

from dreamstyler_jax.stable_diffusion.ops import winograd

# For parameters that are read from files or drawn by `weights.init_model`: tracing a random initialiser takes longer.
UNSET = nnx.initializers.zeros

Padding = tuple[tuple[int, int], ...]  # zeros before and after: rows, columns
ONE_AROUND = ((1, 1), (1, 1))


class Conv3x3(nnx.Conv):
    """A 3 x 3 convolution of stride 1 or 2.

    Args:
        in_features: input channels.
        out_features: output channels.
        strides: along both axes.
        padding: rows (and columns) of zeros before and after.
        use_bias: whether it adds a bias.
        rngs: as of every ``nnx`` module.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        strides: int = 1,
        padding: tuple[int, int] = (1, 1),
        use_bias: bool = True,
        rngs: nnx.Rngs,
    ):
        super().__init__(
            in_features, out_features, (3, 3), strides=strides, padding=(padding, padding), use_bias=use_bias,
            kernel_init=UNSET, rngs=rngs,
        )  # fmt: skip

    def __call__(self, x: Array) -> Array:
        """Maps ``[B, H, W, in]`` to ``[B, H', W', out]``."""
        kernel = self.kernel[...]
        x = x.astype(jnp.promote_types(x.dtype, kernel.dtype))
        x = convolve(x, kernel.astype(x.dtype), self.strides, self.padding)
        return x if self.bias is None else x + self.bias[...]


def _convolve(x: Array, kernel: Array, stride: int, padding: Padding) -> Array:
    """Cross-correlation, with a gradient that is fast on every platform.

    Args:
        x: ``[B, H, W, in]``.
        kernel: ``[h, w, in, out]``, in the dtype of ``x``.
        stride: along both axes.
        padding: rows of zeros above and below, columns left and right.

    Returns:
        ``[B, H', W', out]``.
    """
    direct = functools.partial(_dilated, padding=padding, stride=stride)
    if stride == 1 and padding == ONE_AROUND and winograd.is_faster(x, kernel):
        return lax.platform_dependent(x, kernel, cpu=winograd.winograd, default=direct)
    return direct(x, kernel)


convolve = jax.custom_vjp(_convolve, nondiff_argnums=(2, 3))


def _dilated(
    x: Array, kernel: Array, padding: Padding, *, stride: int = 1, x_dilation: int = 1, kernel_dilation: int = 1
) -> Array:
    """XLA's convolution; dilation puts zeros between the pixels of ``x``, or between those of the kernel."""
    return lax.conv_general_dilated(
        x, kernel, (stride,) * 2, padding, (x_dilation,) * 2, (kernel_dilation,) * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )  # fmt: skip


def _forward(x: Array, kernel: Array, stride: int, padding: Padding) -> tuple[Array, tuple[Array, Array]]:
    return convolve(x, kernel, stride, padding), (x, kernel)


def _backward(stride: int, padding: Padding, residuals: tuple[Array, Array], dy: Array) -> tuple[Array, Array]:
    def by_jax(x, kernel, dy):
        return jax.vjp(functools.partial(_dilated, padding=padding, stride=stride), x, kernel)[1](dy)

    in_forward_layout = functools.partial(_gradients, stride, padding)
    return lax.platform_dependent(*residuals, dy, cpu=in_forward_layout, default=by_jax)


def _gradients(stride: int, padding: Padding, x: Array, kernel: Array, dy: Array) -> tuple[Array, Array]:
    """The gradients by ``x`` and by ``kernel`` as NHWC/HWIO convolutions, or as a matrix product on small maps."""
    sizes, kernel_sizes, out_sizes = x.shape[1:3], kernel.shape[:2], dy.shape[1:3]
    # Padded rows and columns at the end that the last step of the stride does not reach.
    unused = [
        size + sum(pad) - k - (out - 1) * stride
        for size, pad, k, out in zip(sizes, padding, kernel_sizes, out_sizes, strict=True)
    ]
    if dy[..., 0].size < dy.shape[-1]:
        dx = _dx_by_patches(stride, padding, x, kernel, dy)
    elif stride == 1 and padding == ONE_AROUND and winograd.is_faster(dy, kernel):
        dx = winograd.winograd(dy, kernel[::-1, ::-1], transposed=True)
    else:
        dx_padding = tuple(
            (k - 1 - pad[0], k - 1 - pad[1] + rest) for k, pad, rest in zip(kernel_sizes, padding, unused, strict=True)
        )
        dx = _dilated(dy, kernel[::-1, ::-1].swapaxes(2, 3), dx_padding, x_dilation=stride)
    dkernel_padding = tuple((pad[0], pad[1] - rest) for pad, rest in zip(padding, unused, strict=True))
    dkernel = _dilated(x.transpose(3, 1, 2, 0), dy.transpose(1, 2, 0, 3), dkernel_padding, kernel_dilation=stride)
    return dx, dkernel.transpose(1, 2, 0, 3)


def _dx_by_patches(stride: int, padding: Padding, x: Array, kernel: Array, dy: Array) -> Array:
    """The gradient by ``x`` on small maps: the gradients by all patches of ``x``, summed where patches overlap.

    The former are a product with the kernel in its stored layout. With fewer pixels than channels, copying the kernel
    into another layout would take most of the time.
    """

    def patches(x: Array) -> Array:
        """``[h, w, in, B, H', W']`` of ``[in, B, H, W]``."""
        x = jnp.pad(x, ((0, 0), (0, 0), *padding))
        rows, columns = (
            [slice(k, side - size + k + 1, stride) for k in range(size)]
            for side, size in zip(x.shape[2:], kernel.shape[:2], strict=True)
        )
        return jnp.stack([jnp.stack([x[:, :, row, column] for column in columns]) for row in rows])

    dpatches = lax.dot_general(kernel, dy, (((3,), (3,)), ((), ())))
    shape = jax.ShapeDtypeStruct((x.shape[3], *x.shape[:3]), x.dtype)
    (dx,) = jax.linear_transpose(patches, shape)(dpatches)
    return dx.transpose(1, 2, 3, 0)


convolve.defvjp(_forward, _backward)
