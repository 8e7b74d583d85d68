"""The paper's claims, measured on the embedded model: ``dreamstyler experiments``.

Every painter is held-out unless the method says otherwise, and gives one picture. The learned styles and the scores lie
in the output folder: an interrupted run continues there. ``docs/results.md`` reports the results.
"""

import dataclasses
import functools
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dreamstyler_jax.evaluation.clip import Clip
from dreamstyler_jax.evaluation.scores import structure_score
from dreamstyler_jax.mini.judge import LoadedJudge
from dreamstyler_jax.mini.studies.exam import (
    BATCH_SIZE,
    EDGES,
    Evaluator,
    Exam,
    Learning,
    describe,
    learn,
    make_exam,
    paint_answers,
    repaint_photos,
)
from dreamstyler_jax.mini.studies.methods import EXPERIMENTS, NO_INVERSION, PAINTERS_OWN, Experiment, Method
from dreamstyler_jax.mini.studies.mixes import answered_by, mixed, scores_of_both
from dreamstyler_jax.mini.studies.requests import in_words, requests
from dreamstyler_jax.mini.studies.results import Results, Scores, differences, draw_chart, table
from dreamstyler_jax.mini.world import captions
from dreamstyler_jax.runtime import images
from dreamstyler_jax.runtime.buckets import path_of
from dreamstyler_jax.runtime.files import write_atomic
from dreamstyler_jax.runtime.parsing import parse_shard
from dreamstyler_jax.runtime.progress import progress
from dreamstyler_jax.runtime.settings import check_values, option
from dreamstyler_jax.stable_diffusion.pipeline import StableDiffusion, model_folder
from dreamstyler_jax.style import Style
from dreamstyler_jax.transfer import with_nets


@dataclasses.dataclass(frozen=True)
class ExperimentsConfig:
    """Measure the paper's claims on the embedded model.

    Raises:
        UserError: a value is out of range.
    """

    output: str = option("build/experiments", "Folder of the learned styles, the scores, the results and the charts.")
    model: str = option("mini", "mini, or the folder of an embedded model with its CLIP and its judge.")
    experiments: list[str] = option(list(EXPERIMENTS), "The experiments to run.", choices=EXPERIMENTS)
    painters: int = option(captions.HELD_OUT, "Held-out painters.", low=2, high=captions.HELD_OUT)
    questions: int = option(20, "Prompts.", low=1, high=1000)
    seeds: int = option(2, "Pictures of each prompt.", low=1, high=1000)
    train_steps: int = option(200, "Training steps of a style, unless its method says.", low=1, high=1_000_000)
    learning_rate: float | None = option(
        None, "Learning rate of a style, unless its method says. Default: as in train.", low=1e-8, high=10
    )
    steps: int = option(10, "Solver steps.", low=1, high=1000)
    together: int = option(
        1, "Painters whose styles are learned and painted at once: 32 are much faster on a GPU.", low=1, high=1000
    )
    shard: str = option(
        "0/1",
        "i/n: take every n-th painter, beginning with the i-th, so that n processes can share the work. A last call "
        "without it reports.",
    )

    def __post_init__(self):
        check_values(self)
        parse_shard(self.shard)


def run(config: ExperimentsConfig) -> None:
    """Runs the experiments, prints their tables and writes ``results.json`` and charts; a shard writes scores only."""
    measure(Runner(config), {name: EXPERIMENTS[name] for name in config.experiments})


class Runner:
    """Runs methods on painters. Styles and scores that are already in the output folder are read from there.

    Args:
        config: what to run.
        learn: learns styles, as `exam.learn` does.
        paint: paints answers, as `exam.paint_answers` does.
    """

    def __init__(
        self,
        config: ExperimentsConfig,
        learn: Callable[[StableDiffusion, Sequence[Exam], Learning], list[Style]] = learn,
        paint: Callable[..., np.ndarray] = paint_answers,
    ):
        self.config = config
        self._learn, self._paint = learn, paint
        self._model = StableDiffusion.load(config.model)
        folder = model_folder(config.model)
        self._evaluator = Evaluator(self._model, Clip.load(folder / "clip"), LoadedJudge.load(folder / "judge"))
        self._exam = functools.cache(lambda painter: make_exam(painter, config.questions))

    @property
    def is_shard(self) -> bool:
        """Whether other processes have some of the painters."""
        return parse_shard(self.config.shard)[1] > 1

    def painters(self, method: Method) -> list[int]:
        """The painters that this process asks a method about."""
        first = 0 if method.trained else captions.PAINTERS
        index, count = parse_shard(self.config.shard)
        return list(range(first, first + self.config.painters))[index::count]

    def results(self, methods: Sequence[Method]) -> Results:
        """The scores of methods that one program paints, see `by_program`."""
        painters = self.painters(methods[0])
        missing = [painter for painter in painters if not self._path(methods[0], painter).exists()]
        together = self.config.together
        groups = [missing[first : first + together] for first in range(0, len(missing), together)]
        for group in progress(groups, methods[0].name, len(groups), unit="painters"):
            for painter, rows in zip(group, self._scores(methods, group), strict=True):
                named = {method.name: row for method, row in zip(methods, rows, strict=True)}
                write_atomic(self._path(methods[0], painter), json.dumps(named).encode())
        found = [json.loads(self._path(methods[0], painter).read_bytes()) for painter in painters]
        return {method.name: [of_painter[method.name] for of_painter in found] for method in methods}

    def truth(self) -> list[Scores]:
        """For each held-out painter the scores of the painter's own second picture of every question."""
        exams = map(self._exam, self.painters(NO_INVERSION))
        return [mean_scores(self._evaluator.scores(exam, exam.truth[1][:, None])) for exam in exams]

    def transfer_bounds(self) -> Results:
        """The scores of what lies at both ends of style transfer: the photo, and the painter's own picture of it."""
        exams = list(map(self._exam, self.painters(NO_INVERSION)))
        return {
            "the photo": [self._transfer_scores(exam, exam.photos[:, None]) for exam in exams],
            PAINTERS_OWN: [self._transfer_scores(exam, exam.truth[0][:, None]) for exam in exams],
        }

    @property
    def _scores_folder(self) -> Path:
        c = self.config
        rate = "" if c.learning_rate is None else f"-rate{c.learning_rate:g}"
        return path_of(c.output) / f"marks-train{c.train_steps}{rate}-{c.questions}x{c.seeds}-solver{c.steps}"

    def _path(self, method: Method, painter: int) -> Path:
        return self._scores_folder / f"{_file_name(method)}-{painter}.json"

    def _learned(self, painters: Sequence[int], learning: Learning) -> list[Style]:
        """The style of each painter, learned together with those of the others if it is not in the output folder."""
        steps, rate = learning.steps or self.config.train_steps, learning.learning_rate or self.config.learning_rate
        learning = learning._replace(steps=steps, learning_rate=rate)
        folder = path_of(self.config.output) / "styles" / _setting_names(learning)
        paths = {painter: folder / f"{painter}.safetensors" for painter in painters}
        if missing := [painter for painter, path in paths.items() if not path.exists()]:
            styles = self._learn(self._model, list(map(self._exam, missing)), learning)
            for painter, style in zip(missing, styles, strict=True):
                style.save(paths[painter])
        return [Style.load(path) for path in paths.values()]

    def _styles(self, painters: Sequence[int], method: Method) -> dict[str, Style]:
        """The styles that a method learns, by the names that its prompts give them."""
        if not method.learning:
            return {}
        styles = self._learned(painters, method.learning)
        if method.mix:
            others = self._learned(list(map(self._second, painters)), method.learning)
            styles = [mixed(style, other, method.mix) for style, other in zip(styles, others, strict=True)]
        return dict(zip(map(_style_name, painters), styles, strict=True))

    def _scores(self, methods: Sequence[Method], painters: Sequence[int]) -> list[list[Scores]]:
        """For each painter the mean scores of each method."""
        method, exams = methods[0], list(map(self._exam, painters))
        styles = self._styles(painters, method)
        asked = [requests(exam.questions, method.asked) if method.asked else None for exam in exams]
        texts = [_texts(method, exam, request) for exam, request in zip(exams, asked, strict=True)]
        answer = self._repaint_photos if method.strength else self._paint_prompts
        return [
            [self._scores_of(method, exam, of_method, request) for of_method in pictures]
            for exam, request, pictures in zip(exams, asked, answer(methods, exams, texts, styles), strict=True)
        ]

    def _repaint_photos(
        self, methods: Sequence[Method], exams: Sequence[Exam], texts: list[list[str]], styles: Mapping[str, Style]
    ) -> Iterator[np.ndarray]:
        """For each exam its photos, repainted with each method: [M, Q, 1, 128, 128, 3]."""
        settings = [(method.strength, method.control_scale) for method in methods]
        for exam, of_exam in zip(exams, texts, strict=True):
            batch_size = min(len(exam.photos), BATCH_SIZE * len(exams))
            yield repaint_photos(
                self._with_controlnet, of_exam, styles, exam.photos, settings, self.config.steps, batch_size
            )

    def _paint_prompts(
        self, methods: Sequence[Method], exams: Sequence[Exam], texts: list[list[str]], styles: Mapping[str, Style]
    ) -> list[np.ndarray]:
        """For each exam its prompts, painted with each method: [M, Q, seeds, 128, 128, 3]."""
        method, seeds = methods[0], self.config.seeds
        if method.names_nothing:  # all texts of an exam are the same
            texts, seeds = [of_exam[:1] for of_exam in texts], self.config.questions * seeds
        pictures = self._paint(
            self._model,
            list(itertools.chain.from_iterable(texts)),
            styles,
            [of_method.guidance for of_method in methods],
            seeds,
            steps=method.steps or self.config.steps,
            batch_size=BATCH_SIZE * len(exams),
            guidance_span=method.guidance_span,
            guidance_schedule=method.guidance_schedule,
            cache_interval=method.cache_interval,
        )
        return np.split(pictures, len(exams), axis=1)

    def _scores_of(self, method: Method, exam: Exam, pictures: np.ndarray, asked: np.ndarray | None) -> Scores:
        """The mean scores of one exam's pictures [Q, S, 128, 128, 3]."""
        if method.strength:
            return self._transfer_scores(exam, pictures)
        if method.names_nothing:
            return mean_scores(self._evaluator.recognised(exam, pictures[0]))
        if method.mix:
            return self._scores_of_both(exam, pictures)
        return mean_scores(self._evaluator.scores(exam, pictures, asked))

    def _second(self, painter: int) -> int:
        """Whom a painter is mixed with: the next one, after the last the first."""
        return captions.PAINTERS + (painter + 1 - captions.PAINTERS) % self.config.painters

    def _scores_of_both(self, exam: Exam, pictures: np.ndarray) -> Scores:
        both = exam, answered_by(exam, self._second(exam.painter))
        return mean_scores(scores_of_both(*(self._evaluator.scores(one, pictures) for one in both)))

    def _transfer_scores(self, exam: Exam, pictures: np.ndarray) -> Scores:
        """Mean scores of repainted photos [Q, 1, 128, 128, 3], with how much of the structure they keep."""
        structure = structure_score(pictures[:, 0], exam.photos)
        return mean_scores({**self._evaluator.scores(exam, pictures), "structure": structure})

    @functools.cached_property
    def _with_controlnet(self) -> StableDiffusion:
        return with_nets(self._model, [EDGES])


def measure(runner: Runner, experiments: Mapping[str, Experiment]) -> None:
    """Runs experiments, by their names; see `run`."""
    output = path_of(runner.config.output)
    results: dict[str, Results] = {}
    for name, experiment in experiments.items():
        found: Results = {}
        for methods in by_program(experiment.methods):
            found |= runner.results(methods)
        if runner.is_shard:
            continue
        if name == "bounds":
            found[PAINTERS_OWN] = runner.truth()
        if name == "transfer":
            found |= runner.transfer_bounds()
        results[name] = found
        print(f"\n{name}\n\n{table(found)}\n\n{table(differences(found, experiment.pairs))}\n", flush=True)
        write_atomic(output / "results.json", json.dumps(results, indent=1).encode())
        if not any(method.names_nothing for method in experiment.methods):
            across = "structure" if name == "transfer" else "text"
            chart = draw_chart(name, found, across, grouped=name in ("guidance", "transfer"))
            images.save_png(output / f"{name}.png", chart)


def by_program(methods: Sequence[Method]) -> Iterator[list[Method]]:
    """Methods in groups that one program paints with one style: they share all but scales, and strength or control."""
    groups: dict[tuple[Any, ...], list[Method]] = {}
    for method in methods:
        rows = tuple(np.flatnonzero(method.guidance.weights))
        shared = method.learning, method.prompt, method.asked, method.trained, method.mix
        sampling = method.guidance_span, method.guidance_schedule, method.steps, method.cache_interval
        groups.setdefault((*shared, *sampling, rows), []).append(method)
    return iter(groups.values())


def mean_scores(scores: Mapping[str, np.ndarray]) -> Scores:
    """The mean of each score."""
    return {name: float(values.mean()) for name, values in scores.items()}


def _style_name(painter: int) -> str:
    """What prompts call the style that is learned from a painter."""
    return f"painter{painter}"


def _texts(method: Method, exam: Exam, asked: np.ndarray | None) -> list[str]:
    """The prompt of each question, or of what is asked for instead."""
    style = captions.PAINTER_NAMES[exam.painter] if method.trained else f"{{{_style_name(exam.painter)}}}"
    if asked is not None:
        return [in_words(request, style) for request in asked]
    return [method.prompt.format(context=describe(label), style=style) for label in exam.questions]


def _setting_names(learning: Learning) -> str:
    """The settings that are not the default ones, as the name of a folder."""
    defaults = Learning._field_defaults
    return "-".join(f"{name}{value}" for name, value in learning._asdict().items() if value != defaults[name])


def _file_name(method: Method) -> str:
    return "".join(c if c.isalnum() else "_" for c in method.name)
