"""Command lines: options and a YAML file become settings; errors become one line and an exit status."""

import argparse
import dataclasses
import errno
import inspect
import io
import itertools
import os
import shlex
import sys
import sysconfig
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from dreamstyler_jax.commands.config_files import read_values, to_yaml
from dreamstyler_jax.commands.shared_options import MODEL_OPTIONS
from dreamstyler_jax.runtime.buckets import is_of_store
from dreamstyler_jax.runtime.errors import UserError, one_line
from dreamstyler_jax.runtime.interruption import listening
from dreamstyler_jax.runtime.settings import BOOLEANS, as_given, convert, default_of, hint, kind_of, options_of

USER_ERROR, INTERRUPTED = 2, 75  # 75 is EX_TEMPFAIL of sysexits.h: try again later

# Errors of disks, near and far, and of what the system allows: not ours, whether or not they name a file.
DISK_ERRORS = {
    *(errno.EACCES, errno.EBUSY, errno.EDQUOT, errno.EEXIST, errno.EFBIG, errno.EIO, errno.EISDIR, errno.ELOOP),
    *(errno.EMFILE, errno.ENAMETOOLONG, errno.ENFILE, errno.ENOLCK, errno.ENOSPC, errno.ENOTCONN, errno.ENOTDIR),
    *(errno.EOPNOTSUPP, errno.EPERM, errno.EROFS, errno.ESTALE, errno.ETIMEDOUT),
}
_INSTALLED = [Path(__file__).parents[1], *(Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib", "platlib"))]
_INPUTS = ("images", "pictures", "styles")  # options that a word without an option is most likely meant for
_METAVARS = {str: "TEXT", int: "N", float: "X", bool: "true|false"}

C = TypeVar("C")


def parse(config_class: type[C], argv: Sequence[str] | None = None, prog: str | None = None) -> C:
    """Makes settings from a command line.

    An option overrides the file given with ``--config``, and the file the default of the field. Options are spelt with
    underscores or dashes; a list takes several words, also of several options of its name, and a boolean without a word
    is true.

    Args:
        config_class: a settings dataclass, see `runtime.settings`.
        argv: the words after the command; without, those of this process.
        prog: the command, for the usage line; without, the name of this process.

    Raises:
        UserError: an unknown option or key, a value of the wrong type or out of its range, or an unreadable file.
        SystemExit: after ``--help`` or ``--print_config``, with status 0.
    """
    words = [_with_underscores(word) for word in (sys.argv[1:] if argv is None else argv)]
    positional = _positional(config_class)
    if positional:
        words = _switches_alone(config_class, words)
    namespace, unknown = _parser(config_class, prog).parse_known_args(words)
    given = vars(namespace)
    if positional and (loose := [word for word in unknown if not word.startswith("-")]):
        unknown = [word for word in unknown if word.startswith("-")]
        if kind_of(positional).is_list:
            given[positional.name] = [*given.get(positional.name, []), *loose]
        else:
            unknown += loose if positional.name in given else loose[1:]
            given.setdefault(positional.name, loose[0])
    path, print_config = given.pop("config", None), given.pop("print_config")
    fields = {field.name: field for field in dataclasses.fields(config_class)}  # type: ignore[arg-type]
    if unknown:
        raise UserError(_complaint(unknown[0], words, list(fields)))
    for name, words_of_it in given.items():
        if words_of_it == [] and not default_of(fields[name]):
            raise UserError(f"{name}: give at least one value, or leave --{name} out")
    values = {} if path is None else read_values(config_class, path)
    config = config_class(**values | {name: convert(fields[name], text) for name, text in given.items()})
    if print_config:
        print(to_yaml(config), end="")
        raise SystemExit(0)
    return config


def command_line(command: str, config: Any) -> str:
    """The command line that runs a command with these settings.

    It holds the options that differ from their defaults, and the one that a word without an option stands for: without
    it such a command has nothing to do.

    ``parse`` reads it back into equal settings.
    """
    words = ["dreamstyler", command]
    main = _positional(type(config))
    defaults = type(config)(**({main.name: getattr(config, main.name)} if main else {}))
    for field in options_of(type(config)):
        value = getattr(config, field.name)
        if (value == getattr(defaults, field.name) and field is not main) or value is None:
            continue
        values = _as_list(as_given(field, value))
        if len(values) == 1 and str(values[0]).startswith("-"):
            words.append(f"--{field.name}={values[0]}")
        else:
            words += [f"--{field.name}", *(() if value is True else map(_word, values))]
    return shlex.join(words)


def run_and_exit(run: Callable[[], object], *, resumable: bool = False) -> NoReturn:
    """Calls ``run`` and ends the process.

    Exit status: 0 after ``run`` returns; 2, with one line on stderr, after a ``UserError``, or if a disk, a file of the
    user's or a bucket gives an error; 75 after Ctrl-C or SIGTERM, with the command that continues, at once after the
    second. Any other exception is a defect of ours and keeps its traceback, with status 1.

    Args:
        run: the command.
        resumable: whether ``--resume`` continues it; otherwise the same command does.
    """
    _print_anything()
    words = _resuming(sys.orig_argv) if resumable else sys.orig_argv
    advice = f"interrupted; to continue: {shlex.join(words)}"

    def give_up() -> None:
        os.write(2, f"{advice}\n".encode())
        os._exit(INTERRUPTED)

    with listening(give_up):
        try:
            run()
        except Exception as error:
            reason = _reason(error)
            if not reason:
                raise
            print("error:", reason, file=sys.stderr)
            sys.exit(USER_ERROR)
        except KeyboardInterrupt:
            print(advice, file=sys.stderr)
            sys.exit(INTERRUPTED)
    sys.exit(0)


def _resuming(words: Sequence[str]) -> list[str]:
    """The words of a command with ``--resume``, in place of it and of the value that it may have already."""
    followed = zip(["", *words], words, strict=False)
    is_value = [before == "--resume" and word.lower() in BOOLEANS for before, word in followed]
    others = [word for word, of_it in zip(words, is_value, strict=True) if not of_it]
    return [word for word in others if word.partition("=")[0] != "--resume"] + ["--resume"]


def _reason(error: Exception) -> str:
    """What to say of an error; empty for one that is a defect of ours."""
    if isinstance(error, UserError) or (isinstance(error, OSError) and _is_of_disk(error)):
        return one_line(error)
    return f"a bucket gives the error {type(error).__name__}: {one_line(error)}" if is_of_store(error) else ""


def _is_of_disk(error: OSError) -> bool:
    """Whether an error is the disk's, or of a file of the user's, rather than of one that is installed with Python."""
    if error.errno in DISK_ERRORS or error.errno is None or not isinstance(error.filename, str | bytes):
        return error.errno in DISK_ERRORS
    file = Path(os.path.realpath(os.fsdecode(error.filename)))
    return not any(file.is_relative_to(folder.resolve()) for folder in _INSTALLED)


def _print_anything() -> None:
    """Lets what is printed hold characters that the terminal or the file cannot show; they are escaped."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


class _Parser(argparse.ArgumentParser):
    """A parser that raises a UserError instead of ending the process."""

    def error(self, message: str) -> NoReturn:
        raise UserError(message.removeprefix("argument "))


class _Help(argparse.HelpFormatter):
    """Help that breaks lines between words only, and no path or command within."""

    def _split_lines(self, text: str, width: int) -> list[str]:
        return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False)


class _Once(argparse.Action):
    """Takes the value of an option that may be given once."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option_string: Any = None
    ) -> None:
        if hasattr(namespace, self.dest):
            raise UserError(f"{self.dest}: given twice, {getattr(namespace, self.dest)!r} and {values!r}; give it once")
        setattr(namespace, self.dest, values)


def _parser(config_class: type, prog: str | None) -> _Parser:
    """Reads the words of every option as texts; an option that is not given is not in the result."""
    field = _positional(config_class)
    positional = f"{field.name.upper()} {'... ' if kind_of(field).is_list else ''}" if field else ""
    parser = _Parser(
        prog,
        usage=f"%(prog)s {positional}[--config FILE] [--OPTION VALUE ...]",
        description=(inspect.getdoc(config_class) or "").partition("\n")[0],
        allow_abbrev=False,
        formatter_class=_Help,
    )
    config_help = (
        "YAML file with values for these options; train and sample also know mini, sd15, sd21 and sdxl by name."
    )
    parser.add_argument("--config", metavar="FILE", help=config_help, default=argparse.SUPPRESS, action=_Once)
    parser.add_argument("--print_config", action="store_true", help="Print all values as such a file, and exit.")
    groups: dict[str, argparse._ArgumentGroup] = {}
    for field in options_of(config_class):
        heading = _heading(config_class, field)
        if heading and heading not in groups:
            groups[heading] = parser.add_argument_group(heading)
        kind = kind_of(field)
        words: dict[str, Any] = {"nargs": "*", "action": "extend"} if kind.is_list else {"action": _Once}
        if kind.item is bool:
            words |= {"nargs": "?", "const": "true"}
        metavar = "|".join(field.metadata.get("choices", ())) or _METAVARS[kind.item]
        help = _help_of(field).replace("%", "%%")
        place = groups.get(heading, parser)
        place.add_argument(f"--{field.name}", metavar=metavar, help=help, default=argparse.SUPPRESS, **words)
    return parser


def _heading(config_class: type, field: dataclasses.Field) -> str:
    """What ``--help`` lists an option under: what the class says that declares it; empty for the command's own."""
    of_model = {*MODEL_OPTIONS} & {other.name for other in options_of(config_class)}
    if field.name in of_model and len(of_model) > 1:
        return "the model"
    owner = next(base for base in config_class.__mro__ if field.name in inspect.get_annotations(base))
    return "" if owner is config_class else (inspect.getdoc(owner) or "").partition("\n")[0].rstrip(".").lower()


def _help_of(field: dataclasses.Field) -> str:
    """The help of a field with its range and its default."""
    low, high, default = field.metadata.get("low"), field.metadata.get("high"), default_of(field)
    notes = [] if low is None else [f"from {low:.15g} to {high:.15g}"]
    if default not in ("", None, []):
        notes.append(f"default: {', '.join(map(_word, _as_list(default)))}")
    return field.metadata.get("help", "") + (f" ({'; '.join(notes)})" if notes else "")


def _as_list(value: Any) -> list:
    return value if isinstance(value, list) else [value]


def _word(value: Any) -> str:
    """A value as a word of a command line."""
    if isinstance(value, bool):
        return str(value).lower()
    return str(value).removesuffix(".0") if isinstance(value, float) else str(value)


def _with_underscores(word: str) -> str:
    """``--batch-size=8`` as ``--batch_size=8``; the value stays as it is."""
    name, equals, value = word.partition("=")
    return name.replace("-", "_").replace("__", "--", 1) + equals + value if word.startswith("--") else word


def _positional(config_class: type) -> dataclasses.Field | None:
    """The option that takes words which belong to no other one, if there is one."""
    return next((field for field in options_of(config_class) if field.metadata.get("positional")), None)


def _switches_alone(config_class: type, words: Sequence[str]) -> list[str]:
    """Writes ``--edit boat.png`` as ``--edit=true boat.png``: the word after a switch is a value only if it says so."""
    switches = {f"--{field.name}" for field in options_of(config_class) if kind_of(field).item is bool}
    followed = itertools.zip_longest(words, words[1:], fillvalue="")
    return [f"{w}=true" if w in switches and after.lower() not in BOOLEANS else w for w, after in followed]


def _complaint(word: str, words: Sequence[str], known: Sequence[str]) -> str:
    """What is wrong with the first of all words that is not an option, nor the value of one."""
    if word.startswith("-"):
        word = word.partition("=")[0]
        return f"unknown option {word}{hint(word.lstrip('-'), known, '--') or '; --help lists them all'}"
    before = [other for other in words[: words.index(word)] if other.startswith("--")]
    if not before:
        meant = next((f"write --{name} {word}" for name in _INPUTS if name in known), "--help lists them all")
        return f"{word!r} belongs to no option; {meant}"
    name = before[-1].removeprefix("--").partition("=")[0]
    return f"{name}: takes one word, and {word!r} is another: quote what holds spaces; --help says how to write several"
