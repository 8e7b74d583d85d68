"""What a style remembers of the pictures that it was learned from: where they were, what they held, how one looks.

A path alone is no memory: elsewhere, or later, another picture may be there.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from PIL import Image

from dreamstyler_jax.runtime import images
from dreamstyler_jax.runtime.errors import UserError
from dreamstyler_jax.runtime.masks import as_masked_picture, only_visible


class TrainingPicture(NamedTuple):
    """A training picture as a style remembers it.

    Attributes:
        path: where it was, or a description of a picture in memory.
        hash: `images.digest` of what its mask leaves of it; empty in styles of earlier versions.
    """

    path: str
    hash: str = ""

    def load(self) -> Image.Image:
        """Reads it, with its mask.

        Raises:
            UserError: it is not there, cannot be read, or is another picture by now.
        """
        picture = as_masked_picture(self.path)
        if self.hash and images.digest(only_visible(picture)) != self.hash:
            raise UserError(f"{self.path} is not the picture that it was, or its mask is not")
        return picture

    def seen(self) -> Image.Image | None:
        """What its mask leaves of it, in RGB; None if it cannot be read or is another picture by now."""
        try:
            return images.without_transparency(only_visible(self.load()))
        except UserError:
            return None


def describe(pictures: Mapping[str, Image.Image]) -> dict[str, Any]:
    """What a style's metadata say of its training pictures, as JSON values.

    Args:
        pictures: by path; RGB, or RGBA with a mask.
    """
    seen = list(map(only_visible, pictures.values()))
    return {
        "images": list(pictures),
        "image_hashes": list(map(images.digest, seen)),
        "thumbnail": images.to_thumbnail(seen[0]),
    }


def training_pictures(metadata: Mapping[str, Any]) -> list[TrainingPicture]:
    """The training pictures that a style's metadata name; none where they are damaged or say nothing."""
    paths, hashes = texts(metadata.get("images")), texts(metadata.get("image_hashes"))
    if len(hashes) != len(paths):
        hashes = [""] * len(paths)
    return list(map(TrainingPicture, paths, hashes))


def first_picture(metadata: Mapping[str, Any]) -> Image.Image | None:
    """How the first training picture looks, in RGB: from its file if it still is that picture, else from the thumbnail.

    None if there is neither.
    """
    pictures = training_pictures(metadata)
    return (pictures[0].seen() if pictures else None) or images.from_thumbnail(metadata.get("thumbnail"))


def inputs_of(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a style's metadata that `changed_inputs` compares, as JSON values."""
    return {key: metadata[key] for key in ("images", "image_hashes", *_ORIGINS) if key in metadata}


def changed_inputs(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What a training would go on with that is not what it began with, in words.

    Args:
        before: `inputs_of` the training at its begin, or the metadata of a style that it saved.
        now: those of the style that it would go on with. What one of both does not know is not compared.
    """
    changed = [
        now_at.path
        for then, now_at in zip(training_pictures(before), training_pictures(now), strict=False)
        if then.hash and now_at.hash and then.hash != now_at.hash
    ]
    known = before.keys() & now.keys()
    return changed + [words for key, words in _ORIGINS.items() if key in known and before[key] != now[key]]


_ORIGINS = {
    "model_hash": "the model's weights",
    "model_settings": "the model's configs, scheduler or tokenizer",
    "init_style_hash": "the style to start from",
}


def texts(value: Any) -> list[str]:
    """A list of texts from JSON; empty where it is anything else."""
    return value if isinstance(value, list) and all(isinstance(item, str) for item in value) else []
