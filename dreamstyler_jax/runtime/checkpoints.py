"""Checkpoints of a training state: Orbax on disk, and a digest of every leaf: Orbax restores damaged bytes silently."""

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


class Checkpoints:
    """The checkpoints in one folder; made by `open_checkpoints`.

    Pytrees are stored as lists of their leaves; what they are called is the code's affair, not the file's.
    """

    def __init__(self, manager: Any):
        self._manager = manager

    def save(self, step: int, state: Any) -> None:
        """Stores ``state`` as that of ``step`` and waits until it is on disk.

        Checkpoints of this step and of later ones go first: they are damaged, or of a course that was left.
        """
        import orbax.checkpoint as ocp

        for other in self._manager.all_steps():
            if other >= step:
                self._manager.delete(other)
        leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(state)]
        items = {
            "state": ocp.args.StandardSave(leaves),
            "digests": ocp.args.JsonSave([_digest(leaf) for leaf in leaves]),
        }
        self._manager.save(step, args=ocp.args.Composite(**items), force=True)
        self._manager.wait_until_finished()

    def restore(self, like: Any, most: float = math.inf) -> Any | None:
        """The newest undamaged state, in the structure, shapes and dtypes of ``like``; None where there is none.

        Damaged checkpoints are passed over with a warning.

        Args:
          like: such a state.
          most: the steps that it may have done.

        Raises:
          UserError: the checkpoints are of a state of another shape.
        """
        leaves, structure = jax.tree.flatten(like)
        for step in sorted((step for step in self._manager.all_steps() if step <= most), reverse=True):
            restored = self._read(step)
            if restored is None:
                warnings.warn(f"the checkpoint of step {step} is damaged; using an older one", stacklevel=2)
                continue
            if [(a.shape, a.dtype) for a in restored] != [(np.shape(a), np.asarray(a).dtype) for a in leaves]:
                raise UserError(
                    f"the checkpoints in {self._manager.directory} are of other settings: choose another output"
                )
            return jax.tree.unflatten(structure, [jax.numpy.asarray(leaf) for leaf in restored])
        return None

    def _read(self, step: int) -> list[np.ndarray] | None:
        import orbax.checkpoint as ocp

        try:
            parts = self._manager.restore(
                step, args=ocp.args.Composite(state=ocp.args.StandardRestore(), digests=ocp.args.JsonRestore())
            )
        except Exception:  # whatever Orbax raises for missing or truncated files: the checkpoint is not usable
            return None
        leaves = [np.asarray(leaf) for leaf in parts.state]
        return leaves if [_digest(leaf) for leaf in leaves] == list(parts.digests) else None


@contextmanager
def open_checkpoints(folder: str | Path, *, keep: int = 2) -> Iterator[Checkpoints]:
    """Opens the checkpoints in ``folder``, of which the newest ``keep`` are kept."""
    import orbax.checkpoint as ocp

    options = ocp.CheckpointManagerOptions(
        max_to_keep=keep,
        cleanup_tmp_directories=True,
        enable_async_checkpointing=False,
        atomicity_options=ocp.options.AtomicityOptions(mode=ocp.options.AtomicityMode.COMMIT_FILE),
    )
    with ocp.CheckpointManager(Path(folder).absolute(), options=options) as manager:
        yield Checkpoints(manager)


def _digest(leaf: np.ndarray) -> str:
    return hashlib.sha256(f"{leaf.dtype}{leaf.shape}".encode() + np.ascontiguousarray(leaf).tobytes()).hexdigest()
