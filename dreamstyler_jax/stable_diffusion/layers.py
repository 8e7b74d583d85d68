"""Building blocks shared by the text encoder, the VAE and the UNet."""

import dataclasses
import functools
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Self

import jax
import jax.numpy as jnp
from flax import nnx

from dreamstyler_jax.runtime import documents
from dreamstyler_jax.runtime.documents import Length, Range, Size
from dreamstyler_jax.runtime.errors import UserError, listing, shortened
from dreamstyler_jax.stable_diffusion.ops.convolution import UNSET, Conv3x3
from dreamstyler_jax.stable_diffusion.ops.norms import GroupNorm


def gelu(x: jax.Array) -> jax.Array:
    """Gaussian error linear unit (Hendrycks & Gimpel 2016), computed with erf in float32.

    ``jax.nn.gelu`` uses erfc, which on a GPU takes longer than reading and writing ``x``.
    """
    wide = x.astype(jnp.float32)
    return (wide * (0.5 + 0.5 * jax.lax.erf(wide * 0.5**0.5))).astype(x.dtype)


# What a ``config.json`` may say: one number for each resolution level, and a small one that is added or divided by.
Levels = Annotated[tuple[Size, ...], Length(1, 16)]
Epsilon = Annotated[float, Range(0, 1)]
ACTIVATIONS = {
    "gelu": gelu,
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
}


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The settings of a model's ``config.json`` that inference depends on.

    Subclasses add one field per implemented setting. ``supported`` lists the implemented values of settings that can
    have others: another value, or a list with one, is refused instead of computed wrongly. ``identity`` holds the
    constant entries by which other libraries recognise the file. A setting that is null has its default, as in those
    libraries, except for those in ``meaningful_null``, where null says that the model lacks something.
    """

    supported: ClassVar[Mapping[str, Sequence[Any]]] = {}
    identity: ClassVar[Mapping[str, Any]] = {}
    meaningful_null: ClassVar[Sequence[str]] = ()

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Self:
        """Reads the settings of ``config.json``; lists become tuples, entries that are no fields are ignored.

        Raises:
            UserError: the file is that of another kind of model, or settings have a wrong type or a value that is not
                implemented; the message names them.
        """
        given, needed = raw.get("_class_name"), cls.identity.get("_class_name")
        if given and needed and given != needed:
            raise UserError(f"config.json is that of a model of another kind: {shortened(str(given))}, not {needed}")
        described = typing.get_type_hints(cls, include_extras=True)
        kept = {field.name for field in dataclasses.fields(cls) if _allows_null(described[field.name])}
        raw = {key: value for key, value in raw.items() if value is not None or key in kept.union(cls.meaningful_null)}
        problems = []
        for key, values in cls.supported.items():
            given = raw.get(key, values[0])
            if any(value not in values for value in (given if isinstance(given, list | tuple) else (given,))):
                problems.append(
                    f"{key} = {documents.shown(given)} (supported: {', '.join(map(documents.shown, values))})"
                )
        settings = {}
        for field in dataclasses.fields(cls):
            if field.name in raw:
                try:
                    settings[field.name] = documents.fit(raw[field.name], described[field.name])
                except documents.Misfit as misfit:
                    problems.append(
                        f"{field.name}{misfit.key} = {documents.shown(misfit.value)} (supported: {misfit.wanted})"
                    )
        if problems:
            raise UserError(f"config.json is not that of a supported {cls.__name__[:-6]}: {listing(problems)}")
        return cls(**settings)

    def to_dict(self) -> dict[str, Any]:
        """The contents of a ``config.json`` from which :meth:`from_dict` and other libraries build the same model."""
        return {**self.identity, **dataclasses.asdict(self)}


def _allows_null(annotation: Any) -> bool:
    return types.NoneType in typing.get_args(annotation)


def check_heads(width: int, heads: int) -> None:
    """Raises a UserError if states of a width cannot be divided into so many attention heads."""
    if width % heads:
        raise UserError(f"config.json: hidden_size = {width} cannot be divided into {heads} attention heads")


Linear = functools.partial(nnx.Linear, kernel_init=UNSET)
Embed = functools.partial(nnx.Embed, embedding_init=UNSET)


class Conv1x1(nnx.Conv):
    """A 1 x 1 convolution: has the parameters of a convolution, computes a matrix product."""

    bias: nnx.Param

    def __init__(self, in_features: int, out_features: int, *, rngs: nnx.Rngs):
        super().__init__(in_features, out_features, (1, 1), kernel_init=UNSET, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps ``[..., in]`` to ``[..., out]``."""
        return x @ self.kernel[0, 0] + self.bias[...]


class ResnetBlock(nnx.Module):
    """Two 3 x 3 convolutions, each after a norm, with a residual connection; the time embedding is added between them.

    Args:
        in_features: input channels.
        out_features: output channels.
        groups: number of groups of the norms.
        epsilon: of the norms.
        time_features: width of the time embedding; ``None`` for a block without one.
        rngs: as of every ``nnx`` module.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        groups: int,
        epsilon: float,
        time_features: int | None = None,
        rngs: nnx.Rngs,
    ):
        self.norm1 = GroupNorm(in_features, groups, epsilon, rngs=rngs)
        self.conv1 = Conv3x3(in_features, out_features, rngs=rngs)
        if time_features is not None:
            self.time_emb_proj = Linear(time_features, out_features, rngs=rngs)
        self.norm2 = GroupNorm(out_features, groups, epsilon, rngs=rngs)
        self.conv2 = Conv3x3(out_features, out_features, rngs=rngs)
        self.has_shortcut = in_features != out_features
        if self.has_shortcut:
            self.conv_shortcut = Conv1x1(in_features, out_features, rngs=rngs)

    def __call__(self, x: jax.Array, time_embedding: jax.Array | None = None) -> jax.Array:
        """Maps ``x`` ``[B, H, W, in]`` and the time embedding ``[B, time_features]`` to ``[B, H, W, out]``."""
        h = self.conv1(self.norm1.silu(x))
        if time_embedding is not None:
            h += self.time_emb_proj(jax.nn.silu(time_embedding))[:, None, None, :]
        h = self.conv2(self.norm2.silu(h))
        return h + (self.conv_shortcut(x) if self.has_shortcut else x)


class Downsample(nnx.Module):
    """Halves height and width by a 3 x 3 convolution of stride 2.

    Args:
        features: input and output channels.
        padding: rows (and columns) of zeros before and after: ``(1, 1)`` in the UNet, ``(0, 1)`` in the VAE.
        rngs: as of every ``nnx`` module.
    """

    def __init__(self, features: int, padding: tuple[int, int], *, rngs: nnx.Rngs):
        self.conv = Conv3x3(features, features, strides=2, padding=padding, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps ``[B, H, W, C]`` to ``[B, ceil(H/2), ceil(W/2), C]`` (floor with the VAE's padding)."""
        return self.conv(x)


def doubled(x: jax.Array) -> jax.Array:
    """Repeats every pixel of ``[B, H, W, C]`` along both axes: ``[B, 2H, 2W, C]``."""
    batch, height, width, features = x.shape
    x = jnp.broadcast_to(x[:, :, None, :, None, :], (batch, height, 2, width, 2, features))
    return x.reshape(batch, 2 * height, 2 * width, features)


class Upsample(nnx.Module):
    """Doubles height and width by repeating pixels, then applies a 3 x 3 convolution."""

    def __init__(self, features: int, *, rngs: nnx.Rngs):
        self.conv = Conv3x3(features, features, rngs=rngs)

    def __call__(self, x: jax.Array, size: tuple[int, int] | None = None) -> jax.Array:
        """Maps ``[B, H, W, C]`` to ``[B, 2H, 2W, C]``, or to ``[B, *size, C]``.

        ``size`` cuts the last row or column: a map with an odd number of rows, halved and doubled, has one too many.
        """
        x = doubled(x)
        return self.conv(x if size is None else x[:, : size[0], : size[1]])
