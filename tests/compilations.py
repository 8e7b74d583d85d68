"""Counts the programs that JAX compiles."""

import contextlib
from collections.abc import Iterator

import jax

_EVENT = "/jax/core/compile/backend_compile_duration"


@contextlib.contextmanager
def compilations(function: str = "") -> Iterator[list[str]]:
    """Collects the names of the programs that are compiled in the ``with`` block, such as ``jit(sample_batch)``.

    Operations outside of a jitted function are programs too, one for each shape.

    Args:
        function: collect only the programs of this jitted function.
    """
    names: list[str] = []

    def listen(event: str, _: float, *, fun_name: str = "", **__: object) -> None:
        if event == _EVENT and (not function or fun_name == f"jit({function})"):
            names.append(fun_name)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield names
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
