"""A door of this project, through which files or texts come in, and ways to send in spoilt ones."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import ClassVar

from dreamstyler_jax.stable_diffusion.pipeline import StableDiffusion
from fuzzing.mutations import (
    json_file,
    remove,
    spoil_file,
)


class Materials:
    """What the doors spoil: good models and files.

    Args:
        folder: where doors put what they need.
        model: the folder of a tiny model, not to be changed.
        clip: that of a tiny CLIP.
    """

    def __init__(self, folder: Path, model: Path, clip: Path):
        self.folder, self.model_folder, self.clip_folder = folder, model, clip
        self.model = StableDiffusion.load(str(model))

    def copy(self, source: Path, name: str) -> Path:
        """A copy of a folder to spoil."""
        return Path(shutil.copytree(source, self.folder / name))


class Door:
    """A door; subclasses say what comes in.

    Attributes:
        folder: its own.
        needs_torch: whether PyTorch makes what it spoils.
    """

    needs_torch: ClassVar = False

    def __init__(self, materials: Materials):
        self.materials = materials
        self.folder = materials.folder / type(self).__name__
        self.folder.mkdir(parents=True)
        self.prepare()

    def prepare(self) -> None:
        """Writes what is needed for all tries."""

    def attempt(self, rng: Random) -> None:
        """Reads something spoilt; raises what the commands would see."""
        raise NotImplementedError


class FolderDoor(Door):
    """A door for folders, of which one file is spoilt in each try.

    Attributes:
        files: what writes a spoilt version of each file, by its path in the folder.
    """

    files: dict[str, Callable[[Random], bytes]]

    def attempt(self, rng: Random) -> None:
        """Spoils a file, reads the folder, and puts the file back."""
        name = rng.choice(list(self.files))
        file = self.folder / name
        before = file.read_bytes() if file.exists() else None
        try:
            spoil_file(rng, file, self.files[name])
            self.read(rng)
        finally:
            remove(file)
            if before is not None:
                file.write_bytes(before)

    def read(self, rng: Random) -> None:
        """Reads the folder."""
        raise NotImplementedError

    def spoil_json(self, *names: str) -> None:
        """Lets JSON files in the folder be spoilt."""
        for name in names:
            document = json.loads((self.folder / name).read_bytes())
            self.files[name] = lambda rng, document=document: json_file(rng, document)
