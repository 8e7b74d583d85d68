"""The commands and the Python code in a Markdown file."""

import re
from pathlib import Path

COMMANDS = ("dreamstyler ", "python", "make ", "pip ", ". ")


def commands_of(path: Path) -> list[str]:
    """The commands in indented blocks, in their order, each as one line without its comment."""
    text = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    joined = re.sub(r"\\\n\s*", "", text)
    lines = [line[4:] for line in joined.splitlines() if line.startswith("    ")]
    return [re.sub(r"\s{2,}#.*", "", line).strip() for line in lines if line.startswith(COMMANDS)]


def python_of(path: Path) -> list[str]:
    """The Python code in fenced blocks."""
    return re.findall(r"```python\n(.*?)```", path.read_text(encoding="utf-8"), flags=re.DOTALL)
