"""Gives memory back between tests, which would otherwise add up to many gigabytes."""

import ctypes
import gc

import jax


def release_memory() -> None:
    """Frees all compiled programs, and returns the memory to the system, where malloc is glibc's and would keep it."""
    jax.clear_caches()
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim:
        trim(0)
