"""Depth maps of pictures, made by a depth model of transformers and kept in the user's cache folder."""

import functools
import hashlib
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from dreamstyler_jax.runtime.buckets import in_bucket, path_of
from dreamstyler_jax.runtime.errors import UserError
from dreamstyler_jax.runtime.files import cache_folder, write_atomic
from dreamstyler_jax.runtime.local_copies import BucketFolder
from dreamstyler_jax.stable_diffusion.checkpoint_files import hash_files

DepthEstimator = Callable[[Image.Image], np.ndarray]  # from a picture to float32[h, w], larger is nearer
_SUFFIXES = (".json", ".safetensors", ".bin")  # of the files that a depth model is read from


@functools.cache
def load_depth_model(model: str) -> DepthEstimator:
    """Loads a depth model of transformers, such as a DPT or Depth Anything, once per process.

    Args:
        model: its folder, here or in a bucket, or its hub id.

    Raises:
        UserError: PyTorch and transformers are not installed, or the model cannot be loaded.
    """
    try:
        from transformers import pipeline
    except ImportError as error:
        raise UserError("depth maps need PyTorch and transformers: pip install torch transformers") from error
    try:
        estimator = pipeline("depth-estimation", model=str(_folder_of(model)) if in_bucket(model) else model)
    except (OSError, ValueError, ImportError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"depth_model: {model} cannot be used ({reason}); name a depth model's folder or hub id"
        ) from error
    return lambda picture: estimator(picture)["predicted_depth"].squeeze().float().numpy()


def depth_map(
    picture: Image.Image, model: str, load: Callable[[str], DepthEstimator] = load_depth_model
) -> Image.Image:
    """Estimates the depth map of a picture, white is near, and keeps it in the user's cache folder.

    Args:
        model: the depth model's folder or hub id.
        load: loads the model; only called for a picture whose map is not in the cache, or for a model on the hub that
            is not here yet.

    Raises:
        UserError: from ``load``.
    """
    which = depth_model_hash(model, load)
    key = hashlib.sha256(f"{which} {picture.size}".encode() + picture.tobytes()).hexdigest()[:24]
    path = cache_folder() / "depth" / f"{key}.png"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        estimate = load(model)(picture)
        nearness = (estimate - estimate.min()) / max(float(np.ptp(estimate)), 1e-6)
        buffer = io.BytesIO()
        Image.fromarray(np.rint(nearness * 255).astype(np.uint8)).resize(picture.size).save(buffer, "PNG")
        write_atomic(path, buffer.getvalue())
    return Image.open(path, formats=["PNG"])


def depth_model_hash(model: str, load: Callable[[str], DepthEstimator] = load_depth_model) -> str:
    """Twelve hexadecimal digits of a depth model's files; its name where it has none on this machine.

    Args:
        model: its folder, here or in a bucket, or its hub id.
        load: loads, and so downloads, a model of the hub that is not here yet.

    Raises:
        UserError: from ``load``.
    """
    folder = _folder_of(model)
    if folder is None:
        load(model)
        folder = _folder_of(model)
    if folder is None:
        return model
    files = sorted(file for file in folder.iterdir() if file.suffix in _SUFFIXES)
    return hash_files(files, [file.name for file in files])


def _folder_of(model: str) -> Path | None:
    """The folder of a model, which for one on the hub is in the hub's cache; from a bucket it is copied."""
    if in_bucket(model):
        folder = BucketFolder.look_up(path_of(model))
        return folder.fetch(list(folder.files))
    if Path(model).is_dir():
        return Path(model)
    from huggingface_hub import errors, try_to_load_from_cache

    try:
        config = try_to_load_from_cache(model, "config.json")
    except errors.HFValidationError:  # no name on the hub
        return None
    return Path(config).parent if isinstance(config, str) else None
