"""The examination of styles on the embedded model, and the experiments made of it."""

import json

import numpy as np
import pytest

from dreamstyler_jax.evaluation import scores
from dreamstyler_jax.mini import judge
from dreamstyler_jax.mini.studies import exam, experiments
from dreamstyler_jax.mini.studies.exam import Lesson
from dreamstyler_jax.mini.world import captions
from dreamstyler_jax.runtime.errors import UserError
from dreamstyler_jax.stable_diffusion.pipeline import EMBEDDED_MODEL, StableDiffusion

PAINTERS = (241, 245)


@pytest.fixture(scope="module")
def model():
    return StableDiffusion.load("mini")


@pytest.fixture(scope="module")
def referee():
    return judge.Referee.load(EMBEDDED_MODEL / "judge")


@pytest.fixture(scope="module")
def exams():
    return [exam.set_exam(painter, questions=6) for painter in PAINTERS]


def test_an_exam_is_always_the_same_and_asks_all_painters_alike(exams):
    again = exam.set_exam(PAINTERS[0], questions=6)
    for a, b in zip(again, exams[0], strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(exams[0].questions[:, 1:], exams[1].questions[:, 1:])
    assert (exams[0].picture != exams[1].picture).any()


def test_no_question_asks_for_the_subject_that_was_given():
    for painter in range(240, 250):
        some = exam.set_exam(painter, questions=20)
        assert some.label[0] not in some.questions[:, 0]
        assert len(set(some.questions[:, 0])) > 5


def test_the_truth_shows_what_was_asked_for_in_the_painters_manner(exams, referee):
    for some in exams:
        first, second = (referee.verdict(pictures) for pictures in some.truth)
        assert judge.among_first(first.subject, some.questions[:, 0]).mean() > 0.8
        assert judge.among_first(second.place, some.questions[:, 2]).mean() > 0.8
        assert (some.truth[0] != some.truth[1]).any((1, 2, 3)).all()
    ours, other = (referee.verdict(some.truth[0]) for some in exams)
    again = referee.verdict(exams[0].truth[1])
    assert judge.style_distance(ours, again).mean() < judge.style_distance(ours, other).mean() - 0.2
    np.testing.assert_allclose(judge.style_distance(ours, ours), 0, atol=1e-6)


def test_photos_show_what_the_first_truth_does_in_the_same_places(exams):
    for some in exams:
        assert some.photos.shape == some.truth[0].shape
        first, second = (scores.structure_score(pictures, some.photos).mean() for pictures in some.truth)
        assert first > second + 20


def test_the_controlnet_keeps_the_structure_of_photos(exams, model):
    repainter = model.with_controlnets([EMBEDDED_MODEL / "controlnet"])
    some = exams[0]
    texts = [f"a photo of {exam.describe(label)}" for label in some.questions]
    asked = [(1.0, 0.0), (1.0, 1.0), (0.3, 0.0)]
    painted = exam.repaint(repainter, texts, {}, some.photos, asked, steps=8)[:, :, 0]
    without, controlled, little = (scores.structure_score(pictures, some.photos).mean() for pictures in painted)
    assert controlled > without + 5 and little > without + 5


def test_marks_are_best_for_the_truth_itself(exams, model, referee):
    examiner = exam.Examiner(model, scores.Clip.load(EMBEDDED_MODEL / "clip"), referee)
    some = exams[0]
    truth = examiner.marks(some, some.truth[0][:, None])
    np.testing.assert_allclose(truth["truth"], 100, atol=1e-3)
    np.testing.assert_allclose(truth["distance"], 0, atol=1e-6)
    mixed = examiner.marks(some, some.truth[0][::-1][:, None])
    assert mixed["truth"].mean() < 95 and mixed["text"].mean() < truth["text"].mean()
    assert mixed["subject"].mean() < truth["subject"].mean()
    copied = examiner.marks(some, np.broadcast_to(some.picture, (6, 2, *some.picture.shape)))
    np.testing.assert_allclose(copied["style"], 100, atol=1e-3)
    assert len(copied["style"]) == 12 and copied["leakage"].mean() == 100 and copied["subject"].mean() == 0


def test_what_is_seen_again_is_what_the_picture_shows(exams, model, referee):
    examiner = exam.Examiner(model, None, referee)
    some, other = exams
    copied = examiner.seen_again(some, np.broadcast_to(some.picture, (3, *some.picture.shape)))
    assert {name: marks.tolist() for name, marks in copied.items()} == {
        name: [100.0] * 3 for name in ("subject", "colour", "place", "time")
    }
    apart = examiner.seen_again(some, other.picture[None])
    assert [marks.item() == 100 for marks in apart.values()] == (some.label == other.label).tolist()


def test_a_prompt_that_names_nothing_is_painted_with_as_many_seeds(tmp_path, monkeypatch):
    method = experiments.Method("unnamed", None, prompt=experiments.UNNAMED, trained=True)
    monkeypatch.setattr(experiments, "EXPERIMENTS", {"leakage": [method]})
    monkeypatch.setattr(experiments, "PAIRS", {})
    asked = []

    def paint(model, texts, styles, weights, seeds, steps, limits, cache_interval):
        asked.append((texts, seeds))
        return np.zeros((len(weights), len(texts), seeds, 64, 64, 3), np.float32)

    monkeypatch.setattr(experiments, "paint", paint)
    experiments.run(small(tmp_path, experiments=["leakage"], seeds=3))
    assert asked == [([f"A painting in the style of {name}"], 6) for name in captions.PAINTER_NAMES[:2]]
    (rows,) = json.loads((tmp_path / "results.json").read_text())["leakage"].values()
    assert [set(row) for row in rows] == 2 * [{"subject", "colour", "place", "time"}]


def test_among_first_counts_the_likeliest():
    logits = np.array([[0.1, 0.9, 0.5], [3.0, 2.0, 1.0]])
    assert judge.among_first(logits, [1, 1]).tolist() == [True, False]
    assert judge.among_first(logits, [2, 1], 2).tolist() == [True, True]


def small(tmp_path, **changes):
    return experiments.ExperimentsConfig(
        output=str(tmp_path), **{"painters": 2, "questions": 2, "seeds": 1, "train_steps": 2, "steps": 2} | changes
    )


def test_a_run_reports_every_method_and_goes_on_where_it_stopped(tmp_path, monkeypatch, capsys):
    methods = [
        experiments.Method("plain", Lesson(stages=2)),
        experiments.Method("strong", Lesson(stages=2), (-4.0, 5.0, 0.0, 0.0)),
        experiments.NO_INVERSION,
    ]
    monkeypatch.setattr(experiments, "EXPERIMENTS", {"trial": methods})
    taught = []

    def learn(model, some, lesson, learn=exam.learn):
        taught.append((some.painter, lesson.stages, lesson.steps))
        if len(taught) == 2:
            raise KeyboardInterrupt
        return learn(model, some, lesson)

    monkeypatch.setattr(experiments, "learn", learn)
    with pytest.raises(KeyboardInterrupt):
        experiments.run(small(tmp_path, experiments=["trial"]))
    experiments.run(small(tmp_path, experiments=["trial"]))
    experiments.run(small(tmp_path, experiments=["trial"], shard="1/2", painters=4))
    names = {path.name for path in tmp_path.glob("marks-*/plain-*.json")}
    assert "plain-243.json" in names and "plain-242.json" not in names
    assert taught.pop() == (243, 2, 2)
    assert taught == [(240, 2, 2), (241, 2, 2), (241, 2, 2)]
    results = json.loads((tmp_path / "results.json").read_text())["trial"]
    assert {name: len(rows) for name, rows in results.items()} == {"plain": 2, "strong": 2, "no inversion": 2}
    assert results["plain"] != results["strong"]
    assert (tmp_path / "trial.png").exists()
    table = capsys.readouterr().out
    assert all(f"| {name} |" in table for name in results)


def test_gains_are_paired():
    rows = lambda *values: [{"text": value} for value in values]  # noqa: E731
    results = {"a": rows(0.1, 0.9), "b": rows(0.0, 0.8)}
    assert "| a | 0.50 ± 5.08 |" in experiments.table(results)
    gains = experiments.table(experiments.gains(results, [("b", "a")]))
    assert gains.splitlines()[-1] == "| b, more than a | -0.10 ± 0.00 |"


def test_every_pair_is_of_methods_that_are_measured_on_the_same_painters():
    for name, pairs in experiments.PAIRS.items():
        methods = {method.name: method for method in experiments.EXPERIMENTS[name]}
        of_trained = {methods[one].trained for pair in pairs for one in pair if one != "painter's own"}
        assert of_trained == {False}, name


@pytest.mark.parametrize("wrong", [{"painters": 33}, {"experiments": ["stage"]}, {"shard": "2/2"}])
def test_impossible_experiments_are_refused(tmp_path, wrong):
    with pytest.raises(UserError, match=next(iter(wrong))):
        small(tmp_path, **wrong)
