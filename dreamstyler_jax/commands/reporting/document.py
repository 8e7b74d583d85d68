"""The report itself: ``report.html`` in the folder of a run."""

import html
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import numpy as np

from dreamstyler_jax.commands.config import TrainConfig
from dreamstyler_jax.commands.config_files import to_yaml
from dreamstyler_jax.commands.loss_curves import loss_curves, stage_labels
from dreamstyler_jax.commands.reporting.contents import RunContents, read_run
from dreamstyler_jax.commands.reporting.curves import Curve, chart, stage_colours
from dreamstyler_jax.commands.reporting.pictures import previews, training_pictures
from dreamstyler_jax.commands.runs import painting_command, resuming_command, training_command
from dreamstyler_jax.runtime.buckets import path_of
from dreamstyler_jax.runtime.files import write_atomic
from dreamstyler_jax.runtime.pages import fill_page
from dreamstyler_jax.runtime.settings import as_given, options_of
from dreamstyler_jax.train_settings import most_steps

FILE_NAME = "report.html"
_PARTS = "dreamstyler_jax.commands.reporting"


def write_report(folder: str | Path) -> Path:
    """Writes the report of a run, from what its folder holds.

    Returns:
        The path of the report.

    Raises:
        UserError: there is no run, or something in its folder is damaged.
        OSError: the report cannot be written.
    """
    run = read_run(path_of(folder))
    style, script, template = (_part(f"report.{kind}") for kind in ("css", "js", "html"))
    title = f"{run.config.property.capitalize()} {run.config.name}"
    sections = "\n".join(
        f'<section aria-labelledby="{key}"><h2 id="{key}">{heading}</h2>{body}</section>'
        for key, heading, body in _sections(run)
        if body
    )
    path = run.folder / FILE_NAME
    parts = {"summary": _summary(run), "sections": sections}
    write_atomic(path, fill_page(template, title, style, script, parts))
    return path


def _part(name: str) -> str:
    return resources.files(_PARTS).joinpath(name).read_text("utf-8")


def _summary(run: RunContents) -> str:
    """What the run is and how far it has come."""
    config, stages = run.config, run.config.stages
    facts = [
        f"{run.steps} steps" if run.finished else f"{run.steps} of {most_steps(config)} steps, not finished",
        f"{stages} stage{'s' * (stages > 1)} with {config.vectors} vector{'s' * (config.vectors > 1)} each",
        f"model {config.model}",
    ]
    if run.metrics and "images_per_second" in run.metrics[-1]:
        facts.append(f"{run.metrics[-1]['images_per_second']:.3g} pictures per second")
    return " · ".join(map(html.escape, facts))


def _sections(run: RunContents) -> Iterator[tuple[str, str, str]]:
    """Key, heading and content of each section; those without content are left out."""
    yield "learned", "Learned from", training_pictures(run)
    yield "paints", "What it paints", previews(run)
    yield "commands", "Commands", _commands(run)
    yield "loss", "Loss since the start", _loss(run)
    yield "evaluation", "Loss on samples that stay the same", _evaluations(run)
    yield "norms", "Norms of the vectors", _norms(run)
    yield "time", "Where the time went", _time(run)
    yield "settings", "Settings", _settings(run.config)
    yield "sessions", "Started and resumed", _sessions(run)


def _commands(run: RunContents) -> str:
    """The commands that go on with the run, paint with its style, and train it again."""
    commands = {"Paint with it": painting_command(run.config)} if run.finished else {}
    if not run.finished:
        commands["Continue"] = resuming_command(run.config)
    commands["Train it again, into another folder"] = training_command(run.config)
    return "".join(f"<h3>{what}</h3><pre>{html.escape(command)}</pre>" for what, command in commands.items())


def _loss(run: RunContents) -> str:
    if not run.metrics:
        return ""
    curves = loss_curves(run.metrics)
    drawn = [
        Curve(label, values, colour)
        for (label, values), colour in zip(curves.stages.items(), stage_colours(len(curves.stages)), strict=True)
    ]
    drawn.append(Curve("all timesteps", curves.all, "var(--ink)", 3.0))
    caption = (
        f"The denoising loss, smoothed over about {curves.window} points of the log; each curve relative to its own "
        "start. Little noise is hard to predict and much noise easy, so the levels differ by far more than training "
        "changes them."
    )
    return chart(curves.steps, drawn, caption, _change)


def _evaluations(run: RunContents) -> str:
    lines = [line for line in run.metrics if "evaluation_loss" in line]
    if not lines:
        return ""
    losses = np.array([line["evaluation_loss"] for line in lines])
    curves = _of_stages(losses / losses[0])
    caption = "Each stage relative to its first measurement. --steps auto stops when these have settled."
    return chart(np.array([line["step"] for line in lines], float), curves, caption, _change)


def _norms(run: RunContents) -> str:
    lines = [line for line in run.metrics if "relative_norm" in line]
    if not lines:
        return ""
    norms = np.array([line["relative_norm"] for line in lines], float)
    words = run.metadata.get("word_norms", {})
    means = " and ".join(f"{norm:.3g}" for norm in words.values())
    caption = (
        f"Mean norm of each stage's vectors, in mean norms of the vocabulary's words{f' ({means})' * bool(means)}: at "
        "the line, a vector is as long as a word. Vectors that are far longer may drown the rest of a prompt; "
        "<code>--norm fixed</code> keeps them at the line."
    )
    return chart(np.array([line["step"] for line in lines], float), _of_stages(norms), caption, "{:.2f}".format, 1.0)


def _of_stages(values: np.ndarray) -> list[Curve]:
    """A curve for each stage, of values [N, T]."""
    stages = values.shape[1]
    return list(map(Curve, stage_labels(stages), values.T, stage_colours(stages)))


def _time(run: RunContents) -> str:
    """The shares of the time in the last process: of all of it if that is known, or until it logged last."""
    ended, logged = (lines[-1] if lines else {} for lines in (run.sessions, run.metrics))
    shares = ended.get("goodput") or logged.get("goodput", {})
    rows = "".join(
        f'<tr><th scope="row">{html.escape(kind)}</th><td>{share:.1%}</td><td><svg viewBox="0 0 100 8" aria-hidden='
        f'"true" preserveAspectRatio="none"><rect class="bar" width="{100 * share:.2f}" height="8"/></svg></td></tr>'
        for kind, share in shares.items()
    )
    return rows and f'<table class="shares"><tbody>{rows}</tbody></table>'


def _settings(config: TrainConfig) -> str:
    """Those that differ from their defaults, and all of them, folded."""
    defaults = TrainConfig()
    changed = {
        field.name: as_given(field, getattr(config, field.name))
        for field in options_of(TrainConfig)
        if getattr(config, field.name) != getattr(defaults, field.name)
    }
    rows = "".join(f"<div><dt>{name}</dt><dd>{_value(value)}</dd></div>" for name, value in changed.items())
    return (
        f"<p>Those that differ from their defaults:</p><dl>{rows}</dl><details><summary>All of them, as in config.yaml"
        f"</summary><pre>{html.escape(to_yaml(config))}</pre></details>"
    )


def _value(value: object) -> str:
    values = value if isinstance(value, list) else [value]
    return "<br>".join(html.escape(str(item)) for item in values)


def _sessions(run: RunContents) -> str:
    rows = ""
    for session in run.sessions:
        versions = ", ".join(f"{name} {version}" for name, version in session["versions"].items())
        values = (str(session["step"]), session["time"], session["devices"], versions)
        rows += f"<tr>{''.join(f'<td>{html.escape(value)}</td>' for value in values)}</tr>"
    heads = "".join(f'<th scope="col">{name}</th>' for name in ("at step", "time", "devices", "versions"))
    wide = '<div class="wide" tabindex="0" role="region" aria-label="Starts of the run">'
    return rows and f"{wide}<table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div>"


def _change(ratio: float) -> str:
    """A ratio as a change in percent."""
    return f"{100 * (ratio - 1):+.1f} %" if np.isfinite(ratio) else ""
