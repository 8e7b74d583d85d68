"""The runs that a command asks for, what their folders already hold, and whether they can be resumed."""

import dataclasses
import os
from pathlib import Path

from dreamstyler_jax.commands.config import TrainConfig, name_of
from dreamstyler_jax.commands.config_files import OF_ONE_CALL, read_config
from dreamstyler_jax.runtime.errors import UserError
from dreamstyler_jax.runtime.settings import options_of
from dreamstyler_jax.style import FILE_NAME, Style
from dreamstyler_jax.train_settings import AUTO_STEPS, peak_learning_rate

SETTINGS = "config.yaml"
# Settings that may change when a run is resumed: the steps already done do not depend on them.
MAY_CHANGE = {"steps", "log_every", "save_every", "preview_prompts", "output", *OF_ONE_CALL}


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


def check_resumable(config: TrainConfig, folder: Path) -> None:
    """Makes sure that a run may begin in ``folder``, or continue there.

    Raises:
        UserError: the folder holds another run, or a run that is not to be resumed.
    """
    style, settings, checkpoints = folder / FILE_NAME, folder / SETTINGS, folder / "checkpoints"
    if style.exists() and not (config.resume and settings.exists()):
        raise UserError(f"{folder} already holds a finished style: choose another --output, or remove the folder")
    if not config.resume and checkpoints.is_dir() and any(checkpoints.iterdir()):
        raise UserError(f"{folder} holds an unfinished run: continue it with --resume, or choose another --output")
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
        changed.remove("learning_rate")  # earlier versions recorded what is null by default now
    if changed:
        raise UserError(
            f"cannot resume {folder} with other settings ({', '.join(changed)}): use those it started with, "
            f"--config {settings} --resume, or choose another --output"
        )


def is_finished(config: TrainConfig, folder: Path) -> bool:
    """Whether ``folder`` already holds the style of this run after all of its steps."""
    style, settings = folder / FILE_NAME, folder / SETTINGS
    if not (config.resume and style.exists()):
        return False
    if config.steps == AUTO_STEPS:
        return settings.exists() and read_config(TrainConfig, settings).steps == AUTO_STEPS
    return Style.load(style).metadata.get("steps", 0) >= config.steps
