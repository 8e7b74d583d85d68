"""How the embedded model's painters differ: some thirty continuous parameters, and words for regions of their space.

A painter is a point in the space of these parameters (`Painter`). Four words say in which region of it (`Manner`): a
*technique*, a *palette*, a *touch* (how large the strokes are) and a *ground* (what is painted on). All combinations
occur.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array


class Painter(NamedTuple):
    """One painter, or a batch of them along leading axes. All float32, lengths in pixels of the finished picture."""

    dark: Array  # [3] the palette's dark end, RGB in [0, 1]
    light: Array  # [3] its light end
    tint: Array  # how far colours bend towards the palette, 0..1
    saturation: Array  # factor
    contrast: Array  # factor around mid-grey
    ground: Array  # [3] colour of canvas or paper
    stroke: Array  # 0 smooth paint .. 1 separate strokes
    cell: Array  # distance between strokes
    aspect: Array  # length over width
    cover: Array  # extent of a stroke in cells; below 1 the ground shows
    softness: Array  # width of a stroke's edge in cells
    square: Array  # 0 round strokes .. 1 rectangular ones
    scatter: Array  # random displacement of strokes in cells
    variety: Array  # random change of brightness from stroke to stroke
    motley: Array  # random change of hue from stroke to stroke
    relief: Array  # light and shade across a stroke
    grout: Array  # width of the gap between neighbouring strokes in cells
    angle: Array  # main direction, radians
    swirl: Array  # how far the direction turns across the picture, radians
    swirl_scale: Array  # turns per picture width
    wobble: Array  # displacement of contours
    hatch: Array  # strength of hatching lines 0..1
    pitch: Array  # distance between hatching lines
    cross: Array  # strength of a second set of hatching lines, across the first
    flatten: Array  # how far the ground replaces colour under hatching, 0..1
    outline: Array  # strength of contour lines 0..1
    outline_width: Array  # width of contour lines
    blotch: Array  # strength of the pigment's pools and pale patches
    grain: Array  # strength of random grain
    weave: Array  # strength of a regular weave
    vignette: Array  # darkening towards the edges, lightening where negative
    posterize: Array  # 0 smooth tones .. 1 five flat tones


class Manner(NamedTuple):
    """How a painter paints, in words; or a batch of manners along leading axes. All int32."""

    technique: Array  # index into TECHNIQUES
    palette: Array  # index into PALETTES
    touch: Array  # index into TOUCHES
    ground: Array  # index into GROUNDS


_Ranges = dict[str, tuple[float, float]]

# The range of each parameter in each technique; one that a technique does not name lies in its common range.
_COMMON_RANGES: _Ranges = {
    "stroke": (1, 1), "cell": (5.5, 7.5), "aspect": (1, 1.4), "cover": (1.0, 1.3), "softness": (0.1, 0.2),
    "square": (0, 0.2), "scatter": (0.5, 1.0), "variety": (0.02, 0.08), "motley": (0, 0.06), "relief": (0, 0.1),
    "grout": (0, 0), "angle": (0, 3.14), "swirl": (0, 0.5), "swirl_scale": (0.8, 1.8), "wobble": (0, 0.6),
    "hatch": (0, 0), "pitch": (6.0, 9.0), "cross": (0, 0), "flatten": (0, 0), "outline": (0, 0),
    "outline_width": (1.8, 2.6), "blotch": (0, 0), "grain": (0, 0.03), "weave": (0, 0), "vignette": (-0.1, 0.2),
    "posterize": (0, 0.1),
}  # fmt: skip
TECHNIQUES: dict[str, _Ranges] = {
    "dots": {
        "cell": (3.9, 4.8), "aspect": (1, 1.1), "cover": (0.7, 0.9), "square": (0, 0), "scatter": (0.2, 0.6),
        "variety": (0.04, 0.12), "motley": (0.08, 0.2), "softness": (0.06, 0.12),
    },
    "dabs": {
        "cell": (4.2, 5.4), "aspect": (1.8, 2.8), "variety": (0.05, 0.12), "motley": (0.04, 0.12),
        "relief": (0.15, 0.4), "swirl": (0.2, 1.0), "cover": (0.9, 1.15),
    },
    "swirls": {
        "cell": (4.2, 5.2), "aspect": (2.6, 4.0), "variety": (0.06, 0.15), "motley": (0.03, 0.1),
        "relief": (0.1, 0.3), "swirl": (1.8, 3.4), "swirl_scale": (0.8, 1.5), "cover": (0.9, 1.1),
    },
    "mosaic": {
        "cell": (5.6, 7.2), "aspect": (1, 1.25), "cover": (2.0, 2.0), "softness": (0.1, 0.1), "square": (0.75, 1.0),
        "scatter": (0.05, 0.4), "variety": (0.06, 0.16), "motley": (0.02, 0.12), "grout": (0.16, 0.3),
    },
    "hatching": {
        "stroke": (0, 0), "hatch": (0.85, 1.0), "pitch": (5.0, 7.5), "cross": (0, 1), "flatten": (0.4, 0.62),
        "swirl": (0, 0.15), "outline": (0.5, 0.9), "outline_width": (1.4, 2.2), "grain": (0.01, 0.04),
    },
    "cartoon": {
        "stroke": (0, 0), "outline": (0.9, 1.0), "outline_width": (2.4, 4.2), "posterize": (0.7, 1.0),
        "grain": (0, 0), "wobble": (0, 0.3),
    },
    "wash": {
        "stroke": (0, 0), "wobble": (1.4, 3.2), "blotch": (0.05, 0.14), "grain": (0.02, 0.06), "outline": (0.1, 0.4),
        "outline_width": (1.4, 2.0), "vignette": (-0.7, -0.35),
    },
    "knife": {
        "cell": (5.2, 6.8), "aspect": (1.6, 2.6), "square": (0.8, 1.0), "relief": (0.25, 0.55), "scatter": (0.7, 1.0),
        "variety": (0.08, 0.18), "motley": (0.02, 0.1), "swirl": (0.0, 0.8), "cover": (1.1, 1.4),
        "softness": (0.04, 0.08),
    },
    "woodcut": {
        "stroke": (0, 0), "hatch": (0.95, 1.0), "pitch": (6.5, 9.0), "flatten": (0.2, 0.4), "outline": (1.0, 1.0),
        "outline_width": (2.2, 3.2), "swirl": (0.1, 0.4), "posterize": (0.9, 1.0), "grain": (0, 0),
    },
    "tapestry": {
        "cell": (4.4, 5.2), "square": (1, 1), "scatter": (0, 0.06), "cover": (0.95, 1.05), "angle": (0, 0),
        "swirl": (0, 0), "aspect": (1.5, 2.2), "variety": (0.08, 0.16), "motley": (0.02, 0.1), "relief": (0.2, 0.5),
        "weave": (0.05, 0.1), "grout": (0.08, 0.16),
    },
}  # fmt: skip

# How colours change, and the hue (in turns), saturation and value of the palette's dark and light end.
_COMMON_COLOURS: _Ranges = {
    "tint": (0.16, 0.34), "saturation": (0.9, 1.25), "contrast": (0.95, 1.15),
    "dark_hue": (0, 1), "dark_saturation": (0.4, 0.8), "dark_value": (0.1, 0.28),
    "light_hue": (0, 1), "light_saturation": (0.12, 0.4), "light_value": (0.9, 1.0),
}  # fmt: skip
PALETTES: dict[str, _Ranges] = {
    "warm": {"dark_hue": (-0.06, 0.05), "light_hue": (0.04, 0.11), "light_saturation": (0.35, 0.55)},
    "cold": {"dark_hue": (0.58, 0.7), "light_hue": (0.48, 0.6), "light_saturation": (0.25, 0.5)},
    "earthy": {
        "dark_hue": (0.03, 0.09), "light_hue": (0.09, 0.14), "light_value": (0.74, 0.84), "saturation": (0.5, 0.7),
    },
    "pastel": {
        "dark_saturation": (0.2, 0.35), "dark_value": (0.42, 0.55), "light_saturation": (0.05, 0.15),
        "light_value": (0.97, 1.0), "contrast": (0.7, 0.85), "tint": (0.3, 0.45),
    },
    "vivid": {"tint": (0.02, 0.1), "saturation": (1.5, 1.9), "contrast": (1.15, 1.35)},
    "sombre": {
        "dark_value": (0.03, 0.1), "light_value": (0.6, 0.72), "light_saturation": (0.1, 0.3),
        "saturation": (0.7, 0.95), "tint": (0.35, 0.45),
    },
    "golden": {
        "dark_hue": (0.07, 0.11), "dark_saturation": (0.7, 0.9), "light_hue": (0.12, 0.155),
        "light_saturation": (0.5, 0.7),
    },
    "mossy": {
        "dark_hue": (0.28, 0.45), "light_hue": (0.2, 0.3), "light_saturation": (0.25, 0.45),
        "light_value": (0.85, 0.95),
    },
    "rosy": {"dark_hue": (0.8, 0.92), "light_hue": (0.9, 0.98), "light_saturation": (0.25, 0.45)},
    "muted": {"saturation": (0.45, 0.6), "light_saturation": (0.0, 0.1), "dark_saturation": (0.05, 0.3)},
}  # fmt: skip

TOUCHES: dict[str, tuple[float, float]] = {"fine": (0.82, 0.9), "medium": (1.0, 1.12), "broad": (1.25, 1.4)}  # factors
_SCALED_BY_TOUCH = ("cell", "pitch", "outline_width")

GROUNDS: dict[str, _Ranges] = {
    "white paper": {"hue": (0.08, 0.16), "saturation": (0.0, 0.08), "value": (0.94, 1.0)},
    "coloured paper": {"hue": (0, 1), "saturation": (0.3, 0.5), "value": (0.66, 0.84)},
    "dark canvas": {"hue": (0, 1), "saturation": (0.2, 0.6), "value": (0.07, 0.2)},
}


MANNERS = (TECHNIQUES, PALETTES, TOUCHES, GROUNDS)  # in the order of `Manner`


def _hsv(hue: Array, saturation: Array, value: Array) -> Array:
    channel = (jnp.asarray([5.0, 3.0, 1.0]) + (hue[..., None] % 1) * 6) % 6
    return value[..., None] * (1 - saturation[..., None] * jnp.clip(jnp.minimum(channel, 4 - channel), 0, 1))


def sample(key: Array, manner: Manner) -> Painter:
    """Draws a painter of each manner. Deterministic in ``key``.

    Args:
        key: PRNG key.
        manner: int32[...] each.
    """
    k_technique, k_palette, k_touch, k_ground = jax.random.split(key, 4)
    strokes = _uniform(k_technique, [_COMMON_RANGES | ranges for ranges in TECHNIQUES.values()], manner.technique)
    colours = _uniform(k_palette, [_COMMON_COLOURS | ranges for ranges in PALETTES.values()], manner.palette)
    factor = _uniform(k_touch, [{"factor": range_} for range_ in TOUCHES.values()], manner.touch)["factor"]
    ground = _uniform(k_ground, list(GROUNDS.values()), manner.ground)
    strokes |= {name: strokes[name] * factor for name in _SCALED_BY_TOUCH}
    dark, light = (_hsv(*(colours.pop(f"{end}_{what}") for what in _HSV)) for end in ("dark", "light"))
    return Painter(dark=dark, light=light, ground=_hsv(*(ground[what] for what in _HSV)), **strokes, **colours)


_HSV = ("hue", "saturation", "value")


def _uniform(key: Array, ranges: list[_Ranges], chosen: Array) -> dict[str, Array]:
    """Uniform values float32[...] from the chosen of several tables of ranges."""
    names = list(ranges[0])
    bounds = jnp.asarray([[table[name] for name in names] for table in ranges])[chosen]
    values = jax.random.uniform(key, (*chosen.shape, len(names)), minval=bounds[..., 0], maxval=bounds[..., 1])
    return {name: values[..., i] for i, name in enumerate(names)}


def photograph() -> Painter:
    """The painter that returns the plain raster unchanged, like a photograph."""
    values = dict.fromkeys(Painter._fields, 0.0)
    values |= dict.fromkeys(("saturation", "contrast", "aspect", "softness", "swirl_scale", "pitch"), 1.0)
    values |= {"dark": (0.0,) * 3, "light": (1.0,) * 3, "ground": (1.0,) * 3, "cell": 4.0}
    return Painter(**{name: jnp.float32(value) for name, value in values.items()})
