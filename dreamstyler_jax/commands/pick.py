"""``dreamstyler pick``: copies chosen pictures of a grid into a folder of their own."""

import dataclasses

from dreamstyler_jax.commands.sample import show
from dreamstyler_jax.commands.selection import SelectionOptions, choose
from dreamstyler_jax.grids.cells import cell_of_line, definition
from dreamstyler_jax.grids.gallery import Gallery
from dreamstyler_jax.runtime.buckets import path_of
from dreamstyler_jax.runtime.errors import UserError
from dreamstyler_jax.runtime.files import check_output
from dreamstyler_jax.runtime.locks import only_process
from dreamstyler_jax.runtime.settings import option


@dataclasses.dataclass(frozen=True)
class PickConfig(SelectionOptions):
    """Copy chosen pictures of a grid into a folder of their own, which is a grid as well."""

    output: str = option(
        "",
        "The folder; pictures that it holds already stay. Default: the grid's with -picked, such as out/boat-picked.",
    )

    def __post_init__(self):
        super().__post_init__()
        object.__setattr__(self, "output", self.output or self.beside("picked"))


def run(config: PickConfig) -> None:
    """Copies the pictures with their lines of the manifest, and makes contact sheets and page.

    Raises:
        UserError: a picture is not there, or the folder is the grid's own or somebody else's.
    """
    chosen = choose(config.grid, config.cells)
    folder = path_of(config.output)
    if folder.resolve() == path_of(config.grid).resolve():
        raise UserError(f"output: {folder} is the grid itself; choose another folder")
    check_output(folder)
    gallery = Gallery(folder)
    gallery.check_own(str(picture.line["file"]) for picture in chosen)
    gallery.define(definition([picture.cell for picture in chosen]))
    with only_process(folder):
        gallery.begin()
        for picture in chosen:
            gallery.add(picture.line, picture.file.read_bytes())
        gallery.close()
        cells = [cell_of_line(line, str(gallery.manifest)) for line in gallery.lines.values() if "file" in line]
        show(gallery, cells, {})
