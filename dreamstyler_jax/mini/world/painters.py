"""How the embedded model's pictures are painted: a stroke-based renderer.

`paint_raster` turns a scene's raster into a picture: it bends the colours towards the painter's palette, lays strokes
along an orientation field, each covering the pixels nearest to its centre, and adds hatching, contours, grain and
light. It works at twice the size and averages. All functions are pure and take arrays, so ``jax.vmap`` makes a batch of
painters and scenes.
"""

import jax
import jax.numpy as jnp
from jax import Array

from dreamstyler_jax.mini.world import scenes
from dreamstyler_jax.mini.world.manners import Painter
from dreamstyler_jax.runtime.devices import device, shared, split_batch

SIZE = 128  # pixels
_FINE_SIZE = 2 * SIZE
_MARGIN = 2  # a pixel's stroke is at most this many cells away
_CELLS = 42  # per axis, enough for the smallest strokes (3.5 pixels) and the margin on both sides


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

    return jax.lax.map(paint_scene, (painters, keys, scene), batch_size=4 if device().platform == "cpu" else 100)
