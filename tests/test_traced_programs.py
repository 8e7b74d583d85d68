"""Programs that are traced once for all processes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from script_tools import compilation_cache

from dreamstyler_jax.runtime.traced_programs import FOLDER, MAX_COUNT, TracedOnce


@pytest.fixture
def cache(tmp_path):
    with compilation_cache(tmp_path):
        yield tmp_path


def another_process(traced: list[int]) -> TracedOnce:
    """A function as a process of its own would have it; ``traced`` grows whenever it is traced."""

    def multiply(factor, tree, *, shift=0.0):
        traced.append(factor)
        return factor * tree["a"] @ tree["b"][0] + shift

    return TracedOnce(functools.partial(jax.jit, static_argnames=("factor",))(multiply), ("factor",))


A, B = np.arange(6, dtype=np.float32).reshape(2, 3), np.ones((3, 2), np.float32)


def test_another_process_does_not_trace_the_function_again(cache):
    traced: list[int] = []
    results = [another_process(traced)(3, {"a": A, "b": (B,)}, shift=1) for _ in range(3)]
    assert traced == [3]
    for result in results:
        np.testing.assert_array_equal(result, 3 * A @ B + 1)


@pytest.mark.parametrize(
    ("factor", "a", "b", "options"),
    [
        (2, A, (B,), {}),
        (3, A[:1], (B,), {}),
        (3, A.astype(np.int32), (B,), {}),
        (3, A, [B], {}),
        (3, A, (B,), {"shift": np.float32(1)}),
        (3, A, (jax.device_put(B, jax.devices()[0]),), {}),
    ],
    ids=["static", "shape", "dtype", "structure", "argument", "device"],
)
def test_what_sets_programs_apart(cache, factor, a, b, options):
    another_process([])(3, {"a": A, "b": (B,)})
    traced: list[int] = []
    result = another_process(traced)(factor, {"a": a, "b": b}, **options)
    assert traced == [factor]
    np.testing.assert_array_equal(result, factor * a @ B + options.get("shift", 0))


@pytest.mark.parametrize("same_process", [False, True])
def test_settings_of_jax_set_programs_apart(cache, same_process):
    traced: list[int] = []
    one = another_process(traced)
    one(3, {"a": A, "b": (B,)})
    with jax.default_matmul_precision("highest"):
        (one if same_process else another_process(traced))(3, {"a": A, "b": (B,)})
    assert traced == [3, 3]


def test_a_damaged_program_is_traced_again_and_replaced(cache):
    traced: list[int] = []
    another_process(traced)(3, {"a": A, "b": (B,)})
    (file,) = (cache / FOLDER).iterdir()
    whole = file.read_bytes()
    for damaged in (b"", whole[:-1], whole[:100], b"x" + whole[1:]):
        file.write_bytes(damaged)
        for _ in range(2):
            np.testing.assert_array_equal(another_process(traced)(3, {"a": A, "b": (B,)}), 3 * A @ B)
    assert len(traced) == 5


def test_nothing_is_kept_unless_jax_keeps_compiled_programs(tmp_path):
    traced: list[int] = []
    with compilation_cache(tmp_path):
        jax.config.update("jax_enable_compilation_cache", False)
        another_process(traced)(3, {"a": A, "b": (B,)})
    assert traced == [3] and not (tmp_path / FOLDER).exists()


def test_what_jax_cannot_keep_runs_all_the_same(cache):
    def with_callback(x):
        return jax.pure_callback(np.sin, jax.ShapeDtypeStruct(x.shape, x.dtype), x)

    np.testing.assert_allclose(TracedOnce(jax.jit(with_callback), ())(jnp.ones(3)), np.sin(np.ones(3)), rtol=1e-6)
    assert not (cache / FOLDER).exists()


def test_the_longest_unused_are_removed(cache):
    (cache / FOLDER).mkdir()
    for i in range(MAX_COUNT):
        (cache / FOLDER / f"{i:03}").write_bytes(b"")
    traced: list[int] = []
    another_process(traced)(3, {"a": A, "b": (B,)})
    assert len(list((cache / FOLDER).iterdir())) == MAX_COUNT
    another_process(traced)(3, {"a": A, "b": (B,)})
    assert traced == [3]
