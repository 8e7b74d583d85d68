"""Inception-v3 (Szegedy et al. 2016) up to its pooled features, in torchvision's layout.

ArtFID's weights (Wright & Ommer 2022) were trained to tell artists and styles apart, and take pictures in [0, 1].
"""

import dataclasses
import functools
import re
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from dreamstyler_jax.evaluation.scores import check_size
from dreamstyler_jax.evaluation.weight_files import Shapes, read_network
from dreamstyler_jax.runtime.batches import BATCH_ROWS, in_batches
from dreamstyler_jax.stable_diffusion.layers import ModelConfig
from dreamstyler_jax.stable_diffusion.ops.convolution import UNSET

EPSILON = 1e-3  # of the batch normalisations
SMALLEST_SIDE = 75  # of pictures, in pixels
MAX_PIXELS = 1 << 22  # in one batch


class Link(NamedTuple):
    """One convolution in a chain: its name, channels, kernel, stride, and whether its border is padded."""

    name: str
    width: int
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1
    padded: bool = True


Chain = tuple[Link, ...]  # applied one after another
SMALL, WIDE, TALL, FLAT, HIGH = (3, 3), (1, 7), (7, 1), (1, 3), (3, 1)
STEM = (
    Link("Conv2d_1a_3x3", 32, SMALL, 2, False),
    Link("Conv2d_2a_3x3", 32, SMALL, 1, False),
    Link("Conv2d_2b_3x3", 64, SMALL),
    Link("Conv2d_3b_1x1", 80),
    Link("Conv2d_4a_3x3", 192, SMALL, 1, False),
)
POOLED = ("Conv2d_3b_1x1", "Mixed_5b")  # max pooling comes before these


def _a(pool: int) -> tuple[Chain, ...]:
    return (
        (Link("branch1x1", 64),),
        (Link("branch5x5_1", 48), Link("branch5x5_2", 64, (5, 5))),
        (Link("branch3x3dbl_1", 64), Link("branch3x3dbl_2", 96, SMALL), Link("branch3x3dbl_3", 96, SMALL)),
        (Link("branch_pool", pool),),
    )


def _c(width: int) -> tuple[Chain, ...]:
    return (
        (Link("branch1x1", 192),),
        (Link("branch7x7_1", width), Link("branch7x7_2", width, WIDE), Link("branch7x7_3", 192, TALL)),
        (
            Link("branch7x7dbl_1", width), Link("branch7x7dbl_2", width, TALL), Link("branch7x7dbl_3", width, WIDE),
            Link("branch7x7dbl_4", width, TALL), Link("branch7x7dbl_5", 192, WIDE),
        ),
        (Link("branch_pool", 192),),
    )  # fmt: skip


_B = (
    (Link("branch3x3", 384, SMALL, 2, False),),
    (
        Link("branch3x3dbl_1", 64), Link("branch3x3dbl_2", 96, SMALL), Link("branch3x3dbl_3", 96, SMALL, 2, False),
    ),
)  # fmt: skip
_D = (
    (Link("branch3x3_1", 192), Link("branch3x3_2", 320, SMALL, 2, False)),
    (
        Link("branch7x7x3_1", 192), Link("branch7x7x3_2", 192, WIDE), Link("branch7x7x3_3", 192, TALL),
        Link("branch7x7x3_4", 192, SMALL, 2, False),
    ),
)  # fmt: skip
_E = (
    (Link("branch1x1", 320),),
    (Link("branch3x3_1", 384), Link("branch3x3_2a", 384, FLAT)),  # chains that begin alike share their first links
    (Link("branch3x3_1", 384), Link("branch3x3_2b", 384, HIGH)),
    (Link("branch3x3dbl_1", 448), Link("branch3x3dbl_2", 384, SMALL), Link("branch3x3dbl_3a", 384, FLAT)),
    (Link("branch3x3dbl_1", 448), Link("branch3x3dbl_2", 384, SMALL), Link("branch3x3dbl_3b", 384, HIGH)),
    (Link("branch_pool", 192),),
)
BLOCKS = {
    "Mixed_5b": _a(32), "Mixed_5c": _a(64), "Mixed_5d": _a(64), "Mixed_6a": _B, "Mixed_6b": _c(128),
    "Mixed_6c": _c(160), "Mixed_6d": _c(160), "Mixed_6e": _c(192), "Mixed_7a": _D, "Mixed_7b": _E, "Mixed_7c": _E,
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class InceptionConfig(ModelConfig):
    """Sizes of the network."""

    divisor: int = 1  # of all channels


class BatchNorm(nnx.Module):
    """Batch normalisation with the statistics of training."""

    def __init__(self, width: int, *, rngs: nnx.Rngs):
        self.scale, self.bias = nnx.Param(UNSET(rngs.params(), (width,))), nnx.Param(UNSET(rngs.params(), (width,)))
        self.running_mean = nnx.Param(UNSET(rngs.params(), (width,)))
        self.running_var = nnx.Param(UNSET(rngs.params(), (width,)))

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps ``[..., C]`` to ``[..., C]``."""
        factor = self.scale[...] * jax.lax.rsqrt(self.running_var[...] + EPSILON)
        return (x - self.running_mean[...]) * factor + self.bias[...]


class NormedConvolution(nnx.Module):
    """A convolution, a batch normalisation and a rectifier."""

    def __init__(self, before: int, link: Link, divisor: int, *, rngs: nnx.Rngs):
        width = link.width // divisor
        padding = "SAME" if link.padded else "VALID"
        self.conv = nnx.Conv(
            before, width, link.kernel, strides=link.stride, padding=padding, use_bias=False, kernel_init=UNSET,
            rngs=rngs,
        )  # fmt: skip
        self.bn = BatchNorm(width, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps ``[B, H, W, in]`` to ``[B, H', W', out]``."""
        return jax.nn.relu(self.bn(self.conv(x)))


class Mixed(nnx.Module):
    """Chains of convolutions side by side; a block that halves the map has max pooling as a further chain."""

    def __init__(self, before: int, chains: tuple[Chain, ...], divisor: int, *, rngs: nnx.Rngs):
        self.names = tuple(tuple(link.name for link in chain) for chain in chains)
        self.halves = any(link.stride == 2 for chain in chains for link in chain)
        for chain in chains:
            width = before
            for link in chain:
                setattr(self, link.name, NormedConvolution(width, link, divisor, rngs=rngs))
                width = link.width // divisor
        self.width = sum(chain[-1].width for chain in chains) // divisor + (before if self.halves else 0)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps ``[B, H, W, in]`` to ``[B, H', W', self.width]``."""
        results = []
        for names in self.names:
            h = nnx.avg_pool(x, SMALL, padding="SAME") if names == ("branch_pool",) else x
            for name in names:
                h = getattr(self, name)(h)
            results.append(h)
        return jnp.concatenate([*results, _halved(x)] if self.halves else results, axis=-1)


def _halved(x: jax.Array) -> jax.Array:
    return nnx.max_pool(x, SMALL, strides=(2, 2))


class Inception(nnx.Module):
    """All convolutions and the mean over the last map."""

    config_class: ClassVar = InceptionConfig
    unused: ClassVar = re.compile(r"fc\d?\..+|AuxLogits\d?\..+|.+\.num_batches_tracked")

    def __init__(self, config: InceptionConfig, *, rngs: nnx.Rngs):
        width = 3
        for link in STEM:
            setattr(self, link.name, NormedConvolution(width, link, config.divisor, rngs=rngs))
            width = link.width // config.divisor
        for name, chains in BLOCKS.items():
            setattr(self, name, block := Mixed(width, chains, config.divisor, rngs=rngs))
            width = block.width

    @staticmethod
    def config_of(shapes: Shapes) -> InceptionConfig:
        """The sizes that follow from the shapes of the tensors."""
        first = STEM[0]
        return InceptionConfig(first.width // (shapes.get(f"{first.name}.conv.weight") or (first.width,))[0])

    def __call__(self, pixels: jax.Array) -> jax.Array:
        """Maps pictures ``[B, H, W, 3]`` in [0, 1] to features ``[B, 2048]``."""
        x = pixels
        for name in (*(link.name for link in STEM), *BLOCKS):
            x = getattr(self, name)(_halved(x) if name in POOLED else x)
        return x.mean((1, 2))


@dataclasses.dataclass(frozen=True, eq=False)
class LoadedInception:
    """A loaded Inception-v3.

    Attributes:
        graphdef, params: of `Inception`.
    """

    graphdef: nnx.GraphDef
    params: Any

    def features(self, pictures: np.ndarray) -> np.ndarray:
        """Features float32[N, 2048] of pictures float[N, H, W, 3] in [-1, 1].

        Raises:
            UserError: the pictures are too small.
        """
        check_size("Inception-v3", pictures, SMALLEST_SIDE)
        rows = max(1, MAX_PIXELS // (pictures.shape[1] * pictures.shape[2]))
        function = functools.partial(_features, self.graphdef, self.params)
        return in_batches(function, np.asarray(pictures, np.float32), min(BATCH_ROWS, rows))


@functools.partial(jax.jit, static_argnums=0)
def _features(graphdef: nnx.GraphDef, params: Any, pictures: jax.Array) -> jax.Array:
    return nnx.merge(graphdef, params)((pictures + 1) / 2)


def load_inception(path: Path) -> LoadedInception:
    """Reads an Inception-v3 in torchvision's layout, as safetensors.

    Raises:
        UserError: see `weight_files.read_network`.
    """
    return LoadedInception(*read_network(Inception, path, "Inception-v3"))
