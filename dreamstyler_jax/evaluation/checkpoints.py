"""The checkpoints of the networks that scores need beside the model: which they are, and how to get and read them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from dreamstyler_jax.evaluation.csd import load_csd
from dreamstyler_jax.evaluation.dinov2 import load_dinov2
from dreamstyler_jax.evaluation.inception import load_inception
from dreamstyler_jax.evaluation.lpips import load_lpips
from dreamstyler_jax.evaluation.vgg import load_vgg
from dreamstyler_jax.runtime.buckets import in_bucket
from dreamstyler_jax.runtime.errors import UserError
from dreamstyler_jax.stable_diffusion.hub import downloaded_file, resolve_model


class Checkpoint(NamedTuple):
    """The weights of a network.

    Attributes:
        network: its name, with the paper.
        source: what to download, on the Hugging Face Hub or elsewhere.
        load: reads a file or a folder.
        conversion: the command that makes a safetensors file of what is published; "" if that is one.
    """

    network: str
    source: str
    load: Callable[[Path], Any]
    conversion: str = ""

    @property
    def advice(self) -> str:
        """How to get it, in a sentence without a full stop."""
        if not self.conversion:
            return f"give {self.source}, or a folder with its files"
        return f"get {self.source}, and convert it: {self.conversion}"

    @property
    def help(self) -> str:
        """What to give as the option, for ``--help``."""
        if not self.conversion:
            return f"{self.network}: {self.source}, or a folder with its files."
        return f"{self.network}: a safetensors file, made from {self.source} as docs/evaluation.md shows."


def _converting(tensors: str, name: str, imports: str = "torch") -> str:
    """A command for a shell that writes tensors, given as an expression of Python, as a safetensors file."""
    code = (
        f"import {imports}; from safetensors.torch import save_file; "
        f"save_file({{k.removeprefix('module.'): v.clone() for k, v in {tensors}.items()}}, '{name}.safetensors')"
    )
    return f'python -c "{code}"'


# A whole state of training: its tensors, and numbers and settings that PyTorch's restricted unpickler is told to allow.
_CSD = _converting(
    "torch.load('pytorch_model.bin', 'cpu')['model_state_dict']",
    "csd",
    "argparse, numpy, torch; torch.serialization.add_safe_globals([argparse.Namespace, numpy.dtype, "
    "numpy.dtypes.Float64DType, (numpy._core.multiarray.scalar, 'numpy.core.multiarray.scalar')])",
)

CHECKPOINTS = {
    "csd": Checkpoint(
        "CSD (Somepalli et al. 2024)", "pytorch_model.bin of tomg-group-umd/CSD-ViT-L on the hub", load_csd, _CSD
    ),
    "dino": Checkpoint("DINOv2 (Oquab et al. 2023)", "facebook/dinov2-base on the hub", load_dinov2),
    "vgg": Checkpoint("VGG-16 as torchvision has it", "timm/vgg16.tv_in1k on the hub", load_vgg),
    "lpips": Checkpoint(
        "LPIPS with AlexNet (Zhang et al. 2018)",
        "the weights of the package lpips (pip install lpips torchvision)",
        load_lpips,
        _converting("lpips.LPIPS(net='alex').state_dict()", "lpips", "lpips"),
    ),
    "inception": Checkpoint(
        "The Inception-v3 of ArtFID (Wright & Ommer 2022)",
        "art_inception.pth of matthias-wright/art_inception on the hub",
        load_inception,
        _converting("torch.load('art_inception.pth', 'cpu')", "art_inception"),
    ),
}


def load_checkpoint(name: str, given: str) -> Any:
    """Loads a network of `CHECKPOINTS`.

    Args:
        name: its key.
        given: a file, a folder, the URL of a file on the hub or, where safetensors are published, a hub id.

    Raises:
        UserError: it cannot be found or read, or is of another network.
    """
    checkpoint = CHECKPOINTS[name]
    try:
        return checkpoint.load(_find(checkpoint, given))
    except UserError as error:
        raise UserError(f"{name}: {error}; {checkpoint.advice}") from error


def _find(checkpoint: Checkpoint, given: str) -> Path:
    if Path(given).exists():
        return Path(given)
    if file := downloaded_file(given):
        return file
    if checkpoint.conversion and not in_bucket(given):
        raise UserError(f"there is no file {given}")
    return resolve_model(given)
