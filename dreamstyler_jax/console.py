"""What the scripts show on a terminal."""

import sys
import warnings


def plain_warnings() -> None:
    """From now on a warning is one line on stderr, ``warning: ...``, without the code that gave it."""
    warnings.showwarning = _show


def _show(message: Warning | str, *_: object, **__: object) -> None:
    print("warning:", *str(message).split(), file=sys.stderr, flush=True)
