"""The runs that a command asks for, what their folders already hold, and whether they can be resumed."""

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from dreamstyler_jax.commands.boards import RUN_ID
from dreamstyler_jax.commands.cli import command_line
from dreamstyler_jax.commands.config import SampleConfig, TrainConfig
from dreamstyler_jax.commands.config_files import OF_ONE_CALL, read_config
from dreamstyler_jax.commands.names import name_of
from dreamstyler_jax.commands.sessions import SESSIONS
from dreamstyler_jax.commands.shared_options import MODEL_OPTIONS
from dreamstyler_jax.provenance import changed_inputs, inputs_of
from dreamstyler_jax.runtime.errors import UserError, listing
from dreamstyler_jax.runtime.files import check_own, read_json, write_atomic
from dreamstyler_jax.runtime.settings import options_of
from dreamstyler_jax.style import FILE_NAME, Style
from dreamstyler_jax.train_settings import AUTO_STEPS, BARE_PROMPTS, most_steps, peak_learning_rate

SETTINGS, INPUTS = "config.yaml", "training_inputs.json"
# Besides style and checkpoints.
_WRITTEN = (
    *(SETTINGS, INPUTS, SESSIONS, "metrics.jsonl", "loss.png", "report.html", "tensorboard", "steps", "previews"),
    *("wandb", RUN_ID),
)
# Settings that may change when a run is resumed: the steps already done do not depend on them.
MAY_CHANGE = {"steps", "log_every", "save_every", "keep", "preview_prompts", "profile", "wandb", "output", *OF_ONE_CALL}


class Inputs(TypedDict):
    """What a run began with, as `INPUTS` keeps it."""

    images: list[str]
    image_hashes: list[str]
    model_hash: str
    model_settings: str
    init_style_hash: NotRequired[str]


def runs_of(config: TrainConfig) -> list[TrainConfig]:
    """The settings of each run: those given, or, with ``separate``, one for each picture, as if learned alone."""
    if not config.separate:
        return [config]
    pictures = config.images
    prompts = config.prompts * (len(pictures) if len(config.prompts) == 1 else 1) or [""] * len(pictures)
    return [
        dataclasses.replace(
            config,
            separate=False,
            images=[picture],
            prompts=[prompt] if prompt else [],
            output=os.path.join(config.output, name_of(picture)),
        )
        for picture, prompt in zip(pictures, prompts, strict=True)
    ]


def continued(config: TrainConfig, folder: Path) -> TrainConfig:
    """The settings of a run; one that is resumed has what it began with where they leave it to the model."""
    if not config.resume or not (folder / SETTINGS).exists():
        return config
    before = read_config(TrainConfig, folder / SETTINGS)
    return dataclasses.replace(
        config,
        init_word=before.init_word if config.init_word is None else config.init_word,
        steps=before.steps if config.steps is None else config.steps,
        learning_rate=peak_learning_rate(before) if config.learning_rate is None else config.learning_rate,
    )


def check_resumable(config: TrainConfig, folder: Path) -> None:
    """Makes sure that a run may begin in ``folder``, or continue there.

    Raises:
        UserError: the folder holds another run, or a run that is not to be resumed.
    """
    check_own(folder, _WRITTEN, (INPUTS, FILE_NAME, "checkpoints"))
    style, settings, checkpoints = folder / FILE_NAME, folder / SETTINGS, folder / "checkpoints"
    if style.exists() and not (config.resume and settings.exists()):
        raise UserError(f"{folder} already holds a finished style: choose another --output, or remove the folder")
    if checkpoints.is_dir() and any(checkpoints.iterdir()):
        if not config.resume:
            raise UserError(f"{folder} holds an unfinished run: continue it with --resume, or choose another --output")
        if not settings.exists():
            raise UserError(
                f"{settings} is missing, so nobody knows with which settings the checkpoints beside it were made: put "
                "it back, or choose another --output"
            )
    if not settings.exists() or not config.resume:
        return
    before = read_config(TrainConfig, settings)
    changed = [
        field.name
        for field in options_of(TrainConfig)
        if (field.name not in MAY_CHANGE or (field.name == "steps" and config.schedule != "constant"))
        and getattr(before, field.name) != getattr(config, field.name)
    ]
    if peak_learning_rate(before) == peak_learning_rate(config) and "learning_rate" in changed:
        changed.remove("learning_rate")  # earlier versions recorded null for that of the embedded model
    if changed:
        raise UserError(
            f"cannot resume {folder} with other settings ({', '.join(changed)}): use those it started with, "
            f"--config {settings} --resume, or choose another --output"
        )


def check_same_inputs(folder: Path, now: Mapping[str, Any]) -> None:
    """Makes sure that a run goes on with the pictures and the model that it began with, whatever their names.

    Args:
        folder: of the run; one that `record_inputs` has not seen can go on with anything.
        now: the metadata of the style that it would go on with, or some of them.

    Raises:
        UserError: something has changed, or what the run has recorded cannot be read.
    """
    if changed := changed_inputs(_inputs_before(folder), now):
        raise UserError(
            f"cannot resume {folder}: {listing(changed)} changed since the run began; bring back what it began with, "
            "or choose another --output"
        )


def _inputs_before(folder: Path) -> Mapping[str, Any]:
    """What a run has recorded of its inputs; earlier versions did so only in the styles that they saved."""
    if (recorded := folder / INPUTS).is_file():
        return {**read_json(recorded, Inputs, advice="delete it if pictures and model are those the run began with")}
    saved = [folder / FILE_NAME, *sorted((folder / "steps").glob("step_*.safetensors"))]
    found = next((file for file in saved if file.is_file()), None)
    return Style.load(found).metadata if found else {}


def record_inputs(folder: Path, metadata: Mapping[str, Any]) -> None:
    """Writes down what a run begins with, before it writes anything else: the file also shows whose folder this is.

    Args:
        folder: of the run.
        metadata: of the style to learn.
    """
    write_atomic(folder / INPUTS, (json.dumps(inputs_of(metadata), indent=2) + "\n").encode())


def is_finished(config: TrainConfig, folder: Path) -> bool:
    """Whether ``folder`` already holds the style of this run after all of its steps."""
    style, settings = folder / FILE_NAME, folder / SETTINGS
    if not (config.resume and style.exists()):
        return False
    done = Style.load(style).metadata.get("steps")
    if not isinstance(done, int):
        return False
    if config.steps == AUTO_STEPS:
        return settings.exists() and read_config(TrainConfig, settings).steps == AUTO_STEPS
    return done >= most_steps(config)


def painting_command(config: TrainConfig) -> str:
    """The command that paints with the style."""
    options = {name: getattr(config, name) for name in MODEL_OPTIONS}
    prompts = [BARE_PROMPTS["object"]] if config.property == "object" else []  # the default ones ask for a style
    painting = SampleConfig(styles=[config.output], prompts=prompts, loras=[config.loras], **options)
    return command_line("sample", painting)


def training_command(config: TrainConfig) -> str:
    """The command that learns a run's style again, into a folder of its own."""
    rate = peak_learning_rate(config)
    return command_line("train", dataclasses.replace(config, learning_rate=rate, output=f"{config.output}-again"))


def resuming_command(config: TrainConfig) -> str:
    """The command that goes on with a run."""
    return command_line("train", dataclasses.replace(config, resume=True))
