"""An examination of styles on the embedded model: what is asked, what the painter would have painted, the marks.

Each painter is given by one picture. A method learns from it and paints prompts; the painter's own pictures of the same
prompts are the truth. All is deterministic, so that two methods meet the same pictures, prompts and noise.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from dreamstyler_jax import guidance, inversion, prompts, sampling, transfer
from dreamstyler_jax.evaluation import scores
from dreamstyler_jax.mini import judge
from dreamstyler_jax.mini.world import captions, data, scenes
from dreamstyler_jax.runtime import images
from dreamstyler_jax.solvers import solver_table, steps_apart, steps_within
from dreamstyler_jax.stable_diffusion.pipeline import StableDiffusion
from dreamstyler_jax.style import Style

FULL_PROMPT = "A painting of {} in the style of {{}}"
BARE_PROMPT = "A painting in the style of {}"
SCALE = 3.5  # of plain guidance


class Exam(NamedTuple):
    """One painter's examination.

    ``painter``: number. ``label`` int[4], ``picture`` float32[64, 64, 3] in [-1, 1]: what there is to learn from.
    ``questions`` int[Q, 4]: the scenes asked for, none with the subject of ``picture``. ``truth`` float32[2, Q, 64, 64,
    3]: two pictures of each by the painter. ``photos`` float32[Q, 64, 64, 3]: the first of these two, not painted.
    """

    painter: int
    label: np.ndarray
    picture: np.ndarray
    questions: np.ndarray
    truth: np.ndarray
    photos: np.ndarray


def set_exam(painter: int, questions: int, seed: int = 0) -> Exam:
    """The examination of a painter, held-out or trained."""
    key = jax.random.fold_in(jax.random.key(seed), 2_000_000 + painter)
    k_scene, k_paint, k_truth, k_paints = jax.random.split(key, 4)
    given = data.render(k_paint, data.all_painters(), np.full(1, painter), scenes.sample(k_scene, (1,)))
    asked = scenes.sample(jax.random.key(seed + 77), (questions,))
    subjects = len(scenes.SUBJECTS)
    subject = (given.labels[0, 0] + 1 + asked.subject % (subjects - 1)) % subjects
    twice = (np.tile(attribute, 2) for attribute in (subject, asked.colour, asked.place, asked.time))
    scene = scenes.showing(k_truth, *twice)
    truth = data.render(k_paints, data.all_painters(), np.full(2 * questions, painter), scene)
    pictures = images.to_unit(truth.pixels).reshape(2, questions, *truth.pixels.shape[1:])
    first = jax.tree.map(lambda array: array[:questions], scene)
    photos = data.render(k_paints, data.all_painters(), np.full(questions, captions.PHOTOGRAPH), first)
    return Exam(
        painter=painter,
        label=given.labels[0, :4],
        picture=images.to_unit(given.pixels[0]),
        questions=truth.labels[:questions, :4],
        truth=pictures,
        photos=images.to_unit(photos.pixels),
    )


def describe(label: np.ndarray) -> str:
    """The context of a scene, everything named."""
    return captions.describe(*(int(value) for value in label))


class Lesson(NamedTuple):
    """How a style is learned; hashable. ``context``: whether the training prompt describes the picture."""

    stages: int = 6
    vectors: int = 1
    context: bool = True
    steps: int = 200
    batch_size: int = 8
    learning_rate: float = 0.02


@functools.cache
def _trainer(networks: Any, lesson: Lesson) -> tuple[Any, Callable]:
    optimizer = inversion.make_optimizer(
        learning_rate=lesson.learning_rate, warmup_steps=0, schedule="constant", steps=lesson.steps, weight_decay=0.01
    )
    return optimizer, inversion.make_trainer(networks, optimizer, inversion.Settings(lesson.batch_size, 1, 0))


def learn(model: StableDiffusion, exam: Exam, lesson: Lesson) -> Style:
    """The style of the exam's picture, called ``style``. One program per lesson serves all painters."""
    prompt = FULL_PROMPT.format(describe(exam.label)) if lesson.context else BARE_PROMPT
    dataset = inversion.make_dataset(model, [exam.picture], [[prompt]], lesson.vectors, flip=True)
    optimizer, advance = _trainer(model.networks, lesson)
    state = inversion.start(prompts.initial_table(model, "painting", lesson.stages, lesson.vectors), optimizer)
    states, _ = advance(inversion.stacked([state]), model.params, inversion.stacked([dataset]), lesson.steps)
    return Style("style", np.asarray(states.table[0]))


def paint(
    model: StableDiffusion,
    texts: Sequence[str],
    styles: Mapping[str, Style],
    weights: Sequence[np.ndarray],
    seeds: int,
    steps: int,
    limits: tuple[float, float] = (0.0, 1.0),
    cache_interval: int = 1,
) -> np.ndarray:
    """Pictures float32[W, Q, seeds, 64, 64, 3] in [-1, 1] of each prompt with each of the guidance weights [4].

    Args:
      limits: the part of the sampling, from 0 to 1, that is guided.
      cache_interval: how many steps share deep features.
    """
    conditionings, rows = _encode(model, texts, styles)
    requests = [sampling.Request(row, weight, seed) for weight in weights for row in rows for seed in range(seeds)]
    table = solver_table("dpmpp_2m", model.networks.schedule, steps)
    chosen = dict(guided_steps=steps_within(*limits, steps), deep_steps=steps_apart(cache_interval, steps))
    options = dict(size=model.size(None, None), batch_size=20, **chosen)
    painted = sampling.paint(model, table, conditionings, requests, **options)
    pictures = np.clip(np.stack(list(painted)), -1, 1)
    return pictures.reshape(len(weights), len(texts), seeds, *pictures.shape[1:])


def repaint(
    model: StableDiffusion,
    texts: Sequence[str],
    styles: Mapping[str, Style],
    photos: np.ndarray,
    asked: Sequence[tuple[float, float]],
    steps: int,
) -> np.ndarray:
    """Photos [Q, 64, 64, 3] repainted after a text each: float32[A, Q, 1, 64, 64, 3] in [-1, 1].

    Args:
      model: with one ControlNet, for edges.
      asked: pairs of strength and control scale.
      steps: of the solver; each strength takes its share.
    """
    conditionings, rows = _encode(model, texts, styles)
    latents, _ = jax.jit(model.networks.encode_images)(model.params, photos)
    edges = np.stack([transfer.edges(np.asarray(images.to_image(photo))) for photo in photos])
    maps = np.repeat(edges[..., None], 3, axis=-1).astype(np.float32) / 255
    painted = []
    for strength, scale in asked:
        table = solver_table("dpmpp_2m", model.networks.schedule, steps, strength=strength)
        scales = np.full((len(table.timesteps), 1), scale, np.float32)
        requests = [
            sampling.Request(row, guidance.cfg(SCALE), number, number, scales) for number, row in enumerate(rows)
        ]
        options = dict(size=model.size(None, None), batch_size=20, contents=sampling.Contents(latents, (maps,)))
        painted.append(np.stack(list(sampling.paint(model, table, conditionings, requests, **options))))
    return np.clip(np.stack(painted), -1, 1)[:, :, None]


def _encode(
    model: StableDiffusion, texts: Sequence[str], styles: Mapping[str, Style]
) -> tuple[jax.Array, list[tuple[int, int, int, int]]]:
    """Conditionings [P, T, L, D], and for each text those of its rows of guidance, by number."""
    rows = [("", text, prompts.context_only(text), prompts.style_only(text)) for text in texts]
    every = list(dict.fromkeys(text for row in rows for text in row))
    return prompts.encode(model, every, styles), [tuple(every.index(text) for text in row) for row in rows]


class Examiner:
    """Gives marks, with what that takes at hand: CLIP, the autoencoder, the judge."""

    def __init__(self, model: StableDiffusion, clip: scores.Clip, referee: judge.Referee):
        self._model, self._clip, self._referee = model, clip, referee

    def marks(self, exam: Exam, pictures: np.ndarray) -> dict[str, np.ndarray]:
        """Scores of pictures [Q, S, 64, 64, 3] in [-1, 1], each float[Q * S]:

        ``text, image, style``: as `scores` has them, the latter two against the picture learned from;
        ``truth``: the style score against the painter's own picture of the same prompt;
        ``distance``: 0 to 2, the judge's style distance to the painter's own picture of the same prompt;
        ``subject``: 100 where the judge sees the subject asked for;
        ``leakage``: 100 where it sees the subject of the picture learned from, which no question asks for.
        """
        questions, seeds = pictures.shape[:2]
        flat = pictures.reshape(-1, *pictures.shape[2:])
        repeat = lambda rows: np.repeat(rows, seeds, 0)  # noqa: E731
        features, own = self._clip.pictures(flat), self._clip.pictures(exam.picture[None])
        context = repeat(self._clip.texts([f"a painting of {describe(label)}" for label in exam.questions]))
        grams = scores.grams(self._model, np.concatenate([exam.picture[None], exam.truth[0], flat]))
        painted = grams.rows(slice(1 + questions, None))
        verdict, truth = self._referee.verdict(flat), self._referee.verdict(exam.truth[0])
        subject = verdict.subject.argmax(-1)
        return {
            "text": scores.cosine_score(features, context),
            "image": scores.cosine_score(features, own),
            "style": scores.style_score(painted, grams.rows(np.zeros(len(flat), int))),
            "truth": scores.style_score(painted, grams.rows(repeat(np.arange(1, 1 + questions)))),
            "distance": judge.style_distance(verdict, judge.Verdict(*(repeat(logits) for logits in truth))),
            "subject": 100.0 * (subject == repeat(exam.questions[:, 0])),
            "leakage": 100.0 * (subject == exam.label[0]),
        }

    def seen_again(self, exam: Exam, pictures: np.ndarray) -> dict[str, np.ndarray]:
        """What of the picture learned from is in pictures [N, 64, 64, 3] that nobody asked it of: each float[N].

        ``subject``, ``colour``, ``place``, ``time``: 100 where the judge sees the same in both.
        """
        verdict = self._referee.verdict(pictures)._asdict()
        names = ("subject", "colour", "place", "time")
        return {n: 100.0 * (verdict[n].argmax(-1) == own) for n, own in zip(names, exam.label, strict=True)}
