"""Checks of a style's file."""

from collections.abc import Iterator
from pathlib import Path

from dreamstyler_jax.commands.config import SampleConfig
from dreamstyler_jax.commands.verification.findings import Finding, Severity, noting
from dreamstyler_jax.commands.verification.inputs import model_findings, picture_findings
from dreamstyler_jax.stable_diffusion.loras.recipes import NO_LORAS
from dreamstyler_jax.style import Style, relative_norms

FAR = 30.0  # mean norms of the vocabulary: vectors learned with --norm free have about ten


def style_findings(path: Path, *, with_inputs: bool = True) -> list[Finding]:
    """What is wrong with a style's file: its vectors, and what it was made from.

    Args:
        path: the file.
        with_inputs: whether to look at its training pictures and its model, too.
    """
    findings: list[Finding] = []
    with noting(findings, path, "make it again, or bring back a copy"):
        style = Style.load(path)
        findings += norm_findings(path, style)
        if with_inputs:
            findings += picture_findings(path, style.metadata)
            findings += _model_findings(path, style)
    return findings


def norm_findings(path: Path, style: Style) -> Iterator[Finding]:
    """Vectors that are far longer than words, or zero."""
    if any((table == 0).all(-1).any() for table in style.tables.values()):
        yield Finding(path, "a vector of it is zero", "learn it again")
    word_norms = style.metadata.get("word_norms", {})
    if style.tables.keys() <= word_norms.keys() and all(word_norms.values()):
        longest = float(relative_norms(style.tables, word_norms).max())
        if longest > FAR:
            what = f"the vectors of a stage are {longest:.0f} times as long as words and may drown the rest of a prompt"
            yield Finding(
                path, what, "learn it with --norm fixed, or at a lower --learning_rate", severity=Severity.NOTE
            )


def _model_findings(path: Path, style: Style) -> Iterator[Finding]:
    known = style.metadata
    if model := known.get("model"):
        has_loras = known.get("loras", NO_LORAS) != NO_LORAS
        config = SampleConfig(model=model)
        yield from model_findings(path, "it was learned with", known.get("model_hash"), config, has_more=has_loras)
