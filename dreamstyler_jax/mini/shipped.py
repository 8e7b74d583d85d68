"""What the package carries so that its scripts do their job without arguments."""

from pathlib import Path

_FOLDER = Path(__file__).parent / "examples"
EXAMPLE_PICTURE = _FOLDER / "example.png"  # with its prompt beside it, in example.txt
EXAMPLE_STYLE = _FOLDER / "example.safetensors"  # learned from it with the defaults of train.py
