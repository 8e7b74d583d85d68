"""Programs compiled for a TPU that is not here: `make test-tpu`, which installs TPUs' compiler."""

import json
import warnings

import jax
import jax.numpy as jnp
import pytest
from script_tools import compilation_cache

from dreamstyler_jax.commands import benchmark
from dreamstyler_jax.commands.benchmark import BenchmarkConfig
from dreamstyler_jax.commands.estimating import chip_of, describe_workload, estimate
from dreamstyler_jax.commands.workloads import ProblemSize, Workload
from dreamstyler_jax.runtime.devices import placed, programs_for
from dreamstyler_jax.runtime.errors import UserError
from dreamstyler_jax.runtime.topologies import described_chip
from dreamstyler_jax.stable_diffusion.ops.attention import attention

pytestmark = pytest.mark.tpu


@pytest.fixture(scope="module")
def v5e():
    return described_chip("v5e:2x2")


def attention_program(chip, keys):
    """The text of a compiled attention in two heads of 40, and its gradient."""
    with programs_for(chip):
        shapes = [jax.ShapeDtypeStruct((1, n, 80), jnp.bfloat16, sharding=placed()) for n in (1024, keys, keys)]

        def loss(*sequences):
            return attention(*sequences, heads=2).astype(jnp.float32).sum()

        return jax.jit(jax.value_and_grad(loss, (0, 1, 2))).lower(*shapes).compile().as_text()


def test_long_attention_is_the_tpus_kernel_and_writes_no_logits(v5e):
    program = attention_program(v5e, keys=1024)
    assert program.count('custom_call_target="tpu_custom_call"') == 2, "forward and back"
    assert "1024,1024]" not in program


def test_attention_to_a_text_is_xlas(v5e):
    assert "tpu_custom_call" not in attention_program(v5e, keys=77)


@pytest.mark.parametrize("name", ["train", "paper", "encode"])
def test_a_model_compiles_and_fits(v5e, tiny, name):
    problem = ProblemSize(2, tiny.size(None, None), 3)
    with programs_for(v5e):
        result = estimate(describe_workload(name, tiny, problem), chip_of(v5e))
    assert result["fits"] and result["flop"] > 0
    assert result["memory_bytes"] >= result["argument_bytes"] + result["temporary_bytes"] > 0


def test_a_program_that_the_compiler_refuses_does_not_fit(v5e):
    with programs_for(v5e):
        matrix = jax.ShapeDtypeStruct((100_000, 100_000), jnp.float32, sharding=placed())
        result = estimate(Workload(jax.jit(lambda x: jnp.sort(x) @ x), (), (matrix,), {}, 1, 1), chip_of(v5e))
    assert not result["fits"] and result["memory_bytes"] > chip_of(v5e).memory


def test_the_command_prints_a_table_and_writes_it(tiny_folder, tmp_path, capsys):
    output = tmp_path / "estimates.jsonl"
    settings = dict(model=str(tiny_folder), measure=["decode", "grid"], sweep="batch=1,2", target="v6e:2x2")
    benchmark.run(BenchmarkConfig(**settings, dtype="bfloat16", output=str(output)))
    lines = [json.loads(line) for line in output.read_text().splitlines()]
    assert [(line["measure"], line["batch"], line["device"]) for line in lines] == [
        ("decode", 1, "TPU v6 lite"),
        ("decode", 2, "TPU v6 lite"),
    ]
    assert 0 < lines[0]["flop"] < lines[1]["flop"] and {"libtpu", "optimization_level"} <= lines[0].keys()
    printed = capsys.readouterr().out
    assert "918 TFLOP/s, 1640 GB/s" in printed and printed.count("| decode |") == 2


def test_a_target_again_reads_no_programs_that_only_a_tpu_can_read(tiny_folder, tmp_path):
    settings = BenchmarkConfig(model=str(tiny_folder), measure=["decode"], target="v5e-4", output=str(tmp_path / "out"))
    with compilation_cache(tmp_path / "programs"), warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(2):
            benchmark.run(settings)
        assert not [*(tmp_path / "programs").glob("*-cache")]


def test_a_topology_that_does_not_exist_is_refused():
    with pytest.raises(UserError, match="target: v99:2x2 is not a TPU such as v5e:2x2"):
        described_chip("v99:2x2")
