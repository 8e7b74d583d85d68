"""``dreamstyler animate``: an axis of a grid as animations, one for each combination of the other axes."""

import dataclasses
from pathlib import Path

from dreamstyler_jax.commands.selection import SelectionOptions, choose
from dreamstyler_jax.grids.animations import FORMATS, sequences, to_animation, with_labels
from dreamstyler_jax.grids.sheets import axes, label_of, value_of
from dreamstyler_jax.runtime import images
from dreamstyler_jax.runtime.buckets import path_of
from dreamstyler_jax.runtime.errors import UserError
from dreamstyler_jax.runtime.files import check_output, write_atomic
from dreamstyler_jax.runtime.progress import progress
from dreamstyler_jax.runtime.settings import one_of, option


@dataclasses.dataclass(frozen=True)
class AnimateConfig(SelectionOptions):
    """Show an axis of a grid, such as the seed or a scale, as animations.

    There is one for each combination of the other axes; with cells, for the combinations of these pictures.

    Raises:
        UserError: no grid or no axis is given.
    """

    axis: str = option("", "The axis: prompt, style, checkpoint, solver, steps, seed, style_scale or another one.")
    seconds_per_frame: float = option(0.5, "How long each picture is shown.", low=0.02, high=60)
    labels: bool = option(False, "Write the value of the axis below each picture.")
    bounce: bool = option(False, "Go back picture by picture, instead of jumping from the last one to the first.")
    format: str = option("webp", "Format of the files. gif has 256 colours.", choices=FORMATS)
    output: str = option("", "Folder of the animations. Default: the grid's with -animated, as out/boat-animated.")

    def __post_init__(self):
        super().__post_init__()
        if not self.axis:
            raise UserError("axis: name the axis to show, such as seed or style_scale")
        object.__setattr__(self, "output", self.output or self.beside("animated"))


def run(config: AnimateConfig) -> None:
    """Writes the animations and prints their files.

    Raises:
        UserError: a picture is not there, or the grid has no such axis.
    """
    chosen = choose(config.grid, config.cells)
    folder = path_of(config.output)
    check_output(folder)
    of_grid = choose(config.grid, []) if config.cells else chosen
    files = {picture.cell.id: picture.file for picture in of_grid}
    varying = axes([picture.cell for picture in of_grid])
    if config.axis not in varying:
        wanted = f"it must be {one_of(varying, config.axis)}" if varying else "it has none"
        raise UserError(f"axis: {config.axis} is no axis of {config.grid}, {wanted}")
    wanted_ids = {picture.cell.id for picture in chosen}
    found = [
        cells
        for cells in sequences([picture.cell for picture in of_grid], config.axis)
        if wanted_ids & {cell.id for cell in cells}
    ]
    if not found:
        raise UserError(f"axis: the pictures have no others beside them that differ in {config.axis} alone")
    for cells in progress(found, "animating", len(found), unit="animation"):
        frames = [images.load(files[cell.id]) for cell in cells]
        if config.labels:
            frames = with_labels(frames, [label_of(config.axis, value_of(cell, config.axis)) for cell in cells])
        data = to_animation(frames, config.format, config.seconds_per_frame, bounce=config.bounce)
        write_atomic(folder / file_name(config, files[cells[0].id]), data)
    plural = "s" * (len(found) > 1)
    print(f"{len(found)} animation{plural} of {config.axis} in {folder}, named after their first pictures")


def file_name(config: AnimateConfig, first: Path) -> str:
    """The name of the animation that begins with a picture."""
    return f"{config.axis}-{first.stem}.{config.format}"
