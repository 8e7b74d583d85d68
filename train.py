"""Learns the style of one or several pictures: ``python train.py --images picture.png --prompts "... in the style of
{}"``.

Without arguments: the example picture, on the embedded model. ``--help`` lists everything.
"""

import time
from pathlib import Path

import numpy as np

from dreamstyler_jax import images, inversion, prompts, runlog
from dreamstyler_jax.checkpoints import open_checkpoints
from dreamstyler_jax.cli import main, parse
from dreamstyler_jax.config import TrainConfig, write_config
from dreamstyler_jax.errors import UserError
from dreamstyler_jax.examples import EXAMPLE_PICTURE
from dreamstyler_jax.pipeline import StableDiffusion
from dreamstyler_jax.preview import preview
from dreamstyler_jax.style import FILE_NAME, Style


def run(config: TrainConfig) -> None:
    """Trains, and leaves the run's folder behind."""
    folder = Path(config.output)
    if (folder / FILE_NAME).exists() and not config.resume:
        raise UserError(f"{folder} already holds a finished style: choose another --output, or remove it")
    paths = config.images or [str(EXAMPLE_PICTURE)]
    pictures = [images.load(path) for path in paths]
    model = StableDiffusion.load(config.model, variant=config.variant, dtype=config.dtype)
    resolution, _ = model.size(config.resolution, config.resolution)
    arrays = [images.to_array(images.fit(picture, resolution, resolution, config.framing)) for picture in pictures]
    texts = training_prompts(config, paths)
    prompts.tokenize(model.tokenizer, config.preview_prompts, {config.name: config.vectors})  # refuses bad ones now
    table = prompts.initial_table(model, config.init_word, config.stages, config.vectors)
    dataset = inversion.make_dataset(model, arrays, texts, config.vectors, flip=config.flip)
    write_config(config, folder / "config.yaml")
    metadata = {
        "model": model.name,
        "model_hash": model.hash,
        "images": paths,
        "prompts": texts,
        "init_word": config.init_word,
    }
    metadata |= {
        "steps": config.steps,
        "learning_rate": config.learning_rate,
        "seed": config.seed,
        "resolution": resolution,
    }
    table = train(config, model, dataset, table, folder)
    Style(config.name, table, metadata).save(folder / FILE_NAME)
    print(f"The style {config.name!r} is in {folder}; paint with it: python sample.py --styles {folder}")


def training_prompts(config: TrainConfig, paths: list[str]) -> list[str]:
    """Each picture's prompt: the option's, or that of the text file beside it, or one that describes nothing."""
    if config.prompts:
        return config.prompts * (len(paths) if len(config.prompts) == 1 else 1)
    beside = [Path(path).with_suffix(".txt") for path in paths]
    return [
        file.read_text(encoding="utf-8").strip() if file.exists() else "A painting in the style of {}"
        for file in beside
    ]


def train(
    config: TrainConfig, model: StableDiffusion, dataset: inversion.Dataset, table: np.ndarray, folder: Path
) -> np.ndarray:
    """The loop over log points: advance, log, now and then save and preview. Returns the learned table."""
    optimizer = inversion.make_optimizer(
        learning_rate=config.learning_rate,
        warmup_steps=config.warmup_steps,
        schedule=config.schedule,
        steps=config.steps,
        weight_decay=config.weight_decay,
    )
    settings = inversion.Settings(config.batch_size, config.gradient_accumulation, config.seed)
    advance = inversion.make_trainer(model.networks, optimizer, settings)
    state = inversion.start(table, optimizer)
    with open_checkpoints(folder / "checkpoints") as checkpoints:
        state = (checkpoints.restore(state) if config.resume else None) or state
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
                    preview(
                        model,
                        config.name,
                        state.table,
                        config.preview_prompts,
                        folder / "previews" / f"step_{done:06d}.png",
                    )
    runlog.draw_loss(runlog.read_metrics(folder / runlog.METRICS), folder / "loss.png")
    return np.asarray(state.table)


if __name__ == "__main__":
    main(lambda: run(parse(TrainConfig)), resumable=True)
