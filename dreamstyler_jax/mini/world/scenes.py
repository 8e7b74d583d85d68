"""What the embedded model's pictures show: a small grammar of scenes, and their unpainted colours and depth.

A scene is a subject of some colour at some place at some time of day. It exists twice: as a caption (`captions.py`) and
as a raster of plain colours and depth (`raster`), which a painter (`painter.py`) then paints. Everything is a pure
function of small arrays, so that a batch of scenes is one ``jax.vmap``.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

SUBJECTS = ("house", "tree", "boat", "fish", "flower", "star", "cup", "cat", "car", "mushroom")
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
TIMES = {  # colour of the sky at its top and at the horizon, and of the light on everything else
    "by day": ((0.42, 0.68, 0.92), (0.80, 0.90, 0.97), (1.00, 1.00, 1.00)),
    "at sunset": ((0.46, 0.30, 0.55), (0.98, 0.66, 0.38), (1.00, 0.86, 0.76)),
    "at night": ((0.05, 0.07, 0.20), (0.16, 0.20, 0.38), (0.60, 0.64, 0.82)),
}
_FAR = (  # what stands on the horizon, in the order of PLACES
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
    """One scene, or a batch of them along leading axes.

    ``subject, colour, place, time``: int32 indices into SUBJECTS, COLOURS, PLACES, TIMES.
    ``position``: float32[2], centre of the subject, x to the right and y up, in [0, 1].
    ``size``: float32, half its height. ``horizon``: float32, height of the horizon, in [0, 1].
    ``phase``: float32 in [0, 1], shifts the skyline, the dunes and the like.
    """

    subject: Array
    colour: Array
    place: Array
    time: Array
    position: Array
    size: Array
    horizon: Array
    phase: Array


def sample(key: Array, shape: tuple[int, ...] = ()) -> Scene:
    """Scenes drawn uniformly from the grammar. Deterministic in ``key``."""
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
    """Scenes that show this, int32[N] each; where and how large is drawn from ``key``."""
    return sample(key, (len(subject),))._replace(subject=subject, colour=colour, place=place, time=time)


def _box(x, y, x0, x1, y0, y1):
    return (x > x0) & (x < x1) & (y > y0) & (y < y1)


def _disc(x, y, cx, cy, rx, ry=None):
    return ((x - cx) / rx) ** 2 + ((y - cy) / (ry or rx)) ** 2 < 1


def _slab(x, y, apex, y0, half, y1=None):
    """A triangle with its base of half-width ``half`` at y0 and its apex at ``apex`` (x, y), cut off at y1."""
    width = half * (apex[1] - y) / (apex[1] - y0)
    return (y > y0) & (y < (apex[1] if y1 is None else y1)) & (jnp.abs(x - apex[0]) < width)


# Each subject: parts from back to front, (mask, paint). Paints: "own", "light", "dark" shades of the subject's colour,
# or a fixed colour. Local coordinates x, y in [-1, 1].
def _house(x, y):
    return [
        (_box(x, y, -0.75, 0.75, -0.9, 0.15), "own"),
        (_box(x, y, 0.35, 0.58, 0.3, 0.9), "dark"),
        (_slab(x, y, (0.0, 0.98), 0.12, 0.98), "dark"),
        (_box(x, y, -0.18, 0.18, -0.9, -0.3), _BROWN),
        (_box(x, y, -0.58, -0.3, -0.35, -0.05) | _box(x, y, 0.3, 0.58, -0.35, -0.05), _CREAM),
    ]


def _tree(x, y):
    crown = _disc(x, y, 0, 0.38, 0.58) | _disc(x, y, -0.42, 0.08, 0.42) | _disc(x, y, 0.42, 0.08, 0.42)
    return [(_box(x, y, -0.14, 0.14, -1.0, 0.1), _BROWN), (crown, "own"), (_disc(x, y, -0.15, 0.5, 0.25), "light")]


def _boat(x, y):
    hull = (y > -0.85) & (y < -0.35) & (jnp.abs(x) < 0.95 + 0.6 * (y + 0.35))
    return [
        (_box(x, y, -0.05, 0.04, -0.4, 0.95), _BROWN),
        (_slab(x, y, (0.06, 0.95), -0.25, 0.75) & (x > 0.06), _CREAM),
        (_slab(x, y, (-0.07, 0.75), -0.25, 0.55) & (x < -0.07), "light"),
        (hull, "own"),
    ]


def _fish(x, y):
    tail = (x > 0.45) & (x < 0.98) & (jnp.abs(y) < (x - 0.4) * 0.95)
    return [
        (tail, "dark"),
        (_slab(x, y, (0.05, 0.75), 0.2, 0.35), "dark"),
        (_disc(x, y, -0.15, 0, 0.78, 0.48), "own"),
        (_disc(x, y, -0.2, -0.18, 0.5, 0.2), "light"),
        (_disc(x, y, -0.58, 0.12, 0.11), _CREAM),
        (_disc(x, y, -0.6, 0.12, 0.055), _DARK),
    ]


def _flower(x, y):
    petals = jnp.zeros_like(x, bool)
    for i in range(6):
        angle = i * jnp.pi / 3
        petals |= _disc(x, y, 0.38 * jnp.cos(angle), 0.35 + 0.38 * jnp.sin(angle), 0.27)
    leaf = _disc(x, y, -0.28, -0.62, 0.26, 0.11) | _disc(x, y, 0.28, -0.5, 0.26, 0.11)
    return [
        (_box(x, y, -0.06, 0.06, -1.0, 0.2) | leaf, (0.16, 0.42, 0.16)),
        (petals, "own"),
        (_disc(x, y, 0, 0.35, 0.2), (0.98, 0.84, 0.30)),
    ]


def _star(x, y):
    radius, angle = jnp.hypot(x, y), jnp.arctan2(x, y)
    sector = jnp.abs((angle / (2 * jnp.pi / 5) + 0.5) % 1 - 0.5) * (2 * jnp.pi / 5)
    edge = 0.36 / jnp.cos(jnp.pi / 5 - sector + 0.37)
    return [(radius < edge * 1.3, "own"), (radius < edge * 0.6, "light")]


def _cup(x, y):
    body = (y > -0.8) & (y < 0.45) & (jnp.abs(x + 0.12) < 0.52 + 0.12 * y)
    return [
        (_disc(x, y, 0.5, -0.12, 0.38, 0.42) & ~_disc(x, y, 0.5, -0.12, 0.22, 0.25), "dark"),
        (_disc(x, y, -0.1, -0.82, 0.8, 0.13), _CREAM),
        (body, "own"),
        (_disc(x, y, -0.12, 0.45, 0.58, 0.15), "light"),
        (_disc(x, y, -0.12, 0.45, 0.46, 0.09), _BROWN),
    ]


def _cat(x, y):
    ears = _slab(x, y, (-0.3, 0.98), 0.4, 0.26) | _slab(x, y, (0.3, 0.98), 0.4, 0.26)
    tail = _disc(x, y, 0.62, -0.45, 0.36, 0.5) & ~_disc(x, y, 0.58, -0.38, 0.24, 0.42)
    eyes = _disc(x, y, -0.19, 0.42, 0.085, 0.12) | _disc(x, y, 0.19, 0.42, 0.085, 0.12)
    return [
        (tail | ears, "own"),
        (_disc(x, y, 0, -0.5, 0.52, 0.5), "own"),
        (_disc(x, y, 0, -0.55, 0.25, 0.3), "light"),
        (_disc(x, y, 0, 0.35, 0.48, 0.4), "own"),
        (eyes, (0.85, 0.92, 0.45)),
        (_disc(x, y, 0, 0.22, 0.07, 0.05), (0.95, 0.6, 0.6)),
    ]


def _car(x, y):
    cabin = (y > -0.05) & (y < 0.5) & (jnp.abs(x + 0.08) < 0.62 - 0.45 * y)
    glass = (y > 0.02) & (y < 0.4) & (jnp.abs(x + 0.08) < 0.52 - 0.45 * y) & (jnp.abs(x + 0.08) > 0.05)
    wheel = lambda r: _disc(x, y, -0.52, -0.5, r) | _disc(x, y, 0.52, -0.5, r)  # noqa: E731
    return [
        (cabin, "own"),
        (glass, (0.78, 0.90, 0.96)),
        (_box(x, y, -0.98, 0.98, -0.48, 0.02), "own"),
        (_box(x, y, 0.84, 0.98, -0.22, -0.08), _CREAM),
        (wheel(0.25), _DARK),
        (wheel(0.11), _CREAM),
    ]


def _mushroom(x, y):
    spots = _disc(x, y, -0.4, 0.35, 0.13) | _disc(x, y, 0.08, 0.62, 0.15) | _disc(x, y, 0.45, 0.25, 0.12)
    return [
        ((y > -0.95) & (y < 0.1) & (jnp.abs(x) < 0.2 - 0.12 * y), _CREAM),
        (_disc(x, y, 0, 0.0, 0.9, 0.92) & (y > 0.0), "own"),
        (spots, _CREAM),
    ]


_PARTS = (_house, _tree, _boat, _fish, _flower, _star, _cup, _cat, _car, _mushroom)


def _subject_paint(draw, scene: Scene, x: Array, y: Array) -> Array:
    """The subject alone: float32[..., 4], colour and coverage (0 or 1)."""
    own = jnp.asarray(list(COLOURS.values()))[scene.colour]
    paints = {"own": own, "light": own + (1 - own) * 0.45, "dark": own * 0.62}
    canvas = jnp.zeros((*x.shape, 4))
    for mask, paint in draw(x, y):
        colour = paints[paint] if isinstance(paint, str) else jnp.asarray(paint)
        canvas = jnp.where(mask[..., None], jnp.append(colour, 1.0), canvas)
    return canvas


def _backdrop(scene: Scene, x: Array, y: Array) -> tuple[Array, Array]:
    """Sky, what stands on the horizon, and the ground: colours and depth (1 far, 0 near)."""
    top, low, _ = (jnp.asarray([t[i] for t in TIMES.values()])[scene.time] for i in range(3))
    ground = jnp.asarray(list(PLACES.values()))[scene.place]
    h, phase = scene.horizon, scene.phase * 6.28
    height = jnp.clip((y - h) / (1 - h), 0, 1)[..., None]
    sky = low + (top - low) * height
    near = jnp.clip(y / h, 0, 1)[..., None]
    waves = jnp.sin(x * 9 + phase + 3 * jnp.sin(y * 40)) * jnp.sin(y * 60 / (0.4 + y))
    dunes = jnp.sin(x * 5 + phase + y * 14)
    furrows = jnp.sin((x - 0.5) / (1.15 * h - y + 0.02) * 5 + phase)
    relief = jnp.stack([waves, furrows, 0.4 * dunes, dunes, 0.5 * furrows, 0.7 * waves, 0.6 * dunes])[scene.place]
    land = ground * (1.08 - 0.25 * near) + 0.06 * relief[..., None]
    cell = jnp.floor(x * 9 + scene.phase)
    towers = 0.10 + 0.16 * (jnp.sin(cell * 12.9 + phase) * 43.7 % 1)
    pines = 0.24 - jnp.abs((x * 7 + scene.phase * 3) % 1 - 0.5) * 0.36 + 0.03 * jnp.sin(x * 23 + phase)
    peaks = 0.30 - jnp.abs((x * 1.9 + scene.phase) % 1 - 0.5) * 0.50 + 0.02 * jnp.sin(x * 40)
    far = jnp.zeros_like(x)
    rise = jnp.stack([far, far + 0.015, 0.05 + 0.03 * jnp.sin(x * 7 + phase), far, towers, pines, peaks])[scene.place]
    tint = jnp.asarray(_FAR)[scene.place]
    colour = jnp.where((y < h + rise)[..., None], tint, sky)
    depth = jnp.where(y < h + rise, 0.8, 1.0)
    colour = jnp.where((y < h)[..., None], land, colour)
    return colour, jnp.where(y < h, 0.35 + 0.4 * near[..., 0], depth)


def raster(scene: Scene, pixels: int) -> tuple[Array, Array]:
    """The scene before any painter sees it.

    Args:
      scene: one scene (no batch axes; vmap for more).
      pixels: height and width.

    Returns:
      ``colour`` float32[pixels, pixels, 3] in [0, 1], row 0 on top, and ``depth`` float32[pixels, pixels], 1 the sky,
      0.1 the subject.
    """
    axis = (jnp.arange(pixels) + 0.5) / pixels
    x, y = jnp.meshgrid(axis, 1 - axis)
    backdrop, depth = _backdrop(scene, x, y)
    u, v = (x - scene.position[0]) / scene.size, (y - scene.position[1]) / scene.size
    shadow = _disc(u, v, 0.1, -0.98, 0.95, 0.16) & (y < scene.horizon)
    backdrop = jnp.where(shadow[..., None], backdrop * 0.72, backdrop)
    light = jnp.asarray([t[2] for t in TIMES.values()])[scene.time]
    subject = jnp.stack([_subject_paint(draw, scene, u, v) for draw in _PARTS])[scene.subject]
    colour = jnp.where(subject[..., 3:] > 0, subject[..., :3], backdrop)
    lit = jnp.where(((depth < 1) | (subject[..., 3] > 0))[..., None], colour * (0.35 + 0.65 * light), colour)
    return jnp.clip(lit, 0, 1), jnp.where(subject[..., 3] > 0, 0.1, depth)
