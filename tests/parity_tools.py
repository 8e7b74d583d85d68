"""Helpers of the comparisons with the reference implementations."""

from pathlib import Path

import numpy as np
import torch
from flax import nnx

from dreamstyler_jax.stable_diffusion.weights import load_model


def randomised(model: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Changes a fresh model's parameters so that mistakes show.

    Norm scales and biases get other values than ones and zeros, which would hide swapped or missing ones. Convolutions
    are made so small that the epsilons of the norms matter.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
        for module in model.modules():
            if isinstance(module, torch.nn.Conv2d):
                for parameter in module.parameters():
                    parameter *= 0.1
    return model.eval()


def loaded(cls: type[nnx.Module], reference: torch.nn.Module, folder: Path, **options) -> nnx.Module:
    """Our module with the reference model's weights, read from the files that the reference writes."""
    reference.save_pretrained(folder, safe_serialization=True)
    return nnx.merge(*load_model(cls, folder, **options))


def to_torch(array: np.ndarray) -> torch.Tensor:
    """NHWC to NCHW; other ranks as they are."""
    array = np.asarray(array)
    return torch.from_numpy(np.ascontiguousarray(array.transpose(0, 3, 1, 2) if array.ndim == 4 else array))


def to_numpy(tensor: torch.Tensor) -> np.ndarray:
    """NCHW to NHWC; other ranks as they are."""
    array = tensor.detach().numpy()
    return array.transpose(0, 2, 3, 1) if array.ndim == 4 else array


def relative_error(ours, reference: torch.Tensor) -> float:
    """L2 norm of the difference over that of the reference; shapes must agree."""
    ours, reference = np.asarray(ours, np.float64), to_numpy(reference).astype(np.float64)
    assert ours.shape == reference.shape
    return float(np.linalg.norm(ours - reference) / np.linalg.norm(reference))
