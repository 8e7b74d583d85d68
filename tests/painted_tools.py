"""Folders of painted pictures and styles without training or painting, and what ``evaluate`` left in them."""

import json
from typing import Any

import numpy as np
from script_tools import run
from tiny_model import WIDTH

from dreamstyler_jax.commands import evaluate
from dreamstyler_jax.grids.cells import Cell
from dreamstyler_jax.grids.gallery import Gallery
from dreamstyler_jax.style import FILE_NAME, Style

HOUSE, DOG, SEA = (f"a painting of {subject} in the style of" for subject in ("a house", "a small dog", "the sea"))


def write_style(folder, name, seed=0, **metadata):
    table = np.random.default_rng(seed).standard_normal((2, 1, WIDTH), np.float32)
    Style(name, {"clip_l": table}, metadata).save(folder / FILE_NAME)
    return folder


def styles_of(runs, *names):
    return {name: Style.load(runs / name / FILE_NAME).hash for name in names}


def noise(count, size=(16, 16), seed=5):
    return list(np.random.default_rng(seed).uniform(-1, 1, (count, *size, 3)).astype(np.float32))


def cells_of(model, prompts, styles, arrays):
    """The cells of pictures, given prompts with their seeds; {} stands for the first of the styles."""
    common: dict[str, Any] = dict(
        negative_prompt="", guidance="cfg", scales={"guidance_scale": 3.5}, solver="ddim", steps=5
    )
    common |= dict(dtype="float32", model=str(model), model_hash="0123")
    result = []
    for (prompt, seed), array in zip(prompts, arrays, strict=True):
        style = next(iter(styles)) if "{}" in prompt else ""
        used = {name: hash for name, hash in styles.items() if name == style or f"{{{name}}}" in prompt}
        size = dict(height=array.shape[0], width=array.shape[1])
        result.append(Cell(prompt=prompt, style=style, seed=seed, styles=used, **size, **common))
    return result


def paint(folder, model, prompts, styles, arrays):
    """Writes pictures as ``dreamstyler sample`` does."""
    cells, gallery = cells_of(model, prompts, styles, arrays), Gallery(folder)
    gallery.begin()
    for cell, array in zip(cells, arrays, strict=True):
        gallery.save(cell, array)
    gallery.finish(cells)
    return folder


def one_picture(folder, model, runs, prompt=HOUSE + " {}", style="gogh", **renamed):
    return paint(folder, model, [(prompt, 0)], renamed or styles_of(runs, style), noise(1))


def lines(folder):
    return [json.loads(line) for line in (folder / "scores.jsonl").read_text().splitlines()]


def summary(folder):
    return json.loads((folder / "evaluation.json").read_text())


def score(folder, *words):
    """Evaluates a folder with one picture; returns the line of this picture."""
    run(evaluate, "--pictures", folder, *words)
    (line,) = lines(folder)
    return line
