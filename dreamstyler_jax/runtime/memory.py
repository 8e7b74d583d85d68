"""When a device's memory is exhausted: recognising it, and computing less at once."""

import warnings

import jax

from dreamstyler_jax.runtime.devices import mesh
from dreamstyler_jax.runtime.errors import UserError


def is_exhausted(error: BaseException) -> bool:
    """Whether a program took more memory than a device has: a TPU's compiler says so, others when they run it."""
    return isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" in str(error)


def fewer(count: int) -> int:
    """The largest divisor of a number below it; 1 of 1."""
    return next(count // divisor for divisor in range(2, count + 1) if count % divisor == 0) if count > 1 else 1


def say_what_fits(too_much: str, instead: str) -> None:
    """Warns that a device's memory is exhausted, and of what is done about it."""
    warnings.warn(f"{too_much} at once need more memory than {_devices()}; {instead}", stacklevel=3)


def nothing_fits(least: str, advice: str) -> UserError:
    """The error that even the least that can be computed at once does not fit."""
    return UserError(f"even {least} needs more memory than {_devices()}: {advice}")


def too_much(advice: str) -> UserError:
    """The error of what exhausted the memory, and is not computed in smaller parts."""
    return UserError(f"this needs more memory than {_devices()}: {advice}")


def _devices() -> str:
    count, kind = mesh().size, mesh().devices.flat[0].device_kind
    return f"{kind} has" if count == 1 else f"{count} x {kind} have"
