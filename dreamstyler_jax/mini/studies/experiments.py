"""The paper's claims, measured on the embedded model: ``dreamstyler experiments``.

Every painter is held-out unless the method says otherwise, and gives one picture. The learned styles and the scores lie
in the output folder: an interrupted run continues there. ``docs/results.md`` reports the results.
"""

import dataclasses
import functools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dreamstyler_jax.evaluation.clip import Clip
from dreamstyler_jax.evaluation.scores import structure_score
from dreamstyler_jax.mini.judge import LoadedJudge
from dreamstyler_jax.mini.studies.exam import (
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
        learn: learns a style, as `exam.learn` does.
        paint: paints answers, as `exam.paint_answers` does.
    """

    def __init__(
        self,
        config: ExperimentsConfig,
        learn: Callable[[StableDiffusion, Exam, Learning], Style] = learn,
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
        results: Results = {method.name: [] for method in methods}
        painters = self.painters(methods[0])
        for painter in progress(painters, methods[0].name, len(painters), unit="painter"):
            path = self._scores_folder / f"{_file_name(methods[0])}-{painter}.json"
            if not path.exists():
                rows = self._scores(methods, painter)
                write_atomic(path, json.dumps(dict(zip(results, rows, strict=True))).encode())
            for name, row in json.loads(path.read_bytes()).items():
                results[name].append(row)
        return results

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

    def _style(self, exam: Exam, learning: Learning) -> Style:
        steps, rate = learning.steps or self.config.train_steps, learning.learning_rate or self.config.learning_rate
        learning = learning._replace(steps=steps, learning_rate=rate)
        folder = "-".join(
            f"{name}{value}" for name, value in learning._asdict().items() if value != Learning._field_defaults[name]
        )
        path = path_of(self.config.output) / "styles" / folder / f"{exam.painter}.safetensors"
        if not path.exists():
            self._learn(self._model, exam, learning).save(path)
        return Style.load(path)

    def _scores(self, methods: Sequence[Method], painter: int) -> list[Scores]:
        """The mean scores of each method for one painter."""
        exam, method = self._exam(painter), methods[0]
        styles = {"style": self._style_of(exam, method.learning, method.mix)} if method.learning else {}
        style = captions.PAINTER_NAMES[painter] if method.trained else "{}"
        texts = [method.prompt.format(context=describe(label), style=style) for label in exam.questions]
        asked = requests(exam.questions, method.asked) if method.asked else None
        if asked is not None:
            texts = [in_words(request, style) for request in asked]
        if method.strength:
            settings = [(m.strength, m.control_scale) for m in methods]
            pictures = repaint_photos(self._with_controlnet, texts, styles, exam.photos, settings, self.config.steps)
            return [self._transfer_scores(exam, of_method) for of_method in pictures]
        guidance, seeds = [m.guidance for m in methods], self.config.seeds
        if method.names_nothing:  # all texts are the same
            texts, seeds = texts[:1], len(texts) * seeds
        pictures = self._paint(
            self._model,
            texts,
            styles,
            guidance,
            seeds,
            steps=method.steps or self.config.steps,
            guidance_span=method.guidance_span,
            guidance_schedule=method.guidance_schedule,
            cache_interval=method.cache_interval,
        )
        if method.names_nothing:
            return [mean_scores(self._evaluator.recognised(exam, of_method[0])) for of_method in pictures]
        if method.mix:
            return [self._scores_of_both(exam, of_method) for of_method in pictures]
        return [mean_scores(self._evaluator.scores(exam, of_method, asked)) for of_method in pictures]

    def _style_of(self, exam: Exam, learning: Learning, mix: str) -> Style:
        style = self._style(exam, learning)
        return mixed(style, self._style(self._exam(self._second(exam.painter)), learning), mix) if mix else style

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


def _file_name(method: Method) -> str:
    return "".join(c if c.isalnum() else "_" for c in method.name)
