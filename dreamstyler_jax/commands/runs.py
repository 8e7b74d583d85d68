"""Which runs are asked for, what their folders already hold, and whether they may be resumed there."""

import dataclasses
import os
from pathlib import Path

from dreamstyler_jax.commands.cli import parse
from dreamstyler_jax.commands.config import TrainConfig, name_of
from dreamstyler_jax.runtime.errors import UserError
from dreamstyler_jax.style import FILE_NAME, Style

SETTINGS = "config.yaml"
# What may change when a run is resumed: the steps already done do not depend on it.
MAY_CHANGE = {"steps", "log_every", "save_every", "preview_prompts", "output", "resume"}


def runs_of(config: TrainConfig) -> list[TrainConfig]:
    """The config itself, or with ``separate`` the one that each picture would be learned with alone."""
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


def is_finished(config: TrainConfig, folder: Path) -> bool:
    """Whether ``folder`` already holds the style of this very run.

    Raises:
      UserError: it holds another run, or one that nobody asked to resume.
    """
    style, settings, checkpoints = folder / FILE_NAME, folder / SETTINGS, folder / "checkpoints"
    if style.exists() and not (config.resume and settings.exists()):
        raise UserError(f"{folder} already holds a finished style: choose another --output, or remove the folder")
    if not config.resume and checkpoints.is_dir() and any(checkpoints.iterdir()):
        raise UserError(f"{folder} holds an unfinished run: continue it with --resume, or choose another --output")
    if not settings.exists() or not config.resume:
        return False
    before = parse(TrainConfig, ["--config", str(settings)])
    changed = [
        field.name
        for field in dataclasses.fields(config)
        if (field.name not in MAY_CHANGE or (field.name == "steps" and config.schedule != "constant"))
        and getattr(before, field.name) != getattr(config, field.name)
    ]
    if changed:
        raise UserError(
            f"cannot resume {folder} with other settings ({', '.join(changed)}): take those it was begun with, "
            f"--config {settings} --resume, or choose another --output"
        )
    return style.exists() and Style.load(style).metadata.get("steps", 0) >= config.steps
