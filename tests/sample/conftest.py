"""Tests of ``dreamstyler sample``: a tiny model, three random styles, and a grid of 32 pictures painted in them."""

import pytest
from sample_tools import grid_command, words_for, write_styles
from script_tools import compilation_cache, run

from dreamstyler_jax.commands import sample


@pytest.fixture(scope="module", autouse=True)
def one_compilation(tmp_path_factory):
    """Lets the runs of a file, in this process and in others, share compiled programs."""
    with compilation_cache(tmp_path_factory.mktemp("compiled")):
        yield


@pytest.fixture(scope="module")
def styles(tmp_path_factory):
    return write_styles(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def words(tiny_folder):
    return words_for(tiny_folder)


@pytest.fixture(scope="module")
def command(words, styles):
    return grid_command(words, styles)


@pytest.fixture(scope="module")
def undisturbed(command, tmp_path_factory):
    """The folder of a grid of 32 pictures that was never interrupted; not to be changed."""
    folder = tmp_path_factory.mktemp("out") / "undisturbed"
    run(sample, *command, "--output", folder)
    return folder
