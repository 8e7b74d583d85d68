"""Where and how the tests run: on the CPU, offline, and the same way every time."""

import os

# Before anything imports jax. A GPU run sets JAX_PLATFORMS itself. Compiled programs are not kept between runs: what a
# test measures must not depend on the run before, nor on the machine that filled the cache.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_ENABLE_COMPILATION_CACHE", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Most of the time goes into compiling: XLA's own passes, which decide what is computed, run as ever, LLVM's do not.
if os.environ["JAX_PLATFORMS"] == "cpu":
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_backend_optimization_level=0"

import pytest
from hypothesis import settings

from dreamstyler_jax.runtime.compilation import choose_kernels

choose_kernels()

settings.register_profile("project", deadline=None, derandomize=True, database=None)
settings.load_profile("project")


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory):
    """The folder of a whole Stable Diffusion with random weights; not to be changed."""
    from tiny_model import write_tiny_model

    return write_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def tiny(tiny_folder):
    """The same, loaded: one object for all tests, so that they share compiled programs."""
    from dreamstyler_jax.stable_diffusion.pipeline import StableDiffusion

    return StableDiffusion.load(str(tiny_folder))
