"""``dreamstyler sample``: paints prompts in learned styles, one picture or a grid of thousands."""

import contextlib
import dataclasses
import functools
import re
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dreamstyler_jax import prompts
from dreamstyler_jax.commands.cli import command_line
from dreamstyler_jax.commands.config import SampleConfig
from dreamstyler_jax.commands.grid_jobs import Job, model_for, prepare
from dreamstyler_jax.commands.prompt_lists import grid_parts
from dreamstyler_jax.commands.sample_inputs import (
    context_lines,
    load_all_styles,
    scheduler_line,
    with_default_style,
)
from dreamstyler_jax.foreign_syntax import warn_of_foreign_syntax
from dreamstyler_jax.grids.cells import Cell, definition
from dreamstyler_jax.grids.gallery import Gallery
from dreamstyler_jax.grids.learned_from import learned_from, style_pictures
from dreamstyler_jax.grids.live_page import LivePage, title_of
from dreamstyler_jax.grids.page import write_page
from dreamstyler_jax.grids.painting import paint_cells, shape_of
from dreamstyler_jax.grids.sheets import write_sheets
from dreamstyler_jax.grids.unfinished import note_begun, note_painted
from dreamstyler_jax.grids.writer import Writer
from dreamstyler_jax.guidance import SCALES
from dreamstyler_jax.mini.vocabulary import warn_of_unknown_words
from dreamstyler_jax.mixing import parse_recipe
from dreamstyler_jax.runtime.buckets import path_of
from dreamstyler_jax.runtime.compilation import share_cores
from dreamstyler_jax.runtime.console import announce
from dreamstyler_jax.runtime.errors import UserError, listing
from dreamstyler_jax.runtime.files import check_output
from dreamstyler_jax.runtime.hosts import shard_of
from dreamstyler_jax.runtime.interruption import patiently
from dreamstyler_jax.runtime.locks import only_process
from dreamstyler_jax.runtime.profiling import Window, tracing
from dreamstyler_jax.runtime.progress import progress
from dreamstyler_jax.style import Style, StyleRef, names_in_paths

WARM_UP = 2  # of a trace, in batches


def run(config: SampleConfig) -> None:
    """Paints every picture that is missing, and leaves pictures, manifest, contact sheets and page."""
    with tracing(config.profile) as window:
        share_cores(config.model, config.batch_size)
        shard = shard_of(config.shard)
        config = with_default_style(config)
        parts = grid_parts(config)
        styles = load_all_styles(config, parts)
        check_output(path_of(config.output) if config.output else default_folder(styles))
        paint_grid(prepare(config, parts, styles, model_for(config)), painting_command(config), shard, window)


def painting_command(config: SampleConfig) -> str:
    """The command that paints all that is missing in a grid, also where one process painted a part of it."""
    whole = {"shard": SampleConfig.shard, "distributed": False, "profile": SampleConfig.profile}
    return command_line("sample", dataclasses.replace(config, **whole))


def paint_grid(job: Job, command: str, shard: tuple[int, int] = (0, 1), window: Window | None = None) -> None:
    """Paints the missing pictures of a grid and, unless others paint a part of it, makes sheets and page.

    Args:
        job: the grid.
        command: that paints it.
        shard: (i, n): this is process i of n.
        window: traces the pictures within it.

    Raises:
        UserError: the folder holds another grid, or pictures failed.
    """
    config, model, styles, cells, (index, count) = job.config, job.model, job.styles, job.cells, shard
    shape = shape_of(cells, config.batch_size)
    gallery = open_gallery(config, cells, styles, shard)
    shard_cells = cells[index::count]
    with only_process(gallery.folder) if count == 1 else contextlib.nullcontext():  # shards have a manifest each
        if others := gallery.other_names():
            warnings.warn(f"name_format: {others} pictures are there already and keep their names", stacklevel=2)
        todo = missing(gallery, shard_cells)
        if todo:
            note_begun(gallery.folder, command, [cell.id for cell in cells])
            texts = list(dict.fromkeys(text for cell in todo for text in (cell.prompt, cell.negative_prompt)))
            warn_of_unknown_words(config.model, texts)
            warn_of_foreign_syntax(texts)
            lines = dict.fromkeys(line for stack in job.loras for line in stack.lines)
            announce(model, *lines, *scheduler_line(model), summary(todo), *context_lines(todo, shape.rows))
        live_page = LivePage(gallery, cells, todo, styles, live=config.live) if count == 1 else contextlib.nullcontext()
        painter = functools.partial(
            paint_cells, styles=styles, shape=shape, contents=job.contents, encoder=job.encoder, loras=job.loras
        )
        size, window = shape.batch_size, window or Window("")
        with patiently("stopping after the pictures that are being painted"), live_page:
            failed = paint_into(gallery, todo, lambda cells: window.over(painter(model, cells), WARM_UP * size, size))
        if count == 1:
            show(gallery, cells, styles)
    if count > 1:
        print(f"Part {index}/{count} is painted; when all are, the same command without --shard makes sheets and page")
    if failed:
        raise UserError(
            f"{failed} of {len(shard_cells)} pictures failed, see {gallery.manifest}; the same command tries them again"
        )


def open_gallery(
    config: SampleConfig, cells: Sequence[Cell], styles: Mapping[str, Style], shard: tuple[int, int]
) -> Gallery:
    """The folder for this grid: the one asked for, or the first ``out/STYLE``, ``out/STYLE-2``, ... without another.

    Raises:
        UserError: the folder asked for holds another grid, and ``merge`` is not set.
    """
    wanted = definition(cells)
    settings = {cell.model_hash: cell.model_settings for cell in cells}
    note = functools.partial(note_of, config, styles, names_in_paths(config.styles))

    def gallery_in(folder: Path) -> Gallery:
        gallery = Gallery(folder, shard, note, settings)
        gallery.name_files(cells, config.name_format)
        return gallery

    if config.output:
        gallery = gallery_in(path_of(config.output))
        gallery.check_own()
        changed = gallery.holds_another(wanted)
        if changed and not config.merge:
            verb = "differs" if len(changed) == 1 else "differ"
            raise UserError(
                f"{gallery.folder} holds the pictures of another grid ({', '.join(changed)} {verb}): "
                "choose another --output, or add to it with --merge"
            )
    else:
        first = default_folder(styles)
        gallery = next(
            g for g in map(gallery_in, _numbered(first)) if is_free(g) and (config.merge or not g.holds_another(wanted))
        )
        if gallery.folder != first:
            what = "another grid; this one" if is_free(gallery_in(first)) else "files of yours; this grid"
            print(f"{first} holds {what} goes to {gallery.folder}")
    gallery.define(wanted)
    return gallery


def is_free(gallery: Gallery) -> bool:
    """Whether nothing of somebody else's would be replaced."""
    try:
        gallery.check_own()
    except UserError:
        return False
    return True


def missing(gallery: Gallery, cells: Sequence[Cell]) -> list[Cell]:
    """The cells that are to be painted; says how many are not."""
    todo = gallery.missing(cells)
    if listed := gallery.listed(cells):
        whole = len(cells) - len(todo)
        damage = f", {listed - whole} damaged" if listed > whole else ""
        print(f"{whole} of {len(cells)} pictures are there and whole{damage}")
    return todo


def _numbered(folder: Path) -> Iterator[Path]:
    yield folder
    number = 2
    while True:
        yield folder.with_name(f"{folder.name}-{number}")
        number += 1


def default_folder(styles: Iterable[str]) -> Path:
    """``out/`` and the names of the styles, made fit for a folder's name."""
    name = re.sub(r"[^\w.-]+", "_", "-".join(styles)).strip("._")
    return Path("out") / (name.encode()[:100].decode(errors="ignore") or "style")  # file systems count bytes


def paint_into(
    gallery: Gallery, cells: Sequence[Cell], painter: Callable[[Sequence[Cell]], Iterable[tuple[Cell, np.ndarray]]]
) -> int:
    """Paints cells into a gallery, retries those that fail, and records those that fail twice.

    Returns:
        How many failed twice.

    Raises:
        OSError: nothing can be written any more, as on a full disk; the rest is not painted.
    """
    gallery.begin()
    with contextlib.closing(gallery):
        for attempt in ("painting", "trying again"):
            if not cells:
                return 0
            with Writer(gallery) as writer:
                for cell, picture in progress(painter(cells), attempt, len(cells), unit="picture"):
                    writer.save(cell, picture)
            failures = writer.failed
            cells = [cell for cell, _ in failures]
        for cell, reason in failures:
            gallery.fail(cell, reason)
        return len(failures)


def summary(cells: Sequence[Cell]) -> str:
    """What is about to be painted, in a line: how many pictures, of which content, in which styles, and the prompts."""
    contents = list(dict.fromkeys(cell.repaint.content for cell in cells if cell.repaint))
    styles = list(dict.fromkeys(name for cell in cells for name in cell.styles))
    first, *others = dict.fromkeys(cell.prompt for cell in cells)
    return (
        f"Painting {len(cells)} picture{'s' * (len(cells) > 1)}"
        + (f" of {listing(contents)}" if contents else "")
        + (f" in {listing(styles)}" if styles else "")
        + f": {first!r}"
        + (f" and {len(others)} more prompt{'s' * (len(others) > 1)}" if others else "")
    )


def show(gallery: Gallery, cells: Sequence[Cell], styles: Mapping[str, Style]) -> None:
    """Puts the manifest in order, makes page and contact sheets, and says where everything is."""
    gallery.finish(cells)
    lines = gallery.lines.values()
    pictures = style_pictures(lines, cells, styles)
    page = write_page(gallery.folder, lines, title=title_of(lines), style_pictures=pictures)
    files = {id: file for id, line in gallery.lines.items() if (file := gallery.file_of(line))}
    sheets = write_sheets(gallery.folder, cells, files, styles)
    note_painted(gallery.folder, files)
    where = str(sheets[0]) if len(sheets) == 1 else f"{sheets[0]} to {sheets[-1].name}"
    plural, earlier = "s" * (len(files) != 1), len(files) - sum(cell.id in files for cell in cells)
    on_sheets = f"all but {earlier} earlier ones on sheets in" if earlier else "on sheets in"
    print(f"{len(files)} picture{plural} in {gallery.folder / 'images'}, {on_sheets} {where}")
    print(f"Look through them in a browser: {page}")


def note_of(
    config: SampleConfig, styles: Mapping[str, Style], names: Mapping[str, Collection[str]], cell: Cell
) -> dict[str, Any]:
    """What the manifest says of a picture besides its parameters: how to paint it again, and its styles' pictures."""
    return {"command": command_of(config, cell, names), **learned_from(cell, styles)}


def command_of(config: SampleConfig, cell: Cell, names: Mapping[str, Collection[str]]) -> str:
    """The command that paints one picture of the grid again, into a folder of its own.

    Args:
        config: the settings of the grid.
        cell: the picture.
        names: the names of the styles that each path in the settings stands for: only paths that the picture needs are
            in the command.
    """
    needed = {StyleRef.parse(name).name for name in (*cell.styles, *(cell.weak_styles or {}))}
    mixes = [text for text in config.mixes if text in needed]
    needed |= {ref.name for text in mixes for ref in parse_recipe(text).refs}
    single = dataclasses.replace(
        config,
        styles=[path for path in config.styles if not needed.isdisjoint(names[path])] or config.styles,
        mixes=mixes,
        prompts=[prompts.name_placeholder(cell.prompt, cell.style)],
        prompts_file="",
        choices=SampleConfig.choices,
        wildcards="",
        guidance=cell.guidance,
        negative_prompt=prompts.name_placeholder(cell.negative_prompt, cell.style),
        seeds=str(cell.seed),
        loras=[cell.loras],
        checkpoints=[cell.checkpoint] if cell.checkpoint else config.checkpoints,
        solver=[cell.solver],
        steps=[cell.steps],
        **{name: [cell.scales.get(name, scale.default)] for name, scale in SCALES.items()},
        **_size_and_content(config, cell),
        shard=SampleConfig.shard,
        live=SampleConfig.live,
        profile=SampleConfig.profile,
        distributed=False,
        merge=True,
        output="out/again",
    )
    return command_line("sample", single)


def _size_and_content(config: SampleConfig, cell: Cell) -> dict[str, Any]:
    """The settings for pictures of the cell's size and content."""
    if not cell.repaint:
        return {"height": cell.height, "width": cell.width}
    number = config.content.index(cell.repaint.content)
    cropped = {"height": cell.height, "width": cell.width} if config.height or config.width else {}
    return {
        **cropped,
        "content": [cell.repaint.content],
        "control_images": config.control_images[number : number + 1],
        "strength": [cell.repaint.strength],
        "control_scale": [cell.repaint.control_scale] if cell.repaint.controlnets else config.control_scale,
    }
