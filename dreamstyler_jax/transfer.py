"""Style transfer: a content picture is noised and painted anew, ControlNets keep its structure (Ahn et al. 2024, 3.4).

    picture --frame--> multiples of 8 pixels --VAE--> latents to start from (SDEdit)
            `--edges, depth, or given--> control maps

No picture is stretched: what the model's sizes leave over is filled with the border's colours and cut away afterwards.
"""

import functools
import hashlib
import io
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

from dreamstyler_jax.runtime import images
from dreamstyler_jax.runtime.errors import UserError
from dreamstyler_jax.runtime.files import cache_folder, write_atomic
from dreamstyler_jax.solvers import steps_within

KINDS = ("edges", "depth", "image")
_MOST_OBLONG = 8  # longer side over the shorter
_NET = re.compile(r"(?P<kind>\w+)(?:\*(?P<weight>\d*\.?\d+))?(?:=(?P<model>.+))?")


class Net(NamedTuple):
    """A ControlNet: which kind of map it takes, how much it counts, its folder or hub id, "" for the model's own."""

    kind: str
    weight: float
    model: str


def parse_net(text: str) -> Net:
    """Reads ``edges``, ``depth=FOLDER`` or ``image*0.5=owner/name``.

    Raises:
        UserError: it does not read so.
    """
    match = _NET.fullmatch(text.strip())
    if not match or match["kind"] not in KINDS:
        raise UserError(f"controlnets: {text!r} should read like edges=FOLDER, depth*0.5=FOLDER or image=FOLDER")
    return Net(match["kind"], float(match["weight"] or 1), match["model"] or "")


class Frame(NamedTuple):
    """A size for the model and, in its upper left corner, what of it is the picture; pixels."""

    height: int
    width: int
    inner_height: int
    inner_width: int


def frame(size: tuple[int, int], resolution: int, multiple: int) -> Frame:
    """The frame for a picture of ``size`` (width, height): of the area of ``resolution`` squared and its own aspect.

    Raises:
        UserError: the picture is more than eight times as long as it is wide.
    """
    width, height = size
    if max(size) > _MOST_OBLONG * min(size):
        raise UserError(f"a picture of {width} x {height} pixels is too long and thin to be repainted: cut it first")
    scale = resolution / (width * height) ** 0.5
    inner = [max(1, round(side * scale)) for side in (height, width)]
    outer = [-(-side // multiple) * multiple for side in inner]
    return Frame(*outer, *inner)


class Content(NamedTuple):
    """A content picture.

    ``name``: the path as it was given. ``hash``: twelve hexadecimal digits of its pixels. ``picture``: of its frame's
    inner size. ``given``: the control map that came with it, of the same size, or None.
    """

    name: str
    hash: str
    frame: Frame
    picture: Image.Image
    given: Image.Image | None


def load_content(
    path: str, resolution: int, multiple: int, size: tuple[int, int] | None = None, control_image: str | None = None
) -> Content:
    """Loads a picture and brings it to a size for the model.

    Args:
        size: (height, width) to cut it to; None: all of it, at about ``resolution`` squared pixels.
        control_image: the file of its control map.

    Raises:
        UserError: a file cannot be read, is too oblong, or the map has another aspect than the picture.
    """
    picture = images.load(path)
    digest = hashlib.sha256(repr(picture.size).encode() + picture.tobytes())
    if size:
        picture = ImageOps.fit(picture, (size[1], size[0]), Image.Resampling.LANCZOS)
    shape = Frame(*size, *size) if size else frame(picture.size, resolution, multiple)
    inner = (shape.inner_width, shape.inner_height)
    given = None
    if control_image:
        given = images.load(control_image)
        digest.update(given.tobytes())
        aspects = given.width / given.height, picture.width / picture.height
        if abs(aspects[0] / aspects[1] - 1) > 0.02:
            raise UserError(
                f"the control map {control_image} is {given.width} x {given.height} pixels: make its aspect that of "
                f"{path}, {picture.width} x {picture.height}"
            )
        given = given.resize(inner, Image.Resampling.LANCZOS)
    picture = picture.resize(inner, Image.Resampling.LANCZOS)
    return Content(path, digest.hexdigest()[:12], shape, picture, given)


def to_frame(picture: Image.Image, shape: Frame) -> np.ndarray:
    """uint8[H, W, 3] of the frame's size, the last row and column repeated beyond the picture."""
    pixels = np.asarray(picture.convert("RGB"))
    rest = (0, shape.height - shape.inner_height), (0, shape.width - shape.inner_width), (0, 0)
    return np.pad(pixels, rest, "edge")


def control_map(kind: str, content: Content, depth_model: str) -> np.ndarray:
    """The control map of a kind, float32[H, W, 3] in [0, 1], of the frame's size.

    Raises:
        UserError: kind ``image`` and none was given, or the depth model cannot be used.
    """
    if kind == "image":
        if content.given is None:
            raise UserError(f"control_images: give the control map of {content.name}, or take edges or depth")
        picture = content.given
    elif kind == "edges":
        picture = Image.fromarray(edges(np.asarray(content.picture)))
    else:
        picture = depth(content.picture, depth_model)
    return to_frame(picture, content.frame).astype(np.float32) / 255


def edges(picture: np.ndarray) -> np.ndarray:
    """Canny's edges uint8[H, W], 0 or 255, of a picture uint8[H, W, 3], as ControlNets were trained on (100, 200)."""
    import cv2  # a third of a second, for edges alone

    return cv2.Canny(np.ascontiguousarray(picture), 100, 200)


def depth(picture: Image.Image, model: str) -> Image.Image:
    """The depth map of a picture, white is near, by a depth model of transformers; kept in the user's cache folder.

    Args:
        model: folder or hub id, such as a DPT or Depth Anything.

    Raises:
        UserError: PyTorch and transformers are not installed, or the model cannot be loaded.
    """
    key = hashlib.sha256(f"{model} {picture.size}".encode() + picture.tobytes()).hexdigest()[:24]
    path = cache_folder() / "depth" / f"{key}.png"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        estimate = _depth_pipeline(model)(picture)["predicted_depth"].squeeze().float().numpy()
        near = (estimate - estimate.min()) / max(float(np.ptp(estimate)), 1e-6)
        buffer = io.BytesIO()
        Image.fromarray(np.rint(near * 255).astype(np.uint8)).resize(picture.size).save(buffer, "PNG")
        write_atomic(path, buffer.getvalue())
    return Image.open(path)


@functools.cache
def _depth_pipeline(model: str):
    try:
        from transformers import pipeline
    except ImportError as error:
        raise UserError('depth maps need transformers and torch: pip install "dreamstyler-jax[torch]"') from error
    try:
        return pipeline("depth-estimation", model=model)
    except (OSError, ValueError, ImportError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"depth_model: {model} cannot be used ({reason}); name a depth model's folder or hub id"
        ) from error


def control_scales(scales: Sequence[float], spans: Sequence[tuple[float, float]], steps: int) -> np.ndarray:
    """How much each ControlNet counts in each step: float32[steps, K].

    Args:
        scales: of each ControlNet.
        spans: the part of the sampling, from 0 to 1, in which each is heeded, see `solvers.steps_within`.
        steps: steps of the solver that are taken.
    """
    within = [steps_within(start, end, steps) for start, end in spans]
    return (np.array(scales, np.float32)[:, None] * np.array(within)).T.astype(np.float32)
