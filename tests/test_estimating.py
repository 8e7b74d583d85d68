"""What a program takes on another device, from shapes alone. The device here is the CPU; test_tpu.py has TPUs."""

import dataclasses
import sys

import jax
import jax.numpy as jnp
import pytest

from dreamstyler_jax.commands import benchmark
from dreamstyler_jax.commands.benchmark import BenchmarkConfig
from dreamstyler_jax.commands.estimating import Chip, chip_of, describe_workload, estimate, row
from dreamstyler_jax.commands.workloads import ModelConfigs, ProblemSize, Workload, make_workload, random_model
from dreamstyler_jax.runtime.devices import device, mesh, programs_for
from dreamstyler_jax.runtime.errors import UserError
from dreamstyler_jax.runtime.topologies import topology_of
from dreamstyler_jax.stable_diffusion.weights import describe_model

CHIP = Chip("a chip", flop_per_s=1e9, bytes_per_s=1e6, memory=2**30)


@pytest.fixture
def problem(tiny):
    return ProblemSize(2, tiny.size(None, None), 3, remat=True)


@pytest.mark.parametrize("name", ["train", "paper"])
def test_a_workload_described_by_shapes_is_the_same_program(tiny, problem, name):
    without_weights = dataclasses.replace(tiny, params=jax.eval_shape(lambda: tiny.params))
    described, real = describe_workload(name, without_weights, problem), make_workload(name, tiny, problem)
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(described.inputs))
    program = str(described.trace().jaxpr)
    assert program == str(real.trace().jaxpr)
    assert ("remat" in program) == (name == "train"), "only training computes layers again"


def test_a_model_of_any_size_has_shapes_without_weights(tiny):
    networks = tiny.networks
    configs = ModelConfigs(networks.text_config, networks.vae_config, networks.unet_config)
    model = random_model("shapes", configs, "bfloat16", describe_model)
    expected = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.bfloat16), tiny.params)
    assert model.params == expected and model.dtype == jnp.bfloat16


def product(side):
    matrix = jax.ShapeDtypeStruct((side, side), jnp.float32)

    def multiply(a, b):
        return jax.lax.scan(lambda c, _: (c @ b, None), a, None, 4)[0]

    return Workload(jax.jit(multiply), (), (matrix, matrix), {}, 1, 4)


def test_an_estimate_counts_a_loop_once_and_takes_the_slower_of_computing_and_moving():
    result = estimate(product(64), CHIP)
    assert result["flop"] == 2 * 64**3
    assert result["argument_bytes"] == 2 * 4 * 64**2
    assert result["bound_by"] == "memory" and result["roofline_s"] == result["moved_bytes"] / 1e6
    computing = estimate(product(64), CHIP._replace(flop_per_s=1e3))
    assert computing["bound_by"] == "computing" and computing["roofline_s"] == 2 * 64**3 / 1e3


def test_a_program_that_takes_more_than_the_chip_has_does_not_fit():
    result = estimate(product(64), CHIP._replace(memory=2**15))
    assert not result["fits"] and result["memory_bytes"] > 3 * 4 * 64**2
    assert "does not fit" in row("product", 1, result, CHIP) and "does not" not in row(
        "product", 1, estimate(product(8), CHIP), CHIP
    )


def test_the_batch_that_fits_is_what_the_memory_leaves_beside_the_weights():
    result = {"compile_s": 1.0, "fits": True, "memory_bytes": 2**29}

    def batch_that_fits(room):
        return row("product", 8, result | {"room": room}, CHIP).split(" | ")[8]

    assert (batch_that_fits(2.49), batch_that_fits(0.1)) == ("19", "none")
    weights = 2 * 4 * 64**2
    whole = estimate(product(64), CHIP)
    rest = whole["memory_bytes"] - weights
    filled = estimate(product(64), CHIP._replace(memory=weights + 3 * rest))
    assert filled["room"] == pytest.approx(3)


@pytest.mark.parametrize(
    ("name", "topology"),
    [
        ("v5e:2x2", "v5e:2x2"),
        (" V6E:2x4 ", "v6e:2x4"),
        ("v5e-8", "v5e:2x4"),
        ("v5litepod-16", "v5e:4x4"),
        ("v5p:2x2x1", "v5p:2x2x1"),
    ],
)
def test_a_tpu_may_be_named_as_its_machine_is(name, topology):
    assert topology_of(name) == topology


@pytest.mark.parametrize("name", ["v5e:0x2", "v5e:2x0", "v5e:999x2", "v5e-3", "v5p-8", "v5e", "2x2", "", "v5e:2"])
def test_what_is_no_tpu_is_refused_before_its_compiler_sees_it(name):
    with pytest.raises(UserError, match=rf"^target: '{name}' is no TPU; write its generation and shape, as in v5e:2x2"):
        benchmark.run(BenchmarkConfig(target=name))


def test_programs_for_another_device_leave_nothing_behind():
    here, there = mesh(), jax.devices("cpu")[0]
    with programs_for(there):
        assert mesh().size == 1 and device() == there
    assert mesh() is here


def test_without_its_compiler_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "libtpu", None)
    with pytest.raises(UserError, match=r"install libtpu: pip install 'jax\[tpu\]'"):
        benchmark.run(BenchmarkConfig(target="v5e:2x2"))


def test_a_chip_whose_limits_are_unknown_is_refused():
    with pytest.raises(UserError, match="the limits of cpu are not known"):
        chip_of(device())
