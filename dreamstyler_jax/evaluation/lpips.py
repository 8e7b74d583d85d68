"""LPIPS with AlexNet (Zhang et al. 2018, version 0.1): how differently two pictures look to people, place by place.

The layout is that of the authors' package ``lpips``, which holds AlexNet and the weights of its channels in one model.
"""

import dataclasses
import functools
import re
from pathlib import Path
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from dreamstyler_jax.evaluation.scores import check_size
from dreamstyler_jax.evaluation.weight_files import Shapes, read_network
from dreamstyler_jax.runtime.batches import in_batches
from dreamstyler_jax.stable_diffusion.layers import ModelConfig
from dreamstyler_jax.stable_diffusion.ops.convolution import UNSET

SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # of pictures in [-1, 1]: ImageNet's mean and deviation
EPSILON = 1e-10
SMALLEST_SIDE = 32  # of pictures, in pixels
MAX_PIXELS = 1 << 22  # in one batch
# Name, kernel, stride and padding of each convolution; max pooling comes before the second and the third.
CONVOLUTIONS = (("0", 11, 4, 2), ("3", 5, 1, 2), ("6", 3, 1, 1), ("8", 3, 1, 1), ("10", 3, 1, 1))
POOLED = ("3", "6")


@dataclasses.dataclass(frozen=True)
class LpipsConfig(ModelConfig):
    """Sizes of the network."""

    widths: tuple[int, ...] = (64, 192, 384, 256, 256)  # channels of AlexNet's convolutions


class Lpips(nnx.Module):
    """AlexNet's convolutions, and what each of their channels weighs."""

    config_class: ClassVar = LpipsConfig
    unused: ClassVar = re.compile(r"lins\..+|scaling_layer\..+")  # the same weights under other names, and constants

    def __init__(self, config: LpipsConfig, *, rngs: nnx.Rngs):
        self.net = nnx.Dict()
        before = 3
        for level, (width, (name, kernel, stride, padding)) in enumerate(zip(config.widths, CONVOLUTIONS, strict=True)):
            convolution = nnx.Conv(
                before, width, (kernel, kernel), strides=stride, padding=padding, kernel_init=UNSET, rngs=rngs
            )
            self.net[f"slice{level + 1}"] = nnx.Dict({name: convolution})
            weights = nnx.Conv(width, 1, (1, 1), use_bias=False, kernel_init=UNSET, rngs=rngs)
            setattr(self, f"lin{level}", nnx.Dict(model=nnx.Dict({"1": weights})))
            before = width

    @staticmethod
    def config_of(shapes: Shapes) -> LpipsConfig:
        """The sizes that follow from the shapes of the tensors."""
        names = [f"net.slice{level}.{name}.weight" for level, (name, *_) in enumerate(CONVOLUTIONS, 1)]
        pairs = zip(names, LpipsConfig().widths, strict=True)
        return LpipsConfig(tuple(shapes.get(name, (width,))[0] for name, width in pairs))

    def _levels(self, pixels: jax.Array) -> list[jax.Array]:
        """Unit features [B, h, w, C] after each convolution."""
        x, levels = (pixels - jnp.array(SHIFT)) / jnp.array(SCALE), []
        for level, (name, *_) in enumerate(CONVOLUTIONS, 1):
            x = nnx.max_pool(x, (3, 3), strides=(2, 2)) if name in POOLED else x
            x = jax.nn.relu(self.net[f"slice{level}"][name](x))
            levels.append(x / (jnp.linalg.norm(x, axis=-1, keepdims=True) + EPSILON))
        return levels

    def __call__(self, a: jax.Array, b: jax.Array) -> jax.Array:
        """Distances [B], from 0 for equal pictures to about 1, of pictures [B, H, W, 3] in [-1, 1], pair by pair."""
        distance = jnp.zeros(len(a))
        for level, (x, y) in enumerate(zip(self._levels(a), self._levels(b), strict=True)):
            weights = getattr(self, f"lin{level}")["model"]["1"].kernel[...][0, 0, :, 0]
            distance += (jnp.square(x - y) @ weights).mean((1, 2))
        return distance


@dataclasses.dataclass(frozen=True, eq=False)
class LoadedLpips:
    """A loaded LPIPS.

    Attributes:
        graphdef, params: of `Lpips`.
    """

    graphdef: nnx.GraphDef
    params: Any

    def distances(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Distances float32[N] of pictures float[N, H, W, 3] in [-1, 1], pair by pair.

        Raises:
            UserError: the pictures are too small.
        """
        check_size("LPIPS", a, SMALLEST_SIDE)
        pairs = np.stack([a, b], 1).astype(np.float32)
        rows = max(1, MAX_PIXELS // (2 * a.shape[1] * a.shape[2]))
        return in_batches(functools.partial(_distances, self.graphdef, self.params), pairs, min(32, rows))


@functools.partial(jax.jit, static_argnums=0)
def _distances(graphdef: nnx.GraphDef, params: Any, pairs: jax.Array) -> jax.Array:
    return nnx.merge(graphdef, params)(pairs[:, 0], pairs[:, 1])


def load_lpips(path: Path) -> LoadedLpips:
    """Reads the weights of the package ``lpips``, as safetensors.

    Raises:
        UserError: see `weight_files.read_network`.
    """
    return LoadedLpips(*read_network(Lpips, path, "LPIPS with AlexNet"))
