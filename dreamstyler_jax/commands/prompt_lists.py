"""Lists of prompts: text files, and CSV and JSONL files whose lines have settings of their own."""

import csv
import dataclasses
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from dreamstyler_jax import prompts
from dreamstyler_jax.choices import resolve
from dreamstyler_jax.commands.config import SampleConfig
from dreamstyler_jax.commands.config_files import find_config
from dreamstyler_jax.guidance import SCALES
from dreamstyler_jax.runtime.documents import parse_json
from dreamstyler_jax.runtime.errors import UserError
from dreamstyler_jax.runtime.files import text_of
from dreamstyler_jax.runtime.parsing import parse_seeds
from dreamstyler_jax.runtime.settings import convert, one_of
from dreamstyler_jax.train_settings import BARE_PROMPTS

STYLE = "style"
# The columns of a list of prompts, parameters of a cell, and the options that they stand for.
COLUMNS = {
    "prompt": "prompts", "negative_prompt": "negative_prompt", STYLE: "", "seed": "seeds", "checkpoint": "checkpoints",
    "guidance": "guidance", **{name: name for name in SCALES}, "solver": "solver", "steps": "steps",
    "strength": "strength", "control_scale": "control_scale", "height": "height", "width": "width",
}  # fmt: skip
_ADVICE = 'each line should read like {"prompt": "a house", "seed": 3}'
Texts = Mapping[str, Sequence[str]]  # prompts by the name of their content; under "" those without content


class Part(NamedTuple):
    """Pictures of a grid that share their settings: all of them, those of a line of a list, or of a seed.

    Attributes:
        config: the settings.
        texts: prompts without choices.
        seeds: of the pictures.
        style: the style that {} stands for; empty for each style in turn.
    """

    config: SampleConfig
    texts: Texts
    seeds: Sequence[int]
    style: str = ""


def grid_parts(config: SampleConfig) -> list[Part]:
    """What the settings ask to paint.

    Raises:
        UserError: a file cannot be read, or a prompt or a line of a list cannot be used.
    """
    parts = []
    for settings, style in _lines(config):
        given = {
            content: settings.prompts or [prompts.sidecar_prompt(content) or BARE_PROMPTS["style"]]
            for content in settings.content or [""]
        }
        seeds, mode, wildcards = parse_seeds(settings.seeds), settings.choices, settings.wildcards
        resolved = resolve(given, settings.negative_prompt, seeds, mode, wildcards)
        by_negative = {  # a new object only for another negative prompt
            text: settings if text == settings.negative_prompt else dataclasses.replace(settings, negative_prompt=text)
            for text in dict.fromkeys(one.negative_prompt for one in resolved)
        }
        parts += [Part(by_negative[one.negative_prompt], one.prompts, one.seeds, style) for one in resolved]
    return parts


def _lines(config: SampleConfig) -> Iterator[tuple[SampleConfig, str]]:
    """The settings of each line of a list with the line's style; the settings themselves without such a list."""
    path = config.prompts_file
    if Path(path).suffix.lower() not in _READERS:
        texts = read_prompts(path) if path else config.prompts
        yield dataclasses.replace(config, prompts=texts, prompts_file=""), ""
        return
    for place, values in _rows(path):
        try:
            yield _with_settings(config, values), values.get(STYLE, "")
        except UserError as error:
            raise UserError(f"prompts_file: {path}, {place}: {error}") from None


def _with_settings(config: SampleConfig, values: Mapping[str, str]) -> SampleConfig:
    if unknown := [name for name in values if name not in COLUMNS]:
        raise UserError(f"unknown column {unknown[0]!r}; it must be {one_of(COLUMNS, unknown[0])}")
    if not values.get("prompt"):
        raise UserError("there is no prompt; give it in a column called prompt")
    if config.content and (values.get("height") or values.get("width")):
        raise UserError("height, width: the pictures in content have one size; give it as an option")
    fields = {field.name: field for field in dataclasses.fields(SampleConfig)}
    options = {COLUMNS[name]: value for name, value in values.items() if value and COLUMNS[name]}
    given = {name: convert(fields[name], value) for name, value in options.items()}
    return dataclasses.replace(config, **{**given, "prompts_file": ""})


def read_prompts(path: str) -> list[str]:
    """The lines of a text file, or of the package's in ``configs``, without empty lines and those that begin with #.

    Raises:
        UserError: the file cannot be read, or holds no prompt.
    """
    lines = [line.strip() for line in _text(path).split("\n")]
    texts = [line for line in lines if line and not line.startswith("#")]
    if not texts:
        raise UserError(f"prompts_file: {path} holds no prompt; write one per line")
    return texts


def _text(path: str) -> str:
    suffix = Path(path).suffix.lower()
    try:
        return text_of(find_config(path, suffix if suffix in _READERS else ".txt").read_bytes())
    except (OSError, UnicodeDecodeError) as error:
        reason = "it is not UTF-8 text" if isinstance(error, UnicodeDecodeError) else error.strerror or error
        raise UserError(f"prompts_file: cannot read {path}: {reason}") from error


def _rows(path: str) -> list[tuple[str, dict[str, str]]]:
    """The lines of a list by their columns, each with its place in the file.

    Raises:
        UserError: the file cannot be read, or holds no line.
    """
    rows = list(_READERS[Path(path).suffix.lower()](path))
    if not rows:
        raise UserError(f"prompts_file: {path} holds no line with a prompt")
    return rows


def _csv_rows(path: str) -> Iterator[tuple[str, dict[str, str]]]:
    reader = csv.DictReader(io.StringIO(_text(path)), strict=True, restval="", skipinitialspace=True)
    try:
        names = [name.strip() for name in reader.fieldnames or ()]
        if len(set(names)) < len(names):
            raise UserError(f"prompts_file: {path}, line 1: two columns have the same name")
        for row in reader:
            place = f"line {reader.line_num}"
            if None in row:
                raise UserError(f"prompts_file: {path}, {place}: it has more values than there are columns")
            yield place, {str(name).strip(): value.strip() for name, value in row.items()}
    except csv.Error as error:
        raise UserError(f"prompts_file: {path}, line {reader.reader.line_num}: {error}") from None


def _jsonl_rows(path: str) -> Iterator[tuple[str, dict[str, str]]]:
    for number, line in enumerate(_text(path).split("\n"), 1):
        if not line.strip():
            continue
        row = parse_json(line, dict[str, str | int | float | None], f"prompts_file: line {number} of {path}", _ADVICE)
        yield f"line {number}", {name: "" if value is None else str(value) for name, value in row.items()}


_READERS = {".csv": _csv_rows, ".jsonl": _jsonl_rows}
