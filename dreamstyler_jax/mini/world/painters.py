"""How the embedded model's pictures are painted: a stroke-based renderer with about thirty continuous parameters.

A painter is a point in the space of these parameters (`Painter`). Four words say in which region of it: a *technique*,
a *palette*, a *touch* (how large the strokes are) and a *ground* (what is painted on). All combinations occur.
`paint_raster` turns a scene's raster into a picture: it bends the colours towards the painter's palette, lays strokes
along an orientation field, each covering the pixels nearest to its centre, and adds hatching, contours, grain and
light. It works at twice the size and averages. All functions are pure and take arrays, so ``jax.vmap`` makes a batch of
painters and scenes.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from dreamstyler_jax.mini.world import scenes
from dreamstyler_jax.runtime.devices import shared, split_batch

SIZE = 128  # pixels
_FINE_SIZE = 2 * SIZE
_MARGIN = 2  # a pixel's stroke is at most this many cells away
_CELLS = 42  # per axis, enough for the smallest strokes (3.5 pixels) and the margin on both sides


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


def _luminance(colour: Array) -> Array:
    return colour @ jnp.asarray([0.299, 0.587, 0.114])


def _smoothstep(x: Array) -> Array:
    x = jnp.clip(x, 0, 1)
    return x * x * (3 - 2 * x)


def _mix(a: Array, b: Array, weight: Array) -> Array:
    return a + (b - a) * weight[..., None]


def _palette(p: Painter, colour: Array) -> Array:
    """The scene's colours, shifted towards the painter's palette."""
    lum = _luminance(colour)
    tones = 5.0
    stepped = (jnp.floor(lum * tones) + 0.5) / tones
    colour = colour + ((stepped - lum) * p.posterize)[..., None]
    lum = _luminance(colour)
    colour = lum[..., None] + (colour - lum[..., None]) * p.saturation
    colour = (colour - 0.5) * p.contrast + 0.5
    toned = p.dark + (p.light - p.dark) * jnp.clip(lum, 0, 1)[..., None]
    return _mix(colour, toned, jnp.broadcast_to(p.tint, lum.shape))


def _noise(key: Array, x: Array, y: Array, scale: Array) -> Array:
    """Smooth noise of about unit amplitude: four plane waves of random direction and phase."""
    a = jax.random.uniform(key, (4, 3))
    total = jnp.zeros_like(x)
    for i in range(4):
        direction, frequency = a[i, 0] * 6.283, scale * (0.6 + 0.8 * a[i, 1])
        total += jnp.sin(6.283 * (frequency * (x * jnp.cos(direction) + y * jnp.sin(direction)) + a[i, 2]))
    return total / 2


def _look_up(image: Array, y: Array, x: Array) -> Array:
    """Nearest pixels of ``image`` [h, w, ...] at float positions, clamped to its edges."""
    h, w = image.shape[:2]
    return image[jnp.clip(y, 0, h - 1).astype(jnp.int32), jnp.clip(x, 0, w - 1).astype(jnp.int32)]


def _strokes(p: Painter, key: Array, colour: Array, theta: Array, py: Array, px: Array) -> Array:
    """The picture as separate strokes: each pixel takes the colour of the stroke whose centre is nearest to it.

    The distance is stretched along the stroke; ``py`` and ``px`` are pixels of the fine raster, ``theta`` directions.
    """
    cell = p.cell * 2
    random = jax.random.uniform(key, (_CELLS, _CELLS, 6))
    number = jnp.arange(_CELLS) - _MARGIN + 0.5
    cy = (number[:, None] + p.scatter * (random[..., 0] - 0.5)) * cell
    cx = (number[None, :] + p.scatter * (random[..., 1] - 0.5)) * cell
    angle = _look_up(theta, cy, cx)
    centres = jnp.stack([cy, cx, jnp.cos(angle), jnp.sin(angle)], -1).reshape(-1, 4)
    long, wide = jnp.sqrt(p.aspect) * cell, cell / jnp.sqrt(p.aspect)
    home = (
        (jnp.floor(py / cell).astype(jnp.int32) + _MARGIN) * _CELLS + jnp.floor(px / cell).astype(jnp.int32) + _MARGIN
    )
    best, second = jnp.full(px.shape, 1e9), jnp.full(px.shape, 1e9)
    across, chosen = jnp.zeros_like(px), home
    for offset in (dy * _CELLS + dx for dy in range(-_MARGIN, _MARGIN + 1) for dx in range(-_MARGIN, _MARGIN + 1)):
        qy, qx, c, s = jnp.moveaxis(centres[home + offset], -1, 0)
        u = ((px - qx) * c + (py - qy) * s) / long
        v = ((py - qy) * c - (px - qx) * s) / wide
        round_, square = jnp.sqrt(u * u + v * v), 1.1 * jnp.maximum(jnp.abs(u), jnp.abs(v))
        distance = round_ + (square - round_) * p.square
        nearer = distance < best
        second = jnp.where(nearer, best, jnp.minimum(second, distance))
        across, chosen = jnp.where(nearer, v, across), jnp.where(nearer, home + offset, chosen)
        best = jnp.where(nearer, distance, best)
    luck = (random[..., 2] - 0.5) * 2 * p.variety
    hue = (random[..., 3:] - random[..., 3:].mean(-1, keepdims=True)) * 2 * p.motley
    paints = (_look_up(colour, cy, cx) + luck[..., None] * jnp.asarray([1.0, 0.9, 0.75]) + hue).reshape(-1, 3)
    painted = paints[chosen] + (across * p.relief)[..., None]
    inside = _smoothstep((p.cover * 0.75 - best) / p.softness + 0.5)
    gap = _smoothstep((second - best) / jnp.maximum(p.grout, 1e-3))
    return _mix(jnp.broadcast_to(p.ground, colour.shape), painted, inside * jnp.where(p.grout > 0, gap, 1.0))


def _hatching(p: Painter, colour: Array, theta: Array, y: Array, x: Array) -> Array:
    """Lines over the ground: dark ones, wider where the picture is darker, or light ones on a dark ground."""
    luminance = _luminance(jnp.clip(colour, 0, 1))
    on_dark = _luminance(p.ground) < 0.4
    amount = jnp.where(on_dark, luminance, 1 - luminance)
    ink = jnp.where(on_dark, p.light, p.dark)
    paper = _mix(colour, jnp.broadcast_to(p.ground, colour.shape), jnp.broadcast_to(p.flatten, x.shape))

    def lines(angle: Array, threshold: float) -> Array:
        phase = (x * jnp.sin(angle) + y * jnp.cos(angle)) / (2 * p.pitch)
        ridge = jnp.abs(phase % 1 - 0.5) * 2
        return _smoothstep((amount * 0.75 - threshold - ridge) * p.pitch + 0.5)

    drawn = jnp.maximum(lines(theta, 0.0), p.cross * lines(theta + 1.57, 0.25))
    return _mix(paper, jnp.broadcast_to(ink, colour.shape), p.hatch * drawn)


def _contours(p: Painter, colour: Array, depth: Array) -> Array:
    """1 on the contours, where the scene's colour or depth jumps within the outline's width, else 0."""
    reach = 6
    jump = jnp.zeros(depth.shape)
    for dy, dx in ((0, 1), (1, 0), (1, 1), (1, -1)):
        for step in range(1, reach + 1):
            shift = lambda a, s=step, dy=dy, dx=dx: jnp.roll(a, (s * dy, s * dx), (0, 1))  # noqa: E731
            change = jnp.abs(colour - shift(colour)).sum(-1) * 1.2 + jnp.abs(depth - shift(depth)) * 4
            jump = jnp.maximum(jump, jnp.where(step <= p.outline_width * 1.2, change, 0))
    edge = jnp.pad(jnp.ones((depth.shape[0] - 2 * reach,) * 2), reach)
    return _smoothstep((jump - 0.35) * 3) * edge


def paint_raster(painter: Painter, key: Array, colour: Array, depth: Array) -> Array:
    """Paints one picture.

    Args:
        painter: one painter, without batch axes.
        key: PRNG key for the positions of strokes, the noise of their directions, and the grain.
        colour: float32[2 * SIZE, 2 * SIZE, 3] in [0, 1], from `scenes.raster`.
        depth: float32[2 * SIZE, 2 * SIZE] from 0 (near) to 1 (far), from `scenes.raster`.

    Returns:
        float32[SIZE, SIZE, 3] in [0, 1].
    """
    p = painter
    k = jax.random.split(key, 6)
    py, px = jnp.meshgrid(jnp.arange(_FINE_SIZE) + 0.5, jnp.arange(_FINE_SIZE) + 0.5, indexing="ij")
    y, x = py / _FINE_SIZE, px / _FINE_SIZE
    theta = p.angle + p.swirl * _noise(k[0], x, y, p.swirl_scale)
    wy, wx = (2 * p.wobble * _noise(k[i], x, y, jnp.float32(6.0)) for i in (1, 2))
    colour, depth = _look_up(_palette(p, colour), py + wy, px + wx), _look_up(depth, py + wy, px + wx)
    painted = _mix(colour, _strokes(p, k[3], colour, theta, py, px), jnp.broadcast_to(p.stroke, x.shape))
    painted = jnp.where(p.hatch > 0, _hatching(p, painted, theta, py, px), painted)
    painted = _mix(painted, jnp.broadcast_to(p.dark, colour.shape), p.outline * _contours(p, colour, depth))
    pools = p.blotch * _noise(k[5], x, y, jnp.float32(5.0))
    rough = pools + p.grain * jax.random.normal(k[4], x.shape) + p.weave * jnp.sin(px * 0.785) * jnp.sin(py * 0.785)
    rim = (x - 0.5) ** 2 + (y - 0.5) ** 2
    painted = (painted + rough[..., None]) * (1 - p.vignette * rim * 2)[..., None]
    return jnp.clip(painted, 0, 1).reshape(SIZE, 2, SIZE, 2, 3).mean((1, 3))


@jax.jit
def paint_scenes(painters: Painter, keys: Array, scene: scenes.Scene) -> Array:
    """Paints a batch of scenes, each device its part if they divide the batch evenly.

    Args:
        painters: B painters.
        keys: B PRNG keys.
        scene: B scenes.

    Returns:
        float32[B, SIZE, SIZE, 3] in [0, 1].
    """

    paint = split_batch(_paint_in_turn, (0, 0, 0)) if shared(len(keys)) else _paint_in_turn
    return paint(painters, keys, scene)


def _paint_in_turn(painters: Painter, keys: Array, scene: scenes.Scene) -> Array:
    def paint_scene(arguments: tuple[Painter, Array, scenes.Scene]) -> Array:
        painter, key, scene = arguments
        return paint_raster(painter, key, *scenes.raster(scene, _FINE_SIZE))

    return jax.lax.map(paint_scene, (painters, keys, scene), batch_size=4 if jax.default_backend() == "cpu" else 100)
