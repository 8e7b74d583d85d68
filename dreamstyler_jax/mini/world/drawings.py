"""The drawings of the subjects in the embedded model's world: shapes in plain colours.

Each takes coordinates from -1 to 1, x to the right and y up, and gives its parts from back to front.
"""

import jax.numpy as jnp
from jax import Array

_BROWN, _CREAM, _DARK = (0.40, 0.26, 0.15), (0.96, 0.92, 0.80), (0.12, 0.12, 0.14)


def _box(x: Array, y: Array, x0: float, x1: float, y0: float, y1: float) -> Array:
    return (x > x0) & (x < x1) & (y > y0) & (y < y1)


def disc(x: Array, y: Array, cx: Array | float, cy: Array | float, rx: float, ry: float | None = None) -> Array:
    """Whether points are inside an ellipse, or if ``ry`` is not given a circle: bool of the shape of x and y."""
    return ((x - cx) / rx) ** 2 + ((y - cy) / (ry or rx)) ** 2 < 1


def _triangle(x: Array, y: Array, apex: tuple[float, float], y0: float, half: float, y1: float | None = None) -> Array:
    """A triangle with its base, of half-width ``half``, at y0 and its tip at ``apex`` (x, y), cut off at y1."""
    width = half * (apex[1] - y) / (apex[1] - y0)
    return (y > y0) & (y < (apex[1] if y1 is None else y1)) & (jnp.abs(x - apex[0]) < width)


# Each subject is a list of parts from back to front: a mask, and either a shade of the subject's colour ("plain",
# "light" or "dark") or a fixed colour. Coordinates x, y are local, in [-1, 1].
Parts = list[tuple[Array, str | tuple[float, float, float]]]


def _house(x: Array, y: Array) -> Parts:
    return [
        (_box(x, y, -0.75, 0.75, -0.9, 0.15), "plain"),
        (_box(x, y, 0.35, 0.58, 0.3, 0.9), "dark"),
        (_triangle(x, y, (0.0, 0.98), 0.12, 0.98), "dark"),
        (_box(x, y, -0.18, 0.18, -0.9, -0.3), _BROWN),
        (_box(x, y, -0.58, -0.3, -0.35, -0.05) | _box(x, y, 0.3, 0.58, -0.35, -0.05), _CREAM),
    ]


def _tree(x: Array, y: Array) -> Parts:
    crown = disc(x, y, 0, 0.38, 0.58) | disc(x, y, -0.42, 0.08, 0.42) | disc(x, y, 0.42, 0.08, 0.42)
    return [(_box(x, y, -0.14, 0.14, -1.0, 0.1), _BROWN), (crown, "plain"), (disc(x, y, -0.15, 0.5, 0.25), "light")]


def _boat(x: Array, y: Array) -> Parts:
    hull = (y > -0.85) & (y < -0.35) & (jnp.abs(x) < 0.95 + 0.6 * (y + 0.35))
    return [
        (_box(x, y, -0.05, 0.04, -0.4, 0.95), _BROWN),
        (_triangle(x, y, (0.06, 0.95), -0.25, 0.75) & (x > 0.06), _CREAM),
        (_triangle(x, y, (-0.07, 0.75), -0.25, 0.55) & (x < -0.07), "light"),
        (hull, "plain"),
    ]


def _fish(x: Array, y: Array) -> Parts:
    tail = (x > 0.45) & (x < 0.98) & (jnp.abs(y) < (x - 0.4) * 0.95)
    return [
        (tail, "dark"),
        (_triangle(x, y, (0.05, 0.75), 0.2, 0.35), "dark"),
        (disc(x, y, -0.15, 0, 0.78, 0.48), "plain"),
        (disc(x, y, -0.2, -0.18, 0.5, 0.2), "light"),
        (disc(x, y, -0.58, 0.12, 0.11), _CREAM),
        (disc(x, y, -0.6, 0.12, 0.055), _DARK),
    ]


def _flower(x: Array, y: Array) -> Parts:
    petals = jnp.zeros_like(x, bool)
    for i in range(6):
        angle = i * jnp.pi / 3
        petals |= disc(x, y, 0.38 * jnp.cos(angle), 0.35 + 0.38 * jnp.sin(angle), 0.27)
    leaf = disc(x, y, -0.28, -0.62, 0.26, 0.11) | disc(x, y, 0.28, -0.5, 0.26, 0.11)
    return [
        (_box(x, y, -0.06, 0.06, -1.0, 0.2) | leaf, (0.16, 0.42, 0.16)),
        (petals, "plain"),
        (disc(x, y, 0, 0.35, 0.2), (0.98, 0.84, 0.30)),
    ]


def _star(x: Array, y: Array) -> Parts:
    radius, angle = jnp.hypot(x, y), jnp.arctan2(x, y)
    sector = jnp.abs((angle / (2 * jnp.pi / 5) + 0.5) % 1 - 0.5) * (2 * jnp.pi / 5)
    edge = 0.36 / jnp.cos(jnp.pi / 5 - sector + 0.37)
    return [(radius < edge * 1.3, "plain"), (radius < edge * 0.6, "light")]


def _cup(x: Array, y: Array) -> Parts:
    body = (y > -0.8) & (y < 0.45) & (jnp.abs(x + 0.12) < 0.52 + 0.12 * y)
    return [
        (disc(x, y, 0.5, -0.12, 0.38, 0.42) & ~disc(x, y, 0.5, -0.12, 0.22, 0.25), "dark"),
        (disc(x, y, -0.1, -0.82, 0.8, 0.13), _CREAM),
        (body, "plain"),
        (disc(x, y, -0.12, 0.45, 0.58, 0.15), "light"),
        (disc(x, y, -0.12, 0.45, 0.46, 0.09), _BROWN),
    ]


def _cat(x: Array, y: Array) -> Parts:
    ears = _triangle(x, y, (-0.3, 0.98), 0.4, 0.26) | _triangle(x, y, (0.3, 0.98), 0.4, 0.26)
    tail = disc(x, y, 0.62, -0.45, 0.36, 0.5) & ~disc(x, y, 0.58, -0.38, 0.24, 0.42)
    eyes = disc(x, y, -0.19, 0.42, 0.085, 0.12) | disc(x, y, 0.19, 0.42, 0.085, 0.12)
    return [
        (tail | ears, "plain"),
        (disc(x, y, 0, -0.5, 0.52, 0.5), "plain"),
        (disc(x, y, 0, -0.55, 0.25, 0.3), "light"),
        (disc(x, y, 0, 0.35, 0.48, 0.4), "plain"),
        (eyes, (0.85, 0.92, 0.45)),
        (disc(x, y, 0, 0.22, 0.07, 0.05), (0.95, 0.6, 0.6)),
    ]


def _car(x: Array, y: Array) -> Parts:
    cabin = (y > -0.05) & (y < 0.5) & (jnp.abs(x + 0.08) < 0.62 - 0.45 * y)
    glass = (y > 0.02) & (y < 0.4) & (jnp.abs(x + 0.08) < 0.52 - 0.45 * y) & (jnp.abs(x + 0.08) > 0.05)
    wheel = lambda r: disc(x, y, -0.52, -0.5, r) | disc(x, y, 0.52, -0.5, r)  # noqa: E731
    return [
        (cabin, "plain"),
        (glass, (0.78, 0.90, 0.96)),
        (_box(x, y, -0.98, 0.98, -0.48, 0.02), "plain"),
        (_box(x, y, 0.84, 0.98, -0.22, -0.08), _CREAM),
        (wheel(0.25), _DARK),
        (wheel(0.11), _CREAM),
    ]


def _mushroom(x: Array, y: Array) -> Parts:
    spots = disc(x, y, -0.4, 0.35, 0.13) | disc(x, y, 0.08, 0.62, 0.15) | disc(x, y, 0.45, 0.25, 0.12)
    return [
        ((y > -0.95) & (y < 0.1) & (jnp.abs(x) < 0.2 - 0.12 * y), _CREAM),
        (disc(x, y, 0, 0.0, 0.9, 0.92) & (y > 0.0), "plain"),
        (spots, _CREAM),
    ]


def _bird(x: Array, y: Array) -> Parts:
    legs = _box(x, y, -0.12, -0.05, -0.95, -0.4) | _box(x, y, 0.1, 0.17, -0.95, -0.4)
    beak = (x < -0.78) & (x > -1.0) & (jnp.abs(y - 0.42) < (x + 1.0) * 0.6)
    tail = (x > 0.4) & (x < 0.98) & (jnp.abs(y - 0.2 * x) < 0.16)
    return [
        (legs | beak, (0.93, 0.58, 0.16)),
        (tail, "dark"),
        (disc(x, y, 0.02, -0.12, 0.6, 0.44) | disc(x, y, -0.5, 0.42, 0.33), "plain"),
        (disc(x, y, -0.16, -0.28, 0.34, 0.24), "light"),
        (disc(x, y, 0.2, 0.02, 0.4, 0.22), "dark"),
        (disc(x, y, -0.58, 0.5, 0.08), _DARK),
    ]


def _apple(x: Array, y: Array) -> Parts:
    return [
        (disc(x, y, -0.27, -0.12, 0.58, 0.7) | disc(x, y, 0.27, -0.12, 0.58, 0.7), "plain"),
        (disc(x, y, -0.42, 0.12, 0.16, 0.26), "light"),
        (_box(x, y, -0.05, 0.05, 0.4, 0.92), _BROWN),
        (disc(x, y, 0.32, 0.76, 0.3, 0.14), (0.30, 0.62, 0.24)),
    ]


def _lighthouse(x: Array, y: Array) -> Parts:
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


def _butterfly(x: Array, y: Array) -> Parts:
    side = jnp.abs(x)
    feelers = (y > 0.3) & (y < 0.85) & (jnp.abs(side - 0.05 - (y - 0.3) * 0.35) < 0.04)
    return [
        (disc(side, y, 0.42, -0.42, 0.38, 0.42), "dark"),
        (disc(side, y, 0.52, 0.26, 0.46, 0.46), "plain"),
        (disc(side, y, 0.6, 0.34, 0.18), "light"),
        (disc(side, y, 0.44, -0.48, 0.14), "light"),
        (disc(x, y, 0, -0.1, 0.1, 0.55) | feelers, _DARK),
    ]


DRAWINGS = (
    _house, _tree, _boat, _fish, _flower, _star, _cup, _cat, _car, _mushroom, _bird, _apple, _lighthouse, _butterfly,
)  # fmt: skip
