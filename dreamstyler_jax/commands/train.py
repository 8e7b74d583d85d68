"""``dreamstyler train``: learns the style of one or several pictures, or of each of them, in resumable runs."""

import contextlib
import dataclasses
import math
import os
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from PIL import Image

from dreamstyler_jax import inversion, prompts
from dreamstyler_jax.commands import run_log
from dreamstyler_jax.commands.cli import command_line
from dreamstyler_jax.commands.config import MODEL_OPTIONS, SampleConfig, TrainConfig
from dreamstyler_jax.commands.config_files import write_config
from dreamstyler_jax.commands.models import load_model
from dreamstyler_jax.commands.previews import write_preview
from dreamstyler_jax.commands.runs import SETTINGS, check_resumable, is_finished, runs_of
from dreamstyler_jax.encoding import tokenize
from dreamstyler_jax.mini.shipped import EXAMPLE_PICTURE
from dreamstyler_jax.mini.vocabulary import warn_of_unknown_words
from dreamstyler_jax.runtime.buckets import path_of
from dreamstyler_jax.runtime.checkpoints import Checkpoints, open_checkpoints
from dreamstyler_jax.runtime.compilation import share_cores
from dreamstyler_jax.runtime.console import announce
from dreamstyler_jax.runtime.errors import UserError, shortened
from dreamstyler_jax.runtime.files import check_output
from dreamstyler_jax.runtime.masks import as_masked_picture
from dreamstyler_jax.runtime.progress import TrainingProgress
from dreamstyler_jax.stable_diffusion.pipeline import StableDiffusion
from dreamstyler_jax.stopping import RATIO, WINDOW
from dreamstyler_jax.style import FILE_NAME, step_file
from dreamstyler_jax.train_settings import AUTO_STEPS, BARE_PROMPTS, evaluation_interval, most_steps
from dreamstyler_jax.training import Chunk, Lesson, begin, prepare, style_in, train


class Run(NamedTuple):
    """A run: its settings and folder, and the style to learn.

    Attributes:
        config: with the prompt of each picture.
        folder: where it leaves everything.
        lesson: the style before its training, and the data.
    """

    config: TrainConfig
    folder: Path
    lesson: Lesson


def run(config: TrainConfig) -> None:
    """Trains, and leaves the folder of each run."""
    share_cores(config.model, len(config.images) if config.separate else config.batch_size)
    pending = []
    for run_config in runs_of(config):
        folder, paths = path_of(run_config.output), run_config.images or [os.path.relpath(EXAMPLE_PICTURE)]
        check_output(folder)
        pictures = {path: as_masked_picture(path) for path in paths}
        run_config = dataclasses.replace(run_config, prompts=training_prompts(run_config, paths))
        check_resumable(run_config, folder)
        if is_finished(run_config, folder):
            print(f"The style {run_config.name!r} in {folder} is finished; to train it further, ask for more --steps")
        else:
            pending.append((run_config, pictures))
    if not pending:
        return
    model = load_model(config.model, config, dtype=config.dtype, loras=config.loras, clip_skip=config.clip_skip)
    runs = [prepare_run(model, run_config, pictures) for run_config, pictures in pending]
    warn_of_unknown_words(config.model, [prompt for run_config, _ in pending for prompt in run_config.prompts])
    for group in _of_one_shape(runs):
        train_runs(model, group)
    for run_config, _ in pending:
        print(f"The style {run_config.name!r} is in {run_config.output}; paint with it: {painting_command(run_config)}")


def training_prompts(config: TrainConfig, paths: list[str]) -> list[str]:
    """Each picture's prompt: from the option, from the text file next to it, or one that describes nothing."""
    if config.prompts:
        return config.prompts * (len(paths) if len(config.prompts) == 1 else 1)
    return [prompts.sidecar_prompt(path) or BARE_PROMPTS[config.property] for path in paths]


def prepare_run(model: StableDiffusion, config: TrainConfig, pictures: dict[str, Image.Image]) -> Run:
    """Encodes pictures and prompts, so that problems with the settings show before the training."""
    lesson = prepare(model, config.name, pictures, config.prompts, config)
    if config.preview_prompts:
        prompts.require_placeholders(config.preview_prompts, {config.name: lesson.style})
        tokenize(model.tokenizers, config.preview_prompts, {config.name: config.vectors})
    return Run(config, path_of(config.output), lesson)


def _of_one_shape(runs: Sequence[Run]) -> list[list[Run]]:
    groups: dict[Hashable, list[Run]] = {}
    for item in runs:
        leaves, structure = jax.tree.flatten(item.lesson.dataset)
        groups.setdefault((structure, *(leaf.shape for leaf in leaves)), []).append(item)
    return list(groups.values())


def summary(run: Run) -> str:
    """What a run learns, from which picture and with which prompt, in a line."""
    pictures, config = run.lesson.style.metadata["images"], run.config
    source = pictures[0] if len(pictures) == 1 else f"{len(pictures)} pictures"
    if counted := run.lesson.style.metadata.get("counted"):
        shares = ", ".join(f"{100 * share:.0f} % of {picture}" for picture, share in counted.items())
        source += f", without what is transparent or masked ({shortened(shares, 200)} count)"
    count = run.lesson.style.layers
    layers = f", for each of {count} cross-attention layers," if count > 1 else ""
    return f"Learning the {config.property} {config.name!r}{layers} from {source}: {config.prompts[0]!r}"


def train_runs(model: StableDiffusion, runs: Sequence[Run]) -> None:
    """Learns the styles of runs whose datasets have one shape, with logs, checkpoints and previews."""
    config = runs[0].config
    with contextlib.ExitStack() as opened:
        stores = [opened.enter_context(open_checkpoints(item.folder / "checkpoints")) for item in runs]
        states = [begin(item.lesson, config) for item in runs]
        states = newest_common_states(states, stores) if config.resume else states
        done = int(states[0].step)
        if done > most_steps(config):
            raise UserError(f"{runs[0].folder} has already done {done} steps: --steps must be at least as many")
        announce(model, *model.loras.lines, *map(summary, runs))
        for item in runs:
            write_config(item.config, item.folder / SETTINGS)
        logs = [opened.enter_context(run_log.RunLog(item.folder, done)) for item in runs]
        progress = opened.enter_context(TrainingProgress(most_steps(config), done, at_most=config.steps == AUTO_STEPS))
        lessons, evaluations = [item.lesson for item in runs], [log.earlier("evaluation_loss") for log in logs]
        settled: list[int | None] = []
        for chunk in train(model, lessons, config, states, _next_stop(config), evaluations):
            for number, (item, log, store) in enumerate(zip(runs, logs, stores, strict=True)):
                record(model, item, log, store, chunk, number)
            progress.show(chunk.step, float(np.mean([metrics["loss"] for metrics in chunk.metrics if metrics])))
            states, settled = chunk.states, chunk.settled
    for item, state in zip(runs, states, strict=True):
        finish(item, state)
    if evaluation_interval(config):
        for state, item, step in zip(states, runs, settled, strict=False):  # a resumed run may have had nothing to do
            print(f"The evaluation loss of {item.config.name!r} {stopping_line(int(state.step), step)}")


def record(
    model: StableDiffusion, run: Run, log: run_log.RunLog, store: Checkpoints, chunk: Chunk, number: int
) -> None:
    """Writes what a chunk of the training has brought to one of its runs."""
    metrics, state, finished = chunk.metrics[number], chunk.states[number], chunk.finished[number]
    if metrics is None:
        return
    log.write(chunk.step, metrics)
    if finished or chunk.step % run.config.save_every == 0:
        log.save()
        keep(model, run, store, state)
    if finished and not all(chunk.finished):  # the others may go on for long
        style_in(run.lesson.style, state).save(run.folder / FILE_NAME)


def finish(run: Run, state: inversion.TrainState) -> None:
    """Writes the style and the chart of the loss."""
    style_in(run.lesson.style, state).save(run.folder / FILE_NAME)
    if metrics := run_log.read_metrics(run.folder / run_log.METRICS):  # a resumed run may have lost its log
        run_log.draw_loss(metrics, run.folder / "loss.png")


def stopping_line(steps: int, settled: int | None) -> str:
    """What the evaluation loss says of a training of so many steps."""
    if settled is None:
        return f"has not settled in {steps} steps: more could help"
    why = f"the variance of its last {WINDOW} values was below {RATIO:.0%} of that of all values"
    if settled == steps:
        return f"had settled after {steps} steps, so training stopped: {why}"
    return f"had settled after {settled} of {steps} steps, where --steps auto would have stopped: {why}"


def _next_stop(config: TrainConfig) -> Callable[[int], int]:
    """After how many steps to log or to save next."""
    return lambda done: min(done + every - done % every for every in (config.log_every, config.save_every))


def newest_common_states(
    states: Sequence[inversion.TrainState], stores: Sequence[Checkpoints]
) -> list[inversion.TrainState]:
    """The newest states that all runs have: an interruption may fall between the checkpoints of one step."""
    max_step = math.inf
    while True:
        restored = [store.restore(state, max_step) or state for state, store in zip(states, stores, strict=True)]
        steps = [int(state.step) for state in restored]
        if min(steps) == max(steps):
            return restored
        max_step = min(steps)


def keep(model: StableDiffusion, run: Run, store: Checkpoints, state: inversion.TrainState) -> None:
    """Keeps a state: as a checkpoint, as the style that it makes, and as previews."""
    step, config = int(state.step), run.config
    store.save(step, state)
    style = style_in(run.lesson.style, state)
    style.save(step_file(run.folder, step))
    size = model.size(config.resolution, config.resolution)
    write_preview(model, style, config.preview_prompts, size, run.folder / "previews" / f"step_{step:06d}.png")


def painting_command(config: TrainConfig) -> str:
    """The command that paints with the style."""
    options = {name: getattr(config, name) for name in MODEL_OPTIONS}
    return command_line("sample", SampleConfig(styles=[config.output], loras=[config.loras], **options))
