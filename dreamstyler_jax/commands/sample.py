"""Paints prompts in learned styles.

    python sample.py --styles runs/NAME --prompts "A painting of a dog in the style of {}"

Without arguments: the newest style under ``runs/``, or the one shipped, on the embedded model. ``--help`` lists
everything.
"""

import dataclasses
import functools
import os
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dreamstyler_jax import prompts, transfer
from dreamstyler_jax.commands.cli import command_line, parse
from dreamstyler_jax.commands.config import BARE_PROMPTS, SampleConfig
from dreamstyler_jax.grids import cells as grid
from dreamstyler_jax.grids.gallery import Gallery, Writer
from dreamstyler_jax.grids.page import write_page
from dreamstyler_jax.grids.sheets import write_sheets
from dreamstyler_jax.mini.shipped import EXAMPLE_STYLE
from dreamstyler_jax.mixing import mix, parse_recipe
from dreamstyler_jax.runtime.compilation import share_cores
from dreamstyler_jax.runtime.console import progress
from dreamstyler_jax.runtime.devices import shard_of
from dreamstyler_jax.runtime.errors import UserError
from dreamstyler_jax.runtime.files import check_output
from dreamstyler_jax.stable_diffusion.pipeline import StableDiffusion, own_controlnet
from dreamstyler_jax.style import FILE_NAME, STEP, Style, at_step, check_width, load_styles

Painted = Iterator[tuple[grid.Cell, np.ndarray]]


def run(config: SampleConfig) -> None:
    """Paints every picture that is missing and leaves pictures, manifest, contact sheets and page behind."""
    index, count = shard_of(config.shard)
    config = with_defaults(config)
    texts = all_prompts(config)
    styles = load_styles(config.styles, config.checkpoints, checkpoints_in(config, texts))
    folder = Path(config.output) if config.output else default_folder(styles)
    check_output(folder)
    warn_of_idle_settings(config)
    for own in texts.values():
        prompts.require_placeholders(own, styles)
    styles |= mixed(config, styles)
    voices = config.mixes or list(dict.fromkeys(STEP.sub("", name) for name in styles))
    nets = [transfer.parse_net(net) for net in config.controlnets]
    model = load_model(config, nets)
    contents = load_contents(config, model)
    cells = grid.make_cells(config, model, texts, styles, voices, model.size(config.height, config.width), contents)
    shape, studio = grid.shape_of(cells, config.batch_size), grid.Studio(model, contents, nets, config.depth_model)
    check_prompts(model, cells, styles, shape.rows)
    gallery = Gallery(folder, (index, count), functools.partial(note, config, styles))
    gallery.check_definition(grid.definition(cells), config.merge)
    own = cells[index::count]
    todo = gallery.missing(own)
    if listed := gallery.listed(own):
        whole = len(own) - len(todo)
        damage = f", {listed - whole} damaged" if listed > whole else ""
        print(f"{whole} of {len(own)} pictures are there and whole{damage}")
    failed = paint(gallery, todo, lambda some: grid.paint(model, some, styles, shape, studio))
    if count > 1:
        print(f"Part {index}/{count} is painted; when all are, the same command without --shard makes sheets and page")
    else:
        show(config, gallery, cells, styles)
    if failed:
        raise UserError(
            f"{failed} of {len(own)} pictures failed, see {gallery.manifest}; the same command tries them again"
        )


def with_defaults(config: SampleConfig) -> SampleConfig:
    """The config with the styles and ControlNets that are taken where none are named."""
    styles, nets = config.styles or [os.path.relpath(newest_style())], config.controlnets
    if config.content and not nets and own_controlnet(config.model, config.variant):
        nets = ["edges"]
    return dataclasses.replace(config, styles=styles, controlnets=nets)


def checkpoints_in(config: SampleConfig, texts: Mapping[str, Iterable[str]]) -> set[str]:
    """The styles that prompts and recipes name as they were at a step of their training, as gogh@100."""
    every = [config.negative_prompt, *(text for own in texts.values() for text in own)]
    names = {name for text in every for name in prompts.names_in(text)}
    names |= {name for recipe in config.mixes for part in parse_recipe(recipe) for name in part.weights}
    return {name for name in names if STEP.search(name)}


def mixed(config: SampleConfig, styles: Mapping[str, Style]) -> dict[str, Style]:
    """The mixes, each as it was at every checkpoint; once if its recipe says of which checkpoints it is."""
    mixes = {}
    for recipe in config.mixes:
        for step in config.checkpoints if config.checkpoints and at_step(recipe, 1) != recipe else [0]:
            then = {STEP.sub("", name): style for name, style in styles.items() if step and name.endswith(f"@{step}")}
            mixes[at_step(recipe, step)] = mix(recipe, {**styles, **then})
    return mixes


def paint(gallery: Gallery, cells: list[grid.Cell], painter: Callable[[list[grid.Cell]], Painted]) -> int:
    """Paints cells into the gallery, what fails once more; the number of those that failed twice, now recorded."""
    gallery.begin()
    failed: list[tuple[grid.Cell, str]] = []
    for attempt in ("painting", "once more"):
        if not cells:
            return 0
        painted = painter(cells)
        with Writer(gallery) as writer:
            for cell, picture in progress(painted, attempt, len(cells), unit="picture"):
                writer.save(cell, picture)
        failed = writer.failed
        cells = [cell for cell, _ in failed]
    for cell, reason in failed:
        gallery.fail(cell, reason)
    return len(failed)


def load_model(config: SampleConfig, nets: list[transfer.Net]) -> StableDiffusion:
    """The model with the ControlNets.

    Raises:
      UserError: one of them is to be the model's own, which has none; and see `StableDiffusion`.
    """
    folders = [net.model or own_controlnet(config.model, config.variant) for net in nets]
    if None in folders:
        raise UserError(f"controlnets: {config.model} has none of its own; say which, as in {nets[0].kind}=FOLDER")
    model = StableDiffusion.load(config.model, variant=config.variant, dtype=config.dtype)
    if not nets:
        return model
    return model.with_controlnets(folders, variant=config.variant, guess_mode=config.guess_mode)


def load_contents(config: SampleConfig, model: StableDiffusion) -> list[transfer.Content]:
    """The pictures to repaint, cut to the height and width asked for, or else as they are."""
    size = model.size(config.height, config.width) if config.height or config.width else None
    given = config.control_images or [None] * len(config.content)
    pairs = zip(config.content, given, strict=True)
    return [transfer.load_content(path, model.resolution, model.multiple, size, own) for path, own in pairs]


def show(config: SampleConfig, gallery: Gallery, cells: list[grid.Cell], styles: Mapping[str, Style]) -> None:
    """Puts the manifest in order, makes contact sheets and page, and says where everything is."""
    gallery.finish(cells)
    files = {id: gallery.folder / line["file"] for id, line in gallery.lines.items() if "file" in line}
    sheets = write_sheets(gallery.folder, cells, files, styles)
    names = dict.fromkeys(name for line in gallery.lines.values() for name in line["styles"])
    pictures = {name: path for line in gallery.lines.values() for name, path in line.get("learned_from", {}).items()}
    page = write_page(gallery.folder, gallery.lines.values(), title=title_of(list(names)), style_pictures=pictures)
    where = sheets[0] if len(sheets) == 1 else f"{sheets[0]} to {sheets[-1].name}"
    several, earlier = "s" * (len(files) != 1), len(files) - sum(cell.id in files for cell in cells)
    on_sheets = f"all but {earlier} earlier ones on sheets in" if earlier else "on sheets in"
    print(f"{len(files)} picture{several} in {gallery.folder / 'images'}, {on_sheets} {where}")
    print(f"Look through them in a browser: {page}")


def title_of(styles: list[str]) -> str:
    """What a page of these styles is called."""
    return ", ".join(styles[:3]) + (f" and {len(styles) - 3} more" if len(styles) > 3 else "")


def note(config: SampleConfig, styles: Mapping[str, Style], cell: grid.Cell) -> dict[str, Any]:
    """What the manifest says of a picture besides its parameters: how to paint it again, and what its styles know."""
    sources = {name: styles[at_step(name, cell.checkpoint)].metadata.get("images") for name in cell.styles}
    learned_from = {name: paths[0] for name, paths in sources.items() if paths and Path(paths[0]).is_file()}
    return {"command": command_of(config, cell), "learned_from": learned_from}


def command_of(config: SampleConfig, cell: grid.Cell) -> str:
    """What to type to paint one picture of the grid again, into a folder of its own."""
    one = dataclasses.replace(
        config,
        prompts=[prompts.name_placeholder(cell.prompt, cell.style)],
        prompts_file="",
        negative_prompt=prompts.name_placeholder(cell.negative_prompt, cell.style),
        seeds=str(cell.seed),
        checkpoints=[cell.checkpoint] if cell.checkpoint else config.checkpoints,
        solver=[cell.solver],
        steps=[cell.steps],
        **{name: [value] for name, value in cell.scales.items()},
        **size_and_content(config, cell),
        shard=SampleConfig.shard,
        merge=True,
        output="out/again",
    )
    return command_line("sample.py", one)


def size_and_content(config: SampleConfig, cell: grid.Cell) -> dict[str, Any]:
    """Settings that make pictures of the cell's size and content."""
    if not cell.repaint:
        return {"height": cell.height, "width": cell.width}
    number = config.content.index(cell.repaint.content)
    return {
        "content": [cell.repaint.content],
        "control_images": config.control_images[number : number + 1],
        "strength": [cell.repaint.strength],
        "control_scale": [cell.repaint.control_scale] if cell.repaint.controlnets else config.control_scale,
    }


def check_prompts(
    model: StableDiffusion, cells: list[grid.Cell], styles: Mapping[str, Style], rows: Iterable[int]
) -> None:
    """Refuses styles of another model, and prompts that cannot be encoded, before anything is painted.

    Args:
      rows: of guidance, those whose prompts count.
    """
    check_width(styles, model.text_width)
    different = {(cell.prompt, cell.style): cell for cell in cells}.values()
    texts = list(dict.fromkeys(cell.texts[row] for cell in different for row in rows))
    prompts.tokenize(model.tokenizer, texts, {name: style.vectors for name, style in styles.items()})


def newest_style() -> Path:
    """The style finished last under ``runs/``, or the shipped one."""
    finished = sorted(Path("runs").glob(f"*/{FILE_NAME}"), key=lambda path: path.stat().st_mtime)
    return finished[-1] if finished else EXAMPLE_STYLE


def default_folder(styles: Iterable[str]) -> Path:
    """``out/`` and the names of the styles, made fit for a folder: they may come from any tool's file."""
    name = re.sub(r"[^\w.-]+", "_", "-".join(styles)).strip("._")
    return Path("out") / (name[:100] or "style")


def all_prompts(config: SampleConfig) -> dict[str, list[str]]:
    """Every version of every prompt, none twice, for each picture in ``content``; under "" where there is none."""
    common = read_prompts(config.prompts_file) if config.prompts_file else config.prompts
    bare = BARE_PROMPTS["style"]
    lines = {content: common or [prompts.beside(content) or bare] for content in config.content or [""]}
    return {
        content: list(dict.fromkeys(text for line in own for text in prompts.expand(line)))
        for content, own in lines.items()
    }


def read_prompts(path: str) -> list[str]:
    """The lines of a text file, without empty ones and those that begin with #."""
    try:
        lines = [line.strip() for line in Path(path).read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise UserError(f"prompts_file: cannot read {path}: {reason}") from error
    texts = [line for line in lines if line and not line.startswith("#")]
    if not texts:
        raise UserError(f"prompts_file: {path} holds no prompt; write one per line")
    return texts


def warn_of_idle_settings(config: SampleConfig) -> None:
    """Says so where something was set that counts only with something else."""
    usual, needed = SampleConfig(), {}
    for name in ("guidance_scale", "null_scale", "style_scale", "context_scale"):
        if name not in grid.SCALES[config.guidance]:
            forms = "cfg" if name == "guidance_scale" else "paper or release"
            needed[name] = f"--guidance {forms}, not {config.guidance}"
    if not config.content:
        of_content = ("strength", "control_images", "control_scale", "control_start", "control_end", "guess_mode")
        needed |= dict.fromkeys(of_content, "--content")
    for name, condition in needed.items():
        if getattr(config, name) != getattr(usual, name):
            warnings.warn(f"{name} counts only with {condition}", stacklevel=2)


def command() -> None:
    """What the command line asks for."""
    config = parse(SampleConfig)
    share_cores(config.model, config.batch_size)
    run(config)
