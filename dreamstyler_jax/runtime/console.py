"""What commands say on a terminal or in a log: warnings, and what they are about to do."""

import sys
import warnings

import jax


def plain_warnings() -> None:
    """From now on a warning is one line on stderr, ``warning: ...``, without the code that gave it."""
    warnings.showwarning = _show


def _show(message: Warning | str, *_: object, **__: object) -> None:
    print("warning:", *str(message).split(), file=sys.stderr, flush=True)


def pass_over_late_results() -> None:
    """From now on nothing is said of results that come after their event loop was closed, which nobody waits for.

    When one array of a damaged checkpoint cannot be read, Orbax closes the loop and gives up; tensorstore's reads of
    the others end later, and each would print a traceback.
    """
    earlier = sys.unraisablehook

    def report(unraisable: "sys.UnraisableHookArgs") -> None:
        if not (isinstance(unraisable.exc_value, RuntimeError) and str(unraisable.exc_value) == "Event loop is closed"):
            earlier(unraisable)

    sys.unraisablehook = report


def announce(model: object, *lines: str) -> None:
    """Says on stderr what is about to be computed, since the first result may take a minute of compiling.

    Args:
        model: the model; its ``repr`` is shown, with the devices.
        lines: what is computed with it.
    """
    devices = jax.local_devices()
    print(f"{model!r} on {len(devices)} x {devices[0].device_kind}", *lines, sep="\n", file=sys.stderr)
    print("Compiling; later runs of the same shape start faster", file=sys.stderr, flush=True)
