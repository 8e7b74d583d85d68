"""The doors for what commands left: manifests and definitions of grids, logs and checkpoints of runs."""

import json
from collections.abc import Callable
from random import Random
from typing import ClassVar

import numpy as np
from cells import cells_of, plain_picture
from sample_tools import random_style

from dreamstyler_jax.commands import enlarge, run_log, runs, sample
from dreamstyler_jax.commands.config import TrainConfig
from dreamstyler_jax.commands.config_files import write_config
from dreamstyler_jax.commands.loss_curves import draw_loss
from dreamstyler_jax.commands.reporting.document import write_report
from dreamstyler_jax.commands.selection import choose
from dreamstyler_jax.commands.verification.runs import run_findings
from dreamstyler_jax.evaluation.contents import repaints
from dreamstyler_jax.evaluation.painted import group_labels, painted_pictures
from dreamstyler_jax.evaluation.training_data import find_training_data
from dreamstyler_jax.grids.cells import definition
from dreamstyler_jax.grids.gallery import Gallery
from dreamstyler_jax.grids.page import refresh_page, write_page
from dreamstyler_jax.grids.unfinished import UNFINISHED, note_begun
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
    """The manifest and the definition of a grid's folder, and a list of starred pictures."""

    def prepare(self) -> None:
        (self.folder / "runs").mkdir()
        self.style = random_style("gogh", images=[str(EXAMPLE_PICTURE)], prompts=["A boat in the style of {}"])
        self.style.save(self.folder / "runs" / "gogh.safetensors")
        self.cells = cells_of(["A house {}", "A dog in the style of {}"], [0, 1])
        gallery = Gallery(
            self.folder, note=lambda cell: {"command": "dreamstyler sample", "learned_from": {"gogh": "a.png"}}
        )
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
        starred = [{"id": line["id"], "file": line["file"], "note": "a note"} for line in lines[:3]]
        (self.folder / "starred.jsonl").write_text("".join(json.dumps(line) + "\n" for line in starred))
        note_begun(self.folder, "dreamstyler sample", [cell.id for cell in self.cells])
        unfinished = json.loads((self.folder / UNFINISHED).read_text())
        scores = [{"id": line["id"], "sha256": line["sha256"], "scores": {"text": 5.5}} for line in lines[:3]]
        (self.folder / "scores.jsonl").write_text("".join(json.dumps(line) + "\n" for line in scores))
        page = write_page(self.folder, lines, title="A grid").read_bytes()
        self.files = {
            "scores.jsonl": lambda rng: spoilt_lines(rng, scores),
            "index.html": lambda rng: mutated_bytes(rng, page),
            "manifest.jsonl": lambda rng: spoilt_lines(rng, rng.choice((lines, older))),
            "manifest.1-of-2.jsonl": lambda rng: spoilt_lines(rng, lines),
            "grid.yaml": lambda rng: yaml_file(rng, grid, {**grid, "seed": 5}),
            "starred.jsonl": lambda rng: spoilt_lines(rng, starred),
            UNFINISHED: lambda rng: json_file(rng, unfinished),
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
        """Chooses pictures of the grid, continues it, shows it and reads it for scores."""
        for picture in choose(str(self.folder), [str(self.folder / "starred.jsonl")]):
            enlarge.second_pass(picture, enlarge.EnlargeConfig(str(self.folder)))
        refresh_page(self.folder)
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
        more = {"relative_norm": [1.0, None], "goodput": {"steps": 1.0}, "images_per_second": 8.0}
        session = {"step": 0, "time": "2026-01-01", "devices": "2 x cpu", "versions": {"jax": "0.10"}}
        session["goodput"] = {"steps": 0.75, "previews": 0.25}
        (self.folder / "sessions.jsonl").write_text(json.dumps(session) + "\n")
        inputs = {"images": ["a.png"], "image_hashes": ["0"], "model_hash": "1", "model_settings": "2"}
        runs.record_inputs(self.folder, inputs)
        random_style("x", steps=9).save(self.folder / "style.safetensors")
        lines = [
            {"step": step, "loss": 0.5, "stage_loss": [0.1, None], "evaluation_loss": [0.1, 0.2], **more}
            for step in range(1, 10)
        ]
        with open_checkpoints(self.folder / "checkpoints") as store:
            store.save(5, self.STATE)
        text = (self.folder / "config.yaml").read_bytes()
        self.files = {
            "metrics.jsonl": lambda rng: spoilt_lines(rng, lines),
            "config.yaml": lambda rng: mutated_bytes(rng, text),
            "sessions.jsonl": lambda rng: spoilt_lines(rng, [session]),
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
                self.files = {name: files[name] for name in ("metrics.jsonl", "sessions.jsonl")}
            super().attempt(rng)
        finally:
            self.files = files

    def read(self, rng: Random) -> None:
        """Does what resuming does before and after the training, and what reports and checks read."""
        runs.check_resumable(self.config, self.folder)
        runs.check_same_inputs(self.folder, {"images": ["a.png"], "image_hashes": ["0"], "model_hash": "1"})
        runs.is_finished(self.config, self.folder)
        run_findings(self.folder)
        write_report(self.folder).unlink()
        if len(self.files) > 2:
            with open_checkpoints(self.folder / "checkpoints") as store:
                store.restore(self.STATE)
        path = self.folder / "metrics.jsonl"
        if path.is_file() and (metrics := run_log.read_metrics(path)):
            settled_at([line["evaluation_loss"] for line in metrics if "evaluation_loss" in line])
            draw_loss(metrics, self.folder / "loss.png")
