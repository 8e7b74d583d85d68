"""A few hundred malformed files and texts: none ends in a traceback, a hang or a half-written file.

``python -m benchmarks.fuzz`` tries thousands, by the same doors.
"""

import pytest
from fuzzing.door import Materials
from fuzzing.models import Clips, Models, ScoreNetworks, Weights
from fuzzing.outputs import Manifests, Runs
from fuzzing.tries import DOORS, summary, try_doors, try_once
from tiny_clip import write_tiny_clip

SLOW = (Models, Clips, Weights, ScoreNetworks, Manifests, Runs)  # doors that load networks or draw pictures
COUNT, COUNT_OF_SLOW = 40, 10  # per door


@pytest.fixture(scope="module")
def materials(tiny_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz")
    return Materials(folder / "doors", tiny_folder, write_tiny_clip(folder / "clip"))


def test_malformed_input_is_refused_by_a_line_or_accepted(materials):
    quick = [door for door in DOORS if door not in SLOW and not door.needs_torch]
    outcomes = [*try_doors(materials, COUNT, 0, quick), *try_doors(materials, COUNT_OF_SLOW, 0, SLOW)]
    print(f"\n{sum(outcome.count for outcome in outcomes)} malformed inputs", summary(outcomes), sep="\n")
    faults = [fault for outcome in outcomes for fault in outcome.faults]
    assert not faults, "\n".join(f"{fault.kind}: {fault.seed}\n{fault.report}" for fault in faults)
    assert all(outcome.refused for outcome in outcomes), "what is spoilt is noticed"


@pytest.mark.parametrize(
    ("act", "kind"),
    [
        (lambda folder: {}["x"], "traceback"),
        (lambda folder: (folder / "nowhere").read_text(), "traceback"),
        (lambda folder: [None for _ in iter(int, 1)], "hang"),
        (lambda folder: (folder / f".{'0' * 32}.tmp").write_text("x"), "half-written file"),
    ],
)
def test_what_goes_wrong_is_found(act, kind, tmp_path):
    door = type("Door", (), {"folder": tmp_path, "attempt": lambda self, rng: act(tmp_path)})()
    fault = try_once(door, "Door 7", max_seconds=0.2)
    assert fault.kind == kind and fault.seed == "Door 7"
