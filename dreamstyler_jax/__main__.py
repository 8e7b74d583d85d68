"""The command ``dreamstyler``; ``python -m dreamstyler_jax`` is the same."""

import functools
import importlib
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple, NoReturn

from dreamstyler_jax import __version__
from dreamstyler_jax.commands import cli
from dreamstyler_jax.runtime.errors import UserError
from dreamstyler_jax.runtime.interruption import ignore_signals
from dreamstyler_jax.runtime.settings import hint

SETTINGS_WITHOUT_JAX = "dreamstyler_jax.commands.config"


class Command(NamedTuple):
    """A command of ``dreamstyler``.

    Attributes:
        module: its module, with a function ``run(config)``.
        config: the name of the settings dataclass.
        summary: what it does, in a line.
        resumable: whether ``--resume`` continues an interrupted call.
        config_module: the module of the settings dataclass, if that is another one.
        smaller: what to do where it exhausts a device's memory.
    """

    module: str
    config: str
    summary: str
    resumable: bool = False
    config_module: str = ""
    smaller: str = "JAX_PLATFORMS=cpu in the environment computes on the CPU"

    def config_class(self) -> type:
        """The settings dataclass. JAX is imported only if the module of the class does so."""
        if self.config_module != SETTINGS_WITHOUT_JAX:
            set_up()
        return getattr(importlib.import_module(self.config_module or self.module), self.config)

    def run(self, config: Any) -> None:
        """Runs the command.

        Raises:
            UserError: among others, it exhausted a device's memory.
        """
        set_up()
        from dreamstyler_jax.runtime import memory

        try:
            importlib.import_module(self.module).run(config)
        except Exception as error:
            if memory.is_exhausted(error):
                raise memory.too_much(self.smaller) from error
            raise


# The commands by what they are for, in the order in which they are listed.
GROUPS = {
    "Learn a style": {
        "caption": Command(
            "dreamstyler_jax.commands.caption", "CaptionConfig", "Describe pictures, except their style, in text files."
        ),
        "train": Command(
            "dreamstyler_jax.commands.train",
            "TrainConfig",
            "Learn a style from one or several pictures.",
            resumable=True,
            config_module=SETTINGS_WITHOUT_JAX,
            smaller="give a smaller --resolution, or --dtype bfloat16 if it is not",
        ),
    },
    "Paint with it": {
        "sample": Command(
            "dreamstyler_jax.commands.sample",
            "SampleConfig",
            "Paint prompts in learned styles.",
            config_module=SETTINGS_WITHOUT_JAX,
            smaller="give a smaller --height and --width, or --dtype bfloat16 if it is not",
        ),
        "enlarge": Command(
            "dreamstyler_jax.commands.enlarge", "EnlargeConfig", "Paint chosen pictures of a grid again, larger."
        ),
    },
    "Look at runs and grids": {
        "report": Command(
            "dreamstyler_jax.commands.report", "ReportConfig", "Show how a style was learned, on one page."
        ),
        "pick": Command(
            "dreamstyler_jax.commands.pick", "PickConfig", "Copy chosen pictures of a grid into a folder of their own."
        ),
        "animate": Command(
            "dreamstyler_jax.commands.animate",
            "AnimateConfig",
            "Show an axis of a grid, such as the seed, as animations.",
        ),
    },
    "Score and share": {
        "evaluate": Command("dreamstyler_jax.commands.evaluate", "EvaluateConfig", "Score painted pictures."),
        "convert": Command(
            "dreamstyler_jax.commands.convert", "ConvertConfig", "Write a style for other tools, or read theirs."
        ),
    },
    "Check this machine and what is on it": {
        "doctor": Command(
            "dreamstyler_jax.commands.doctor", "DoctorConfig", "Say what this installation can do, and what is missing."
        ),
        "verify": Command(
            "dreamstyler_jax.commands.verify",
            "VerifyConfig",
            "Check that runs, grids and styles are whole, and finished.",
        ),
        "benchmark": Command(
            "dreamstyler_jax.commands.benchmark",
            "BenchmarkConfig",
            "Measure how fast this machine trains and paints.",
            smaller="give a smaller --batch or --resolution, or --dtype bfloat16 if it is not",
        ),
    },
    "Study the method on the embedded model, the small one in the package": {
        "experiments": Command(
            "dreamstyler_jax.mini.studies.experiments", "ExperimentsConfig", "Measure the paper's claims."
        ),
        "compare": Command(
            "dreamstyler_jax.mini.studies.compare", "CompareConfig", "Compare styles with the painter's own pictures."
        ),
        "check": Command("dreamstyler_jax.mini.studies.check", "CheckConfig", "Measure what the model understands."),
        "words": Command(
            "dreamstyler_jax.mini.studies.words", "WordsConfig", "Measure how much each word of a prompt counts."
        ),
        "captions": Command(
            "dreamstyler_jax.mini.studies.captioning", "CaptionsConfig", "Measure how right the model's captions are."
        ),
        "examples": Command(
            "dreamstyler_jax.mini.studies.example", "ExamplesConfig", "Make the package's example pictures again."
        ),
        "pretrain": Command(
            "dreamstyler_jax.mini.training.pretrain", "PretrainConfig", "Train the model from scratch."
        ),
    },
}
COMMANDS = {name: command for group in GROUPS.values() for name, command in group.items()}
OTHER_WORDS = {"learn": "train", "paint": "sample", "score": "evaluate"}  # for commands, such as those of Python's API
BEGINNING = """\
usage: dreamstyler COMMAND [--OPTION VALUE ...]

To begin, with a picture of yours and the small model in the package (--model takes another one):
  dreamstyler caption photo.jpg            describes it in photo.txt, for you to correct
  dreamstyler train --images photo.jpg     learns its style, into runs/photo
  dreamstyler sample --styles runs/photo   paints with it; then open out/photo/index.html"""


def main(name: str | None = None) -> NoReturn:
    """Runs a command with the options of this process, and ends the process.

    Args:
        name: the command; without, the first word of the command line.
    """
    words = sys.argv[1:]
    prog = f"python {name}.py"
    if name is None:
        name, *words = words or ["--help"]
        prog = f"dreamstyler {name}"
    command = COMMANDS.get(name)
    try:
        if command is None:
            cli.run_and_exit(lambda: answer(name))
        cli.run_and_exit(lambda: run(command, words, prog), resumable=command.resumable)
    finally:
        ignore_signals()


def run(command: Command, words: Sequence[str], prog: str) -> None:
    """Runs a command with the options in ``words``; what it can refuse, it refuses before JAX is imported."""
    command.run(cli.parse(command.config_class(), words, prog))


def answer(word: str) -> None:
    """Answers a first word that is no command: ``--help``, ``--version``, or a mistake.

    Raises:
        UserError: the word is none of these.
    """
    if word in ("-h", "--help", "help"):
        width = max(map(len, COMMANDS))
        print(BEGINNING)
        for heading, commands in GROUPS.items():
            print("", f"{heading}:", sep="\n")
            print(*(f"  {name:{width}}  {command.summary}" for name, command in commands.items()), sep="\n")
        print("", "dreamstyler COMMAND --help lists the options of a command.", sep="\n")
    elif word == "--version":
        print(f"dreamstyler_jax {__version__}")
    else:
        near = (
            hint(OTHER_WORDS.get(word, word), (*COMMANDS, "--help", "--version"))
            or "; dreamstyler --help lists them all"
        )
        raise UserError(f"unknown command {word!r}{near}")


@functools.cache
def set_up() -> None:
    """Imports JAX and says how it compiles, before the first computation; keeps warnings short."""
    from dreamstyler_jax.runtime import compilation, console

    console.plain_warnings()
    console.pass_over_late_results()
    compilation.set_up()


if __name__ == "__main__":
    main()
