"""Settings in YAML files: what ``--config`` reads, and what runs keep as ``config.yaml``.

A file for `TrainConfig` and `SampleConfig` has a section for each, ``train`` and ``sample``, and the options that both
share outside of them. Files for other commands are flat.
"""

import dataclasses
import importlib.resources
import re
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, TypeVar

import yaml

from dreamstyler_jax.commands.config import SampleConfig, TrainConfig
from dreamstyler_jax.commands.shared_options import MODEL_OPTIONS
from dreamstyler_jax.runtime.buckets import in_bucket, path_of
from dreamstyler_jax.runtime.documents import parse_yaml
from dreamstyler_jax.runtime.errors import UserError
from dreamstyler_jax.runtime.files import write_atomic
from dreamstyler_jax.runtime.settings import as_given, convert, hint, kind_of

SECTIONS: dict[str, type] = {"train": TrainConfig, "sample": SampleConfig}
SHARED = (*MODEL_OPTIONS, "dtype")
# These belong to one call of a command, and are not saved.
OF_ONE_CALL = ("resume", "shard", "merge", "distributed", "coordinator_address", "num_processes", "process_id")

C = TypeVar("C")


def read_config(config_class: type[C], path: str | Path) -> C:
    """The settings in a YAML file.

    Raises:
        UserError: see `read_values`; or a value is out of range or contradicts another.
    """
    return config_class(**read_values(config_class, path))


def read_values(config_class: type, path: str | Path) -> dict[str, Any]:
    """The values that a YAML file gives to a settings dataclass, by field name.

    Every value is read as the same text on the command line. A value that is null is left out: it is the default.

    Args:
        config_class: the settings dataclass.
        path: the file, or the name of one of the package's config files, such as ``sd15`` or ``grids/mixing``.

    Raises:
        UserError: an unreadable file, an unknown key, or a value of the wrong type. The message begins with the path.
    """
    try:
        values = _values_for(config_class, _load(find_config(path)))
        fields = {field.name: field for field in dataclasses.fields(config_class)}
        return {name: _value(fields[name], value) for name, value in values.items() if value is not None}
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def find_config(path: str | Path, suffix: str = ".yaml") -> Traversable:
    """The file at ``path``, or, if there is none, the package's file of that name, with this suffix, in ``configs``."""
    if in_bucket(path) or Path(path).exists():
        return path_of(path)
    parts = Path(path).with_suffix(suffix).parts
    tails = ["/".join(parts[start:]) for start in range(len(parts))]  # from the whole path to the name alone
    folder = importlib.resources.files("dreamstyler_jax.configs")
    for name in (*tails, f"grids/{parts[-1]}"):
        if not name.startswith("/") and (file := folder.joinpath(name)).is_file():
            return file
    return Path(path)


def packaged() -> list[str]:
    """The names of the package's files of settings for ``train`` and ``sample``."""
    folder = importlib.resources.files("dreamstyler_jax.configs")
    files = [(file.name, file) for file in folder.iterdir()]
    files += [(f"grids/{file.name}", file) for file in folder.joinpath("grids").iterdir()]
    return sorted(name.removesuffix(".yaml") for name, _ in files if name.endswith(".yaml"))


def to_yaml(config: Any) -> str:
    """A settings dataclass as a YAML file that `read_config` reads.

    `OF_ONE_CALL` are left out: they belong to one call of a command.
    """
    values = {field.name: as_given(field, getattr(config, field.name)) for field in dataclasses.fields(config)}
    for name in OF_ONE_CALL:
        values.pop(name, None)
    for section, config_class in SECTIONS.items():
        if isinstance(config, config_class):
            values = {**{key: values.pop(key) for key in SHARED}, section: values}
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


class _Dumper(yaml.SafeDumper):
    """PyYAML's, which would write the line break U+0085 so that it is read as a space."""

    def represent_str(self, data: str) -> yaml.ScalarNode:
        """A text, with its control characters escaped where that matters."""
        return self.represent_scalar("tag:yaml.org,2002:str", data, style='"' if "\x85" in data else None)


_Dumper.add_representer(str, _Dumper.represent_str)


def write_config(config: Any, path: str | Path) -> None:
    """Writes a settings dataclass to a YAML file.

    Raises:
        OSError: the file cannot be written.
    """
    write_atomic(path, to_yaml(config).encode())


class _Loader(yaml.BaseLoader):
    """Reads all values as texts, except for null, and refuses a key that is given twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = [key for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for key in names:
            key.tag = self.DEFAULT_SCALAR_TAG  # null, too, is a name
        keys = [key.value for key in names]
        if twice := next((key for number, key in enumerate(keys) if key in keys[:number]), None):
            raise UserError(f"{twice}: given twice; give it once")
        return super().construct_mapping(node, deep)


_NULL = "tag:yaml.org,2002:null"
_Loader.add_implicit_resolver(_NULL, re.compile("(?:~|null|Null|NULL)$"), ["~", "n", "N"])
_Loader.add_constructor(_NULL, lambda loader, node: None)


def _load(file: Traversable) -> dict[str, Any]:
    """The content of a YAML file, with all values as texts, or None for null."""
    try:
        text = file.read_bytes()
    except FileNotFoundError:
        raise UserError(f"there is no such file; the package has {', '.join(packaged())}") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise UserError(f"cannot be read: {getattr(error, 'strerror', None) or error}") from None
    content = parse_yaml(text, "the file", loader=_Loader) or [{}]
    if len(content) > 1 or not isinstance(content[0] or {}, dict):
        raise UserError("should hold lines such as 'model: mini'")
    return content[0] or {}


def _values_for(config_class: type, content: dict[str, Any]) -> dict[str, Any]:
    """The part of a file's content that belongs to a settings dataclass. All sections are checked for unknown keys."""
    if config_class not in SECTIONS.values():
        _check_keys(content, config_class)
        return content
    shared = {key: content.pop(key) for key in SHARED if key in content}
    if unknown := content.keys() - SECTIONS.keys():
        key = min(unknown)
        raise UserError(f"{key!r} must be in one of the sections {' and '.join(SECTIONS)}{hint(key, SHARED)}")
    values = shared
    for name, section_class in SECTIONS.items():
        section = content.get(name) or {}
        _check_keys(section, section_class, f"{name}: ")
        if section_class is config_class:
            values = shared | section
    return values


def _check_keys(section: Any, config_class: type, where: str = "") -> None:
    if not isinstance(section, dict):
        raise UserError(f"{where}should hold lines such as 'steps: 100', indented")
    known = [field.name for field in dataclasses.fields(config_class)]
    for key in section:
        if key not in known:
            raise UserError(f"{where}unknown key {key!r}{hint(key, known)}")


def _value(field: dataclasses.Field, value: Any) -> Any:
    """The value of a field from the texts in a file. No text at all in place of a list is an empty list."""
    if isinstance(value, dict) or (isinstance(value, list) and not all(isinstance(item, str) for item in value)):
        raise UserError(f"{field.name}: takes plain texts; quote those that hold a colon or a brace")
    return [] if value == "" and kind_of(field).is_list else convert(field, value)
