"""What the installed package has to carry besides its modules."""

import importlib.resources
from pathlib import Path

import pytest
import yaml

import dreamstyler_jax

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = [
    path.relative_to(ROOT / "configs")
    for path in sorted((ROOT / "configs").rglob("*"))
    if path.suffix in (".txt", ".yaml")
]


@pytest.mark.parametrize("path", CONFIGS, ids=str)
def test_configs_are_in_the_package(path):
    packaged = importlib.resources.files("dreamstyler_jax.configs").joinpath(*path.parts)
    assert packaged.read_text(encoding="utf-8") == (ROOT / "configs" / path).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "path",
    [
        "py.typed",
        "grids/page/index.html",
        "mini/model/unet/config.json",
        "stable_diffusion/single_files/clip/bpe_simple_vocab_16e6.txt.gz",
        "stable_diffusion/single_files/clip/LICENSE.clip",
    ],
)
def test_data_is_in_the_package(path):
    assert importlib.resources.files("dreamstyler_jax").joinpath(*path.split("/")).is_file()


def test_the_version_is_the_same_everywhere_it_is_written():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    headings = [line for line in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8").splitlines() if "## [" in line]
    assert citation["version"] == dreamstyler_jax.__version__
    assert headings[0] == f"## [{dreamstyler_jax.__version__}] - {citation['date-released']}"
