"""Compiled programs kept between runs, the CPU's kernels and devices, and the time that compiling takes."""

import math
import os
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from script_tools import ROOT, run, start, write_picture

from dreamstyler_jax.commands import sample, train
from dreamstyler_jax.runtime.compilation import choose_kernels, cores, seconds_compiling, share_cores

# Compiles one program that takes long enough to be kept. It prints the result, and how many programs the cache had. The
# array comes from NumPy, because on a busy machine the programs that make an array take that long as well.
CHILD = """
import jax, jax.numpy as jnp, numpy as np
from dreamstyler_jax.runtime.compilation import keep_programs
from dreamstyler_jax.runtime.console import plain_warnings

found = []
jax.monitoring.register_event_listener(lambda event, **_: found.append(event.endswith("compilation_cache/cache_hits")))
plain_warnings()
keep_programs()

def unrolled(x):
    for i in range(250):
        x = jnp.sin(x @ x.T @ x + i)
    return x

x = np.linspace(0, 1, 48, dtype=np.float32).reshape(6, 8)
print(np.asarray(jax.jit(unrolled)(x)).tobytes().hex(), sum(found))
"""


def child(cache: Path, **more: str) -> tuple[str, int, str]:
    """The program's result, how many programs the cache had, and what was printed to stderr."""
    environment = {**os.environ, "JAX_ENABLE_COMPILATION_CACHE": "true", "XDG_CACHE_HOME": str(cache), **more}
    done = subprocess.run([sys.executable, "-c", CHILD], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    made, found = done.stdout.split()
    return made, int(found), done.stderr


def programs(cache: Path) -> list[Path]:
    return sorted((cache / "dreamstyler_jax" / "programs").glob("*-cache"))


@pytest.fixture(scope="module")
def cold(tmp_path_factory):
    """The program's result without a cache."""
    folder = tmp_path_factory.mktemp("cold")
    made, _, printed = child(folder, JAX_ENABLE_COMPILATION_CACHE="false")
    assert (programs(folder), printed) == ([], "")
    return made


def test_a_second_run_finds_its_programs_and_has_the_same_result(cold, tmp_path):
    assert child(tmp_path) == (cold, 0, "")
    kept = programs(tmp_path)
    assert len(kept) == 1
    assert child(tmp_path) == (cold, 1, "")
    assert programs(tmp_path) == kept


def test_a_program_cut_short_is_written_again(cold, tmp_path):
    child(tmp_path)
    (program,) = programs(tmp_path)
    whole = program.stat().st_size
    for rest in (b"", program.read_bytes()[: whole // 2]):  # without the time of use, because the writer was killed
        program.write_bytes(rest)
        program.with_name(program.name.removesuffix("cache") + "atime").unlink()
        assert child(tmp_path) == (cold, 0, "")
        assert program.stat().st_size == pytest.approx(whole, rel=0.1)
        assert child(tmp_path) == (cold, 1, "")


def test_a_damaged_program_is_compiled_with_a_warning(cold, tmp_path):
    child(tmp_path)
    (program,) = programs(tmp_path)
    content = bytearray(program.read_bytes())
    middle = slice(len(content) // 2, len(content) // 2 + 64)  # damage of a single byte may go unnoticed
    content[middle] = bytes(byte ^ 255 for byte in content[middle])
    for damaged in (content, content[: len(content) // 2], b"x" * len(content)):
        program.write_bytes(damaged)
        made, found, printed = child(tmp_path)
        assert (made, found) == (cold, 0)
        (line,) = printed.splitlines()
        assert line.startswith("warning: Error reading persistent compilation cache entry")


def test_nothing_is_kept_if_the_folder_cannot_be_written(cold, tmp_path):
    (tmp_path / "file").write_text("mine")
    assert child(tmp_path / "file") == (cold, 0, "")
    assert (tmp_path / "file").read_text() == "mine"


def test_jax_manages_a_cache_that_the_user_has_chosen(cold, tmp_path):
    chosen = {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "mine"), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    assert child(tmp_path, **chosen)[::2] == (cold, "")
    assert list((tmp_path / "mine").glob("jit_unrolled-*"))
    assert not (tmp_path / "dreamstyler_jax").exists()


def test_the_commands_keep_their_programs_and_paint_the_same(tiny_folder, tmp_path):
    picture = write_picture(tmp_path / "a.png", 0)
    learn = ["--model", tiny_folder, "--images", picture, "--steps", 1, "--batch_size", 1, "--output", tmp_path / "run"]
    paint = ["--model", tiny_folder, "--styles", tmp_path / "run", "--prompts", "a {}", "--seeds", "3", "--steps", 2]
    run(train, *learn)
    run(sample, *paint, "--output", tmp_path / "cold")
    environment = {"JAX_ENABLE_COMPILATION_CACHE": "true", "XDG_CACHE_HOME": str(tmp_path / "cache")}
    kept: list[list[Path]] = []
    for name in ("first", "second"):
        with start(sample, *paint, "--output", tmp_path / name, env=environment) as process:
            _, printed = process.communicate()
        assert process.returncode == 0 and "warning" not in printed, printed
        kept.append([file for file in programs(tmp_path / "cache") if file.name.startswith("jit_sample_batch")])
    assert kept[0] == kept[1] and len(kept[0]) == 1  # smaller programs are kept if compiling happens to take long
    assert len(list((tmp_path / "cache" / "dreamstyler_jax" / "programs" / "traced").iterdir())) == 1
    pictures = [next((tmp_path / name / "images").iterdir()).read_bytes() for name in ("cold", "first", "second")]
    assert pictures[0] == pictures[1] == pictures[2]


@pytest.mark.parametrize("given", ["", "--xla_cpu_enable_fast_math=false"])
def test_eigens_kernels_and_their_scheduler_are_chosen(monkeypatch, given):
    monkeypatch.setenv("XLA_FLAGS", given)
    choose_kernels((0, 13, 0))
    assert os.environ["XLA_FLAGS"] == given
    for version in [(0, 10, 2), (0, 12, 0)]:  # the second call finds its flags and adds none
        choose_kernels(version)
        chosen = "--xla_cpu_experimental_ynn_fusion_type= --xla_cpu_enable_concurrency_optimized_scheduler=false"
        assert os.environ["XLA_FLAGS"] == f"{given} {chosen}".strip()


DEVICES = """
import os, sys, jax
from dreamstyler_jax.runtime.compilation import share_cores
share_cores(sys.argv[1], *map(int, sys.argv[2:]))
print(jax.local_device_count(), os.environ.get("NPROC", 0))
"""


@pytest.mark.parametrize(
    ("words", "env", "expected"),
    [
        (["mini", "8"], {}, None),
        (["mini", "8", "3"], {}, 1),
        (["folder", "8"], {}, 1),
        (["mini", "8"], {"JAX_NUM_CPU_DEVICES": "3"}, 3),
        (["mini", "8"], {"XLA_FLAGS": "--xla_force_host_platform_device_count=5"}, 5),
        (["folder", "8"], {"JAX_NUM_CPU_DEVICES": "2", "NPROC": "2"}, 2),
    ],
)
def test_as_many_cores_as_divide_the_batch_are_devices_for_the_embedded_model(words, env, expected):
    environment = {name: value for name, value in os.environ.items() if name != "NPROC"} | env
    printed = subprocess.check_output([sys.executable, "-c", DEVICES, *words], cwd=ROOT, env=environment, text=True)
    devices, threads = map(int, printed.split())
    assert devices == (math.gcd(cores(), 8) if expected is None else expected)
    assert threads == (devices + 1 if devices > 1 else 0)


# Paints sixteen pictures in one batch and in two, and prints the largest difference.
PAINTED_AT_ONCE = """
import numpy as np
import dreamstyler_jax as ds
from dreamstyler_jax.mini.shipped import EXAMPLE_STYLE
from dreamstyler_jax.runtime.compilation import prepare
prepare("mini")
model, style = ds.StableDiffusion.load("mini"), ds.Style.load(EXAMPLE_STYLE)
prompt = "A painting of a red house in the style of {}"
sixteen, eight = (
    np.stack([picture.pixels for picture in ds.paint(model, prompt, style, seeds=range(16), steps=8, batch_size=size)])
    for size in (16, 8)
)
print(float(np.abs(sixteen - eight).max()))
"""


def test_devices_of_the_cpu_share_enough_threads():
    """With as many threads as devices, XLA gave a wrong first picture to each device's part of a batch of sixteen."""
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": "2", "NPROC": "2"}
    words = [sys.executable, "-c", PAINTED_AT_ONCE]
    difference = subprocess.check_output(words, cwd=ROOT, env=environment, text=True)
    assert float(difference) < 0.01


def test_cores_are_left_alone_after_the_first_computation():
    before = jax.local_device_count()
    share_cores("mini", 8)
    assert jax.local_device_count() == before
    assert getattr(jax.config, "jax_num_cpu_devices") in (-1, before)  # noqa: B009


def test_the_seconds_of_compiling_are_counted_and_those_of_running_are_not():
    def slow_to_trace(x):
        time.sleep(0.5)
        return x + 1

    before = seconds_compiling()
    jitted = jax.jit(slow_to_trace)
    jitted(jnp.zeros(3))
    compiled = seconds_compiling()
    assert compiled - before >= 0.5
    time.sleep(0.1)
    jitted(jnp.zeros(3)).block_until_ready()
    assert seconds_compiling() - compiled < 0.1


def test_flags_that_are_set_stay(monkeypatch):
    given = "--xla_cpu_enable_concurrency_optimized_scheduler=true --xla_cpu_experimental_ynn_fusion_type=invalid"
    monkeypatch.setenv("XLA_FLAGS", given)
    choose_kernels((0, 10, 2))
    assert os.environ["XLA_FLAGS"] == given


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="the kernels of a CPU")
def test_no_program_has_ynnpacks_kernels():
    a = jnp.ones((64, 64))
    assert "ynn_fusion" not in str(jax.jit(jnp.dot).lower(a, a).compile().as_text())
