"""How JAX compiles: which kernels the CPU uses, how its cores share a batch, and where compiled programs are kept."""

import contextlib
import dataclasses
import functools
import math
import os
import re
from pathlib import Path
from typing import Any

import jax

from dreamstyler_jax.runtime.files import cache_folder

MAX_SIZE = 2**30  # bytes of the cache; the least recently used programs are removed first
WORTH_KEEPING = 0.1  # seconds of compiling
_CONFIG: Any = jax.config  # its attributes exist at run time only
_KERNELS = "xla_cpu_experimental_ynn_fusion_type"
_DEVICES = "xla_force_host_platform_device_count"
_THREADS = "NPROC"  # XLA's name for the number of threads that its devices share
_SCHEDULER = "xla_cpu_enable_concurrency_optimized_scheduler"


def set_up() -> None:
    """Chooses the CPU's kernels and keeps compiled programs. Comes before the first computation."""
    choose_kernels()
    keep_programs()


def choose_kernels(version: tuple[int, ...] = jax.__version_info__) -> None:
    """On the CPU, uses Eigen's convolutions and matrix products instead of YNNPACK's, the default since jax 0.10.

    They paint 1.5 times as fast with jax 0.10 and 0.11, and 1.07 times with 0.12. With them comes the scheduler that
    saves memory, because the one for the most concurrency has given wrong results (docs/performance.md). Later versions
    of jax are not measured and keep their defaults. A flag that ``XLA_FLAGS`` already sets stays as it is.

    Comes before the first computation, when JAX reads the flags.

    Args:
        version: the version of jax.
    """
    if version >= (0, 13):
        return
    for flag, value in ((_KERNELS, ""), (_SCHEDULER, "false")):
        flags = os.environ.get("XLA_FLAGS", "")
        if flag not in flags:
            os.environ["XLA_FLAGS"] = f"{flags} --{flag}={value}".strip()


def share_cores(model: str, *batch_sizes: int) -> None:
    """On a CPU, makes each core a device for the embedded model, or as many cores as divide all batches evenly.

    Each device computes its part of a batch. This is faster than all cores together on each operation of the whole
    batch (docs/performance.md). Larger models keep the cores busy anyway, and each device has a copy of the
    weights, so they keep one device. ``JAX_NUM_CPU_DEVICES`` and XLA's flag for the number of devices take precedence.

    Several devices get one thread more than they are, whoever asked for them, or more if the environment says so: with
    as many threads as devices, the first picture of a device's part of a batch has come out wrong, and further threads
    only get into each other's way (docs/performance.md).

    Has no effect after the first computation, when the number of devices is fixed.

    Args:
        model: the model, as in the settings.
        batch_sizes: the sizes of all batches.
    """
    devices = cpu_devices(model, *batch_sizes)
    if devices > 1 and not _devices_asked_for():
        with contextlib.suppress(RuntimeError):  # JAX has started its devices: too late
            jax.config.update("jax_num_cpu_devices", devices)
    if devices > 1:
        threads = os.environ.get(_THREADS, "")
        os.environ[_THREADS] = str(max(devices + 1, int(threads) if threads.isdecimal() else 0))


def cpu_devices(model: str, *batch_sizes: int) -> int:
    """How many devices the CPU's cores are for a model and its batches, see `share_cores`."""
    return _devices_asked_for() or (math.gcd(cores(), *batch_sizes) if model == "mini" else 1)


def _devices_asked_for() -> int:
    """The number of the CPU's devices that JAX's setting or XLA's flag asks for; 0 if neither does."""
    if _CONFIG.jax_num_cpu_devices > 0:
        return _CONFIG.jax_num_cpu_devices
    flag = re.search(rf"--{_DEVICES}=(\d+)", os.environ.get("XLA_FLAGS", ""))
    return int(flag[1]) if flag else 0


def cores() -> int:
    """The number of the CPU's cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def keep_programs() -> None:
    """From now on JAX keeps compiled programs in ``programs`` in the user's cache folder, and takes them from there.

    If ``JAX_COMPILATION_CACHE_DIR`` or ``JAX_ENABLE_COMPILATION_CACHE`` is set, JAX's cache stays as they say. If the
    folder cannot be written, no programs are kept.
    """
    if _CONFIG.jax_compilation_cache_dir or not _CONFIG.jax_enable_compilation_cache:
        return
    try:
        folder = cache_folder() / "programs"
        folder.mkdir(parents=True, exist_ok=True)
        _remove_torn(folder)
    except (OSError, RuntimeError):
        return
    if os.access(folder, os.W_OK | os.X_OK):
        jax.config.update("jax_compilation_cache_max_size", MAX_SIZE)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", WORTH_KEEPING)
        jax.config.update("jax_compilation_cache_dir", str(folder))


def _remove_torn(folder: Path) -> None:
    """Removes the incomplete entries of processes that were killed while they wrote.

    In every run, JAX would warn of such a program, compile it again, and not replace it. It writes ``KEY-cache`` and
    then ``KEY-atime``, the time of the last use, without which it cannot measure the folder either.
    """
    for program in folder.glob("*-cache"):
        used = program.with_name(program.name.removesuffix("cache") + "atime")
        if not used.exists() or not program.stat().st_size:
            program.unlink(missing_ok=True)


def prepare(model: str) -> None:
    """What a library user gets without asking: the same kernels, devices and kept programs as the commands.

    Changes nothing once JAX has computed something.
    """
    set_up()
    share_cores(model)


@dataclasses.dataclass
class _Stopwatch:
    seconds: float = 0.0


_compiling = _Stopwatch()


def seconds_compiling() -> float:
    """How long this process has traced and compiled programs, counted from the first call."""
    _listen()
    return _compiling.seconds


@functools.cache
def _listen() -> None:
    def add(event: str, duration_secs: float, **_: object) -> None:
        if event.startswith("/jax/core/compile/"):
            _compiling.seconds += duration_secs

    jax.monitoring.register_event_duration_secs_listener(add)
