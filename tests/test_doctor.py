"""What `dreamstyler doctor` says."""

import jax
import pytest

from dreamstyler_jax.commands import doctor


def test_it_says_what_it_sees(capsys):
    doctor.run(doctor.DoctorConfig())
    said = capsys.readouterr().out
    assert f"jax {jax.__version__}" in said
    assert f"{jax.local_device_count()} x cpu" in said
    assert all(model in said for model in doctor.NEEDS)
    assert "Traceback" not in said and len(said.splitlines()) < 20


@pytest.mark.parametrize(("needed", "fits"), [(15.9, True), (16.1, False)])
def test_what_needs_less_than_a_device_has_fits(needed, fits):
    assert doctor.verdict(needed, 16 * doctor.GIB).endswith("(fits)") == fits


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
    def about_jax(environment):
        return [problem for problem in doctor.problems(tmp_path, environment) if "pip install" in problem]

    assert about_jax({}) == []
    (tmp_path / sign).parent.mkdir(parents=True)
    (tmp_path / sign).touch()
    (problem,) = about_jax({})
    assert f"jax[{extra}]" in problem
    assert about_jax({"JAX_PLATFORMS": "cpu"}) == []


def test_a_folder_is_measured_without_counting_links_twice(tmp_path):
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / "a").write_bytes(bytes(2**20))
    (tmp_path / "link").symlink_to(tmp_path / "blobs" / "a")
    assert doctor.describe(tmp_path).startswith("1 files, 0.0 GiB")
    assert "none yet" in doctor.describe(tmp_path / "missing")
