"""Choices in prompts: ``{dog|cat}``, ``{2$$red|blue|gold}`` and ``__animal__``, a line of the file ``animal.txt``.

The notation is that of dynamicprompts. Braces with neither ``|`` nor ``$$`` are placeholders of styles. A prompt, and
a negative prompt, is either used in all of its versions, or in one that a seed draws.
"""

import dataclasses
import itertools
import os
import random
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Self

from dreamstyler_jax.runtime.buckets import in_bucket, list_objects, path_of
from dreamstyler_jax.runtime.errors import UserError, listing
from dreamstyler_jax.runtime.files import text_of
from dreamstyler_jax.runtime.parsing import MAX_SEED
from dreamstyler_jax.runtime.settings import hint, one_of
from dreamstyler_jax.stable_diffusion.placeholders import Placeholder, parse_prompt

ALL, RANDOM = "all", "random"
MODES = (ALL, RANDOM)
MAX_VERSIONS = 10_000
_WILDCARD = re.compile(r"__(\w[\w/-]*?)__")
_COUNT = re.compile(r"(\d{1,4})? ?(-)? ?(\d{1,4})?")


@dataclasses.dataclass(frozen=True)
class Template:
    """A prompt with choices.

    Attributes:
        parts: texts, and choices between templates.
    """

    parts: tuple["str | Choice", ...]

    @classmethod
    def read(cls, prompt: str, wildcards: str | os.PathLike = "") -> Self:
        """Reads a prompt.

        Args:
            prompt: with choices and placeholders.
            wildcards: the folder of the files that ``__name__`` stands for; without, such words are text.

        Raises:
            UserError: a lone brace, a number of choices that is not there, or a file that is missing, empty, unreadable
                or that names itself.
        """
        return cls(tuple(_parts(prompt, Wildcards(path_of(wildcards)) if wildcards else None)))

    @property
    def has_choices(self) -> bool:
        """Whether it has more than one version."""
        return not all(isinstance(part, str) for part in self.parts)

    def versions(self) -> list[str]:
        """All versions of the prompt, without duplicates; the last choice varies fastest.

        Raises:
            UserError: there are more than 10 000.
        """
        texts = list(itertools.islice(self._all(), MAX_VERSIONS + 1))
        if len(texts) > MAX_VERSIONS:
            raise UserError(
                f"the prompt {self._shown()!r} has more than {MAX_VERSIONS} versions: give fewer alternatives, or draw "
                f"one for each seed with choices {RANDOM}"
            )
        return list(dict.fromkeys(map(_tidied, texts)))

    def drawn(self, seed: int) -> str:
        """The version that a seed draws, always the same one. Choices draw in their order, whatever is around them."""
        return _tidied(self._draw(random.Random(seed)))

    def _all(self) -> Iterator[str]:
        pools = ([part] if isinstance(part, str) else _some(part.all()) for part in self.parts)
        return map("".join, itertools.product(*pools))

    def _draw(self, numbers: random.Random) -> str:
        return "".join(part if isinstance(part, str) else part.draw(numbers) for part in self.parts)

    def _shown(self) -> str:
        return "".join(part if isinstance(part, str) else "{...}" for part in self.parts)[:80]


@dataclasses.dataclass(frozen=True)
class Choice:
    """Some of several templates, in any order.

    Attributes:
        options: what there is to choose from.
        low, high: how many are chosen, 0 to all of them.
        separator: what stands between those chosen.
    """

    options: tuple[Template, ...]
    low: int = 1
    high: int = 1
    separator: str = ", "

    def all(self) -> Iterator[str]:
        """What it can become."""
        for count in range(self.low, self.high + 1):
            for chosen in itertools.permutations(self.options, count):
                pools = (_some(option._all()) for option in chosen)
                yield from map(self.separator.join, itertools.product(*pools))

    def draw(self, numbers: random.Random) -> str:
        """What it becomes by these random numbers."""
        left, chosen = list(self.options), []
        for _ in range(self.low + _below(self.high - self.low + 1, numbers)):
            chosen.append(left.pop(_below(len(left), numbers))._draw(numbers))
        return self.separator.join(chosen)


def _below(count: int, numbers: random.Random) -> int:
    """A number from 0 to ``count - 1``. (Of `random`, only these numbers are the same in every version of Python.)"""
    return int(numbers.random() * count)


def _some(texts: Iterable[str]) -> list[str]:
    """As many texts as can be used."""
    return list(itertools.islice(texts, MAX_VERSIONS + 1))


def _tidied(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip()


def _parts(prompt: str, wildcards: "Wildcards | None") -> Iterator[str | Choice]:
    for part in parse_prompt(prompt):
        if isinstance(part, str):
            yield from _texts(part.replace("{", "{{").replace("}", "}}"), wildcards)
        elif "|" in part.name or "$$" in part.name:
            yield _choice(part, wildcards)
        else:
            yield str(part)


def _texts(text: str, wildcards: "Wildcards | None") -> Iterator[str | Choice]:
    """A text, cut at the names of files."""
    for number, piece in enumerate(_WILDCARD.split(text) if wildcards else [text]):  # names are at odd places
        if number % 2 and wildcards:
            yield Choice(wildcards.lines(piece))
        elif piece:
            yield piece


def _choice(group: Placeholder, wildcards: "Wildcards | None") -> Choice:
    """The choice in braces."""
    *heads, body = group.name.split("$$")
    options = tuple(Template(tuple(_texts(word.strip(), wildcards))) for word in body.split("|"))
    only = options[0].parts
    if len(options) == len(only) == 1 and isinstance(only[0], Choice):
        options = only[0].options  # {2$$__animal__} is several lines of one file
    low, high = _count(heads[0], len(options)) if heads else (1, 1)
    if len(heads) > 2 or not 0 <= low <= high <= len(options):
        raise UserError(
            f"{group} in a prompt: it should read like {{2$$a|b|c}}, {{1-2$$a|b|c}} or {{2$$ and $$a|b|c}}, and choose "
            f"no more than there is, {len(options)}"
        )
    return Choice(options, low, high, heads[1] if len(heads) == 2 else ", ")


def _count(text: str, most: int) -> tuple[int, int]:
    """``2`` is (2, 2), ``1-2`` is (1, 2), ``-2`` is (1, 2) and ``1-`` is (1, most); (-1, -1) if it is none of these."""
    match = _COUNT.fullmatch(" ".join(text.split()))
    if not match or not (match[1] or match[3]) or (match[3] and not match[2]):
        return -1, -1
    if not match[2]:
        return int(match[1]), int(match[1])
    return int(match[1] or 1), int(match[3] or most)


class Wildcards:
    """The files of a folder, as templates.

    Args:
        folder: holds text files, also in folders.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        self._lines: dict[str, tuple[Template, ...]] = {}
        self._open: list[str] = []

    def lines(self, name: str) -> tuple[Template, ...]:
        """The lines of a file, without empty ones and those that begin with #.

        Raises:
            UserError: the file is missing, empty, unreadable, or names itself.
        """
        if name in self._open:
            raise UserError(f"wildcards: __{name}__ leads back to itself, by way of {listing(self._open)}")
        if name not in self._lines:
            texts = self._read(name)
            self._open.append(name)
            self._lines[name] = tuple(Template(tuple(_parts(text, self))) for text in texts)
            self._open.pop()
        return self._lines[name]

    def _read(self, name: str) -> list[str]:
        file = self._folder / f"{name}.txt"
        try:
            lines = [line.strip() for line in text_of(file.read_bytes()).split("\n")]
        except FileNotFoundError:
            raise UserError(f"wildcards: there is no {file} for __{name}__{hint(name, self._names())}") from None
        except (OSError, UnicodeDecodeError) as error:
            reason = "it is not UTF-8 text" if isinstance(error, UnicodeDecodeError) else error.strerror or error
            raise UserError(f"wildcards: cannot read {file}: {reason}") from error
        texts = [line for line in lines if line and not line.startswith("#")]
        if not texts:
            raise UserError(f"wildcards: {file} holds no line to choose from")
        return texts

    def _names(self) -> list[str]:
        """The names of all files."""
        if in_bucket(self._folder):
            files = [item.name for item in list_objects(self._folder)]
        else:
            files = [path.relative_to(self._folder).as_posix() for path in self._folder.rglob("*.txt")]
        return sorted(file.removesuffix(".txt") for file in files if file.endswith(".txt"))


class Resolved(NamedTuple):
    """Prompts without choices, and what they are for.

    Attributes:
        prompts: by the keys of those with choices.
        negative_prompt: of all of them.
        seeds: of the pictures.
    """

    prompts: dict[str, list[str]]
    negative_prompt: str
    seeds: list[int]


def resolve(
    prompts: Mapping[str, Sequence[str]],
    negative_prompt: str,
    seeds: Sequence[int],
    mode: str = ALL,
    wildcards: str | os.PathLike = "",
) -> list[Resolved]:
    """Prompts without choices, with the seeds that they are for.

    Args:
        prompts: with choices, by any key.
        negative_prompt: likewise.
        seeds: of the pictures.
        mode: "all" gives every version to all seeds, with every version of the negative prompt; "random" gives to each
            seed the versions that it draws.
        wildcards: as of `Template.read`.

    Raises:
        UserError: see `Template`.
    """
    if mode not in MODES:
        raise UserError(f"choices: must be {one_of(MODES, mode)}, not {mode!r}")
    templates = {key: [Template.read(prompt, wildcards) for prompt in given] for key, given in prompts.items()}
    negative = Template.read(negative_prompt, wildcards)

    def each(of: Callable[[Template], list[str]]) -> dict[str, list[str]]:
        return {
            key: list(dict.fromkeys(text for template in given for text in of(template)))
            for key, given in templates.items()
        }

    versions = negative.versions() if negative.has_choices else [negative_prompt]
    if mode == ALL or not any(template.has_choices for template in itertools.chain([negative], *templates.values())):
        return [Resolved(each(Template.versions), version, list(seeds)) for version in versions]
    return [
        Resolved(
            each(lambda template, seed=seed: [template.drawn(seed)]),
            # From numbers of its own, or {red|blue} would always be drawn alike in both.
            negative.drawn(seed + MAX_SEED + 1) if negative.has_choices else negative_prompt,
            [seed],
        )
        for seed in seeds
    ]
