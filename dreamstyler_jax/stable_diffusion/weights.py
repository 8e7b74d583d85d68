"""Assembles models from checkpoints, and writes checkpoints that ``diffusers`` and ``transformers`` read.

A model is a pair ``(graphdef, params)``: ``flax.nnx.merge(graphdef, params)`` is the callable module. ``params`` is a
plain nested dict of arrays, so every JAX transformation and optimiser takes it; list positions are int keys.
"""

import functools
import math
import re
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, TypedDict, TypeVar, cast

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from flax import nnx
from flax.traverse_util import flatten_dict, unflatten_dict

from dreamstyler_jax.runtime.buckets import path_of
from dreamstyler_jax.runtime.errors import UserError, listing
from dreamstyler_jax.runtime.files import read_json, replacing, write_json
from dreamstyler_jax.stable_diffusion.checkpoint_files import TensorSource, open_weights
from dreamstyler_jax.stable_diffusion.layers import ModelConfig
from dreamstyler_jax.stable_diffusion.tensor_names import (
    ParamPath,
    current_names,
    from_torch_layout,
    tensor_name,
    to_torch_layout,
    torch_shape,
)
from dreamstyler_jax.stable_diffusion.weight_names import DIFFUSERS_STEM, TRANSFORMERS_STEM

Params = dict[str | int, Any]
Loaded = tuple[nnx.GraphDef, Params]
ConfigT = TypeVar("ConfigT", bound=ModelConfig, covariant=True)

# Both as CLIP was initialised (Radford et al. 2021, section 2.5, and its code).
INITIAL_LOGIT_SCALE = math.log(1 / 0.07)
EMBEDDING_DEVIATION = 0.02
_ADVICE = "give a model folder in diffusers' layout"
_LORA = re.compile(r"[._]lora([._]|_[AB])")


class NetworkFile(TypedDict, total=False):
    """What tells of which class the ``config.json`` of a network is."""

    _class_name: str
    architectures: list[str]


class ModelClass(Protocol[ConfigT]):
    """A class of networks that is built from a config: each of this package's models."""

    @property
    def config_class(self) -> type[ConfigT]:
        """The class of the model's config."""
        ...

    def __call__(self, config: Any, *, rngs: Any) -> nnx.Module:
        """Builds a model."""
        ...


def load_model(
    cls: ModelClass[ConfigT],
    folder: str | Path,
    *,
    config: ConfigT | None = None,
    dtype: jax.typing.DTypeLike = jnp.float32,
    variant: str | None = None,
) -> tuple[nnx.GraphDef, Params]:
    """Reads one model of a checkpoint, e.g. ``load_model(UNet2DConditionModel, folder / "unet")``.

    Args:
        cls: the class of the model.
        folder: holds ``config.json`` and the weights, in one safetensors file or in several with their index.
        config: the result of :func:`read_config`, if the caller has it already.
        dtype: floating-point type to convert every tensor to.
        variant: the word in names such as ``model.fp16.safetensors``; ``None``, or a variant that there is not, for
            ``model.safetensors``.

    Returns:
        ``(graphdef, params)``.

    Raises:
        UserError: files are missing or damaged, the config is not supported, or the tensors are not exactly the
            model's; the message then names missing, unknown and misshapen ones.
    """
    folder = Path(folder)
    config = read_config(cls, folder) if config is None else config
    with open_weights(folder, variant) as source:
        return read_model(cls, config, source, dtype=dtype, origin=str(folder))


def read_config(cls: ModelClass[ConfigT], folder: str | Path) -> ConfigT:
    """Reads the ``config.json`` of a model.

    Raises:
        UserError: the file is missing or damaged, or has a setting that is not supported.
    """
    folder = Path(folder)
    raw = read_json(folder / "config.json", advice=_ADVICE)
    try:
        return cls.config_class.from_dict(raw)
    except UserError as error:
        raise UserError(f"{folder}: {error}") from None


def class_name_in(folder: str | Path) -> str:
    """The class that the ``config.json`` of a model names; empty if it names none.

    Raises:
        UserError: the file is missing or damaged.
    """
    return read_json(Path(folder) / "config.json", NetworkFile, advice=_ADVICE).get("_class_name", "")


def read_model(
    cls: ModelClass[ConfigT],
    config: ConfigT,
    source: TensorSource,
    *,
    dtype: jax.typing.DTypeLike,
    origin: str,
    standard: str = "its config.json",
) -> tuple[nnx.GraphDef, Params]:
    """Assembles a model from any source of named tensors.

    Args:
        cls: the class of the model.
        config: decides which tensors the model has.
        source: holds exactly these tensors, under the names of ``diffusers`` or ``transformers``.
        dtype: floating-point type to convert every tensor to.
        origin: names the source in errors.
        standard: what the tensors should fit, in errors.

    Returns:
        ``(graphdef, params)`` as from :func:`load_model`.

    Raises:
        UserError: tensors are missing, unknown or misshapen, or those of a LoRA.
    """
    graphdef, shapes = _abstract_model(cls, config)
    names = {path: tensor_name(path) for path in shapes}
    stored = current_names(source.names(), names.values())
    if loras := [name for name in stored if _LORA.search(name)]:
        raise UserError(
            f"the weights in {origin} hold a LoRA beside the model, such as {loras[0]}: merge it (fuse_lora, then "
            "save_pretrained), or give it with --loras and its model with --model"
        )
    expected = {names[path]: torch_shape(path, shape) for path, shape in shapes.items()}
    if problems := _differences(source, stored, expected):
        raise UserError(f"the weights in {origin} do not fit {standard}; {problems}")
    params = {}
    for path, name in names.items():
        tensor = from_torch_layout(path, source.tensor(stored[name]).reshape(expected[name]))
        params[path] = jax.device_put(np.asarray(tensor, dtype, order="C"))  # jnp would compile one cast per shape
    return graphdef, unflatten_dict(params)


def init_model(
    cls: ModelClass[ConfigT], config: ConfigT, *, seed: int = 0, dtype: jax.typing.DTypeLike = jnp.float32
) -> tuple[nnx.GraphDef, Params]:
    """Makes an untrained model: kernels normal with variance 1 / fan-in, norms the identity, biases zero.

    NumPy draws the numbers: they are the same on every device, and no initialiser is compiled per shape.

    Returns:
        ``(graphdef, params)`` as from :func:`load_model`.
    """
    graphdef, shapes = _abstract_model(cls, config)
    rng = np.random.default_rng(seed)
    params = {path: jnp.asarray(_initial_value(path, shape, rng), dtype) for path, shape in shapes.items()}
    return graphdef, unflatten_dict(params)


def describe_model(
    cls: ModelClass[ConfigT], config: ConfigT, *, dtype: jax.typing.DTypeLike = jnp.float32
) -> tuple[nnx.GraphDef, Params]:
    """Like :func:`init_model`, with a ``jax.ShapeDtypeStruct`` in place of every array."""
    graphdef, shapes = _abstract_model(cls, config)
    params = {path: jax.ShapeDtypeStruct(shape, dtype) for path, shape in shapes.items()}
    return graphdef, unflatten_dict(params)


def save_model(folder: str | Path, config: ModelConfig, params: Params) -> None:
    """Writes ``config.json`` and the weights in the parameters' dtype.

    :func:`load_model` (bit for bit) and ``diffusers`` or ``transformers`` read them. Each file appears whole or not at
    all; existing ones of the same name are replaced.

    Args:
        folder: is made if it does not exist.
        config: the model's config.
        params: the second result of :func:`load_model`, or of the same structure.
    """
    folder = path_of(folder)
    tensors = {}
    for path, value in flatten_dict(params).items():
        # safetensors writes the buffer of an array without regard to its strides: it must be contiguous.
        tensors[tensor_name(path)] = np.asarray(to_torch_layout(path, np.asarray(value)), order="C")
    stem = DIFFUSERS_STEM if "_class_name" in config.identity else TRANSFORMERS_STEM
    with replacing(folder / f"{stem}.safetensors") as temporary:
        safetensors.numpy.save_file(tensors, temporary, metadata={"format": "pt"})
    write_json(folder / "config.json", dict(sorted(config.to_dict().items())))


@functools.lru_cache(maxsize=64)
def _abstract_model(cls: ModelClass[ConfigT], config: ConfigT) -> tuple[nnx.GraphDef, dict[ParamPath, tuple[int, ...]]]:
    """The module's structure and the shapes of its parameters by path, without making any array.

    Kept, as building a module takes longer than reading a small model's file.
    """

    def build() -> nnx.Module:
        # An nnx.Rngs counts its keys inside the trace, in time quadratic in their number: 13 s for a full UNet, not 2.
        key = jax.random.key(0)
        return cls(config, rngs=types.SimpleNamespace(params=lambda: key))

    graphdef, state = nnx.split(nnx.eval_shape(build))
    return graphdef, {cast(ParamPath, path): variable.shape for path, variable in nnx.to_flat_state(state)}


def _initial_value(path: ParamPath, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    match path[-1]:
        case "scale":
            return np.ones(shape, np.float32)
        case "bias":
            return np.zeros(shape, np.float32)
        case "logit_scale":
            return np.full(shape, INITIAL_LOGIT_SCALE, np.float32)
        case "kernel":
            deviation = math.prod(shape[:-1]) ** -0.5
        case _:
            deviation = EMBEDDING_DEVIATION
    return np.float32(deviation) * rng.standard_normal(shape, np.float32)


def _differences(source: TensorSource, stored: Mapping[str, str], shapes: Mapping[str, tuple[int, ...]]) -> str:
    """Where the tensors of a source are not exactly the model's, as a text; empty if they are.

    Args:
        source: holds the tensors.
        stored: the name in the source by current name.
        shapes: the shapes that the model expects by current name.
    """
    missing = sorted(shapes.keys() - stored.keys())
    unknown = sorted(on_disk for name, on_disk in stored.items() if name not in shapes)
    found = {name: source.shape(stored[name]) for name in sorted(shapes.keys() & stored.keys())}
    # A 1 x 1 convolution is a matrix: early autoencoders have such attention.
    misshapen = [
        f"{name} {shape} instead of {shapes[name]}"
        for name, shape in found.items()
        if shape not in (shapes[name], (*shapes[name], 1, 1))
    ]
    problems = {"missing": missing, "unknown": unknown, "misshapen": misshapen}
    return "; ".join(f"{problem}: {listing(names)}" for problem, names in problems.items() if names)
