"""What JSON and YAML files may hold: a type describes it, and everything that is read is checked against one here.

A description is a type: ``int``, ``float`` (finite; whole numbers too), ``str``, ``bool``, ``None``, ``Any``, a union,
``list[X]``, ``tuple[X, ...]`` (a list in the file), ``dict[str, X]`` or ``Mapping[str, X]``, `typing.Literal`, or a
`typing.TypedDict` for an object with known keys:

    class Checkpoint(TypedDict):
        step: Annotated[int, Range(0, 1000)]
        note: NotRequired[str]

Keys that a `TypedDict` does not name are kept as they are. Null means the default where a key may be left out, so such
a key is left out then.
"""

import itertools
import json
import types
import typing
from collections.abc import Iterable, Mapping, Sized
from functools import cache
from typing import Annotated, Any, Literal, NamedTuple, Protocol, TypeVar

import yaml

from dreamstyler_jax.runtime.errors import UserError, shortened

T = TypeVar("T")

MAX_DEPTH = 50  # lists and objects inside each other
MAX_LISTS = 1_000_000  # lists and objects in one document
MAX_NAME = 255  # bytes of a file's name, as file systems have it
_MAX_NUMBER = 1e300
_WORDS: dict[Any, str] = {
    int: "a whole number", float: "a finite number", str: "a text", bool: "true or false", types.NoneType: "null",
    list: "a list", tuple: "a list", dict: "an object",
}  # fmt: skip


class Rule(Protocol):
    """What an annotated type asks for beside its type."""

    @property
    def words(self) -> str:
        """The rule as it completes a message, such as ``"from 1 to 8"``."""
        ...

    def allows(self, value: Any) -> bool:
        """Whether a value of the type keeps to it."""
        ...


class Range(NamedTuple):
    """The smallest and the largest number allowed."""

    low: float
    high: float

    @property
    def words(self) -> str:
        """See `Rule`."""
        return f"from {self.low:.15g} to {self.high:.15g}"

    def allows(self, value: float) -> bool:
        """See `Rule`."""
        return self.low <= value <= self.high


class Length(NamedTuple):
    """The smallest and the largest number of entries."""

    low: int
    high: int

    @property
    def words(self) -> str:
        """See `Rule`."""
        return f"of {self.low} entries" if self.low == self.high else f"of {self.low} to {self.high} entries"

    def allows(self, value: Sized) -> bool:
        """See `Rule`."""
        return self.low <= len(value) <= self.high


class Inside(NamedTuple):
    """The path of a file inside the folder of the file that names it."""

    words: str = "that names a file inside its folder"

    def allows(self, value: str) -> bool:
        """See `Rule`."""
        parts = value.replace("\\", "/").split("/")
        return bool(parts[0] and parts[-1]) and ".." not in parts and Openable().allows(value)


class Openable(NamedTuple):
    """A path that file systems can have, be there a file or not."""

    words: str = "that can be the path of a file"

    def allows(self, value: str) -> bool:
        """See `Rule`."""
        data = value.encode("utf-8", "replace")
        return "\0" not in value and len(data) < 4096 and all(len(part) <= MAX_NAME for part in data.split(b"/"))


class Digits(NamedTuple):
    """A text that is a whole number."""

    words: str = "of at most nine digits"

    def allows(self, value: str) -> bool:
        """See `Rule`."""
        return value.isascii() and value.isdecimal() and len(value) <= 9


FileText = Annotated[str, Openable()]
FileName = Annotated[str, Inside()]
Size = Annotated[int, Range(1, 2**20)]  # of an axis of a tensor
Side = Annotated[int, Range(1, 8192)]  # of a picture that a network sees, in pixels
Few = Annotated[int, Range(1, 64)]  # layers of a network, and what else it is built from


class Misfit(ValueError):
    """A value that its description does not allow.

    Attributes:
        key: where it is, such as ``.styles.gogh`` or ``.images[0]``; empty for the whole document.
        value: the value.
        wanted: what should be there, in words.
    """

    def __init__(self, key: str, value: Any, wanted: str):
        self.key, self.value, self.wanted = key, value, wanted
        super().__init__(f"{key.removeprefix('.') or 'it'} should be {wanted}, not {shown(value)}")


def parse_json(content: str | bytes, shape: type[T], where: str, advice: str = "") -> T:
    """The document in a JSON text.

    Args:
        content: the text; bytes are UTF-8.
        shape: its description.
        where: the file, for errors.
        advice: what the user can do; the end of the error's message.

    Raises:
        UserError: it is not valid JSON, nested too deeply, or not as described; the message names the key.
    """
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:  # not UTF-8, not JSON, nested too deeply
        raise UserError(_with(f"{where} is damaged, it is not valid JSON ({error})", advice)) from error
    return check(value, shape, where, advice)


def parse_yaml(content: str | bytes, where: str, advice: str = "", loader: type[Any] = yaml.SafeLoader) -> list[Any]:
    """The documents in a YAML text, without a description, but neither too deep nor too large.

    Args:
        content: the text; bytes are UTF-8.
        where: the file, for errors.
        advice: what the user can do; the end of the error's message.
        loader: PyYAML's class of loaders.

    Raises:
        UserError: it is not YAML or not UTF-8, or nested too deeply.
    """
    try:
        text = content if isinstance(content, str) else content.decode("utf-8-sig")
        documents = list(yaml.load_all(text, loader))
    except RecursionError:
        raise UserError(_with(f"{where} is nested too deeply", advice)) from None
    except UnicodeDecodeError as error:
        raise UserError(_with(f"{where} cannot be read: {error}", advice)) from None
    except (ValueError, TypeError, AttributeError, yaml.YAMLError) as error:  # such as a date in month 13
        raise UserError(_with(f"{where} is not YAML: {' '.join(str(error).split())}", advice)) from None
    for document in documents:
        _refuse_excess(document, where)
    return documents


def check(value: Any, shape: type[T], where: str, advice: str = "") -> T:
    """The value as described, with tuples for lists where the description has them.

    Args:
        value: from JSON or YAML.
        shape: the description.
        where: the file, for errors.
        advice: what the user can do; the end of the error's message.

    Raises:
        UserError: it is not as described, or nested too deeply; the message names the key.
    """
    _refuse_excess(value, where)
    try:
        return fit(value, shape)
    except Misfit as misfit:
        raise UserError(_with(f"{where} is damaged, {misfit}", advice)) from None


def fit(value: Any, shape: Any) -> Any:
    """As `check`, for a value that is known to be of bounded depth.

    Raises:
        Misfit: it is not as described.
    """
    kind, args = _kind(shape)
    if kind is Any:
        return value
    if kind is types.UnionType:
        return _fit_union(value, shape, args)
    if kind is Annotated:
        plain, *rules = args
        if _is_kind(value, _kind(plain)[0]):
            fitted = fit(value, plain)
            if all(rule.allows(fitted) for rule in rules):
                return fitted
    elif kind is Literal:
        if any(type(value) is type(word) and value == word for word in args):
            return value
    elif _is_kind(value, kind):
        if typing.is_typeddict(kind):
            return _fit_object(value, kind)
        return _fit_items(value, kind, args) if args else value
    raise Misfit("", value, words(shape))


def _fit_union(value: Any, shape: Any, shapes: tuple[Any, ...]) -> Any:
    """The value as the first description that it fits; if one of them fits outside, that one says what is wrong."""
    inside = None
    for one in shapes:
        try:
            return fit(value, one)
        except Misfit as misfit:
            inside = inside or (misfit if misfit.key else None)
    raise inside or Misfit("", value, words(shape))


def _fit_items(value: Any, kind: Any, args: tuple[Any, ...]) -> Any:
    if kind is dict:
        return {_fit_at(name, name, args[0]): _fit_at(name, item, args[1]) for name, item in value.items()}
    return kind(_fit_at(number, item, args[0]) for number, item in enumerate(value))


def _fit_object(value: dict[str, Any], shape: Any) -> dict[str, Any]:
    fitted = dict(value)
    for name, (wanted, required) in _keys(shape).items():
        if name not in value:
            if required:
                raise Misfit("", value, f"an object with the key {name!r}")
        elif value[name] is None and not required:
            del fitted[name]
        else:
            fitted[name] = _fit_at(name, value[name], wanted)
    return fitted


def _fit_at(place: Any, value: Any, shape: Any) -> Any:
    """The value at a place of a list or an object."""
    try:
        return fit(value, shape)
    except Misfit as misfit:
        where = f"[{place}]" if isinstance(place, int) else f".{shortened(str(place), 40)}"
        raise Misfit(where + misfit.key, misfit.value, misfit.wanted) from None


def words(shape: Any) -> str:
    """A description in words, such as ``"a whole number from 1 to 8 or null"``."""
    kind, args = _kind(shape)
    if kind is Annotated:
        return " ".join([words(args[0]), *(rule.words for rule in args[1:])])
    if kind is types.UnionType:
        return " or ".join(dict.fromkeys(map(words, args)))
    if kind is Literal:
        return f"one of {', '.join(map(str, args))}"
    return _WORDS[dict if typing.is_typeddict(kind) else kind]


def shown(value: Any) -> str:
    """A value for a message, as JSON writes it, cut if it is long."""
    try:
        return shortened(json.dumps(value, ensure_ascii=False))
    except (TypeError, ValueError):  # a date from YAML, or a whole number of thousands of digits
        return f"a {type(value).__name__}"


@cache
def _kind(shape: Any) -> tuple[Any, tuple[Any, ...]]:
    """A description without what is in its brackets, and that."""
    origin = {typing.Union: types.UnionType, Mapping: dict}.get(typing.get_origin(shape), typing.get_origin(shape))
    return origin or shape, typing.get_args(shape)


def _is_kind(value: Any, kind: Any) -> bool:
    """Whether a value is of a type; True and False are no numbers, nan and infinity neither."""
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _MAX_NUMBER
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if kind in (list, tuple):
        return isinstance(value, list | tuple)
    return isinstance(value, dict if typing.is_typeddict(kind) else kind)


@cache
def _keys(shape: Any) -> dict[str, tuple[Any, bool]]:
    """The description of each key of a `TypedDict`, and whether the key has to be there."""
    hints = typing.get_type_hints(shape, include_extras=True)
    bare = {
        name: typing.get_args(hint)[0] if typing.get_origin(hint) in (typing.Required, typing.NotRequired) else hint
        for name, hint in hints.items()
    }
    return {name: (hint, name in shape.__required_keys__) for name, hint in bare.items()}


def _refuse_excess(document: Any, where: str) -> None:
    """Raises a UserError if a document is too deep or too large, also by YAML's references to itself."""
    level, count, depth = [document], 1, 0
    while level:
        depth, inner = depth + 1, (item for value in level for item in _items(value) if isinstance(item, dict | list))
        level = list(itertools.islice(inner, MAX_LISTS))
        count += len(level)
        if depth > MAX_DEPTH or count > MAX_LISTS:
            raise UserError(f"{where} is damaged, it is nested too deeply or holds too many lists")


def _items(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def _with(problem: str, advice: str) -> str:
    return f"{problem}; {advice}" if advice else problem
