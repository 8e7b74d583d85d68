"""Several devices: each computes a part of every batch, or some of the styles that are learned together."""

import contextlib
import functools
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

T = TypeVar("T")
_target: ContextVar[Mesh | None] = ContextVar("target", default=None)


def mesh() -> Mesh:
    """The devices in a row that programs are for: this process's, or those of `programs_for` or `on_every_host`."""
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


@contextlib.contextmanager
def on_every_host() -> Iterator[None]:
    """Within this context programs are for the devices of all processes that have joined, which run them together."""
    token = _target.set(Mesh(np.array(jax.devices()), ("batch",)))
    try:
        yield
    finally:
        _target.reset(token)


def shared(count: int) -> bool:
    """Whether there are several devices and ``count`` items divide evenly among them."""
    return mesh().size > 1 and count % mesh().size == 0


def placed(*axes: str | None) -> NamedSharding:
    """How arrays are placed on the devices: ``placed("batch")`` splits the first axis, ``placed()`` copies."""
    return NamedSharding(mesh(), PartitionSpec(*axes))


def replicate(tree: Any) -> Any:
    """Copies arrays to every device, so that no call has to send them; of several hosts each gives its own copy."""
    if jax.process_count() == 1 or mesh() is _local_mesh():
        return jax.device_put(tree, placed())

    def everywhere(array: jax.Array) -> jax.Array:
        copies = [copy.data for copy in array.addressable_shards]
        return jax.make_array_from_single_device_arrays(array.shape, placed(), copies)

    return jax.tree.map(everywhere, jax.device_put(tree, NamedSharding(_local_mesh(), PartitionSpec())))


def on_this_host(tree: T) -> T:
    """The same arrays for this host alone, of such as several hosts have copies of."""
    return jax.tree.map(lambda array: array if array.is_fully_addressable else array.addressable_data(0), tree)


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
