"""The settings of training and painting: two flat, frozen dataclasses.

Without arguments both describe the main job on the embedded model. Values that are out of range or contradict each
other are refused when an instance is made. Importing this module does not import JAX.
"""

import dataclasses
import os

from dreamstyler_jax.captioning.caption import BLIP2, CAPTIONER_HELP, JUDGE
from dreamstyler_jax.choices import ALL, MODES
from dreamstyler_jax.commands.names import is_name, name_of
from dreamstyler_jax.commands.shared_options import (
    CLIP_SKIP_HELP,
    DTYPE_HELP,
    DTYPES,
    LORAS_HELP,
    MODEL_HELP,
    PICKLE_HELP,
    PREDICTION_HELP,
    REVISION_HELP,
    SIZE_HELP,
    VAE_HELP,
    VARIANT_HELP,
    GuidanceOptions,
)
from dreamstyler_jax.grids.file_names import BY_ID, FIELDS, check_pattern
from dreamstyler_jax.guidance import CONSTANT, SCHEDULES, WEAK_SCALE
from dreamstyler_jax.runtime.errors import UserError
from dreamstyler_jax.runtime.parsing import HOSTS, parse_seeds, parse_shard
from dreamstyler_jax.runtime.picture_files import PNG, SUFFIXES
from dreamstyler_jax.runtime.settings import check_pair, check_values, option
from dreamstyler_jax.solvers import AUTO_SIGMAS, AUTO_SPACING, SIGMAS, SOLVERS
from dreamstyler_jax.stable_diffusion.loras.recipes import NO_LORAS, parse_loras
from dreamstyler_jax.stable_diffusion.schedule import PREDICTION_TYPES, SPACINGS
from dreamstyler_jax.train_settings import BARE_PROMPTS, TrainSettings

EXAMPLE_PROMPTS = (
    "A painting of a red house by the sea in the style of {}",
    "A painting of a blue fish in the mountains at sunset in the style of {}",
    "A painting of an orange cat in the snow by day in the style of {}",
    "A painting of a green tree in the desert at night in the style of {}",
)


@dataclasses.dataclass(frozen=True)
class TrainConfig(TrainSettings):
    """Learn a style from one or several pictures, or one style from each of them.

    Raises:
        UserError: a value is out of range or contradicts another.
    """

    model: str = option("mini", MODEL_HELP)
    variant: str = option("", VARIANT_HELP)
    revision: str = option("", REVISION_HELP)
    vae: str = option("", VAE_HELP)
    prediction_type: str | None = option(None, PREDICTION_HELP, choices=PREDICTION_TYPES)
    allow_pickle: bool = option(False, PICKLE_HELP)
    clip_skip: int = option(0, CLIP_SKIP_HELP, low=0, high=31)
    loras: str = option(NO_LORAS, LORAS_HELP)
    images: list[str] = option(
        [],
        "The pictures, all of one style unless --separate is given. Not learned is what is transparent in one, or "
        "black in a mask beside it (picture.mask.png for picture.jpg; white counts). Default: the example picture.",
    )
    prompts: list[str] = option(
        [],
        "What each picture shows apart from its style, with {} for the style: one prompt for each picture, in the same "
        "order, or one for all. Default: the text file next to each picture (picture.txt for picture.png), which "
        f'dreamstyler caption or --caption writes; without one "{BARE_PROMPTS["style"]}", with which all that the '
        "picture shows is learned as style.",
    )
    caption: bool = option(
        False,
        "First write a caption beside each picture that has none, as dreamstyler caption does, and learn with it.",
    )
    captioner: str = option(
        "", f"{CAPTIONER_HELP} Default: {JUDGE} with the embedded model, and {BLIP2} with any other."
    )
    separate: bool = option(
        False,
        "Learn a style from each picture, all at once. Each is the same as if learned alone, but together they take "
        "less time. Styles and runs are named after the pictures' files.",
    )
    name: str = option("", "Name of the style or object. Default: the name of the first picture's file.")
    dtype: str = option("float32", f"{DTYPE_HELP} The style itself is always float32.", choices=DTYPES)
    log_every: int = option(10, "Steps between two lines of metrics.jsonl, the log of losses.", low=1, high=1_000_000)
    save_every: int = option(100, "Steps between two checkpoints with preview pictures.", low=1, high=1_000_000)
    keep: int = option(
        2, "How many checkpoints to keep, the newest; the style of each is always kept.", low=1, high=1_000_000
    )
    preview_prompts: list[str] = option(
        [EXAMPLE_PROMPTS[0]], 'Prompts of the preview pictures, with {} for the style. For an object: "A photo of {}".'
    )
    profile: str = option("", "Folder for a profile of log_every steps, after a warm-up, for XProf and Perfetto.")
    wandb: str = option(
        "",
        "Also show the run in this project at Weights & Biases; with WANDB_MODE=offline in the environment it stays in "
        "the run's folder. Needs the package wandb.",
    )
    output: str = option(
        "", "Folder of the run; default: runs/NAME. With --separate the folder of all runs; default: runs."
    )
    resume: bool = option(False, "Continue from the latest checkpoint in the folder. Without one, start at step 0.")
    distributed: bool = option(
        False,
        "Train on all hosts of a TPU pod or a Slurm or Open MPI job, each of which runs this command: they share every "
        "batch, or with --separate the styles. The first one writes the run.",
    )
    coordinator_address: str | None = option(
        None,
        "With --distributed, where neither the TPU nor the job knows the hosts: HOST:PORT of the first process, which "
        "all can reach. Then --num_processes and --process_id are needed, too; --separate needs only those.",
    )
    num_processes: int | None = option(None, "With --distributed: how many processes there are.", low=1, high=1_000_000)
    process_id: int | None = option(
        None, "With --distributed: which of them this is, counted from 0.", low=0, high=1_000_000
    )

    def __post_init__(self):
        super().__post_init__()
        object.__setattr__(self, "loras", str(parse_loras(self.loras)))
        self._check_prompts()
        for name in ("coordinator_address", "num_processes", "process_id"):
            if getattr(self, name) is not None and not self.distributed:
                raise UserError(f"{name}: is for --distributed, which is not given")
        if self.separate:
            self._check_separate()
            object.__setattr__(self, "output", self.output or "runs")
            return
        name = self.name or (name_of(self.images[0]) if self.images else "example")
        if not is_name(name):
            raise UserError(f"name: a letter, then letters, digits, _ and -, not {name!r}")
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "output", self.output or os.path.join("runs", name))

    def _check_prompts(self) -> None:
        pictures = max(len(self.images), 1)
        if len(self.prompts) not in (0, 1, pictures):
            raise UserError(
                f"prompts: {len(self.prompts)} given for {pictures} picture{'s' * (pictures > 1)}; "
                "give one prompt for each picture, or one for all"
            )
        if self.prompts and self.caption:
            raise UserError("prompts, caption: give one of them, not both")
        if self.captioner and not self.caption:
            raise UserError("captioner: describes no picture without --caption")
        if self.property == "object" and self.caption:
            raise UserError("caption: describes all but the style; pictures of an object need no prompts")
        if self.property == "object" and self.preview_prompts == list(EXAMPLE_PROMPTS[:1]):
            object.__setattr__(self, "preview_prompts", [BARE_PROMPTS["object"]])

    def _check_separate(self) -> None:
        names = [name_of(picture) for picture in self.images]
        if not names:
            raise UserError("separate: give the pictures to learn a style from, with --images")
        if self.coordinator_address:
            raise UserError("coordinator_address: processes that learn separate styles do not meet; leave it out")
        if self.name:
            raise UserError("name: with separate each style is named after its picture's file")
        if duplicates := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
            count = names.count(duplicates[0])
            raise UserError(f"separate: the styles of {count} pictures would have the same name, {duplicates[0]}")


@dataclasses.dataclass(frozen=True)
class SampleConfig(GuidanceOptions):
    """Paint prompts in learned styles.

    Several values of styles, prompts, loras, seeds, scales, solver, steps, strength or control_scale make a grid.

    Raises:
        UserError: a value is out of range or contradicts another.
    """

    model: str = option("mini", MODEL_HELP)
    variant: str = option("", VARIANT_HELP)
    revision: str = option("", REVISION_HELP)
    vae: str = option("", VAE_HELP)
    prediction_type: str | None = option(None, PREDICTION_HELP, choices=PREDICTION_TYPES)
    allow_pickle: bool = option(False, PICKLE_HELP)
    clip_skip: int = option(0, CLIP_SKIP_HELP, low=0, high=31)
    loras: list[str] = option([NO_LORAS], f"{LORAS_HELP} Several such words paint the pictures with each of them.")
    styles: list[str] = option(
        [],
        "The styles: files, folders of runs, or folders of such folders. Default: the latest run under runs/, or else "
        "the example style of the package.",
    )
    mixes: list[str] = option(
        [],
        "New styles made from these, such as gogh:5-3,monet:2-0 or gogh*0.7+monet*0.3 or gogh:layers 0-7,monet:layers "
        "8-15. {} then stands for each mix.",
    )
    checkpoints: list[int] = option(
        [],
        "Training steps: paint with the styles and mixes as they were then, instead of the finished ones. A prompt or "
        "a mix can also name one step itself, as in gogh@100.",
        low=1,
        high=10**9,
    )
    prompts: list[str] = option(
        [],
        "What to paint. {} stands for each style in turn, {name} for one style, {a|b} for both words in turn, "
        "{2$$a|b|c} for two of them. Default: four examples, or the text file next to each picture in content.",
    )
    prompts_file: str = option(
        "",
        "Text file with one prompt per line, in place of prompts. Empty lines and # comments are skipped. In a .csv or "
        ".jsonl file each line can also have a negative_prompt, a style, a seed, scales and more (docs/prompts.md).",
    )
    choices: str = option(
        ALL,
        "What becomes of {a|b} and wildcards: all paints every version, random the one that a picture's seed draws.",
        choices=MODES,
    )
    wildcards: str = option("", "Folder of text files: __animal__ in a prompt stands for a line of its animal.txt.")
    negative_prompt: str = option("", "What the pictures should not show; {a|b} and wildcards as in prompts.")
    prompt_weights: bool = option(
        True,
        "Read (word:1.2), (word) and [word] in prompts as more and less weight; \\( is a bracket that is meant as one. "
        "false: all brackets are text.",
    )
    long_prompts: bool = option(
        False, "Read prompts longer than the text encoders' window in several windows, instead of cutting them off."
    )
    content: list[str] = option([], "Pictures to repaint in each style with each prompt. Default: paint from noise.")
    strength: list[float] = option(
        [0.8], "How much of the content is repainted; 1 keeps nothing of it.", low=0.01, high=1
    )
    controlnets: list[str] = option(
        [],
        "ControlNets that keep the structure of the content, each KIND=PATH. KIND is edges, depth, or image (a map "
        "from control_images). PATH is a folder or hub id; without =PATH it is the folder controlnet of the model. "
        "KIND*0.5=PATH has half the weight. Default: edges, if the model has a ControlNet, as the embedded one does.",
    )
    control_variant: str = option("", "Variant of the ControlNets' weight files. Default: that of --variant.")
    control_images: list[str] = option(
        [], "Control maps for ControlNets of the kind image, one for each picture in content, in the same order."
    )
    control_scale: list[float] = option([0.8], "Weight of the ControlNets; 0 turns them off.", low=0, high=2)
    control_start: float = option(
        0.0, "Where in the sampling, 0 to 1, the ControlNets start to take effect.", low=0, high=1
    )
    control_end: float = option(
        1.0, "Where in the sampling, 0 to 1, the ControlNets stop taking effect.", low=0, high=1
    )
    guess_mode: bool = option(
        False,
        "Let the ControlNets alone decide what is painted: they affect only predictions with a prompt, and the fine "
        "levels less than the coarse ones.",
    )
    depth_model: str = option(
        "depth-anything/Depth-Anything-V2-Small-hf",
        "Depth model of transformers that makes the maps for ControlNets of the kind depth: a folder or hub id.",
    )
    seeds: str = option(
        "0:4",
        "Seeds of each prompt's pictures, a picture for each: numbers, and ranges without their end, as in 1,5,20:24; "
        "0:4 is 0 to 3.",
    )
    solver: list[str] = option(
        ["dpmpp_2m"], "; ".join(f"{s.name}: {s.help}" for s in SOLVERS.values()) + ".", choices=SOLVERS
    )
    steps: list[int] = option([25], "Steps of the solver.", low=1, high=1000)
    guidance_start: float = option(
        0.0, "Where in the sampling guidance starts. Steps without guidance take less time.", low=0, high=1
    )
    guidance_end: float = option(1.0, "Where in the sampling guidance ends.", low=0, high=1)
    guidance_schedule: str = option(
        CONSTANT,
        "How guidance changes over the sampling: linear and cosine grow from almost none to twice the scales, which "
        "are the mean.",
        choices=SCHEDULES,
    )
    weak_checkpoint: int = option(
        0, "With --weak_scale: the training step of the weak styles, of those that runs keep.", low=0, high=10**9
    )
    cache_interval: int = option(
        1,
        "Number of consecutive steps that share the UNet's deep features (DeepCache). Higher is faster and less exact.",
        low=1,
        high=100,
    )
    spacing: str = option(
        AUTO_SPACING,
        "How the solver spaces its timesteps; auto is the checkpoint's own way. For few steps use trailing.",
        choices=(AUTO_SPACING, *SPACINGS),
    )
    sigmas: str = option(
        AUTO_SIGMAS,
        "How the solver spaces its noise levels: karras, exponential and beta by that formula, ays by the tables of "
        "Align Your Steps (for about 10 steps), normal by its timesteps; auto is the checkpoint's own way. For "
        f"--solver {' or '.join(solver.name for solver in SOLVERS.values() if solver.points)}.",
        choices=SIGMAS,
    )
    height: int | None = option(None, f"Height of the pictures in pixels. {SIZE_HELP}", low=8, high=4096)
    width: int | None = option(None, f"Width of the pictures in pixels. {SIZE_HELP}", low=8, high=4096)
    original_size: list[int] = option(
        [], "SDXL: paint as if the pictures had been scaled from this height and width. Default: their own."
    )
    crop_top_left: list[int] = option(
        [], "SDXL: paint as if the pictures had been cut out of larger ones at this top and left. Default: 0 0."
    )
    format: str = option(
        PNG, "Format of the pictures' files. jpeg and webp are smaller, and not exact in every pixel.", choices=SUFFIXES
    )
    quality: int = option(95, "Quality of jpeg and webp files.", low=1, high=100)
    name_format: str = option(
        BY_ID,
        "Names of the pictures' files, such as {index:04}-{prompt}-{seed}. Fields: " + ", ".join(FIELDS) + ".",
    )
    batch_size: int = option(8, "Pictures painted at once; they do not depend on it.", low=1, high=1024)
    dtype: str = option("float32", DTYPE_HELP, choices=DTYPES)
    shard: str = option(
        "0/1",
        "i/n: paint every n-th picture, starting with picture i, counted from 0, so that n processes or machines share "
        "a grid. hosts: this host's share, on a TPU pod or in a Slurm or Open MPI job. Run the command once more "
        "without it to check all pictures and make the sheets and the page. The devices of one host share each batch "
        "automatically.",
    )
    live: bool = option(
        True,
        "Write the page, index.html, also while the grid is being painted; open in a browser, it shows what is new by "
        "itself. With false it is written at the end, or when the command is stopped.",
    )
    profile: str = option("", "Folder for a profile of a batch, after a warm-up, for XProf and Perfetto.")
    distributed: bool = option(False, "The same as --shard hosts.")
    merge: bool = option(False, "Add to a folder that holds pictures of other settings.")
    output: str = option("", "Folder of the pictures. Default: out/STYLE, with the names of the styles.")

    def __post_init__(self):
        check_values(self)
        check_pair(self, "original_size", "height and width", 1)
        check_pair(self, "crop_top_left", "top and left", 0)
        parse_seeds(self.seeds)
        check_pattern(self.name_format)
        if self.distributed:
            if self.shard not in (SampleConfig.shard, HOSTS):
                raise UserError("distributed, shard: give one of them, not both")
            object.__setattr__(self, "shard", HOSTS)
        if self.shard != HOSTS:
            parse_shard(self.shard)
        if self.prompts and self.prompts_file:
            raise UserError("prompts, prompts_file: give one of them, not both")
        if not self.prompts and not self.prompts_file and not self.content:
            object.__setattr__(self, "prompts", list(EXAMPLE_PROMPTS))
        self._check_loras()
        self._check_content()
        for name in ("control", "guidance"):
            if getattr(self, f"{name}_start") >= getattr(self, f"{name}_end"):
                raise UserError(f"{name}_end: must be more than {name}_start, {getattr(self, f'{name}_start'):g}")
        if any(getattr(self, WEAK_SCALE)) and not self.weak_checkpoint:
            raise UserError("weak_scale: name the training step of the weak style, with --weak_checkpoint")

    def _check_loras(self) -> None:
        texts = [str(parse_loras(text)) for text in self.loras]
        if not texts or len(set(texts)) < len(texts):
            raise UserError(f"loras: give at least one of them, or {NO_LORAS}, without duplicates")
        object.__setattr__(self, "loras", texts)

    def _check_content(self) -> None:
        if self.controlnets and not self.content:
            raise UserError("controlnets: give the pictures whose structure they keep, with --content")
        if "" in self.content:
            raise UserError("content: give the path of a picture, not an empty text")
        if len(set(self.content)) < len(self.content):
            raise UserError("content: names a picture twice")
        if self.control_images and len(self.control_images) != len(self.content):
            raise UserError(
                f"control_images: {len(self.control_images)} given for {len(self.content)} pictures in content; "
                "give one for each"
            )
