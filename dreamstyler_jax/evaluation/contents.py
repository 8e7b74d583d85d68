"""The pictures that painted pictures repaint, as the manifest names them."""

import functools
import warnings
from collections.abc import Iterable

import numpy as np

from dreamstyler_jax.evaluation.painted import PaintedPicture
from dreamstyler_jax.runtime import images
from dreamstyler_jax.runtime.errors import UserError
from dreamstyler_jax.transfer import make_content

_KEPT = 64  # pictures in memory


def repaints(picture: PaintedPicture) -> bool:
    """Whether a painted picture repaints another one."""
    return bool(picture.line.get("content"))


def content_pictures(painted: Iterable[PaintedPicture], height: int, width: int) -> list[np.ndarray | None]:
    """The contents of pictures of one size, float32[height, width, 3] in [-1, 1]; None for those without.

    Raises:
        UserError: a content is not where the manifest says.
    """
    return [
        _load(str(picture.line["content"]), str(picture.line.get("content_hash")), height, width)
        if repaints(picture)
        else None
        for picture in painted
    ]


@functools.lru_cache(_KEPT)
def _load(path: str, digest: str, height: int, width: int) -> np.ndarray:
    try:
        picture = images.load(path)
    except UserError as error:
        raise UserError(f"{error}; it was repainted: evaluate in the folder that it was painted from") from error
    content = make_content(picture, path, height, 1, (height, width))
    if content.hash != digest:
        warnings.warn(
            f"{path} has changed since it was repainted, or came with a control map of its own; the scores are "
            "against what it is now",
            stacklevel=2,
        )
    return images.to_array(content.picture)
