"""Several devices and several hosts: every device paints a part of each batch, every host a part of the grid."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from dreamstyler_jax.commands.config import HOSTS, parse_shard
from dreamstyler_jax.runtime.errors import UserError

T = TypeVar("T")


def shard_of(text: str) -> tuple[int, int]:
    """(i, n) of a shard such as "1/4"; of "hosts", which of how many hosts this is.

    For "hosts" it joins the other hosts' JAX processes (``jax.distributed.initialize``: TPU pods, Slurm, Open MPI), so
    it comes before anything is computed.

    Raises:
      UserError: "hosts", and there is nobody to join.
    """
    if text != HOSTS:
        return parse_shard(text)
    try:
        jax.distributed.initialize()
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"shard: hosts is for TPU pods, Slurm and Open MPI jobs, not for a single machine ({error})"
        ) from error
    return jax.process_index(), jax.process_count()


@functools.cache
def mesh() -> Mesh:
    """All devices of this process in a row."""
    return Mesh(np.array(jax.local_devices()), ("batch",))


def shared(count: int) -> bool:
    """Whether several devices share ``count`` things evenly."""
    return mesh().size > 1 and count % mesh().size == 0


def placed(*axes: str | None) -> NamedSharding:
    """How arrays lie on the devices: ``placed("batch")`` splits the first axis, ``placed()`` copies."""
    return NamedSharding(mesh(), PartitionSpec(*axes))


def replicate(tree: Any) -> Any:
    """The same arrays on every device, so that no call has to send them."""
    return jax.device_put(tree, placed())


def on_every(function: Callable[..., T]) -> Callable[..., T]:
    """The function, computed by every device of the same arguments; what `own_part` takes of them differs.

    Results are those of one device: what differs has to be brought together before, by `jax.lax.pmean` or its like over
    the axis "batch".
    """
    return jax.shard_map(function, mesh=mesh(), in_specs=PartitionSpec(), out_specs=PartitionSpec(), check_vma=False)


def own_part(tree: T) -> T:
    """Inside of `on_every`: this device's part of a batch, a pytree of arrays [B, ...]."""

    def part(array: jax.Array) -> jax.Array:
        size = len(array) // mesh().size
        return jax.lax.dynamic_slice_in_dim(array, jax.lax.axis_index("batch") * size, size)

    return jax.tree.map(part, tree)


def split_batch(function: Callable[..., T], in_axes: tuple[int | None, ...]) -> Callable[..., T]:
    """The function of a batch, computed by every device for its part of it.

    Args:
      in_axes: the batch axis of each argument, a pytree, None where all devices see the whole, as ``jax.vmap`` has it.
        The batch is a multiple of the number of devices, and the first axis of the results.
    """
    specs = tuple(PartitionSpec() if axis is None else PartitionSpec(*[None] * axis, "batch") for axis in in_axes)
    return jax.shard_map(function, mesh=mesh(), in_specs=specs, out_specs=PartitionSpec("batch"), check_vma=False)
