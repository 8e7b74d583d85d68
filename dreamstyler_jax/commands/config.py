"""Everything that can be set about training and sampling: two flat, frozen dataclasses, and their form in YAML.

The docstring under each field is also its ``--help``. Without arguments both describe the main job on the embedded
model. Values that are out of range, or contradict each other, are refused when an instance is made.
"""

import dataclasses
import difflib
import os
import re
import typing
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar, Literal

import yaml

from dreamstyler_jax.runtime.errors import UserError
from dreamstyler_jax.runtime.files import write_atomic

EXAMPLE_PROMPTS = (
    "A painting of a red house by the sea in the style of {}",
    "A painting of a blue fish in the mountains at sunset in the style of {}",
    "A painting of an orange cat in the snow by day in the style of {}",
    "A painting of a green tree in the desert at night in the style of {}",
)
BARE_PROMPTS = {"style": "A painting in the style of {}", "object": "A photo of {}"}  # of pictures not described
SHARED = ("model", "variant", "dtype")  # outside of the sections of a YAML file: for train.py and sample.py
MAX_SEED = 2**32 - 1
HOSTS = "hosts"  # a shard

_NAME = re.compile(r"[^\W\d][\w-]*")
_MANY_SEEDS = 100_000


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Learn a style from one or several pictures, or one from each of them.

    Raises:
        UserError: a value is out of range or contradicts another.
    """

    model: str = "mini"
    """The Stable Diffusion model: a folder in diffusers' layout, a hub id, or `mini`, the embedded one."""
    variant: str = ""
    """The word in the names of the model's weight files, such as `fp16` in model.fp16.safetensors."""
    images: list[str] = dataclasses.field(default_factory=list)
    """The pictures, all of one style. None: the example shipped with the embedded model."""
    prompts: list[str] = dataclasses.field(default_factory=list)
    """What each picture shows apart from its style, with {} where the style stands: one prompt for each picture, in
    their order, or one for all. None: the text file beside each picture, or else "A painting in the style of {}"."""
    property: Literal["style", "object"] = "style"
    """What is learned of the pictures: their style, or the object that they show, for prompts such as "a painting of
    {my_cat} in the style of {starry}". Pictures of an object that nobody describes are "A photo of {}", in eight
    wordings."""
    separate: bool = False
    """Learn a style from each picture, all of them at once, each as it would be learned alone: several together take
    less time than one after another. Styles and folders of runs are then called as the pictures' files."""
    name: str = ""
    """What the style, or object, is called. Empty: as the first picture's file."""
    stages: int = 6
    """T, the number of equal parts of the diffusion process with vectors of their own, 1 to 50; stage 0 is detail."""
    vectors: int = 1
    """Vectors, that is input tokens, per stage, 1 to 16."""
    init_word: str = "painting"
    """The word whose embedding the vectors start from, for an object what kind of thing it is; with several words, one
    for each vector. A word of several tokens gives their mean."""
    steps: int = 200
    """Optimiser steps."""
    batch_size: int = 8
    """Pictures per forward and backward pass."""
    gradient_accumulation: int = 1
    """Passes whose gradients are averaged into one optimiser step."""
    learning_rate: float = 0.02
    """Highest learning rate of AdamW."""
    warmup_steps: int = 0
    """Steps over which the learning rate rises from 0; the schedule follows."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """How the learning rate goes on after the warm-up: it stays, or falls to 0 along a line or half a cosine."""
    weight_decay: float = 0.01
    """Weight decay of AdamW."""
    resolution: int | None = None
    """Side in pixels of the squares that the pictures are made into. null: the model's own."""
    framing: Literal["crop", "fit"] = "crop"
    """How an oblong picture becomes a square: `crop` takes its middle, `fit` shows all of it on a mat."""
    flip: bool = True
    """Also learn from the mirror images, half of the time."""
    seed: int = 0
    """Seed of the noise, the timesteps and the order of the pictures."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Number format of the model's computations; what is learned stays float32."""
    log_every: int = 10
    """Steps between two lines of metrics.jsonl."""
    save_every: int = 100
    """Steps between two checkpoints, each with its preview pictures."""
    preview_prompts: list[str] = dataclasses.field(default_factory=lambda: list(EXAMPLE_PROMPTS[:1]))
    """Prompts of the preview pictures, with {} where the style stands; of an object "A photo of {}"."""
    output: str = ""
    """Folder of the run. Empty: runs/NAME. With `separate` that of all runs. Empty: runs."""
    resume: bool = False
    """Go on from the newest checkpoint in the run's folder; without one, begin."""

    ranges: ClassVar[dict[str, tuple[float, float]]] = {
        "stages": (1, 50),
        "vectors": (1, 16),
        "steps": (1, 1_000_000),
        "batch_size": (1, 1024),
        "gradient_accumulation": (1, 1024),
        "learning_rate": (1e-8, 10),
        "warmup_steps": (0, 1_000_000),
        "weight_decay": (0, 10),
        "resolution": (8, 4096),
        "seed": (0, MAX_SEED),
        "log_every": (1, 1_000_000),
        "save_every": (1, 1_000_000),
    }

    def __post_init__(self):
        check_values(self)
        pictures = max(len(self.images), 1)
        if len(self.prompts) not in (0, 1, pictures):
            raise UserError(
                f"prompts: {len(self.prompts)} given for {pictures} picture{'s' * (pictures > 1)}; "
                "give one prompt for each picture, or one for all"
            )
        if not 1 <= len(self.init_word.split()) <= self.vectors:
            raise UserError(f"init_word: give at most one word for each vector, {self.vectors}, not {self.init_word!r}")
        if self.property == "object" and self.init_word == type(self).init_word:
            raise UserError("init_word: say in a word what kind of thing the object is, such as cat")
        if self.property == "object" and self.preview_prompts == list(EXAMPLE_PROMPTS[:1]):
            object.__setattr__(self, "preview_prompts", [BARE_PROMPTS["object"]])
        if self.warmup_steps > self.steps:
            raise UserError(f"warmup_steps: must be at most steps, {self.steps}, not {self.warmup_steps}")
        if self.separate:
            self._check_separate()
            object.__setattr__(self, "output", self.output or "runs")
            return
        name = self.name or (name_of(self.images[0]) if self.images else "example")
        if not _NAME.fullmatch(name):
            raise UserError(f"name: a letter, then letters, digits, _ and -, not {name!r}")
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "output", self.output or os.path.join("runs", name))

    def _check_separate(self) -> None:
        names = [name_of(picture) for picture in self.images]
        if not names:
            raise UserError("separate: give the pictures, a style is learned from each, with --images")
        if self.name:
            raise UserError("name: with separate every style is called as its picture's file")
        if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
            raise UserError(f"separate: the styles of {names.count(twice[0])} pictures would be called {twice[0]}")


@dataclasses.dataclass(frozen=True)
class SampleConfig:
    """Paint prompts in learned styles.

    Raises:
        UserError: a value is out of range or contradicts another.
    """

    model: str = "mini"
    """The Stable Diffusion model: a folder in diffusers' layout, a hub id, or `mini`, the embedded one."""
    variant: str = ""
    """The word in the names of the model's weight files, such as `fp16` in model.fp16.safetensors."""
    styles: list[str] = dataclasses.field(default_factory=list)
    """The styles: files, or folders of runs. None: the newest run under runs/, or else the shipped example."""
    mixes: list[str] = dataclasses.field(default_factory=list)
    """New styles out of those, such as gogh:5-3,monet:2-0 or gogh*0.7+monet*0.3; then {} stands for each of them."""
    checkpoints: list[int] = dataclasses.field(default_factory=list)
    """Steps of the styles' training: styles and mixes as they were then, instead of in the end. A prompt or a recipe
    can also name one itself, as gogh@100. None: in the end."""
    prompts: list[str] = dataclasses.field(default_factory=list)
    """What to paint, with {} for each style in turn, or {name} for one of several; {a|b} stands for both words in turn.
    None: four examples, or of each picture in `content` the text file beside it."""
    prompts_file: str = ""
    """Text file with one prompt per line, instead of prompts; empty lines and lines that begin with # do not count."""
    negative_prompt: str = ""
    """What the pictures should not show."""
    content: list[str] = dataclasses.field(default_factory=list)
    """Pictures to repaint, each in every style with every prompt. None: pictures are painted from the prompt alone."""
    strength: list[float] = dataclasses.field(default_factory=lambda: [0.8])
    """Of `content`: how much of it is painted anew, 0.01 to 1."""
    controlnets: list[str] = dataclasses.field(default_factory=list)
    """ControlNets that keep the structure of `content`, KIND=PATH each: `edges`, `depth`, or `image`, a map given with
    control_images; PATH is a folder or hub id, without it the model's own, in its folder controlnet; KIND*0.5=PATH
    counts half. None: `edges` for a model that has its own, as the embedded one has."""
    control_images: list[str] = dataclasses.field(default_factory=list)
    """Control maps of the pictures in `content`, in their order, for ControlNets of the kind `image`."""
    control_scale: list[float] = dataclasses.field(default_factory=lambda: [0.8])
    """How much the ControlNets count, 0 to 2; 0 leaves them out."""
    control_start: float = 0.0
    """Where in the sampling, 0 to 1, the ControlNets begin to count."""
    control_end: float = 1.0
    """Where in the sampling, 0 to 1, they no longer do."""
    guess_mode: bool = False
    """Let the ControlNets alone say what is seen: they count less at large sizes, and not without the prompt."""
    depth_model: str = "depth-anything/Depth-Anything-V2-Small-hf"
    """Depth model of transformers that makes the maps of the kind `depth`: a folder or hub id."""
    seeds: str = "0:4"
    """Seeds of the pictures of each prompt: numbers and ranges without their ends, such as 0:8 or 1,5,20:24."""
    solver: list[Literal["ddim", "euler", "dpmpp_2m", "unipc"]] = dataclasses.field(
        default_factory=lambda: ["dpmpp_2m"]
    )
    """Method that solves the diffusion equation. Of this and what follows several values make a grid."""
    steps: list[int] = dataclasses.field(default_factory=lambda: [25])
    """Steps of the solver, 1 to 1000."""
    guidance: Literal["cfg", "paper", "release"] = "cfg"
    """`cfg`: plain classifier-free guidance. `paper`: style and context guidance, Eq. 11. `release`: the same with its
    style and context terms halved, as in the authors' code."""
    guidance_scale: list[float] = dataclasses.field(default_factory=lambda: [3.5])
    """Scale of `cfg`, 0 to 100."""
    null_scale: list[float] = dataclasses.field(default_factory=lambda: [5.0])
    """Of `paper` and `release`: weight of the whole prompt against the negative one, 0 to 100."""
    style_scale: list[float] = dataclasses.field(default_factory=lambda: [1.0])
    """Of `paper` and `release`: weight of the style, 0 to 100."""
    context_scale: list[float] = dataclasses.field(default_factory=lambda: [3.0])
    """Of `paper` and `release`: weight of the rest of the prompt, 0 to 100."""
    guidance_start: float = 0.0
    """Where in the sampling, 0 to 1, guidance begins; before it the prompt counts by itself, which takes less time."""
    guidance_end: float = 1.0
    """Where in the sampling, 0 to 1, guidance ends."""
    cache_interval: int = 1
    """Steps that share the deep features of the UNet, 1 to 100: from 2 on painting is faster and less exact."""
    height: int | None = None
    """Height of the pictures in pixels. null: the model's own."""
    width: int | None = None
    """Width of the pictures in pixels. null: the model's own."""
    batch_size: int = 8
    """Pictures painted at once. It does not change them."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Number format of the model's computations."""
    shard: str = "0/1"
    """i/n: paint every n-th picture, from the i-th on, for n processes or machines at once; `hosts`: the part of this
    host of a TPU pod, a Slurm or an Open MPI job. A last call without it checks all pictures and makes sheets and page.
    The devices of one host share every batch by themselves."""
    merge: bool = False
    """Add to a folder that holds pictures of other settings."""
    output: str = ""
    """Folder of the pictures. Empty: out/ and the name of the style."""

    ranges: ClassVar[dict[str, tuple[float, float]]] = {
        "checkpoints": (1, 10**9),
        "strength": (0.01, 1),
        "control_scale": (0, 2),
        "control_start": (0, 1),
        "control_end": (0, 1),
        "guidance_start": (0, 1),
        "guidance_end": (0, 1),
        "cache_interval": (1, 100),
        "steps": (1, 1000),
        "guidance_scale": (0, 100),
        "null_scale": (0, 100),
        "style_scale": (0, 100),
        "context_scale": (0, 100),
        "height": (8, 4096),
        "width": (8, 4096),
        "batch_size": (1, 1024),
    }

    def __post_init__(self):
        check_values(self)
        parse_seeds(self.seeds)
        if self.shard != HOSTS:
            parse_shard(self.shard)
        if self.prompts and self.prompts_file:
            raise UserError("prompts, prompts_file: give one of them, not both")
        if not self.prompts and not self.prompts_file and not self.content:
            object.__setattr__(self, "prompts", list(EXAMPLE_PROMPTS))
        if self.controlnets and not self.content:
            raise UserError("controlnets: give the pictures that they are to keep the structure of, with --content")
        if len(set(self.content)) < len(self.content):
            raise UserError("content: names a picture twice")
        if self.control_images and len(self.control_images) != len(self.content):
            raise UserError(
                f"control_images: {len(self.control_images)} given for {len(self.content)} pictures in content; "
                "give one for each"
            )
        for name in ("control", "guidance"):
            if getattr(self, f"{name}_start") >= getattr(self, f"{name}_end"):
                raise UserError(f"{name}_end: must be more than {name}_start, {getattr(self, f'{name}_start'):g}")


Config = TrainConfig | SampleConfig
SECTIONS: dict[str, type[Config]] = {"train": TrainConfig, "sample": SampleConfig}


def check_values(config: Config) -> None:
    """Refuses a number outside of its range in ``config.ranges`` and a word that its field does not know.

    Raises:
        UserError: names the field, what it takes and what it was given.
    """
    for field in dataclasses.fields(config):
        value, kind = getattr(config, field.name), field.type
        if typing.get_origin(kind) is list and kind != list[str]:
            if len(set(value)) < len(value) or (not value and field.default_factory is not list):
                raise UserError(f"{field.name}: give at least one value, and none twice")
            kind = typing.get_args(kind)[0]
        for single in value if isinstance(value, list) else [value]:
            if typing.get_origin(kind) is Literal and single not in typing.get_args(kind):
                raise UserError(f"{field.name}: must be {one_of(typing.get_args(kind), str(single))}, not {single!r}")
            low, high = config.ranges.get(field.name, (0, 0))
            if field.name in config.ranges and single is not None and not low <= single <= high:
                raise UserError(f"{field.name}: must be from {low:.15g} to {high:.15g}, not {single}")


def one_of(words: Iterable[str], given: str) -> str:
    """Lists ``words``, or where one of them looks like ``given``, only that one, as a question after the list."""
    words = list(words)
    near = difflib.get_close_matches(given, words, n=1)
    return f"one of {', '.join(words)}" + (f" (did you mean {near[0]}?)" if near else "")


def parse_seeds(text: str) -> list[int]:
    """The seeds that ``text`` lists: numbers and ranges ``start:end`` (without ``end``), separated by commas.

    ``"0:3,7"`` is ``[0, 1, 2, 7]``. Seeds are from 0 to 2**32 - 1.

    Raises:
        UserError: the text does not read so, lists none, more than 100 000, or one of them twice.
    """
    seeds: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*([0-9]{1,10})\s*(?::\s*([0-9]{1,10})\s*)?", part)
        if not match:
            raise UserError(f"seeds: {text!r} should read like 0:8 or 1,5,9")
        start = int(match[1])
        end = start + 1 if match[2] is None else int(match[2])
        if not start < end <= MAX_SEED + 1:
            raise UserError(f"seeds: {part.strip()!r} in {text!r} holds no seed from 0 to {MAX_SEED}")
        if len(seeds) + end - start > _MANY_SEEDS:
            raise UserError(f"seeds: {text!r} lists more than {_MANY_SEEDS}")
        seeds.extend(range(start, end))
    if len(set(seeds)) < len(seeds):
        raise UserError(f"seeds: {text!r} lists a seed twice")
    return seeds


def parse_shard(text: str) -> tuple[int, int]:
    """``"1/4"`` is (1, 4): the second of four parts.

    Raises:
        UserError: the text does not read so.
    """
    match = re.fullmatch(r"\s*(\d{1,6})\s*/\s*(\d{1,6})\s*", text)
    if not match or int(match[1]) >= int(match[2]):
        raise UserError(f"shard: {text!r} should read like 0/4, 1/4, 2/4 or 3/4")
    return int(match[1]), int(match[2])


def to_yaml(config: Any) -> str:
    """``config``, or any other flat dataclass, as a YAML file that ``--config`` reads.

    ``resume``, ``shard`` and ``merge`` are left out: they belong to one command.
    """
    values: dict[str, Any] = dataclasses.asdict(config)
    for name in ("resume", "shard", "merge"):
        values.pop(name, None)
    for section, cls in SECTIONS.items():
        if isinstance(config, cls):
            values = {**{key: values.pop(key) for key in SHARED}, section: values}
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=120)


def write_config(config: Config, path: str | Path) -> None:
    """Writes ``config`` to ``path`` in the form that ``--config`` reads.

    Raises:
        OSError: the file cannot be written.
    """
    write_atomic(path, to_yaml(config).encode())


def name_of(picture: str) -> str:
    """What a style is called that is learned from a picture's file, by its path."""
    name = re.sub(r"[^\w-]+", "_", Path(picture).stem).strip("_-") or "style"
    return name if _NAME.fullmatch(name) else f"style_{name}"
