"""The command line of every script: options and a YAML file become a config, errors one line and an exit status."""

import contextlib
import dataclasses
import difflib
import errno
import re
import shlex
import signal
import sys
import types
import typing
from argparse import ArgumentError, HelpFormatter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal, NoReturn, TypeVar

import docstring_parser
import yaml
from jsonargparse import ArgumentParser

from dreamstyler_jax.commands.config import SECTIONS, SHARED, one_of, to_yaml
from dreamstyler_jax.runtime.errors import UserError

USER_ERROR, INTERRUPTED = 2, 75  # 75 is EX_TEMPFAIL of sysexits.h: try again later

_DISK_ERRORS = {errno.EACCES, errno.EDQUOT, errno.EEXIST, errno.EISDIR, errno.ENOSPC, errno.ENOTDIR, errno.EROFS}

C = TypeVar("C")


def parse(cls: type[C], argv: Sequence[str] | None = None) -> C:
    """Makes a ``cls``, a flat dataclass of options, from the command line.

    An option counts before the file given with ``--config``, and this before the default of its field. Fields are
    spelt with underscores, dashes do as well; a list takes several words, a boolean none for "true". A value in
    the YAML file is read as the same text on the command line would be.

    Args:
        cls: fields of type str, int, float, bool, Literal, a list of these, or one of these and None; each with a
            docstring.
        argv: the words after the command; those of the running process by default.

    Raises:
        UserError: an unknown option or key, a value of the wrong type or out of its range, or an unreadable file.
        SystemExit: after ``--help`` or ``--print_config``, with status 0.
    """
    parser = _parser(cls)
    words = [_with_underscores(word) for word in (sys.argv[1:] if argv is None else argv)]
    with _user_errors(cls):
        given = parser.parse_args(words, defaults=False).as_dict()
    path, print_config = given.pop("config", None), given.pop("print_config", False)
    values: dict[str, Any] = {}
    if path is not None:
        with _user_errors(cls, f"{path}: "):
            values = parser.parse_object(_read(path, cls), defaults=False).as_dict()
    config = cls(**{**values, **given})
    if print_config:
        print(to_yaml(config), end="")
        raise SystemExit(0)
    return config


def command_line(script: str, config: Any) -> str:
    """What to type to run ``script`` with ``config``: the options that differ from their defaults.

    ``parse`` reads it back into an equal config.
    """
    words = ["python", script]
    usual = type(config)()
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if value == getattr(usual, field.name) or value is None:
            continue
        values = value if isinstance(value, list) else [value]
        if len(values) == 1 and str(values[0]).startswith("-"):
            words.append(f"--{field.name}={values[0]}")
        else:
            words += [f"--{field.name}", *(() if value is True else map(_word, values))]
    return shlex.join(words)


def _word(value: Any) -> str:
    return str(value).removesuffix(".0") if isinstance(value, float) else str(value)


def main(run: Callable[[], object], *, resumable: bool = False) -> NoReturn:
    """Calls ``run`` and ends the process: the last line of every script.

    Exit status: 0 when ``run`` returns, 2 with one line on stderr for a ``UserError`` or a disk that cannot be written,
    75 after Ctrl-C or SIGTERM, with the command that continues (``resumable``: the same with ``--resume``). Any other
    exception is a defect and keeps its traceback, with status 1.
    """

    def interrupt(*_):
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
    try:
        run()
    except (UserError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in _DISK_ERRORS:
            raise
        print("error:", *str(error).split(), file=sys.stderr)
        sys.exit(USER_ERROR)
    except KeyboardInterrupt:
        more = ["--resume"] if resumable and "--resume" not in sys.orig_argv else []
        print("interrupted; to continue:", shlex.join([*sys.orig_argv, *more]), file=sys.stderr)
        sys.exit(INTERRUPTED)
    sys.exit(0)


def _parser(cls: type) -> ArgumentParser:
    documentation = docstring_parser.parse_from_object(cls)
    helps = {entry.arg_name: entry.description or "" for entry in documentation.params}
    parser = ArgumentParser(
        usage="%(prog)s [--config FILE] [--OPTION VALUE ...]",
        description=documentation.short_description,
        formatter_class=HelpFormatter,
        exit_on_error=False,
        allow_abbrev=False,
        print_config=None,
    )
    parser.add_argument("--config", metavar="FILE", help="YAML file with values for these options.")
    parser.add_argument("--print_config", action="store_true", help="Print all values as such a file, and exit.")
    for field in dataclasses.fields(cls):
        kind: dict[str, Any] = {"type": field.type}
        if typing.get_origin(field.type) is list:
            kind = {"type": typing.get_args(field.type)[0], "nargs": "*"}
        elif field.type is bool:
            kind |= {"nargs": "?", "const": True}
        default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        text = " ".join(helps.get(field.name, "").split())
        if default not in ("", None, []):
            text += f" (default: {default})"
        parser.add_argument(f"--{field.name}", default=default, help=text.replace("%", "%%"), **kind)
    return parser


def _with_underscores(word: str) -> str:
    """``--batch-size=8`` as ``--batch_size=8``; values stay as they are."""
    name, equals, value = word.partition("=")
    return name.replace("-", "_").replace("__", "--", 1) + equals + value if word.startswith("--") else word


def _read(path: str, cls: type) -> dict[str, Any]:
    """What the YAML file at ``path`` says about ``cls``: text and lists of text by field name."""
    try:
        with open(path, encoding="utf-8") as file:
            content = yaml.load(file, yaml.BaseLoader) or {}
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot be read: {getattr(error, 'strerror', None) or error}") from None
    except yaml.YAMLError as error:
        raise UserError(f"is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise UserError("should hold lines such as 'model: mini'")
    if cls not in SECTIONS.values():
        return _checked(content, cls)
    values = {key: content.pop(key) for key in SHARED if key in content}
    if unknown := content.keys() - SECTIONS.keys():
        key = min(unknown)
        raise UserError(f"{key!r} cannot stand outside of the sections {' and '.join(SECTIONS)}{_hint(key, SHARED)}")
    sections = {name: _checked(content.get(name) or {}, of, f"{name}: ") for name, of in SECTIONS.items()}
    return _checked(values, cls) | next(sections[name] for name, of in SECTIONS.items() if of is cls)


def _checked(values: Any, cls: type, where: str = "") -> dict[str, Any]:
    """``values``, where every key is a field of ``cls`` and has a list just where the field is one."""
    if not isinstance(values, dict):
        raise UserError(f"{where}should hold lines such as 'steps: 100', indented")
    fields = {field.name: field.type for field in dataclasses.fields(cls)}
    for key, value in values.items():
        if key not in fields:
            raise UserError(f"{where}unknown key {key!r}{_hint(key, fields)}")
        is_list = typing.get_origin(fields[key]) is list
        if is_list and fields[key] != list[str] and isinstance(value, str):
            value = values[key] = [value]
        if isinstance(value, list) != is_list or isinstance(value, dict):
            raise UserError(f"{where}{key} takes {_kind(fields[key])}")
        if isinstance(value, list) and not all(isinstance(item, str) for item in value):
            raise UserError(f"{where}{key} takes plain texts in its list; quote those with a colon or a brace in them")
    return values


@contextlib.contextmanager
def _user_errors(cls: type, where: str = "") -> Iterator[None]:
    """Turns the parser's complaints into a UserError of one line that begins with ``where``."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{where}{error}") from None
    except ArgumentError as error:
        raise UserError(where + _explained(error, cls)) from None


def _explained(error: ArgumentError, cls: type) -> str:
    text = str(error)
    fields = {field.name: field.type for field in dataclasses.fields(cls)}
    if unknown := re.match(r"unrecognized arguments: (\S+)", text):
        word = unknown[1].partition("=")[0]
        if word.startswith("--"):
            return f"unknown option {word}{_hint(word[2:], fields, '--') or '; --help lists them all'}"
        return f"{word!r} belongs to no option; --help lists them all"
    if wrong := re.search(r'Parser key "(\w+)"[^:]*:.*[Vv]alue: (.*)', text, re.DOTALL):
        return f"{wrong[1]}: must be {_kind(fields[wrong[1]], wrong[2])}, not {wrong[2]!r}"
    return " ".join(text.split()).removeprefix("argument ")


def _kind(annotation: Any, given: str = "") -> str:
    """In words what a field of this type takes; with the likeliest choice for what was ``given``."""
    if typing.get_origin(annotation) is Literal:
        return one_of(typing.get_args(annotation), given)
    if typing.get_origin(annotation) is list and given:
        return _kind(typing.get_args(annotation)[0], given)
    if isinstance(annotation, types.UnionType):
        return " or ".join(_kind(part) for part in typing.get_args(annotation))
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
    return "a list" if typing.get_origin(annotation) is list else names.get(annotation, "null")


def _hint(word: str, known: Iterable[str], prefix: str = "") -> str:
    near = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {prefix}{near[0]}?" if near else ""
