"""What ``dreamstyler benchmark`` runs: training, painting and each network, with random inputs."""

import dataclasses
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dreamstyler_jax import inversion
from dreamstyler_jax.encoding import encode_tokens, tokenize
from dreamstyler_jax.grids.axes import Axes, make_cells
from dreamstyler_jax.grids.gallery import Gallery
from dreamstyler_jax.grids.painting import paint_cells, shape_of
from dreamstyler_jax.grids.writer import Writer
from dreamstyler_jax.guidance import cfg, paper
from dreamstyler_jax.painting import FULL, Request, needed_rows, paint_requests, prepare_batches
from dreamstyler_jax.prompts import guidance_prompts
from dreamstyler_jax.runtime.devices import shared, split_batch
from dreamstyler_jax.sampling import plan_steps, sample_batch
from dreamstyler_jax.solvers import solver_table
from dreamstyler_jax.stable_diffusion.clip import CLIPTextConfig, CLIPTextConfigWithProjection
from dreamstyler_jax.stable_diffusion.conditioning import Conditioning
from dreamstyler_jax.stable_diffusion.parts import SDXL_PARTS, networks_of
from dreamstyler_jax.stable_diffusion.pipeline import EMBEDDED_MODEL, StableDiffusion
from dreamstyler_jax.stable_diffusion.schedule import NoiseSchedule
from dreamstyler_jax.stable_diffusion.tokenizer import Tokenizer
from dreamstyler_jax.stable_diffusion.unet import UNet2DConditionConfig
from dreamstyler_jax.stable_diffusion.vae import AutoencoderKLConfig
from dreamstyler_jax.stable_diffusion.weights import Loaded, init_model
from dreamstyler_jax.style import Style
from dreamstyler_jax.train_settings import TrainSettings
from dreamstyler_jax.training import make_optimizer
from dreamstyler_jax.transfer import ContentEncoder

WEIGHTS = {"cfg": cfg(3.5), "paper": paper(5.0, 1.0, 3.0)}  # of two rows of guidance and of four
PROMPT = "A painting of a red house by the sea in the style of {}"
SOLVER = "dpmpp_2m"
TRAIN_STEPS = 5  # in one call
GRID_BATCHES = 4
TOKENS = 77  # the window of Stable Diffusion's text encoder
_TEXT_15 = CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_attention_heads=12)
_TEXT_21 = CLIPTextConfig(
    hidden_size=1024, intermediate_size=4096, num_attention_heads=16, num_hidden_layers=23, hidden_act="gelu"
)
_UNET_15 = UNet2DConditionConfig(cross_attention_dim=768, attention_head_dim=8, sample_size=64)
_UNET_21 = UNet2DConditionConfig(
    cross_attention_dim=1024, attention_head_dim=(5, 10, 20, 20), use_linear_projection=True, upcast_attention=True,
    sample_size=96,
)  # fmt: skip
_UNET_XL = UNet2DConditionConfig(
    cross_attention_dim=2048, attention_head_dim=(5, 10, 20), use_linear_projection=True, sample_size=128,
    block_out_channels=(320, 640, 1280), down_block_types=("DownBlock2D", *["CrossAttnDownBlock2D"] * 2),
    up_block_types=(*["CrossAttnUpBlock2D"] * 2, "UpBlock2D"), transformer_layers_per_block=(1, 2, 10),
    addition_embed_type="text_time", addition_time_embed_dim=256, projection_class_embeddings_input_dim=2816,
)  # fmt: skip
_TEXT_XL = CLIPTextConfigWithProjection(
    hidden_size=1280, intermediate_size=5120, num_attention_heads=20, num_hidden_layers=32, hidden_act="gelu",
    projection_dim=1280,
)  # fmt: skip
_VAE = AutoencoderKLConfig(block_out_channels=(128, 256, 512, 512), layers_per_block=2, sample_size=512)
_VAE_XL = dataclasses.replace(_VAE, sample_size=1024, scaling_factor=0.13025)


class ModelConfigs(NamedTuple):
    """The settings of a model's networks."""

    text_encoder: CLIPTextConfig
    vae: AutoencoderKLConfig
    unet: UNet2DConditionConfig
    text_encoder_2: CLIPTextConfigWithProjection | None = None


SIZES = {
    "sd15": ModelConfigs(_TEXT_15, _VAE, _UNET_15),
    "sd21": ModelConfigs(_TEXT_21, _VAE, _UNET_21),
    "sdxl": ModelConfigs(_TEXT_15, _VAE_XL, _UNET_XL, _TEXT_XL),
}


class ProblemSize(NamedTuple):
    """How much a workload computes.

    Attributes:
        batch: pictures, or prompts, at once.
        image_size: height and width in pixels.
        steps: solver steps.
        styles: styles trained at once, each with ``batch`` pictures per step.
        remat: whether training computes the UNet's layers again in the backward pass.
    """

    batch: int
    image_size: tuple[int, int]
    steps: int
    styles: int = 1
    remat: bool = False


class Workload(NamedTuple):
    """A program to run repeatedly.

    Attributes:
        function: jitted; it takes the arguments of the next three attributes.
        static: its first arguments, which are static.
        inputs: its other positional arguments.
        options: its keyword arguments, which are static.
        images, steps: how many of them a call makes.
        next_inputs: the inputs of the next call, from the inputs and the result of the last one.
    """

    function: Any
    static: tuple
    inputs: tuple
    options: dict[str, Any]
    images: int
    steps: int
    next_inputs: Callable[[tuple, Any], tuple] = lambda inputs, result: inputs

    def trace(self) -> Any:
        """The traced program."""
        return self.function.trace(*self.static, *self.inputs, **self.options)

    def call(self, inputs: tuple) -> Any:
        """Runs the program."""
        return self.function(*self.static, *inputs, **self.options)


def random_model(
    name: str, configs: ModelConfigs, dtype: str, make: Callable[..., Loaded] = init_model
) -> StableDiffusion:
    """A Stable Diffusion with random weights, and with the tokenizer of the embedded model.

    Args:
        name: of the model.
        configs: its networks, as in `SIZES`.
        dtype: of the weights.
        make: makes each network; `weights.describe_model` makes the shapes of the weights alone.
    """
    tokenizer = Tokenizer.from_folder(EMBEDDED_MODEL / "tokenizer")
    by_part = {part: config for part, config in configs._asdict().items() if config}
    parts = {part: make(SDXL_PARTS[part], config, dtype=jnp.dtype(dtype)) for part, config in by_part.items()}
    graphdefs = {part: graphdef for part, (graphdef, _) in parts.items()}
    networks = networks_of(graphdefs, by_part, NoiseSchedule(), end_id=tokenizer.eos_id)
    latent_side, downsampling = configs.unet.sample_size, configs.vae.downsampling
    assert isinstance(latent_side, int)
    return StableDiffusion(
        networks=networks,
        params={part: params for part, (_, params) in parts.items()},
        tokenizers=dict.fromkeys(networks.text_widths, tokenizer),
        resolution=latent_side * downsampling,
        multiple=downsampling * 2 ** (len(configs.unet.block_out_channels) - 1),
        name=name,
        hash="random",
    )


def blank_style(model: StableDiffusion, stages: int = 6) -> Style:
    """A style of zeros: no time depends on what its vectors are."""
    widths = model.networks.text_widths
    return Style("style", {encoder: np.zeros((stages, 1, width), np.float32) for encoder, width in widths.items()})


def make_workload(name: str, model: StableDiffusion, problem: ProblemSize) -> Workload:
    """A workload by its name: train, cfg, paper, unet, encode, decode or text; see ``dreamstyler benchmark --help``."""
    if name == "train":
        return training_workload(model, problem)
    if name in WEIGHTS:
        return painting_workload(model, problem, WEIGHTS[name])
    if name == "text":
        tokens = tokenize(model.tokenizers, [PROMPT] * problem.batch, {"style": 1})
        inputs = (model.params, tokens, blank_style(model).tables)
        return Workload(encode_tokens, (model.networks,), inputs, {}, problem.batch, 1)
    return network_workload(name, model, problem)


def training_workload(model: StableDiffusion, problem: ProblemSize) -> Workload:
    """`TRAIN_STEPS` training steps of every style."""
    picture = np.random.default_rng(0).uniform(-1, 1, (*problem.image_size, 3)).astype(np.float32)
    dataset = inversion.make_dataset(model, [picture], [[PROMPT]], 1, flip=True)
    optimizer = make_optimizer(TrainSettings())
    networks = model.networks.with_remat(model.params) if problem.remat else model.networks
    advance = inversion.make_trainer(networks, optimizer, inversion.Settings(problem.batch, 1, 0))
    state = inversion.start(blank_style(model).tables, optimizer)
    states, datasets = (inversion.stack_trees([tree] * problem.styles) for tree in (state, dataset))

    def next_inputs(inputs: tuple, result: Any) -> tuple:
        return result[0], *inputs[1:]

    images = problem.styles * problem.batch * TRAIN_STEPS
    inputs = (states, model.replicated_params, datasets)
    return Workload(advance, (), inputs, {"steps": TRAIN_STEPS}, images, TRAIN_STEPS, next_inputs)


def painting_workload(
    model: StableDiffusion,
    problem: ProblemSize,
    weights: np.ndarray,
    *,
    guidance_span: tuple[float, float] = (0.0, 1.0),
    cache_interval: int = 1,
) -> Workload:
    """A batch of pictures from prompts that are encoded already; the last three arguments are as in `plan_steps`."""
    table = solver_table(SOLVER, model.networks.schedule, problem.steps)
    plan = plan_steps(table, guidance_span=guidance_span, cache_interval=cache_interval)
    rows = needed_rows([weights], partly_guided=plan.partly_guided)
    requests = [Request(guidance_prompts(PROMPT), weights, seed) for seed in range(problem.batch)]
    styles = {"style": blank_style(model)}
    ((_, batch),) = prepare_batches(
        model, requests, styles, batch_size=problem.batch, rows=rows, encoder=ContentEncoder(model)
    )
    options = {"size": problem.image_size, "full_row": rows.index(FULL)}
    inputs = (model.replicated_params, plan, jax.device_put(batch))
    return Workload(sample_batch, (model.networks,), inputs, options, problem.batch, problem.steps)


def network_workload(name: str, model: StableDiffusion, problem: ProblemSize) -> Workload:
    """One pass of the UNet, or of the autoencoder's encoder or decoder; all devices share the batch if they can."""
    networks, batch = model.networks, problem.batch
    rng = np.random.default_rng(0)
    pictures = rng.uniform(-1, 1, (batch, *problem.image_size, 3)).astype(np.float32)
    latents = rng.standard_normal((batch, *networks.latent_shape(*problem.image_size)), np.float32)
    width = networks.unet_config.cross_attention_dim
    states = jnp.asarray(rng.standard_normal((batch, TOKENS, width)), model.dtype)
    conditioning = Conditioning(states)
    if networks.second_text_encoder:
        pooled = rng.standard_normal((batch, networks.second_text_encoder.config.projection_dim or 0))
        conditioning = Conditioning(states, jnp.asarray(pooled, model.dtype))
    function, inputs = {
        "unet": (networks.denoise, (latents, np.full(batch, 500, np.int32), conditioning)),
        "encode": (networks.encode_images, (pictures,)),
        "decode": (networks.decode_latents, (latents,)),
    }[name]
    if shared(batch):
        function = split_batch(function, in_axes=(None, *[0] * len(inputs)))
    return Workload(jax.jit(function), (), (model.replicated_params, *jax.device_put(inputs)), {}, batch, 1)


def grid_painter(
    model: StableDiffusion, problem: ProblemSize, open_gallery: Callable[[Path], Gallery] = Gallery
) -> Callable[[], None]:
    """A function that paints `GRID_BATCHES` batches as ``cfg`` does, from their prompts to the files of the pictures.

    Args:
        model: the model.
        problem: how much to paint.
        open_gallery: makes the gallery in an empty folder.
    """
    styles = {"style": blank_style(model)}
    seeds = range(GRID_BATCHES * problem.batch)
    axes = Axes(
        {"": [PROMPT]}, list(styles), solvers=[SOLVER], steps=[problem.steps], seeds=seeds, dtype=str(model.dtype)
    )
    cells = make_cells(axes, model, styles, problem.image_size)
    shape = shape_of(cells, problem.batch)

    def paint() -> None:
        with tempfile.TemporaryDirectory() as folder, Writer(open_gallery(Path(folder))) as writer:
            for cell, picture in paint_cells(model, cells, styles, shape):
                writer.save(cell, picture)

    return paint


def latency_painter(model: StableDiffusion, problem: ProblemSize) -> Callable[[], np.ndarray]:
    """A function that paints one picture as ``cfg`` does, float32[H, W, 3]: encodes its prompt, paints, decodes."""
    styles = {"style": blank_style(model)}
    request = Request(guidance_prompts(PROMPT), WEIGHTS["cfg"], seed=0)
    plan = plan_steps(solver_table(SOLVER, model.networks.schedule, problem.steps))

    def paint() -> np.ndarray:
        (picture,) = paint_requests(model, [request], styles, plan, size=problem.image_size, batch_size=1)
        return picture

    return paint
