"""The command ``dreamstyler doctor``: what this installation can do on this machine, and what is missing."""

import contextlib
import dataclasses
import importlib.metadata
import os
import platform
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import jax
from huggingface_hub.constants import HF_HUB_CACHE

from dreamstyler_jax import __version__
from dreamstyler_jax.commands.config import SampleConfig, TrainConfig
from dreamstyler_jax.runtime import compilation
from dreamstyler_jax.runtime.errors import one_line
from dreamstyler_jax.runtime.files import cache_folder

GIB = 2**30
LIBRARIES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


class Needs(NamedTuple):
    """What the shipped configs need of a device's memory, weights included.

    Attributes:
        source: how this is known.
        models: GiB for each task, by model.
    """

    source: str
    models: Mapping[str, Mapping[str, float]]


# By the kind of device, as JAX calls its platform; of others nothing is known.
NEEDS = {
    "tpu": Needs(
        "as TPUs' compiler estimates (docs/tpu.md)",
        {
            "Stable Diffusion 1.5, 512 x 512, bfloat16": {"paint": 5.3, "learn": 6.5},
            "SDXL, 1024 x 1024, bfloat16": {"paint": 7.2, "learn": 9.0},
        },
    ),
    "gpu": Needs("as measured on an H200 (docs/gpu.md)", {"Stable Diffusion 1.5, 512 x 512, bfloat16": {"learn": 7.5}}),
}


class Extra(NamedTuple):
    """What can be installed besides.

    Attributes:
        packages: that it consists of, or those of them that are looked for.
        use: what they are for.
        name: of the extra in ``setup.cfg``; empty for a package that is in none.
    """

    packages: tuple[str, ...]
    use: str
    name: str = ""

    @property
    def command(self) -> str:
        """The command that installs it."""
        return "pip install " + (f"'dreamstyler-jax[{self.name}]'" if self.name else " ".join(self.packages))


EXTRAS = (
    Extra(
        ("torch", "transformers"),
        "captions by BLIP-2 and others, depth maps, models in .ckpt and .bin files, writing styles as .pt",
        "torch",
    ),
    Extra(("gcsfs",), "folders in gs://", "gcs"),
    Extra(("s3fs",), "folders in s3://", "s3"),
    Extra(("adlfs",), "folders in az://"),
    Extra(("wandb",), "train --wandb", "wandb"),
    Extra(("tensorboard",), "tensorboard --logdir runs, the curves of runs in a browser"),
    Extra(("libtpu",), "TPUs, here or, by benchmark --target, elsewhere", "tpu"),
)


@dataclasses.dataclass(frozen=True)
class DoctorConfig:
    """Say what this installation can do: versions, devices, memory, what fits, folders, and what is missing."""


def run(config: DoctorConfig) -> None:
    """Prints what it finds, a line for each thing; what is wrong comes last, with what to do."""
    print(f"dreamstyler_jax {__version__} in {Path(__file__).parents[1]}")
    print(f"Python {platform.python_version()}, {', '.join(map(_version, LIBRARIES))}, {platform.platform()}")
    print(f"this machine: {_count(compilation.cores(), 'CPU core')}, {main_memory() / GIB:.1f} GiB of memory")
    found: list[str] = []
    try:
        kind = jax.local_devices()[0].platform
    except (RuntimeError, AssertionError) as error:  # of a driver, and for JAX_PLATFORMS that are not installed
        why = one_line(error) or f"JAX_PLATFORMS is {os.environ.get('JAX_PLATFORMS')}"
        found.append(f"JAX finds no device: {why}; JAX_PLATFORMS=cpu in the environment computes on the CPU")
    else:
        print(f"devices: {sharing(kind)}", *fitting(kind, device_memory()), sep="\n")
        found += device_problems(kind)
    if not _programs():
        found.append("compiled programs are not kept, so every start compiles anew: make XDG_CACHE_HOME writable")
    for what, folder in folders().items():
        print(f"{what}: {describe(folder)}")
    for extra in EXTRAS:
        if missing := [package for package in extra.packages if not _installed(package)]:
            print(f"not installed: {', '.join(missing)}, for {extra.use}: {extra.command}")
    for problem in found:
        print(f"problem: {problem}")


def devices() -> str:
    """The devices that JAX computes on, as in "4 x TPU v5 lite"."""
    found = jax.local_devices()
    return f"{len(found)} x {found[0].device_kind} ({found[0].platform})"


def sharing(kind: str) -> str:
    """How ``train`` and ``sample`` use the devices of a kind, by JAX's name for it, with their usual batches."""
    if kind != "cpu":
        return f"{devices()}, {device_memory() / GIB:.1f} GiB of memory each, which share every batch"
    train, sample = (
        compilation.cpu_devices("mini", size) for size in (TrainConfig.batch_size, SampleConfig.batch_size)
    )
    larger = compilation.cpu_devices("", 1)
    return f"the CPU, as {train} in train and {sample} in sample for the embedded model, as {larger} for a larger one"


def fitting(kind: str, memory: int) -> Iterator[str]:
    """What fits into so many bytes of a device's memory, as far as that is known for its kind."""
    if kind not in NEEDS:
        yield f"the embedded model fits; what larger ones need is not known for this kind of device ({kind})"
        return
    source, models = NEEDS[kind]
    for model, needs in models.items():
        yield f"{model}: {', '.join(f'to {task} {verdict(gib, memory)}' for task, gib in needs.items())}, {source}"


def device_memory() -> int:
    """Bytes of memory of each device; the CPU's devices share that of the machine."""
    stats = jax.local_devices()[0].memory_stats() or {}
    return stats.get("bytes_limit") or main_memory()


def main_memory(root: Path = Path("/")) -> int:
    """Bytes of memory that this process may use: the machine's, or fewer in a container or a job that has a limit.

    Args:
        root: the root of the file system, where Linux says what its control groups (version 2) may use.
    """
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        group = (root / "proc/self/cgroup").read_text().rpartition("0::/")[2].strip()
    except OSError:
        return memory
    groups = root / "sys/fs/cgroup"
    for folder in (groups / group, *(groups / group).parents):
        limit = folder / "memory.max"
        if folder.is_relative_to(groups) and limit.is_file() and (text := limit.read_text().strip()).isdecimal():
            memory = min(memory, int(text))
    return memory


def verdict(needed: float, memory: int) -> str:
    """Whether so many GiB fit into so many bytes of memory."""
    fits = "fits" if needed * GIB <= memory else "does not fit at once; smaller batches are tried by themselves"
    return f"{needed:.1f} GiB ({fits})"


def folders() -> dict[str, Path]:
    """The folders that this project keeps files in, by what they hold."""
    found, programs = {"downloaded models": Path(HF_HUB_CACHE)}, _programs()
    with contextlib.suppress(RuntimeError):  # no home folder
        found["compiled programs, and what else can be made again"] = cache_folder()
    if programs and not any(Path(programs).is_relative_to(folder) for folder in found.values()):
        found["compiled programs"] = Path(programs)
    return found


def describe(folder: Path) -> str:
    """A folder, how much it holds, and how much room there is beside it."""
    if not folder.is_dir():
        return f"none yet in {folder}"
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    free = shutil.disk_usage(folder).free
    return f"{_count(len(sizes), 'file')}, {sum(sizes) / GIB:.1f} GiB in {folder} ({free / GIB:.0f} GiB free)"


def device_problems(kind: str, root: Path = Path("/"), environment: Mapping[str, str] = os.environ) -> Iterator[str]:
    """The devices of this machine that JAX does not see, each with what to do.

    Args:
        kind: of the devices that it sees, by JAX's name for it.
        root: the root of the file system, where drivers show their devices.
        environment: the environment's variables.
    """
    asked_for_cpu = "cpu" in environment.get("JAX_PLATFORMS", "")
    for name, extra, signs in (
        ("an NVIDIA GPU", "cuda13", ["proc/driver/nvidia/version"]),
        ("an AMD GPU", "rocm7-local", ["dev/kfd"]),
        ("a TPU", "tpu", ["dev/accel0", "dev/vfio/0"]),
    ):
        if kind == "cpu" and not asked_for_cpu and any((root / sign).exists() for sign in signs):
            yield f"this machine has {name}, but JAX does not see it: pip install 'jax[{extra}]'"


def _programs() -> str | None:
    """Where JAX keeps compiled programs; None if it does not."""
    return jax.config.jax_compilation_cache_dir  # type: ignore[attr-defined]


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def _version(package: str) -> str:
    return f"{package} {importlib.metadata.version(package)}"


def _installed(package: str) -> bool:
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
