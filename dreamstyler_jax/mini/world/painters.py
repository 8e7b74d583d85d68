"""How the embedded model's pictures are painted: a stroke-based renderer with about thirty continuous parameters.

A painter is a point in the space of these parameters (`Painter`); a *technique* is a region of it from which painters
are drawn. `paint_raster` turns a scene's raster into a picture: it bends the colours towards the painter's palette,
lays strokes along an orientation field, each covering the pixels nearest to its centre, and adds hatching, contours,
grain and light. It works at twice the size and averages. All functions are pure and take arrays, so ``jax.vmap`` makes
a batch of painters and scenes.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from dreamstyler_jax.mini.world import scenes

SIZE = 64  # pixels
_FINE_SIZE = 2 * SIZE
_MARGIN = 2  # a pixel's stroke is at most this many cells away
_CELLS = 40  # per axis, enough for the smallest strokes (1.8 pixels) and the margin on both sides


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
    variety: Array  # random change of colour from stroke to stroke
    relief: Array  # light and shade across a stroke
    grout: Array  # width of the gap between neighbouring strokes in cells
    angle: Array  # main direction, radians
    swirl: Array  # how far the direction turns across the picture, radians
    swirl_scale: Array  # turns per picture width
    wobble: Array  # displacement of contours
    hatch: Array  # strength of hatching lines 0..1
    pitch: Array  # distance between hatching lines
    cross: Array  # strength of a second set of hatching lines, across the first
    flatten: Array  # how far the palette's light end replaces colour under hatching, 0..1
    outline: Array  # strength of contour lines 0..1
    outline_width: Array  # width of contour lines
    grain: Array  # strength of random grain
    weave: Array  # strength of a regular weave
    vignette: Array  # darkening towards the edges, lightening where negative
    posterize: Array  # 0 smooth tones .. 1 five flat tones


# The range of each parameter in each technique; a parameter that a technique does not name lies in its common range.
_COMMON_RANGES: dict[str, tuple[float, float]] = {
    "tint": (0.15, 0.48), "saturation": (0.55, 1.35), "contrast": (0.85, 1.2), "stroke": (1, 1), "cell": (2.8, 4.6),
    "aspect": (1, 1.4), "cover": (1.1, 1.4), "softness": (0.1, 0.25), "square": (0, 0.2), "scatter": (0.5, 1.0),
    "variety": (0.02, 0.08), "relief": (0, 0.1), "grout": (0, 0), "angle": (0, 3.14), "swirl": (0, 0.5),
    "swirl_scale": (0.8, 1.8), "wobble": (0, 0.4), "hatch": (0, 0), "pitch": (3.5, 5.5), "cross": (0, 0),
    "flatten": (0, 0), "outline": (0, 0), "outline_width": (1, 1.6), "grain": (0, 0.04), "weave": (0, 0.03),
    "vignette": (-0.15, 0.25), "posterize": (0, 0.1),
}  # fmt: skip
TECHNIQUES: dict[str, dict[str, tuple[float, float]]] = {
    "dots": {
        "cell": (2.4, 3.6), "aspect": (1, 1.1), "cover": (0.62, 0.9), "square": (0, 0), "scatter": (0.3, 0.7),
        "variety": (0.08, 0.22), "softness": (0.06, 0.15),
    },
    "dabs": {
        "cell": (2.5, 3.9), "aspect": (1.8, 3.0), "variety": (0.05, 0.14), "relief": (0.1, 0.35),
        "swirl": (0.2, 1.0), "cover": (1.0, 1.3),
    },
    "swirls": {
        "cell": (2.3, 3.4), "aspect": (2.4, 3.6), "variety": (0.06, 0.16), "relief": (0.08, 0.25),
        "swirl": (2.5, 5.0), "swirl_scale": (0.9, 2.0), "cover": (1.0, 1.25),
    },
    "mosaic": {
        "cell": (2.8, 4.2), "cover": (2.0, 2.0), "softness": (0.1, 0.1), "square": (0.3, 1.0),
        "scatter": (0.1, 0.6), "variety": (0.05, 0.16), "grout": (0.12, 0.28),
    },
    "hatching": {
        "stroke": (0, 0.3), "hatch": (0.7, 1.0), "pitch": (3.2, 5.4), "cross": (0, 1), "flatten": (0.2, 0.45),
        "swirl": (0, 0.3), "outline": (0.3, 0.8), "grain": (0.02, 0.06),
    },
    "cartoon": {
        "stroke": (0, 0), "outline": (0.8, 1.0), "outline_width": (1.2, 2.4), "posterize": (0.6, 1.0),
        "saturation": (0.9, 1.6), "grain": (0, 0), "weave": (0, 0),
    },
    "wash": {
        "stroke": (0, 0.25), "wobble": (1.0, 2.2), "softness": (0.3, 0.5), "grain": (0.04, 0.1),
        "saturation": (0.5, 1.0), "outline": (0, 0.35), "vignette": (-0.5, -0.2), "cell": (4, 6),
    },
    "knife": {
        "cell": (3.0, 4.4), "aspect": (1.5, 2.6), "square": (0.7, 1.0), "relief": (0.15, 0.45),
        "scatter": (0.7, 1.0), "variety": (0.06, 0.16), "swirl": (0.0, 0.8), "cover": (1.2, 1.5),
        "softness": (0.04, 0.1),
    },
    "woodcut": {
        "stroke": (0, 0), "hatch": (0.9, 1.0), "pitch": (3.4, 5.2), "flatten": (0.25, 0.5),
        "outline": (0.9, 1.0), "outline_width": (1.3, 2.2), "swirl": (0.0, 0.7), "posterize": (0.7, 1.0),
        "contrast": (1.1, 1.35),
    },
    "tapestry": {
        "stroke": (0.9, 1), "cell": (2.4, 3.4), "square": (1, 1), "scatter": (0, 0.1), "cover": (0.95, 1.05),
        "angle": (0, 0), "swirl": (0, 0), "variety": (0.08, 0.18), "weave": (0.08, 0.16),
    },
}  # fmt: skip


def _hsv(hue: Array, saturation: Array, value: Array) -> Array:
    channel = (jnp.asarray([5.0, 3.0, 1.0]) + hue[..., None] * 6) % 6
    return value[..., None] * (1 - saturation[..., None] * jnp.clip(jnp.minimum(channel, 4 - channel), 0, 1))


def sample(key: Array, technique: Array) -> Painter:
    """Draws a painter of each technique.

    Args:
        key: PRNG key.
        technique: int32[...], indices into TECHNIQUES.
    """
    names = [f for f in Painter._fields if f in _COMMON_RANGES]
    ranges = jnp.asarray([[t.get(f, _COMMON_RANGES[f]) for f in names] for t in TECHNIQUES.values()])[technique]
    k = jax.random.split(key, 2)
    u = jax.random.uniform(k[0], (*technique.shape, len(names)))
    values = ranges[..., 0] + u * (ranges[..., 1] - ranges[..., 0])
    h = jax.random.uniform(k[1], (*technique.shape, 8))
    dark = _hsv(h[..., 0], 0.3 + 0.6 * h[..., 1], 0.08 + 0.22 * h[..., 2])
    light = _hsv(h[..., 3], 0.1 + 0.4 * h[..., 4], 0.86 + 0.14 * h[..., 5])
    ground = jnp.where(h[..., 6:7] < 0.7, light, dark)
    return Painter(dark=dark, light=light, ground=ground, **{f: values[..., i] for i, f in enumerate(names)})


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
    random = jax.random.uniform(key, (_CELLS, _CELLS, 3))
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
    paints = (_look_up(colour, cy, cx) + luck[..., None] * jnp.asarray([1.0, 0.9, 0.75])).reshape(-1, 3)
    painted = paints[chosen] + (across * p.relief)[..., None]
    inside = _smoothstep((p.cover * 0.75 - best) / p.softness + 0.5)
    gap = _smoothstep((second - best) / jnp.maximum(p.grout, 1e-3))
    return _mix(jnp.broadcast_to(p.ground, colour.shape), painted, inside * jnp.where(p.grout > 0, gap, 1.0))


def _hatching(p: Painter, colour: Array, theta: Array, y: Array, x: Array) -> Array:
    """Lines in the palette's dark end over paper; the darker the picture, the wider they are."""
    darkness = 1 - _luminance(jnp.clip(colour, 0, 1))
    paper = _mix(colour, jnp.broadcast_to(p.light, colour.shape), jnp.broadcast_to(p.flatten, x.shape))

    def lines(angle: Array, threshold: float) -> Array:
        phase = (x * jnp.sin(angle) + y * jnp.cos(angle)) / (2 * p.pitch)
        ridge = jnp.abs(phase % 1 - 0.5) * 2
        return _smoothstep((darkness * 0.85 - threshold - ridge) * p.pitch + 0.5)

    ink = jnp.maximum(lines(theta, 0.0), p.cross * lines(theta + 1.57, 0.25))
    return _mix(paper, jnp.broadcast_to(p.dark, colour.shape), p.hatch * ink)


def _contours(p: Painter, colour: Array, depth: Array) -> Array:
    """1 on the contours, where the scene's colour or depth jumps within the outline's width, else 0."""
    reach = 3
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
    k = jax.random.split(key, 5)
    py, px = jnp.meshgrid(jnp.arange(_FINE_SIZE) + 0.5, jnp.arange(_FINE_SIZE) + 0.5, indexing="ij")
    y, x = py / _FINE_SIZE, px / _FINE_SIZE
    theta = p.angle + p.swirl * _noise(k[0], x, y, p.swirl_scale)
    wy, wx = (2 * p.wobble * _noise(k[i], x, y, jnp.float32(6.0)) for i in (1, 2))
    colour, depth = _look_up(_palette(p, colour), py + wy, px + wx), _look_up(depth, py + wy, px + wx)
    painted = _mix(colour, _strokes(p, k[3], colour, theta, py, px), jnp.broadcast_to(p.stroke, x.shape))
    painted = jnp.where(p.hatch > 0, _hatching(p, painted, theta, py, px), painted)
    painted = _mix(painted, jnp.broadcast_to(p.dark, colour.shape), p.outline * _contours(p, colour, depth))
    rough = p.grain * jax.random.normal(k[4], x.shape) + p.weave * jnp.sin(px * 1.57) * jnp.sin(py * 1.57)
    rim = (x - 0.5) ** 2 + (y - 0.5) ** 2
    painted = (painted + rough[..., None]) * (1 - p.vignette * rim * 2)[..., None]
    return jnp.clip(painted, 0, 1).reshape(SIZE, 2, SIZE, 2, 3).mean((1, 3))


@jax.jit
def paint_scenes(painters: Painter, keys: Array, scene: scenes.Scene) -> Array:
    """Paints a batch of scenes.

    Args:
        painters: B painters.
        keys: B PRNG keys.
        scene: B scenes.

    Returns:
        float32[B, SIZE, SIZE, 3] in [0, 1].
    """

    def paint_scene(arguments: tuple[Painter, Array, scenes.Scene]) -> Array:
        painter, key, scene = arguments
        return paint_raster(painter, key, *scenes.raster(scene, _FINE_SIZE))

    return jax.lax.map(paint_scene, (painters, keys, scene), batch_size=4)
