"""What commands say on a terminal or in a log: warnings, and what they are about to do."""

import sys
import warnings

import jax


def plain_warnings() -> None:
    """From now on a warning is one line on stderr, ``warning: ...``, without the code that gave it."""
    warnings.showwarning = _show


def _show(message: Warning | str, *_: object, **__: object) -> None:
    print("warning:", *str(message).split(), file=sys.stderr, flush=True)


def announce(model: object, *lines: str) -> None:
    """Says on stderr what is about to be computed, since the first result may take a minute of compiling.

    Args:
        model: the model; its ``repr`` is shown, with the devices.
        lines: what is computed with it.
    """
    devices = jax.local_devices()
    print(f"{model!r} on {len(devices)} x {devices[0].device_kind}", *lines, sep="\n", file=sys.stderr)
    print("Compiling; later runs of the same shape start faster", file=sys.stderr, flush=True)
