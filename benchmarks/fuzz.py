"""Malformed files and texts, thousands of them: none may end in a traceback, a hang or a half-written file.

    python -m benchmarks.fuzz                              # all doors
    python -m benchmarks.fuzz --doors Styles --seed 41 --count 1    # one try again

Each try spoils a good file or text at random and reads it as the commands do, without learning or painting
(``tests/fuzzing``). The seed of a try decides everything, so what is found can be repeated.
"""

import collections
import dataclasses
import faulthandler
import os
import resource
import sys
import tempfile
from pathlib import Path

from dreamstyler_jax.commands.cli import parse, run_and_exit
from dreamstyler_jax.runtime.compilation import set_up
from dreamstyler_jax.runtime.errors import UserError
from dreamstyler_jax.runtime.parsing import MAX_SEED
from dreamstyler_jax.runtime.settings import check_values, option

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from fuzzing.door import Materials
from fuzzing.tries import DOORS, Fault, summary, try_doors
from tiny_clip import write_tiny_clip
from tiny_model import write_tiny_model

NAMES = tuple(door.__name__ for door in DOORS)
MEMORY = 16 << 30  # bytes; what asks for more ends in a MemoryError, a traceback


@dataclasses.dataclass(frozen=True)
class FuzzConfig:
    """Try malformed files and texts, and count what becomes of them."""

    count: int = option(400, "Tries per door.", low=1, high=10**6)
    seed: int = option(0, "Seed of the first try.", low=0, high=MAX_SEED)
    doors: list[str] = option(list(NAMES), "Which doors to try.", choices=NAMES)
    seconds: int = option(10, "How long a try may take.", low=1, high=3600)
    full: bool = option(False, "Print the traceback of every fault, not of one of each kind.")

    def __post_init__(self):
        check_values(self)


def run(config: FuzzConfig) -> None:
    """Tries, and prints a table and what went wrong.

    Raises:
        UserError: something went wrong.
    """
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    faulthandler.enable()
    os.environ["HF_HUB_OFFLINE"] = "1"  # no spoilt name is looked up on the hub
    outcomes = []
    with tempfile.TemporaryDirectory() as folder:
        model, clip = write_tiny_model(Path(folder) / "model"), write_tiny_clip(Path(folder) / "clip")
        materials = Materials(Path(folder) / "doors", model, clip)
        doors = [door for door in DOORS if door.__name__ in config.doors]
        for outcome in try_doors(materials, config.count, config.seed, doors, config.seconds):
            print(f"{outcome.door}: {outcome.count} inputs, {len(outcome.faults)} faults", flush=True)
            outcomes.append(outcome)
    faults = [fault for outcome in outcomes for fault in outcome.faults]
    for kind, found in _by_kind(faults).items():
        print(f"\n{len(found)} x {kind}", *(f"\n{f.seed}: {f.report}" for f in (found if config.full else found[:1])))
    print(f"\n{sum(outcome.count for outcome in outcomes)} malformed inputs", summary(outcomes), sep="\n")
    if faults:
        raise UserError(f"{len(faults)} faults")


def _by_kind(faults: list[Fault]) -> dict[str, list[Fault]]:
    """The faults by what they have in common: their kind, and the last line of the traceback without its values."""
    groups = collections.defaultdict(list)
    for fault in faults:
        lines = fault.report.strip().splitlines()
        places = [line.strip() for line in lines if line.startswith("  File ") and "dreamstyler_jax" in line]
        groups[f"{fault.kind} at {places[-1] if places else fault.door}: {lines[-1][:60]}"].append(fault)
    return dict(sorted(groups.items(), key=lambda item: -len(item[1])))


if __name__ == "__main__":
    set_up()
    run_and_exit(lambda: run(parse(FuzzConfig)))
