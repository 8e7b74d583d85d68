"""How long programs take to make and to run, what they need, and what the device could do at most."""

import contextlib
import importlib.metadata
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.compilation_cache import compilation_cache

from dreamstyler_jax.commands.workloads import Workload
from dreamstyler_jax.runtime.compilation import cores
from dreamstyler_jax.runtime.flops import flops

PEAKS = {  # dense bfloat16 operations per second, from the makers' data sheets
    "H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12, "V100": 125e12, "TPU v4": 275e12,
    "TPU v5 lite": 197e12, "TPU v5p": 459e12, "TPU v5": 459e12, "TPU v6 lite": 918e12,
}  # fmt: skip


def timed(function: Callable, *arguments: Any) -> tuple[float, Any]:
    """Calls a function; the seconds until its result is computed, and the result."""
    began = time.perf_counter()
    result = jax.block_until_ready(function(*arguments))
    return time.perf_counter() - began, result


def measure(workload: Workload, repeats: int) -> dict[str, Any]:
    """What a workload costs: seconds, operations and bytes; the first run is not counted."""
    costs, compiled = build(workload)
    seconds, inputs = [], workload.inputs
    for _ in range(1 + repeats):
        elapsed, result = timed(compiled, *inputs)
        seconds.append(elapsed)
        inputs = workload.next_inputs(inputs, result)
    return costs | statistics(seconds[1:], workload.images, workload.steps, costs["flop"])


def build(workload: Workload) -> tuple[dict[str, Any], Any]:
    """Compiles a workload, without a cache and with one.

    Returns:
        What that costs (seconds, operations and bytes), and the compiled program, which takes ``inputs``.
    """
    jax.clear_caches()  # another workload may have the same program
    tracing, traced = timed(workload.trace)
    lowering, lowered = timed(traced.lower)
    with tempfile.TemporaryDirectory() as folder, programs_kept_in(folder):
        compiling, _ = timed(lowered.compile)
        jax.clear_caches()
        cached, compiled = timed(workload.trace().lower().compile)
    memory = compiled.memory_analysis()
    costs = {
        "trace_s": tracing,
        "lower_s": lowering,
        "compile_s": compiling,
        "compile_cached_s": cached,
        "argument_bytes": memory.argument_size_in_bytes,
        "temporary_bytes": memory.temp_size_in_bytes,
        "flop": flops(traced.jaxpr),
    }
    return costs, compiled


@contextlib.contextmanager
def programs_kept_in(folder: str) -> Iterator[None]:
    """Within this context, JAX keeps all compiled programs in a folder, and takes them from there."""
    settings = {
        "jax_enable_compilation_cache": True,
        "jax_compilation_cache_dir": folder,
        "jax_persistent_cache_min_compile_time_secs": 0.0,
    }
    before = {name: getattr(jax.config, name) for name in settings}
    try:
        _configure_cache(settings)
        yield
    finally:
        _configure_cache(before)


def _configure_cache(settings: Mapping[str, Any]) -> None:
    for name, value in settings.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


def statistics(seconds: Sequence[float], images: int, steps: int, operations: int) -> dict[str, Any]:
    """Summarises the times of runs.

    Args:
        seconds: of each run.
        images, steps, operations: how many of them each run makes.
    """
    p10, median, p90 = np.percentile(seconds, [10, 50, 90]).tolist()
    return {
        "seconds": list(seconds),
        "median_s": median,
        "p10_s": p10,
        "p90_s": p90,
        "images_per_s": images / median,
        "steps_per_s": steps / median,
        "flop": operations,
        "flop_per_s": operations / median,
        "peak_bytes_in_use": (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use"),
    }


def peak(dtype: str) -> tuple[float, str]:
    """Operations per second that all devices can do at most, and where the figure comes from."""
    on_cpu = jax.default_backend() == "cpu"
    kind = jax.local_devices()[0].device_kind
    count = 1 if on_cpu else jax.local_device_count()  # the CPU's devices share its cores
    listed = [value for name, value in PEAKS.items() if name in kind]
    if listed and dtype == "bfloat16":
        return count * listed[0], "data sheet"
    side = 1024 if on_cpu else 4096
    matrix = jnp.ones((side, side), jnp.dtype(dtype))
    product = jax.jit(jnp.matmul)
    best = min(timed(product, matrix, matrix)[0] for _ in range(50))
    return count * 2 * side**3 / best, f"matrix product of {side} x {side}"


def conditions() -> dict[str, Any]:
    """What the figures depend on besides the settings."""
    packages = ("jax", "jaxlib", "flax", "numpy", "dreamstyler-jax")
    return {
        "device": jax.local_devices()[0].device_kind,
        "devices": jax.local_device_count(),
        "machine": platform.platform(),
        "python": platform.python_version(),
        "cores": cores(),
        "XLA_FLAGS": os.environ.get("XLA_FLAGS", ""),
        **{name: importlib.metadata.version(name) for name in packages},
    }
