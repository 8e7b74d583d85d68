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
_BROWN, _CREAM, _DARK = (0.40, 0.26, 0.15), (0.96, 0.92, 0.80), (0.12, 0.12, 0.14)


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


def _box(x: Array, y: Array, x0: float, x1: float, y0: float, y1: float) -> Array:
    return (x > x0) & (x < x1) & (y > y0) & (y < y1)


def _disc(x: Array, y: Array, cx: Array | float, cy: Array | float, rx: float, ry: float | None = None) -> Array:
    return ((x - cx) / rx) ** 2 + ((y - cy) / (ry or rx)) ** 2 < 1


def _triangle(x: Array, y: Array, apex: tuple[float, float], y0: float, half: float, y1: float | None = None) -> Array:
    """A triangle with its base, of half-width ``half``, at y0 and its tip at ``apex`` (x, y), cut off at y1."""
    width = half * (apex[1] - y) / (apex[1] - y0)
    return (y > y0) & (y < (apex[1] if y1 is None else y1)) & (jnp.abs(x - apex[0]) < width)


# Each subject is a list of parts from back to front: a mask, and either a shade of the subject's colour ("plain",
# "light" or "dark") or a fixed colour. Coordinates x, y are local, in [-1, 1].
_Parts = list[tuple[Array, str | tuple[float, float, float]]]


def _house(x: Array, y: Array) -> _Parts:
    return [
        (_box(x, y, -0.75, 0.75, -0.9, 0.15), "plain"),
        (_box(x, y, 0.35, 0.58, 0.3, 0.9), "dark"),
        (_triangle(x, y, (0.0, 0.98), 0.12, 0.98), "dark"),
        (_box(x, y, -0.18, 0.18, -0.9, -0.3), _BROWN),
        (_box(x, y, -0.58, -0.3, -0.35, -0.05) | _box(x, y, 0.3, 0.58, -0.35, -0.05), _CREAM),
    ]


def _tree(x: Array, y: Array) -> _Parts:
    crown = _disc(x, y, 0, 0.38, 0.58) | _disc(x, y, -0.42, 0.08, 0.42) | _disc(x, y, 0.42, 0.08, 0.42)
    return [(_box(x, y, -0.14, 0.14, -1.0, 0.1), _BROWN), (crown, "plain"), (_disc(x, y, -0.15, 0.5, 0.25), "light")]


def _boat(x: Array, y: Array) -> _Parts:
    hull = (y > -0.85) & (y < -0.35) & (jnp.abs(x) < 0.95 + 0.6 * (y + 0.35))
    return [
        (_box(x, y, -0.05, 0.04, -0.4, 0.95), _BROWN),
        (_triangle(x, y, (0.06, 0.95), -0.25, 0.75) & (x > 0.06), _CREAM),
        (_triangle(x, y, (-0.07, 0.75), -0.25, 0.55) & (x < -0.07), "light"),
        (hull, "plain"),
    ]


def _fish(x: Array, y: Array) -> _Parts:
    tail = (x > 0.45) & (x < 0.98) & (jnp.abs(y) < (x - 0.4) * 0.95)
    return [
        (tail, "dark"),
        (_triangle(x, y, (0.05, 0.75), 0.2, 0.35), "dark"),
        (_disc(x, y, -0.15, 0, 0.78, 0.48), "plain"),
        (_disc(x, y, -0.2, -0.18, 0.5, 0.2), "light"),
        (_disc(x, y, -0.58, 0.12, 0.11), _CREAM),
        (_disc(x, y, -0.6, 0.12, 0.055), _DARK),
    ]


def _flower(x: Array, y: Array) -> _Parts:
    petals = jnp.zeros_like(x, bool)
    for i in range(6):
        angle = i * jnp.pi / 3
        petals |= _disc(x, y, 0.38 * jnp.cos(angle), 0.35 + 0.38 * jnp.sin(angle), 0.27)
    leaf = _disc(x, y, -0.28, -0.62, 0.26, 0.11) | _disc(x, y, 0.28, -0.5, 0.26, 0.11)
    return [
        (_box(x, y, -0.06, 0.06, -1.0, 0.2) | leaf, (0.16, 0.42, 0.16)),
        (petals, "plain"),
        (_disc(x, y, 0, 0.35, 0.2), (0.98, 0.84, 0.30)),
    ]


def _star(x: Array, y: Array) -> _Parts:
    radius, angle = jnp.hypot(x, y), jnp.arctan2(x, y)
    sector = jnp.abs((angle / (2 * jnp.pi / 5) + 0.5) % 1 - 0.5) * (2 * jnp.pi / 5)
    edge = 0.36 / jnp.cos(jnp.pi / 5 - sector + 0.37)
    return [(radius < edge * 1.3, "plain"), (radius < edge * 0.6, "light")]


def _cup(x: Array, y: Array) -> _Parts:
    body = (y > -0.8) & (y < 0.45) & (jnp.abs(x + 0.12) < 0.52 + 0.12 * y)
    return [
        (_disc(x, y, 0.5, -0.12, 0.38, 0.42) & ~_disc(x, y, 0.5, -0.12, 0.22, 0.25), "dark"),
        (_disc(x, y, -0.1, -0.82, 0.8, 0.13), _CREAM),
        (body, "plain"),
        (_disc(x, y, -0.12, 0.45, 0.58, 0.15), "light"),
        (_disc(x, y, -0.12, 0.45, 0.46, 0.09), _BROWN),
    ]


def _cat(x: Array, y: Array) -> _Parts:
    ears = _triangle(x, y, (-0.3, 0.98), 0.4, 0.26) | _triangle(x, y, (0.3, 0.98), 0.4, 0.26)
    tail = _disc(x, y, 0.62, -0.45, 0.36, 0.5) & ~_disc(x, y, 0.58, -0.38, 0.24, 0.42)
    eyes = _disc(x, y, -0.19, 0.42, 0.085, 0.12) | _disc(x, y, 0.19, 0.42, 0.085, 0.12)
    return [
        (tail | ears, "plain"),
        (_disc(x, y, 0, -0.5, 0.52, 0.5), "plain"),
        (_disc(x, y, 0, -0.55, 0.25, 0.3), "light"),
        (_disc(x, y, 0, 0.35, 0.48, 0.4), "plain"),
        (eyes, (0.85, 0.92, 0.45)),
        (_disc(x, y, 0, 0.22, 0.07, 0.05), (0.95, 0.6, 0.6)),
    ]


def _car(x: Array, y: Array) -> _Parts:
    cabin = (y > -0.05) & (y < 0.5) & (jnp.abs(x + 0.08) < 0.62 - 0.45 * y)
    glass = (y > 0.02) & (y < 0.4) & (jnp.abs(x + 0.08) < 0.52 - 0.45 * y) & (jnp.abs(x + 0.08) > 0.05)
    wheel = lambda r: _disc(x, y, -0.52, -0.5, r) | _disc(x, y, 0.52, -0.5, r)  # noqa: E731
    return [
        (cabin, "plain"),
        (glass, (0.78, 0.90, 0.96)),
        (_box(x, y, -0.98, 0.98, -0.48, 0.02), "plain"),
        (_box(x, y, 0.84, 0.98, -0.22, -0.08), _CREAM),
        (wheel(0.25), _DARK),
        (wheel(0.11), _CREAM),
    ]


def _mushroom(x: Array, y: Array) -> _Parts:
    spots = _disc(x, y, -0.4, 0.35, 0.13) | _disc(x, y, 0.08, 0.62, 0.15) | _disc(x, y, 0.45, 0.25, 0.12)
    return [
        ((y > -0.95) & (y < 0.1) & (jnp.abs(x) < 0.2 - 0.12 * y), _CREAM),
        (_disc(x, y, 0, 0.0, 0.9, 0.92) & (y > 0.0), "plain"),
        (spots, _CREAM),
    ]


def _bird(x: Array, y: Array) -> _Parts:
    legs = _box(x, y, -0.12, -0.05, -0.95, -0.4) | _box(x, y, 0.1, 0.17, -0.95, -0.4)
    beak = (x < -0.78) & (x > -1.0) & (jnp.abs(y - 0.42) < (x + 1.0) * 0.6)
    tail = (x > 0.4) & (x < 0.98) & (jnp.abs(y - 0.2 * x) < 0.16)
    return [
        (legs | beak, (0.93, 0.58, 0.16)),
        (tail, "dark"),
        (_disc(x, y, 0.02, -0.12, 0.6, 0.44) | _disc(x, y, -0.5, 0.42, 0.33), "plain"),
        (_disc(x, y, -0.16, -0.28, 0.34, 0.24), "light"),
        (_disc(x, y, 0.2, 0.02, 0.4, 0.22), "dark"),
        (_disc(x, y, -0.58, 0.5, 0.08), _DARK),
    ]


def _apple(x: Array, y: Array) -> _Parts:
    return [
        (_disc(x, y, -0.27, -0.12, 0.58, 0.7) | _disc(x, y, 0.27, -0.12, 0.58, 0.7), "plain"),
        (_disc(x, y, -0.42, 0.12, 0.16, 0.26), "light"),
        (_box(x, y, -0.05, 0.05, 0.4, 0.92), _BROWN),
        (_disc(x, y, 0.32, 0.76, 0.3, 0.14), (0.30, 0.62, 0.24)),
    ]


def _lighthouse(x: Array, y: Array) -> _Parts:
    tower = (y > -0.95) & (y < 0.5) & (jnp.abs(x) < 0.3 - 0.11 * y)
    bands = tower & (jnp.floor((y + 0.95) / 0.29) % 2 == 1)
    return [
        (tower, "plain"),
        (bands, _CREAM),
        (_box(x, y, -0.34, 0.34, 0.44, 0.53), "dark"),
        (_box(x, y, -0.18, 0.18, 0.53, 0.76), (1.0, 0.9, 0.45)),
        (_triangle(x, y, (0.0, 1.0), 0.74, 0.28), "dark"),
        (_box(x, y, -0.1, 0.1, -0.95, -0.62), _BROWN),
    ]


def _butterfly(x: Array, y: Array) -> _Parts:
    side = jnp.abs(x)
    feelers = (y > 0.3) & (y < 0.85) & (jnp.abs(side - 0.05 - (y - 0.3) * 0.35) < 0.04)
    return [
        (_disc(side, y, 0.42, -0.42, 0.38, 0.42), "dark"),
        (_disc(side, y, 0.52, 0.26, 0.46, 0.46), "plain"),
        (_disc(side, y, 0.6, 0.34, 0.18), "light"),
        (_disc(side, y, 0.44, -0.48, 0.14), "light"),
        (_disc(x, y, 0, -0.1, 0.1, 0.55) | feelers, _DARK),
    ]


_DRAWINGS = (
    _house, _tree, _boat, _fish, _flower, _star, _cup, _cat, _car, _mushroom, _bird, _apple, _lighthouse, _butterfly,
)  # fmt: skip


def _draw_subject(draw: Callable[[Array, Array], _Parts], scene: Scene, x: Array, y: Array) -> Array:
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
        clouds |= _disc((x - cx - dx + 0.3) % 1 - 0.3, y, 0, cy, rx, ry)
    cloudy = jnp.where(clouds[..., None], 0.25 * sky + 0.75, sky)
    sun = _disc(x, y, cx, scene.horizon + 0.1, 0.1)
    sunny = jnp.where(sun[..., None], jnp.asarray([1.0, 0.88, 0.50]), sky)
    moon = _disc(x, y, cx, 0.86, 0.075) & ~_disc(x, y, cx + 0.035, 0.88, 0.065)
    stars = jnp.zeros_like(x, bool)
    for i in range(9):
        stars |= _disc(x, y, (0.37 * i + scene.phase) % 1, 0.68 + 0.3 * (0.62 * i % 1), 0.011)
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
    shadow = _disc(u, v, 0.1, -0.98, 0.95, 0.16) & (y < scene.horizon)
    backdrop = jnp.where(shadow[..., None], backdrop * 0.72, backdrop)
    light = jnp.asarray([t[2] for t in TIMES.values()])[scene.time]
    subject = jnp.stack([_draw_subject(draw, scene, u, v) for draw in _DRAWINGS])[scene.subject]
    colour = jnp.where(subject[..., 3:] > 0, subject[..., :3], backdrop)
    lit = jnp.where(((depth < 1) | (subject[..., 3] > 0))[..., None], colour * (0.35 + 0.65 * light), colour)
    return jnp.clip(lit, 0, 1), jnp.where(subject[..., 3] > 0, 0.1, depth)
