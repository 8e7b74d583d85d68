"""What the tests of ``dreamstyler sample`` share: a tiny model, three random styles, a grid of 32 pictures."""

import pytest
from sample_tools import eight, write_style
from script_tools import run, write_picture

from dreamstyler_jax.commands import sample


@pytest.fixture(scope="module", autouse=True)
def programs_of_the_file(one_compilation):
    """Every file here runs the command often."""


@pytest.fixture(scope="module")
def styles(tmp_path_factory):
    """A folder with runs of three styles; the training picture of gogh exists."""
    folder = tmp_path_factory.mktemp("runs")
    picture = write_picture(folder / "starry.png", 0)
    write_style(folder / "gogh", "gogh", images=[str(picture)])
    write_style(folder / "wave", "wave", vectors=2, seed=1)
    write_style(folder / "monet", "monet", seed=2)
    return folder


@pytest.fixture(scope="module")
def words(tiny_folder):
    """The options for three steps of the model."""
    return ["--model", tiny_folder, "--steps", 3]


@pytest.fixture(scope="module")
def command(words, styles):
    """The options of a grid of 32 pictures, without its folder."""
    text = "a painting of a {red house|small dog} in the style of {}"
    return [*eight(words, styles, "gogh", "wave"), "--prompts", text]


@pytest.fixture(scope="module")
def undisturbed(command, tmp_path_factory):
    """The folder of a grid of 32 pictures that was never interrupted; not to be changed."""
    folder = tmp_path_factory.mktemp("out") / "undisturbed"
    run(sample, *command, "--output", folder)
    return folder
