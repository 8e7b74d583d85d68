"""The commands and the Python code in Markdown files, and the cells of notebooks.

A comment ``# needs ...`` in a block of commands, on a line of its own or behind a command, says what the commands after
it, or this command, need beyond a CPU. The same comment begins Python code that needs more.
"""

import json
import re
import shlex
from pathlib import Path
from typing import Any, NamedTuple

PROGRAMS = r"(nohup )?(\w+=\S+ )*(\S*/)?(dreamstyler|gcloud|git|hf|make|pip|python|python3|srun|tensorboard|xprof|\.) "
NEEDS = re.compile(r"# needs (.+)")


class Command(NamedTuple):
    """A command as one line without its comment, and what it needs beyond a CPU, or ""."""

    text: str
    needs: str = ""


def commands_of(path: Path) -> list[Command]:
    """The commands in indented blocks, in their order."""
    text = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    commands, needs = [], ""
    for line in re.sub(r"\\\n\s*", "", text).splitlines():
        if not line.startswith("    "):
            needs = "" if line else needs
            continue
        words, _, comment = re.sub(r"(^|\s{2,})#", r"\1\n#", line.strip()).partition("\n")
        mark = NEEDS.match(comment)
        if not words and mark:
            needs = mark[1]
        elif re.match(PROGRAMS, f"{words} "):
            commands.append(Command(words.strip(), mark[1] if mark else needs))
    return commands


def calls_of(command: Command) -> list[list[str]]:
    """The words of each call of ``dreamstyler`` in a command, also where another program makes the call."""
    calls = command.text.split(" && ")
    words = [shlex.split(call) for call in calls if call.startswith("dreamstyler ")]
    for inner in re.findall(r'--command "(.*?)"', command.text):
        words += calls_of(Command(inner))
    if command.text.startswith(("srun ", "nohup ")):
        call = command.text[command.text.index("dreamstyler ") :]
        words.append(shlex.split(call.partition(" &> ")[0]))
    return words


def python_of(path: Path) -> list[str]:
    """The Python code in fenced blocks."""
    return re.findall(r"```python\n(.*?)```", path.read_text(encoding="utf-8"), flags=re.DOTALL)


def cells_of(notebook: Path) -> list[dict[str, Any]]:
    """The cells of a notebook, with their source as one text."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return [cell | {"source": "".join(cell["source"])} for cell in cells]
