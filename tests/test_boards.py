"""Weights & Biases, played by a module in memory."""

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace

import pytest
from PIL import Image

from dreamstyler_jax.commands.boards import RUN_ID, WeightsAndBiases, require_wandb
from dreamstyler_jax.runtime.errors import UserError


class Run:
    def __init__(self, options):
        self.options, self.logged, self.status = options, [], None

    def log(self, values, step):
        self.logged.append((step, values))

    def finish(self, exit_code):
        self.status = exit_code


@pytest.fixture
def runs(monkeypatch):
    """The runs that are begun at Weights & Biases."""
    begun = []
    module = ModuleType("wandb")
    module.__spec__ = ModuleSpec("wandb", None)

    def init(**options):
        begun.append(Run(options))
        return begun[-1]

    vars(module).update(init=init, Image=lambda picture: ("picture", picture.size))
    vars(module).update(errors=SimpleNamespace(Error=RuntimeError))
    monkeypatch.setitem(sys.modules, "wandb", module)
    return begun


def test_it_is_shown_settings_numbers_and_pictures(tmp_path, runs):
    board = WeightsAndBiases(tmp_path, "styles", "boat", {"steps": 200})
    board.numbers(10, {"loss": 0.5, "stage_loss/0": 0.25})
    board.picture(10, "previews", Image.new("RGB", (6, 4)))
    board.close(failed=False)
    (run,) = runs
    assert run.options["project"] == "styles" and run.options["name"] == "boat"
    assert run.options["config"] == {"steps": 200} and run.options["dir"] == str(tmp_path)
    assert run.logged == [(10, {"loss": 0.5, "stage_loss/0": 0.25}), (10, {"previews": ("picture", (6, 4))})]
    assert run.status == 0


def test_a_resumed_run_is_the_same_one_there(tmp_path, runs):
    for folder in ("boat", "boat", "cat"):
        (tmp_path / folder).mkdir(exist_ok=True)
        WeightsAndBiases(tmp_path / folder, "styles", folder, {}).close(failed=True)
    first, again, other = (run.options["id"] for run in runs)
    assert first == again == (tmp_path / "boat" / RUN_ID).read_text() != other
    assert {run.options["resume"] for run in runs} == {"allow"} and runs[0].status == 1


def test_a_missing_package_and_a_missing_login_say_what_to_do(tmp_path, runs, monkeypatch):
    def refuse(**options):
        raise RuntimeError("no API key configured")

    monkeypatch.setattr(sys.modules["wandb"], "init", refuse)
    with pytest.raises(UserError, match="no API key configured: run wandb login, or set WANDB_MODE=offline"):
        WeightsAndBiases(tmp_path, "styles", "boat", {})
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match="wandb: the package of Weights & Biases is not installed: pip install wandb"):
        require_wandb("styles")
    require_wandb("")
