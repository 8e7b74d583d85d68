"""The doors for what users write: settings, prompts, recipes."""

import json
from collections.abc import Callable
from random import Random
from typing import Any, ClassVar

from PIL import Image
from sample_tools import random_style

from dreamstyler_jax import mixing, prompts, transfer
from dreamstyler_jax.choices import MODES, Template
from dreamstyler_jax.commands import prompt_lists, sample
from dreamstyler_jax.commands.cli import command_line, parse
from dreamstyler_jax.commands.config import SampleConfig, TrainConfig
from dreamstyler_jax.commands.config_files import read_config, write_config
from dreamstyler_jax.commands.evaluate import EvaluateConfig
from dreamstyler_jax.encoding import tokenize
from dreamstyler_jax.foreign_syntax import foreign_syntax
from dreamstyler_jax.runtime import images, parsing
from dreamstyler_jax.stable_diffusion.loras.recipes import parse_loras
from dreamstyler_jax.stable_diffusion.placeholders import Reading
from dreamstyler_jax.style import StyleRef
from fuzzing.door import Door, FolderDoor
from fuzzing.mutations import (
    ODD_TEXTS,
    mutated_bytes,
    mutated_text,
    remove,
    spoil_file,
    spoilt_lines,
    yaml_file,
)


class Settings(Door):
    """YAML files with settings, and command lines."""

    def prepare(self) -> None:
        train = TrainConfig(images=["a.png"], prompts=["a cat {}"], name="x", steps=5)
        sample_config = SampleConfig(styles=["x"], prompts=["a {}"], loras=["none"], content=["a.png"])
        self.bases: list[tuple[type, dict[str, Any]]] = []
        for config in (train, sample_config, EvaluateConfig(pictures=["out"])):
            values = {name: value for name, value in vars(config).items() if value not in (None, "", [])}
            section = {TrainConfig: "train", SampleConfig: "sample"}.get(type(config))
            shared = {key: values.pop(key) for key in ("model", "dtype") if section and key in values}
            self.bases.append((type(config), {**shared, section: values} if section else values))

    def attempt(self, rng: Random) -> None:
        """Reads a file, or a command line."""
        config_class, base = rng.choice(self.bases)
        if rng.random() < 0.7:
            file = self.folder / "config.yaml"
            spoil_file(rng, file, lambda rng: yaml_file(rng, base))
            config = read_config(config_class, rng.choice((file, *ODD_TEXTS)) if rng.random() < 0.05 else file)
        else:
            flat = {
                key: value for section in base.values() if isinstance(section, dict) for key, value in section.items()
            }
            name = rng.choice(list(flat or base))
            values = [
                str(text).replace("\0", "")
                for text in rng.choices((*ODD_TEXTS, -1, 10**30, 0.5), k=rng.choice((0, 1, 1, 2)))
            ]
            config = parse(config_class, [f"--{name}", *values], "x")
        write_config(config, self.folder / "again.yaml")
        read_config(config_class, self.folder / "again.yaml")
        if config_class is not EvaluateConfig:
            command_line("x", config)


class Prompts(Door):
    """Prompts, files of prompts, and captions."""

    GOOD = (
        "A painting of a {red|blue} house in the style of {}", "a {my_cat} by {my_house}, painted by {gogh} and {x}",
        "{gogh}", "a house, in the manner of {gogh@5}", "an old oil painting of (a dog) , with a {} style ,of a",
    )  # fmt: skip

    def prepare(self) -> None:
        self.vectors = dict.fromkeys(("", "gogh", "x", "my_cat", "my_house", "gogh@5"), 1)
        (self.folder / "a.png").write_bytes(images.to_png(Image.new("RGB", (8, 8))))

    def attempt(self, rng: Random) -> None:
        """Takes a prompt apart and encodes its parts; or reads a file."""
        prompt = mutated_text(rng, rng.choice(self.GOOD))
        if rng.random() < 0.2:
            prompt = mutated_text(rng, prompt)
        if rng.random() < 0.3:
            file = self.folder / rng.choice(("prompts.txt", "a.txt"))
            spoil_file(
                rng, file, lambda rng: mutated_bytes(rng, f"# text\n{prompt}\n\n{prompt}".encode("utf-8", "replace"))
            )
            try:
                texts = prompt_lists.read_prompts(str(self.folder / "prompts.txt"))
                texts += [prompts.sidecar_prompt(rng.choice((self.folder / "a.png", *ODD_TEXTS))) or ""]
            finally:
                remove(file)
        else:
            texts = [prompt]
        for version in [version for text in texts for version in Template.read(text).versions()[:3]]:
            foreign_syntax([version])
            named = prompts.name_placeholder(version, "gogh", rng.choice((0, 5)))
            prompts.names_in(named)
            reading = Reading(rng.random() < 0.5, rng.choice((1, 2)))
            rows = prompts.guidance_prompts(named, version, named, weighted=reading.weighted)
            prompts.calls_a_style(named, weighted=reading.weighted)
            tokenize(self.materials.model.tokenizers, rows, self.vectors, reading=reading)


class PromptLists(FolderDoor):
    """Lists of prompts with settings of their own, and files of wildcards."""

    LIST: ClassVar = (
        {"prompt": "a __animal__ by {}", "style": "gogh", "seed": 3, "guidance_scale": 2.5, "negative_prompt": "fog"},
        {"prompt": "a {red|blue} (house:1.2), {}", "style": None, "seed": "4:6", "steps": 9, "solver": "ddim"},
    )

    def prepare(self) -> None:
        animals = "# animals\ncat\n{big|small} dog\n__bird__\n"
        rows = ("prompt,style,seed", '"a __animal__ by {}",gogh,"3,5"', "a {2$$red|blue|old} house by {},,4")
        texts = {"list.csv": "\n".join(rows) + "\n", "animal.txt": animals, "bird.txt": "wren\nrobin\n"}
        for name, text in texts.items():
            (self.folder / name).write_text(text)
        (self.folder / "list.jsonl").write_text("".join(json.dumps(line) + "\n" for line in self.LIST))
        self.files = {name: self.spoilt(text) for name, text in texts.items()}
        self.files["list.jsonl"] = lambda rng: spoilt_lines(rng, self.LIST)

    @staticmethod
    def spoilt(text: str) -> Callable[[Random], bytes]:
        """What writes a spoilt version of a text."""

        def write(rng: Random) -> bytes:
            if rng.random() < 0.3:
                return mutated_bytes(rng, text.encode())
            return mutated_text(rng, text).encode("utf-8", "replace")

        return write

    def read(self, rng: Random) -> None:
        """Reads both lists."""
        for name in ("list.csv", "list.jsonl"):
            folder, file = str(self.folder), str(self.folder / name)
            config = SampleConfig(prompts_file=file, wildcards=folder, choices=rng.choice(MODES), seeds="0:3")
            for part in prompt_lists.grid_parts(config):
                repr(part)


class Recipes(Door):
    """Recipes of styles and of LoRAs, seeds, shards, names of styles with steps, ControlNets."""

    def prepare(self) -> None:
        self.styles = {name: random_style(name, stages=3, seed=number) for number, name in enumerate(("gogh", "monet"))}

    def attempt(self, rng: Random) -> None:
        """Reads a text of one of these kinds."""
        good, read = rng.choice((
            ("gogh*0.7+monet*0.3", self.mix), ("gogh:2-1,monet:0-0", self.mix), ("gogh", self.mix),
            ("gogh:layers 0-1,monet:layers 2", self.mix), ("gogh:2-1 layers 0-3,monet:0", self.mix),
            ("a.safetensors*0.8+b.safetensors", parse_loras), ("0:8,11,20:25", parsing.parse_seeds),
            ("1/4", parsing.parse_shard), ("gogh@100", StyleRef.parse), ("depth=owner/name", transfer.parse_net),
        ))  # fmt: skip
        text = good
        for _ in range(rng.choice((1, 1, 2, 3))):
            text = mutated_text(rng, text)
        read(text)

    def mix(self, text: str) -> None:
        """Makes a style, and the folder that a grid of it would be painted into."""
        mixed = mixing.mix(mixing.parse_recipe(text), self.styles)
        repr(mixed)
        sample.default_folder([mixed.name])
