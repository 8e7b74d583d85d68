"""Checkpoints of a training state: Orbax on disk, with a digest of every leaf, since Orbax restores damaged bytes."""

import hashlib
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dreamstyler_jax.runtime.errors import UserError

MAX_KEPT = 2  # checkpoints in a folder: the newest, and another in case it is damaged


class Checkpoints:
    """The checkpoints in one folder; made by `open_checkpoints`.

    A pytree is stored as the list of its leaves, so that renaming its fields does not invalidate old checkpoints.
    """

    def __init__(self, manager: Any):
        self._manager = manager

    def save(self, step: int, state: Any) -> None:
        """Stores ``state`` as the state after ``step`` steps, and waits until it is on disk.

        Checkpoints of this and of later steps are deleted first: they are damaged, or belong to an abandoned run.
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
        self._manager.save(step, args=ocp.args.Composite(**items), force=True)
        self._manager.wait_until_finished()

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
            if [(a.shape, a.dtype) for a in restored] != [(np.shape(a), np.asarray(a).dtype) for a in leaves]:
                raise UserError(
                    f"the checkpoints in {self._manager.directory} belong to other settings: choose another output"
                )
            return jax.tree.unflatten(structure, [jax.numpy.asarray(leaf) for leaf in restored])
        return None

    def _read(self, step: int) -> list[np.ndarray] | None:
        """The leaves of a checkpoint, or None if it is damaged."""
        import orbax.checkpoint as ocp

        try:
            parts = self._manager.restore(
                step, args=ocp.args.Composite(state=ocp.args.StandardRestore(), digests=ocp.args.JsonRestore())
            )
        except Exception:  # Orbax raises anything for missing or truncated files
            return None
        leaves = [np.asarray(leaf) for leaf in parts.state]
        return leaves if [_digest(leaf) for leaf in leaves] == list(parts.digests) else None


@contextmanager
def open_checkpoints(folder: str | Path) -> Iterator[Checkpoints]:
    """Opens the checkpoints in ``folder`` of one process, which keeps the newest `MAX_KEPT`."""
    import orbax.checkpoint as ocp

    Path(folder).mkdir(parents=True, exist_ok=True)
    this = jax.process_index()
    options = ocp.CheckpointManagerOptions(
        max_to_keep=MAX_KEPT,
        cleanup_tmp_directories=True,
        enable_async_checkpointing=False,
        create=False,
        multiprocessing_options=ocp.options.MultiprocessingOptions(primary_host=this, active_processes={this}),
        atomicity_options=ocp.options.AtomicityOptions(mode=ocp.options.AtomicityMode.COMMIT_FILE),
    )
    with ocp.CheckpointManager(Path(folder).absolute(), options=options) as manager:
        yield Checkpoints(manager)


def _digest(leaf: np.ndarray) -> str:
    return hashlib.sha256(f"{leaf.dtype}{leaf.shape}".encode() + np.ascontiguousarray(leaf).tobytes()).hexdigest()
