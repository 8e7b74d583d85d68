"""Checks of what styles and pictures were made from: training pictures and models."""

from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from dreamstyler_jax.commands.config import SampleConfig, TrainConfig
from dreamstyler_jax.commands.models import hash_of_model
from dreamstyler_jax.commands.verification.findings import Finding, Severity
from dreamstyler_jax.provenance import training_pictures
from dreamstyler_jax.runtime.buckets import path_of
from dreamstyler_jax.runtime.errors import UserError

_hash_of_model = lru_cache(maxsize=16)(hash_of_model)


def picture_findings(where: Path, metadata: Mapping[str, Any]) -> Iterator[Finding]:
    """Training pictures that have moved or changed.

    Args:
        where: the style's file.
        metadata: of the style.
    """
    for picture in training_pictures(metadata):
        if not _is_there(picture.path):
            yield Finding(
                where, f"its training picture {picture.path} has moved or was in memory", severity=Severity.NOTE
            )
            continue
        try:
            picture.load()
        except UserError as error:
            yield Finding(where, f"its training picture has changed: {error}", "bring the picture back")


def model_findings(
    where: Path, made: str, recorded: object, config: TrainConfig | SampleConfig, *, has_more: bool
) -> Iterator[Finding]:
    """Whether the model is the one that made something.

    Args:
        where: what it made.
        made: what it did, in words, such as ``"painted 3 pictures"``.
        recorded: the hash of its weights then; anything but a text is not known.
        config: which model, and how it is read.
        has_more: whether the recorded hash covers LoRAs or ControlNets as well.
    """
    if not isinstance(recorded, str) or not recorded:
        return
    if has_more:
        what = f"the model {config.model} had LoRAs or ControlNets, so it is not compared"
        yield Finding(where, what, severity=Severity.NOTE)
    elif config.model != "mini" and not _is_there(config.model):
        yield Finding(
            where, f"the model {config.model} is not on this disk, so it is not compared", severity=Severity.NOTE
        )
    else:
        options = {name: getattr(config, name) for name in ("variant", "vae", "prediction_type", "allow_pickle")}
        try:
            now = _hash_of_model(config.model, **options)
        except UserError as error:
            yield Finding(where, f"the model {config.model} cannot be read: {error}")
            return
        if now != recorded:
            what = f"the model {config.model} is not the one that {made}: its weights are {now} now, not {recorded}"
            yield Finding(where, what, "bring the weights back")


def _is_there(path: str) -> bool:
    """Whether something is at a path, and in a folder that may be entered."""
    try:
        return path_of(path).exists()
    except OSError:
        return False
