"""Paints prompts in learned styles.

    python sample.py --styles runs/NAME --prompts "A painting of a dog in the style of {}"

Without arguments: the newest style under ``runs/``, or the one shipped, on the embedded model. ``--help`` lists
everything.
"""

import itertools
import re
import sys
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path

from tqdm import tqdm

from dreamstyler_jax import grid, images, prompts, sampling
from dreamstyler_jax.cli import main, parse
from dreamstyler_jax.config import SampleConfig, parse_seeds
from dreamstyler_jax.console import plain_warnings
from dreamstyler_jax.errors import UserError
from dreamstyler_jax.examples import EXAMPLE_STYLE
from dreamstyler_jax.files import check_output
from dreamstyler_jax.guidance import weights_for
from dreamstyler_jax.pipeline import StableDiffusion
from dreamstyler_jax.solvers import solver_table
from dreamstyler_jax.style import FILE_NAME, Style, load_styles


def run(config: SampleConfig) -> None:
    """Paints every prompt with every seed and leaves pictures, manifest and contact sheet behind."""
    styles = load_styles(config.styles or [newest_style()])
    folder = Path(config.output) if config.output else default_folder(styles)
    check_output(folder)
    warn_of_idle_scales(config)
    texts = list(dict.fromkeys(config.prompts or read_prompts(config.prompts_file)))
    prompts.require_placeholders(texts, styles)
    model = StableDiffusion.load(config.model, variant=config.variant, dtype=config.dtype)
    size = model.size(config.height, config.width)
    table = solver_table(config.solver, model.networks.schedule, config.steps)
    conditionings = grid.Conditionings(model, texts, config.negative_prompt, styles)
    weights = weights_for(config.guidance, list(scales(config).values()))
    cells = [
        make_cell(config, model, styles, text, seed, size)
        for text, seed in itertools.product(texts, parse_seeds(config.seeds))
    ]
    requests = [conditionings.request(cell.prompt, weights, cell.seed) for cell in cells]
    batch_size = min(config.batch_size, len(cells))
    painted = sampling.paint(model, table, conditionings.arrays, requests, size=size, batch_size=batch_size)
    written = grid.write_pictures(folder, cells, painted)
    # No bar where nobody watches: disable=None is tqdm's word for "unless stderr is a terminal".
    pictures = list(tqdm(written, "painting", len(cells), unit="picture", file=sys.stderr, disable=None))
    images.save_png(folder / "grid.png", grid.sheet(cells, pictures, styles, ", ".join(styles)))
    print(f"{len(cells)} pictures are in {folder / 'images'}, all on one sheet in {folder / 'grid.png'}")


def newest_style() -> Path:
    """The style finished last under ``runs/``, or the shipped one."""
    finished = sorted(Path("runs").glob(f"*/{FILE_NAME}"), key=lambda path: path.stat().st_mtime)
    return finished[-1] if finished else EXAMPLE_STYLE


def default_folder(styles: Iterable[str]) -> Path:
    """``out/`` and the names of the styles, made fit for a folder: they may come from any tool's file."""
    name = re.sub(r"[^\w.-]+", "_", "-".join(styles)).strip("._")
    return Path("out") / (name[:100] or "style")


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


def scales(config: SampleConfig) -> dict[str, float]:
    """The scales that the form of guidance has."""
    if config.guidance == "cfg":
        return {"guidance_scale": config.guidance_scale}
    return {"null_scale": config.null_scale, "style_scale": config.style_scale, "context_scale": config.context_scale}


def warn_of_idle_scales(config: SampleConfig) -> None:
    """Says so where a scale was set that this form of guidance does not have."""
    used = scales(config)
    for name in ("guidance_scale", "null_scale", "style_scale", "context_scale"):
        if name not in used and getattr(config, name) != getattr(SampleConfig, name):
            forms = "cfg" if name == "guidance_scale" else "paper or release"
            warnings.warn(f"{name} counts only with --guidance {forms}, not {config.guidance}", stacklevel=2)


def make_cell(
    config: SampleConfig,
    model: StableDiffusion,
    styles: Mapping[str, Style],
    text: str,
    seed: int,
    size: tuple[int, int],
) -> grid.Cell:
    """The record of one picture."""
    return grid.Cell(
        prompt=text,
        negative_prompt=config.negative_prompt,
        seed=seed,
        guidance=config.guidance,
        scales=scales(config),
        solver=config.solver,
        steps=config.steps,
        height=size[0],
        width=size[1],
        dtype=config.dtype,
        styles={name: style.hash for name, style in styles.items()},
        model=model.name,
        model_hash=model.hash,
    )


if __name__ == "__main__":
    plain_warnings()
    main(lambda: run(parse(SampleConfig)))
