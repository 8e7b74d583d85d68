"""The networks behind scores at their true size against PyTorch, with random weights in float32.

    python -m benchmarks.scores_true_size

Takes two minutes on two cores, and 3 GB of memory.
"""

import argparse
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import jax
import numpy as np
import torch
import transformers
from safetensors.torch import save_file

from benchmarks import torch_scores
from dreamstyler_jax.evaluation.csd import load_csd
from dreamstyler_jax.evaluation.dinov2 import load_dinov2
from dreamstyler_jax.evaluation.inception import load_inception
from dreamstyler_jax.evaluation.lpips import load_lpips
from dreamstyler_jax.evaluation.vgg import load_vgg

rng = np.random.default_rng(0)
# Smooth shapes with grain: white noise looks alike to every network.
PICTURES = np.clip(
    np.kron(rng.uniform(-1, 1, (2, 8, 8, 3)), np.ones((1, 28, 28, 1))) + rng.normal(0, 0.1, (2, 224, 224, 3)), -1, 1
).astype(np.float32)


def main() -> None:
    """Prints the relative L2 difference of each network's results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    torch.manual_seed(0)
    for network in (csd, dinov2, vgg, lpips, inception):
        started = time.perf_counter()
        with TemporaryDirectory() as folder, jax.default_matmul_precision("highest"), torch.no_grad():
            expected, found = network(Path(folder))
        difference = np.linalg.norm(found - expected) / np.linalg.norm(expected)
        seconds = time.perf_counter() - started
        print(f"{network.__name__}: relative L2 difference {difference:.1e}, {seconds:.0f} s", flush=True)


def normalized(preprocessor) -> torch.Tensor:
    """The pictures, ready for a reference [N, 3, H, W]."""
    pixels = ((PICTURES + 1) / 2 - np.float32(preprocessor.mean)) / np.float32(preprocessor.std)
    return torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy())


def saved(model: torch.nn.Module, folder: Path) -> Path:
    """The file of a reference's weights."""
    save_file(model.eval().state_dict(), folder / "weights.safetensors")
    return folder / "weights.safetensors"


def csd(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """ViT-L/14 with its style projection."""
    reference = torch_scores.Csd(width=1024, heads=16, layers=24, patch=14, size=224, features=768)
    ours = load_csd(saved(reference, folder))
    return reference(normalized(ours.preprocessor)).numpy(), ours.picture_features(PICTURES)


def dinov2(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """facebook/dinov2-base, whose position vectors are made for 518 x 518 pixels and interpolated to 224 x 224."""
    reference = transformers.Dinov2Model(transformers.Dinov2Config(image_size=518)).eval()
    reference.save_pretrained(folder)
    size = {"height": 224, "width": 224}
    transformers.BitImageProcessorPil(size={"shortest_edge": 224}, crop_size=size).save_pretrained(folder)
    ours = load_dinov2(folder)
    features = reference(normalized(ours.preprocessor)).pooler_output
    return torch.nn.functional.normalize(features).numpy(), ours.picture_features(PICTURES)


def vgg(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """The Gram matrices of the corners of VGG-16's levels."""
    reference = torch_scores.Vgg16((64, 128, 256, 512, 512))
    ours = load_vgg(saved(reference, folder))
    side = 98  # 7/16 of 224
    corner = torch.from_numpy(PICTURES[:, :side, :side].transpose(0, 3, 1, 2).copy())
    flat = [level.flatten(2) for level in reference(corner)]
    expected = [(level @ level.transpose(1, 2) / level.shape[2]).numpy().ravel() for level in flat]
    return np.concatenate(expected), np.concatenate([level[:, 0].ravel() for level in ours.grams(PICTURES).levels])


def lpips(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """LPIPS of one picture and the other, and the other way round."""
    reference = torch_scores.Lpips((64, 192, 384, 256, 256))
    ours = load_lpips(saved(reference, folder))
    pixels = torch.from_numpy(PICTURES.transpose(0, 3, 1, 2).copy())
    return reference(pixels, pixels.flip(0)).numpy(), ours.distances(PICTURES, PICTURES[::-1])


def inception(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """The pooled features of Inception-v3."""
    reference = torch_scores.Inception()
    ours = load_inception(saved(reference, folder))
    pixels = torch.from_numpy(((PICTURES + 1) / 2).transpose(0, 3, 1, 2).copy())
    return reference(pixels).numpy(), ours.features(PICTURES)


if __name__ == "__main__":
    main()
