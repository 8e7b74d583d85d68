"""The command ``dreamstyler convert``: a style from any tool's files to another's."""

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from dreamstyler_jax.runtime.buckets import path_of
from dreamstyler_jax.runtime.errors import UserError, listing
from dreamstyler_jax.runtime.files import check_output, write_atomic
from dreamstyler_jax.runtime.settings import check_values, option
from dreamstyler_jax.stage_recipes import HEADER, recipe
from dreamstyler_jax.style import Style, load_styles
from dreamstyler_jax.style_files import FORMATS

OURS = "dreamstyler_jax"
_STAGE = re.compile(r"(?P<name>.+)-[tT](?P<stage>\d{1,3})")


@dataclasses.dataclass(frozen=True)
class ConvertConfig:
    """Convert a style to the files of another tool, or another tool's to a style.

    Raises:
        UserError: nothing to convert, or nowhere to write it.
    """

    styles: list[str] = option(
        [],
        "The style: a file of any tool or the folder of a run. Or the files of its stages, NAME-T0, NAME-T1, ... "
        "--styles and --output can be left out, as in convert runs/boat boat.safetensors --format comfyui.",
        positional=True,
    )
    output: str = option(
        "",
        "File to write: .safetensors, or .pt or .bin if PyTorch is installed. Formats with room for one stage get one "
        "file for each, with -T0, -T1, ... in their names, and a text file about switching them. "
        "Default: the last of several styles, which must not be there yet.",
    )
    format: str = option(OURS, "Whose files to write.", choices=(OURS, *FORMATS))

    def __post_init__(self):
        check_values(self)
        if not self.output and len(self.styles) > 1:
            *styles, output = self.styles
            path = path_of(output)
            for file in (path, path.with_name(f"{path.stem}-T0{path.suffix}")):
                if file.exists():
                    raise UserError(f"output: {file} is there already; give --output {output} to replace it")
            object.__setattr__(self, "styles", styles)
            object.__setattr__(self, "output", output)
        if not self.styles:
            raise UserError("styles: give the style to convert, such as runs/starry")
        if not self.output:
            raise UserError("output: say which file to write, such as starry.safetensors")


def run(config: ConvertConfig) -> None:
    """Writes the style and says where it is.

    Raises:
        UserError: no style, several, or one that the format cannot hold.
    """
    style = joined(load_styles(config.styles))
    path = path_of(config.output)
    check_output(path.parent)
    if config.format == OURS:
        style.save(path)
        files = [path]
    else:
        notes = recipe_beside(path, style, config.format)
        files = style.export(path, config.format)
        for file, text in notes.items():
            write_atomic(file, text.encode())
        files += notes
    print(f"{style!r} is in {listing([str(file) for file in files], 9)}")


def recipe_beside(path: Path, style: Style, format: str) -> dict[Path, str]:
    """The text file that says how to switch stages which are exported to files of their own; none if there are none.

    Raises:
        UserError: a file of the user's is in its place, or the name means something in prompts.
    """
    if FORMATS[format] != "a1111" or style.stages == 1:
        return {}
    file = path.with_name(f"{path.stem}-stages.txt")  # a picture's caption may be called boat.txt
    if file.is_file() and not file.read_bytes().startswith(HEADER.encode()):
        raise UserError(
            f"output: {file} is a file of yours, and says how to switch stages otherwise: choose another name"
        )
    return {file: recipe(path.stem, style.stages)}


def joined(styles: Mapping[str, Style]) -> Style:
    """The only style, or the one whose stages are called NAME-T0, NAME-T1, ..., each a style of one stage.

    Raises:
        UserError: they are several styles, or a stage is missing.
    """
    if len(styles) == 1:
        return next(iter(styles.values()))
    matches = {name: _STAGE.fullmatch(name) for name in styles}
    names = {match["name"] for match in matches.values() if match}
    if None in matches.values() or len(names) != 1 or any(style.stages > 1 for style in styles.values()):
        raise UserError(f"styles: {listing(list(styles))} are not the stages of one style; convert one at a time")
    stages = {int(match["stage"]): styles[name] for name, match in matches.items() if match}
    if missing := sorted(set(range(max(stages) + 1)) - stages.keys()):
        raise UserError(
            f"styles: of {names.pop()}, the stages {listing([f'T{stage}' for stage in missing])} are missing"
        )
    in_order = [stages[stage] for stage in range(len(stages))]
    if len({(*style.widths.items(), style.layers, style.vectors) for style in in_order}) != 1:
        raise UserError(f"styles: the stages of {names.pop()} do not have vectors of one number and width")
    tables = {encoder: np.concatenate([style.tables[encoder] for style in in_order]) for encoder in in_order[0].tables}
    return Style(names.pop(), tables)
