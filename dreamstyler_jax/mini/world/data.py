"""The rendered training pictures and their labels. They are stored in chunks, so an interrupted rendering can go on."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from dreamstyler_jax.mini.world import captions, scenes
from dreamstyler_jax.mini.world.painters import TECHNIQUES, Painter, paint_scenes, photograph, sample
from dreamstyler_jax.runtime.files import write_atomic
from dreamstyler_jax.runtime.progress import progress

CHUNK_SIZE = 1000  # pictures in a file
PHOTOGRAPHS = 0.04  # share of pictures that are not painted
_UNSEEN = 10**6  # a chunk number that no training set reaches

Paint = Callable[[Painter, Array, scenes.Scene], Array]  # as `painters.paint_scenes`


class Pictures(NamedTuple):
    """Rendered pictures and what they show."""

    pixels: np.ndarray  # uint8[N, 64, 64, 3]
    labels: np.ndarray  # int32[N, 5]: subject, colour, place, time, painter


def all_painters() -> Painter:
    """All painters by number, always the same: the trained ones, the held-out ones and, last, the camera."""
    numbers = jnp.arange(captions.PAINTERS + captions.HELD_OUT)
    painters = sample(jax.random.key(7), numbers % len(TECHNIQUES))
    return jax.tree.map(lambda many, one: jnp.concatenate([many, one[None]]), painters, photograph())


def render(
    key: Array, painters: Painter, numbers: np.ndarray, scene: scenes.Scene, paint: Paint = paint_scenes
) -> Pictures:
    """Renders a batch of scenes, each by the painter of the given number. Deterministic in ``key``.

    Args:
        key: PRNG key.
        painters: the painters to choose from, as `all_painters` returns them.
        numbers: int[B], indices into ``painters``.
        scene: B scenes.
        paint: the renderer.
    """
    chosen = jax.tree.map(lambda parameter: parameter[numbers], painters)
    pixels = paint(chosen, jax.random.split(key, len(numbers)), scene)
    labels = np.stack([scene.subject, scene.colour, scene.place, scene.time, numbers], 1).astype(np.int32)
    return Pictures(np.asarray(jnp.round(pixels * 255)).astype(np.uint8), labels)


def render_chunk(
    seed: int, chunk: int, painters: Painter, size: int = CHUNK_SIZE, paint: Paint = paint_scenes
) -> Pictures:
    """Renders one chunk of the training set: random scenes by random trained painters, and a few photographs.

    Args:
        seed: seed of the training set.
        chunk: number of the chunk.
        painters: as `all_painters` returns them.
        size: pictures in the chunk.
        paint: the renderer.
    """
    _, k_painter, k_paint, k_photo = _chunk_keys(seed, chunk)
    numbers = jax.random.randint(k_painter, (size,), 0, captions.PAINTERS)
    photographed = jax.random.bernoulli(k_photo, PHOTOGRAPHS, (size,))
    numbers = np.asarray(jnp.where(photographed, captions.PHOTOGRAPH, numbers))
    return render(k_paint, painters, numbers, chunk_scenes(seed, chunk, size), paint)


def chunk_scenes(seed: int, chunk: int, size: int = CHUNK_SIZE) -> scenes.Scene:
    """The scenes that the pictures of a chunk show; arguments as in `render_chunk`."""
    return scenes.sample(_chunk_keys(seed, chunk)[0], (size,))


def _chunk_keys(seed: int, chunk: int) -> Array:
    return jax.random.split(jax.random.fold_in(jax.random.key(seed), chunk), 4)


def unseen(count: int, seed: int, painters: range = range(captions.PAINTERS)) -> Pictures:
    """Renders random scenes by random painters of this range. None of these pictures is in a training set."""
    k_scene, k_painter, k_paint = jax.random.split(jax.random.fold_in(jax.random.key(seed), _UNSEEN), 3)
    numbers = np.asarray(jax.random.randint(k_painter, (count,), painters.start, painters.stop))
    return render(k_paint, all_painters(), numbers, scenes.sample(k_scene, (count,)))


def prepare(
    folder: Path,
    count: int,
    seed: int = 0,
    *,
    chunk_size: int = CHUNK_SIZE,
    render_chunk: Callable[[int, int, Painter, int], Pictures] = render_chunk,
) -> Pictures:
    """Returns the first ``count`` pictures of the training set, rendering the chunks that the folder lacks.

    Args:
        folder: holds a file ``pictures_NNNN.npz`` for each chunk.
        count: number of pictures.
        seed: seed of the training set.
        chunk_size: pictures in a file; a folder keeps the size that it began with.
        render_chunk: called with seed, chunk, painters and chunk size.
    """
    painters = all_painters()
    numbers = range(-(-count // chunk_size))
    chunks = []
    for chunk in progress(numbers, "pictures", len(numbers), unit="chunk"):
        path = folder / f"pictures_{chunk:04d}.npz"
        if not path.exists():
            buffer = io.BytesIO()
            np.savez(buffer, **render_chunk(seed, chunk, painters, chunk_size)._asdict())
            write_atomic(path, buffer.getvalue())
        with np.load(path) as file:
            chunks.append(Pictures(file["pixels"], file["labels"]))
    pixels, labels = (np.concatenate(arrays)[:count] for arrays in zip(*chunks, strict=True))
    return Pictures(pixels, labels)
