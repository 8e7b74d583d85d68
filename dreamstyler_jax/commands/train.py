"""``dreamstyler train``: learns the style of one or several pictures, or of each of them, in resumable runs."""

import contextlib
import dataclasses
import os
from collections.abc import Callable, Hashable, Sequence

import jax
import numpy as np
from PIL import Image

from dreamstyler_jax import inversion, prompts
from dreamstyler_jax.captioning.sidecars import find_pictures
from dreamstyler_jax.commands.boards import WeightsAndBiases, require_wandb
from dreamstyler_jax.commands.caption import caption_pictures, captioner_for
from dreamstyler_jax.commands.config import TrainConfig
from dreamstyler_jax.commands.config_files import to_yaml, write_config
from dreamstyler_jax.commands.models import load_model
from dreamstyler_jax.commands.processes import check_same_training, processes_of
from dreamstyler_jax.commands.recording import Recorder, Run, complete, is_kept, make_by_products
from dreamstyler_jax.commands.reporting.document import FILE_NAME as REPORT
from dreamstyler_jax.commands.run_log import RunLog
from dreamstyler_jax.commands.runs import (
    SETTINGS,
    check_resumable,
    check_same_inputs,
    continued,
    is_finished,
    painting_command,
    record_inputs,
)
from dreamstyler_jax.commands.sessions import note_session
from dreamstyler_jax.encoding import tokenize
from dreamstyler_jax.mini.shipped import EXAMPLE_PICTURE
from dreamstyler_jax.mini.vocabulary import warn_of_unknown_words
from dreamstyler_jax.provenance import describe
from dreamstyler_jax.runtime import hosts
from dreamstyler_jax.runtime.buckets import path_of
from dreamstyler_jax.runtime.checkpoints import Checkpoints, check_path, open_checkpoints
from dreamstyler_jax.runtime.console import announce
from dreamstyler_jax.runtime.errors import UserError, listing, shortened
from dreamstyler_jax.runtime.files import check_output, remove_temporaries
from dreamstyler_jax.runtime.goodput import Goodput
from dreamstyler_jax.runtime.interruption import patiently
from dreamstyler_jax.runtime.locks import only_process
from dreamstyler_jax.runtime.masks import as_masked_picture
from dreamstyler_jax.runtime.profiling import Window, tracing
from dreamstyler_jax.runtime.progress import TrainingProgress
from dreamstyler_jax.stable_diffusion.pipeline import StableDiffusion
from dreamstyler_jax.stopping import RATIO, WINDOW
from dreamstyler_jax.train_settings import AUTO_STEPS, BARE_PROMPTS, evaluation_interval, most_steps, suited
from dreamstyler_jax.training import begin, follow, prepare, train

WARM_UP = 2  # of a trace, in chunks of steps
PROMISE = "stopping after the steps that are running, to save them"
CAPTION_ADVICE = "dreamstyler caption FILE writes one beside a picture; or give --prompts, or --caption"


def run(config: TrainConfig) -> None:
    """Trains, and leaves the folder of each run."""
    with processes_of(config) as run_configs, tracing("" if hosts.follows() else config.profile) as window:
        train_all(config, run_configs, window)


def train_all(config: TrainConfig, run_configs: Sequence[TrainConfig], window: Window) -> None:
    """Trains the runs of this process; of a run that several processes share, the first one leaves the folder."""
    require_wandb(config.wandb)
    if config.caption:
        caption_pictures(find_pictures(config.images), config.captioner or captioner_for(config.model))
    # From here on the pictures have prompts.
    config, *run_configs = (dataclasses.replace(one, caption=False, captioner="") for one in (config, *run_configs))
    clock, asked, untold = Goodput(), [], []
    for run_config in run_configs:
        folder, paths = path_of(run_config.output), run_config.images or [os.path.relpath(EXAMPLE_PICTURE)]
        check_output(folder)
        check_path(folder)
        with clock.spending("data"):
            pictures = {path: as_masked_picture(path) for path in paths}
        untold += without_caption(run_config, paths)
        run_config = dataclasses.replace(run_config, prompts=training_prompts(run_config, paths))
        if not hosts.follows():  # the folder is the first host's business
            run_config = continued(run_config, folder)
            check_resumable(run_config, folder)
        asked.append((run_config, pictures))
    if not hosts.follows():
        prompts.warn_of_missing_captions(untold, CAPTION_ADVICE)
    with clock.spending("data"):
        model = load_model(config.model, config, dtype=config.dtype, loras=config.loras, clip_skip=config.clip_skip)
    width = model.networks.text_config.hidden_size
    pending = [
        (run_config, pictures)
        for run_config, pictures in [(suited(run_config, width), pictures) for run_config, pictures in asked]
        if hosts.follows() or not ends_here(model, run_config, pictures, clock)
    ]
    if not pending:
        return
    with clock.spending("data"):
        runs = [prepare_run(model, run_config, pictures) for run_config, pictures in pending]
    for item in runs:
        check_same_training(item)
    warn_of_unknown_words(config.model, [prompt for run_config, _ in pending for prompt in run_config.prompts])
    if hosts.follows():
        with patiently(PROMISE):
            follow(model, [item.lesson for item in runs], runs[0].config)
        print(f"Process {jax.process_index()} of {jax.process_count()} has done its part; the first one has the style")
        return
    diverged: dict[str, str] = {}
    try:
        for group in _alike(runs):
            diverged |= train_runs(model, group, clock, window)
    except KeyboardInterrupt:
        print(clock)
        raise
    for item in runs:
        if item.config.name not in diverged:
            where = f"{item.folder} ({REPORT} shows how it was learned)"
            print(f"The style {item.config.name!r} is in {where}; paint with it: {painting_command(item.config)}")
    print(clock)
    if diverged:
        raise UserError("; ".join(f"the style {name!r} was not learned: {why}" for name, why in diverged.items()))


def ends_here(model: StableDiffusion, config: TrainConfig, pictures: dict[str, Image.Image], clock: Goodput) -> bool:
    """Whether a run that is resumed has no step left to do; says so, and makes what it may lack beside its style.

    Raises:
        UserError: it was done with other pictures or another model, or another process trains in its folder.
    """
    folder = path_of(config.output)
    if not is_finished(config, folder):
        return False
    check_same_inputs(folder, {**describe(pictures), "model_hash": model.hash, "model_settings": model.settings})
    complete(model, config, folder, clock)
    print(f"The style {config.name!r} in {folder} is finished; to train it further, ask for more --steps")
    return True


def training_prompts(config: TrainConfig, paths: list[str]) -> list[str]:
    """Each picture's prompt: from the option, from the text file next to it, or one that describes nothing."""
    if config.prompts:
        return config.prompts * (len(paths) if len(config.prompts) == 1 else 1)
    return [prompts.sidecar_prompt(path) or BARE_PROMPTS[config.property] for path in paths]


def without_caption(config: TrainConfig, paths: Sequence[str]) -> list[str]:
    """The pictures of a style that neither an option nor a text file describes."""
    given = config.prompts or config.property == "object"
    return [] if given else [path for path in paths if prompts.sidecar_prompt(path) is None]


def prepare_run(model: StableDiffusion, config: TrainConfig, pictures: dict[str, Image.Image]) -> Run:
    """Encodes pictures and prompts, so that problems with the settings show before the training."""
    lesson = prepare(model, config.name, pictures, config.prompts, config)
    if config.resume and not hosts.follows():
        check_same_inputs(path_of(config.output), lesson.style.metadata)
    if config.preview_prompts:
        prompts.require_placeholders(config.preview_prompts, {config.name: lesson.style})
        tokenize(model.tokenizers, config.preview_prompts, {config.name: config.vectors})
    return Run(config, path_of(config.output), lesson)


def _alike(runs: Sequence[Run]) -> list[list[Run]]:
    """The runs that can be trained together: their datasets have one shape, and those resumed began as the others."""
    groups: dict[Hashable, list[Run]] = {}
    for item in runs:
        leaves, structure = jax.tree.flatten(item.lesson.dataset)
        learned_as = item.config.steps, item.config.learning_rate
        groups.setdefault((structure, *(leaf.shape for leaf in leaves), *learned_as), []).append(item)
    return list(groups.values())


def summary(run: Run) -> str:
    """What a run learns, from which picture, with which prompt and, if the model chose them, from which words."""
    pictures, config = run.lesson.style.metadata["images"], run.config
    source = pictures[0] if len(pictures) == 1 else f"{len(pictures)} pictures"
    if counted := run.lesson.style.metadata.get("counted"):
        shares = ", ".join(f"{100 * share:.0f} % of {picture}" for picture, share in counted.items())
        source += f", without what is transparent or masked ({shortened(shares, 200)} count)"
    count = run.lesson.style.layers
    layers = f", for each of {count} cross-attention layers," if count > 1 else ""
    words = run.lesson.style.metadata.get("starting_words")
    starts = f"\nIts stages start from the words that fit best: {', '.join(words)}" if words else ""
    return f"Learning the {config.property} {config.name!r}{layers} from {source}: {config.prompts[0]!r}{starts}"


def train_runs(model: StableDiffusion, runs: Sequence[Run], clock: Goodput, window: Window) -> dict[str, str]:
    """Learns the styles of runs whose datasets have one shape, with logs, checkpoints and previews.

    Returns:
        For each style whose training diverged, by its name, what happened. They do not disturb the others.

    Raises:
        UserError: another process trains in the folder of a run, or it cannot be written.
        KeyboardInterrupt: the process was told to stop; everything that was learned is saved.
    """
    config = runs[0].config
    with contextlib.ExitStack() as opened:
        for item in runs:
            opened.enter_context(only_process(item.folder))
            check_resumable(item.config, item.folder)  # another process may have trained here in the meantime
            for folder in (item.folder, item.folder / "steps", item.folder / "previews"):
                remove_temporaries(folder)
        stores = [opened.enter_context(open_checkpoints(item.folder / "checkpoints", config.keep)) for item in runs]
        states = [begin(item.lesson, config) for item in runs]
        states = newest_states(states, stores, config.save_every) if config.resume else states
        for item, state in zip(runs, states, strict=True):
            if int(state.step) > most_steps(config):
                raise UserError(f"{item.folder} has already done {state.step} steps: --steps must be at least as many")
        if config.resume and (
            new := [str(item.folder) for item, state in zip(runs, states, strict=True) if not state.step]
        ):
            print(f"There is no checkpoint in {listing(new)}: starting at step 0")
        announce(model, *model.loras.lines, *map(summary, runs))
        groups: dict[int, list[Recorder]] = {}
        for item, store, state in zip(runs, stores, states, strict=True):
            record_inputs(item.folder, item.lesson.style.metadata)
            write_config(item.config, item.folder / SETTINGS)
            done = int(state.step)
            note_session(item.folder, done)
            log = opened.enter_context(open_log(item, done))
            if done and is_kept(config, state):  # a kill may have come before them
                make_by_products(model, item, state, clock, log, only_missing=True)
            groups.setdefault(done, []).append(Recorder(model, item, state, store, log, clock))
        for recorders in groups.values():
            learn_together(model, recorders, clock, window)
        members = [recorder for recorders in groups.values() for recorder in recorders]
        return {member.run.config.name: member.diverged for member in members if member.diverged}


def open_log(run: Run, done: int) -> RunLog:
    """The log of a run that has done so many steps, with its boards."""
    config = run.config
    prompts_by_picture = zip(run.lesson.style.metadata["images"], config.prompts, strict=True)
    texts = {
        "prompts": "\n".join(f"* `{picture}`: {prompt}" for picture, prompt in prompts_by_picture),
        "settings": f"```yaml\n{to_yaml(config)}```",
    }
    boards = []
    if config.wandb:
        settings = {**dataclasses.asdict(config), "model_hash": run.lesson.style.metadata["model_hash"]}
        boards.append(WeightsAndBiases(run.folder, config.wandb, config.name, settings))
    return RunLog(run.folder, done, texts, boards)


def learn_together(model: StableDiffusion, recorders: Sequence[Recorder], clock: Goodput, window: Window) -> None:
    """Trains runs whose states are of one step, see `train_runs`."""
    config, states = recorders[0].run.config, [recorder.state for recorder in recorders]
    settled: list[int | None] = []
    with contextlib.ExitStack() as opened:
        at_most = config.steps == AUTO_STEPS
        progress = opened.enter_context(TrainingProgress(most_steps(config), int(states[0].step), at_most=at_most))
        opened.enter_context(patiently(PROMISE))
        lessons = [recorder.run.lesson for recorder in recorders]
        evaluations = [recorder.log.earlier("evaluation_loss") for recorder in recorders]
        chunks = train(model, lessons, config, states, _next_stop(config), evaluations)
        for chunk in clock.each("steps", window.over(chunks, WARM_UP)):
            stops = hosts.told_to_stop()
            for number, recorder in enumerate(recorders):  # what matters first
                recorder.save(chunk, number, stops=stops)
            losses = [m["loss"] for r, m in zip(recorders, chunk.metrics, strict=True) if m and not r.diverged]
            progress.show(chunk.step, float(np.mean(losses or [np.nan])))
            for number, recorder in enumerate(recorders):
                recorder.illustrate(chunk, number)
            settled = chunk.settled
            if all(over or r.diverged for over, r in zip(chunk.finished, recorders, strict=True)):
                break
            if stops:
                raise KeyboardInterrupt
        learned = [recorder for recorder in recorders if not recorder.diverged]
        for recorder in learned:
            recorder.finish()
        for recorder in learned:
            recorder.report()
    if evaluation_interval(config):
        for recorder, step in zip(recorders, settled, strict=False):  # a resumed run may have had nothing to do
            if recorder in learned:
                line = stopping_line(int(recorder.state.step), step)
                print(f"The evaluation loss of {recorder.run.config.name!r} {line}")


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


def newest_states(
    states: Sequence[inversion.TrainState], stores: Sequence[Checkpoints], save_every: int
) -> list[inversion.TrainState]:
    """The newest state of each run, from its checkpoints or else as given.

    If an interruption fell between the checkpoints of one step, all go back to the step before, so that they can go on
    together.
    """
    newest = [store.restore(state) or state for state, store in zip(states, stores, strict=True)]
    steps = [int(state.step) for state in newest]
    if not 0 < max(steps) - min(steps) <= save_every:
        return newest
    common = [store.restore(state, min(steps)) or state for state, store in zip(states, stores, strict=True)]
    return common if all(int(state.step) == min(steps) for state in common) else newest
