"""Scoring painted pictures, batch by batch."""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
from tqdm import tqdm

from dreamstyler_jax.evaluation.comparisons import Batch, Hashes, Networks, References
from dreamstyler_jax.evaluation.painted import PaintedPicture
from dreamstyler_jax.evaluation.score_table import scores_by
from dreamstyler_jax.evaluation.training_data import TrainingData
from dreamstyler_jax.runtime import images
from dreamstyler_jax.runtime.batches import BATCH_ROWS


def score_all(
    networks: Networks, painted: Sequence[PaintedPicture], training_data: Mapping[Hashes, TrainingData]
) -> list[dict[str, float]]:
    """The scores of pictures in their order, by the names in `score_table.SCORES`.

    Only one batch of pictures is in memory at a time. A score that has no meaning is nan.

    Args:
        networks: by name; scores whose network is missing are left out.
        painted: the pictures.
        training_data: of their styles, by `PaintedPicture.style_hashes`.
    """
    references, table = References(networks, painted, training_data), scores_by(networks)
    results: list[dict[str, float]] = []
    # disable=None: no progress bar unless stderr is a terminal.
    with tqdm(total=len(painted), desc="scoring", unit="picture", disable=None) as bar:
        for pictures, pixels in in_sizes(painted):
            batch = Batch(pictures, pixels, references)
            columns = [score.compute(batch) for score in table.values()]
            results += [dict(zip(table, row, strict=True)) for row in zip(*columns, strict=True)]
            bar.update(len(pictures))
    return results


def in_sizes(painted: Iterable[PaintedPicture]) -> Iterator[tuple[list[PaintedPicture], np.ndarray]]:
    """Consecutive pictures of one size, with their pixels float32[N, H, W, 3] in [-1, 1]."""
    loaded = ((picture, images.to_array(images.load(picture.path))) for picture in painted)
    for _, group in itertools.groupby(loaded, lambda pair: pair[1].shape):
        while pairs := list(itertools.islice(group, BATCH_ROWS)):
            yield [picture for picture, _ in pairs], np.stack([pixels for _, pixels in pairs])
