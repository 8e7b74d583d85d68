"""Learns the style of one or several pictures, or of each of them.

    python train.py --images picture.png --prompts "A painting of a village at night in the style of {}"

Without arguments: the example picture, on the embedded model. ``--help`` lists everything.
"""

import contextlib
import dataclasses
import math
import os
import shlex
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL.Image import Image

from dreamstyler_jax import inversion, prompts
from dreamstyler_jax.commands import run_log
from dreamstyler_jax.commands.cli import parse
from dreamstyler_jax.commands.config import BARE_PROMPTS, TrainConfig, write_config
from dreamstyler_jax.commands.previews import preview
from dreamstyler_jax.commands.runs import SETTINGS, is_finished, runs_of
from dreamstyler_jax.mini.shipped import EXAMPLE_PICTURE
from dreamstyler_jax.runtime import images
from dreamstyler_jax.runtime.checkpoints import Checkpoints, open_checkpoints
from dreamstyler_jax.runtime.compilation import share_cores
from dreamstyler_jax.runtime.errors import UserError
from dreamstyler_jax.runtime.files import check_output
from dreamstyler_jax.stable_diffusion.pipeline import StableDiffusion
from dreamstyler_jax.style import FILE_NAME, Style, step_file


class Job(NamedTuple):
    """A style to be learned: its settings and folder, the style as it begins, and what it is learned from."""

    config: TrainConfig
    folder: Path
    style: Style
    dataset: inversion.Dataset


def run(config: TrainConfig) -> None:
    """Trains, and leaves the folder of each run behind."""
    todo = []
    for own in runs_of(config):
        folder, paths = Path(own.output), own.images or [os.path.relpath(EXAMPLE_PICTURE)]
        check_output(folder)
        pictures = [images.load(path) for path in paths]
        own = dataclasses.replace(own, prompts=training_prompts(own, paths))
        if is_finished(own, folder):
            print(f"The style {own.name!r} in {folder} is finished; --steps can ask for more than it was trained for")
        else:
            todo.append((own, paths, pictures))
    if not todo:
        return
    model = StableDiffusion.load(config.model, variant=config.variant, dtype=config.dtype)
    groups: dict[tuple, list[Job]] = {}
    for job in (prepare(model, *one) for one in todo):
        groups.setdefault(job.dataset.ids.shape, []).append(job)
    for jobs in groups.values():
        train(model, jobs)
    for own, *_ in todo:
        print(f"The style {own.name!r} is in {own.output}; paint with it: {sampling_command(own)}")


def prepare(model: StableDiffusion, config: TrainConfig, paths: list[str], pictures: Sequence[Image]) -> Job:
    """Encodes pictures and prompts; what is wrong with the settings shows here, before the training."""
    resolution = training_resolution(config, model)
    arrays = [images.to_array(images.fit(picture, resolution, resolution, config.framing)) for picture in pictures]
    table = prompts.initial_table(model, config.init_word, config.stages, config.vectors)
    style = Style(config.name, table, metadata_of(config, model, paths, resolution))
    check_preview_prompts(config, model, style)
    texts = [wordings(config, prompt) for prompt in config.prompts]
    dataset = inversion.make_dataset(model, arrays, texts, config.vectors, flip=config.flip, name=config.name)
    return Job(config, Path(config.output), style, dataset)


def metadata_of(config: TrainConfig, model: StableDiffusion, paths: list[str], resolution: int) -> dict[str, Any]:
    """What a style says of its making, apart from the number of steps."""
    recorded = ("property", "init_word", "prompts", "batch_size", "learning_rate", "seed", "framing")
    settings = {name: getattr(config, name) for name in recorded} | {"images": paths, "resolution": resolution}
    return settings | {"model": model.name, "model_hash": model.hash}


def training_prompts(config: TrainConfig, paths: list[str]) -> list[str]:
    """Each picture's prompt: the option's, or that of the text file beside it, or one that describes nothing."""
    if config.prompts:
        return config.prompts * (len(paths) if len(config.prompts) == 1 else 1)
    return [prompts.beside(path) or BARE_PROMPTS[config.property] for path in paths]


def wordings(config: TrainConfig, prompt: str) -> Sequence[str]:
    """What a training picture is said to show, now one and now another: several where only an object is named."""
    only_named = config.property == "object" and prompt == BARE_PROMPTS["object"]
    return prompts.OBJECT_PROMPTS if only_named else [prompt]


def training_resolution(config: TrainConfig, model: StableDiffusion) -> int:
    """Side in pixels of the training pictures; an unsuitable one is refused under the name of its option."""
    try:
        return model.size(config.resolution, None)[0]
    except UserError as error:
        raise UserError(f"resolution: {str(error).partition(': ')[2]}") from None


def check_preview_prompts(config: TrainConfig, model: StableDiffusion, style: Style) -> None:
    """Refuses unusable preview prompts before the training, not in its midst."""
    if config.preview_prompts:
        prompts.require_placeholders(config.preview_prompts, {style.name: style})
        prompts.tokenize(model.tokenizer, config.preview_prompts, {style.name: style.vectors})


def train(model: StableDiffusion, jobs: Sequence[Job]) -> None:
    """Learns styles together, with datasets of one shape: advance, log, now and then save and preview."""
    config = jobs[0].config
    optimizer = inversion.make_optimizer(
        learning_rate=config.learning_rate,
        warmup_steps=config.warmup_steps,
        schedule=config.schedule,
        steps=config.steps,
        weight_decay=config.weight_decay,
    )
    settings = inversion.Settings(config.batch_size, config.gradient_accumulation, config.seed)
    advance = inversion.make_trainer(model.networks, optimizer, settings)
    with contextlib.ExitStack() as opened:
        stores = [opened.enter_context(open_checkpoints(job.folder / "checkpoints")) for job in jobs]
        begin = [inversion.start(job.style.table, optimizer) for job in jobs]
        begin = resumed(begin, stores) if config.resume else begin
        done = int(begin[0].step)
        if done > config.steps:
            raise UserError(f"{jobs[0].folder} has already done {done} steps: --steps must be at least as many")
        for job in jobs:
            write_config(job.config, job.folder / SETTINGS)
        logs = [opened.enter_context(run_log.RunLog(job.folder, done)) for job in jobs]
        progress = opened.enter_context(run_log.Progress(config.steps, done))
        states, datasets = inversion.stacked(begin), inversion.stacked([job.dataset for job in jobs])
        params = model.everywhere
        while done < config.steps:
            every = (config.log_every, config.save_every)
            before, done = done, min(config.steps, *(done + steps - done % steps for steps in every))
            began = time.perf_counter()
            states, metrics = advance(states, params, datasets, done - before)
            summaries = [inversion.summarize(own) for own in inversion.unstacked(metrics, len(jobs))]
            samples = (done - before) * config.batch_size * config.gradient_accumulation
            rate = {"images_per_second": samples / (time.perf_counter() - began)}
            for log, summary in zip(logs, summaries, strict=True):
                log.write(done, {**summary, **rate})
            progress.show(done, float(np.mean([summary["loss"] for summary in summaries])))
            if done // config.save_every > before // config.save_every or done == config.steps:
                for job, store, state in zip(jobs, stores, inversion.unstacked(states, len(jobs)), strict=True):
                    keep(model, job, store, state)
    for job, state in zip(jobs, inversion.unstacked(states, len(jobs)), strict=True):
        run_log.draw_loss(run_log.read_metrics(job.folder / run_log.METRICS), job.folder / "loss.png")
        style_in(job.style, state).save(job.folder / FILE_NAME)


def resumed(begin: Sequence[inversion.TrainState], stores: Sequence[Checkpoints]) -> list[inversion.TrainState]:
    """The newest states that all styles have, for an interruption may fall between two checkpoints of one step."""
    most = math.inf
    while True:
        states = [store.restore(state, most) or state for state, store in zip(begin, stores, strict=True)]
        steps = [int(state.step) for state in states]
        if min(steps) == max(steps):
            return states
        most = min(steps)


def keep(model: StableDiffusion, job: Job, store: Checkpoints, state: inversion.TrainState) -> None:
    """Leaves a state, the style as it is in it, and the preview behind."""
    done, config = int(state.step), job.config
    store.save(done, state)
    style = style_in(job.style, state)
    style.save(step_file(job.folder, done))
    size = model.size(config.resolution, config.resolution)
    preview(model, style, config.preview_prompts, size, job.folder / "previews" / f"step_{done:06d}.png")


def style_in(style: Style, state: inversion.TrainState) -> Style:
    """The style as it is in a state of the training."""
    return Style(style.name, np.asarray(state.table), style.metadata | {"steps": int(state.step)})


def sampling_command(config: TrainConfig) -> str:
    """What to type to paint with the style."""
    model = [] if config.model == "mini" else ["--model", config.model]
    return shlex.join(["python", "sample.py", *model, "--styles", config.output])


def command() -> None:
    """What the command line asks for."""
    config = parse(TrainConfig)
    share_cores(config.model, len(config.images) if config.separate else config.batch_size)
    run(config)
