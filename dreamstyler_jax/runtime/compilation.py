"""How programs are compiled: with the CPU's fastest kernels, for cores that share a batch; and once, being kept."""

import math
import os
from pathlib import Path

import jax

from dreamstyler_jax.runtime.files import cache_folder

MAX_SIZE = 2**30  # bytes; the programs used least recently go first
WORTH_KEEPING = 0.1  # seconds to compile
_KERNELS = "xla_cpu_experimental_ynn_fusion_type"
_DEVICES = "xla_force_host_platform_device_count"
_SCHEDULER = "xla_cpu_enable_concurrency_optimized_scheduler"


def set_up() -> None:
    """What every script does before anything else."""
    choose_kernels()
    keep_programs()


def choose_kernels() -> None:
    """On the CPU, Eigen's convolutions and matrix products instead of YNNPACK's, which jax 0.10 and 0.11 take.

    They paint 1.5 times as fast; with them the order of operations is the one that saves memory, because the one for
    the most concurrency has given wrong results (docs/performance.md). Later versions are left alone, and so is
    each of the two that ``XLA_FLAGS`` sets already. Comes before the first computation, when JAX reads these.
    """
    if jax.__version_info__ >= (0, 12):
        return
    for flag, value in ((_KERNELS, ""), (_SCHEDULER, "false")):
        flags = os.environ.get("XLA_FLAGS", "")
        if flag not in flags:
            os.environ["XLA_FLAGS"] = f"{flags} --{flag}={value}".strip()


def share_cores(model: str, *batch_sizes: int) -> None:
    """On a CPU, makes devices of the cores, as many as share all these batches evenly; for the embedded model alone.

    Each computes a part of a batch by itself, which is 1.2 times as fast as all cores in turn on each operation of the
    whole (docs/performance.md). Larger models keep the cores busy, and every device has a copy of the weights. Whoever
    has set ``JAX_NUM_CPU_DEVICES``, or XLA's flag for it, has as many as asked for. Comes before the first computation.
    """
    asked = jax.config.jax_num_cpu_devices > 0 or _DEVICES in os.environ.get("XLA_FLAGS", "")
    if model == "mini" and not asked:
        jax.config.update("jax_num_cpu_devices", math.gcd(cores(), *batch_sizes))


def cores() -> int:
    """How many of the CPU's this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def keep_programs() -> None:
    """From now on what JAX compiles is kept in, and taken from, ``programs`` in the user's cache folder.

    Whoever has set ``JAX_COMPILATION_CACHE_DIR`` or ``JAX_ENABLE_COMPILATION_CACHE`` has JAX's own cache as asked for.
    Where the folder cannot be written, nothing is kept.
    """
    if jax.config.jax_compilation_cache_dir or not jax.config.jax_enable_compilation_cache:
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
    """Removes what a process that was killed while it wrote has left.

    JAX would warn of such a program, compile it, and not replace it, in every run. It writes ``KEY-cache`` and then
    ``KEY-atime``, the time of last use, without which it can neither measure the folder.
    """
    for program in folder.glob("*-cache"):
        used = program.with_name(program.name.removesuffix("cache") + "atime")
        if not used.exists() or not program.stat().st_size:
            program.unlink(missing_ok=True)
