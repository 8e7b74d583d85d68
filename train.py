"""Learns the style of one or several pictures.

    python train.py --images picture.png --prompts "A painting of a village at night in the style of {}"

Without arguments: the example picture, on the embedded model. ``--help`` lists everything.
"""

import dataclasses
import os
import shlex
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dreamstyler_jax import images, inversion, prompts, runlog
from dreamstyler_jax.checkpoints import open_checkpoints
from dreamstyler_jax.cli import main, parse
from dreamstyler_jax.compilation import set_up
from dreamstyler_jax.config import BARE_PROMPTS, TrainConfig, write_config
from dreamstyler_jax.console import plain_warnings
from dreamstyler_jax.errors import UserError
from dreamstyler_jax.examples import EXAMPLE_PICTURE
from dreamstyler_jax.files import check_output
from dreamstyler_jax.pipeline import StableDiffusion
from dreamstyler_jax.preview import preview
from dreamstyler_jax.runs import SETTINGS, is_finished
from dreamstyler_jax.style import FILE_NAME, Style, step_file


def run(config: TrainConfig) -> None:
    """Trains, and leaves the run's folder behind."""
    folder = Path(config.output)
    check_output(folder)
    paths = config.images or [os.path.relpath(EXAMPLE_PICTURE)]
    pictures = [images.load(path) for path in paths]
    config = dataclasses.replace(config, prompts=training_prompts(config, paths))
    if is_finished(config, folder):
        print(f"The style {config.name!r} in {folder} is finished; --steps can ask for more than it was trained for")
        return
    model = StableDiffusion.load(config.model, variant=config.variant, dtype=config.dtype)
    resolution = training_resolution(config, model)
    arrays = [images.to_array(images.fit(picture, resolution, resolution, config.framing)) for picture in pictures]
    table = prompts.initial_table(model, config.init_word, config.stages, config.vectors)
    start = Style(config.name, table, metadata_of(config, model, paths, resolution))
    check_preview_prompts(config, model, start)
    texts = [wordings(config, prompt) for prompt in config.prompts]
    dataset = inversion.make_dataset(model, arrays, texts, config.vectors, flip=config.flip, name=config.name)
    train(config, model, dataset, start, folder).save(folder / FILE_NAME)
    print(f"The style {config.name!r} is in {folder}; paint with it: {sampling_command(config)}")


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


def train(config: TrainConfig, model: StableDiffusion, dataset: inversion.Dataset, style: Style, folder: Path) -> Style:
    """The loop over log points: advance, log, now and then save and preview. Takes and returns the style."""
    optimizer = inversion.make_optimizer(
        learning_rate=config.learning_rate,
        warmup_steps=config.warmup_steps,
        schedule=config.schedule,
        steps=config.steps,
        weight_decay=config.weight_decay,
    )
    settings = inversion.Settings(config.batch_size, config.gradient_accumulation, config.seed)
    advance = inversion.make_trainer(model.networks, optimizer, settings)
    state = inversion.start(style.table, optimizer)
    size = model.size(config.resolution, config.resolution)
    with open_checkpoints(folder / "checkpoints") as checkpoints:
        state = (checkpoints.restore(state) if config.resume else None) or state
        if int(state.step) > config.steps:
            raise UserError(f"{folder} has already done {state.step} steps: --steps must be at least as many")
        write_config(config, folder / SETTINGS)
        with runlog.RunLog(folder, config.steps, int(state.step)) as log:
            while (step := int(state.step)) < config.steps:
                chunk = min(config.log_every, config.steps - step)
                began = time.perf_counter()
                state, metrics = advance(state, model.params, dataset, chunk)
                done, summary = step + chunk, inversion.summarize(metrics)
                samples = chunk * config.batch_size * config.gradient_accumulation
                log.write(done, {**summary, "images_per_second": samples / (time.perf_counter() - began)})
                if done // config.save_every > step // config.save_every or done == config.steps:
                    checkpoints.save(done, state)
                    style = style_in(style, state)
                    style.save(step_file(folder, done))
                    preview(model, style, config.preview_prompts, size, folder / "previews" / f"step_{done:06d}.png")
    runlog.draw_loss(runlog.read_metrics(folder / runlog.METRICS), folder / "loss.png")
    return style_in(style, state)


def style_in(style: Style, state: inversion.TrainState) -> Style:
    """The style as it is in a state of the training."""
    return Style(style.name, np.asarray(state.table), style.metadata | {"steps": int(state.step)})


def sampling_command(config: TrainConfig) -> str:
    """What to type to paint with the style."""
    model = [] if config.model == "mini" else ["--model", config.model]
    return shlex.join(["python", "sample.py", *model, "--styles", config.output])


if __name__ == "__main__":
    plain_warnings()
    set_up()
    main(lambda: run(parse(TrainConfig)), resumable=True)
