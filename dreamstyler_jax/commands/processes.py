"""Which runs a process of `dreamstyler train` does, and how it joins the other processes of its job."""

import contextlib
import os
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

from dreamstyler_jax.commands.config import TrainConfig
from dreamstyler_jax.commands.config_files import OF_ONE_CALL
from dreamstyler_jax.commands.recording import Run
from dreamstyler_jax.commands.runs import runs_of
from dreamstyler_jax.runtime import hosts
from dreamstyler_jax.runtime.compilation import share_cores
from dreamstyler_jax.runtime.devices import mesh
from dreamstyler_jax.runtime.errors import UserError, listing
from dreamstyler_jax.runtime.settings import options_of

# Settings that may differ between the processes of one training: folders of theirs, and what the model's hash covers.
_OF_EACH = {"output", "name", "profile", "variant", "revision", "vae", "allow_pickle", "loras", *OF_ONE_CALL}


@contextlib.contextmanager
def processes_of(config: TrainConfig) -> Iterator[list[TrainConfig]]:
    """Yields the settings of each run of this process, which is joined to the others as long as they share one.

    With ``separate`` every process has runs of its own, and with ``distributed`` alone all share the one.

    Raises:
        UserError: there is no job, not all of its processes come, or the batch cannot be shared.
    """
    runs = runs_of(config)
    if config.separate:
        if config.distributed:
            place = hosts.place_in_job(config.process_id, config.num_processes)
            count, runs = len(runs), runs[place.index :: place.count]
            print(f"Process {place.index} of {place.count} learns {len(runs)} of {count} styles")
        share_cores(config.model, len(runs))
        check_sharing(mesh().size, len(runs), config.batch_size)
        yield runs
        return
    count = config.num_processes
    if config.distributed and count is None and (place := hosts.place_by(os.environ)):
        count = place.count
    share_cores(config.model, max(1, config.batch_size // (count or 1)))
    meeting = hosts.Meeting(config.coordinator_address, config.num_processes, config.process_id)
    with hosts.joined(meeting) if config.distributed else contextlib.nullcontext():
        with hosts.on_all_devices_joined():
            check_sharing(mesh().size, 1, config.batch_size, joined=mesh().is_multi_process)
        yield runs


def check_sharing(devices: int, styles: int, batch_size: int, *, joined: bool = False) -> None:
    """Makes sure that devices can share the styles or every batch.

    Raises:
        UserError: those of several hosts that have ``joined`` cannot. On a single host each then computes all of it.
    """
    if styles % devices == 0 or batch_size % devices == 0:
        return
    near = batch_size + -batch_size % devices
    advice = f"{devices} devices cannot share {batch_size} samples; give a multiple of {devices}, such as {near}"
    if joined:
        raise UserError(f"batch_size: {advice}")
    warnings.warn(f"batch_size: {advice}. Each computes all of them now", stacklevel=2)


def check_same_training(run: Run) -> None:
    """Makes sure that the processes that have joined train the same: gradients of different trainings are of none.

    Raises:
        UserError: they do not, on all of them.
    """
    if different := hosts.differing(what_is_trained(run.config, run.lesson.style.metadata)):
        raise UserError(
            f"distributed: {listing(different)} differ between the processes of this job: give all of them the same"
        )


def what_is_trained(config: TrainConfig, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The options that the processes of a training must share, as JSON values; of files their hashes, not their paths.

    Args:
        config: with the prompt of each picture.
        metadata: of the style to learn.
    """
    names = {option.name for option in options_of(TrainConfig)} - _OF_EACH
    values = {name: getattr(config, name) for name in sorted(names)}
    model, pictures = [metadata["model_hash"], metadata["model_settings"]], metadata["image_hashes"]
    return values | {"model": model, "images": pictures, "init_style": metadata.get("init_style_hash")}
