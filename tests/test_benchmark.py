"""No change makes more work: operations, calls of the UNet and compiled programs are counted; nothing is timed."""

import json
import types

import jax
import jax.numpy as jnp
import pytest
from compilations import compilations
from flax import nnx

from dreamstyler_jax.commands import benchmark
from dreamstyler_jax.commands.benchmark import BenchmarkConfig, measure_grid, measure_latency
from dreamstyler_jax.commands.measuring import programs_kept_in
from dreamstyler_jax.commands.workloads import (
    GRID_BATCHES,
    SIZES,
    TRAIN_STEPS,
    ModelConfigs,
    ProblemSize,
    make_workload,
    random_model,
)
from dreamstyler_jax.grids.gallery import Gallery
from dreamstyler_jax.runtime.errors import UserError
from dreamstyler_jax.runtime.flops import flops
from dreamstyler_jax.stable_diffusion.unet import UNet2DConditionModel

BATCH, STEPS = 2, 3


@pytest.fixture(scope="module")
def problem(tiny):
    return ProblemSize(BATCH, tiny.size(None, None), STEPS)


@pytest.fixture(scope="module")
def one_pass(tiny, problem):
    """Operations of the UNet for one picture."""
    return operations(make_workload("unet", tiny, problem._replace(batch=1)))


def operations(workload):
    return flops(workload.trace().jaxpr)


def counted(function, *arguments):
    return flops(jax.jit(function).trace(*arguments).jaxpr)


def test_products_and_convolutions_are_counted_by_hand():
    a, b = jnp.ones((2, 3, 4)), jnp.ones((2, 4, 5))
    assert counted(jnp.matmul, a, b) == 2 * 2 * 3 * 4 * 5
    x, kernel = jnp.ones((2, 8, 6, 3)), jnp.ones((3, 3, 3, 7))

    def convolve(x, kernel):
        return jax.lax.conv_general_dilated(x, kernel, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    assert counted(convolve, x, kernel) == 2 * (2 * 4 * 3 * 7) * (3 * 3 * 3)
    assert counted(lambda a: jax.lax.scan(lambda c, _: (c @ c, None), a, None, 6)[0], jnp.ones((4, 4))) == 6 * 2 * 4**3
    assert counted(lambda a: jax.lax.cond(a[0, 0] > 0, lambda a: a @ a, lambda a: a, a), jnp.ones((4, 4))) == 2 * 4**3


def test_stable_diffusions_unet_takes_the_known_number_of_operations():
    """401.6 G multiply-adds at 512 x 512, including the two products of attention."""
    config = SIZES["sd15"].unet

    def predict(params):
        x, states = jnp.zeros((1, 64, 64, 4)), jnp.zeros((1, 77, 768))
        return nnx.merge(graphdef, params)(x, jnp.zeros(1), states)

    rngs = types.SimpleNamespace(params=lambda: jax.random.key(0))  # nnx.Rngs takes six times as long
    graphdef, params = nnx.split(nnx.eval_shape(lambda: UNet2DConditionModel(config, rngs=rngs)))
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 859_520_964
    assert flops(jax.make_jaxpr(predict)(params)) == pytest.approx(2 * 401.6e9, rel=1e-3)


@pytest.mark.parametrize(("name", "rows"), [("cfg", 2), ("paper", 4)])
def test_painting_calls_the_unet_once_for_each_row_and_step(tiny, problem, one_pass, name, rows):
    """A little less than that: the rows share the time embedding and what comes before the text."""
    painting, decoding = (operations(make_workload(part, tiny, problem)) for part in (name, "decode"))
    calls = (painting - decoding) / (BATCH * STEPS * one_pass)
    assert rows - 1 < calls < rows


def test_a_training_step_is_a_pass_forward_and_one_back_to_the_text(tiny, problem, one_pass):
    """The gradient of a weight, or a second encoding of the picture, would add half as much or more."""
    step = operations(make_workload("train", tiny, problem)) / TRAIN_STEPS / BATCH
    text = operations(make_workload("text", tiny, problem._replace(batch=1))) / 6
    assert 1.8 * one_pass < step < 2 * (one_pass + text)


def test_the_counted_operations_are_those_of_the_compiled_program(tiny, problem):
    workload = make_workload("unet", tiny, problem)
    compiled = workload.trace().lower().cost_analysis()["flops"]
    assert 0.8 * compiled < operations(workload) < compiled, "the compiler also counts elementwise operations"


def test_scales_prompts_and_seeds_need_no_new_program(tiny, problem):
    workload = make_workload("paper", tiny, problem)
    params, plan, batch = workload.inputs
    workload.call(workload.inputs)
    other = batch._replace(
        conditioning=jax.tree.map(lambda rows: rows[::-1], batch.conditioning),
        weights=2 * batch.weights,
        seeds=batch.seeds + 7,
    )
    with compilations("sample_batch") as compiled:
        workload.call((params, plan, other))
    assert compiled == []


def test_random_models_have_the_given_sizes(tiny):
    networks = tiny.networks
    configs = ModelConfigs(networks.text_config, networks.vae_config, networks.unet_config)
    model = random_model("random", configs, "bfloat16")
    assert (model.resolution, model.multiple, model.dtype) == (tiny.resolution, tiny.multiple, jnp.bfloat16)
    assert jax.tree.map(jnp.shape, model.params) == jax.tree.map(jnp.shape, tiny.params)
    assert model.networks.latent_shape(16, 16) == networks.latent_shape(16, 16)


def test_the_settings_of_jaxs_cache_are_restored_after_an_error(tmp_path):
    before = jax.config.jax_compilation_cache_dir, jax.config.jax_enable_compilation_cache
    with pytest.raises(KeyboardInterrupt), programs_kept_in(str(tmp_path)):
        assert jax.config.jax_compilation_cache_dir == str(tmp_path)
        raise KeyboardInterrupt
    assert before == (jax.config.jax_compilation_cache_dir, jax.config.jax_enable_compilation_cache)


def test_every_measure_is_printed_and_written(tiny_folder, tmp_path, capsys):
    output = tmp_path / "results.jsonl"
    sweep = dict(sweep="batch=1,2", measure=["unet", "text"], repeats=2, output=str(output))
    benchmark.run(BenchmarkConfig(model=str(tiny_folder), **sweep))
    lines = [json.loads(line) for line in output.read_text().splitlines()]
    assert [(line["measure"], line["batch"]) for line in lines] == [("unet", 1), ("text", 1), ("unet", 2), ("text", 2)]
    for line in lines:
        assert line["p10_s"] <= line["median_s"] <= line["p90_s"]
        assert line["images_per_s"] == pytest.approx(line["batch"] / line["median_s"])
        assert line["utilisation"] == pytest.approx(line["flop"] / line["median_s"] / line["peak_flop_per_s"])
        assert {"compile_s", "compile_cached_s", "temporary_bytes", "jax", "XLA_FLAGS", "cores"} <= line.keys()
    assert lines[2]["flop"] == 2 * lines[0]["flop"]
    table = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert len(table) == 1 + len(lines) and len({line.count("|") for line in table}) == 1


def test_a_grid_is_measured_until_its_last_file_is_written(tiny, problem):
    written = []

    class WatchedGallery(Gallery):
        def save(self, cell, picture):
            super().save(cell, picture)
            written.append((self.folder / self.lines[cell.id]["file"]).exists())

    result = measure_grid(tiny, problem, 1, WatchedGallery)
    assert written == [True] * GRID_BATCHES * BATCH * 2
    assert result["images_per_s"] == pytest.approx(GRID_BATCHES * BATCH / result["median_s"])
    assert result["flop"] == GRID_BATCHES * operations(make_workload("cfg", tiny, problem))


def test_latency_is_of_one_picture_whatever_the_batch(tiny, problem):
    result = measure_latency(tiny, problem._replace(batch=7), 2)
    assert len(result["seconds"]) == 2
    assert result["images_per_s"] == pytest.approx(1 / result["median_s"])
    assert result["flop"] == operations(make_workload("cfg", tiny, problem._replace(batch=1)))


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        (dict(target="v5e:2x2", compare="x"), "compare: estimates are no measurements"),
        (dict(sweep="batch=a"), "sweep: 'batch=a' should read like batch=1,2,4,8"),
        (dict(batch=0), "batch: must be from 1"),
        (dict(measure=["paint"]), "measure: must be one of"),
    ],
)
def test_a_mistake_is_one_line(settings, complaint):
    with pytest.raises(UserError, match=complaint):
        BenchmarkConfig(**settings)
