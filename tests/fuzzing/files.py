"""The doors for single files: pictures, styles, LoRAs."""

import dataclasses
import io
import json
import types
import warnings
from collections.abc import Mapping
from pathlib import Path
from random import Random
from typing import Any, ClassVar

import lora_tools
import numpy as np
import safetensors.numpy
from cells import CELL
from PIL import Image
from sample_tools import random_style

from dreamstyler_jax import mixing, transfer
from dreamstyler_jax.commands import runs, sample, sample_inputs
from dreamstyler_jax.commands.config import SampleConfig, TrainConfig
from dreamstyler_jax.evaluation.painted import painted_pictures
from dreamstyler_jax.evaluation.training_data import find_training_data
from dreamstyler_jax.mini.shipped import EXAMPLE_PICTURE
from dreamstyler_jax.runtime.masks import as_masked_picture, fill
from dreamstyler_jax.runtime.picture_files import SUFFIXES, read_text, to_bytes
from dreamstyler_jax.stable_diffusion.loras.merging import read_loras
from dreamstyler_jax.stable_diffusion.pipeline import StableDiffusion
from dreamstyler_jax.style import Style, load_styles
from fuzzing.door import Door
from fuzzing.mutations import (
    ODD_TEXTS,
    json_file,
    mutated,
    mutated_bytes,
    remove,
    safetensors_file,
    spoil_file,
)


def picture_files() -> dict[str, bytes]:
    """A small picture in every format that Pillow can write here, by suffix, and some with odd modes and metadata."""
    Image.init()
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (12, 9, 3), np.uint8))
    files = {}
    for suffix, name in Image.registered_extensions().items():
        for mode in ("RGB", "RGBA", "P", "L", "1", "CMYK", "I;16", "F"):
            buffer = io.BytesIO()
            try:
                with warnings.catch_warnings(action="ignore"):  # of formats that Pillow will drop
                    picture.convert(mode).save(buffer, name)
            except (OSError, ValueError, KeyError, TypeError, AttributeError):
                continue
            if buffer.getvalue():
                files.setdefault(f"{suffix}.{mode.replace(';', '')}{suffix}", buffer.getvalue())
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[274] = 6
    picture.save(buffer, "JPEG", exif=exif, icc_profile=b"x" * 200)
    files["exif.jpg"] = buffer.getvalue()
    text = {"prompt": "x" * 300, "note": "चित्र", "parameters": "a house\nSteps: 5"}
    for format, suffix in SUFFIXES.items():
        files[f"text{suffix}"] = to_bytes(picture, text, format, 90)
    files["script.eps"] = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"
    return files


class Pictures(Door):
    """Pictures of every format that Pillow knows, their masks, and the text in pictures' files."""

    def prepare(self) -> None:
        self.pictures = picture_files()

    def attempt(self, rng: Random) -> None:
        """Reads a spoilt picture, or a good one with a spoilt mask."""
        name = rng.choice(list(self.pictures))
        path = self.folder / f"picture{Path(name).suffix}"
        if rng.random() < 0.03:
            as_masked_picture(rng.choice(ODD_TEXTS))
        try:
            if rng.random() < 0.15:
                path = self.folder / "picture.png"
                path.write_bytes(self.pictures["text.png"])
                mask = self.pictures[rng.choice(["text.png", name])]
                spoil_file(rng, self.folder / "picture.mask.png", lambda rng: mutated_bytes(rng, mask))
            else:
                spoil_file(rng, path, lambda rng: mutated_bytes(rng, self.pictures[name]))
            picture = fill(as_masked_picture(path))
            transfer.make_content(picture, str(path), 16, 8, None)
            if path.suffix in SUFFIXES.values():
                read_text(path)
        finally:
            remove(path)
            remove(self.folder / "picture.mask.png")


class Styles(Door):
    """Files of styles, this project's and those of other tools, and what is done with their metadata."""

    def prepare(self) -> None:
        metadata = dict(
            model="mini", model_hash="0" * 12, images=[str(EXAMPLE_PICTURE)], prompts=["A {}"], steps=5,
            norm="free", clip_skip=0, average=0.9, counted={"a.png": 0.5}, init_word="painting", hashes={"a": "b"},
        )  # fmt: skip
        style = random_style("gogh", stages=3, **metadata)
        style.save(self.folder / "ours.safetensors")
        self.ours = (self.folder / "ours.safetensors").read_bytes()
        self.header: dict[str, Any] = {
            "kind": "dreamstyler_jax.style/2", "name": "gogh", "hash": style.hash, "metadata": metadata,
        }  # fmt: skip
        self.tables = dict(style.tables)
        self.foreign = []
        for format in ("dreamstyler", "diffusers", "a1111"):
            (file, *_) = random_style("gogh", stages=1).export(self.folder / f"{format}.safetensors", format)
            self.foreign.append(file.read_bytes())

    def attempt(self, rng: Random) -> None:
        """Reads a spoilt style, and uses it as the commands do."""
        file = self.folder / "run" / "style.safetensors"
        file.parent.mkdir(exist_ok=True)
        spoil_file(rng, file, self.spoilt)
        try:
            given = rng.choice((str(file), str(file.parent), f"x={file}"))
            self.use(load_styles([rng.choice(ODD_TEXTS) if rng.random() < 0.03 else given], rng.choice(([], [], [5]))))
        finally:
            remove(file)

    def spoilt(self, rng: Random) -> bytes:
        """The bytes of a spoilt style."""
        match rng.randrange(4):
            case 0:
                return safetensors_file(rng, self.ours)
            case 1:
                return safetensors_file(rng, rng.choice(self.foreign))
            case _:
                header = mutated(rng, self.header)
                header = header if isinstance(header, dict) else {}
                texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in header.items()}
                texts = {
                    key.encode("utf-8", "replace").decode(): value.encode("utf-8", "replace").decode()
                    for key, value in texts.items()
                }
                return safetensors.numpy.save(self.tables, texts)

    def use(self, styles: Mapping[str, Style]) -> None:
        """Looks at styles as the commands do before and while they paint, resume and score."""
        model, config = self.materials.model, SampleConfig()
        repr(styles)
        sample_inputs.warn_of_another_clip_skip(config, styles)
        sample_inputs.warn_of_earlier_weights(types.SimpleNamespace(name="mini", hash="x"), styles)  # type: ignore[arg-type]
        for name, style in styles.items():
            sample.note_of(config, {"gogh": style}, {}, CELL)
            cell = dataclasses.replace(CELL, prompt="a {}", style=name, styles={name: style.hash})
            sample_inputs.check_prompts(model, [cell], {name: style}, [1])
            mixing.mix(name, {name: style})
            line = dict(id="x", file="x.png", prompt="a {}", style=name, styles={name: style.hash}, model="mini")
            painted = painted_pictures(self.folder, [line])
            pictures = [] if style.metadata.get("images") else [str(EXAMPLE_PICTURE)]
            find_training_data(painted, [str(self.folder / "run" / "style.safetensors")], pictures)
        runs.is_finished(TrainConfig(resume=True, steps=9), self.folder / "run")


class Pickles(Styles):
    """Styles and weights that PyTorch has written."""

    needs_torch: ClassVar = True

    def prepare(self) -> None:
        import torch

        super().prepare()
        vector = torch.ones(16)
        named = (
            {"<gogh>": vector}, {"string_to_param": {"*": vector[None]}, "name": "x"}, {"a": 5}, [vector], vector,
            {"<gogh>-T0": vector, "<gogh>-T1": vector}, {"<gogh>": torch.ones(1).expand(10**10, 16)}, {5: vector},
            {"<gogh>": vector.to(torch.float8_e4m3fn)}, {"<gogh>": torch.nn.Parameter(vector)}, {"a": torch.ones(0)},
            torch.nn.ParameterDict({"gogh": vector}), {"a": vector.to_sparse()}, {"a": vector.to(torch.complex64)},
            {"<gogh>": torch.quantize_per_tensor(vector, 0.1, 0, torch.qint8)}, {"state_dict": {"a": vector}},
            {"a": torch.full((16,), float("nan"))}, {"clip_l": vector[None]}, {"a": torch.empty(16, device="meta")},
        )  # fmt: skip
        self.pickles = []
        for content in named:
            for zipped in (True, False):
                buffer = io.BytesIO()
                torch.save(content, buffer, _use_new_zipfile_serialization=zipped)
                self.pickles.append(buffer.getvalue())

    def spoilt(self, rng: Random) -> bytes:
        """A pickle, as it is or with spoilt bytes."""
        data = rng.choice(self.pickles)
        return data if rng.random() < 0.4 else mutated_bytes(rng, data)

    def attempt(self, rng: Random) -> None:
        """Reads a style, or a part of a model."""
        if rng.random() < 0.7:
            return super().attempt(rng)
        file = self.folder / "vae.ckpt"
        spoil_file(rng, file, self.spoilt)
        if rng.random() < 0.5:
            StableDiffusion.load(str(file), allow_pickle=True)
        else:
            StableDiffusion.load(str(self.materials.model_folder), vae=str(file), allow_pickle=True)


class Loras(Door):
    """LoRA files."""

    def prepare(self) -> None:
        layers = lora_tools.random_layers(
            self.materials.model.params, lambda part, name: "attn2" in name or "mlp" in name
        )
        self.sets = [lora_tools.tensors_of(layers, naming) for naming in (lora_tools.kohya, lora_tools.peft)]
        self.settings = {"unet.lora_alpha": 4, "unet.alpha_pattern": {"to_k": 2}, "unet.use_rslora": False, "unet.r": 2}

    def attempt(self, rng: Random) -> None:
        """Reads a spoilt file."""
        file = self.folder / "a.safetensors"
        spoil_file(rng, file, self.spoilt)
        name = rng.choice(ODD_TEXTS).replace("\0", "") + ".safetensors" if rng.random() < 0.03 else str(file)
        read_loras([name], self.materials.model.params, "tiny")

    def spoilt(self, rng: Random) -> bytes:
        """The bytes of a spoilt file."""
        tensors = dict(rng.choice(self.sets))
        if rng.random() < 0.5:
            tensors = {name: array for name, array in tensors.items() if not name.endswith("alpha")}
            text = json_file(rng, self.settings).decode("utf-8", "replace")
            return safetensors.numpy.save(tensors, {"lora_adapter_metadata": text})
        return safetensors_file(rng, safetensors.numpy.save(tensors, {"format": "pt"}))
