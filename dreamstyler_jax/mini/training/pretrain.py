"""Pretrains the embedded model from nothing.

    pictures -> tokenizer -> CLIP, judge, critic -> autoencoder -> latents -> UNet -> ControlNet -> model folder

Each part continues from what the work folder holds, so an interrupted run can be started again at any time. CLIP comes
first and its text encoder is then frozen: one that already tells painters and subjects apart saves the UNet most of its
training. The critic is a second judge, which sees how well the autoencoder keeps the brushwork. The result is a Stable
Diffusion in diffusers' layout, with the whole CLIP for evaluation, the judge and the ControlNet beside it.
"""

import dataclasses
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dreamstyler_jax.mini.training.autoencoder import latent_moments, latent_scale, train_autoencoder
from dreamstyler_jax.mini.training.clip import text_encoder_of, train_clip
from dreamstyler_jax.mini.training.controlnet import control_maps, train_controlnet
from dreamstyler_jax.mini.training.judge import train_judge
from dreamstyler_jax.mini.training.sizes import SIZES, Sizes
from dreamstyler_jax.mini.training.tokens import make_tokenizer, tokenize_captions
from dreamstyler_jax.mini.training.trainer import Part, Plan
from dreamstyler_jax.mini.training.unet import NOISE_SCHEDULE, latent_pictures, train_unet
from dreamstyler_jax.mini.world import data
from dreamstyler_jax.runtime.buckets import in_bucket
from dreamstyler_jax.runtime.checkpoints import check_path
from dreamstyler_jax.runtime.compilation import share_cores
from dreamstyler_jax.runtime.errors import UserError
from dreamstyler_jax.runtime.files import check_output, write_atomic
from dreamstyler_jax.runtime.settings import check_values, option
from dreamstyler_jax.stable_diffusion.parts import save_folder
from dreamstyler_jax.stable_diffusion.tokenizer import Tokenizer
from dreamstyler_jax.stable_diffusion.weights import save_model

# The parts with checkpoints, whose names begin those of settings; and where there is a limit of time, the share of it
# after which each is done.
PARTS = {"clip": 0.17, "judge": 0.26, "critic": 0.31, "vae": 0.46, "unet": 0.82, "controlnet": 0.98}
_MAX_STEPS = 1_000_000


def _steps(default: int, what: str) -> int:
    return option(default, f"Optimizer steps of {what}.", low=1, high=_MAX_STEPS)


def _batch_size(default: int, what: str) -> int:
    return option(default, f"Pictures in a step of {what}.", low=1, high=4096)


def _learning_rate(default: float, what: str) -> float:
    return option(default, f"Highest learning rate of {what}.", low=1e-8, high=1)


@dataclasses.dataclass(frozen=True)
class PretrainConfig:
    """Pretrain the embedded model.

    Raises:
        UserError: a value is out of its range.
    """

    output: str = option("pretraining", "Work folder for rendered pictures, checkpoints and, at the end, the model.")
    pictures: int = option(64_000, "Pictures to render and train on.", low=1, high=10_000_000)
    vocabulary: int = option(
        1_500, "Tokens of the tokenizer, 514 of which are bytes and special tokens.", low=514, high=2**15
    )
    seed: int = option(0, "Seed of the pictures, the captions and all training.", low=0, high=2**32 - 1)
    vae_steps: int = _steps(3_000, "the autoencoder")
    vae_batch_size: int = _batch_size(16, "the autoencoder")
    vae_learning_rate: float = _learning_rate(2e-3, "the autoencoder")
    clip_steps: int = _steps(2_000, "CLIP")
    clip_batch_size: int = _batch_size(96, "CLIP")
    clip_learning_rate: float = _learning_rate(1e-3, "CLIP")
    judge_steps: int = _steps(2_500, "the judge")
    judge_batch_size: int = _batch_size(32, "the judge")
    judge_learning_rate: float = _learning_rate(2e-3, "the judge")
    critic_steps: int = _steps(1_500, "the critic")
    critic_batch_size: int = _batch_size(32, "the critic")
    critic_learning_rate: float = _learning_rate(2e-3, "the critic")
    unet_steps: int = _steps(6_000, "the UNet")
    unet_batch_size: int = _batch_size(32, "the UNet")
    unet_learning_rate: float = _learning_rate(8e-4, "the UNet")
    controlnet_pictures: int = option(
        16_000, "Of the pictures, those that the ControlNet is trained on.", low=1, high=10_000_000
    )
    controlnet_steps: int = _steps(2_000, "the ControlNet")
    controlnet_batch_size: int = _batch_size(32, "the ControlNet")
    controlnet_learning_rate: float = _learning_rate(4e-4, "the ControlNet")
    dtype: str = option("float32", "Precision of the networks' computations.", choices=("float32", "bfloat16"))
    minutes: float = option(
        0.0,
        "Minutes to take. Parts take fewer steps if theirs would take too long. 0: as long as it takes.",
        low=0,
        high=100_000,
    )
    save_every: int = option(100, "Steps between two checkpoints, rounded up to tens.", low=1, high=_MAX_STEPS)

    def __post_init__(self):
        check_values(self)


def run(config: PretrainConfig) -> None:
    """Pretrains the embedded model on all devices.

    Raises:
        UserError: the work folder cannot be written, its checkpoints are those of other settings, or bfloat16 on a CPU.
    """
    share_cores("mini", *(getattr(config, f"{part}_batch_size") for part in PARTS))
    if in_bucket(config.output):
        raise UserError("output: pretrain works in a folder of this machine; copy the finished model into the bucket")
    check_output(Path(config.output))
    check_path(Path(config.output))
    if config.dtype == "bfloat16" and jax.default_backend() == "cpu":
        raise UserError("dtype: XLA cannot train in bfloat16 on a CPU; give --dtype float32, or use a GPU or TPU")
    pretrain(config)


class PretrainedModel(NamedTuple):
    """All parts of the embedded model."""

    tokenizer: Tokenizer
    autoencoder: Part
    clip: Part
    judge: Part
    unet: Part
    controlnet: Part


def pretrain(
    config: PretrainConfig,
    sizes: Sizes = SIZES,
    render_chunk: Callable[..., data.Pictures] = data.render_chunk,
) -> None:
    """Trains all parts, each from what the work folder holds, and writes the model folder.

    Args:
        config: how long to train and on how many pictures.
        sizes: the networks.
        render_chunk: renders a part of the training set, see `data.prepare`.
    """
    work = Path(config.output)
    chunk_size = sizes.pictures_per_file
    start = time.monotonic()
    pixels, labels = pictures = data.prepare(
        work / "pictures", config.pictures, config.seed, chunk_size=chunk_size, render_chunk=render_chunk
    )
    tokenizer = make_tokenizer(work / "tokenizer", config.vocabulary)
    captions = tokenize_captions(work / "captions", tokenizer, labels, config.seed)
    plans = {part: plan_for(part, config, sizes, start) for part in PARTS}
    clip = train_clip(plans["clip"], sizes.clip_for(tokenizer), pixels, captions)
    judge = train_judge(plans["judge"], sizes.judge, pictures)
    critic = train_judge(plans["critic"], sizes.judge, pictures)
    autoencoder = train_autoencoder(plans["vae"], sizes.autoencoder, pixels, critic)
    text = text_encoder_of(clip)
    moments = latent_moments(work / "latents", autoencoder, pixels)
    scale = latent_scale(moments)
    latents = latent_pictures(moments * np.float16(scale), captions, tokenizer, text, config.dtype)
    unet = train_unet(plans["unet"], sizes.unet, latents, text)
    maps = control_maps(min(config.controlnet_pictures, config.pictures), config.seed, chunk_size)
    controlnet = train_controlnet(plans["controlnet"], sizes.controlnet, latents, maps, unet, text)
    autoencoder = autoencoder._replace(config=dataclasses.replace(autoencoder.config, scaling_factor=scale))
    export(work / "model", PretrainedModel(tokenizer, autoencoder, clip, judge, unet, controlnet))


def plan_for(part: str, config: PretrainConfig, sizes: Sizes = SIZES, start: float = 0.0) -> Plan:
    """How the config says to train one of PARTS, if pretraining began at ``start`` by `time.monotonic`."""
    return Plan(
        folder=Path(config.output) / part,
        steps=getattr(config, f"{part}_steps"),
        batch_size=getattr(config, f"{part}_batch_size"),
        learning_rate=getattr(config, f"{part}_learning_rate"),
        seed=config.seed ^ (part == "critic"),
        save_every=config.save_every,
        steps_per_call=sizes.steps_per_call,
        dtype=config.dtype,
        until=start + 60 * config.minutes * PARTS[part] if config.minutes else math.inf,
    )


def export(folder: Path, model: PretrainedModel) -> None:
    """Writes the model folder, with weights in float16.

    The folders ``clip``, ``judge`` and ``controlnet`` come on top of a Stable Diffusion's.
    """
    text = text_encoder_of(model.clip)
    parts = {"text_encoder": text, "vae": model.autoencoder, "unet": model.unet}
    parts = {name: (part.config, _half(part)) for name, part in parts.items()}
    save_folder(folder, tokenizers={"clip_l": model.tokenizer}, schedule=NOISE_SCHEDULE, parts=parts)
    for name, part in {"clip": model.clip, "judge": model.judge, "controlnet": model.controlnet}.items():
        save_model(folder / name, part.config, _half(part))
    model.tokenizer.save(folder / "clip")
    preprocessor = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "size": {"shortest_edge": data.SIZE}}
    preprocessor |= {"crop_size": {"height": data.SIZE, "width": data.SIZE}}
    write_atomic(folder / "clip" / "preprocessor_config.json", (json.dumps(preprocessor, indent=2) + "\n").encode())


def _half(part: Part):
    return jax.tree.map(lambda array: array.astype(jnp.float16), part.params)
