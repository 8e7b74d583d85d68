"""The exam for methods of learning a style on the embedded model, and the experiments that use it."""

import functools
import json
from unittest.mock import create_autospec

import numpy as np
import pytest
from compilations import compilations
from PIL import Image

from dreamstyler_jax.evaluation import scores
from dreamstyler_jax.evaluation.clip import Clip
from dreamstyler_jax.guidance import cfg_guidance
from dreamstyler_jax.mini import judge
from dreamstyler_jax.mini.studies import exam, experiments, methods, requests, results
from dreamstyler_jax.mini.studies.exam import Learning
from dreamstyler_jax.mini.studies.methods import EXPERIMENTS, Experiment, Method
from dreamstyler_jax.mini.world import captions, data
from dreamstyler_jax.runtime import masks
from dreamstyler_jax.runtime.errors import UserError
from dreamstyler_jax.stable_diffusion.pipeline import EMBEDDED_MODEL, StableDiffusion
from dreamstyler_jax.style import Style

PAINTERS = (241, 245)
QUESTIONS = 4


@pytest.fixture(scope="module")
def model():
    return StableDiffusion.load("mini")


@pytest.fixture(scope="module")
def loaded_judge():
    return judge.LoadedJudge.load(EMBEDDED_MODEL / "judge")


@pytest.fixture(scope="module")
def evaluator(model, loaded_judge):
    return exam.Evaluator(model, Clip.load(EMBEDDED_MODEL / "clip"), loaded_judge)


@pytest.fixture(scope="module")
def exams():
    return [exam.make_exam(painter, QUESTIONS) for painter in PAINTERS]


@pytest.fixture
def unpainted(monkeypatch):
    """Exams whose pictures are noise, where only the questions or the order of work matter."""

    def noise(painters, keys, scene):
        return np.random.default_rng(0).random((len(keys), data.SIZE, data.SIZE, 3), np.float32)

    monkeypatch.setattr(data, "render", functools.partial(data.render, paint=noise))


def test_an_exam_is_always_the_same_and_asks_all_painters_alike(exams):
    again = exam.make_exam(PAINTERS[0], QUESTIONS)
    for a, b in zip(again, exams[0], strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(exams[0].questions[:, 1:], exams[1].questions[:, 1:])
    assert (exams[0].picture != exams[1].picture).any()


@pytest.mark.usefixtures("unpainted")
def test_no_question_asks_for_the_subject_of_the_training_picture():
    for painter in range(240, 250):
        of_painter = exam.make_exam(painter, questions=20)
        assert of_painter.label[0] not in of_painter.questions[:, 0]
        assert len(set(of_painter.questions[:, 0])) > 5


def test_the_truth_shows_the_questions_in_the_painters_style(exams, loaded_judge):
    for of_painter in exams:
        first, second = (loaded_judge.verdict(pictures) for pictures in of_painter.truth)
        assert judge.among_first(first.subject, of_painter.questions[:, 0]).mean() > 0.8
        assert judge.among_first(second.place, of_painter.questions[:, 2]).mean() > 0.8
        assert (of_painter.truth[0] != of_painter.truth[1]).any((1, 2, 3)).all()
    verdict, of_other_painter = (loaded_judge.verdict(of_painter.truth[0]) for of_painter in exams)
    again = loaded_judge.verdict(exams[0].truth[1])
    distance, to_other_painter = (judge.style_distance(verdict, other) for other in (again, of_other_painter))
    assert distance.mean() < to_other_painter.mean() - 0.2
    np.testing.assert_allclose(judge.style_distance(verdict, verdict), 0, atol=1e-6)


def test_photos_show_the_first_truth_with_everything_in_its_place(exams):
    for of_painter in exams:
        assert of_painter.photos.shape == of_painter.truth[0].shape
        first, second = (scores.structure_score(truth, of_painter.photos).mean() for truth in of_painter.truth)
        assert first > second + 20


def test_the_same_programs_learn_the_styles_of_all_painters(exams, model):
    learning = Learning(stages=2, steps=2, learning_rate=0.02)
    (first,) = exam.learn(model, exams[:1], learning)
    with compilations("advance") as compiled:
        (second,) = exam.learn(model, exams[1:], learning)
    assert compiled == []
    assert first.stages == 2 and first.name == "style" and first.hash != second.hash
    assert first.metadata["prompts"] == [captions.full_prompt(*exams[0].label)]
    (undescribed,) = exam.learn(model, exams[:1], learning._replace(context=False))
    assert undescribed.metadata["prompts"] == ["A painting in the style of {}"] and undescribed.hash != first.hash


def test_answers_are_in_the_order_of_guidance_prompts_and_seeds(model):
    a, b, weak, strong = "a painting of a red house", "a painting of a cat", cfg_guidance(2), cfg_guidance(5)
    answers = exam.paint_answers(model, [a, b, a], {}, [weak, strong], 2, steps=2)
    assert answers.shape == (2, 3, 2, 128, 128, 3)
    np.testing.assert_array_equal(answers[:, 0], answers[:, 2])
    other_order = exam.paint_answers(model, [b, a], {}, [strong, weak], 2, steps=2)
    np.testing.assert_allclose(other_order[0, 0], answers[1, 1], atol=1e-4)
    np.testing.assert_allclose(other_order[1, 1], answers[0, 0], atol=1e-4)
    assert np.abs(answers[0, 0, 0] - answers[0, 0, 1]).max() > 0.1


def test_the_controlnet_keeps_the_structure_of_photos(exams, model):
    of_painter = exams[0]
    texts = [f"a photo of {exam.describe(label)}" for label in of_painter.questions]
    settings = [(1.0, 0.0), (1.0, 1.0), (0.3, 0.0)]
    with_controlnet = model.with_controlnets([EMBEDDED_MODEL / "controlnet"])
    pictures = exam.repaint_photos(with_controlnet, texts, {}, of_painter.photos, settings, steps=8)
    assert pictures.shape == (3, QUESTIONS, 1, 128, 128, 3)
    free, controlled, weak = (scores.structure_score(answers[:, 0], of_painter.photos).mean() for answers in pictures)
    assert controlled > free + 5 and weak > free + 5


def test_the_truth_itself_has_the_best_scores(exams, evaluator):
    of_painter = exams[0]
    truth = evaluator.scores(of_painter, of_painter.truth[0][:, None])
    np.testing.assert_allclose(truth["truth"], 100, atol=1e-3)
    np.testing.assert_allclose(truth["distance"], 0, atol=1e-6)
    reversed_order = evaluator.scores(of_painter, of_painter.truth[0][::-1][:, None])
    assert reversed_order["truth"].mean() < 95 and reversed_order["text"].mean() < truth["text"].mean()
    assert reversed_order["subject"].mean() < truth["subject"].mean()
    copies = evaluator.scores(
        of_painter, np.broadcast_to(of_painter.picture, (QUESTIONS, 2, *of_painter.picture.shape))
    )
    np.testing.assert_allclose(copies["style"], 100, atol=1e-3)
    assert len(copies["style"]) == 2 * QUESTIONS and copies["leakage"].mean() == 100 and copies["subject"].mean() == 0


def test_copies_of_the_training_picture_are_recognised(exams, evaluator):
    of_painter, other = exams
    copies = evaluator.recognised(of_painter, np.broadcast_to(of_painter.picture, (3, *of_painter.picture.shape)))
    assert {name: shares.tolist() for name, shares in copies.items()} == {
        name: [100.0] * 3 for name in ("subject", "colour", "place", "time")
    }
    others = evaluator.recognised(of_painter, other.picture[None])
    assert [shares.item() == 100 for shares in others.values()] == (of_painter.label == other.label).tolist()


def test_among_first_counts_the_likeliest_answers():
    logits = np.array([[0.1, 0.9, 0.5], [3.0, 2.0, 1.0]])
    assert judge.among_first(logits, [1, 1]).tolist() == [True, False]
    assert judge.among_first(logits, [2, 1], 2).tolist() == [True, True]


def small(tmp_path, **changes):
    return experiments.ExperimentsConfig(
        output=str(tmp_path), **{"painters": 2, "questions": 2, "seeds": 1, "train_steps": 2, "steps": 2} | changes
    )


@pytest.mark.usefixtures("unpainted")
def test_a_prompt_that_names_nothing_is_painted_with_as_many_seeds(tmp_path):
    method = Method("unnamed", None, prompt=methods.BARE_PROMPT, trained=True)
    asked = []

    def paint(model, texts, styles, guidance, seeds, **settings):
        asked.append((texts, seeds))
        return np.zeros((len(guidance), len(texts), seeds, 128, 128, 3), np.float32)

    runner = experiments.Runner(small(tmp_path, seeds=3), paint=paint)
    experiments.measure(runner, {"leakage": Experiment([method], [])})
    assert asked == [([f"A painting in the style of {name}"], 6) for name in captions.PAINTER_NAMES[:2]]
    (rows,) = json.loads((tmp_path / "results.json").read_text())["leakage"].values()
    assert [set(row) for row in rows] == 2 * [{"subject", "colour", "place", "time"}]


def plain_answers(model, texts, styles, guidance, seeds, **settings):
    """Stands in for `exam.paint_answers`: grey pictures, one grey for each kind of guidance."""
    greys = np.linspace(-0.5, 0.5, len(guidance)).reshape(-1, 1, 1, 1, 1, 1)
    return np.broadcast_to(greys, (len(guidance), len(texts), seeds, data.SIZE, data.SIZE, 3))


@pytest.mark.usefixtures("unpainted")
def test_a_run_reports_every_method_and_continues_where_it_stopped(tmp_path, capsys):
    trial = Experiment(
        [
            Method("plain", Learning(stages=2)),
            Method("strong", Learning(stages=2), cfg_guidance(5)),
            methods.NO_INVERSION,
        ],
        [],
    )
    learned = []

    def learn(model, exams, learning):
        learned.append(([of_painter.painter for of_painter in exams], learning.stages, learning.steps))
        if len(learned) == 2:
            raise KeyboardInterrupt
        return exam.learn(model, exams, learning)

    paint = create_autospec(exam.paint_answers, side_effect=plain_answers)

    def run(**changes):
        runner = experiments.Runner(small(tmp_path, **changes), learn=learn, paint=paint)
        experiments.measure(runner, {"trial": trial})

    with pytest.raises(KeyboardInterrupt):
        run()
    run()
    run(shard="1/2", painters=4, together=2)
    names = {path.name for path in tmp_path.glob("marks-*/plain-*.json")}
    assert "plain-243.json" in names and "plain-242.json" not in names
    assert learned == [([240], 2, 2), ([241], 2, 2), ([241], 2, 2), ([243], 2, 2)]
    assert paint.call_count == 6, "two programs for three painters, none of them twice"
    written = json.loads((tmp_path / "results.json").read_text())["trial"]
    assert {name: len(rows) for name, rows in written.items()} == {"plain": 2, "strong": 2, "no inversion": 2}
    assert written["plain"] != written["strong"]
    assert (tmp_path / "trial.png").exists()
    table = capsys.readouterr().out
    assert all(f"| {name} |" in table for name in written)


@pytest.mark.usefixtures("unpainted")
def test_painters_asked_together_score_as_if_alone(tmp_path):
    learning = Learning(stages=2, init_word="mosaic")
    asked = {"scenes": {}, "nothing": {"prompt": methods.BARE_PROMPT}, "requests": {"asked": 5}}
    trial = {"trial": Experiment([Method(name, learning, **settings) for name, settings in asked.items()], [])}
    alone, both = [], []
    for together, found in ((1, alone), (2, both)):
        folder = tmp_path / str(together)
        experiments.measure(experiments.Runner(small(folder, together=together)), trial)
        results = json.loads((folder / "results.json").read_text())["trial"]
        found += [list(row.values()) for name in asked for row in results[name]]
    assert len(alone) == 6 and alone[0] != alone[1]
    for one, other in zip(alone, both, strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-3, atol=1e-3)


def test_differences_are_paired():
    def rows(*values):
        return [{"text": value} for value in values]

    measured = {"a": rows(0.1, 0.9), "b": rows(0.0, 0.8)}
    assert "| a | 0.50 ± 5.08 |" in results.table(measured)
    differences = results.table(results.differences(measured, [("b", "a")]))
    assert differences.splitlines()[-1] == "| b, more than a | -0.10 ± 0.00 |"


def test_a_corner_is_painted_over_and_masked():
    picture = Image.new("RGB", (8, 8), "white")
    covered = exam.with_corner(picture.copy(), "covered")
    assert np.asarray(exam.with_corner(picture.copy(), "own")).min() == 255
    assert (np.asarray(covered)[4:, 4:] == (255, 0, 255)).all()
    assert (np.asarray(covered) != 255).any(-1).sum() == 16
    masked = exam.with_corner(picture.copy(), "masked")
    np.testing.assert_array_equal(masks.visible(masked), (np.asarray(covered) == 255).all(-1))


def test_requests_ask_for_one_thing_more_each_and_the_judge_counts_what_it_sees():
    questions = np.array([[1, 2, 3, 0], [4, 0, 1, 2]])
    texts = [requests.in_words(requests.requests(questions, count)[1], "{}") for count in range(1, 7)]
    words = [len(text.split()) for text in texts]
    assert words == sorted(words) and len(set(texts)) == 6
    assert texts[3] == f"A painting of {exam.describe(questions[1])} in the style of {{}}"
    assert texts[5].startswith(texts[4]) and texts[5].endswith("colours")
    everything = requests.requests(questions, 6)
    logits = {name: np.eye(12)[answers] for name, answers in zip(requests.ASKED_FOR, everything.T, strict=True)}
    verdict = judge.Verdict(**dict.fromkeys(judge.Verdict._fields, np.zeros((2, 12))) | logits)
    for count in range(1, 7):
        assert requests.obeyed(verdict, everything[:, :count]).tolist() == [100.0, 100.0]
    wrong = everything + np.array([[0], [1]]) * (np.arange(6) < 3)
    assert requests.obeyed(verdict, wrong).tolist() == [100.0, 50.0]


def test_a_run_says_for_its_methods_what_they_leave_open(tmp_path):
    learned = []

    def learn(model, exams, learning):
        learned.append((learning.norm, learning.steps, learning.learning_rate))
        return [Style("style", np.full((1, 1, model.networks.text_widths["clip_l"]), len(learned)))]

    def paint(model, texts, styles, guidance, seeds, **settings):
        return np.zeros((len(guidance), len(texts), seeds, 128, 128, 3), np.float32)

    trial = Experiment([Method("a", Learning()), Method("b", Learning(norm="fixed", steps=7), asked=6)], [])
    config = small(tmp_path, learning_rate=0.03)
    experiments.measure(experiments.Runner(config, learn=learn, paint=paint), {"trial": trial})
    assert set(learned) == {("free", 2, 0.03), ("fixed", 7, 0.03)}
    rows = json.loads((tmp_path / "results.json").read_text())["trial"]
    assert "obeyed" in rows["b"][0] and "obeyed" not in rows["a"][0]


def test_every_pair_is_of_methods_that_are_measured_on_the_same_painters():
    for name, experiment in EXPERIMENTS.items():
        trained = {method.name: method.trained for method in experiment.methods}
        of_pairs = {trained[one] for pair in experiment.pairs for one in pair if one != methods.PAINTERS_OWN}
        assert of_pairs == {False}, name


@pytest.mark.parametrize("wrong", [{"painters": 33}, {"experiments": ["stage"]}, {"shard": "2/2"}])
def test_impossible_experiments_are_refused(tmp_path, wrong):
    with pytest.raises(UserError, match=next(iter(wrong))):
        small(tmp_path, **wrong)
