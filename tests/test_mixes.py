"""The experiment with mixes of two painters."""

import json

import numpy as np
import pytest

from dreamstyler_jax.mini.studies import exam, experiments, mixes
from dreamstyler_jax.mini.studies.exam import Learning
from dreamstyler_jax.mini.studies.methods import EXPERIMENTS, Experiment, Method
from dreamstyler_jax.mini.world import captions
from dreamstyler_jax.style import Style

ACROSS = [Style(name, np.eye(4)[None, None, index]) for index, name in enumerate("ab")]


@pytest.mark.parametrize(("way", "halves"), [("first", (1, 0)), ("linear", (0.5, 0.5)), ("sphere", (0.5**0.5,) * 2)])
def test_half_of_each_is_on_the_line_or_on_the_circle_between_them(way, halves):
    table = mixes.mixed(*ACROSS, way).tables["clip_l"]
    np.testing.assert_allclose(table[0, 0], [*halves, 0, 0], atol=1e-6)


def test_another_painter_answers_the_same_questions():
    first, second = (exam.make_exam(painter, 2) for painter in (240, 245))
    answers = mixes.answered_by(first, 245)
    assert answers.truth.shape == first.truth.shape
    colours = [pictures.reshape(-1, 3).mean(0) for pictures in (first.truth, second.truth, answers.truth)]
    assert np.linalg.norm(colours[2] - colours[1]) < np.linalg.norm(colours[2] - colours[0])


def test_a_mix_is_as_far_as_from_the_farther_painter():
    first, second = (
        {"text": np.ones(2), "truth": np.ones(2), "distance": np.array(d)} for d in ([0.1, 0.5], [0.3, 0.2])
    )
    both = mixes.scores_of_both(first, second)
    np.testing.assert_allclose([both["distance"], both["farther"]], [[0.2, 0.35], [0.3, 0.5]])


def test_every_painter_is_mixed_with_the_next_one(tmp_path):
    painted = []

    def learn(model, exams, learning):
        shape = 1, 1, model.networks.text_widths["clip_l"]
        metadata = {"norm": learning.norm}
        return [Style("style", np.full(shape, of.painter, np.float32), metadata) for of in exams]

    def paint(model, texts, styles, guidance, seeds, **settings):
        painted.extend(style.tables["clip_l"].mean().item() - captions.PAINTERS for style in styles.values())
        return np.zeros((1, len(texts), seeds, 128, 128, 3), np.float32)

    config = experiments.ExperimentsConfig(
        output=str(tmp_path), painters=3, questions=2, seeds=1, train_steps=2, steps=2
    )
    trial = Experiment([Method("half", Learning(), mix="linear")], EXPERIMENTS["mixes"].pairs[:0])
    experiments.measure(experiments.Runner(config, learn=learn, paint=paint), {"trial": trial})
    assert painted == [0.5, 1.5, 1.0]
    (rows,) = json.loads((tmp_path / "results.json").read_text())["trial"].values()
    assert [set(row) for row in rows] == 3 * [{"text", "truth", "distance", "farther"}]
