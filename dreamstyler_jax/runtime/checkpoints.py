"""Checkpoints of a training state: Orbax on disk, with a digest of every leaf, since Orbax restores damaged bytes.

Those of a run in a bucket are written on this machine and copied into the bucket.
"""

import hashlib
import logging
import math
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dreamstyler_jax.runtime.buckets import in_bucket, path_of
from dreamstyler_jax.runtime.errors import UserError, shortened
from dreamstyler_jax.runtime.mirrors import Mirror

LAST_FILE = "commit_success.txt"  # Orbax writes it into the folder of a checkpoint when that is whole
KEPT = 2  # checkpoints in a folder, by default: the newest, and another in case it is damaged


class Checkpoints:
    """The checkpoints in one folder; made by `open_checkpoints`.

    A pytree is stored as the list of its leaves, so that renaming its fields does not invalidate old checkpoints.
    """

    def __init__(self, manager: Any, folder: Path, publish: Callable[[], None] = lambda: None):
        self._manager, self._folder, self._publish = manager, folder, publish

    def save(self, step: int, state: Any) -> None:
        """Stores ``state`` as the state after ``step`` steps, and waits until it is on disk.

        Checkpoints of this and of later steps are deleted first: they are damaged, or belong to an abandoned run.

        Raises:
            UserError: it cannot be written.
        """
        import orbax.checkpoint as ocp

        for other in self._manager.all_steps():
            if other >= step:
                self._manager.delete(other)
        leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(state)]
        items = {
            "state": ocp.args.StandardSave(leaves),  # type: ignore[arg-type]  # its stubs want an array
            "digests": ocp.args.JsonSave([_digest(leaf) for leaf in leaves]),  # type: ignore[arg-type]
        }
        try:
            self._manager.save(step, args=ocp.args.Composite(**items), force=True)
            self._manager.wait_until_finished()
        except (OSError, ValueError, RuntimeError) as error:  # Orbax makes a ValueError of a full disk
            raise UserError(
                f"cannot write the checkpoint {self._folder / str(step)}: {shortened(str(error), 300)}"
            ) from error
        self._publish()

    def restore(self, like: Any, max_step: float = math.inf) -> Any | None:
        """The newest undamaged state, or None if there is none. A warning names each damaged checkpoint.

        Args:
            like: a state with the structure, shapes and dtypes to expect.
            max_step: ignore checkpoints of later steps.

        Raises:
            UserError: the checkpoint holds a state of another shape.
        """
        leaves, structure = jax.tree.flatten(like)
        for step in sorted((step for step in self._manager.all_steps() if step <= max_step), reverse=True):
            restored = self._read(step)
            if restored is None:
                warnings.warn(f"the checkpoint of step {step} is damaged; using an older one", stacklevel=2)
                continue
            if _shapes(restored) != _shapes(leaves):
                raise UserError(f"the checkpoints in {self._folder} belong to other settings: choose another output")
            return jax.tree.unflatten(structure, [jax.numpy.asarray(leaf) for leaf in restored])
        return None

    def _read(self, step: int) -> list[np.ndarray] | None:
        """The leaves of a checkpoint, or None if it is damaged."""
        import orbax.checkpoint as ocp

        try:
            parts = self._manager.restore(
                step, args=ocp.args.Composite(state=ocp.args.StandardRestore(), digests=ocp.args.JsonRestore())
            )
            leaves = [np.asarray(leaf) for leaf in parts.state]
            return leaves if [_digest(leaf) for leaf in leaves] == parts.digests else None
        except Exception:  # Orbax raises anything for missing, truncated or other files
            return None


def read_checkpoints(folder: Path, like: Any) -> dict[int, Any | None]:
    """All states in a folder on this machine, by step; None for one that is damaged or of another shape.

    Changes nothing there.
    """
    leaves, structure = jax.tree.flatten(like)
    states: dict[int, Any | None] = {}
    with _without_warnings(), _open_manager(folder.absolute(), read_only=True) as manager:
        store = Checkpoints(manager, folder)
        for step in sorted(manager.all_steps()):
            restored = store._read(step)
            states[step] = None
            if restored is not None and _shapes(restored) == _shapes(leaves):
                states[step] = jax.tree.unflatten(structure, restored)
    return states


def check_path(folder: Path) -> None:
    """Refuses a folder in which Orbax could not restore what it saves: it takes the path for a pattern.

    Raises:
        UserError: the path holds one of ``[*?``.
    """
    if in_bucket(folder):
        return
    path = str(folder.absolute())
    if special := sorted(set("[*?") & set(path)):
        raise UserError(
            f"output: checkpoints need a path without {' '.join(special)}, not {path}; choose another folder"
        )


@contextmanager
def open_checkpoints(folder: str | Path, keep: int = KEPT) -> Iterator[Checkpoints]:
    """Opens the checkpoints in ``folder`` of one process, which keeps the newest ``keep``."""
    folder = path_of(folder)
    if not in_bucket(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with _open_manager(folder.absolute(), keep) as manager:
            yield Checkpoints(manager, folder)
        return
    with tempfile.TemporaryDirectory() as here:
        mirror = Mirror(Path(here), folder, LAST_FILE)
        mirror.fetch()
        with _open_manager(Path(here), keep) as manager:
            yield Checkpoints(manager, folder, mirror.publish)


def _open_manager(folder: Path, keep: int | None = None, *, read_only: bool = False) -> Any:
    import orbax.checkpoint as ocp

    this = jax.process_index()
    options = ocp.CheckpointManagerOptions(
        max_to_keep=keep,
        cleanup_tmp_directories=not read_only,
        read_only=read_only,
        save_interval_steps=0 if read_only else 1,
        enable_async_checkpointing=False,
        lightweight_initialize=True,  # or it would fail for a checkpoint with a damaged time
        create=False,
        multiprocessing_options=ocp.options.MultiprocessingOptions(primary_host=this, active_processes={this}),
        atomicity_options=ocp.options.AtomicityOptions(mode=ocp.options.AtomicityMode.COMMIT_FILE),
    )
    return ocp.CheckpointManager(folder, options=options)


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Keeps Orbax from saying that it only reads."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _shapes(leaves: Sequence[Any]) -> list[tuple[Any, Any]]:
    return [(np.shape(leaf), np.asarray(leaf).dtype) for leaf in leaves]


def _digest(leaf: np.ndarray) -> str:
    return hashlib.sha256(f"{leaf.dtype}{leaf.shape}".encode() + np.ascontiguousarray(leaf).tobytes()).hexdigest()
