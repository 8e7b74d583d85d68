"""Runs the commands ``train``, ``sample`` and ``evaluate``, in this process or in another one."""

import contextlib
import os
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

import jax
import numpy as np
import pytest
import safetensors.numpy
from jax.experimental.compilation_cache import compilation_cache as compiled
from PIL import Image

from dreamstyler_jax.commands import (
    animate,
    caption,
    cli,
    convert,
    enlarge,
    evaluate,
    pick,
    report,
    sample,
    train,
    verify,
)  # fmt: skip
from dreamstyler_jax.commands.config import SampleConfig, TrainConfig

ROOT = Path(__file__).parent.parent
CONFIGS = {
    animate: animate.AnimateConfig,
    enlarge: enlarge.EnlargeConfig,
    pick: pick.PickConfig,
    caption: caption.CaptionConfig,
    convert: convert.ConvertConfig,
    train: TrainConfig,
    sample: SampleConfig,
    evaluate: evaluate.EvaluateConfig,
    report: report.ReportConfig,
    verify: verify.VerifyConfig,
}


@contextlib.contextmanager
def compilation_cache(folder: Path) -> Iterator[None]:
    """Keeps compiled programs in ``folder``, for this process and for those that it starts."""
    settings = {
        "jax_enable_compilation_cache": True,
        "jax_compilation_cache_dir": str(folder),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
    }
    before = {name: getattr(jax.config, name) for name in settings}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            jax.config.update(name, value)
            patch.setenv(name.upper(), str(value))
        compiled.reset_cache()
        yield
    for name, value in before.items():
        jax.config.update(name, value)
    compiled.reset_cache()


def from_yaml(cls, text, folder, *argv):
    """Parses a command line with a config file that holds ``text``."""
    path = folder / "config.yaml"
    path.write_text(text, encoding="utf-8")
    return cli.parse(cls, ["--config", str(path), *argv])


def run(command, *words) -> None:
    """Runs a command, which is a module, with these words; its errors are exceptions.

    Of an option that is given twice the last one counts, so that a test can say what differs from what others share.
    """
    command.run(cli.parse(CONFIGS[command], last_of_each(words)))


def last_of_each(words) -> list[str]:
    """The words without options that are given again, with their values."""
    options: dict[str, list[str]] = {}
    name = ""
    for word in map(str, words):
        if word.startswith("--"):
            name = word.partition("=")[0]
            options[name] = []
        options.setdefault(name, []).append(word)
    return [word for of_option in options.values() for word in of_option]


def refusal(capfd, command, *words) -> str:
    """The error line of a command that must end with status 2 and print nothing else."""
    capfd.readouterr()
    with pytest.raises(SystemExit) as end:
        cli.run_and_exit(lambda: run(command, *words))
    printed = capfd.readouterr()
    assert (end.value.code, printed.out) == (2, ""), printed
    (line,) = printed.err.splitlines()
    assert line.startswith("error: ")
    return line.removeprefix("error: ")


def start(command, *words, cwd=ROOT, env: Mapping[str, str] = MappingProxyType({})) -> "subprocess.Popen[str]":
    """Starts a command as another process; ``env`` adds to this one's environment."""
    line = [sys.executable, "-m", "dreamstyler_jax", command.__name__.rpartition(".")[2], *last_of_each(words)]
    env = {**os.environ, "PYTHONPATH": str(ROOT), **env}
    return subprocess.Popen(line, cwd=cwd, text=True, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


@contextlib.contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Within this context no file can grow beyond ``size`` bytes, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def dumping(folder: Path, function: str) -> dict[str, str]:
    """Environment in which a process writes the compiled programs of a jitted function to ``folder``."""
    dump = f"--xla_dump_to={folder} --xla_dump_hlo_module_re=jit_{function}$ --xla_dump_hlo_as_text"
    return {"XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {dump}"}


def collectives(folder: Path) -> list[list[str]]:
    """Of each program in a folder of `dumping` the operations between devices, by their kind."""
    kinds = r" (all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute|collective-broadcast)(?:-start)?\("
    return [re.findall(kinds, path.read_text()) for path in folder.glob("*after_optimizations.txt")]


def contents(folder: Path) -> dict[str, bytes | None]:
    """Every file and folder below ``folder``, with the bytes of the files."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


def write_picture(path: Path, seed: int, size: tuple[int, int] = (20, 14)) -> Path:
    """Coloured noise, ``size`` = width and height."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def without_a_tensor(model: Path, folder: Path) -> Path:
    """Copies a model's folder to ``folder``, without one tensor of the UNet."""
    shutil.copytree(model, folder)
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = safetensors.numpy.load_file(file)
    del tensors["conv_in.bias"]
    safetensors.numpy.save_file(tensors, file)
    return folder
