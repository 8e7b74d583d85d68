"""The text files beside pictures that hold their captions: which pictures there are, writing, and editing by hand."""

import os
import shlex
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from dreamstyler_jax.prompts import names_in, sidecar_prompt
from dreamstyler_jax.runtime.buckets import in_bucket, path_of
from dreamstyler_jax.runtime.errors import UserError, listing
from dreamstyler_jax.runtime.files import write_atomic
from dreamstyler_jax.runtime.masks import SUFFIX as MASK_SUFFIX

_PICTURES = {".avif", ".bmp", ".gif", ".jfif", ".jpeg", ".jpg", ".png", ".ppm", ".tga", ".tif", ".tiff", ".webp"}


def find_pictures(paths: Iterable[str]) -> list[Path]:
    """The pictures to caption: those named, and those in the folders named, sorted; without masks and duplicates.

    Raises:
        UserError: there is no such file, a folder has no pictures, or two pictures would have the same sidecar.
    """
    found: dict[Path, Path] = {}
    for path in map(path_of, paths):
        if not path.exists():
            raise UserError(f"images: there is no picture {path}")
        inside = [path]
        if path.is_dir():
            inside = sorted(file for file in path.iterdir() if file.suffix.lower() in _PICTURES and not _is_mask(file))
            if not inside:
                raise UserError(f"images: {path} holds no pictures ({', '.join(sorted(_PICTURES))})")
        found |= {file.resolve(): file for file in inside}
    pictures = list(found.values())
    owners: dict[Path, Path] = {}
    for picture in pictures:
        other = owners.setdefault(sidecar(picture).resolve(), picture)
        if other is not picture:
            raise UserError(f"images: {other} and {picture} would share {sidecar(picture).name}: rename one of them")
    return pictures


def _is_mask(file: Path) -> bool:
    return file.name.endswith(MASK_SUFFIX)


def sidecar(picture: Path) -> Path:
    """The file that a picture's caption is written to."""
    return picture.with_suffix(".txt")


def write_caption(picture: Path, prompt: str) -> None:
    """Writes a picture's caption.

    Raises:
        UserError: the folder cannot be written.
    """
    try:
        write_atomic(sidecar(picture), f"{prompt}\n".encode())
    except OSError as error:
        raise UserError(
            f"cannot write {sidecar(picture)}: {error.strerror or error}; copy {picture.name} into a folder of yours, "
            "or give what it shows with dreamstyler train --prompts"
        ) from error


def find_editor() -> list[str]:
    """The words of the user's editor, from $VISUAL or $EDITOR.

    Raises:
        UserError: there is no editor, or no terminal to show it in.
    """
    try:
        editor = shlex.split(os.environ.get("VISUAL") or os.environ.get("EDITOR") or "")
    except ValueError as error:
        raise UserError(f"edit: $VISUAL or $EDITOR cannot be read: {error}") from error
    if not editor:
        raise UserError("edit: say which editor, as in EDITOR=nano dreamstyler caption ..., or change the files later")
    if not sys.stdin.isatty():
        raise UserError("edit: there is no terminal here: leave --edit out, and change the files later")
    return editor


def edit(editor: Sequence[str], pictures: Sequence[Path]) -> None:
    """Opens the captions of pictures in an editor, one after another, and waits until each is closed.

    Raises:
        UserError: the editor cannot be started or fails, or a caption that it leaves cannot be used.
    """
    if there := [str(picture) for picture in pictures if in_bucket(picture)]:
        raise UserError(f"edit: no editor reaches the caption of {there[0]}: copy the picture to this machine first")
    for picture in pictures:
        file = sidecar(picture)
        try:
            status = subprocess.run([*editor, str(file)]).returncode
        except OSError as error:
            raise UserError(f"edit: cannot start {shlex.join(editor)}: {error.strerror}") from error
        if status:
            raise UserError(f"edit: {shlex.join(editor)} ended with status {status}; {file} is as it left it")
    nameless = [str(sidecar(picture)) for picture in pictures if not names_in(sidecar_prompt(picture) or "")]
    if nameless:
        raise UserError(f"edit: no {{}} for the style in {listing(nameless)}: write it at the end of what they show")
