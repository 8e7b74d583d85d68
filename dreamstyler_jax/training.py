"""Learning styles from pictures: prepares what `inversion` needs and runs its loop, for one style or for several."""

import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from PIL import Image

from dreamstyler_jax import encoding, framing, inversion, provenance
from dreamstyler_jax.directions import mean_norm, with_norm, with_norms_of
from dreamstyler_jax.inversion import Advance, Dataset, Load, Metrics, TrainState
from dreamstyler_jax.mixing import with_stages
from dreamstyler_jax.optimizers import make_optimizer
from dreamstyler_jax.prompts import OBJECT_PROMPTS
from dreamstyler_jax.runtime import compilation, hosts
from dreamstyler_jax.runtime.devices import on_this_host, replicate
from dreamstyler_jax.runtime.errors import UserError
from dreamstyler_jax.runtime.memory import fewer, is_exhausted, nothing_fits, say_what_fits
from dreamstyler_jax.stable_diffusion.networks import Networks
from dreamstyler_jax.stable_diffusion.pipeline import StableDiffusion
from dreamstyler_jax.starting_words import best_words
from dreamstyler_jax.stopping import Watch, settled_at
from dreamstyler_jax.style import Style, check_layers, check_widths, load_styles, with_layers
from dreamstyler_jax.train_settings import (
    AUTO_STEPS,
    AUTO_WORD,
    BARE_PROMPTS,
    TrainSettings,
    evaluation_interval,
    most_steps,
    peak_learning_rate,
    starting_word,
)

_RECORDED = ("batch_size", "norm", "prior", "average", "seed", "framing", "flip")
_CHOICES = ("layers", "timesteps")  # recorded where they are not the default
# Styles learned one after another share compiled programs, which belong to the object that this makes.
_make_trainer = functools.lru_cache(maxsize=16)(inversion.make_trainer)


class Lesson(NamedTuple):
    """A style to learn.

    Attributes:
        style: the style before its training.
        dataset: what it is learned from.
        evaluated: what measures progress, the same or pictures that are held out.
    """

    style: Style
    dataset: Dataset
    evaluated: Dataset


class Chunk(NamedTuple):
    """The result of a few training steps.

    Attributes:
        step: steps done so far.
        states: the state of each lesson; of a finished one its last.
        metrics: for each lesson ``loss``, ``gradient_norm``, ``stage_loss`` (means over the steps),
            ``images_per_second``, compiling not counted, and, after an evaluation, ``evaluation_loss`` of each stage;
            None for a lesson that was finished before.
        finished: whether each lesson is.
        settled: after how many steps each lesson's evaluation loss had settled; None if it has not.
    """

    step: int
    states: list[TrainState]
    metrics: list[dict[str, Any] | None]
    finished: list[bool]
    settled: list[int | None]


def prepare(
    model: StableDiffusion,
    name: str,
    pictures: Mapping[str, Image.Image],
    prompts: Sequence[str],
    settings: TrainSettings,
) -> Lesson:
    """Encodes pictures and prompts.

    Args:
        model: the model to learn with.
        name: of the style.
        pictures: the training pictures, by the name or path to record; RGB, or RGBA with a mask, see `runtime.masks`.
        prompts: what each picture shows except its style, with {} or {name} where the style stands.
        settings: how to learn.

    Raises:
        UserError: the model is distilled as LCM, a prompt has no placeholder or is too long, the model cannot take
            pictures of that resolution or sizes to be told, a mask leaves too little, or the style to start from does
            not fit.
    """
    if model.networks.embeds_guidance:
        raise UserError(
            f"{model.name} is distilled as LCM, and no style can be learned with it: learn the style with the model "
            "that it was distilled from, and paint with either"
        )
    model = model.with_size_conditions(settings.original_size, settings.crop_top_left)
    resolution = model.side("resolution", settings.resolution)
    squares = framing.squares_of(pictures, resolution, settings.framing, settings.seed)
    wordings = [_wordings(settings, prompt) for prompt in prompts]
    dataset = inversion.make_dataset(
        model,
        [of_picture.pixels for of_picture in squares],
        wordings,
        settings.vectors,
        flip=settings.flip,
        name=name,
        counted=[of_picture.counted for of_picture in squares],
    )
    learned, evaluated = _held_out(dataset, settings.held_out)
    tables, origin = _start(model, learned, settings)
    if settings.norm == "fixed":
        tables = jax.tree.map(with_norm, dict(tables), dict(model.vocabulary_vectors))
    metadata: dict[str, Any] = {"property": settings.property} | origin
    metadata |= {setting: getattr(settings, setting) for setting in _RECORDED}
    metadata |= {"learning_rate": peak_learning_rate(settings)}
    metadata |= {"prompts": list(prompts), **provenance.describe(pictures), "resolution": resolution}
    metadata |= {"model": model.name, "model_hash": model.hash, "loras": str(model.loras)}
    metadata |= {"model_settings": model.settings}
    metadata |= {"clip_skip": model.networks.clip_skip}
    vocabularies = {name: np.asarray(words) for name, words in model.vocabulary_vectors.items()}
    metadata |= {"word_norms": {name: float(mean_norm(words)) for name, words in vocabularies.items()}}
    told = {name: list(value) for name in ("original_size", "crop_top_left") if (value := getattr(settings, name))}
    metadata |= told
    if masked := {name: round(of.share, 4) for name, of in zip(pictures, squares, strict=True) if of.share < 1}:
        metadata["counted"] = masked
    chosen = {name: getattr(settings, name) for name in _CHOICES}
    metadata |= {name: value for name, value in chosen.items() if value != getattr(TrainSettings, name)}
    return Lesson(Style(name, tables, metadata), learned, evaluated)


def _held_out(dataset: Dataset, count: int) -> tuple[Dataset, Dataset]:
    """The pictures to learn from, and those to measure with: the last ones, or the same."""
    pictures = len(dataset.mean)
    if not count:
        return dataset, dataset
    if count >= pictures:
        raise UserError(f"held_out: {count} of {pictures} pictures leave none to learn from")
    parts = slice(pictures - count), slice(pictures - count, None)
    learned, evaluated = (jax.tree.map(lambda leaf, part=part: leaf[part], dataset) for part in parts)
    return learned, evaluated


def _start(
    model: StableDiffusion, dataset: Dataset, settings: TrainSettings
) -> tuple[Mapping[str, np.ndarray], dict[str, Any]]:
    """The tables before training, and what is recorded of where they are from."""
    path, layers = settings.init_style, model.networks.unet_config.cross_attentions if settings.layers == "each" else 1
    if not path:
        word = starting_word(settings)
        words, origin = [word] * settings.stages, {"init_word": word}
        if word == AUTO_WORD:
            words = best_words(model, dataset, settings.stages, settings.vectors)
            origin |= {"starting_words": words}
        return encoding.initial_tables(model, words, settings.vectors, layers), origin
    try:
        styles = list(load_styles([path]).values())
    except UserError as error:
        raise UserError(f"init_style: {error}") from error
    if len(styles) > 1:
        raise UserError(f"init_style: {path} holds {len(styles)} styles: give the file of one of them")
    (style,) = styles
    check_widths({style.name: style}, model.networks.text_widths)
    if style.vectors != settings.vectors:
        raise UserError(f"init_style: {path} has {style.vectors} vectors per stage: give --vectors {style.vectors}")
    if style.layers > layers:
        raise UserError(f"init_style: {path} has vectors for each cross-attention layer: give --layers each")
    check_layers({style.name: style}, model.networks.unet_config.cross_attentions)
    tables = with_stages(style, settings.stages)
    if layers > style.layers:
        tables = {name: np.repeat(with_layers(table), layers, axis=1) for name, table in tables.items()}
    return tables, {"init_style": path, "init_style_hash": style.hash}


def _wordings(settings: TrainSettings, prompt: str) -> Sequence[str]:
    """The wordings of a training prompt: several for an object that nobody describes."""
    undescribed = settings.property == "object" and prompt == BARE_PROMPTS["object"]
    return OBJECT_PROMPTS if undescribed else [prompt]


def train(
    model: StableDiffusion,
    lessons: Sequence[Lesson],
    settings: TrainSettings,
    states: Sequence[TrainState],
    next_stop: Callable[[int], int],
    evaluations: Sequence[Sequence[Sequence[float]]] = (),
    advance: Advance | None = None,
) -> Iterator[Chunk]:
    """Trains lessons whose datasets have one shape together, each as if it were alone, and yields at every stop.

    Args:
        model: the model that the lessons were prepared with.
        lessons: the styles to learn.
        settings: how to learn.
        states: where to begin, all at the same step, from `begin` or from a checkpoint.
        next_stop: maps the steps done to the step at which to yield next; it is called until all lessons are finished.
        evaluations: of a resumed training, the ``evaluation_loss`` of each lesson at its evaluations so far.
        advance: the loop, by default that of `inversion.make_trainer` for these settings.

    Raises:
        UserError: a device's memory is too small for one sample at a time.
    """
    networks = model.with_size_conditions(settings.original_size, settings.crop_top_left).networks
    loop = _Loop(model, networks, lessons, settings, advance)
    hosts.lead(1)
    states = hosts.from_the_first(states)
    done, last, every = int(states[0].step), most_steps(settings), evaluation_interval(settings)
    learners = [
        _Learner(lesson, state, settings, Watch(networks, model.params, lesson.evaluated, lesson.style.stages, losses))
        for lesson, state, losses in zip(lessons, states, evaluations or [()] * len(lessons), strict=True)
    ]
    while not all(learner.finished for learner in learners):
        evaluation = done + every - done % every if every else last
        before, done = done, min(last, evaluation, next_stop(done))
        hosts.lead(done - before)
        states, metrics, seconds = loop.run([learner.state for learner in learners], done - before)
        samples = (done - before) * settings.batch_size * settings.gradient_accumulation
        rate = {"images_per_second": samples / max(seconds, 1e-9)}
        now = zip(learners, states, map(inversion.summarize, metrics), strict=True)
        rows = [learner.take(state, summary | rate) for learner, state, summary in now]
        states, finished, settled = zip(*((item.state, item.finished, item.settled) for item in learners), strict=True)
        yield Chunk(done, list(states), rows, list(finished), list(settled))


def follow(model: StableDiffusion, lessons: Sequence[Lesson], settings: TrainSettings) -> None:
    """Does this process's part of a training that the first process of its job leads, until that one stops.

    Args:
        model, lessons, settings: the same as the first process gives to `train`.

    Raises:
        KeyboardInterrupt: one of the processes was told to stop; the first one saves what was learned.
        UserError: another process has failed.
    """
    networks = model.with_size_conditions(settings.original_size, settings.crop_top_left).networks
    loop = _Loop(model, networks, lessons, settings, None)
    states = [begin(lesson, settings) for lesson in lessons]
    if not hosts.follow():
        return
    states = hosts.from_the_first(states)
    while steps := hosts.follow():
        states, _, _ = loop.run(states, steps)
        if hosts.told_to_stop():
            raise KeyboardInterrupt


class _Loop:
    """The training loop with all that it needs on the devices; if it exhausts their memory, it does less at once."""

    def __init__(
        self,
        model: StableDiffusion,
        networks: Networks,
        lessons: Sequence[Lesson],
        settings: TrainSettings,
        advance: Advance | None,
    ):
        self._advance = advance or _trainer(networks.with_remat(model.params) if settings.remat else networks, settings)
        params = model.replicated_params  # here, where they are also painted with
        with hosts.on_all_devices_joined():
            self._datasets = inversion.stack_trees([lesson.dataset for lesson in lessons])
            self._params = replicate(params)
            self._load = inversion.whole_load(len(lessons), settings.batch_size)

    def run(self, states: Sequence[TrainState], steps: int) -> tuple[list[TrainState], list[Metrics], float]:
        """Does so many steps; also returns how many seconds they took, without compiling."""
        while True:
            began, compiled = time.perf_counter(), compilation.seconds_compiling()
            try:
                with hosts.on_all_devices_joined():
                    given = inversion.stack_trees(states)  # anew each time, since the loop uses it up
                    results = self._advance(given, self._params, self._datasets, steps, self._load)
                stacked, metrics = on_this_host(jax.block_until_ready(results))
            except jax.errors.JaxRuntimeError as error:
                self._load = _less(self._load, error)
                continue
            seconds = time.perf_counter() - began - (compilation.seconds_compiling() - compiled)
            count = len(states)
            return inversion.unstack_trees(stacked, count), inversion.unstack_trees(metrics, count), seconds


def _less(load: Load, error: Exception) -> Load:
    """What to do at once after an error: fewer styles, or else fewer samples, if memory was exhausted."""
    if not is_exhausted(error):
        raise error
    if load.styles > 1:
        less = Load(fewer(load.styles), load.samples)
        say_what_fits(f"{load.styles} styles", f"learning {less.styles} after {less.styles}, with the same result")
    elif load.samples > 1:
        less = Load(1, fewer(load.samples))
        each = load.samples // less.samples
        say_what_fits(f"{load.samples} samples", f"computing them in {each} passes of {less.samples}, the same step")
    else:
        advice = "give --remat true, a smaller --resolution, or --dtype bfloat16 if it is not"
        raise nothing_fits("one sample at a time", advice) from error
    return less


class _Learner:
    """How far one of the lessons has come that are learned together."""

    def __init__(self, lesson: Lesson, state: TrainState, settings: TrainSettings, watch: Watch):
        self.state = state
        self._lesson, self._settings, self._watch = lesson, settings, watch

    @property
    def settled(self) -> int | None:
        """After how many steps the evaluation loss had settled."""
        number = settled_at(self._watch.losses)
        return None if number is None else (number + 1) * evaluation_interval(self._settings)

    @property
    def finished(self) -> bool:
        """Whether the steps are done, or the loss has settled and --steps is auto."""
        stops = self._settings.steps == AUTO_STEPS and self.settled is not None
        return stops or int(self.state.step) >= most_steps(self._settings)

    def take(self, state: TrainState, metrics: dict[str, Any]) -> dict[str, Any] | None:
        """Goes on to a state, unless it is finished; returns the metrics, with an evaluation if it is time for one."""
        if self.finished:
            return None
        self.state, every = state, evaluation_interval(self._settings)
        if every and int(state.step) % every == 0:
            metrics["evaluation_loss"] = self._watch.measure(learned_tables(self._lesson.style, state))
        return metrics


def _trainer(networks: Networks, settings: TrainSettings) -> Callable[..., Any]:
    """The training loop: the same, with its compiled programs, for all settings that do not differ in what it does."""
    step_settings = inversion.Settings(
        settings.batch_size, settings.gradient_accumulation, settings.seed, settings.average, settings.timesteps
    )
    return _make_trainer(networks, make_optimizer(settings), step_settings)


def begin(lesson: Lesson, settings: TrainSettings) -> TrainState:
    """The state before the first step."""
    return inversion.start(lesson.style.tables, make_optimizer(settings), averaged=settings.average > 0)


def learned_tables(style: Style, state: TrainState) -> dict[str, np.ndarray]:
    """The tables that a training has learned: the last ones, or their moving average."""
    tables = {encoder: np.asarray(table) for encoder, table in state.tables.items()}
    if state.average is None:
        return tables
    average = optax.tree.bias_correction(state.average, style.metadata["average"], state.step)
    means = {encoder: np.asarray(table) for encoder, table in average.items()}
    return jax.tree.map(with_norms_of, means, tables) if style.metadata["norm"] == "fixed" else means


def style_in(style: Style, state: TrainState) -> Style:
    """The style as it is in a state of its training."""
    return Style(style.name, learned_tables(style, state), {**style.metadata, "steps": int(state.step)})
