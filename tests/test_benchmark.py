"""What is counted, and that no change makes more of it: operations, calls of the UNet, traces. Nothing is timed."""

import dataclasses
import json
import types

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from dreamstyler_jax import sampling
from dreamstyler_jax.commands import benchmark
from dreamstyler_jax.commands.benchmark import BenchmarkConfig, work_of
from dreamstyler_jax.runtime.errors import UserError
from dreamstyler_jax.runtime.flops import flops
from dreamstyler_jax.stable_diffusion.unet import UNet2DConditionModel

BATCH, STEPS = 2, 3
CONFIG = BenchmarkConfig(batch=BATCH, steps=STEPS, repeats=1)


def counted(function, *arguments, **keywords):
    return flops(jax.jit(function).trace(*arguments, **keywords).jaxpr)


def of_work(work):
    return flops(work.function.trace(*work.arguments, **work.keywords).jaxpr)


@pytest.fixture(scope="module")
def one_pass(tiny):
    """Operations of the UNet for one picture."""
    return of_work(work_of("unet", dataclasses.replace(CONFIG, batch=1), tiny))


def test_products_and_convolutions_are_counted_by_hand():
    a, b = jnp.ones((2, 3, 4)), jnp.ones((2, 4, 5))
    assert counted(jnp.matmul, a, b) == 2 * 2 * 3 * 4 * 5
    x, kernel = jnp.ones((2, 8, 6, 3)), jnp.ones((3, 3, 3, 7))

    def convolve(x, kernel):
        return jax.lax.conv_general_dilated(x, kernel, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    assert counted(convolve, x, kernel) == 2 * (2 * 4 * 3 * 7) * (3 * 3 * 3)
    assert counted(lambda a: jax.lax.scan(lambda c, _: (c @ c, None), a, None, 6)[0], jnp.ones((4, 4))) == 6 * 2 * 4**3
    assert counted(lambda a: jax.lax.cond(a[0, 0] > 0, lambda a: a @ a, lambda a: a, a), jnp.ones((4, 4))) == 2 * 4**3


def test_stable_diffusions_unet_takes_the_operations_known_of_it():
    """401.6 G multiply-adds at 512 x 512,attention's two products included."""
    config = benchmark.SIZES["sd15"][1]

    def predict(params):
        x, states = jnp.zeros((1, 64, 64, 4)), jnp.zeros((1, 77, 768))
        return nnx.merge(graphdef, params)(x, jnp.zeros(1), states)

    rngs = types.SimpleNamespace(params=lambda: jax.random.key(0))  # nnx.Rngs takes six times as long
    graphdef, params = nnx.split(nnx.eval_shape(lambda: UNet2DConditionModel(config, rngs=rngs)))
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 859_520_964
    assert flops(jax.make_jaxpr(predict)(params)) == pytest.approx(2 * 401.6e9, rel=1e-3)


@pytest.mark.parametrize(("name", "rows"), [("cfg", 2), ("paper", 4)])
def test_painting_calls_the_unet_once_for_each_row_and_step(tiny, one_pass, name, rows):
    """Or less than that: the rows of guidance share what comes before the text, and the time embedding."""
    painting, decoding = (of_work(work_of(part, CONFIG, tiny)) for part in (name, "decode"))
    calls = (painting - decoding) / (BATCH * STEPS * one_pass)
    assert rows - 1 < calls < rows


def test_a_training_step_is_a_pass_forward_and_one_back_to_the_text(tiny, one_pass):
    """No gradient by a weight, no second encoding of the picture: that would be half as much again and more."""
    step = of_work(work_of("train", CONFIG, tiny)) / benchmark.TRAIN_STEPS / BATCH
    text = of_work(work_of("text", dataclasses.replace(CONFIG, batch=1), tiny)) / 6
    assert 1.8 * one_pass < step < 2 * (one_pass + text)


def test_what_is_counted_is_what_is_compiled(tiny):
    work = work_of("unet", CONFIG, tiny)
    compiled = work.function.lower(*work.arguments).cost_analysis()["flops"]
    assert 0.8 * compiled < of_work(work) < compiled, "the compiler also counts what is elementwise"


def test_scales_prompts_and_seeds_need_no_new_program(tiny):
    work = work_of("paper", CONFIG, tiny)
    networks, params, table, bank, weights, seeds = work.arguments
    sampling.paint_batch(networks, params, table, bank, weights, seeds, **work.keywords)
    before = sampling.paint_batch._cache_size()
    sampling.paint_batch(networks, params, table, bank[::-1], 2 * weights, seeds + 7, **work.keywords)
    assert sampling.paint_batch._cache_size() == before


def test_everything_is_measured_and_written_down(tiny_folder, tmp_path, capsys):
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


def test_a_grid_is_measured_to_its_last_file(tiny, monkeypatch):
    written = []

    def save(gallery, cell, picture, save=benchmark.Gallery.save):
        save(gallery, cell, picture)
        written.append((gallery.folder / gallery.lines[cell.id]["file"]).exists())

    monkeypatch.setattr(benchmark.Gallery, "save", save)
    monkeypatch.setattr(benchmark, "build", lambda work: ({"flop": of_work(work)}, None))
    result = benchmark.measure_grid(CONFIG, tiny)
    assert written == [True] * benchmark.GRID_BATCHES * BATCH * (1 + CONFIG.repeats)
    assert result["images_per_s"] == pytest.approx(benchmark.GRID_BATCHES * BATCH / result["median_s"])
    assert result["flop"] == benchmark.GRID_BATCHES * of_work(work_of("cfg", CONFIG, tiny))


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        (dict(sweep="batch=a"), "sweep: 'batch=a' should read like batch=1,2,4,8"),
        (dict(batch=0), "batch: must be from 1"),
        (dict(measure=["paint"]), "measure: must be one of"),
    ],
)
def test_a_mistake_is_one_line(settings, complaint):
    with pytest.raises(UserError, match=complaint):
        BenchmarkConfig(**settings)
