"""What a run leaves in its folder while it is learned: log, checkpoints, and for each of these a style and previews."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from dreamstyler_jax import inversion
from dreamstyler_jax.commands.config import TrainConfig
from dreamstyler_jax.commands.loss_curves import draw_loss
from dreamstyler_jax.commands.previews import paint_preview
from dreamstyler_jax.commands.reporting.document import write_report
from dreamstyler_jax.commands.run_log import METRICS, RunLog, read_metrics
from dreamstyler_jax.commands.sessions import note_times
from dreamstyler_jax.runtime import images
from dreamstyler_jax.runtime.checkpoints import Checkpoints
from dreamstyler_jax.runtime.errors import UserError
from dreamstyler_jax.runtime.goodput import Goodput
from dreamstyler_jax.runtime.locks import only_process
from dreamstyler_jax.stable_diffusion.pipeline import StableDiffusion
from dreamstyler_jax.style import FILE_NAME, Style, relative_norms, step_file
from dreamstyler_jax.training import Chunk, Lesson, learned_tables, style_in


class Run(NamedTuple):
    """A run: its settings and folder, and the style to learn.

    Attributes:
        config: with the prompt of each picture.
        folder: where it leaves everything.
        lesson: the style before its training, and the data.
    """

    config: TrainConfig
    folder: Path
    lesson: Lesson


class Recorder:
    """Records one run.

    Args:
        model: paints the previews.
        run: the run.
        state: where it begins or goes on.
        store: its checkpoints.
        log: its log.
        clock: counts the time of checkpoints and previews.

    Attributes:
        run, log: as given.
        state: the newest one.
        diverged: what happened if the training has diverged, or else empty. Nothing is recorded from then on.
    """

    def __init__(
        self,
        model: StableDiffusion,
        run: Run,
        state: inversion.TrainState,
        store: Checkpoints,
        log: RunLog,
        clock: Goodput,
    ):
        self.run, self.state, self.log, self.diverged = run, state, log, ""
        self._model, self._store, self._clock = model, store, clock

    def save(self, chunk: Chunk, number: int, *, stops: bool) -> None:
        """Logs what a chunk of the training has brought to this run, and makes its checkpoint if it is time for one.

        Args:
            chunk: the chunk.
            number: of this run in it.
            stops: whether the training stops here, so that it is time for one.
        """
        metrics, self.state, style = chunk.metrics[number], chunk.states[number], self.run.lesson.style
        if metrics is None or self.diverged:
            return
        due = stops or chunk.finished[number] or is_kept(self.run.config, self.state)
        try:
            norms = relative_norms(learned_tables(style, self.state), style.metadata["word_norms"])
            self.log.write(chunk.step, {**metrics, "relative_norm": norms, "goodput": self._clock.shares()})
            if due:
                style_in(style, self.state)  # refuses what is not finite
        except UserError as error:
            self.diverged = str(error)
            return
        if due:
            with self._clock.spending("checkpoint"):
                self.log.save()
                self._store.save(chunk.step, self.state)

    def illustrate(self, chunk: Chunk, number: int) -> None:
        """Makes what comes with a checkpoint, and the style if this run is finished before the others."""
        metrics, finished = chunk.metrics[number], chunk.finished[number]
        if metrics is None or self.diverged:
            return
        if finished or is_kept(self.run.config, self.state):
            make_by_products(self._model, self.run, self.state, self._clock, self.log)
        if finished and not all(chunk.finished):  # the others may go on for long
            style_in(self.run.lesson.style, self.state).save(self.run.folder / FILE_NAME)

    def finish(self) -> None:
        """Writes the style, what may be missing of the last checkpoint, and the chart of the loss."""
        folder = self.run.folder
        style_in(self.run.lesson.style, self.state).save(folder / FILE_NAME)
        make_by_products(self._model, self.run, self.state, self._clock, self.log, only_missing=True)
        _draw_chart(folder)

    def report(self) -> None:
        """Writes what the time was spent on, and the report: after all else, which takes time, too."""
        note_times(self.run.folder, self._clock.shares())
        write_report(self.run.folder)


def is_kept(config: TrainConfig, state: inversion.TrainState) -> bool:
    """Whether the style and the previews of a state before the last are kept."""
    return int(state.step) % config.save_every == 0


def make_by_products(
    model: StableDiffusion,
    run: Run,
    state: inversion.TrainState,
    clock: Goodput,
    log: RunLog,
    *,
    only_missing: bool = False,
) -> None:
    """Writes what comes with a checkpoint: the style that it makes, and previews, which boards show, too.

    Args:
        only_missing: keep files that are there already.
    """
    paths = _by_products(run.config, run.folder, int(state.step))
    wanted = [path for path in paths if not (only_missing and path.exists())]
    if wanted:
        _write_by_products(model, run.config, style_in(run.lesson.style, state), wanted, clock, log)


def complete(model: StableDiffusion, config: TrainConfig, folder: Path, clock: Goodput) -> None:
    """Makes what a finished run lacks that was killed just after it had written its style.

    Raises:
        UserError: another process trains in the folder, or the log cannot be read.
    """
    with only_process(folder):
        style = Style.load(folder / FILE_NAME)
        missing = [path for path in _by_products(config, folder, style.metadata["steps"]) if not path.exists()]
        _write_by_products(model, config, style, missing, clock)
        _draw_chart(folder)
        write_report(folder)


def _by_products(config: TrainConfig, folder: Path, step: int) -> list[Path]:
    """The files that come with a checkpoint: the style, and the previews if there are any."""
    file, preview = step_file(folder, step), folder / "previews" / f"step_{step:06d}.png"
    return [file, preview] if config.preview_prompts else [file]


def _write_by_products(
    model: StableDiffusion,
    config: TrainConfig,
    style: Style,
    paths: Sequence[Path],
    clock: Goodput,
    log: RunLog | None = None,
) -> None:
    step = style.metadata["steps"]
    for path in paths:
        if path.suffix != ".png":
            style.save(path)
            continue
        size = model.size(config.resolution, config.resolution)
        with clock.spending("previews"):
            sheet = paint_preview(model, style, config.preview_prompts, size, f"step {step:06d}")
            if log:
                log.picture(step, "previews", sheet)  # before the file, for what is there is not made again
            images.save_png(path, sheet)


def _draw_chart(folder: Path) -> None:
    log = folder / METRICS
    if log.exists() and (metrics := read_metrics(log)):  # a resumed run may have lost its log
        draw_loss(metrics, folder / "loss.png")
