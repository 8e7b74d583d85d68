"""ArtFID (Wright & Ommer 2022): one number for a whole set of repainted pictures, low where they are good."""

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from dreamstyler_jax.evaluation.comparisons import Hashes, Networks, fitted_pictures
from dreamstyler_jax.evaluation.painted import PaintedPicture
from dreamstyler_jax.evaluation.scorer import in_sizes
from dreamstyler_jax.evaluation.training_data import TrainingData

ENOUGH = 800  # pictures, as papers that report ArtFID use: 20 contents in 40 styles (Chung et al. 2024)


class ArtFid(NamedTuple):
    """ArtFID and what it is made of.

    Attributes:
        art_fid: ``(1 + lpips) (1 + fid)``.
        lpips: mean LPIPS between the pictures and what they repaint.
        fid: Fréchet distance between the features of the pictures and of their styles' training pictures.
        pictures: how many repainted pictures there are.
    """

    art_fid: float
    lpips: float
    fid: float
    pictures: int

    def __str__(self) -> str:
        return (
            f"ArtFID {self.art_fid:.2f} = (1 + LPIPS {self.lpips:.3f}) (1 + FID {self.fid:.2f}), of {self.pictures} "
            "repainted pictures together; low is good."
        )


def art_fid(
    networks: Networks,
    painted: Sequence[PaintedPicture],
    training_data: Mapping[Hashes, TrainingData],
    results: Sequence[Mapping[str, float]],
) -> ArtFid:
    """ArtFID of the pictures that repaint others; there must be at least two.

    Each picture stands against the training pictures of its style, cropped and scaled to its size.

    Args:
        networks: by name, ``inception`` among them.
        painted: the pictures.
        training_data: of their styles.
        results: their scores, ``lpips`` among them.
    """
    pairs = [(picture, r["lpips"]) for picture, r in zip(painted, results, strict=True) if not math.isnan(r["lpips"])]
    if len(pairs) < ENOUGH:
        warnings.warn(
            f"ArtFID of {len(pairs)} pictures is far too large, and compares with that of as many pictures alone: "
            f"papers take {ENOUGH} or more",
            stacklevel=2,
        )
    network, features, style_features = networks["inception"], [], []
    seen: dict[tuple, np.ndarray] = {}  # features of training pictures, by style and size
    with tqdm(total=len(pairs), desc="ArtFID", unit="picture", disable=None) as bar:
        for pictures, pixels in in_sizes(picture for picture, _ in pairs):
            keys = [(picture.style_hashes, *pixels.shape[1:3]) for picture in pictures]
            new = [key for key in dict.fromkeys(keys) if key not in seen]
            fitted = [fitted_pictures(training_data[hashes], height, width) for hashes, height, width in new]
            ends = np.cumsum([len(pixels), *map(len, fitted)])[:-1]
            of_pictures, *of_styles = np.split(network.features(np.concatenate([pixels, *fitted])), ends)
            seen.update(zip(new, of_styles, strict=True))
            features.append(of_pictures)
            style_features += [seen[key] for key in keys]
            bar.update(len(pictures))
    fid = frechet_distance(np.concatenate(style_features), np.concatenate(features))
    lpips = float(np.mean([distance for _, distance in pairs]))
    return ArtFid((1 + lpips) * (1 + fid), lpips, fid, len(pairs))


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Fréchet distance of two normal distributions with the means and covariances of features [N, P] and [M, P].

    ``|m_a - m_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2))`` (Heusel et al. 2017). With ``S = R^T R`` the trace of the root
    is the sum of the singular values of ``R_a R_b^T``, which needs no root of an almost singular matrix.
    """
    (mean_a, root_a), (mean_b, root_b) = _moments(a), _moments(b)
    shared = np.linalg.svd(root_a @ root_b.T, compute_uv=False).sum()
    spread = np.square(root_a).sum() + np.square(root_b).sum() - 2 * shared
    return float(np.square(mean_a - mean_b).sum() + max(spread, 0))


def _moments(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mean [P], and a root R [min(N, P), P] of the covariance R^T R, of at least two rows [N, P]."""
    features = np.asarray(features, np.float64)
    mean = features.mean(0)
    return mean, np.linalg.qr(features - mean, mode="r") / np.sqrt(len(features) - 1)
