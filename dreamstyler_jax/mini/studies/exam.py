"""An exam for methods of learning a style, on the embedded model: the picture to learn from, the questions, the scores.

Each painter gives one picture. A method learns a style from it and paints prompts; the painter's own pictures of the
same prompts are the truth. Everything is deterministic: all methods get the same pictures, prompts and noise.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np
from PIL import Image

from dreamstyler_jax import api
from dreamstyler_jax.evaluation import scores
from dreamstyler_jax.evaluation.clip import Clip
from dreamstyler_jax.guidance import CONSTANT, Guidance, cfg
from dreamstyler_jax.mini.judge import LoadedJudge, Verdict, style_distance
from dreamstyler_jax.mini.studies.requests import obeyed
from dreamstyler_jax.mini.studies.training_captions import TRAINING_CAPTIONS
from dreamstyler_jax.mini.world import captions, data, scenes
from dreamstyler_jax.painting import Request, paint_requests
from dreamstyler_jax.prompts import guidance_prompts
from dreamstyler_jax.runtime import images
from dreamstyler_jax.sampling import plan_steps
from dreamstyler_jax.solvers import solver_table
from dreamstyler_jax.stable_diffusion.pipeline import StableDiffusion, model_folder
from dreamstyler_jax.style import Style
from dreamstyler_jax.train_settings import AUTO_WORD, BARE_PROMPTS, TrainSettings, suited
from dreamstyler_jax.training import Lesson, begin, prepare, style_in, train
from dreamstyler_jax.transfer import ContentEncoder, Net, make_content

SCALE = 3.5  # of classifier-free guidance
SOLVER = "dpmpp_2m"
BATCH_SIZE = 8  # as in `check`
STEPS_AT_ONCE = 10  # of training: one program for all numbers of steps
EDGES = Net("edges", 1.0, "")  # the ControlNet of the embedded model
_FIRST_KEY = 2_000_000  # beyond the chunks of the training set


class Exam(NamedTuple):
    """One painter's exam, with pictures float32[..., 128, 128, 3] in [-1, 1].

    Attributes:
        painter: the painter's number.
        label: int[4], what the training picture shows, see `scenes.ATTRIBUTES`.
        picture: the training picture.
        questions: int[Q, 4], the scenes to paint; none has the subject of the training picture.
        truth: [2, Q, 128, 128, 3], two pictures of each question by the painter.
        photos: [Q, 128, 128, 3], the scenes of ``truth[0]``, not painted.
    """

    painter: int
    label: np.ndarray
    picture: np.ndarray
    questions: np.ndarray
    truth: np.ndarray
    photos: np.ndarray


def make_exam(painter: int, questions: int, seed: int = 0) -> Exam:
    """The exam of a painter, held-out or trained, with so many questions."""
    key = jax.random.fold_in(jax.random.key(seed), _FIRST_KEY + painter)
    k_scene, k_picture, k_truth, k_strokes = jax.random.split(key, 4)
    learned_from = data.render(k_picture, data.by_number(np.full(1, painter)), scenes.sample(k_scene, (1,)))
    asked = scenes.sample(jax.random.key(seed + 77), (questions,))
    count = len(scenes.SUBJECTS)
    subject = (learned_from.labels[0, 0] + 1 + asked.subject % (count - 1)) % count
    twice = (np.tile(attribute, 2) for attribute in (subject, asked.colour, asked.place, asked.time))
    scene = scenes.showing(k_truth, *twice)  # type: ignore[arg-type]  # NumPy's arrays do as well
    truth = data.render(k_strokes, data.by_number(np.full(2 * questions, painter)), scene)
    scene_of_first = jax.tree.map(lambda attribute: attribute[:questions], scene)
    photos = data.render(k_strokes, data.by_number(np.full(questions, captions.PHOTOGRAPH)), scene_of_first)
    return Exam(
        painter=painter,
        label=learned_from.labels[0, :4],
        picture=images.to_unit(learned_from.pixels[0]),
        questions=truth.labels[:questions, :4],
        truth=images.to_unit(truth.pixels).reshape(2, questions, *truth.pixels.shape[1:]),
        photos=images.to_unit(photos.pixels),
    )


def describe(label: np.ndarray) -> str:
    """A scene int[4] in words that name all of its attributes."""
    subject, colour, place, time = map(int, label)
    return captions.describe(subject, colour, place, time)


class Learning(NamedTuple):
    """How a style is learned; hashable.

    Attributes:
        stages, vectors, init_word, batch_size, norm, prior, average, framing, flip, timesteps, layers: as in
            `TrainSettings`.
        steps, learning_rate: likewise; None for those that all methods share.
        context: whether the training prompt describes the picture.
        caption: how it does, one of `TRAINING_CAPTIONS`.
        corner: what becomes of the picture's lower right quarter: "own" leaves it, "covered" paints it over with a
            colour of no painter, "masked" also masks it.
    """

    stages: int = 6
    vectors: int = 1
    init_word: str = AUTO_WORD
    context: bool = True
    caption: str = "true"
    steps: int | None = None
    batch_size: int = 8
    learning_rate: float | None = None
    norm: str = "free"
    prior: float = 0.0
    average: float = 0.0
    framing: str = "crop"
    flip: bool = False
    timesteps: str = "uniform"
    layers: str = "shared"
    corner: str = "own"


def learn(model: StableDiffusion, exams: Sequence[Exam], learning: Learning) -> list[Style]:
    """Learns the styles of exams' pictures together, each as if it were alone. The same programs serve all painters."""
    given = {name: value for name, value in learning._asdict().items() if value is not None}
    described, caption, corner = given.pop("context"), TRAINING_CAPTIONS[given.pop("caption")], given.pop("corner")
    settings = suited(TrainSettings(**given), model.networks.text_config.hidden_size)

    def lesson(exam: Exam) -> Lesson:
        picture = images.to_image(exam.picture)
        prompt = caption(exam.label, picture, model_folder(model.name)) if described else BARE_PROMPTS["style"]
        return prepare(model, "style", {"picture": with_corner(picture, corner)}, [prompt], settings)

    lessons = list(map(lesson, exams))
    states = [begin(of_painter, settings) for of_painter in lessons]
    for chunk in train(model, lessons, settings, states, lambda done: done + STEPS_AT_ONCE):
        states = chunk.states
    return [style_in(of_painter.style, state) for of_painter, state in zip(lessons, states, strict=True)]


def with_corner(picture: Image.Image, corner: str) -> Image.Image:
    """A picture with another lower right quarter, see `Learning`."""
    quarter = (picture.width // 2, picture.height // 2, picture.width, picture.height)
    if corner != "own":
        picture.paste("magenta", quarter)
    if corner == "masked":
        picture.putalpha(255)
        picture.paste((0, 0, 0, 0), quarter)
    return picture


def paint_answers(
    model: StableDiffusion,
    texts: Sequence[str],
    styles: Mapping[str, Style],
    guidance: Sequence[Guidance],
    seeds: int,
    *,
    steps: int,
    batch_size: int = BATCH_SIZE,
    guidance_span: tuple[float, float] = (0.0, 1.0),
    guidance_schedule: str = CONSTANT,
    cache_interval: int = 1,
) -> np.ndarray:
    """Paints each of Q prompts with each of G kinds of guidance and so many seeds; arguments as of `api.paint`.

    Returns:
        float32[G, Q, seeds, 128, 128, 3] in [-1, 1].
    """
    distinct = list(dict.fromkeys(texts))
    pictures = api.paint(
        model,
        distinct,
        styles,
        seeds=range(seeds),
        guidance=guidance,
        solver=SOLVER,
        steps=steps,
        guidance_span=guidance_span,
        guidance_schedule=guidance_schedule,
        cache_interval=cache_interval,
        batch_size=batch_size,
        progress=False,
    )
    pixels = np.clip(np.stack([picture.pixels for picture in pictures]), -1, 1)
    by_prompt = pixels.reshape(len(distinct), len(guidance), seeds, *pixels.shape[1:])
    return by_prompt[[distinct.index(text) for text in texts]].swapaxes(0, 1)


def repaint_photos(
    model: StableDiffusion,
    texts: Sequence[str],
    styles: Mapping[str, Style],
    photos: np.ndarray,
    settings: Sequence[tuple[float, float]],
    steps: int,
    batch_size: int = BATCH_SIZE,
) -> np.ndarray:
    """Repaints photos [Q, 128, 128, 3] in [-1, 1], each after its own prompt.

    Args:
        model: with the ControlNet `EDGES`.
        texts: Q prompts.
        styles: as of `paint_requests`.
        photos: what to repaint.
        settings: S pairs of strength and conditioning scale of the ControlNet.
        steps: solver steps at strength 1; a lower strength takes its share of them.
        batch_size: pictures computed at once.

    Returns:
        float32[S, Q, 1, 128, 128, 3] in [-1, 1].
    """
    contents = [
        make_content(images.to_image(photo), f"photo {number}", model.resolution, model.multiple)
        for number, photo in enumerate(photos)
    ]
    encoder = ContentEncoder(model, [EDGES])
    repainted = []
    for strength, control_scale in settings:
        plan = plan_steps(solver_table(SOLVER, model.networks.schedule, steps, strength=strength))
        scales = encoder.control_scales(control_scale, (0.0, 1.0), plan.steps)
        requests = [
            Request(guidance_prompts(text), cfg(SCALE), number, content, scales)
            for number, (text, content) in enumerate(zip(texts, contents, strict=True))
        ]
        size = model.size(None, None)
        painted = paint_requests(model, requests, styles, plan, size=size, batch_size=batch_size, encoder=encoder)
        repainted.append(list(painted))
    return np.clip(np.array(repainted), -1, 1)[:, :, None]


class Evaluator:
    """Scores what a method painted.

    Args:
        model: its autoencoder computes the style scores.
        clip: compares pictures with prompts.
        judge: recognises subjects and painters.
    """

    def __init__(self, model: StableDiffusion, clip: Clip, judge: LoadedJudge):
        self._model, self._clip, self._judge = model, clip, judge

    def scores(self, exam: Exam, pictures: np.ndarray, asked: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """Scores answers to all questions of an exam.

        Args:
            exam: the exam.
            pictures: [Q, S, 128, 128, 3] in [-1, 1], S pictures for each question.
            asked: what each prompt asked for, from `requests.requests`, if not for the scenes of the questions.

        Returns:
            float[Q * S] for each of these names:

            * ``text, image, style``: see `scores`; the last two compare with the training picture;
            * ``truth``: the style score against the painter's own picture of the same question;
            * ``distance``: 0 to 2, the judge's style distance to that picture;
            * ``subject``: 100 where the judge sees the subject of the question;
            * ``leakage``: 100 where it sees the subject of the training picture, which no question asks for;
            * ``obeyed``: the share of what was ``asked`` that the judge sees, if it is given.
        """
        count, seeds = pictures.shape[:2]
        answers = pictures.reshape(-1, *pictures.shape[2:])
        question = np.repeat(np.arange(count), seeds)  # of each answer
        features = self._clip.picture_features(answers)
        training_features = self._clip.picture_features(exam.picture[None])
        contexts = self._clip.text_features([f"a painting of {describe(label)}" for label in exam.questions])
        grams = scores.grams(self._model, np.concatenate([exam.picture[None], exam.truth[0], answers]))
        painted = grams.rows(slice(1 + count, None))
        verdict, true_verdict = self._judge.verdict(answers), self._judge.verdict(exam.truth[0])
        subject = verdict.subject.argmax(-1)
        found = {
            "text": scores.cosine_score(features, contexts[question]),
            "image": scores.cosine_score(features, training_features),
            "style": scores.style_score(painted, grams.rows(np.zeros(len(answers), int))),
            "truth": scores.style_score(painted, grams.rows(1 + question)),
            "distance": style_distance(verdict, Verdict(*(logits[question] for logits in true_verdict))),
            "subject": 100.0 * (subject == exam.questions[question, 0]),
            "leakage": 100.0 * (subject == exam.label[0]),
        }
        return found if asked is None else found | {"obeyed": obeyed(verdict, asked[question])}

    def recognised(self, exam: Exam, pictures: np.ndarray) -> dict[str, np.ndarray]:
        """What pictures whose prompts name nothing have in common with the training picture.

        Args:
            exam: the exam.
            pictures: [N, 128, 128, 3] in [-1, 1].

        Returns:
            For each of ``subject``, ``colour``, ``place`` and ``time`` float[N]: 100 where the judge sees the same in a
            picture as the training picture shows.
        """
        verdict = self._judge.verdict(pictures)._asdict()
        pairs = zip(scenes.ATTRIBUTES, exam.label, strict=True)
        return {name: 100.0 * (verdict[name].argmax(-1) == shown) for name, shown in pairs}
