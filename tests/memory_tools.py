"""Gives memory back between tests, which would otherwise add up to many gigabytes, and only then."""

import ctypes
import gc

import jax


def collect_seldom() -> None:
    """Makes Python look for dead objects a hundred times less often than usual, and never among those that exist now.

    Tracing makes many objects, nearly all of which stay: looking took a sixth of the tests' time.
    """
    gc.freeze()
    gc.set_threshold(70_000, 10, 10)


def release_memory() -> None:
    """Frees all compiled programs, and returns the memory to the system, where malloc is glibc's and would keep it."""
    jax.clear_caches()
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim:
        trim(0)
