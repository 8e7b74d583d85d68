"""The command ``dreamstyler``; ``python -m dreamstyler_jax`` is the same."""

import importlib
import sys

from dreamstyler_jax.commands import cli
from dreamstyler_jax.runtime.compilation import set_up
from dreamstyler_jax.runtime.console import plain_warnings

COMMANDS = {
    "train": "dreamstyler_jax.commands.train",
    "sample": "dreamstyler_jax.commands.sample",
}


def main(name: str = "") -> None:
    """Runs the command ``name``, or the one that the command line begins with, and ends the process."""
    if not name:
        name = sys.argv.pop(1)
    plain_warnings()
    set_up()
    cli.main(importlib.import_module(COMMANDS[name]).command, resumable=name == "train")


if __name__ == "__main__":
    main()
