"""Parameter paths of this package and tensor names of checkpoints, and the layouts of both.

A path is the tensor's name split at its dots, list positions as integers, except for the names of leaves, the layout
of kernels (channels last in this package, channels first in checkpoints) and a few numbered members of
``torch.nn.Sequential``.
"""

import re
from collections.abc import Iterable

import numpy as np

ParamPath = tuple[str | int, ...]

LEAF_NAMES = {"kernel": "weight", "scale": "weight", "embedding": "weight"}
MEMBER_NAMES = {".ff.proj_in.": ".ff.net.0.proj.", ".ff.proj_out.": ".ff.net.2."}
# Autoencoders saved before diffusers 0.12, Stable Diffusion 1.5's among them.
LEGACY_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
LEGACY_ATTENTION_NAME = re.compile(r"(?<=\.attentions\.\d\.)(query|key|value|proj_attn)(?=\.)")
# Constant index ranges, saved by early versions of transformers.
IGNORED_BUFFER = re.compile(r"(^|\.)position_ids$")
TEXT_PREFIX = "text_model."


def tensor_name(path: ParamPath) -> str:
    """The name in a checkpoint of the parameter at `path`."""
    *parents, leaf = map(str, path)
    name = ".".join([*parents, LEAF_NAMES.get(leaf, leaf)])
    for ours, theirs in MEMBER_NAMES.items():
        name = name.replace(ours, theirs)
    return name


def current_names(stored: Iterable[str], expected: Iterable[str]) -> dict[str, str]:
    """Maps the current name of each stored tensor to its name on disk, leaving out known buffers.

    Args:
        stored: the names on disk. Old autoencoders name their attention layers differently, and transformers 5 writes
            a text encoder's names without the prefix ``text_model.`` that other versions write.
        expected: the names of the model's parameters, from :func:`tensor_name`.
    """
    names = [name for name in stored if not IGNORED_BUFFER.search(name)]
    is_text_encoder = all(name.startswith(TEXT_PREFIX) for name in expected)
    lacks_prefix = is_text_encoder and not any(name.startswith(TEXT_PREFIX) for name in names)
    current = {}
    for name in names:
        renamed = LEGACY_ATTENTION_NAME.sub(lambda match: LEGACY_ATTENTION[match.group()], name)
        current[TEXT_PREFIX + renamed if lacks_prefix else renamed] = name
    return current


def from_torch_layout(path: ParamPath, tensor: np.ndarray) -> np.ndarray:
    """A view of a checkpoint's tensor in the layout of the parameter at `path`: channels last."""
    if path[-1] != "kernel":
        return tensor
    return tensor.transpose(2, 3, 1, 0) if tensor.ndim == 4 else tensor.T


def to_torch_layout(path: ParamPath, array: np.ndarray) -> np.ndarray:
    """The inverse of :func:`from_torch_layout`."""
    if path[-1] != "kernel":
        return array
    return array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T


def torch_shape(path: ParamPath, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape in a checkpoint of the parameter at `path` of shape `shape`."""
    return to_torch_layout(path, np.broadcast_to(np.float32(0), shape)).shape
