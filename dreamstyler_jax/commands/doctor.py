"""The command ``dreamstyler doctor``: what this installation sees, what fits, and what is missing."""

import dataclasses
import importlib.metadata
import os
import platform
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import jax
from huggingface_hub.constants import HF_HUB_CACHE

from dreamstyler_jax import __version__
from dreamstyler_jax.runtime import compilation

GIB = 2**30
LIBRARIES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
# GiB with the shipped configs: the compiler's estimates for a TPU (docs/tpu.md), weights included.
NEEDS = {
    "Stable Diffusion 1.5, 512 x 512, bfloat16": {"paint": 5.3, "learn": 6.5},
    "SDXL, 1024 x 1024, bfloat16": {"paint": 7.2, "learn": 9.0},
}
OPTIONAL = {
    "torch": "models in .ckpt and .bin files, and writing styles as .pt",
    "transformers": "captions and depth maps",
    "libtpu": "benchmark --target, programs for a TPU that is not here",
}
PACKAGES = {"libtpu": "'jax[tpu]'", "transformers": "torch transformers"}  # what to install, if not by its own name


@dataclasses.dataclass(frozen=True)
class DoctorConfig:
    """Say what this installation sees: versions, devices, memory, what fits, folders, and what is missing."""


def run(config: DoctorConfig) -> None:
    """Prints what it finds, a line for each thing; what is wrong comes last, with what to do."""
    memory = device_memory()
    print(f"dreamstyler_jax {__version__} in {Path(__file__).parents[1]}")
    print(f"Python {platform.python_version()}, {', '.join(map(_version, LIBRARIES))}, {platform.platform()}")
    print(f"devices: {devices()}, {memory / GIB:.1f} GiB of memory for each")
    print(f"this machine: {compilation.cores()} CPU cores, {main_memory() / GIB:.1f} GiB of memory")
    for model, needs in NEEDS.items():
        print(f"{model}: {', '.join(f'to {task} {verdict(gib, memory)}' for task, gib in needs.items())}")
    for what, folder in folders().items():
        print(f"{what}: {describe(folder)}")
    for package, use in OPTIONAL.items():
        if not _installed(package):
            print(f"not installed: {package}, for {use}: pip install {PACKAGES.get(package, package)}")
    for problem in problems():
        print(f"problem: {problem}")


def devices() -> str:
    """The devices that JAX computes on, as in "4 x TPU v5 lite"."""
    found = jax.local_devices()
    return f"{len(found)} x {found[0].device_kind} ({found[0].platform})"


def device_memory() -> int:
    """Bytes of memory of each device; the CPU's devices share that of the machine."""
    stats = jax.local_devices()[0].memory_stats() or {}
    return stats.get("bytes_limit") or main_memory()


def main_memory() -> int:
    """Bytes of the machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def verdict(needed: float, memory: int) -> str:
    """Whether so many GiB fit into so many bytes of memory."""
    fits = "fits" if needed * GIB <= memory else "does not fit: try a smaller --batch_size"
    return f"{needed:.1f} GiB ({fits})"


def folders() -> dict[str, Path]:
    """The folders that this project keeps files in, by what they hold."""
    found = {"downloaded models": Path(HF_HUB_CACHE)}
    programs = jax.config.jax_compilation_cache_dir  # type: ignore[attr-defined]
    return found | ({"compiled programs": Path(programs)} if programs else {})


def describe(folder: Path) -> str:
    """A folder, how much it holds, and how much room there is beside it."""
    if not folder.is_dir():
        return f"none yet in {folder}"
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    free = shutil.disk_usage(folder).free
    return f"{len(sizes)} files, {sum(sizes) / GIB:.1f} GiB in {folder} ({free / GIB:.0f} GiB free)"


def problems(root: Path = Path("/"), environment: Mapping[str, str] = os.environ) -> Iterator[str]:
    """What is wrong, each with what to do.

    Args:
        root: the root of the file system, where drivers show their devices.
        environment: the environment's variables.
    """
    seen = {device.platform for device in jax.local_devices()}
    asked_for_cpu = "cpu" in environment.get("JAX_PLATFORMS", "")
    for name, extra, signs in (
        ("an NVIDIA GPU", "cuda13", ["proc/driver/nvidia/version"]),
        ("an AMD GPU", "rocm7-local", ["dev/kfd"]),
        ("a TPU", "tpu", ["dev/accel0", "dev/vfio/0"]),
    ):
        if seen == {"cpu"} and not asked_for_cpu and any((root / sign).exists() for sign in signs):
            yield f"this machine has {name}, but JAX does not see it: pip install 'jax[{extra}]'"
    if "compiled programs" not in folders():
        yield "compiled programs are not kept, so every start compiles anew: make the folder of XDG_CACHE_HOME writable"


def _version(package: str) -> str:
    return f"{package} {importlib.metadata.version(package)}"


def _installed(package: str) -> bool:
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
