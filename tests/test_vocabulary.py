"""The words that the embedded model knows, and the warning about others."""

import re
import shlex
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from docs_tools import commands_of

from dreamstyler_jax.choices import Template
from dreamstyler_jax.commands.config import EXAMPLE_PROMPTS, SampleConfig, TrainConfig
from dreamstyler_jax.commands.config_files import read_config
from dreamstyler_jax.mini.shipped import EXAMPLE_PICTURE
from dreamstyler_jax.mini.vocabulary import known_words, unknown_words, warn_of_unknown_words
from dreamstyler_jax.mini.world import captions, scenes
from dreamstyler_jax.mini.world.manners import MANNERS
from dreamstyler_jax.train_settings import BARE_PROMPTS

ROOT = Path(__file__).parent.parent
FILES = [ROOT / "configs/mini.yaml", *sorted((ROOT / "configs/grids").glob("*.yaml"))]
PROMPTS = [
    *EXAMPLE_PROMPTS,
    *BARE_PROMPTS.values(),
    EXAMPLE_PICTURE.with_suffix(".txt").read_text(),
    (ROOT / "examples/city.txt").read_text(),
]


def test_words_outside_of_the_captions_are_unknown():
    assert unknown_words(["a dog"]) == ["dog"]
    assert unknown_words(["a harbor"]) == ["harbor"]
    assert unknown_words(["A Dog near the dog's {{kennel}}, {dog}"]) == ["dog", "near", "s", "kennel"]
    assert unknown_words([f"a painting in the style of {captions.PAINTER_NAMES[-1]}"]), "held out from the training"


def test_the_words_of_every_caption_are_known():
    for painter in (0, captions.PHOTOGRAPH, captions.NAMELESS):
        for seed in range(100):
            rng = np.random.default_rng(seed)
            scene, manner = (
                rng.integers([len(words) for words in many]) for many in (scenes.ATTRIBUTES.values(), MANNERS)
            )
            assert unknown_words([captions.caption(rng, [*scene, painter, *manner])]) == []


@pytest.mark.parametrize("prompt", PROMPTS)
def test_the_prompts_of_the_examples_are_known(prompt):
    assert unknown_words([prompt]) == []


def test_the_prompts_of_the_documentation_are_known():
    pages = [ROOT / "README.md", ROOT / "PACKAGE.md", *(ROOT / "docs").glob("*.md")]
    commands = [shlex.split(command.text) for page in pages for command in commands_of(page) if not command.needs]
    prompts = [word for words in commands for word in words if " " in word and "{" in word]
    assert len(prompts) > 8

    assert unknown_words(version for prompt in prompts for version in Template.read(prompt).versions()) == []


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_the_prompts_of_the_config_files_are_known(file):
    prompts = read_config(TrainConfig, file).prompts + read_config(SampleConfig, file).prompts
    assert unknown_words(version for prompt in prompts for version in Template.read(prompt).versions()) == []


def test_the_warning_is_one_line_with_unknown_words_and_known_subjects():
    with pytest.warns(UserWarning) as caught:
        warn_of_unknown_words("mini", ["a dog in a harbor by {gogh}", "a house"])
    (warning,) = caught
    assert "does not know dog, harbor; it paints house, tree," in str(warning.message)
    assert "docs/mini.md" in str(warning.message) and "\n" not in str(warning.message)


def test_other_models_are_not_checked():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_unknown_words("runwayml/stable-diffusion-v1-5", ["a dog"])
        warn_of_unknown_words("mini", ["a house in the snow"])


def test_the_vocabulary_does_not_import_jax_until_it_is_used():
    code = "import sys, dreamstyler_jax.mini.vocabulary; print('jax' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True, cwd=ROOT) == "False\n"


def test_the_document_lists_all_words_but_the_names():
    text = (ROOT / "docs" / "mini.md").read_text(encoding="utf-8").split("## Its parts")[0].lower()
    assert known_words() - set(captions.PAINTER_NAMES) <= set(re.findall("[a-z]+", text))


def test_known_words_are_lower_case():
    assert known_words() == {word.lower() for word in known_words()}
