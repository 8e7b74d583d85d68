"""Rendered pictures with their labels, on disk in chunks: an interrupted rendering continues where it stopped."""

import os
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from tqdm import tqdm

from dreamstyler_jax.mini.world import captions, painter, scenes

CHUNK = 1000
PHOTOGRAPHS = 0.04  # share of pictures that are not painted


class Pictures(NamedTuple):
    """``pixels`` uint8[N, 64, 64, 3]; ``labels`` int32[N, 5]: subject, colour, place, time, painter."""

    pixels: np.ndarray
    labels: np.ndarray


def all_painters() -> painter.Painter:
    """The trained painters, the held-out ones and, last, the camera: one fixed batch, by number."""
    numbers = jnp.arange(captions.PAINTERS + captions.HELD_OUT)
    painters = painter.sample(jax.random.key(7), numbers % len(painter.TECHNIQUES))
    return jax.tree.map(lambda many, one: jnp.concatenate([many, one[None]]), painters, painter.photograph())


def render(key: Array, painters: painter.Painter, numbers: np.ndarray, scene: scenes.Scene) -> Pictures:
    """The pictures of ``scene`` (a batch) by the painters of these numbers (int[B]). Deterministic in ``key``."""
    chosen = jax.tree.map(lambda a: a[numbers], painters)
    pixels = painter.pictures(chosen, jax.random.split(key, len(numbers)), scene)
    labels = np.stack([scene.subject, scene.colour, scene.place, scene.time, numbers], 1).astype(np.int32)
    return Pictures(np.asarray(jnp.round(pixels * 255)).astype(np.uint8), labels)


def render_chunk(seed: int, chunk: int, painters: painter.Painter) -> Pictures:
    """Chunk number ``chunk`` of the training set: random scenes by random trained painters, some as photographs."""
    _, k_painter, k_paint, k_photo = _keys(seed, chunk)
    numbers = jax.random.randint(k_painter, (CHUNK,), 0, captions.PAINTERS)
    photographed = jax.random.bernoulli(k_photo, PHOTOGRAPHS, (CHUNK,))
    numbers = np.asarray(jnp.where(photographed, captions.PHOTOGRAPH, numbers))
    return render(k_paint, painters, numbers, chunk_scenes(seed, chunk))


def chunk_scenes(seed: int, chunk: int) -> scenes.Scene:
    """What the pictures of chunk number ``chunk`` show."""
    return scenes.sample(_keys(seed, chunk)[0], (CHUNK,))


def _keys(seed: int, chunk: int) -> Array:
    return jax.random.split(jax.random.fold_in(jax.random.key(seed), chunk), 4)


def unseen(count: int, seed: int, painters: range = range(captions.PAINTERS)) -> Pictures:
    """Random scenes by these painters, the trained ones unless said otherwise; never part of the training set."""
    k_scene, k_painter, k_paint = jax.random.split(jax.random.fold_in(jax.random.key(seed), 10**6), 3)
    numbers = np.asarray(jax.random.randint(k_painter, (count,), painters.start, painters.stop))
    return render(k_paint, all_painters(), numbers, scenes.sample(k_scene, (count,)))


def prepare(folder: Path, count: int, seed: int = 0) -> Pictures:
    """Renders what is missing of ``count`` pictures into ``folder`` and returns them all."""
    folder.mkdir(parents=True, exist_ok=True)
    painters = all_painters()
    chunks = []
    for chunk in tqdm(range(-(-count // CHUNK)), desc="painting", unit="k pictures"):
        path = folder / f"pictures_{chunk:04d}.npz"
        if not path.exists():
            pictures = render_chunk(seed, chunk, painters)
            temporary = path.with_suffix(".tmp")
            with temporary.open("wb") as file:
                np.savez(file, **pictures._asdict())
            os.replace(temporary, path)
        with np.load(path) as file:
            chunks.append(Pictures(file["pixels"], file["labels"]))
    return Pictures(*(np.concatenate(parts)[:count] for parts in zip(*chunks, strict=True)))
