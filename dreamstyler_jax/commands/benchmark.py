"""How fast this machine trains, paints, encodes and decodes: ``python -m dreamstyler_jax.commands.benchmark``.

Tracing, lowering, compiling (without and with a cache) and running are measured apart. Operations are counted
(`flops`), the utilisation is against the device's peak, from a table or measured with a matrix product.
"""

import contextlib
import dataclasses
import functools
import importlib.metadata
import itertools
import json
import os
import platform
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.compilation_cache import compilation_cache

from dreamstyler_jax import guidance, inversion, prompts, sampling
from dreamstyler_jax.commands.cli import main, parse
from dreamstyler_jax.commands.config import SampleConfig, check_values
from dreamstyler_jax.grids import cells as grid
from dreamstyler_jax.grids.gallery import Gallery, Writer
from dreamstyler_jax.runtime.compilation import choose_kernels, cores, share_cores
from dreamstyler_jax.runtime.devices import shared, split_batch
from dreamstyler_jax.runtime.errors import UserError
from dreamstyler_jax.runtime.files import write_atomic
from dreamstyler_jax.runtime.flops import flops
from dreamstyler_jax.solvers import solver_table
from dreamstyler_jax.stable_diffusion.clip import CLIPTextConfig, CLIPTextModel
from dreamstyler_jax.stable_diffusion.pipeline import Networks, StableDiffusion
from dreamstyler_jax.stable_diffusion.unet import UNet2DConditionConfig, UNet2DConditionModel
from dreamstyler_jax.stable_diffusion.vae import AutoencoderKL, AutoencoderKLConfig
from dreamstyler_jax.stable_diffusion.weights import init_model
from dreamstyler_jax.style import Style

PEAKS = {  # dense bfloat16 operations per second, from the makers' data sheets
    "H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12, "V100": 125e12, "TPU v4": 275e12,
    "TPU v5 lite": 197e12, "TPU v5p": 459e12, "TPU v5": 459e12, "TPU v6 lite": 918e12,
}  # fmt: skip
TRAIN_STEPS = 5  # in one call
GRID_BATCHES = 4
PROMPT = "A painting of a red house by the sea in the style of {}"
_TEXT_15 = CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_attention_heads=12)
_TEXT_21 = CLIPTextConfig(
    hidden_size=1024, intermediate_size=4096, num_attention_heads=16, num_hidden_layers=23, hidden_act="gelu"
)
_UNET_15 = UNet2DConditionConfig(cross_attention_dim=768, attention_head_dim=8, sample_size=64)
_UNET_21 = UNet2DConditionConfig(
    cross_attention_dim=1024, attention_head_dim=(5, 10, 20, 20), use_linear_projection=True, upcast_attention=True,
    sample_size=96,
)  # fmt: skip
_VAE = AutoencoderKLConfig(block_out_channels=(128, 256, 512, 512), layers_per_block=2, sample_size=512)
SIZES = {"sd15": (_TEXT_15, _UNET_15), "sd21": (_TEXT_21, _UNET_21)}


@dataclasses.dataclass(frozen=True)
class BenchmarkConfig:
    """What to measure.

    Raises:
        UserError: a value is out of range, or the sweep does not read.
    """

    model: str = "mini"
    """`mini`, a folder or a hub id; or `sd15`, `sd21`: random weights of that size."""
    measure: list[Literal["train", "cfg", "paper", "grid", "unet", "encode", "decode", "text"]] = dataclasses.field(
        default_factory=lambda: ["train", "cfg", "paper", "grid", "unet", "encode", "decode", "text"]
    )
    """`train`: training steps. `cfg`, `paper`: painting, with two rows of guidance and with four. `grid`: the whole of
    painting four batches as `cfg` does, prompts, files and all. `unet`: one pass. `encode`, `decode`: the autoencoder.
    `text`: prompts in six stages."""
    batch: int = 8
    """Pictures, or prompts, at once."""
    resolution: int | None = None
    """Side of the pictures in pixels. null: the model's own."""
    steps: int = 25
    """Steps of the solver."""
    styles: int = 1
    """Styles trained at once, each with `batch` pictures a step."""
    sweep: str = ""
    """Values of one of the above instead of one, such as batch=1,2,4,8 or resolution=256,512 or styles=1,8."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Number format of the model's computations."""
    repeats: int = 5
    """Runs that are timed, after one that is not."""
    output: str = "build/benchmark.jsonl"
    """File of the results, a line each."""

    ranges: ClassVar[dict[str, tuple[float, float]]] = {
        "batch": (1, 1024),
        "resolution": (8, 4096),
        "steps": (1, 1000),
        "styles": (1, 1024),
        "repeats": (1, 1000),
    }

    def __post_init__(self):
        check_values(self)
        self.settings()

    def settings(self) -> list["BenchmarkConfig"]:
        """The config with each value of the sweep."""
        if not self.sweep:
            return [self]
        match = re.fullmatch(r"(batch|resolution|steps|styles)=(\d{1,6}(?:,\d{1,6})*)", self.sweep)
        if not match:
            raise UserError(f"sweep: {self.sweep!r} should read like batch=1,2,4,8")
        return [dataclasses.replace(self, sweep="", **{match[1]: int(value)}) for value in match[2].split(",")]


class Work(NamedTuple):
    """Something to run again and again.

    ``function``: jitted. ``keywords``: its static arguments. ``images``, ``steps``: what one call makes. ``again``: the
    arguments of the next call, from those of the last and its result.
    """

    function: Any
    arguments: tuple
    keywords: dict[str, Any]
    images: int
    steps: int
    again: Callable[[tuple, Any], tuple] = lambda arguments, result: arguments


def random_model(size: str, dtype: str) -> StableDiffusion:
    """A Stable Diffusion of that size with random weights and the embedded model's words."""
    text, unet = SIZES[size]
    kinds = {"text_encoder": (CLIPTextModel, text), "vae": (AutoencoderKL, _VAE), "unet": (UNet2DConditionModel, unet)}
    parts = {name: init_model(*kind, dtype=jnp.dtype(dtype)) for name, kind in kinds.items()}
    small = StableDiffusion.load("mini")
    networks = Networks(**{n: part[0] for n, part in parts.items()}, vae_config=_VAE, schedule=small.networks.schedule)
    params = {name: part[1] for name, part in parts.items()}
    width, side = text.hidden_size, unet.sample_size * _VAE.downsampling
    return StableDiffusion(networks, params, small.tokenizer, width, side, 64, size, "random")


def initial_style(model: StableDiffusion) -> Style:
    """A style of six stages before its training."""
    return Style("style", prompts.initial_table(model, "painting", 6, 1))


def work_of(name: str, config: BenchmarkConfig, model: StableDiffusion) -> Work:
    """What is run to measure ``name``."""
    networks, params = model.networks, model.params
    size = model.size(config.resolution, config.resolution)
    rng = np.random.default_rng(0)
    pictures = rng.uniform(-1, 1, (config.batch, *size, 3)).astype(np.float32)
    latents = rng.standard_normal((config.batch, *networks.latent_shape(*size)), np.float32)
    style = initial_style(model)
    if name == "train":
        dataset = inversion.make_dataset(model, pictures[:1], [[PROMPT]], 1, flip=True)
        optimizer = inversion.make_optimizer(
            learning_rate=0.002, warmup_steps=0, schedule="constant", steps=500, weight_decay=0.01
        )
        advance = inversion.make_trainer(networks, optimizer, inversion.Settings(config.batch, 1, 0))
        states, datasets = (
            inversion.stacked([one] * config.styles) for one in (inversion.start(style.table, optimizer), dataset)
        )
        following = lambda arguments, result: (result[0], *arguments[1:])  # noqa: E731
        start, samples = (states, model.everywhere, datasets), config.styles * config.batch * TRAIN_STEPS
        return Work(advance, start, {"steps": TRAIN_STEPS}, samples, TRAIN_STEPS, following)
    if name in ("cfg", "paper"):
        weights = {"cfg": guidance.cfg(3.5), "paper": guidance.paper(5.0, 1.0, 3.0)}[name]
        rows = guidance.rows_needed(weights[None])
        table = solver_table("dpmpp_2m", networks.schedule, config.steps)
        texts = ["", PROMPT, prompts.context_only(PROMPT), prompts.style_only(PROMPT)]
        bank = prompts.encode(model, texts, {"style": style})
        chosen = np.repeat(np.array(rows)[:, None], config.batch, axis=1)
        batch = bank[chosen], weights[chosen], np.arange(config.batch, dtype=np.uint32)
        arguments = (networks, model.everywhere, table, *jax.device_put(batch))
        return Work(sampling.paint_batch, arguments, {"size": size}, config.batch, config.steps)
    if name == "text":
        ids, slots = prompts.tokenize(model.tokenizer, [PROMPT] * config.batch, {"style": 1})
        return Work(prompts.encode_ids, (networks, params, ids, slots, style.table), {}, config.batch, 1)
    states = rng.standard_normal((config.batch, 77, model.text_width), np.float32).astype(jnp.dtype(config.dtype))
    function, inputs = {
        "unet": (networks.denoise, (latents, np.full(config.batch, 500, np.int32), states)),
        "encode": (networks.encode_images, (pictures,)),
        "decode": (networks.decode_latents, (latents,)),
    }[name]
    if shared(config.batch):
        function = split_batch(function, in_axes=(None, *[0] * len(inputs)))
    return Work(jax.jit(function), (model.everywhere, *jax.device_put(inputs)), {}, config.batch, 1)


def timed(function: Callable, *arguments: Any, **keywords: Any) -> tuple[float, Any]:
    """Seconds, and the result."""
    began = time.perf_counter()
    result = jax.block_until_ready(function(*arguments, **keywords))
    return time.perf_counter() - began, result


@contextlib.contextmanager
def cache_in(folder: str) -> Iterator[None]:
    """Here all programs are kept in, and taken from, a folder."""
    settings = {
        "jax_enable_compilation_cache": True,
        "jax_compilation_cache_dir": folder,
        "jax_persistent_cache_min_compile_time_secs": 0.0,
    }
    before = {name: getattr(jax.config, name) for name in settings}
    for values in settings, before:
        for name, value in values.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()
        if values is settings:
            yield


def build(work: Work) -> tuple[dict[str, Any], Any]:
    """What it takes to make the program of a work, seconds, operations and bytes; and the program."""
    jax.clear_caches()  # another work may have the same program
    trace = functools.partial(work.function.trace, *work.arguments, **work.keywords)
    tracing, traced = timed(trace)
    lowering, lowered = timed(traced.lower)
    with tempfile.TemporaryDirectory() as folder, cache_in(folder):
        compiling, _ = timed(lowered.compile)
        jax.clear_caches()
        lowered = trace().lower()
        cached, compiled = timed(lowered.compile)
    memory = compiled.memory_analysis()
    found = {
        "trace_s": tracing,
        "lower_s": lowering,
        "compile_s": compiling,
        "compile_cached_s": cached,
        "argument_bytes": memory.argument_size_in_bytes,
        "temporary_bytes": memory.temp_size_in_bytes,
        "flop": flops(traced.jaxpr),
    }
    return found, compiled


def measure(work: Work, repeats: int) -> dict[str, Any]:
    """Everything about one piece of work: seconds, operations, bytes."""
    found, compiled = build(work)
    seconds, arguments = [], work.arguments
    for _ in range(1 + repeats):
        dynamic = [argument for argument in arguments if not isinstance(argument, Networks)]
        elapsed, result = timed(compiled, *dynamic)
        seconds.append(elapsed)
        arguments = work.again(arguments, result)
    return found | statistics(seconds[1:], work.images, work.steps, found["flop"])


def measure_grid(config: BenchmarkConfig, model: StableDiffusion) -> dict[str, Any]:
    """As `measure`, of a grid from its prompts to the files of its pictures; its program is that of ``cfg``."""
    found, _ = build(work_of("cfg", config, model))
    seeds = f"0:{GRID_BATCHES * config.batch}"
    wanted = SampleConfig(steps=[config.steps], batch_size=config.batch, seeds=seeds, dtype=config.dtype)
    styles, size = {"style": initial_style(model)}, model.size(config.resolution, config.resolution)
    cells = grid.make_cells(wanted, model, {"": [PROMPT]}, styles, ["style"], size)
    shape = grid.shape_of(cells, config.batch)

    def loop() -> None:
        with tempfile.TemporaryDirectory() as folder, Writer(Gallery(Path(folder))) as writer:
            for cell, picture in grid.paint(model, cells, styles, shape):
                writer.save(cell, picture)

    seconds = [timed(loop)[0] for _ in range(1 + config.repeats)]
    return found | statistics(seconds[1:], len(cells), GRID_BATCHES * config.steps, GRID_BATCHES * found["flop"])


def statistics(seconds: list[float], images: int, steps: int, operations: int) -> dict[str, Any]:
    """What the times of some runs say, each of which makes ``images`` in ``steps`` with so many ``operations``."""
    p10, median, p90 = np.percentile(seconds, [10, 50, 90]).tolist()
    return {
        "median_s": median,
        "p10_s": p10,
        "p90_s": p90,
        "images_per_s": images / median,
        "steps_per_s": steps / median,
        "flop": operations,
        "flop_per_s": operations / median,
        "peak_bytes_in_use": (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use"),
    }


def peak(dtype: str) -> tuple[float, str]:
    """Operations per second that the devices could do at most, and where the figure is from."""
    kind = jax.local_devices()[0].device_kind
    count = jax.local_device_count() if jax.default_backend() != "cpu" else 1  # whose devices share the cores
    listed = [value for name, value in PEAKS.items() if name in kind]
    if listed and dtype == "bfloat16":
        return count * listed[0], "data sheet"
    side = 4096 if jax.default_backend() != "cpu" else 1024
    matrix = jnp.ones((side, side), jnp.dtype(dtype))
    product = jax.jit(jnp.matmul)
    best = min(timed(product, matrix, matrix)[0] for _ in range(50))
    return count * 2 * side**3 / best, f"matrix product of {side} x {side}"


def conditions() -> dict[str, Any]:
    """What the figures depend on besides the settings."""
    versions = {
        name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "flax", "numpy", "dreamstyler-jax")
    }
    return {
        "device": jax.local_devices()[0].device_kind,
        "devices": jax.local_device_count(),
        "machine": platform.platform(),
        "python": platform.python_version(),
        "cores": cores(),
        "XLA_FLAGS": os.environ.get("XLA_FLAGS", ""),
        **versions,
    }


def row(result: dict[str, Any]) -> str:
    """A line of the table."""
    spread = f"{1e3 * result['p10_s']:.1f} to {1e3 * result['p90_s']:.1f}"
    several = f" {result['styles']} styles" if result["measure"] == "train" and result["styles"] > 1 else ""
    cells = [
        result["measure"] + several,
        result["batch"],
        f"{result['trace_s'] + result['lower_s']:.2f}",
        f"{result['compile_s']:.2f}",
        f"{result['compile_cached_s']:.2f}",
        f"{1e3 * result['median_s']:.1f}",
        spread,
        f"{result['images_per_s']:.2f}",
        f"{result['steps_per_s']:.2f}",
        f"{result['flop'] / 1e9:.1f}",
        f"{100 * result['utilisation']:.1f} %",
        f"{(result['argument_bytes'] + result['temporary_bytes']) / 2**20:.0f}",
    ]
    return "| " + " | ".join(map(str, cells)) + " |"


HEADS = (
    "", "batch", "trace, lower s", "compile s", "from cache s", "median ms", "p10 to p90", "images/s", "steps/s",
    "GFLOP", "of peak", "MiB",
)  # fmt: skip
HEAD = f"| {' | '.join(HEADS)} |\n{'|---' * len(HEADS)}|"


def run(config: BenchmarkConfig) -> None:
    """Measures one after another, prints a table as it grows and writes the results."""
    model = random_model(config.model, config.dtype) if config.model in SIZES else None
    model = model or StableDiffusion.load(config.model, dtype=config.dtype)
    most, source = peak(config.dtype)
    common = {**conditions(), "peak_flop_per_s": most, "peak_from": source}
    print(
        f"{common['device']} x {common['devices']}, {config.dtype}, peak {most / 1e12:.3g} TFLOP/s ({source})\n\n{HEAD}"
    )
    lines = []
    for setting, name in itertools.product(config.settings(), config.measure):
        if name == "grid":
            result = measure_grid(setting, model)
        else:
            result = measure(work_of(name, setting, model), config.repeats)
        own = {**dataclasses.asdict(setting), "measure": name, "utilisation": result["flop_per_s"] / most}
        lines.append(json.dumps({**own, **result, **common}))
        print(row({**own, **result}), flush=True)
        write_atomic(Path(config.output), "".join(f"{line}\n" for line in lines).encode())


def command() -> None:
    """What the command line asks for."""
    config = parse(BenchmarkConfig)
    share_cores(config.model, *[setting.batch for setting in config.settings()])
    run(config)


if __name__ == "__main__":
    choose_kernels()
    main(command)
