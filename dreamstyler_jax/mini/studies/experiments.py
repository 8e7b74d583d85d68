"""The paper's claims, measured on the embedded model: ``python -m dreamstyler_jax.mini.studies.experiments``.

Every painter is held-out unless the method says otherwise, and given by one picture. What is learned, and the marks,
lie in the output folder: an interrupted run continues there. ``docs/results.md`` reports what came out.
"""

import dataclasses
import functools
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from tqdm import tqdm

from dreamstyler_jax import guidance
from dreamstyler_jax.commands.cli import main, parse
from dreamstyler_jax.commands.config import parse_shard
from dreamstyler_jax.evaluation import scores
from dreamstyler_jax.mini.judge import Referee
from dreamstyler_jax.mini.studies.exam import SCALE, Exam, Examiner, Lesson, describe, learn, paint, repaint, set_exam
from dreamstyler_jax.mini.world import captions
from dreamstyler_jax.runtime import charts, images
from dreamstyler_jax.runtime.compilation import set_up
from dreamstyler_jax.runtime.errors import UserError
from dreamstyler_jax.runtime.files import write_atomic
from dreamstyler_jax.stable_diffusion.pipeline import EMBEDDED_MODEL, StableDiffusion, own_controlnet
from dreamstyler_jax.style import Style

SCALES = (0.0, 0.5, 1.0, 2.0, 3.0)  # of ls and lc in the sweep
NULL_SCALE = 2.0  # ln in the sweep
STRENGTHS, CONTROL_SCALES = (0.4, 0.6, 0.8, 1.0), (0.0, 0.4, 0.8)  # of repainted photos


class Method(NamedTuple):
    """A row of a table.

    ``lesson``: how the style is learned, None for no learning at all. ``weights``: of guidance. ``trained``: asked of
    trained painters, whose own names then stand for the style. ``strength``, ``control_scale``: how photos of what is
    asked for are repainted; 0 for pictures from the prompt alone. ``limits``: the part of the sampling that is guided.
    ``steps``: of the solver, 0 for as many as configured. ``cache_interval``: how many of them share deep features.

    A ``prompt`` without {context} names nothing to be seen, and the marks are then what of the picture learned from is
    seen all the same.
    """

    name: str
    lesson: Lesson | None
    weights: tuple[float, ...] = tuple(guidance.cfg(SCALE).tolist())
    prompt: str = "A painting of {context} in the style of {style}"
    trained: bool = False
    strength: float = 0.0
    control_scale: float = 0.0
    limits: tuple[float, float] = (0.0, 1.0)
    steps: int = 0
    cache_interval: int = 1


def _learned(name: str, weights: np.ndarray | None = None, **lesson) -> Method:
    options = {} if weights is None else {"weights": tuple(weights.tolist())}
    return Method(name, Lesson(**lesson), **options)


UNNAMED = "A painting in the style of {style}"
NO_INVERSION = Method("no inversion", None, prompt="A painting of {context}")
STAGES = [_learned(f"T = {stages}", stages=stages) for stages in (1, 2, 4, 6, 8, 12)]
EXPERIMENTS: dict[str, list[Method]] = {
    "bounds": [NO_INVERSION, Method("own word", None, trained=True)],
    "stages": STAGES + [_learned(f"T = 1, V = {vectors}", stages=1, vectors=vectors) for vectors in (2, 6)],
    "ablation": [
        _learned("textual inversion", stages=1, context=False),
        _learned("+ stages", stages=6, context=False),
        _learned("+ context prompt", stages=6),
        _learned("+ guidance", guidance.paper(NULL_SCALE, 1.0, 0.5), stages=6),
    ],
    "guidance": [
        _learned(f"ls = {ls}, lc = {lc}", guidance.paper(NULL_SCALE, ls, lc), stages=6)
        for ls in SCALES
        for lc in SCALES
    ],
    "limits": [
        _learned(f"guided from {start:g} to {end:g}", stages=6)._replace(limits=(start, end))
        for start, end in ((0.0, 1.0), (0.0, 0.8), (0.0, 0.5), (0.2, 1.0), (0.2, 0.8))
    ],
    "caching": [
        _learned(f"{steps} steps" + f", each {interval} share" * (interval > 1), stages=6)._replace(
            steps=steps, cache_interval=interval
        )
        for steps, interval in ((20, 1), (20, 2), (20, 3), (12, 1), (10, 1))
    ],
    "leakage": [
        Method("own word, nothing named", None, prompt=UNNAMED, trained=True),
        Method("learned without context prompt", Lesson(stages=6, context=False), prompt=UNNAMED),
        Method("learned with context prompt", Lesson(stages=6), prompt=UNNAMED),
    ],
    "transfer": [
        Method(f"control {scale}, strength {strength}", Lesson(stages=6), strength=strength, control_scale=scale)
        for scale in CONTROL_SCALES
        for strength in STRENGTHS
    ],
}
PAIRS: dict[str, list[tuple[str, str]]] = {  # of methods whose marks are compared painter by painter
    "bounds": [("painter's own", "no inversion")],
    "stages": [
        *((method.name, "T = 1") for method in EXPERIMENTS["stages"][1:]),
        *(("T = 6", other) for other in ("T = 12", "T = 1, V = 2", "T = 1, V = 6")),
    ],
    "ablation": [(method.name, before.name) for before, method in itertools.pairwise(EXPERIMENTS["ablation"])],
    "guidance": [
        *((f"ls = {ls}, lc = {lc}", f"ls = 0.0, lc = {lc}") for lc in SCALES for ls in (1.0, 3.0)),
        *((f"ls = {ls}, lc = {lc}", f"ls = {ls}, lc = 0.0") for ls in SCALES for lc in (1.0, 3.0)),
    ],
    "limits": [(method.name, "guided from 0 to 1") for method in EXPERIMENTS["limits"][1:]],
    "caching": [
        *((method.name, "20 steps") for method in EXPERIMENTS["caching"][1:]),
        ("20 steps, each 2 share", "12 steps"),
    ],
    "leakage": [("learned with context prompt", "learned without context prompt")],
    "transfer": [
        (f"control {scale}, strength {strength}", f"control {CONTROL_SCALES[0]}, strength {strength}")
        for scale in CONTROL_SCALES[1:]
        for strength in STRENGTHS
    ],
}


@dataclasses.dataclass(frozen=True)
class ExperimentsConfig:
    """What to measure, and how much of it."""

    output: str = "build/experiments"
    """Folder of what is learned and of the marks."""
    model: str = str(EMBEDDED_MODEL)
    """Folder of an embedded model."""
    experiments: list[str] = dataclasses.field(default_factory=lambda: list(EXPERIMENTS))
    """Which of bounds, stages, ablation, guidance, limits, caching, leakage, transfer to run."""
    painters: int = 32
    """Held-out painters, 32 at most."""
    questions: int = 20
    """Prompts."""
    seeds: int = 2
    """Pictures of each prompt."""
    train_steps: int = 400
    """Training steps of a style."""
    learning_rate: float = 0.02
    """Learning rate of a style."""
    steps: int = 10
    """Steps of the solver."""
    shard: str = "0/1"
    """i/n: examine every n-th painter, from the i-th on, for n processes at once; a last call without it reports."""

    def __post_init__(self):
        parse_shard(self.shard)
        for name in self.experiments:
            if name not in EXPERIMENTS:
                raise UserError(f"experiments: must be some of {', '.join(EXPERIMENTS)}, not {name!r}")
        if not 2 <= self.painters <= captions.HELD_OUT:
            raise UserError(f"painters: must be 2 to {captions.HELD_OUT}, not {self.painters}")


class Laboratory:
    """Runs methods on painters and remembers what came out."""

    def __init__(self, config: ExperimentsConfig):
        self.config = config
        self.model = StableDiffusion.load(config.model)
        folder = Path(config.model)
        self.examiner = Examiner(self.model, scores.Clip.load(folder / "clip"), Referee.load(folder / "judge"))
        self.exam = functools.cache(lambda painter: set_exam(painter, config.questions))

    @functools.cached_property
    def repainter(self) -> StableDiffusion:
        """The model with its ControlNet."""
        return self.model.with_controlnets([own_controlnet(self.config.model)])

    @property
    def _exam_name(self) -> str:
        c = self.config
        return f"marks-train{c.train_steps}-rate{c.learning_rate:g}-{c.questions}x{c.seeds}-solver{c.steps}"

    def painters(self, method: Method) -> list[int]:
        """Whose exams a method takes."""
        first = 0 if method.trained else captions.PAINTERS
        begin, step = parse_shard(self.config.shard)
        return list(range(first, first + self.config.painters))[begin::step]

    def style(self, exam: Exam, lesson: Lesson) -> Style:
        """The style learned, from disk if it is there."""
        lesson = lesson._replace(steps=self.config.train_steps, learning_rate=self.config.learning_rate)
        words = "-".join(f"{name}{value}" for name, value in lesson._asdict().items())
        path = Path(self.config.output) / "styles" / words / f"{exam.painter}.safetensors"
        if not path.exists():
            learn(self.model, exam, lesson).save(path)
        return Style.load(path)

    def marks(self, methods: list[Method], painter: int) -> list[dict[str, float]]:
        """Mean marks of methods that differ in guidance, or strength and control, alone, for one painter."""
        exam, method = self.exam(painter), methods[0]
        styles = {"style": self.style(exam, method.lesson)} if method.lesson else {}
        style = captions.PAINTER_NAMES[painter] if method.trained else "{}"
        texts = [method.prompt.format(context=describe(label), style=style) for label in exam.questions]
        if method.strength:
            asked = [(m.strength, m.control_scale) for m in methods]
            pictures = repaint(self.repainter, texts, styles, exam.photos, asked, self.config.steps)
            return [self.transfer_marks(exam, some) for some in pictures]
        weights, seeds = [np.asarray(m.weights, np.float32) for m in methods], self.config.seeds
        unnamed = "{context}" not in method.prompt
        if unnamed:
            texts, seeds = texts[:1], len(texts) * seeds
        of_steps = method.steps or self.config.steps, method.limits, method.cache_interval
        pictures = paint(self.model, texts, styles, weights, seeds, *of_steps)
        if unnamed:
            return [average(self.examiner.seen_again(exam, some[0])) for some in pictures]
        return [average(self.examiner.marks(exam, some)) for some in pictures]

    def transfer_marks(self, exam: Exam, pictures: np.ndarray) -> dict[str, float]:
        """Mean marks of pictures [Q, 1, 64, 64, 3] of the photos, among them how much of the structure is kept."""
        structure = scores.structure_score(pictures[:, 0], exam.photos)
        return average({**self.examiner.marks(exam, pictures), "structure": structure})

    def truth(self, painter: int) -> dict[str, float]:
        """Marks of the painter's own second picture of each prompt."""
        exam = self.exam(painter)
        return average(self.examiner.marks(exam, exam.truth[1][:, None]))

    def ends(self) -> dict[str, list[dict[str, float]]]:
        """Marks of the two ends of the way from a photo to its painting: by painter."""
        exams = [self.exam(painter) for painter in self.painters(NO_INVERSION)]
        return {
            "the photo": [self.transfer_marks(exam, exam.photos[:, None]) for exam in exams],
            "painter's own": [self.transfer_marks(exam, exam.truth[0][:, None]) for exam in exams],
        }

    def results(self, group: list[Method]) -> dict[str, list[dict[str, float]]]:
        """Marks by method and painter, those already on disk from there."""
        tables: dict[str, list[dict[str, float]]] = {method.name: [] for method in group}
        for painter in tqdm(self.painters(group[0]), desc=group[0].name, unit="painter", mininterval=10):
            path = Path(self.config.output) / self._exam_name / f"{_file_name(group[0])}-{painter}.json"
            if not path.exists():
                rows = self.marks(group, painter)
                write_atomic(path, json.dumps(dict(zip(tables, rows, strict=True))).encode())
            for name, row in json.loads(path.read_bytes()).items():
                tables[name].append(row)
        return tables


def _file_name(method: Method) -> str:
    return "".join(c if c.isalnum() else "_" for c in method.name)


def average(marks: Mapping[str, np.ndarray]) -> dict[str, float]:
    """The mean of each mark."""
    return {name: float(values.mean()) for name, values in marks.items()}


def groups(methods: list[Method]) -> Iterator[list[Method]]:
    """Methods that share a lesson and a prompt are painted together, for one program paints them all."""
    found: dict[tuple, list[Method]] = {}
    for method in methods:
        rows = tuple(np.flatnonzero(method.weights))
        program = method.lesson, method.prompt, method.trained, rows, method.limits, method.steps, method.cache_interval
        found.setdefault(program, []).append(method)
    return iter(found.values())


def table(results: Mapping[str, list[dict[str, float]]]) -> str:
    """Markdown: a row per method, mean and 95 % interval over painters."""
    lines: list[str] = []
    for method, rows in results.items():
        names = list(rows[0])
        if not lines:
            lines += ["| | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
        cells = [str(scores.estimate([row[name] for row in rows])) for name in names]
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def gains(
    results: Mapping[str, list[dict[str, float]]], pairs: Sequence[tuple[str, str]]
) -> dict[str, list[dict[str, float]]]:
    """By how much the marks of the first method of each pair are above the second's, painter by painter."""
    more = {}
    for method, other in pairs:
        rows = zip(results[method], results[other], strict=True)
        more[f"{method}, more than {other}"] = [
            {name: own[name] - theirs[name] for name in own} for own, theirs in rows
        ]
    return more


def chart_of(name: str, results: Mapping[str, list[dict[str, float]]]) -> Image.Image:
    """Text, or structure, against style score, as in Fig. 6 and 8 of the paper; sweeps as a line per first setting."""
    across = "structure" if name == "transfer" else "text"
    points = []
    for method, rows in results.items():
        x, y = (scores.estimate([row[score] for row in rows]) for score in (across, "truth"))
        group, _, label = method.rpartition(", ") if name in ("guidance", "transfer") else ("", "", method)
        points.append(charts.Point(x.mean, y.mean, label, group, x.margin, y.margin))
    subtitle = f"{len(next(iter(results.values())))} painters; bars: 95 % intervals over painters"
    axes = f"{across} score", "style score against the painter's own picture"
    return charts.scatter_chart(points, name, subtitle, *axes)


def run(config: ExperimentsConfig) -> None:
    """Measures, prints the tables and leaves ``results.json`` and the charts; a shard leaves its marks alone."""
    laboratory = Laboratory(config)
    results: dict[str, dict[str, list[dict[str, float]]]] = {}
    for name in config.experiments:
        found: dict[str, list[dict[str, float]]] = {}
        for group in groups(EXPERIMENTS[name]):
            found |= laboratory.results(group)
        if parse_shard(config.shard)[1] > 1:
            continue
        if name == "bounds":
            found["painter's own"] = [laboratory.truth(painter) for painter in laboratory.painters(NO_INVERSION)]
        if name == "transfer":
            found |= laboratory.ends()
        results[name] = found
        print(f"\n{name}\n\n{table(found)}\n\n{table(gains(found, PAIRS.get(name, [])))}\n", flush=True)
        write_atomic(Path(config.output) / "results.json", json.dumps(results, indent=1).encode())
        if name != "leakage":
            images.save_png(Path(config.output) / f"{name}.png", chart_of(name, found))


if __name__ == "__main__":
    set_up()
    main(lambda: run(parse(ExperimentsConfig)))
