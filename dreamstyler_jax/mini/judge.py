"""The judge: a classifier that says what a picture of the embedded model's world shows, and who painted it.

Trained on the painters' own pictures alone, apart from CLIP and the UNet, so that it can be asked about theirs. It is
shown every picture as it is or blurred, noisy or mirrored, because the autoencoder blurs.
"""

import dataclasses
import functools
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import Array

from dreamstyler_jax.evaluation.scores import in_batches
from dreamstyler_jax.mini.world import captions, scenes
from dreamstyler_jax.stable_diffusion.layers import Downsample, Linear, ModelConfig, ResnetBlock
from dreamstyler_jax.stable_diffusion.ops.convolution import Conv3x3
from dreamstyler_jax.stable_diffusion.weights import load_model

CLASSES = {
    "subject": len(scenes.SUBJECTS),
    "colour": len(scenes.COLOURS),
    "place": len(scenes.PLACES),
    "time": len(scenes.TIMES),
    "painter": captions.PAINTERS + 1,  # the trained ones and the camera
}


@dataclasses.dataclass(frozen=True)
class JudgeConfig(ModelConfig):
    """Settings of the judge: channels at 32 x 32, 16 x 16, ... pixels, and the number of answers to each question."""

    widths: tuple[int, ...] = (32, 64, 128, 128)
    classes: tuple[int, ...] = tuple(CLASSES.values())

    identity: ClassVar = {"_class_name": "Judge"}


class Judge(nnx.Module):
    """A small ResNet that reads the mean and the deviation of its features, at every resolution."""

    config_class = JudgeConfig

    def __init__(self, config: JudgeConfig, *, rngs: nnx.Rngs):
        self.config = config
        widths = config.widths
        self.conv_in = Conv3x3(3, widths[0], strides=2, padding=(0, 1), rngs=rngs)
        pairs = zip((widths[0], *widths), widths, strict=False)
        self.blocks = nnx.List([ResnetBlock(i, o, groups=8, epsilon=1e-5, rngs=rngs) for i, o in pairs])
        self.downsamplers = nnx.List([Downsample(width, (0, 1), rngs=rngs) for width in widths[:-1]])
        self.heads = nnx.List([Linear(2 * sum(widths), count, rngs=rngs) for count in config.classes])

    def features(self, x: Array) -> Array:
        """Mean and deviation of each channel over the picture. ``x``: [B, 64, 64, 3] in [-1, 1] -> [B, F]."""
        x, statistics = self.conv_in(x), []
        for downsample, block in zip((None, *self.downsamplers), self.blocks, strict=True):
            x = block(downsample(x) if downsample else x)
            h = jax.nn.silu(x)
            statistics += [h.mean((1, 2)), jnp.sqrt(h.var((1, 2)) + 1e-5)]
        return jnp.concatenate(statistics, -1)

    def __call__(self, x: Array) -> list[Array]:
        """Logits [B, count] for each of CLASSES, from pictures [B, 64, 64, 3] in [-1, 1]."""
        features = self.features(x)
        return [head(features) for head in self.heads]


def disturbed(key: Array, pictures: Array) -> Array:
    """Each picture mirrored in half of the cases, and as it is, blurred or noisy by chance. [B, 64, 64, 3]."""
    k_flip, k_blur, k_amount, k_noise = jax.random.split(key, 4)
    batch = (pictures.shape[0], 1, 1, 1)
    x = jnp.where(jax.random.bernoulli(k_flip, 0.5, batch), pictures[:, :, ::-1], pictures)
    near = sum(jnp.roll(x, shift, (1, 2)) for shift in ((0, 1), (1, 0), (0, -1), (-1, 0))) / 4
    x = x + jax.random.bernoulli(k_blur, 0.6, batch) * jax.random.uniform(k_amount, batch) * (near - x)
    return x + 0.1 * jax.random.uniform(k_blur, batch) * jax.random.normal(k_noise, x.shape)


def loss(judge: Judge, key: Array, pictures: Array, labels: Array) -> Array:
    """Sum of the cross entropies. ``labels``: int[B, 5] as in `data.Pictures`; the camera's number is the last."""
    labels = jnp.minimum(labels, jnp.asarray(list(CLASSES.values())) - 1)
    cross = optax.softmax_cross_entropy_with_integer_labels
    return sum(cross(logits, labels[:, i]).mean() for i, logits in enumerate(judge(disturbed(key, pictures))))


class Verdict(NamedTuple):
    """Logits float32[N, count] for each of CLASSES."""

    subject: np.ndarray
    colour: np.ndarray
    place: np.ndarray
    time: np.ndarray
    painter: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Referee:
    """A loaded judge."""

    graphdef: nnx.GraphDef
    params: Any

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Reads the folder ``judge`` of the embedded model."""
        return cls(*load_model(Judge, folder))

    def verdict(self, pictures: np.ndarray) -> Verdict:
        """What pictures [N, 64, 64, 3] in [-1, 1] show and who painted them."""
        return Verdict(*in_batches(functools.partial(_logits, self.graphdef, self.params), pictures))


@functools.partial(jax.jit, static_argnums=0)
def _logits(graphdef, params, pictures: Array) -> list[Array]:
    return nnx.merge(graphdef, params)(pictures)


def style_distance(a: Verdict, b: Verdict) -> np.ndarray:
    """How differently two pictures are painted, whoever painted them: float[N], 0 (alike) to 2.

    One minus the correlation of the logits about the trained painters: a new painter is described by how much of each
    known one is in a picture.
    """
    x, y = (logits.painter - logits.painter.mean(-1, keepdims=True) for logits in (a, b))
    return 1 - (x * y).sum(-1) / (np.linalg.norm(x, axis=-1) * np.linalg.norm(y, axis=-1))


def among_first(logits: np.ndarray, labels: np.ndarray, count: int = 1) -> np.ndarray:
    """Whether each label is among the ``count`` likeliest answers: bool[N]."""
    return (np.argsort(-logits, -1)[:, :count] == np.asarray(labels)[:, None]).any(-1)
