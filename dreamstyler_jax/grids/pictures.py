"""A painted picture with its parameters, as Python gets it."""

import dataclasses
import functools
import io
import os
from typing import Any

import numpy as np
from PIL import Image

from dreamstyler_jax.grids.cells import Cell
from dreamstyler_jax.runtime import images
from dreamstyler_jax.runtime.errors import shortened
from dreamstyler_jax.runtime.files import write_atomic
from dreamstyler_jax.runtime.picture_files import PNG, format_of, to_bytes


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Picture:
    """A painted picture that knows its parameters; a notebook displays it.

    Attributes:
        cell: everything that determines it.
        pixels: float32[H, W, 3], about in [-1, 1].
    """

    cell: Cell
    pixels: np.ndarray

    @functools.cached_property
    def image(self) -> Image.Image:
        """The picture as an RGB image of PIL."""
        return images.to_image(self.pixels)

    @property
    def prompt(self) -> str:
        """The prompt, with its placeholder."""
        return self.cell.prompt

    @property
    def seed(self) -> int:
        """The seed."""
        return self.cell.seed

    @property
    def parameters(self) -> dict[str, Any]:
        """All parameters by name, as in a grid's manifest."""
        return self.cell.parameters()

    def save(self, path: str | os.PathLike, quality: int = 95) -> None:
        """Writes a file with the parameters in it, as ``dreamstyler sample`` does.

        Args:
            path: ends in .png, .jpg, .jpeg or .webp, which says the format.
            quality: of JPEG and WebP, 1 to 100.

        Raises:
            UserError: the path ends in something else.
        """
        format = format_of(path)
        cell = dataclasses.replace(self.cell, format=format, quality=None if format == PNG else quality)
        write_atomic(path, to_bytes(self.image, cell.text(), cell.format, cell.quality))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """The picture as uint8[H, W, 3]."""
        return np.array(self.image, dtype)

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.image.save(buffer, "PNG")
        return buffer.getvalue()

    def __repr__(self) -> str:
        styles = f" in {shortened(', '.join(self.cell.styles), 60)}" if self.cell.styles else ""
        return f"Picture({shortened(self.prompt)!r}{styles}, seed {self.seed}, {self.cell.width} x {self.cell.height})"
