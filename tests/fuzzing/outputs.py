"""The doors for what commands left: manifests and definitions of grids, logs and checkpoints of runs."""

import json
from collections.abc import Callable
from random import Random
from typing import ClassVar

import numpy as np
from cells import cells_of, plain_picture
from sample_tools import random_style

from dreamstyler_jax.commands import run_log, runs, sample
from dreamstyler_jax.commands.config import TrainConfig
from dreamstyler_jax.commands.config_files import write_config
from dreamstyler_jax.evaluation.contents import repaints
from dreamstyler_jax.evaluation.painted import group_labels, painted_pictures
from dreamstyler_jax.evaluation.training_data import find_training_data
from dreamstyler_jax.grids.cells import definition
from dreamstyler_jax.grids.gallery import Gallery
from dreamstyler_jax.mini.shipped import EXAMPLE_PICTURE
from dreamstyler_jax.runtime.checkpoints import open_checkpoints
from dreamstyler_jax.stopping import settled_at
from fuzzing.door import FolderDoor
from fuzzing.mutations import (
    json_file,
    mutated_bytes,
    remove,
    spoilt_lines,
    yaml_file,
)


class Manifests(FolderDoor):
    """The manifest and the definition of a grid's folder."""

    def prepare(self) -> None:
        (self.folder / "runs").mkdir()
        self.style = random_style("gogh", images=[str(EXAMPLE_PICTURE)], prompts=["A boat in the style of {}"])
        self.style.save(self.folder / "runs" / "gogh.safetensors")
        self.cells = cells_of(["A house {}", "A dog in the style of {}"], [0, 1])
        gallery = Gallery(self.folder, note=lambda cell: {"command": "x", "learned_from": {"gogh": "a.png"}})
        gallery.begin()
        for number, cell in enumerate(self.cells[:3]):
            gallery.save(cell, plain_picture(number))
        gallery.fail(self.cells[3], "it failed")
        gallery.define(definition(self.cells))
        lines = [json.loads(line) for line in gallery.manifest.read_text().splitlines()]
        older = [
            {key: value for key, value in line.items() if key not in ("loras", "spacing", "checkpoint")}
            for line in lines
        ]
        grid = definition(self.cells)
        self.files = {
            "manifest.jsonl": lambda rng: spoilt_lines(rng, rng.choice((lines, older))),
            "manifest.1-of-2.jsonl": lambda rng: spoilt_lines(rng, lines),
            "grid.yaml": lambda rng: yaml_file(rng, grid, {**grid, "seed": 5}),
        }
        self.whole = {file: file.read_bytes() for file in self.folder.iterdir() if file.is_file()}

    def attempt(self, rng: Random) -> None:
        """Spoils a file, and puts all files back."""
        try:
            super().attempt(rng)
        finally:
            for file, content in self.whole.items():
                remove(file)
                file.write_bytes(content)

    def read(self, rng: Random) -> None:
        """Continues the grid, shows it and reads it for scores."""
        gallery = Gallery(self.folder)
        wanted = definition(self.cells)
        gallery.holds_another(wanted)
        gallery.define(wanted)
        gallery.missing(self.cells)
        gallery.listed(self.cells)
        gallery.name_files(self.cells, rng.choice(("{seed}", "{id}")))
        gallery.other_names()
        gallery.begin()
        sample.show(gallery, self.cells, {"gogh": self.style})
        painted = painted_pictures(self.folder, gallery.lines.values())
        group_labels(painted)
        for picture in painted:
            repaints(picture)
        find_training_data(painted, [str(self.folder / "runs")], [])


def spoiler_of(data: bytes) -> Callable[[Random], bytes]:
    """What spoils the content of a file: its values if it is JSON, and its bytes."""
    try:
        document = json.loads(data)
    except ValueError:
        return lambda rng: mutated_bytes(rng, data)
    return lambda rng: rng.choice((json_file(rng, document), b"5", b"null", b"[1]"))


class Runs(FolderDoor):
    """What a run of training left, when it is resumed."""

    STATE: ClassVar = {"tables": np.ones((2, 1, 4), np.float32), "step": np.array(5, np.int32)}

    def prepare(self) -> None:
        config = TrainConfig(images=["a.png"], prompts=["a {}"], name="x", steps=9, resume=True)
        self.config = config
        write_config(config, self.folder / "config.yaml")
        inputs = {"images": ["a.png"], "image_hashes": ["0"], "model_hash": "1", "model_settings": "2"}
        runs.record_inputs(self.folder, inputs)
        random_style("x", steps=9).save(self.folder / "style.safetensors")
        lines = [
            {"step": step, "loss": 0.5, "stage_loss": [0.1, None], "evaluation_loss": [0.1, 0.2]}
            for step in range(1, 10)
        ]
        with open_checkpoints(self.folder / "checkpoints") as store:
            store.save(5, self.STATE)
        text = (self.folder / "config.yaml").read_bytes()
        self.files = {
            "metrics.jsonl": lambda rng: spoilt_lines(rng, lines),
            "config.yaml": lambda rng: mutated_bytes(rng, text),
            runs.INPUTS: lambda rng: json_file(rng, inputs),
        }
        for file in (self.folder / "checkpoints").rglob("*"):
            if file.is_file():
                self.files[str(file.relative_to(self.folder))] = spoiler_of(file.read_bytes())
        (self.folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))

    def attempt(self, rng: Random) -> None:
        """Mostly spoils the log, which takes little time to read."""
        files = self.files
        try:
            if rng.random() < 0.7:
                self.files = {"metrics.jsonl": files["metrics.jsonl"]}
            super().attempt(rng)
        finally:
            self.files = files

    def read(self, rng: Random) -> None:
        """Does what resuming does before and after the training."""
        runs.check_resumable(self.config, self.folder)
        runs.check_same_inputs(self.folder, {"images": ["a.png"], "image_hashes": ["0"], "model_hash": "1"})
        runs.is_finished(self.config, self.folder)
        if len(self.files) > 1:
            with open_checkpoints(self.folder / "checkpoints") as store:
                store.restore(self.STATE)
        path = self.folder / "metrics.jsonl"
        if path.is_file() and (metrics := run_log.read_metrics(path)):
            settled_at([line["evaluation_loss"] for line in metrics if "evaluation_loss" in line])
            run_log.draw_loss(metrics, self.folder / "loss.png")
