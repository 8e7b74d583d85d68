"""Several devices and several hosts: each device computes a part of every batch, each host a part of the grid."""

import contextlib
import functools
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from dreamstyler_jax.runtime.errors import UserError
from dreamstyler_jax.runtime.parsing import HOSTS, parse_shard

T = TypeVar("T")
_target: ContextVar[Mesh | None] = ContextVar("target", default=None)


def shard_of(text: str) -> tuple[int, int]:
    """Reads a shard: "1/4" is (1, 4); "hosts" is the number of this host and how many there are.

    "hosts" joins the JAX processes of the other hosts (``jax.distributed.initialize``: TPU pods, Slurm, Open MPI), so
    it comes before anything is computed.

    Raises:
        UserError: "hosts" on a single machine, or a shard that cannot be read.
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


def mesh() -> Mesh:
    """The devices in a row that programs are for: all of this process, or within `programs_for` that one."""
    return _target.get() or _local_mesh()


@functools.cache
def _local_mesh() -> Mesh:
    return Mesh(np.array(jax.local_devices()), ("batch",))


def device() -> Any:
    """One of the devices (``jax.Device``) that programs are for, which are all of one kind."""
    return mesh().devices.flat[0]


@contextlib.contextmanager
def programs_for(device: Any) -> Iterator[None]:
    """Within this context programs are made for a device that need not be here, to be compiled and not to be run.

    Programs that were traced before are traced again, since what they compute may depend on the device.
    """
    jax.clear_caches()
    token = _target.set(Mesh(np.array([device]), ("batch",)))
    try:
        yield
    finally:
        _target.reset(token)
        jax.clear_caches()


def shared(count: int) -> bool:
    """Whether there are several devices and ``count`` items divide evenly among them."""
    return mesh().size > 1 and count % mesh().size == 0


def placed(*axes: str | None) -> NamedSharding:
    """How arrays are placed on the devices: ``placed("batch")`` splits the first axis, ``placed()`` copies."""
    return NamedSharding(mesh(), PartitionSpec(*axes))


def replicate(tree: Any) -> Any:
    """Copies arrays to every device, so that no call has to send them."""
    return jax.device_put(tree, placed())


def on_all_devices(function: Callable[..., T]) -> Callable[..., T]:
    """The function with every device computing it from the same arguments; `part_of_batch` tells devices apart.

    The result is that of any one device, so the function combines what differs between them, with `jax.lax.pmean` or a
    like function over the axis "batch".
    """
    return jax.shard_map(function, mesh=mesh(), in_specs=PartitionSpec(), out_specs=PartitionSpec(), check_vma=False)


def part_of_batch(tree: T) -> T:
    """Inside a function for `on_all_devices`: this device's part of a batch, a pytree of arrays [B, ...]."""

    def part(array: jax.Array) -> jax.Array:
        size = len(array) // mesh().size
        return jax.lax.dynamic_slice_in_dim(array, jax.lax.axis_index("batch") * size, size)

    return jax.tree.map(part, tree)


def padded_batch_size(batch_size: int) -> int:
    """``batch_size`` rounded up to a multiple of the number of devices."""
    return batch_size + -batch_size % mesh().size


def split_batch(function: Callable[..., T], in_axes: tuple[Any, ...]) -> Callable[..., T]:
    """The function of a batch, with each device computing its part.

    Args:
        function: maps arrays of a batch to arrays whose first axis is the batch.
        in_axes: the batch axis of each argument, or a pytree of axes, as ``jax.vmap`` takes them; None where all
            devices see the whole argument. The batch is a multiple of the number of devices.
    """
    specs = tuple(
        PartitionSpec() if axes is None else jax.tree.map(lambda axis: PartitionSpec(*[None] * axis, "batch"), axes)
        for axes in in_axes
    )
    return jax.shard_map(function, mesh=mesh(), in_specs=specs, out_specs=PartitionSpec("batch"), check_vma=False)
