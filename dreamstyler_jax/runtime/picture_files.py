"""Picture files of the formats that other programs read texts from: PNG's text chunks, EXIF in JPEG and WebP."""

import io
import json
import os
from collections.abc import Mapping
from pathlib import PurePath
from types import MappingProxyType

from PIL import ExifTags, Image

from dreamstyler_jax.runtime import images
from dreamstyler_jax.runtime.buckets import path_of
from dreamstyler_jax.runtime.documents import parse_json
from dreamstyler_jax.runtime.errors import UserError

SUFFIXES = {"png": ".png", "jpeg": ".jpg", "webp": ".webp"}  # the formats, and how their files' names end
PNG = "png"
PARAMETERS = "parameters"  # the text that other programs read
_MAX_EXIF = 65_000  # bytes; a JPEG file holds them in one segment
_UNICODE = b"UNICODE\0"  # what EXIF writes in front of a comment in UTF-16


def format_of(path: str | os.PathLike) -> str:
    """The format that the name of a picture's file asks for, one of `SUFFIXES`.

    Raises:
        UserError: it asks for another.
    """
    suffix = PurePath(path).suffix.lower()
    names = {**{ending: name for name, ending in SUFFIXES.items()}, ".jpeg": "jpeg"}
    if suffix not in names:
        raise UserError(f"{path}: the name of a picture should end in {', '.join(names)}")
    return names[suffix]


def to_bytes(
    image: Image.Image, text: Mapping[str, str] = MappingProxyType({}), format: str = PNG, quality: int | None = None
) -> bytes:
    """The bytes of a picture's file with ``text`` in it, which `read_text` reads.

    JPEG and WebP hold the text called ``parameters`` as EXIF's ``UserComment``, where other programs look for it, and
    the others as JSON in its ``ImageDescription``.

    Args:
        image: the picture, RGB.
        text: for each key a text; keys as in `images.to_png`.
        format: one of `SUFFIXES`.
        quality: of JPEG and WebP, 1 to 100.

    Raises:
        UserError: the texts are too long for a JPEG file.
    """
    if format == PNG:
        return images.to_png(image, text)
    exif = _to_exif(text)
    if format == "jpeg" and len(exif) > _MAX_EXIF:
        raise UserError("the prompt and the other parameters are too long for a JPEG file: paint PNG or WebP files")
    options = {"subsampling": 0} if format == "jpeg" else {}
    buffer = io.BytesIO()
    image.save(buffer, format, quality=quality, exif=exif, **options)
    return buffer.getvalue()


def _to_exif(text: Mapping[str, str]) -> bytes:
    others = {key: value for key, value in text.items() if key != PARAMETERS}
    exif = Image.Exif()
    exif[ExifTags.Base.ImageDescription] = json.dumps(others)  # ASCII, as EXIF wants it
    comment = _UNICODE + text.get(PARAMETERS, "").encode("utf-16-be", "replace")
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment] = comment
    return exif.tobytes()


def read_text(path: str | os.PathLike) -> dict[str, str]:
    """The texts in a picture's file that this project has written.

    Raises:
        UserError: the file is missing, not a picture of one of the formats, or one without such texts.
    """
    if format_of(path) == PNG:
        return images.read_text(path)
    try:
        with Image.open(io.BytesIO(path_of(path).read_bytes()), formats=["JPEG", "WEBP"]) as image:
            exif = image.getexif()
        text = parse_json(exif[ExifTags.Base.ImageDescription], dict[str, str], "its ImageDescription")
        comment = exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment]
        parameters = comment.removeprefix(_UNICODE).decode("utf-16-be")
        return text | ({PARAMETERS: parameters} if parameters else {})
    except FileNotFoundError as error:
        raise UserError(f"there is no picture {path}") from error
    except Exception as error:  # a damaged file can make Pillow raise anything
        raise UserError(f"cannot read the parameters in {path}: {error}") from error
