"""Follows steps in one process: commands of ``dreamstyler``, as a user types them, and Python code.

It reads a JSON list from the file that its only word names. A step is ``{"folder", "words"}`` or ``{"folder", "code"}``
with ``"scope"``, a name under which code shares its variables; ``"anew"`` names a folder to remove before. After each
step it says with which status it ended and how many seconds it computed; a step that fails does not stop the others.
"""

import gc
import json
import os
import shutil
import sys
import time
import traceback
from pathlib import Path

from dreamstyler_jax.__main__ import main


def follow(step: dict, scopes: dict[str, dict]) -> int:
    """Runs a step and returns its exit status."""
    os.chdir(step["folder"])
    if step.get("anew"):
        shutil.rmtree(step["anew"], ignore_errors=True)
    try:
        if "words" in step:
            sys.argv = ["dreamstyler", *step["words"]]
            main()
        exec(step["code"], scopes.setdefault(step["scope"], {"__name__": step["scope"]}))
    except SystemExit as ended:
        return int(ended.code or 0)
    except Exception:
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    gc.freeze()  # as in tests/memory_tools.py
    gc.set_threshold(70_000, 10, 10)
    scopes: dict[str, dict] = {}
    for step in json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")):
        begun = time.process_time()
        status = follow(step, scopes)
        sys.stderr.flush()
        print(f"\nstatus {status} after {time.process_time() - begun:.1f} s", flush=True)
