"""What the tests of ``dreamstyler sample`` share: random styles, commands, and how to read what a run left."""

import json
from pathlib import Path

import numpy as np
from PIL import Image
from script_tools import run
from tiny_model import WIDTH

from dreamstyler_jax.commands import sample
from dreamstyler_jax.style import FILE_NAME, Style

HOUSE, DOG = "a painting of a red house in the style of {}", "a painting of a small dog in the style of {}"


def random_style(name, stages=2, vectors=1, width=WIDTH, seed=0, **metadata) -> Style:
    table = np.random.default_rng(seed).standard_normal((stages, vectors, width), np.float32) / 5
    return Style(name, {"clip_l": table}, metadata)


def write_style(folder: Path, name, **options) -> Path:
    random_style(name, **options).save(folder / FILE_NAME)
    return folder


def eight(words, styles, *names) -> list:
    """The options for these styles with eight seeds."""
    return [*words, "--seeds", "0:8", "--styles", *(styles / name for name in names)]


def paint(folder: Path, *words) -> list[np.ndarray]:
    """Runs ``sample`` into a folder and returns its pictures."""
    run(sample, *words, "--output", folder)
    return pictures(folder)


def manifest(folder: Path, name: str = "manifest.jsonl") -> list[dict]:
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def pictures(folder: Path, **which) -> list[np.ndarray]:
    """The pictures whose manifest lines have these values, as integers, in the order of the manifest."""
    lines = [line for line in manifest(folder) if all(line[key] == value for key, value in which.items())]
    return [np.asarray(Image.open(folder / line["file"])).astype(int) for line in lines]


def difference(a, b) -> int:
    """The largest difference of two pictures, of 255."""
    return int(np.abs(np.asarray(a, int) - np.asarray(b, int)).max())
