"""Folders of training runs, as if a style had been learned there."""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
from script_tools import write_picture

from dreamstyler_jax.commands.config import TrainConfig
from dreamstyler_jax.commands.config_files import write_config
from dreamstyler_jax.commands.run_log import METRICS
from dreamstyler_jax.commands.sessions import note_session
from dreamstyler_jax.provenance import describe
from dreamstyler_jax.runtime import images
from dreamstyler_jax.runtime.checkpoints import open_checkpoints
from dreamstyler_jax.style import FILE_NAME, Style, step_file
from dreamstyler_jax.training import Lesson, begin, style_in

PROMPT = "A <b>red</b> boat in the style of {}"
COLOURS = ("red", "green", "blue")  # of the previews, in the order of the checkpoints


def write_run(folder, *, steps=30, asked_for=30, save_every=10, model="mini", **metadata):
    """A run of two stages that was asked for so many steps, with the first ``steps`` of them done."""
    picture = write_picture(folder.parent / "boat.png", 0)
    config = TrainConfig(
        model=model, images=[str(picture)], prompts=[PROMPT], stages=2, steps=asked_for, log_every=5,
        save_every=save_every, output=str(folder),
    )  # fmt: skip
    write_config(config, folder / "config.yaml")
    note_session(folder, 0)
    known = {"model": model, "word_norms": {"clip_l": 2.0}, "prompts": [PROMPT], **metadata}
    known |= {name: getattr(config, name) for name in ("property", "batch_size", "norm", "prior", "average", "seed")}
    known |= {"framing": config.framing, **describe({str(picture): images.load(picture)})}
    start = Style(config.name, np.ones((2, 1, 16)), known)
    lesson = Lesson(start, None, None)  # type: ignore[arg-type]  # nothing is trained
    done = range(save_every, steps + 1, save_every)
    with open_checkpoints(folder / "checkpoints") as store:
        for number, step in enumerate(done):
            state = begin(lesson, config)
            state = state._replace(step=jnp.int32(step), tables={"clip_l": state.tables["clip_l"] * (1 + number)})
            store.save(step, state)
            style_in(start, state).save(step_file(folder, step))
            images.save_png(folder / f"previews/step_{step:06d}.png", plain(COLOURS[number]))
    if steps == asked_for:
        style_in(start, state).save(folder / FILE_NAME)
    write_metrics(folder, steps)
    return dataclasses.replace(config)


def write_metrics(folder, steps):
    """A line for every fifth step; the loss of the second stage falls to a half, its vectors become twice as long."""
    lines = [
        {
            "step": step, "loss": 0.3, "stage_loss": [0.4, 0.2 - 0.1 * (step > 5)], "images_per_second": 8.0,
            "relative_norm": [1.0, step / 15], "goodput": {"steps": 0.75, "idle": 0.25},
        }
        for step in range(5, steps + 1, 5)
    ]  # fmt: skip
    (folder / METRICS).write_text("".join(json.dumps(line) + "\n" for line in lines))


def plain(colour):
    from PIL import Image

    return Image.new("RGB", (64, 32), colour)
