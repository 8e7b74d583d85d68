"""The judge: a classifier that says what a picture of the embedded model's world shows, and who painted it.

It is trained on rendered pictures alone and shares nothing with CLIP or the UNet, so its answers about their pictures
are independent of them.
"""

import dataclasses
import functools
from pathlib import Path
from typing import ClassVar, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from dreamstyler_jax.mini.world import captions, scenes
from dreamstyler_jax.mini.world.manners import MANNERS, Manner
from dreamstyler_jax.runtime.batches import in_batches
from dreamstyler_jax.stable_diffusion.layers import Downsample, Linear, ModelConfig, ResnetBlock
from dreamstyler_jax.stable_diffusion.ops.convolution import Conv3x3
from dreamstyler_jax.stable_diffusion.weights import Params, load_model

CLASSES = {  # the number of answers to each question, in the order of `data.Pictures.labels`
    **{attribute: len(words) for attribute, words in scenes.ATTRIBUTES.items()},
    "painter": captions.PAINTERS + 1,  # the trained painters, and the camera last
    **{word: len(words) for word, words in zip(Manner._fields, MANNERS, strict=True)},
}


@dataclasses.dataclass(frozen=True)
class JudgeConfig(ModelConfig):
    """Sizes of the judge."""

    widths: tuple[int, ...] = (24, 48, 96, 128, 128)  # channels at 64 x 64, 32 x 32, ... pixels
    classes: tuple[int, ...] = tuple(CLASSES.values())  # number of answers to each question

    identity: ClassVar = {"_class_name": "Judge"}


class Judge(nnx.Module):
    """A small ResNet that answers from the means and deviations of its features at every resolution."""

    config_class: ClassVar = JudgeConfig

    def __init__(self, config: JudgeConfig, *, rngs: nnx.Rngs):
        self.config = config
        widths = config.widths
        self.conv_in = Conv3x3(3, widths[0], strides=2, padding=(0, 1), rngs=rngs)
        pairs = zip((widths[0], *widths), widths, strict=False)
        self.blocks = nnx.List([ResnetBlock(i, o, groups=8, epsilon=1e-5, rngs=rngs) for i, o in pairs])
        self.downsamplers = nnx.List([Downsample(width, (0, 1), rngs=rngs) for width in widths[:-1]])
        self.heads = nnx.List([Linear(2 * sum(widths), count, rngs=rngs) for count in config.classes])

    def feature_maps(self, x: Array) -> list[Array]:
        """What it sees at each resolution, [B, h, w, width], in pictures [B, 128, 128, 3] in [-1, 1]."""
        x, maps = self.conv_in(x.astype(self.conv_in.kernel.dtype)), []
        for downsample, block in zip((None, *self.downsamplers), self.blocks, strict=True):
            x = block(downsample(x) if downsample else x)
            maps.append(jax.nn.silu(x))
        return maps

    def features(self, x: Array) -> Array:
        """Mean and deviation of each channel at each resolution, [B, F], of pictures [B, 128, 128, 3] in [-1, 1]."""
        pairs = ((h.mean((1, 2)), jnp.sqrt(h.var((1, 2)) + 1e-5)) for h in self.feature_maps(x))
        return jnp.concatenate([statistic for pair in pairs for statistic in pair], -1)

    def __call__(self, x: Array) -> list[Array]:
        """Logits [B, number of answers] for each question, of pictures [B, 128, 128, 3] in [-1, 1]."""
        features = self.features(x)
        return [head(features) for head in self.heads]


class Verdict(NamedTuple):
    """The judge's answers about N pictures: logits float32[N, number of answers] for each question."""

    subject: np.ndarray
    colour: np.ndarray
    place: np.ndarray
    time: np.ndarray
    painter: np.ndarray
    technique: np.ndarray
    palette: np.ndarray
    touch: np.ndarray
    ground: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class LoadedJudge:
    """A trained judge: its structure and its weights."""

    graphdef: nnx.GraphDef
    params: Params

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Reads the folder ``judge`` of an embedded model.

        Raises:
            UserError: the files are missing, damaged, or those of another network.
        """
        return cls(*load_model(Judge, folder))

    def verdict(self, pictures: np.ndarray) -> Verdict:
        """The judge's answers about pictures float[N, 128, 128, 3] in [-1, 1]."""
        return Verdict(*in_batches(functools.partial(_logits, self.graphdef, self.params), pictures))


@functools.partial(jax.jit, static_argnums=0)
def _logits(graphdef: nnx.GraphDef, params: Params, pictures: Array) -> list[Array]:
    return nnx.merge(graphdef, params)(pictures)


def style_distance(a: Verdict, b: Verdict) -> np.ndarray:
    """How differently pictures are painted, pair by pair: float[N] from 0 (alike) to 2.

    One minus the correlation of the logits for the painters. So it also compares painters that the judge was not
    trained on: it describes each by the resemblance to all those that it knows.
    """
    x, y = (verdict.painter - verdict.painter.mean(-1, keepdims=True) for verdict in (a, b))
    return 1 - (x * y).sum(-1) / (np.linalg.norm(x, axis=-1) * np.linalg.norm(y, axis=-1))


def among_first(logits: np.ndarray, labels: np.ndarray, count: int = 1) -> np.ndarray:
    """Whether each of int[N] labels is among the ``count`` likeliest answers by logits [N, answers]: bool[N]."""
    return (np.argsort(-logits, -1)[:, :count] == np.asarray(labels)[:, None]).any(-1)
