"""What `dreamstyler doctor` says."""

import configparser
import importlib.metadata
import os
import re
import shlex
import subprocess
import sys

import jax
import pytest
from script_tools import ROOT

from dreamstyler_jax.commands import doctor
from dreamstyler_jax.runtime.compilation import cpu_devices


def printed(capsys) -> str:
    doctor.run(doctor.DoctorConfig())
    return capsys.readouterr().out


def test_it_says_what_it_sees(capsys):
    said = printed(capsys)
    assert f"jax {jax.__version__}" in said and "Traceback" not in said and len(said.splitlines()) < 20
    assert re.search(r"^this machine: \d+ CPU cores?, \d+\.\d GiB of memory$", said, re.MULTILINE)


def test_of_a_cpu_it_says_how_many_devices_the_commands_make_of_it_and_guesses_nothing(capsys, monkeypatch):
    count = cpu_devices("mini", 8)
    expected = (
        f"devices: the CPU, as {count} in train and {count} in sample for the embedded model, as 1 for a larger one"
    )
    said = printed(capsys)
    assert expected in said.splitlines() and "TPU" not in said.partition("not installed")[0]
    assert "what larger ones need is not known for this kind of device (cpu)" in said
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=3")
    assert "as 3 in train and 3 in sample for the embedded model, as 3 for a larger one" in printed(capsys)


@pytest.mark.parametrize("kind", ["tpu", "gpu"])
@pytest.mark.parametrize(("gib", "fits"), [(100, "(fits)"), (2, "(does not fit at once")])
def test_what_needs_less_than_a_device_has_fits(kind, gib, fits):
    lines = list(doctor.fitting(kind, gib * doctor.GIB))
    assert len(lines) == len(doctor.NEEDS[kind].models) and all(fits in line for line in lines)


@pytest.mark.parametrize(
    ("sign", "extra"),
    [
        ("proc/driver/nvidia/version", "cuda13"),
        ("dev/kfd", "rocm7-local"),
        ("dev/vfio/0", "tpu"),
        ("dev/accel0", "tpu"),
    ],
)
def test_a_device_that_jax_does_not_see_is_a_problem(tmp_path, sign, extra):
    assert not list(doctor.device_problems("cpu", tmp_path, {}))
    (tmp_path / sign).parent.mkdir(parents=True)
    (tmp_path / sign).touch()
    (problem,) = doctor.device_problems("cpu", tmp_path, {})
    assert f"pip install 'jax[{extra}]'" in problem
    assert not list(doctor.device_problems("cpu", tmp_path, {"JAX_PLATFORMS": "cpu"}))
    assert not list(doctor.device_problems("tpu", tmp_path, {}))


def test_that_jax_finds_no_device_is_a_problem_and_the_rest_is_said(tmp_path):
    environment = {**os.environ, "JAX_PLATFORMS": "cuda", "PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(tmp_path)}
    words = [sys.executable, "-m", "dreamstyler_jax", "doctor"]
    done = subprocess.run(words, capture_output=True, text=True, env=environment, check=True)
    assert re.search(r"^problem: JAX finds no device: .*cuda.*; JAX_PLATFORMS=cpu in the", done.stdout, re.MULTILINE)
    assert "\ndevices:" not in done.stdout and "downloaded models: " in done.stdout and "Traceback" not in done.stderr


def test_a_folder_is_measured_without_counting_links_twice(tmp_path):
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / "a").write_bytes(bytes(2**20))
    (tmp_path / "link").symlink_to(tmp_path / "blobs" / "a")
    assert doctor.describe(tmp_path).startswith("1 file, 0.0 GiB")
    assert "none yet" in doctor.describe(tmp_path / "missing")


@pytest.mark.parametrize(("limit", "wanted"), [("1048576\n", 2**20), ("max\n", None), (f"{2**60}\n", None)])
@pytest.mark.parametrize("place", ["", "slurm", "slurm/job_1"])
def test_the_memory_of_a_container_or_a_job_is_its_limit(tmp_path, limit, wanted, place):
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("0::/slurm/job_1\n")
    (tmp_path / "sys/fs/cgroup/slurm/job_1").mkdir(parents=True)
    machine = doctor.main_memory(tmp_path)
    (tmp_path / "sys/fs/cgroup" / place / "memory.max").write_text(limit)
    assert doctor.main_memory(tmp_path) == (wanted or machine)


# What can be installed besides


def test_what_is_not_installed_is_named_with_its_command(capsys, monkeypatch):
    def version(package):
        if package in ("gcsfs", "wandb", "torch"):
            raise importlib.metadata.PackageNotFoundError(package)
        return "1.0"

    monkeypatch.setattr(importlib.metadata, "version", version)
    lines = [line for line in printed(capsys).splitlines() if line.startswith("not installed")]
    assert [line.split(", for ")[0] for line in lines] == [
        f"not installed: {package}" for package in ("torch", "gcsfs", "wandb")
    ]
    assert lines[1].endswith("folders in gs://: pip install 'dreamstyler-jax[gcs]'")


def test_every_extra_of_the_installation_for_users_is_looked_for():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    extras = setup["options.extras_require"]
    of_devices, of_developers = {"cuda", "cuda12", "cuda13", "rocm"}, {"test", "lint", "docs", "dev"}
    looked_for = {extra.name: extra for extra in doctor.EXTRAS if extra.name}
    assert looked_for.keys() == extras.keys() - of_devices - of_developers
    for name, extra in looked_for.items():
        installed = [re.split(r"[>=<~]", line)[0] for line in extras[name].split("\n") if line]
        assert set(extra.packages) <= {*installed, *(["libtpu"] if installed == ["jax[tpu]"] else [])}
        assert shlex.split(extra.command) == ["pip", "install", f"{setup['metadata']['name']}[{name}]"]
