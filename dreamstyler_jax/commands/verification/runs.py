"""Checks of a training run's folder."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from dreamstyler_jax import inversion
from dreamstyler_jax.commands.config import TrainConfig
from dreamstyler_jax.commands.config_files import read_config
from dreamstyler_jax.commands.reporting.contents import numbered
from dreamstyler_jax.commands.run_log import METRICS, read_metrics
from dreamstyler_jax.commands.runs import SETTINGS, resuming_command
from dreamstyler_jax.commands.sessions import SESSIONS, read_sessions
from dreamstyler_jax.commands.verification.findings import Finding, Severity, noting
from dreamstyler_jax.commands.verification.inputs import model_findings, picture_findings
from dreamstyler_jax.commands.verification.styles import norm_findings
from dreamstyler_jax.optimizers import make_optimizer
from dreamstyler_jax.runtime import images
from dreamstyler_jax.runtime.buckets import in_bucket
from dreamstyler_jax.runtime.checkpoints import read_checkpoints
from dreamstyler_jax.runtime.errors import listing
from dreamstyler_jax.stable_diffusion.loras.recipes import NO_LORAS
from dreamstyler_jax.style import FILE_NAME, Style, step_file
from dreamstyler_jax.train_settings import AUTO_STEPS, most_steps
from dreamstyler_jax.training import style_in

AGAIN = "bring back a copy, or learn the style again"
# Settings that styles record under the same name.
_RECORDED = ("property", "batch_size", "norm", "prior", "average", "seed", "framing", "prompts")


def run_findings(folder: Path) -> list[Finding]:
    """What is wrong with a run: its settings, log, styles, checkpoints and previews, and what it was made from."""
    findings: list[Finding] = []
    config, styles = None, {}
    with noting(findings, folder / SETTINGS, "without it the run cannot be resumed"):
        config = read_config(TrainConfig, folder / SETTINGS)
    for step, path in sorted(numbered((folder / "steps").glob("step_*.safetensors"))):
        with noting(findings, path, "--checkpoints cannot paint with it; the others are whole"):
            styles[step] = Style.load(path)
    final = None
    if (folder / FILE_NAME).is_file():
        with noting(findings, folder / FILE_NAME, "the newest file in steps/ is the style at that step"):
            final = Style.load(folder / FILE_NAME)
    newest = final or (styles[max(styles)] if styles else None)
    if config is None or newest is None:
        if config:
            what = f"not finished, none of {most_steps(config)} steps is saved"
            findings.append(Finding(folder, what, f"to continue: {resuming_command(config)}", Severity.UNFINISHED))
        return findings
    steps = newest.metadata.get("steps", 0)
    findings += _progress_findings(folder, config, final, steps)
    findings += _setting_findings(folder / SETTINGS, config, newest)
    findings += _checkpoint_findings(folder, config, final, styles)
    findings += _log_findings(folder, config, steps)
    findings += _by_product_findings(folder, config, styles, steps)
    findings += norm_findings(folder / FILE_NAME, newest)
    findings += picture_findings(folder, newest.metadata)
    recorded, has_loras = newest.metadata.get("model_hash"), config.loras != NO_LORAS
    findings += model_findings(folder, "learned the style", recorded, config, has_more=has_loras)
    return findings


def _progress_findings(folder: Path, config: TrainConfig, final: Style | None, steps: int) -> Iterator[Finding]:
    if final is None or (config.steps != AUTO_STEPS and steps < most_steps(config)):
        what = f"not finished, {steps} of {most_steps(config)} steps are saved"
        yield Finding(folder, what, f"to continue: {resuming_command(config)}", Severity.UNFINISHED)


def _setting_findings(path: Path, config: TrainConfig, style: Style) -> Iterator[Finding]:
    """Settings that are not those which the style was learned with."""
    shape = {"name": style.name, "stages": style.stages, "vectors": style.vectors}
    recorded = shape | {name: style.metadata[name] for name in _RECORDED if name in style.metadata}
    changed = [name for name, value in recorded.items() if getattr(config, name) != value]
    if changed:
        what = f"{listing(changed)} differ from what the style was learned with"
        yield Finding(path, what, "put back the settings that it records")


def _checkpoint_findings(
    folder: Path, config: TrainConfig, final: Style | None, styles: dict[int, Style]
) -> Iterator[Finding]:
    """Checkpoints that are damaged, or are not what the styles beside them were made from."""
    place = folder / "checkpoints"
    if in_bucket(folder):
        yield Finding(place, "checkpoints in a bucket are not looked into", severity=Severity.NOTE)
        return
    known = final or styles[max(styles)]
    like = inversion.start(known.tables, make_optimizer(config), averaged=config.average > 0)
    states = read_checkpoints(place, like) if place.is_dir() else {}
    if not any(state is not None for state in states.values()):
        yield Finding(place, "there is no checkpoint that can be read", "the run cannot be continued")
    for step, state in states.items():
        if state is None:
            yield Finding(place / str(step), "damaged, or of other settings", "remove it; --resume uses an older one")
            continue
        style = style_in(known, state)
        if step in styles and styles[step].hash != style.hash:
            advice = "one of both was replaced; bring back a copy"
            yield Finding(step_file(folder, step), "not the style that the checkpoint holds", advice)
        if final and final.metadata.get("steps") == step and final.hash != style.hash:
            yield Finding(folder / FILE_NAME, f"not the style that the checkpoint of step {step} holds", AGAIN)


def _log_findings(folder: Path, config: TrainConfig, steps: int) -> list[Finding]:
    """Lines that are missing in the log."""
    findings: list[Finding] = []
    path = folder / METRICS
    with noting(findings, path, "delete what is damaged"):
        logged = [line["step"] for line in read_metrics(path)]
        lost = sorted({*range(config.log_every, steps + 1, config.log_every), steps} - {*logged})
        if lost:
            what = f"there is no line of {len(lost)} steps: {listing(list(map(str, lost)))}"
            advice = "the style is not affected" if logged else AGAIN
            findings.append(Finding(path, what, f"{advice} (or --log_every was another one then)"))
        if logged != sorted(set(logged)):
            findings.append(Finding(path, "its steps are not in order", "the style is not affected"))
    with noting(findings, folder / SESSIONS, "delete the line"):
        read_sessions(folder)
    return findings


def _by_product_findings(folder: Path, config: TrainConfig, styles: dict[int, Any], steps: int) -> list[Finding]:
    """Styles of checkpoints and previews that are missing or damaged."""
    findings: list[Finding] = []
    wanted = {*range(config.save_every, steps + 1, config.save_every), steps}
    if missing := sorted(step for step in wanted if not step_file(folder, step).is_file()):
        names = listing([step_file(folder, step).name for step in missing])
        findings.append(Finding(folder / "steps", f"{names} missing", "--checkpoints cannot paint with these"))
    for step in sorted(styles) if config.preview_prompts else ():
        path = folder / "previews" / f"step_{step:06d}.png"
        with noting(findings, path, f"paint it again with --checkpoints {step}"):
            np.asarray(images.load(path))
    return findings
