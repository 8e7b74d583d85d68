"""Pictures: reading files of any kind, fitting pictures to a size, arrays of pixels, PNG files with text."""

import base64
import functools
import hashlib
import io
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError
from PIL.PngImagePlugin import PngImageFile, PngInfo

from dreamstyler_jax.runtime.buckets import in_bucket, path_of
from dreamstyler_jax.runtime.errors import UserError
from dreamstyler_jax.runtime.files import write_atomic

MAX_PIXELS = 2 * 89_478_485  # where Pillow raises a DecompressionBombError

_SIXTEEN_BIT = ("I;16", "I;16L", "I;16B", "I;16N", "I")
# What is read, some of it by plugins of Pillow that may be missing. EPS is not: Pillow runs another program for it.
_FORMATS = (
    "PNG", "JPEG", "MPO", "WEBP", "AVIF", "HEIF", "JXL", "GIF", "BMP", "DIB", "TIFF", "JPEG2000", "PPM", "PSD", "DDS",
    "ICO", "ICNS", "PCX", "QOI", "SGI", "SUN", "XBM", "XPM", "TGA",
)  # fmt: skip
_THUMBNAIL_SIDE = 256  # longest side of a thumbnail in pixels


PictureLike = str | os.PathLike | Image.Image | np.ndarray


def as_picture(value: PictureLike | Any, *, on_white: bool = True) -> Image.Image:
    """Turns whatever holds a picture into an 8-bit RGB picture.

    Args:
        value: the path of a picture file (see :func:`load`), a PIL image of any mode except floating point, or an array
            [height, width, 3] of NumPy or JAX: uint8 from 0 to 255, or floating point from 0 to 1, which is rounded to
            the nearest of 256 levels. Use :func:`to_image` for values from -1 to 1.
        on_white: what becomes of transparency, see :func:`load`.

    Returns:
        A new picture; PIL images are converted to sRGB as :func:`load` does, and are not changed themselves.

    Raises:
        UserError: the value is none of these, the array has another shape, dtype or range, or :func:`load` raises it.
    """
    if isinstance(value, str | os.PathLike):
        return load(value, on_white=on_white)
    if isinstance(value, Image.Image):
        return _decode(value, "the picture", on_white)
    if not hasattr(value, "__array__"):
        raise UserError(f"a picture is a path, a PIL image or an array, not {type(value).__name__}")
    array = np.asarray(value)
    if array.ndim != 3 or array.shape[-1] != 3 or not array.size:
        raise UserError(f"a picture is an array of the shape [height, width, 3], not {list(array.shape)}")
    return Image.fromarray(_levels(array))


def _levels(array: np.ndarray) -> np.ndarray:
    if array.dtype == np.uint8:
        return array
    if array.dtype.kind != "f" and array.dtype.name != "bfloat16":
        raise UserError(f"a picture is an array of uint8 or of floating-point numbers, not of {array.dtype}")
    levels = np.rint(array.astype(np.float32) * 255)
    if not (levels.min() >= 0 and levels.max() <= 255):  # NaN compares as false
        raise UserError("a picture of floating-point numbers has values from 0 to 1: scale them, or give uint8")
    return levels.astype(np.uint8)


def load(path: str | os.PathLike, *, on_white: bool = True) -> Image.Image:
    """Reads a picture file of any common kind as 8-bit sRGB.

    Applies the EXIF orientation, composites transparency on white, converts an embedded colour profile to sRGB, makes
    CMYK, palette and grey pictures RGB, scales 16-bit grey down, and takes the first frame of an animation.

    Args:
        path: the file.
        on_white: False keeps transparency: pictures that have any are RGBA then.

    Raises:
        UserError: the file is missing, not a picture, damaged, cut short, of floating-point values, or larger than
            178 megapixels (which is checked before anything is decoded).
    """
    path = path_of(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            warnings.simplefilter("ignore", UserWarning)  # what Pillow says of a damaged EXIF block
            file = open_picture(_on_this_machine(path))
    except FileNotFoundError as error:
        raise UserError(f"there is no picture {path}") from error
    except IsADirectoryError as error:
        raise UserError(f"{path} is a folder: name the pictures in it, such as {path / '*.png'}") from error
    except UnidentifiedImageError as error:
        raise UserError(f"{path} is not a picture, or of a kind that Pillow cannot read") from error
    except Image.DecompressionBombError as error:
        raise UserError(f"{path} is larger than {MAX_PIXELS // 10**6} megapixels: make it smaller first") from error
    except Exception as error:  # a damaged header can make Pillow raise anything
        raise UserError(f"cannot read the picture {path}: {error}") from error
    with file:
        if file.width * file.height > MAX_PIXELS:
            raise UserError(f"{path} is larger than {MAX_PIXELS // 10**6} megapixels: make it smaller first")
        return _decode(file, f"the picture {path}", on_white)


def _on_this_machine(path: Path) -> Path | io.BytesIO:
    """What Pillow can open: the path itself, or what a file in a bucket holds."""
    return io.BytesIO(path.read_bytes()) if in_bucket(path) else path


def open_picture(file: str | Path | BinaryIO) -> Image.Image:
    """``Image.open`` for the kinds of pictures that are read here, chosen by content and not by name."""
    return Image.open(file, formats=_formats())


@functools.cache
def _formats() -> list[str]:
    Image.init()
    return [name for name in _FORMATS if name in Image.OPEN]


def _decode(image: Image.Image, name: str, on_white: bool) -> Image.Image:
    if image.mode == "F":
        raise UserError(f"{name} holds floating-point values: save it with 8 or 16 bits per channel")
    try:
        return _to_rgb(_upright(image), on_white)
    except Exception as error:  # damaged pixels can make Pillow raise anything
        raise UserError(f"cannot read {name}: {error}") from error


def _upright(image: Image.Image) -> Image.Image:
    """Turns a picture as its EXIF block says. Ignores a damaged block, as viewers do."""
    image.load()  # damaged pixels are no matter of the block
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # what Pillow says of a damaged block
        try:
            return ImageOps.exif_transpose(image)
        except Exception:  # it can make Pillow raise anything
            return image


def _to_rgb(image: Image.Image, on_white: bool) -> Image.Image:
    if image.mode in _SIXTEEN_BIT:
        values = np.asarray(image).astype(np.float32)
        image = Image.fromarray(np.clip(np.rint(values / 257), 0, 255).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
    elif image.mode not in ("L", "CMYK"):
        image = image.convert("RGB")
    image = _to_srgb(image)
    if image.mode == "RGBA" and (on_white or image.getchannel("A").getextrema() == (255, 255)):
        image = without_transparency(image)
    elif image.mode != "RGBA":
        image = image.convert("RGB")
    image.info = {}  # the profile and the orientation are applied and must not be saved again
    return image


def without_transparency(image: Image.Image) -> Image.Image:
    """An RGBA picture composited on white; one in RGB as it is."""
    if image.mode != "RGBA":
        return image
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def digest(image: Image.Image) -> str:
    """Twelve hexadecimal digits of a picture's mode, size and pixels."""
    return hashlib.sha256(f"{image.mode} {image.size}".encode() + image.tobytes()).hexdigest()[:12]


def to_thumbnail(image: Image.Image, side: int = _THUMBNAIL_SIDE) -> str:
    """A copy of a picture in RGB or RGBA as text, which `from_thumbnail` reads: a JPEG in base64.

    Args:
        image: the picture.
        side: the longest side of the copy in pixels, at most that of the picture.
    """
    small = without_transparency(image).copy()
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=88)
    return base64.b64encode(buffer.getvalue()).decode()


def from_thumbnail(text: Any) -> Image.Image | None:
    """The picture that `to_thumbnail` wrote; None if ``text`` is nothing of the kind."""
    try:
        with Image.open(io.BytesIO(base64.b64decode(text, validate=True)), formats=["JPEG"]) as image:
            return image.convert("RGB")
    except Exception:  # no text, no base64, no picture
        return None


def _to_srgb(image: Image.Image) -> Image.Image:
    """Applies the embedded colour profile. Ignores one that is unusable, as viewers do."""
    profile = image.info.get("icc_profile")
    if not profile:
        return image
    mode = "RGBA" if image.mode == "RGBA" else "RGB"
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        return ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode=mode) or image
    except (ImageCms.PyCMSError, OSError):
        return image


def fit(
    image: Image.Image,
    height: int,
    width: int,
    mode: str = "crop",
    *,
    resample: Image.Resampling = Image.Resampling.LANCZOS,
    mat: int | None = None,
) -> Image.Image:
    """Makes a picture exactly ``height`` x ``width`` without stretching it.

    Args:
        image: any RGB picture, or a grey one if ``mat`` is given.
        height, width: the new size, in pixels.
        mode: "crop" cuts two margins off so that the centre remains; "fit" keeps the whole picture and adds two even
            margins.
        resample: the filter.
        mat: the colour of the margins; None for the mean colour of the picture's edges there.

    Raises:
        UserError: the mode is another word, or a side is below one pixel.
    """
    if height < 1 or width < 1:
        raise UserError(f"a picture cannot be {width} x {height} pixels")
    if mode == "crop":
        return ImageOps.fit(image, (width, height), resample)
    if mode != "fit":
        raise UserError(f'pictures can be made to fit by "crop" or "fit", not by {mode!r}')
    inner = resize_within(image, height, width, resample)
    if inner.size == (width, height):
        return inner
    left, top = (width - inner.width) // 2, (height - inner.height) // 2
    colour = _edge_colour(inner, sides=inner.width < width) if mat is None else mat
    framed = Image.new(image.mode, (width, height), colour)
    framed.paste(inner, (left, top))
    return framed


def resize_within(
    image: Image.Image, height: int, width: int, resample: Image.Resampling = Image.Resampling.LANCZOS
) -> Image.Image:
    """Makes a picture as large as fits into ``height`` x ``width``, at least one pixel wide and high."""
    scale = min(width / image.width, height / image.height)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, resample)


def _edge_colour(image: Image.Image, sides: bool) -> tuple[int, int, int]:
    """Mean colour of the left and right columns (``sides``), or of the top and bottom rows."""
    pixels = np.asarray(image, np.float32)
    edges = pixels[:, [0, -1]] if sides else pixels[[0, -1]]
    red, green, blue = np.rint(edges.reshape(-1, 3).mean(0)).astype(int).tolist()
    return red, green, blue


def to_array(image: Image.Image) -> np.ndarray:
    """A picture as float32[height, width, 3] in [-1, 1], the range of Stable Diffusion's VAE."""
    return to_unit(np.asarray(image.convert("RGB")))


def to_unit(pixels: Any) -> Any:
    """Maps uint8 from 0 to 255 to float32 from -1 to 1; an array of NumPy or of JAX, of any shape."""
    return pixels.astype(np.float32) / 127.5 - 1


def to_image(array: np.ndarray) -> Image.Image:
    """The picture of [height, width, 3] values in [-1, 1] (clipped, rounded); undoes :func:`to_array` exactly.

    Raises:
        ValueError: the array has another shape.
        FloatingPointError: there is NaN or infinity among the values.
    """
    values = np.asarray(array, np.float32)
    if values.ndim != 3 or values.shape[-1] != 3:
        raise ValueError(f"a picture has the shape [height, width, 3], not {list(values.shape)}")
    if not np.isfinite(values).all():
        raise FloatingPointError("the picture holds NaN or Inf")
    return Image.fromarray(np.rint((np.clip(values, -1, 1) + 1) * 127.5).astype(np.uint8))


def save_png(path: str | os.PathLike, image: Image.Image, text: Mapping[str, str] | None = None) -> None:
    """Writes a PNG file, whole or not at all; see :func:`to_png`."""
    write_atomic(path, to_png(image, text))


def to_png(image: Image.Image, text: Mapping[str, str] | None = None) -> bytes:
    """The bytes of a PNG file with ``text`` in its text chunks (see :func:`read_text`).

    Keys are 1 to 79 Latin-1 characters, values any text: what Latin-1 cannot hold goes into an iTXt chunk.
    """
    chunks = PngInfo()
    for key, value in (text or {}).items():
        chunks.add_text(key, value.encode("utf-8", "replace").decode("utf-8"))
    buffer = io.BytesIO()
    image.save(buffer, "PNG", pnginfo=chunks)
    return buffer.getvalue()


def read_text(path: str | os.PathLike) -> dict[str, str]:
    """Reads the text chunks of a PNG file.

    Raises:
        UserError: the file is missing, or not a readable PNG.
    """
    try:
        with Image.open(_on_this_machine(path_of(path)), formats=["PNG"]) as image:
            assert isinstance(image, PngImageFile)
            return {key: str(value) for key, value in image.text.items()}
    except FileNotFoundError as error:
        raise UserError(f"there is no picture {path}") from error
    except Exception as error:  # a damaged file can make Pillow raise anything
        raise UserError(f"cannot read {path} as a PNG: {error}") from error
