"""Where a training can be watched while it runs: TensorBoard, and Weights & Biases if it is asked for."""

import importlib
import importlib.util
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np
from PIL import Image
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog  # type: ignore[attr-defined]  # made when it is imported
from tensorboardX.record_writer import register_writer_factory
from tensorboardX.summary import image, scalar, text

from dreamstyler_jax.runtime.buckets import in_bucket, path_of
from dreamstyler_jax.runtime.errors import UserError, one_line
from dreamstyler_jax.runtime.files import naming, write_atomic
from dreamstyler_jax.runtime.growing_files import GrowingFile, growing_file

RUN_ID = "wandb_id.txt"  # in the folder of a run: which run of Weights & Biases it is


class Board(Protocol):
    """What shows numbers and pictures of a run."""

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        """Shows finite numbers, by their tags, after ``step`` steps."""
        ...

    def picture(self, step: int, tag: str, picture: Image.Image) -> None:
        """Shows a picture in RGB."""
        ...

    def close(self, *, failed: bool) -> None:
        """Ends it; ``failed`` says whether the run was interrupted or broken off."""
        ...


class TensorBoard:
    """Events for TensorBoard, in the folder ``tensorboard`` of a run; they are on the disk when a method returns.

    Args:
        folder: the run's folder.
        start: steps done before; TensorBoard then drops what an earlier process logged of later ones.
        texts: what to show as text, Markdown by tag. Only a run that starts at step 0 writes it.

    Raises:
        OSError: the folder cannot be written.
    """

    def __init__(self, folder: Path, start: int, texts: Mapping[str, str] = MappingProxyType({})):
        self._folder = folder / "tensorboard"
        if in_bucket(folder):
            register_writer_factory(str(folder).partition("://")[0], _EventsInBucket)
        else:
            self._folder.mkdir(exist_ok=True)
        # SummaryWriter would write in a thread of its own, later or, on a full disk, never.
        self._events = EventsWriter(str(self._folder / "events"))
        self._add(start + 1, session_log=SessionLog(status=SessionLog.START))
        if not start:
            for tag, markdown in texts.items():  # at step 1, so that a second start at step 0 drops those of the first
                self._add(1, summary=text(tag, markdown))

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        """See `Board`."""
        with naming(self._folder):
            for tag, value in values.items():
                self._add(step, summary=scalar(tag, value))
            self._events.flush()

    def picture(self, step: int, tag: str, picture: Image.Image) -> None:
        """See `Board`."""
        with naming(self._folder):
            self._add(step, summary=image(tag, np.asarray(picture), dataformats="HWC"))
            self._events.flush()

    def close(self, *, failed: bool) -> None:
        """See `Board`."""
        with naming(self._folder):
            self._events.close()

    def _add(self, step: int, **content: Any) -> None:
        self._events.write_event(Event(wall_time=time.time(), step=step, **content))


class _EventsInBucket:
    """How tensorboardX opens a file in a bucket; its own way needs a further package and a login."""

    @staticmethod
    def directory_check(path: str) -> None:
        """Does nothing: buckets have no folders."""

    @staticmethod
    def open(path: str) -> GrowingFile:
        """Opens a file of events."""
        return growing_file(path_of(path))


class WeightsAndBiases:
    """A run at Weights & Biases, or, with ``WANDB_MODE=offline``, in the folder ``wandb`` of this run.

    It has the same id whenever this run is resumed. Steps that it has already are not logged again.

    Args:
        folder: the run's folder.
        project: the project there.
        name: of the run.
        settings: what it was started with, as JSON values.

    Raises:
        UserError: the package is missing, or there is no way to log in.
    """

    def __init__(self, folder: Path, project: str, name: str, settings: Mapping[str, Any]):
        require_wandb(project)
        self._wandb = importlib.import_module("wandb")
        kept = folder / RUN_ID
        if not kept.exists():
            write_atomic(kept, uuid.uuid4().hex[:12].encode())
        try:
            self._run = self._wandb.init(
                project=project,
                name=name,
                id=kept.read_text().strip(),
                resume="allow",
                dir=None if in_bucket(folder) else str(folder),
                config=dict(settings),
                reinit="create_new",  # styles that are learned together are a run each
            )
        except self._wandb.errors.Error as error:
            raise UserError(f"wandb: {one_line(error)}: run wandb login, or set WANDB_MODE=offline") from error

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        """See `Board`."""
        self._run.log(dict(values), step=step)

    def picture(self, step: int, tag: str, picture: Image.Image) -> None:
        """See `Board`."""
        self._run.log({tag: self._wandb.Image(picture)}, step=step)

    def close(self, *, failed: bool) -> None:
        """See `Board`."""
        self._run.finish(exit_code=int(failed))


def require_wandb(project: str) -> None:
    """Raises a UserError if a project of Weights & Biases is named and its package is not installed."""
    if project and importlib.util.find_spec("wandb") is None:
        raise UserError("wandb: the package of Weights & Biases is not installed: pip install wandb")
