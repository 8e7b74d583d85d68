"""Checks of a grid's folder."""

import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dreamstyler_jax.commands.cli import parse
from dreamstyler_jax.commands.config import SampleConfig
from dreamstyler_jax.commands.prompt_lists import grid_parts
from dreamstyler_jax.commands.sample_inputs import load_all_styles
from dreamstyler_jax.commands.verification.findings import Finding, Severity, noting
from dreamstyler_jax.commands.verification.inputs import model_findings
from dreamstyler_jax.grids.gallery import DEFINITION, Gallery
from dreamstyler_jax.grids.page.document import FILE_NAME as PAGE
from dreamstyler_jax.grids.unfinished import read_unfinished
from dreamstyler_jax.runtime.errors import UserError, listing
from dreamstyler_jax.runtime.picture_files import SUFFIXES
from dreamstyler_jax.stable_diffusion.loras.recipes import NO_LORAS
from dreamstyler_jax.style import StyleRef

_SAME = "the command that painted the grid"


def grid_findings(folder: Path) -> list[Finding]:
    """What is wrong with a grid: its pictures and page, and the styles and the model that painted it."""
    findings: list[Finding] = []
    with noting(findings, folder, "bring back a copy"):
        gallery = Gallery(folder)
        findings += _picture_findings(gallery)
        findings += (unfinished := list(_progress_findings(gallery)))
        if not (unfinished and not (folder / PAGE).is_file()):  # it is made when all is painted
            findings += _page_findings(folder)
        findings += _source_findings(gallery)
    return findings


def _picture_findings(gallery: Gallery) -> Iterator[Finding]:
    """Pictures that failed, are missing, damaged, or not listed."""
    lines, pictures = gallery.lines, gallery.folder / "images"
    broken: dict[str, list[str]] = {}
    for id, line in lines.items():
        path = gallery.file_of(line)
        if not gallery.is_whole(line):
            why = "failed" if "error" in line else "are damaged" if path and path.is_file() else "are missing"
            broken.setdefault(why, []).append(str(line.get("file", id)))
    for why, names in broken.items():
        yield Finding(pictures, f"{len(names)} pictures {why}: {listing(names)}", f"{_SAME} paints them again")
    listed = {path.name for line in lines.values() if (path := gallery.file_of(line))}
    there = {path.name for path in pictures.glob("*") if path.suffix in SUFFIXES.values()}
    if others := sorted(there - listed):
        what = f"{len(others)} pictures that the manifest does not list: {listing(others)}"
        yield Finding(pictures, what, "remove them if they are not yours", severity=Severity.NOTE)
    if lines and not (gallery.folder / DEFINITION).is_file():
        yield Finding(gallery.folder / DEFINITION, "missing", f"{_SAME} writes it again")


def _progress_findings(gallery: Gallery) -> Iterator[Finding]:
    """Grids that were begun here, and of which pictures are still to be painted."""
    for command, ids in read_unfinished(gallery.folder).items():
        painted = sum("file" in gallery.lines.get(id, {}) for id in ids)
        rest = ", only sheets and page are to be made" if painted == len(ids) else ""
        what = f"not finished, {painted} of {len(ids)} pictures are painted{rest}"
        yield Finding(gallery.folder, what, f"to continue: {command}", Severity.UNFINISHED)


def _page_findings(folder: Path) -> Iterator[Finding]:
    """What the page shows and is not there."""
    page, advice = folder / PAGE, f"{_SAME} makes it again"
    if not page.is_file():
        yield Finding(page, "missing", advice)
        return
    names = sorted(set(re.findall(r"atlas/[0-9a-f]{16}\.jpg", page.read_text("utf-8"))))
    if lost := [name for name in names if not (folder / name).is_file()]:
        yield Finding(page, f"its thumbnails {listing(lost)} are missing", advice)


def _source_findings(gallery: Gallery) -> Iterator[Finding]:
    """Styles and models that are not those of the pictures, each of them once."""
    counts: dict[tuple[Any, ...], int] = {}
    examples: dict[tuple[Any, ...], Mapping[str, Any]] = {}
    for line in gallery.lines.values():
        key = (tuple(line["styles"].items()), line.get("checkpoint"), line.get("model_hash"), line.get("loras"))
        counts[key] = counts.get(key, 0) + 1
        examples.setdefault(key, line)
    found: dict[str, Finding] = {}
    for key, line in examples.items():
        made = f"painted {counts[key]} pictures"
        for finding in _sources_of(gallery.folder, line, made):
            found.setdefault(finding.what, finding)
    yield from found.values()


def _sources_of(folder: Path, line: Mapping[str, Any], made: str) -> Iterator[Finding]:
    """Styles and models that are not those of a picture, by the command that paints it again."""
    try:
        config = parse(SampleConfig, shlex.split(str(line.get("command", "")))[2:])
    except (UserError, ValueError):
        yield Finding(
            folder, "a picture's command cannot be read, so its sources are not compared", severity=Severity.NOTE
        )
        return
    try:
        styles = load_all_styles(config, grid_parts(config))
    except UserError as error:
        yield Finding(folder, f"styles are not compared: {error}", severity=Severity.NOTE)
    else:
        for name, hash in line["styles"].items():
            style = styles.get(str(StyleRef.parse(name).at(line.get("checkpoint", 0))))
            if style and style.hash != hash:
                what = f"the style {name!r} is not the one that {made}: it is {style.hash} now, not {hash}"
                yield Finding(folder, what, "bring it back, or paint into another folder")
    has_more = bool(line.get("controlnets")) or line.get("loras", NO_LORAS) != NO_LORAS
    yield from model_findings(folder, made, line.get("model_hash"), config, has_more=has_more)
