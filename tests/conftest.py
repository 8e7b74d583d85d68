"""Where and how the tests run: on the CPU, offline, and the same way every time."""

import os
import shutil

# Before anything imports jax. A GPU run sets JAX_PLATFORMS itself. Compiled programs are not kept between runs: what a
# test measures must not depend on the run before, nor on the machine that filled the cache.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_ENABLE_COMPILATION_CACHE", "false")
# Most of the time goes into compiling: XLA's own passes, which decide what is computed, run as ever, LLVM's do not.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "true")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# PyTorch's threads wait for each other by turning in circles, on cores that the other worker needs.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import jax
import pytest
from hypothesis import settings
from memory_tools import collect_seldom, release_memory

from dreamstyler_jax.runtime.compilation import choose_kernels

# Each program stays one piece, as the workers keep all cores busy anyway. The older way to generate code takes half the
# time of the newer one; later versions of jax no longer have it.
if os.environ["JAX_PLATFORMS"] == "cpu":
    fast = "--xla_cpu_parallel_codegen_split_count=1"
    if jax.__version_info__ < (0, 11):
        fast += " --xla_cpu_use_fusion_emitters=false"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {fast}"
choose_kernels()
jax.devices()  # starts JAX with one device, which commands called by a test then leave as it is

settings.register_profile("project", deadline=None, derandomize=True, database=None)
settings.load_profile("project")


# Each of these takes half a minute or more; they begin first, so that no worker waits for another one's last file.
LONGEST = (
    "test_documentation.py", "test_parity_fullsize.py", "test_train_command.py", "test_exam.py", "test_embedded.py",
    "test_api.py", "test_compilation.py", "test_pretrain.py", "test_sdxl.py", "test_sample_repainting.py",
)  # fmt: skip


def pytest_collection_modifyitems(items):
    """Puts the longest files first."""
    order = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.name, len(LONGEST)))


def pytest_collection_finish():
    """The modules are imported by now."""
    collect_seldom()


@pytest.fixture(scope="module", autouse=True)
def no_leftovers():
    """Frees the compiled programs of a file after its last test."""
    yield
    release_memory()


@pytest.fixture(scope="session")
def compiled_folder(tmp_path_factory):
    """Where compiled programs are kept until the tests of this worker end."""
    return tmp_path_factory.mktemp("compiled")


@pytest.fixture(scope="module")
def one_compilation(compiled_folder):
    """Lets the commands that a file runs, in this process and in others, share compiled programs with such files."""
    from script_tools import compilation_cache

    with compilation_cache(compiled_folder):
        yield


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory):
    """The folder of a whole Stable Diffusion with random weights; not to be changed."""
    from tiny_model import write_tiny_model

    return write_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def tiny_folder_with_clip(tiny_folder, tmp_path_factory):
    """The same with a CLIP inside, which scores its pictures; not to be changed."""
    from tiny_clip import write_tiny_clip

    folder = tmp_path_factory.mktemp("models_with_clip") / "tiny"
    shutil.copytree(tiny_folder, folder)
    write_tiny_clip(folder / "clip")
    return folder


@pytest.fixture(scope="session")
def tiny(tiny_folder):
    """The same, loaded: one object, so that the tests of a file share compiled programs."""
    from dreamstyler_jax.stable_diffusion.pipeline import StableDiffusion

    return StableDiffusion.load(str(tiny_folder))


@pytest.fixture(scope="session")
def sdxl_folder(tmp_path_factory):
    """The folder of a whole SDXL with random weights; not to be changed."""
    from tiny_sdxl import write_tiny_sdxl

    return write_tiny_sdxl(tmp_path_factory.mktemp("models") / "sdxl")


@pytest.fixture(scope="session")
def sdxl(sdxl_folder):
    """The same, loaded."""
    from dreamstyler_jax.stable_diffusion.pipeline import StableDiffusion

    return StableDiffusion.load(str(sdxl_folder))
