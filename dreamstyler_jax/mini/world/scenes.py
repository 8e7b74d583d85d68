"""What the embedded model's pictures show: a small grammar of scenes, and their unpainted colours and depth.

A scene is a coloured subject at a place and a time of day. `captions` puts it into words; `raster` draws it in plain
colours with a depth map, which a painter (`painters`) then paints. All functions are pure and take small arrays, so
``jax.vmap`` makes a batch of them.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from dreamstyler_jax.mini.world.drawings import DRAWINGS, Parts, disc

SUBJECTS = (
    "house", "tree", "boat", "fish", "flower", "star", "cup", "cat", "car", "mushroom", "bird", "apple", "lighthouse",
    "butterfly",
)  # fmt: skip
COLOURS = {
    "red": (0.82, 0.13, 0.12),
    "orange": (0.94, 0.50, 0.10),
    "yellow": (0.95, 0.85, 0.20),
    "green": (0.18, 0.58, 0.24),
    "blue": (0.15, 0.32, 0.80),
    "purple": (0.48, 0.20, 0.62),
    "pink": (0.95, 0.55, 0.70),
    "black": (0.10, 0.10, 0.12),
}
PLACES = {
    "by the sea": (0.20, 0.50, 0.62),
    "in a field": (0.52, 0.70, 0.28),
    "in the snow": (0.92, 0.94, 0.97),
    "in the desert": (0.88, 0.74, 0.46),
    "in the city": (0.58, 0.57, 0.58),
    "in the forest": (0.24, 0.42, 0.24),
    "in the mountains": (0.55, 0.62, 0.45),
}
TIMES = {  # colours of the sky at the top, of the sky at the horizon, and of the light on the rest
    "by day": ((0.42, 0.68, 0.92), (0.80, 0.90, 0.97), (1.00, 1.00, 1.00)),
    "at sunset": ((0.46, 0.30, 0.55), (0.98, 0.66, 0.38), (1.00, 0.86, 0.76)),
    "at night": ((0.07, 0.10, 0.32), (0.22, 0.28, 0.54), (0.66, 0.70, 0.90)),
}
ATTRIBUTES: dict[str, tuple[str, ...]] = {  # the words for each attribute; a label is an index into them
    "subject": SUBJECTS,
    "colour": tuple(COLOURS),
    "place": tuple(PLACES),
    "time": tuple(TIMES),
}
_SKYLINES = (  # colours of what stands on the horizon, in the order of PLACES
    (0.20, 0.50, 0.60),
    (0.40, 0.55, 0.25),
    (0.76, 0.81, 0.89),
    (0.90, 0.70, 0.40),
    (0.42, 0.40, 0.46),
    (0.12, 0.26, 0.16),
    (0.45, 0.44, 0.54),
)


class Scene(NamedTuple):
    """One scene, or a batch of them along leading axes."""

    subject: Array  # int32, index into SUBJECTS
    colour: Array  # int32, index into COLOURS
    place: Array  # int32, index into PLACES
    time: Array  # int32, index into TIMES
    position: Array  # float32[2], centre of the subject in [0, 1], x to the right and y up
    size: Array  # float32, half the subject's height over the picture's
    horizon: Array  # float32, height of the horizon in [0, 1]
    phase: Array  # float32 in [0, 1], shifts the skyline and the pattern of the ground


def sample(key: Array, shape: tuple[int, ...] = ()) -> Scene:
    """Draws scenes uniformly from the grammar, with leading axes ``shape``. Deterministic in ``key``."""
    k = jax.random.split(key, 9)
    index = lambda k, n: jax.random.randint(k, shape, 0, n)  # noqa: E731
    between = lambda k, low, high: jax.random.uniform(k, shape, minval=low, maxval=high)  # noqa: E731
    return Scene(
        subject=index(k[0], len(SUBJECTS)),
        colour=index(k[1], len(COLOURS)),
        place=index(k[2], len(PLACES)),
        time=index(k[3], len(TIMES)),
        position=jnp.stack([between(k[4], 0.38, 0.62), between(k[5], 0.40, 0.50)], -1),
        size=between(k[6], 0.29, 0.39),
        horizon=between(k[7], 0.36, 0.54),
        phase=between(k[8], 0.0, 1.0),
    )


def showing(key: Array, subject: Array, colour: Array, place: Array, time: Array) -> Scene:
    """Scenes with these attributes, int32[N] each; positions and sizes are drawn from ``key``."""
    return sample(key, (len(subject),))._replace(subject=subject, colour=colour, place=place, time=time)


def _draw_subject(draw: Callable[[Array, Array], Parts], scene: Scene, x: Array, y: Array) -> Array:
    """The subject alone: float32[..., 4], colour and coverage (0 or 1)."""
    plain = jnp.asarray(list(COLOURS.values()))[scene.colour]
    shades = {"plain": plain, "light": plain + (1 - plain) * 0.45, "dark": plain * 0.62}
    canvas = jnp.zeros((*x.shape, 4))
    for mask, paint in draw(x, y):
        colour = shades[paint] if isinstance(paint, str) else jnp.asarray(paint)
        canvas = jnp.where(mask[..., None], jnp.append(colour, 1.0), canvas)
    return canvas


def _backdrop(scene: Scene, x: Array, y: Array) -> tuple[Array, Array]:
    """Sky, skyline and ground: colours, and depth from 0 (near) to 1 (far)."""
    top, low, _ = (jnp.asarray([t[i] for t in TIMES.values()])[scene.time] for i in range(3))
    ground = jnp.asarray(list(PLACES.values()))[scene.place]
    h = scene.horizon
    height = jnp.clip((y - h) / (1 - h), 0, 1)[..., None]
    sky = _lights(scene, low + (top - low) * height, x, y)
    near = jnp.clip(y / h, 0, 1)[..., None]
    land = ground * (1.08 - 0.25 * near) + 0.06 * _relief(scene, x, y)[..., None]
    rise = _skyline(scene, x)
    tint = jnp.asarray(_SKYLINES)[scene.place]
    colour = jnp.where((y < h + rise)[..., None], tint, sky)
    depth = jnp.where(y < h + rise, 0.8, 1.0)
    colour = jnp.where((y < h)[..., None], land, colour)
    return colour, jnp.where(y < h, 0.35 + 0.4 * near[..., 0], depth)


def _lights(scene: Scene, sky: Array, x: Array, y: Array) -> Array:
    """The sky with clouds by day, the sun at sunset, and a crescent moon and stars at night."""
    cx = jnp.where(scene.phase < 0.5, 0.06 + 0.3 * scene.phase, 0.79 + 0.3 * (scene.phase - 0.5))
    puffs = ((0.0, 0.86, 0.11, 0.045), (0.07, 0.89, 0.07, 0.05), (0.5, 0.78, 0.1, 0.035), (0.57, 0.8, 0.06, 0.04))
    clouds = jnp.zeros_like(x, bool)
    for dx, cy, rx, ry in puffs:
        clouds |= disc((x - cx - dx + 0.3) % 1 - 0.3, y, 0, cy, rx, ry)
    cloudy = jnp.where(clouds[..., None], 0.25 * sky + 0.75, sky)
    sun = disc(x, y, cx, scene.horizon + 0.1, 0.1)
    sunny = jnp.where(sun[..., None], jnp.asarray([1.0, 0.88, 0.50]), sky)
    moon = disc(x, y, cx, 0.86, 0.075) & ~disc(x, y, cx + 0.035, 0.88, 0.065)
    stars = jnp.zeros_like(x, bool)
    for i in range(9):
        stars |= disc(x, y, (0.37 * i + scene.phase) % 1, 0.68 + 0.3 * (0.62 * i % 1), 0.011)
    starry = jnp.where((moon | stars)[..., None], jnp.asarray([0.98, 0.96, 0.80]), sky)
    return jnp.stack([cloudy, sunny, starry])[scene.time]


def _relief(scene: Scene, x: Array, y: Array) -> Array:
    """Light and dark of the ground, about -1 to 1: waves, furrows or dunes."""
    h, phase = scene.horizon, scene.phase * 6.28
    waves = jnp.sin(x * 9 + phase + 3 * jnp.sin(y * 40)) * jnp.sin(y * 60 / (0.4 + y))
    dunes = jnp.sin(x * 5 + phase + y * 14)
    furrows = jnp.sin((x - 0.5) / (1.15 * h - y + 0.02) * 5 + phase)
    return jnp.stack([waves, furrows, 0.4 * dunes, dunes, 0.5 * furrows, 0.7 * waves, 0.6 * dunes])[scene.place]


def _skyline(scene: Scene, x: Array) -> Array:
    """Height above the horizon of what stands there: towers, pines, peaks or less."""
    phase = scene.phase * 6.28
    cell = jnp.floor(x * 9 + scene.phase)
    towers = 0.10 + 0.16 * (jnp.sin(cell * 12.9 + phase) * 43.7 % 1)
    pines = 0.24 - jnp.abs((x * 7 + scene.phase * 3) % 1 - 0.5) * 0.36 + 0.03 * jnp.sin(x * 23 + phase)
    peaks = 0.30 - jnp.abs((x * 1.9 + scene.phase) % 1 - 0.5) * 0.50 + 0.02 * jnp.sin(x * 40)
    flat = jnp.zeros_like(x)
    hills = 0.05 + 0.03 * jnp.sin(x * 7 + phase)
    return jnp.stack([flat, flat + 0.015, hills, flat, towers, pines, peaks])[scene.place]


def raster(scene: Scene, pixels: int) -> tuple[Array, Array]:
    """Draws a scene in plain colours, before any painter paints it.

    Args:
        scene: one scene, without batch axes; vmap for more.
        pixels: height and width.

    Returns:
        ``colour`` float32[pixels, pixels, 3] in [0, 1], row 0 on top, and ``depth`` float32[pixels, pixels] from 0.1,
        the subject, to 1, the sky.
    """
    axis = (jnp.arange(pixels) + 0.5) / pixels
    x, y = jnp.meshgrid(axis, 1 - axis)
    backdrop, depth = _backdrop(scene, x, y)
    u, v = (x - scene.position[0]) / scene.size, (y - scene.position[1]) / scene.size
    shadow = disc(u, v, 0.1, -0.98, 0.95, 0.16) & (y < scene.horizon)
    backdrop = jnp.where(shadow[..., None], backdrop * 0.72, backdrop)
    light = jnp.asarray([t[2] for t in TIMES.values()])[scene.time]
    subject = jnp.stack([_draw_subject(draw, scene, u, v) for draw in DRAWINGS])[scene.subject]
    colour = jnp.where(subject[..., 3:] > 0, subject[..., :3], backdrop)
    lit = jnp.where(((depth < 1) | (subject[..., 3] > 0))[..., None], colour * (0.35 + 0.65 * light), colour)
    return jnp.clip(lit, 0, 1), jnp.where(subject[..., 3] > 0, 0.1, depth)
