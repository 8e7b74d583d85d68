"""Several processes of one job, on one host or on many: TPU pods, Slurm, Open MPI, or started by hand.

What is independent, pictures and styles that are learned separately, needs no communication: a process takes its part
by its `Place` in the job, and does it whatever happens to the others. The training of one style joins the processes:
each computes a part of every batch, the first one says how many steps come next and writes all files, and the others
follow it until it stops.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import re
import sys
import threading
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from dreamstyler_jax.runtime import interruption
from dreamstyler_jax.runtime.devices import on_every_host
from dreamstyler_jax.runtime.errors import UserError
from dreamstyler_jax.runtime.parsing import HOSTS, parse_shard

T = TypeVar("T")
PATIENCE = 300  # seconds that a process waits for the others
_JOBS = (  # what must be set, and where the process's number, their count, and the number on this host are
    ("JAX_PROCESS_ID", "JAX_PROCESS_ID", "JAX_NUM_PROCESSES", ""),
    ("SLURM_STEP_NODELIST", "SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID"),
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"),
)
_INTERRUPTED, _FAILED, _DONE, _UNTOLD, _TOLD = -2, -1, 0, 1, 2  # what a process says of itself; ended up to 0
_NO_JOB = "found no TPU pod, Slurm or Open MPI job, nor JAX_PROCESS_ID and JAX_NUM_PROCESSES in the environment"


@dataclasses.dataclass
class _Job:
    """Whether this process has joined others, and how one of them has ended; then nothing more is exchanged."""

    joined: bool = False
    ended: int | None = None


_job = _Job()


class Place(NamedTuple):
    """Which process of a job this is, counted from 0, of how many."""

    index: int
    count: int


class Meeting(NamedTuple):
    """How the processes of a job find each other; None where the environment says it.

    Attributes:
        address: of the first process, ``HOST:PORT``.
        count: how many processes there are.
        index: which of them this is.
    """

    address: str | None = None
    count: int | None = None
    index: int | None = None


def place_by(variables: Mapping[str, str]) -> Place | None:
    """This process's place as environment variables say it; None if they do not.

    Knows ``JAX_PROCESS_ID`` and ``JAX_NUM_PROCESSES``, Slurm's and Open MPI's processes, and the hosts of TPU pods.

    Raises:
        UserError: they contradict each other, or one is no number.
    """
    for needed, index, count, _ in _JOBS:
        if needed in variables:
            return _place(variables.get(index), variables.get(count), f"{index} and {count} in the environment")
    if "TPU_WORKER_ID" in variables and "TPU_WORKER_HOSTNAMES" in variables:
        hosts = len(variables["TPU_WORKER_HOSTNAMES"].split(","))
        slices = _number("MEGASCALE_NUM_SLICES", variables, "1")
        index = _number("TPU_WORKER_ID", variables) + hosts * _number("MEGASCALE_SLICE_ID", variables, "0")
        return _place(index, hosts * slices, "TPU_WORKER_ID and TPU_WORKER_HOSTNAMES in the environment")
    return None


def _number(name: str, variables: Mapping[str, str], default: str = "") -> int:
    text = variables.get(name, default)
    if not text.isdecimal():
        raise UserError(f"{name} in the environment should be a whole number, not {text!r}")
    return int(text)


def place_in_job(index: int | None = None, count: int | None = None) -> Place:
    """This process's place in its job, without asking any other process. It then uses its own GPU alone.

    Comes before anything is computed.

    Args:
        index, count: the place, where the environment does not say it.

    Raises:
        UserError: there is no job, or no such place.
    """
    if devices := local_devices():
        for backend in ("cuda", "rocm"):
            jax.config.update(f"jax_{backend}_visible_devices", ",".join(map(str, devices)))
    if (index, count) != (None, None):
        return _place(index, count, "process_id and num_processes")
    if place := place_by(os.environ):
        return place
    if jax.default_backend() == "tpu" and jax.process_count() > 1:  # a pod's runtime knows it
        return Place(jax.process_index(), jax.process_count())
    raise UserError(_NO_JOB)


def _place(index: int | str | None, count: int | str | None, source: str) -> Place:
    given = ["nothing" if number is None else str(number) for number in (index, count)]
    if not (given[0].isdecimal() and given[1].isdecimal() and int(given[0]) < int(given[1])):
        raise UserError(f"{source} should be a process, counted from 0, of so many, not {' of '.join(given)}")
    return Place(int(given[0]), int(given[1]))


def shard_of(text: str) -> tuple[int, int]:
    """Reads a shard: "1/4" is (1, 4); "hosts" is `place_in_job`.

    Raises:
        UserError: "hosts" outside of a job, or a shard that cannot be read.
    """
    if text != HOSTS:
        return parse_shard(text)
    try:
        return place_in_job()
    except UserError as error:
        raise UserError(
            f"shard: hosts is for TPU pods, Slurm and Open MPI jobs, not for a single machine ({error}); elsewhere "
            "give --shard 0/2, 1/2 and so on"
        ) from error


def local_devices(variables: Mapping[str, str] = os.environ) -> list[int] | None:
    """The GPUs for this process: one, by its number on this host, if Slurm or Open MPI started it; None for all.

    ``JAX_LOCAL_DEVICE_IDS`` takes precedence, as in JAX. A process that sees one GPU alone takes that.

    Raises:
        UserError: a variable holds something else than numbers.
    """
    if ids := variables.get("JAX_LOCAL_DEVICE_IDS"):
        if not all(number.strip().isdecimal() for number in ids.split(",")):
            raise UserError(f"JAX_LOCAL_DEVICE_IDS in the environment should read like 0 or 0,1, not {ids!r}")
        return [int(number) for number in ids.split(",")]
    for needed, _, _, local in _JOBS[1:]:
        if needed in variables and local in variables:
            visible = variables.get("CUDA_VISIBLE_DEVICES", "")
            return [0] if visible and "," not in visible else [_number(local, variables)]
    return None


@contextlib.contextmanager
def joined(meeting: Meeting, patience: float = PATIENCE) -> Iterator[None]:
    """Joins the processes of the job; within this context they train together, and at its end they part.

    Comes before anything is computed.

    Args:
        meeting: how to find the others. What it leaves out, ``JAX_COORDINATOR_ADDRESS``, ``JAX_NUM_PROCESSES`` and
            ``JAX_PROCESS_ID`` say, or else JAX learns all of it from TPU pods, Slurm and Open MPI.
        patience: seconds to wait for the others. Then the process ends with status 2 and a line that says so.

    Raises:
        UserError: only a part of that is given, nothing is known of other processes, or the port is taken.
    """
    completed = _completed(meeting, os.environ)
    with interruption.at_once():
        _meet(completed, patience)
    _job.joined, _job.ended = jax.process_count() > 1, None
    try:
        yield
        _gather(_DONE)
    except jax.errors.JaxRuntimeError:  # the others may be within a step that never ends
        raise
    except BaseException as error:
        _gather(_INTERRUPTED if isinstance(error, KeyboardInterrupt) else _FAILED)
        raise
    finally:
        _job.joined = False


def _completed(meeting: Meeting, variables: Mapping[str, str]) -> Meeting:
    names = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
    options = ("--coordinator_address", "--num_processes", "--process_id")
    address, count, index = (
        variables.get(name) if value is None else value for name, value in zip(names, meeting, strict=True)
    )
    missing = [option for option, value in zip(options, (address, count, index), strict=True) if value is None]
    if len(missing) == len(options):
        return Meeting()
    if missing:
        raise UserError(f"distributed: {' and '.join(missing)} missing: give {', '.join(options)}, or none of them")
    port = re.fullmatch(r".+:(\d{1,5})", str(address), re.ASCII)
    if not port or not 0 < int(port[1]) < 2**16:
        raise UserError(f"coordinator_address: should read like 10.0.0.1:1234, not {address}")
    place = _place(index, count, "process_id and num_processes")
    return Meeting(str(address), place.count, place.index)


def _meet(meeting: Meeting, patience: float) -> None:
    """``jax.distributed.initialize``, which would end the process with a dump of its stack if others did not come."""
    devices = local_devices()
    others = "the other processes" + (f" at {meeting.address}" if meeting.address else "")
    print(f"Waiting for {others}, at most {patience:g} s", file=sys.stderr, flush=True)

    def give_up() -> None:
        advice = "start all of them, with an address that they can reach and the same number of processes"
        os.write(2, f"error: distributed: waited {patience:g} s in vain for {others}: {advice}\n".encode())
        os._exit(2)

    watch = threading.Timer(patience, give_up)
    watch.start()
    try:
        jax.distributed.initialize(
            *meeting,
            local_device_ids=devices,
            initialization_timeout=int(patience) + 60,
            shutdown_timeout_seconds=int(PATIENCE),
        )
    except (RuntimeError, ValueError) as error:
        unknown = isinstance(error, ValueError) and meeting == Meeting()
        advice = "give --coordinator_address, --num_processes and --process_id"
        raise UserError(f"distributed: {f'{_NO_JOB}; {advice}' if unknown else error}") from error
    finally:
        watch.cancel()


def follows() -> bool:
    """Whether this process is joined to others and is not the first, so that it writes nothing."""
    return _job.joined and jax.process_index() > 0


@contextlib.contextmanager
def on_all_devices_joined() -> Iterator[None]:
    """Within this context programs are for the devices of all joined processes; of a single one for its own."""
    with on_every_host() if _job.joined else contextlib.nullcontext():
        yield


def differing(values: Mapping[str, Any]) -> list[str]:
    """The names of values that are not the same on all joined processes; the same answer on all of them.

    Args:
        values: JSON values, by the same names on all processes. Only digests of them are exchanged.

    Raises:
        KeyboardInterrupt, UserError: as for `follow`.
    """
    counts = _gather_of_running(len(values)) if _job.joined else [_DONE]
    if _DONE in counts:
        return []
    if len(set(counts)) > 1:
        raise UserError("distributed: the processes of this job run different versions of this program")
    texts = [json.dumps(value, sort_keys=True) for value in values.values()]
    digests = [np.frombuffer(hashlib.sha256(text.encode()).digest(), np.int32) for text in texts]
    of_all = multihost_utils.process_allgather(np.stack(digests))  # [processes, values, 8]
    return [name for name, same in zip(values, (of_all == of_all[0]).all((0, 2)), strict=True) if not same]


def lead(steps: int) -> None:
    """Tells the processes that follow how many steps come next; does nothing if there are none.

    Raises:
        KeyboardInterrupt, UserError: as for `follow`.
    """
    if _job.joined:
        _gather_of_running(steps)


def follow() -> int:
    """How many steps the first process says come next; 0 if it has done all of them.

    Raises:
        KeyboardInterrupt: a process was told to stop.
        UserError: a process has failed.
    """
    numbers = _gather_of_running(1)
    return _DONE if _DONE in numbers else numbers[0]


def told_to_stop() -> bool:
    """Whether this process, or one that it is joined to, was told to stop: the same answer on all of them."""
    told = interruption.told_to_stop()
    return _TOLD in _gather(_TOLD if told else _UNTOLD) if _job.joined else told


def from_the_first(tree: T) -> T:
    """The values that the first process has, of a pytree of arrays of the same shapes on all."""
    return multihost_utils.broadcast_one_to_all(tree) if _job.joined else tree


def _gather_of_running(number: int) -> list[int]:
    """As `_gather`, but ends this process as well if one was interrupted or has failed."""
    numbers = _gather(number)
    if _INTERRUPTED in numbers:
        raise KeyboardInterrupt
    if _FAILED in numbers:
        raise UserError("another process of this job has stopped, its own message says why; start all of them again")
    return numbers


def _gather(number: int) -> list[int]:
    """The number that each process gives; those that end say how, and from then on nothing is asked."""
    if not _job.joined or _job.ended is not None:
        return [_DONE if _job.ended is None else _job.ended]
    numbers = np.ravel(multihost_utils.process_allgather(np.int32(number))).tolist()
    _job.ended = min(numbers) if min(numbers) <= _DONE else None
    return numbers
