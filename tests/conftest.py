"""Where and how the tests run: on the CPU, offline, and the same way every time."""

import os

# Before anything imports jax. A GPU run sets JAX_PLATFORMS itself. Compiled programs are not kept between runs: what a
# test measures must not depend on the run before, nor on the machine that filled the cache.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_ENABLE_COMPILATION_CACHE", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from hypothesis import settings

settings.register_profile("project", deadline=None, derandomize=True, database=None)
settings.load_profile("project")
