"""One benchmark beside an earlier one."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dreamstyler_jax.commands import benchmark
from dreamstyler_jax.commands.benchmark import BenchmarkConfig
from dreamstyler_jax.commands.comparing import ratio_of_times, read_results
from dreamstyler_jax.runtime.errors import UserError

SECONDS = st.lists(st.floats(1e-3, 1e3), min_size=2, max_size=9)


def test_a_ratio_and_its_interval_by_hand():
    """Logarithms 1, 2, 3 and 0, 1: means 2 and 0.5, variances of the means 1/3 and 1/4, 2.882 degrees of freedom."""
    ratio, low, high = ratio_of_times(np.exp([1, 2, 3]).tolist(), np.exp([0, 1]).tolist())
    freedom = (1 / 3 + 1 / 4) ** 2 / ((1 / 3) ** 2 / 2 + (1 / 4) ** 2 / 1)
    assert freedom == pytest.approx(2.8824, abs=1e-4)
    margin = 3.2574 * math.sqrt(1 / 3 + 1 / 4)  # 97.5 % of Student's distribution with so many
    assert [math.log(value) for value in (ratio, low, high)] == pytest.approx(
        [1.5, 1.5 - margin, 1.5 + margin], abs=1e-3
    )


@given(SECONDS, SECONDS)
def test_the_ratio_of_the_other_way_round_is_its_inverse(earlier, now):
    ratio, low, high = ratio_of_times(earlier, now)
    assert low <= ratio <= high
    assert ratio_of_times(now, earlier) == pytest.approx((1 / ratio, 1 / high, 1 / low), rel=1e-9)


def test_one_run_has_no_interval():
    ratio, *ends = ratio_of_times([2.0], [1.0, 1.0])
    assert ratio == pytest.approx(2) and all(map(math.isnan, ends))


def test_an_earlier_run_is_compared_measure_by_measure(tiny_folder, tmp_path, capsys):
    earlier = tmp_path / "earlier.jsonl"
    common = dict(model=str(tiny_folder), repeats=2, batch=1)
    benchmark.run(BenchmarkConfig(measure=["text"], output=str(earlier), **common))
    (line,) = map(json.loads, earlier.read_text().splitlines())
    slower = line | {"seconds": [10 * seconds for seconds in line["seconds"]], "jax": "0.1"}
    earlier.write_text(json.dumps(slower) + "\n")
    capsys.readouterr()
    both = ["text", "decode"]
    benchmark.run(BenchmarkConfig(measure=both, output=str(tmp_path / "now"), compare=str(earlier), **common))
    *_, row, rest = capsys.readouterr().out.splitlines()
    cells = [cell.strip() for cell in row.split("|")[1:-1]]
    assert cells[:2] == ["text", "1"] and float(cells[4]) > 1 and " to " in cells[5] and cells[6] == "earlier jax: 0.1"
    assert rest == f"{earlier} has 1 of these 2 measures"


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("", "holds no measurements"),
        ("{}", "line 1 is damaged"),
        ("nothing", "not valid JSON"),
    ],
)
def test_a_file_of_something_else_is_refused(tmp_path, content, complaint):
    (tmp_path / "x").write_text(content)
    with pytest.raises(UserError, match=complaint):
        read_results(str(tmp_path / "x"))
