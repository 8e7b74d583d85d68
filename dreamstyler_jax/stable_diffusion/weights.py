"""Model folders in the layout of ``diffusers`` and ``transformers`` (safetensors only) to parameters, and back.

A model is a pair ``(graphdef, params)``: ``flax.nnx.merge(graphdef, params)`` is the callable module. ``params`` is a
plain nested dict of arrays, so every JAX transformation and optimiser takes it; list positions are int keys.

Parameter paths are the checkpoint's tensor names, up to the names of leaves, the layout of kernels (channels last here,
channels first there) and a few numbered ``torch.nn.Sequential`` members.
"""

import contextlib
import json
import math
import os
import re
import types
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
from flax import nnx
from flax.traverse_util import flatten_dict, unflatten_dict

from dreamstyler_jax.runtime.errors import UserError
from dreamstyler_jax.stable_diffusion.layers import ModelConfig

Params = dict[str | int, Any]
ParamPath = tuple[str | int, ...]

DIFFUSERS_STEM = "diffusion_pytorch_model"
TRANSFORMERS_STEM = "model"

LEAF_NAMES = {"kernel": "weight", "scale": "weight", "embedding": "weight"}
MEMBER_NAMES = {".ff.proj_in.": ".ff.net.0.proj.", ".ff.proj_out.": ".ff.net.2."}
# Autoencoders saved before diffusers 0.12, Stable Diffusion 1.5's among them.
LEGACY_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
LEGACY_ATTENTION_NAME = re.compile(r"(?<=\.attentions\.\d\.)(query|key|value|proj_attn)(?=\.)")
# Constant index ranges, saved by early versions of transformers.
IGNORED_BUFFER = re.compile(r"(^|\.)position_ids$")

# Both as CLIP was initialised (Radford et al. 2021, section 2.5, and its code).
INITIAL_LOGIT_SCALE = math.log(1 / 0.07)
EMBEDDING_DEVIATION = 0.02

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
PARTS_WITH_WEIGHTS = {"text_encoder/": TRANSFORMERS_STEM, "unet/": DIFFUSERS_STEM, "vae/": DIFFUSERS_STEM}
SMALL_FILES = (
    "model_index.json", "config.json", "preprocessor_config.json", "processor_config.json",
    "vocab.json", "merges.txt", "tokenizer_config.json",
    "special_tokens_map.json", "scheduler/*.json", "tokenizer/*.json", "tokenizer/merges.txt",
)  # fmt: skip


def load_model(
    cls: type[nnx.Module], folder: str | Path, *, dtype: jax.typing.DTypeLike = jnp.float32, variant: str | None = None
) -> tuple[nnx.GraphDef, Params]:
    """Reads one model of a checkpoint, e.g. ``load_model(UNet2DConditionModel, folder / "unet")``.

    Args:
        cls: one of the classes of :mod:`dreamstyler_jax.models`.
        folder: holds ``config.json`` and the weights, in one safetensors file or in several with their index.
        dtype: floating-point type to convert every tensor to, whatever it is on disk.
        variant: the word in names such as ``model.fp16.safetensors``; ``None`` for ``model.safetensors``.

    Returns:
        ``(graphdef, params)``.

    Raises:
        UserError: files are missing or damaged, the config is not supported, or the tensors are not exactly those of
            the model; the message then names every missing, unknown and misshapen one.
    """
    folder = Path(folder)
    graphdef, expected = _abstract_model(cls, _read_config(cls.config_class, folder))
    files = _weight_files(folder, variant)
    try:
        with contextlib.ExitStack() as stack:
            opened = [stack.enter_context(safetensors.safe_open(file, framework="numpy")) for file in files]
            stored = _canonical_names({name: file for file in opened for name in file.keys()}, expected)  # noqa: SIM118
            _check_tensors(folder, stored, expected)
            params = {}
            for path in expected:
                file, name = stored[tensor_name(path)]
                tensor = _from_torch_layout(path, file.get_tensor(name))
                params[path] = jax.device_put(np.asarray(tensor, dtype, order="C"))  # jnp compiles one cast per shape
    except safetensors.SafetensorError as error:
        raise UserError(f"{folder}: the weights are damaged ({error}); download or convert them again") from error
    return graphdef, unflatten_dict(params)


def init_model(
    cls: type[nnx.Module], config: ModelConfig, *, seed: int = 0, dtype: jax.typing.DTypeLike = jnp.float32
) -> tuple[nnx.GraphDef, Params]:
    """Makes an untrained model: kernels normal with variance 1 / fan-in, norms the identity, biases zero.

    Drawn with NumPy, hence the same on every device and without compiling an initialiser per shape.

    Returns:
        ``(graphdef, params)`` as from :func:`load_model`.
    """
    graphdef, shapes = _abstract_model(cls, config)
    rng = np.random.default_rng(seed)
    return graphdef, unflatten_dict({path: jnp.asarray(_initial(path, shapes[path], rng), dtype) for path in shapes})


def save_model(folder: str | Path, config: ModelConfig, params: Params) -> None:
    """Writes ``config.json`` and the weights, in the parameters' dtype, so that :func:`load_model` (bit for bit) and
    ``diffusers`` or ``transformers`` load them.

    Files appear complete or not at all; those of the same name are replaced.

    Args:
        folder: is made where it does not exist.
        config: the model's ``config``.
        params: the second result of :func:`load_model`, or of the same structure.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    # safetensors writes the buffer of an array without regard to its strides: only contiguous ones come out right.
    tensors = {
        tensor_name(path): np.asarray(_to_torch_layout(path, np.asarray(value)), order="C")
        for path, value in flatten_dict(params).items()
    }
    weights = folder / f"{_stem(config)}.safetensors"
    with _replacing(weights) as temporary:
        safetensors.numpy.save_file(tensors, temporary, metadata={"format": "pt"})
    with _replacing(folder / "config.json") as temporary:
        temporary.write_text(json.dumps(config.to_dict(), indent=2, sort_keys=True) + "\n", encoding="utf-8")


def resolve_model(path_or_hub_id: str | Path, *, revision: str | None = None, variant: str | None = None) -> Path:
    """Finds a model folder here or, by its name, on the Hugging Face Hub.

    Args:
        path_or_hub_id: a local folder, or ``owner/name``; a folder of that name goes first.
        revision: branch, tag or commit of the hub repository.
        variant: as in :func:`load_model`; only these weights are downloaded.

    Returns:
        The folder; a downloaded one lies in the hub's cache and holds what this package reads, no more.

    Raises:
        UserError: there is no such folder and it is not a hub name, or the download failed.
    """
    folder = Path(path_or_hub_id)
    if folder.is_dir():
        return folder
    name = str(path_or_hub_id)
    if folder.is_file():
        raise UserError(f"{name} is a file: give the folder of a model")
    if not HUB_ID.fullmatch(name):
        raise UserError(f"no model folder {name!r}; give an existing folder or a hub name such as owner/name")
    import huggingface_hub

    try:
        return Path(
            huggingface_hub.snapshot_download(name, revision=revision, allow_patterns=_download_patterns(variant))
        )
    except Exception as error:  # the hub client's errors share no base class; the cause stays attached
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"no model folder {name!r}, and it could not be downloaded from the hub: {reason}") from error


def tensor_name(path: ParamPath) -> str:
    """The name in a checkpoint of the parameter at ``path``."""
    name = ".".join(map(str, (*path[:-1], LEAF_NAMES.get(path[-1], path[-1]))))
    for ours, theirs in MEMBER_NAMES.items():
        name = name.replace(ours, theirs)
    return name


def _abstract_model(cls: type[nnx.Module], config: ModelConfig) -> tuple[nnx.GraphDef, dict[ParamPath, tuple]]:
    """The module's structure and the shapes of its parameters by path, without making any array."""

    def build() -> nnx.Module:
        # An nnx.Rngs counts its keys inside the trace, in time quadratic in their number: 13 s for a full UNet, not 2.
        key = jax.random.key(0)
        return cls(config, rngs=types.SimpleNamespace(params=lambda: key))

    graphdef, state = nnx.split(nnx.eval_shape(build))
    return graphdef, {path: variable.shape for path, variable in nnx.to_flat_state(state)}


def _initial(path: ParamPath, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    match path[-1]:
        case "scale":
            return np.ones(shape, np.float32)
        case "bias":
            return np.zeros(shape, np.float32)
        case "logit_scale":
            return np.float32(INITIAL_LOGIT_SCALE)
        case "kernel":
            deviation = math.prod(shape[:-1]) ** -0.5
        case _:
            deviation = EMBEDDING_DEVIATION
    return np.float32(deviation) * rng.standard_normal(shape, np.float32)


def _from_torch_layout(path: ParamPath, tensor: np.ndarray) -> np.ndarray:
    if path[-1] != "kernel":
        return tensor
    return tensor.transpose(2, 3, 1, 0) if tensor.ndim == 4 else tensor.T


def _to_torch_layout(path: ParamPath, array: np.ndarray) -> np.ndarray:
    if path[-1] != "kernel":
        return array
    return array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T


def _torch_shape(path: ParamPath, shape: tuple[int, ...]) -> tuple[int, ...]:
    return _to_torch_layout(path, np.broadcast_to(np.float32(0), shape)).shape


def _read_config(config_class: type[ModelConfig], folder: Path) -> ModelConfig:
    file = folder / "config.json"
    try:
        raw = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {file} ({error.strerror}); give a model folder in diffusers' layout") from None
    except ValueError as error:
        raise UserError(f"{file} is not valid JSON ({error}); download it again") from None
    try:
        return config_class.from_dict(raw)
    except UserError as error:
        raise UserError(f"{folder}: {error}") from None


def _weight_files(folder: Path, variant: str | None) -> list[Path]:
    """The safetensors files of one model, found by their conventional names."""
    for stem in (DIFFUSERS_STEM, TRANSFORMERS_STEM):
        infix = f".{variant}" if variant else ""
        index = folder / f"{stem}.safetensors.index{infix}.json"
        if index.is_file():
            return _shards(index)
        single = folder / f"{stem}{infix}.safetensors"
        if single.is_file():
            return [single]
    raise UserError(_no_weights(folder, variant))


def _no_weights(folder: Path, variant: str | None) -> str:
    names = sorted(file.name for file in folder.iterdir())
    if others := [name for name in names if name.endswith(".safetensors")]:
        return f"{folder} has no weights of variant {variant}, only {', '.join(others)}; set the variant to match"
    if pickles := [name for name in names if name.endswith((".bin", ".ckpt", ".msgpack", ".pt"))]:
        return (
            f"{folder} has only {', '.join(pickles)}, a format that can run code when read; convert it to safetensors "
            "(from_pretrained, then save_pretrained, in the library that wrote it)"
        )
    return f"{folder} has no weights in safetensors format; download the model again"


def _shards(index: Path) -> list[Path]:
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, AttributeError) as error:
        raise UserError(f"{index} is not an index of weights ({error!r}); download it again") from None
    if missing := [name for name in names if not (index.parent / name).is_file()]:
        raise UserError(f"{index.parent} lacks {', '.join(missing)}, listed in {index.name}; download the model again")
    return [index.parent / name for name in names]


def _canonical_names(stored: Mapping[str, Any], expected: Iterable[ParamPath]) -> dict[str, tuple[Any, str]]:
    """Maps today's name of each stored tensor to ``(file, name in that file)``, leaving out known buffers.

    transformers 5 writes a text encoder's names without the prefix ``text_model.`` that all others write.
    """
    names = [name for name in stored if not IGNORED_BUFFER.search(name)]
    prefix = "text_model."
    wants_prefix = all(path[0] == "text_model" for path in expected)
    lacks_prefix = wants_prefix and not any(name.startswith(prefix) for name in names)
    canonical = {}
    for name in names:
        today = LEGACY_ATTENTION_NAME.sub(lambda match: LEGACY_ATTENTION[match.group()], name)
        canonical[prefix + today if lacks_prefix else today] = (stored[name], name)
    return canonical


def _check_tensors(
    folder: Path, stored: Mapping[str, tuple[Any, str]], expected: Mapping[ParamPath, tuple[int, ...]]
) -> None:
    """Raises a :class:`UserError` with every difference between the tensors on disk and the model's parameters."""
    shapes = {tensor_name(path): _torch_shape(path, shape) for path, shape in expected.items()}
    problems = []
    if missing := sorted(shapes.keys() - stored.keys()):
        problems.append(f"missing: {', '.join(missing)}")
    if unknown := sorted(name for today, (_, name) in stored.items() if today not in shapes):
        problems.append(f"unknown: {', '.join(unknown)}")
    misshapen = []
    for name in sorted(shapes.keys() & stored.keys()):
        file, name_in_file = stored[name]
        shape = tuple(file.get_slice(name_in_file).get_shape())
        if shape != shapes[name]:
            misshapen.append(f"{name} {shape} instead of {shapes[name]}")
    if misshapen:
        problems.append(f"misshapen: {', '.join(misshapen)}")
    if problems:
        raise UserError(f"the weights in {folder} do not fit its config.json; {'; '.join(problems)}")


def _stem(config: ModelConfig) -> str:
    """How the library that the config belongs to names its weights."""
    return DIFFUSERS_STEM if "_class_name" in config.identity else TRANSFORMERS_STEM


@contextlib.contextmanager
def _replacing(file: Path) -> Iterator[Path]:
    """A temporary path to write to, which takes ``file``'s place once it is on disk, or vanishes after an error."""
    temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with temporary.open("rb+") as written:
            os.fsync(written.fileno())
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)


def _download_patterns(variant: str | None) -> list[str]:
    """The files to ask the hub for: configs, tokenizer, and the weights of one variant, as safetensors."""
    infix = f".{variant}" if variant else ""
    patterns = [*SMALL_FILES, *(f"{part}config.json" for part in PARTS_WITH_WEIGHTS)]
    for part, stem in [*PARTS_WITH_WEIGHTS.items(), ("", DIFFUSERS_STEM), ("", TRANSFORMERS_STEM)]:
        patterns += [f"{part}{stem}{infix}.safetensors", f"{part}{stem}.safetensors.index{infix}.json"]
        patterns += [f"{part}{stem}{infix}-*-of-*.safetensors"]
    return patterns
