"""Learning styles from pictures: prepares what `inversion` needs and runs its loop, for one style or for several."""

import dataclasses
import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import optax
from PIL import Image

from dreamstyler_jax import encoding, inversion
from dreamstyler_jax.inversion import Dataset, TrainState
from dreamstyler_jax.prompts import OBJECT_PROMPTS
from dreamstyler_jax.runtime import compilation, images
from dreamstyler_jax.runtime.errors import UserError
from dreamstyler_jax.stable_diffusion.networks import Networks
from dreamstyler_jax.stable_diffusion.pipeline import StableDiffusion
from dreamstyler_jax.style import Style
from dreamstyler_jax.train_settings import BARE_PROMPTS, TrainSettings

_RECORDED = ("property", "init_word", "batch_size", "learning_rate", "seed", "framing")


class Lesson(NamedTuple):
    """A style to learn: the style before its training, and the data that it is learned from."""

    style: Style
    dataset: Dataset


class Chunk(NamedTuple):
    """The result of a few training steps.

    Attributes:
        step: steps done so far.
        states: the state of each lesson.
        metrics: for each lesson ``loss``, ``gradient_norm``, ``stage_loss`` (means over the steps) and
            ``images_per_second``, compiling not counted.
    """

    step: int
    states: list[TrainState]
    metrics: list[dict[str, Any]]


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
        pictures: the training pictures, by the name or path to record.
        prompts: what each picture shows except its style, with {} or {name} where the style stands.
        settings: how to learn.

    Raises:
        UserError: the model is distilled as LCM, a prompt has no placeholder or is too long, or the model cannot take
            pictures of that resolution or sizes to be told.
    """
    if model.networks.embeds_guidance:
        raise UserError(
            f"{model.name} is distilled as LCM, and no style can be learned with it: learn the style with the model "
            "that it was distilled from, and paint with either"
        )
    model = model.with_size_conditions(settings.original_size, settings.crop_top_left)
    resolution = model.side("resolution", settings.resolution)
    arrays = [
        images.to_array(images.fit(picture, resolution, resolution, settings.framing)) for picture in pictures.values()
    ]
    metadata = {setting: getattr(settings, setting) for setting in _RECORDED}
    metadata |= {"prompts": list(prompts), "images": list(pictures), "resolution": resolution}
    metadata |= {"model": model.name, "model_hash": model.hash, "loras": str(model.loras)}
    metadata |= {"clip_skip": model.networks.clip_skip}
    told = {name: list(value) for name in ("original_size", "crop_top_left") if (value := getattr(settings, name))}
    metadata |= told
    metadata |= {"layers": settings.layers} if settings.layers != TrainSettings.layers else {}
    layers = model.networks.unet_config.cross_attentions if settings.layers == "each" else 1
    tables = encoding.initial_tables(model, settings.init_word, settings.stages, settings.vectors, layers)
    wordings = [_wordings(settings, prompt) for prompt in prompts]
    dataset = inversion.make_dataset(model, arrays, wordings, settings.vectors, flip=settings.flip, name=name)
    return Lesson(Style(name, tables, metadata), dataset)


def _wordings(settings: TrainSettings, prompt: str) -> Sequence[str]:
    """The wordings of a training prompt: several for an object that nobody describes."""
    undescribed = settings.property == "object" and prompt == BARE_PROMPTS["object"]
    return OBJECT_PROMPTS if undescribed else [prompt]


def make_optimizer(settings: TrainSettings) -> optax.GradientTransformation:
    """The optimizer that the settings describe."""
    return inversion.make_optimizer(
        learning_rate=settings.learning_rate,
        warmup_steps=settings.warmup_steps,
        schedule=settings.schedule,
        steps=settings.steps,
        weight_decay=settings.weight_decay,
    )


def train(
    model: StableDiffusion,
    lessons: Sequence[Lesson],
    settings: TrainSettings,
    states: Sequence[TrainState],
    next_stop: Callable[[int], int],
) -> Iterator[Chunk]:
    """Trains lessons whose datasets have one shape together, each as if it were alone, and yields at every stop.

    Args:
        model: the model that the lessons were prepared with.
        lessons: the styles to learn.
        settings: how to learn.
        states: where to begin, all at the same step, from `inversion.start` or from a checkpoint.
        next_stop: maps the steps done to the step at which to yield next; it is called until ``settings.steps``.
    """
    networks = model.with_size_conditions(settings.original_size, settings.crop_top_left).networks
    advance = _trainer(networks.with_remat(model.params) if settings.remat else networks, settings)
    done = int(states[0].step)
    stacked = inversion.stack_trees(states)
    datasets = inversion.stack_trees([lesson.dataset for lesson in lessons])
    params = model.replicated_params
    while done < settings.steps:
        before, done = done, min(settings.steps, next_stop(done))
        began, compiled = time.perf_counter(), compilation.seconds_compiling()
        stacked, metrics = advance(stacked, params, datasets, done - before)
        summaries = [inversion.summarize(of_lesson) for of_lesson in inversion.unstack_trees(metrics, len(lessons))]
        seconds = time.perf_counter() - began - (compilation.seconds_compiling() - compiled)
        samples = (done - before) * settings.batch_size * settings.gradient_accumulation
        rate = {"images_per_second": samples / max(seconds, 1e-9)}
        yield Chunk(done, inversion.unstack_trees(stacked, len(lessons)), [summary | rate for summary in summaries])


def _trainer(networks: Networks, settings: TrainSettings) -> Callable[..., Any]:
    """The training loop, the same for the same settings: styles learned one after another share compiled programs."""
    names = [field.name for field in dataclasses.fields(TrainSettings)]  # without those of a command
    values = {name: getattr(settings, name) for name in names}
    hashable = {name: value for name, value in values.items() if not isinstance(value, list)}  # networks have the rest
    return _make_trainer(networks, tuple(hashable.items()))


@functools.lru_cache(maxsize=16)
def _make_trainer(networks: Networks, values: tuple[tuple[str, Any], ...]) -> Callable[..., Any]:
    settings = TrainSettings(**dict(values))
    step_settings = inversion.Settings(settings.batch_size, settings.gradient_accumulation, settings.seed)
    return inversion.make_trainer(networks, make_optimizer(settings), step_settings)


def style_in(style: Style, state: TrainState) -> Style:
    """The style as it is in a state of its training."""
    tables = {encoder: np.asarray(table) for encoder, table in state.tables.items()}
    return Style(style.name, tables, {**style.metadata, "steps": int(state.step)})
