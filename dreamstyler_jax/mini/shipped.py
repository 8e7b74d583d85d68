"""Paths of the example that the package carries: the default picture to learn from and the default style."""

from pathlib import Path

_FOLDER = Path(__file__).parent / "examples"
EXAMPLE_PICTURE = _FOLDER / "example.png"  # its prompt is in example.txt
EXAMPLE_STYLE = _FOLDER / "example.safetensors"  # learned from it with the default settings of training
