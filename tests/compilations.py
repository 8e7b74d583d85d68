"""The programs that JAX compiles: how many, and how well."""

import contextlib
from collections.abc import Iterator

import jax

_EVENT = "/jax/core/compile/backend_compile_duration"
_UNOPTIMISED = "jax_disable_most_optimizations"


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


@contextlib.contextmanager
def optimised() -> Iterator[None]:
    """Programs that are compiled in the ``with`` block compute fast, as they do for users.

    Elsewhere in the tests LLVM optimises nothing (`conftest`), which is faster unless a program computes for seconds.
    """
    before = jax.config.values[_UNOPTIMISED]
    jax.config.update(_UNOPTIMISED, False)
    try:
        yield
    finally:
        jax.config.update(_UNOPTIMISED, before)
