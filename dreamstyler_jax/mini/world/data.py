"""The rendered training pictures and their labels. They are stored in chunks, so an interrupted rendering can go on."""

import functools
import io
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from dreamstyler_jax.mini.world import captions, scenes
from dreamstyler_jax.mini.world.manners import MANNERS, TECHNIQUES, Manner, Painter, photograph, sample
from dreamstyler_jax.mini.world.painters import SIZE, paint_scenes
from dreamstyler_jax.runtime.files import write_atomic
from dreamstyler_jax.runtime.progress import progress

CHUNK_SIZE = 1000  # pictures in a file
PHOTOGRAPHS, NAMELESS = 0.04, 0.4  # shares of pictures that are not painted, and of those by painters without a name
NO_MANNER = -1  # instead of an index, of a photograph
_UNSEEN = 10**6  # a chunk number that no training set reaches

Paint = Callable[[Painter, Array, scenes.Scene], Array]  # as `painters.paint_scenes`


class Pictures(NamedTuple):
    """Rendered pictures and what they show."""

    pixels: np.ndarray  # uint8[N, 128, 128, 3]
    labels: np.ndarray  # int32[N, 9], see LABELS


LABELS = (*scenes.ATTRIBUTES, "painter", *Manner._fields)  # the columns of labels


class Artists(NamedTuple):
    """Who paints each of B pictures, along a leading axis."""

    numbers: Array  # int32[B]: a painter's number, captions.PHOTOGRAPH or captions.NAMELESS
    manner: Manner
    painter: Painter


@functools.cache
def all_painters() -> Artists:
    """All painters by number, always the same: the trained ones, the held-out ones and, last, the camera."""
    count = captions.PAINTERS + captions.HELD_OUT
    k_manner, k_painter = jax.random.split(jax.random.key(7))
    manner = _random_manner(k_manner, count)._replace(technique=jnp.arange(count) % len(TECHNIQUES))
    artists = Artists(jnp.arange(count), manner, sample(k_painter, manner))
    none = jnp.int32(NO_MANNER)
    camera = Artists(jnp.int32(captions.PHOTOGRAPH), Manner(none, none, none, none), photograph())
    return jax.tree.map(lambda many, one: jnp.concatenate([many, one[None]]), artists, camera)


def _random_manner(key: Array, count: int) -> Manner:
    keys = jax.random.split(key, len(Manner._fields))
    return Manner(*(jax.random.randint(k, (count,), 0, len(w)) for k, w in zip(keys, MANNERS, strict=True)))


def by_number(numbers: np.ndarray) -> Artists:
    """The painters of these numbers, int[B]; PHOTOGRAPH is the camera."""
    return jax.tree.map(lambda table: table[numbers], all_painters())


def render(key: Array, artists: Artists, scene: scenes.Scene, paint: Paint = paint_scenes) -> Pictures:
    """Renders a batch of scenes. Deterministic in ``key``.

    Args:
        key: PRNG key.
        artists: who paints each scene.
        scene: B scenes.
        paint: the renderer.
    """
    pixels = paint(artists.painter, jax.random.split(key, len(artists.numbers)), scene)
    shown = (scene.subject, scene.colour, scene.place, scene.time, artists.numbers, *artists.manner)
    labels = np.stack([np.asarray(column) for column in shown], 1).astype(np.int32)
    return Pictures(np.asarray(jnp.round(pixels * 255)).astype(np.uint8), labels)


def render_chunk(seed: int, chunk: int, size: int = CHUNK_SIZE, paint: Paint = paint_scenes) -> Pictures:
    """Renders one chunk of the training set: random scenes by trained painters, by nameless ones and as photographs.

    Args:
        seed: seed of the training set.
        chunk: number of the chunk.
        size: pictures in the chunk.
        paint: the renderer.
    """
    _, k_artists, k_paint = _chunk_keys(seed, chunk)
    return render(k_paint, _random_artists(k_artists, size), chunk_scenes(seed, chunk, size), paint)


def _random_artists(key: Array, count: int) -> Artists:
    """For each picture a trained painter, or one that is drawn for it alone, or the camera."""
    k_kind, k_number, k_manner, k_painter = jax.random.split(key, 4)
    kind = jax.random.uniform(k_kind, (count,))
    numbers = jax.random.randint(k_number, (count,), 0, captions.PAINTERS)
    named = by_number(np.asarray(jnp.where(kind < PHOTOGRAPHS, captions.PHOTOGRAPH, numbers)))
    manner = _random_manner(k_manner, count)
    nameless = Artists(jnp.full(count, captions.NAMELESS), manner, sample(k_painter, manner))
    is_nameless = kind > 1 - NAMELESS

    def choose(one: Array, other: Array) -> Array:
        return jnp.where(is_nameless.reshape(-1, *(1,) * (one.ndim - 1)), one, other)

    return jax.tree.map(choose, nameless, named)


def chunk_scenes(seed: int, chunk: int, size: int = CHUNK_SIZE) -> scenes.Scene:
    """The scenes that the pictures of a chunk show; arguments as in `render_chunk`."""
    return scenes.sample(_chunk_keys(seed, chunk)[0], (size,))


def _chunk_keys(seed: int, chunk: int) -> Array:
    return jax.random.split(jax.random.fold_in(jax.random.key(seed), chunk), 3)


def unseen(count: int, seed: int, painters: range = range(captions.PAINTERS)) -> Pictures:
    """Renders random scenes by random painters of this range. None of these pictures is in a training set."""
    k_scene, k_painter, k_paint = jax.random.split(jax.random.fold_in(jax.random.key(seed), _UNSEEN), 3)
    numbers = np.asarray(jax.random.randint(k_painter, (count,), painters.start, painters.stop))
    return render(k_paint, by_number(numbers), scenes.sample(k_scene, (count,)))


def prepare(
    folder: Path,
    count: int,
    seed: int = 0,
    *,
    chunk_size: int = CHUNK_SIZE,
    render_chunk: Callable[[int, int, int], Pictures] = render_chunk,
) -> Pictures:
    """Returns the first ``count`` pictures of the training set, rendering the chunks that the folder lacks.

    Args:
        folder: holds a file ``pictures_NNNN.npz`` for each chunk.
        count: number of pictures.
        seed: seed of the training set.
        chunk_size: pictures in a file; a folder keeps the size that it began with.
        render_chunk: called with seed, chunk and chunk size.
    """
    numbers = range(-(-count // chunk_size))
    pictures = Pictures(np.empty((count, SIZE, SIZE, 3), np.uint8), np.empty((count, len(LABELS)), np.int32))
    for chunk in progress(numbers, "pictures", len(numbers), unit="chunk"):
        rows = slice(chunk * chunk_size, min((chunk + 1) * chunk_size, count))
        path = folder / f"pictures_{chunk:04d}.npz"
        if not path.exists():
            buffer = io.BytesIO()
            np.savez(buffer, **render_chunk(seed, chunk, chunk_size)._asdict())
            write_atomic(path, buffer.getvalue())
        with np.load(path) as file:
            for name, whole in pictures._asdict().items():
                whole[rows] = file[name][: rows.stop - rows.start]
    return pictures
