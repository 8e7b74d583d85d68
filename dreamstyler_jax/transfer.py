"""Style transfer: a picture is noised and painted again while ControlNets keep its structure (Ahn et al. 2024, 3.4).

    picture --frame--> multiples of 8 pixels --VAE--> latents to start from (SDEdit)
            `--edges, depth, or a given map--> control maps

No picture is stretched: the colours of its border fill up the model's size, and are cut off afterwards.
"""

import hashlib
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageOps

from dreamstyler_jax.depth import depth_map, depth_model_hash
from dreamstyler_jax.runtime import images
from dreamstyler_jax.runtime.errors import UserError
from dreamstyler_jax.solvers import steps_within
from dreamstyler_jax.stable_diffusion.pipeline import StableDiffusion

KINDS = ("edges", "depth", "image")
_MAX_ASPECT = 8  # longer side over the shorter
_MAX_ENCODED = 16  # pictures whose latents and control maps are kept
_NET = re.compile(r"(?P<kind>\w+)(?:\*(?P<weight>\d*\.?\d+))?(?:=(?P<model>.+))?")


class Net(NamedTuple):
    """A ControlNet and what it is given.

    Attributes:
        kind: which kind of control map it takes, one of `KINDS`.
        weight: factor of its conditioning scale.
        model: folder or hub id; "" for the one in the model's own folder.
    """

    kind: str
    weight: float
    model: str


def parse_net(text: str) -> Net:
    """Reads ``edges``, ``depth=FOLDER`` or ``image*0.5=owner/name``.

    Raises:
        UserError: it does not have this form.
    """
    match = _NET.fullmatch(text.strip())
    if not match or match["kind"] not in KINDS:
        raise UserError(f"controlnets: {text!r} should read like edges=FOLDER, depth*0.5=FOLDER or image=FOLDER")
    return Net(match["kind"], float(match["weight"] or 1), match["model"] or "")


def with_nets(model: StableDiffusion, nets: Sequence[Net], *, depth_model: str = "", **options: Any) -> StableDiffusion:
    """The model with these ControlNets; the options are those of `StableDiffusion.with_controlnets`.

    Its hash of settings covers the depth model, if one of the nets takes depth maps.

    Raises:
        UserError: one of them should come from the model's own folder, which has none; and see
            `StableDiffusion.with_controlnets`.
    """
    folders = [net.model or model.bundled_controlnet for net in nets]
    found = [folder for folder in folders if folder]
    if len(found) < len(nets):
        raise UserError(f"controlnets: {model.name} has none of its own; name one, as in {nets[0].kind}=FOLDER")
    if any(net.kind == "depth" for net in nets):
        model = model.with_settings(depth_model_hash(depth_model))
    return model.with_controlnets(found, **options) if nets else model


class Frame(NamedTuple):
    """A size for the model, and the size of the picture in its upper left corner; pixels."""

    height: int
    width: int
    inner_height: int
    inner_width: int


def frame(size: tuple[int, int], resolution: int, multiple: int) -> Frame:
    """The frame for a picture: about ``resolution`` squared pixels in the picture's aspect.

    Args:
        size: width and height of the picture.
        resolution: the model's.
        multiple: the frame's sides are multiples of it.

    Raises:
        UserError: the longer side is more than eight times the shorter.
    """
    width, height = size
    if max(size) > _MAX_ASPECT * min(size):
        raise UserError(f"a picture of {width} x {height} pixels is too long and thin to be repainted: crop it first")
    scale = resolution / (width * height) ** 0.5
    inner_height, inner_width = (max(1, round(side * scale)) for side in (height, width))
    outer_height, outer_width = (-(-side // multiple) * multiple for side in (inner_height, inner_width))
    return Frame(outer_height, outer_width, inner_height, inner_width)


class Content(NamedTuple):
    """A picture to repaint.

    Attributes:
        name: the path as it was given.
        hash: twelve hexadecimal digits of its pixels.
        frame: its place in the model's size.
        picture: of the frame's inner size.
        control_image: the control map that came with it, of the same size, or None.
    """

    name: str
    hash: str
    frame: Frame
    picture: Image.Image
    control_image: Image.Image | None


def load_content(
    path: str | Path,
    resolution: int,
    multiple: int,
    size: tuple[int, int] | None = None,
    control_image: str | Path | None = None,
) -> Content:
    """Loads a picture to repaint.

    Args:
        path: the picture's file.
        resolution, multiple: the model's.
        size: height and width to crop it to; None keeps all of it, at about ``resolution`` squared pixels.
        control_image: the file of its control map.

    Raises:
        UserError: a file cannot be read, is too oblong, or the map has another aspect than the picture.
    """
    given = load_control_image(control_image) if control_image else None
    return make_content(images.load(path), str(path), resolution, multiple, size, given)


def load_control_image(path: str | Path) -> Image.Image:
    """Loads a control map; what is transparent is black, the ground of all control maps.

    Raises:
        UserError: the file cannot be read, or its transparent parts leave nothing on black.
    """
    picture = images.load(path, on_white=False)
    if picture.mode != "RGBA":
        return picture
    on_black = Image.alpha_composite(Image.new("RGBA", picture.size, "black"), picture).convert("RGB")
    if not on_black.getbbox():
        raise UserError(
            f"control_images: {path} is black on a transparent ground, and control maps are light on black: invert it"
        )
    warnings.warn(f"control_images: what is transparent in {path} counts as black", stacklevel=2)
    return on_black


def make_content(
    picture: Image.Image,
    name: str,
    resolution: int,
    multiple: int,
    size: tuple[int, int] | None = None,
    control_image: Image.Image | None = None,
) -> Content:
    """The same from pictures in memory."""
    digest = hashlib.sha256(repr(picture.size).encode() + picture.tobytes())
    if size:
        picture = ImageOps.fit(picture, (size[1], size[0]), Image.Resampling.LANCZOS)
    shape = Frame(*size, *size) if size else frame(picture.size, resolution, multiple)
    inner = (shape.inner_width, shape.inner_height)
    if control_image:
        digest.update(control_image.tobytes())
        aspects = control_image.width / control_image.height, picture.width / picture.height
        if abs(aspects[0] / aspects[1] - 1) > 0.02:
            raise UserError(
                f"the control map of {name} is {control_image.width} x {control_image.height} pixels: give it the "
                f"aspect of the picture, {picture.width} x {picture.height}"
            )
        control_image = control_image.resize(inner, Image.Resampling.LANCZOS)
    picture = picture.resize(inner, Image.Resampling.LANCZOS)
    return Content(name, digest.hexdigest()[:12], shape, picture, control_image)


class EncodedContent(NamedTuple):
    """A picture to repaint, as the sampler takes it.

    Attributes:
        latents: the mean of its scaled latents, float32[h, w, c].
        maps: a control map float32[H, W, 3] in [0, 1] for each ControlNet.
    """

    latents: np.ndarray
    maps: tuple[np.ndarray, ...]


class ContentEncoder:
    """Encodes pictures to repaint for one model; recent results are kept.

    Args:
        model: with its ControlNets.
        nets: what each of them is given.
        depth_model: folder or hub id of the depth model for nets of the kind ``depth``.
    """

    def __init__(self, model: StableDiffusion, nets: Sequence[Net] = (), depth_model: str = ""):
        self._model, self._nets, self._depth_model = model, nets, depth_model
        self._encoded: dict[str, EncodedContent] = {}

    def encode(self, content: Content) -> EncodedContent:
        """Latents and control maps of a picture.

        Raises:
            UserError: a control map is missing, or the depth model cannot be used.
        """
        if content.hash not in self._encoded:
            while len(self._encoded) >= _MAX_ENCODED:
                self._encoded.pop(next(iter(self._encoded)))
            self._encoded[content.hash] = self._encode(content)
        return self._encoded[content.hash]

    def control_maps(self, content: Content) -> tuple[np.ndarray, ...]:
        """The control maps of a picture; errors as of `encode`."""
        return tuple(control_map(net.kind, content, self._depth_model) for net in self._nets)

    def control_scales(self, scale: float, span: tuple[float, float], steps: int) -> np.ndarray | None:
        """The scale of each ControlNet in each step, float32[steps, K]; None without ControlNets.

        Args:
            scale: of all of them; each has its weight as a factor.
            span: the part of the sampling, from 0 to 1, in which they act.
            steps: number of sampling steps taken.
        """
        scales = [net.weight * scale for net in self._nets]
        return control_scales(scales, [span] * len(scales), steps) if scales else None

    def _encode(self, content: Content) -> EncodedContent:
        pixels = to_frame(content.picture, content.frame)
        mean, _ = self._model.encode_images(images.to_unit(pixels[None]))
        return EncodedContent(np.asarray(mean[0]), self.control_maps(content))


def to_frame(picture: Image.Image, shape: Frame) -> np.ndarray:
    """The picture in its frame, uint8[H, W, 3]; the last row and column repeat beyond the picture."""
    pixels = np.asarray(picture.convert("RGB"))
    rest = (0, shape.height - shape.inner_height), (0, shape.width - shape.inner_width), (0, 0)
    return np.pad(pixels, rest, "edge")


def control_map(kind: str, content: Content, depth_model: str) -> np.ndarray:
    """The control map of a kind, float32[H, W, 3] in [0, 1], of the frame's size.

    Raises:
        UserError: the kind is ``image`` and no map was given, or the depth model cannot be used.
    """
    if kind == "image":
        if content.control_image is None:
            raise UserError(f"control_images: give the control map of {content.name}, or use edges or depth")
        picture = content.control_image
    elif kind == "edges":
        from dreamstyler_jax.edges import canny  # with scipy.ndimage, which takes long to import

        picture = Image.fromarray(canny(np.asarray(content.picture)))
    else:
        picture = depth_map(content.picture, depth_model)
    return to_frame(picture, content.frame).astype(np.float32) / 255


def control_scales(scales: Sequence[float], spans: Sequence[tuple[float, float]], steps: int) -> np.ndarray:
    """The conditioning scale of each ControlNet in each step: float32[steps, K].

    Args:
        scales: of each ControlNet.
        spans: the part of the sampling, from 0 to 1, in which each one acts, see `solvers.steps_within`.
        steps: number of sampling steps taken.
    """
    within = [steps_within(start, end, steps) for start, end in spans]
    return (np.array(scales, np.float32)[:, None] * np.array(within)).T.astype(np.float32)
