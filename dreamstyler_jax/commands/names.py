"""Names of styles, as prompts and folders have them."""

import re
import unicodedata
from pathlib import Path

_JOINERS = "\u200c\u200d"  # within words of several scripts


def name_of(picture: str) -> str:
    """The name of a style that is learned from a picture, by the path of its file."""
    letters = "".join(letter if _in_names(letter) else "_" for letter in Path(picture).stem)
    name = re.sub("_+", "_", letters).strip("_-") or "style"
    return name if is_name(name) else f"style_{name}"


def is_name(text: str) -> bool:
    """Whether a text is a letter or _, then letters of any script with their marks, digits, _ and -."""
    return bool(re.match(r"[^\W\d]", text)) and all(map(_in_names, text))


def _in_names(letter: str) -> bool:
    return letter in "-_" + _JOINERS or letter.isalnum() or unicodedata.category(letter).startswith("M")
