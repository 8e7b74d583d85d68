"""VGG-16 (Simonyan & Zisserman 2015) up to its fourth block, whose Gram matrices describe styles (Gatys et al. 2016).

The layout is torchvision's, a plain ``torch.nn.Sequential`` of which layer N is ``features.N``.
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

from dreamstyler_jax.evaluation.scores import PATCH_SHARE, Grams, check_size, patch_grams, pictures_per_batch
from dreamstyler_jax.evaluation.weight_files import Shapes, read_network
from dreamstyler_jax.runtime.batches import in_batches
from dreamstyler_jax.stable_diffusion.layers import ModelConfig
from dreamstyler_jax.stable_diffusion.ops.convolution import Conv3x3

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
BLOCKS = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21))  # the convolutions of each block; max pooling lies between blocks
SMALLEST_SIDE = 32  # of pictures, in pixels


@dataclasses.dataclass(frozen=True)
class VggConfig(ModelConfig):
    """Sizes of the network."""

    widths: tuple[int, ...] = (64, 128, 256, 512)  # channels of each block


class Vgg16(nnx.Module):
    """The convolutions of the first four blocks."""

    config_class: ClassVar = VggConfig
    unused: ClassVar = re.compile(r"features\.(24|26|28)\..+|(classifier|pre_logits|head)\..+")

    def __init__(self, config: VggConfig, *, rngs: nnx.Rngs):
        self.features = nnx.Dict()
        before = 3
        for block, width in zip(BLOCKS, config.widths, strict=True):
            for index in block:
                self.features[str(index)] = Conv3x3(before, width, rngs=rngs)
                before = width

    @staticmethod
    def config_of(shapes: Shapes) -> VggConfig:
        """The sizes that follow from the shapes of the tensors."""
        pairs = zip(BLOCKS, VggConfig().widths, strict=True)
        return VggConfig(tuple(shapes.get(f"features.{block[0]}.weight", (width,))[0] for block, width in pairs))

    def levels(self, pixels: jax.Array) -> list[jax.Array]:
        """What comes out of each block before its pooling, in the literature relu1_2, relu2_2, relu3_3 and relu4_3.

        Args:
            pixels: [B, H, W, 3] in [-1, 1].

        Returns:
            Features [B, h, w, C], each of half the height and width of the one before.
        """
        x, levels = ((pixels + 1) / 2 - jnp.array(IMAGENET_MEAN)) / jnp.array(IMAGENET_STD), []
        for block in BLOCKS:
            x = nnx.max_pool(x, (2, 2), strides=(2, 2)) if levels else x
            for index in block:
                x = jax.nn.relu(self.features[str(index)](x))
            levels.append(x)
        return levels


@dataclasses.dataclass(frozen=True, eq=False)
class VggGrams:
    """A loaded VGG-16: computes Gram matrices.

    Attributes:
        graphdef, params: of `Vgg16`.
    """

    graphdef: nnx.GraphDef
    params: Any

    def grams(self, pictures: np.ndarray) -> Grams:
        """Gram matrices of five patches of pictures float[N, H, W, 3] in [-1, 1]: of 224 x 224 from 512 x 512 pixels.

        Raises:
            UserError: the pictures are too small.
        """
        check_size("VGG-16", pictures, SMALLEST_SIDE)
        side = round(min(pictures.shape[1:3]) * PATCH_SHARE)
        function = functools.partial(_gram_matrices, self.graphdef, side, self.params)
        return Grams(in_batches(function, np.asarray(pictures, np.float32), pictures_per_batch(side)))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _gram_matrices(graphdef: nnx.GraphDef, side: int, params: Any, pictures: jax.Array) -> tuple[jax.Array, ...]:
    return patch_grams(nnx.merge(graphdef, params).levels, side, pictures)


def load_vgg(path: Path) -> VggGrams:
    """Reads torchvision's VGG-16, or timm's copy of it.

    Raises:
        UserError: see `weight_files.read_network`.
    """
    return VggGrams(*read_network(Vgg16, path, "VGG-16"))
