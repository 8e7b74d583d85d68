"""Command lines: options and a YAML file become settings; errors become one line and an exit status."""

import argparse
import dataclasses
import errno
import inspect
import shlex
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, TypeVar

from dreamstyler_jax.commands.config_files import read_values, to_yaml
from dreamstyler_jax.runtime.buckets import is_of_store
from dreamstyler_jax.runtime.errors import UserError
from dreamstyler_jax.runtime.settings import as_given, convert, default_of, hint, kind_of, options_of

USER_ERROR, INTERRUPTED = 2, 75  # 75 is EX_TEMPFAIL of sysexits.h: try again later

_DISK_ERRORS = {errno.EACCES, errno.EDQUOT, errno.EEXIST, errno.EISDIR, errno.ENOSPC, errno.ENOTDIR, errno.EROFS}
_METAVARS = {str: "TEXT", int: "N", float: "X", bool: "true|false"}

C = TypeVar("C")


def parse(config_class: type[C], argv: Sequence[str] | None = None, prog: str | None = None) -> C:
    """Makes settings from a command line.

    An option overrides the file given with ``--config``, and the file the default of the field. Options are spelt with
    underscores or dashes; a list takes several words, and a boolean without a word is true.

    Args:
        config_class: a settings dataclass, see `runtime.settings`.
        argv: the words after the command; without, those of this process.
        prog: the command, for the usage line; without, the name of this process.

    Raises:
        UserError: an unknown option or key, a value of the wrong type or out of its range, or an unreadable file.
        SystemExit: after ``--help`` or ``--print_config``, with status 0.
    """
    words = [_with_underscores(word) for word in (sys.argv[1:] if argv is None else argv)]
    namespace, unknown = _parser(config_class, prog).parse_known_args(words)
    given = vars(namespace)
    path, print_config = given.pop("config"), given.pop("print_config")
    fields = {field.name: field for field in dataclasses.fields(config_class)}  # type: ignore[arg-type]
    if unknown:
        raise UserError(_complaint(unknown[0].partition("=")[0], list(fields)))
    values = {} if path is None else read_values(config_class, path)
    config = config_class(**values | {name: convert(fields[name], text) for name, text in given.items()})
    if print_config:
        print(to_yaml(config), end="")
        raise SystemExit(0)
    return config


def command_line(command: str, config: Any) -> str:
    """The command line that runs a command with these settings. It holds the options that differ from their defaults.

    ``parse`` reads it back into equal settings.
    """
    words = ["dreamstyler", command]
    defaults = type(config)()
    for field in options_of(type(config)):
        value = getattr(config, field.name)
        if value == getattr(defaults, field.name) or value is None:
            continue
        values = _as_list(as_given(field, value))
        if len(values) == 1 and str(values[0]).startswith("-"):
            words.append(f"--{field.name}={values[0]}")
        else:
            words += [f"--{field.name}", *(() if value is True else map(_word, values))]
    return shlex.join(words)


def run_and_exit(run: Callable[[], object], *, resumable: bool = False) -> NoReturn:
    """Calls ``run`` and ends the process.

    Exit status: 0 after ``run`` returns; 2, with one line on stderr, after a ``UserError`` or if the disk cannot be
    written, or a bucket gives an error; 75 after Ctrl-C or SIGTERM, with the command that continues. Any other
    exception is a defect of ours and keeps its traceback, with status 1.

    Args:
        run: the command.
        resumable: whether ``--resume`` continues it; otherwise the same command does.
    """

    def interrupt(*_):
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
    try:
        run()
    except Exception as error:
        reason = _reason(error)
        if not reason:
            raise
        print("error:", *reason.split(), file=sys.stderr)
        sys.exit(USER_ERROR)
    except KeyboardInterrupt:
        more = ["--resume"] if resumable and "--resume" not in sys.orig_argv else []
        print("interrupted; to continue:", shlex.join([*sys.orig_argv, *more]), file=sys.stderr)
        sys.exit(INTERRUPTED)
    sys.exit(0)


def _reason(error: Exception) -> str:
    """What to say of an error; empty for one that is a defect of ours."""
    if isinstance(error, UserError) or (isinstance(error, OSError) and error.errno in _DISK_ERRORS):
        return str(error)
    return f"a bucket gives the error {type(error).__name__}: {error}" if is_of_store(error) else ""


class _Parser(argparse.ArgumentParser):
    """A parser that raises a UserError instead of ending the process."""

    def error(self, message: str) -> NoReturn:
        raise UserError(message.removeprefix("argument "))


def _parser(config_class: type, prog: str | None) -> _Parser:
    """Reads the words of every option as texts; an option that is not given is not in the result."""
    parser = _Parser(
        prog,
        usage="%(prog)s [--config FILE] [--OPTION VALUE ...]",
        description=(inspect.getdoc(config_class) or "").partition("\n")[0],
        allow_abbrev=False,
    )
    parser.add_argument("--config", metavar="FILE", help="YAML file with values for these options.")
    parser.add_argument("--print_config", action="store_true", help="Print all values as such a file, and exit.")
    for field in options_of(config_class):
        kind = kind_of(field)
        words: dict[str, Any] = {"nargs": "*"} if kind.is_list else {}
        if kind.item is bool:
            words = {"nargs": "?", "const": "true"}
        metavar = "|".join(field.metadata.get("choices", ())) or _METAVARS[kind.item]
        help = _help_of(field).replace("%", "%%")
        parser.add_argument(f"--{field.name}", metavar=metavar, help=help, default=argparse.SUPPRESS, **words)
    return parser


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


def _complaint(word: str, known: Sequence[str]) -> str:
    """What is wrong with a word that is not an option, nor the value of one."""
    if word.startswith("-"):
        return f"unknown option {word}{hint(word.lstrip('-'), known, '--') or '; --help lists them all'}"
    return f"{word!r} belongs to no option; --help lists them all"
