"""Networks that map pictures to features of unit length, and how pictures are prepared for them."""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypedDict

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from PIL import Image

from dreamstyler_jax.runtime import images
from dreamstyler_jax.runtime.batches import in_batches
from dreamstyler_jax.runtime.documents import Length, Range, Side
from dreamstyler_jax.runtime.errors import UserError
from dreamstyler_jax.runtime.files import read_json

OPENAI_MEAN, OPENAI_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
# The second is what transformers 5 writes in place of the first.
PREPROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")
PREPROCESSING_STEPS = ("resize", "center_crop", "rescale", "normalize")


class _Sides(TypedDict, total=False):
    """Sizes in pixels."""

    shortest_edge: Side
    height: Side
    width: Side


class _Steps(TypedDict, total=False):
    """The settings of an image processor."""

    size: Side | _Sides
    crop_size: Side | _Sides
    resample: Literal[0, 1, 2, 3, 4, 5]
    image_mean: Annotated[tuple[float, ...], Length(3, 3)]
    image_std: Annotated[tuple[Annotated[float, Range(1e-3, 1e3)], ...], Length(3, 3)]


class _PreprocessorFile(_Steps, total=False):
    """What ``preprocessor_config.json`` holds, and ``processor_config.json`` one level deeper."""

    image_processor: _Steps


@dataclasses.dataclass(frozen=True)
class Preprocessor:
    """Prepares pictures for an image encoder, as ``transformers``' CLIPImageProcessor does with Pillow.

    Attributes:
        shortest_edge: pixels to which the shorter side is resized.
        size: side in pixels of the square that is then cut from the centre; what the network takes.
        resample: Pillow's filter for resizing.
        mean, std: of the training pictures in [0, 1], per channel.
    """

    shortest_edge: int
    size: int
    resample: Image.Resampling = Image.Resampling.BICUBIC
    mean: tuple[float, ...] = OPENAI_MEAN
    std: tuple[float, ...] = OPENAI_STD

    @classmethod
    def load(cls, folder: Path, size: int | None, network: str = "CLIP") -> Self:
        """Reads ``preprocessor_config.json``, or the ``processor_config.json`` that transformers 5 writes instead.

        Args:
            folder: holds one of these files.
            size: side in pixels of the pictures that the network takes, and the default for what the file leaves out;
                None for a network that takes whatever size the file says.
            network: what to call the network in errors.

        Raises:
            UserError: the file is missing or damaged, or asks for another kind of preprocessing.
        """
        file = next((folder / name for name in PREPROCESSOR_FILES if (folder / name).is_file()), None)
        if file is None:
            raise UserError(
                f"{folder} is not a complete {network}: it lacks {PREPROCESSOR_FILES[0]}; download it again"
            )
        content = read_json(file, _PreprocessorFile, advice="download it again")
        content = content.get("image_processor", content)
        edge, crop = content.get("size", size), content.get("crop_size", size)
        shortest_edge = edge.get("shortest_edge") if isinstance(edge, dict) else edge
        height, width = (crop.get("height"), crop.get("width")) if isinstance(crop, dict) else (crop, crop)
        size = height if size is None else size
        supported = all(content.get(f"do_{step}", True) for step in PREPROCESSING_STEPS)
        if not supported or not size or (height, width) != (size, size) or (shortest_edge or 0) < size:
            raise UserError(
                f"{file} asks for preprocessing that is not supported: it should resize pictures, crop them to "
                f"{size or 224} x {size or 224} pixels and normalize them; use another {network}"
            )
        return cls(
            shortest_edge or size,
            size,
            Image.Resampling(content.get("resample", cls.resample)),
            content.get("image_mean", OPENAI_MEAN),
            content.get("image_std", OPENAI_STD),
        )

    def __call__(self, picture: np.ndarray) -> np.ndarray:
        """Resizes and crops float[H, W, 3] in [-1, 1] to float32[size, size, 3] in [-1, 1], not yet normalized.

        Pillow resizes 8-bit pictures, so values are rounded to 8 bits unless the picture has the right size already.
        """
        if picture.shape == (self.size, self.size, 3) and self.shortest_edge == self.size:
            return np.clip(picture, -1, 1, dtype=np.float32)
        height, width = picture.shape[:2]
        scaled_width, scaled_height = (int(self.shortest_edge * side / min(height, width)) for side in (width, height))
        resized = images.to_image(picture).resize((scaled_width, scaled_height), self.resample)
        left, top = (scaled_width - self.size) // 2, (scaled_height - self.size) // 2
        return images.to_array(resized.crop((left, top, left + self.size, top + self.size)))


@dataclasses.dataclass(frozen=True, eq=False)
class PictureEncoder:
    """A loaded network that is called with pictures [N, size, size, 3], normalized, and returns features [N, P].

    Attributes:
        graphdef, params: of the network.
        preprocessor: prepares pictures.
    """

    graphdef: nnx.GraphDef
    params: Any
    preprocessor: Preprocessor

    def picture_features(self, pictures: Sequence[np.ndarray] | np.ndarray) -> np.ndarray:
        """Features of unit length, float32[N, P], of pictures float[H, W, 3] in [-1, 1], which may differ in size."""
        prepared = np.stack([self.preprocessor(np.asarray(picture)) for picture in pictures])
        mean, std = (jnp.asarray(v, jnp.float32) for v in (self.preprocessor.mean, self.preprocessor.std))
        return in_batches(functools.partial(_features, self.graphdef, self.params, mean, std), prepared)


@functools.partial(jax.jit, static_argnums=0)
def _features(graphdef: nnx.GraphDef, params: Any, mean: Array, std: Array, pictures: Array) -> Array:
    return unit(nnx.merge(graphdef, params)(((pictures + 1) / 2 - mean) / std))


def unit(features: Array) -> Array:
    """Features [..., P] scaled to unit length."""
    return features / jnp.linalg.norm(features, axis=-1, keepdims=True)
