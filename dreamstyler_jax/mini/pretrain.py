"""Pretrains the embedded model from nothing: ``python -m dreamstyler_jax.mini.pretrain``.

    pictures -> tokenizer -> vae, clip, judge -> latents -> unet -> model folder

Each part finds what is already done in the work folder and continues it; a run may be interrupted at any moment. CLIP
comes first and is then frozen, because a text encoder in which painters and subjects are already apart is worth
several times the samples. The result has the file layout of a Stable Diffusion checkpoint, plus the whole CLIP for
evaluation, and the judge.
"""

import dataclasses
import functools
import hashlib
import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import Array
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from tqdm import tqdm

from dreamstyler_jax import diffusion, pipeline
from dreamstyler_jax.checkpoints import open_checkpoints
from dreamstyler_jax.cli import main, parse
from dreamstyler_jax.files import write_atomic
from dreamstyler_jax.mini import captions, data, judge
from dreamstyler_jax.models.clip import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTextModel, CLIPVisionConfig
from dreamstyler_jax.models.unet import UNet2DConditionConfig, UNet2DConditionModel
from dreamstyler_jax.models.vae import AutoencoderKL, AutoencoderKLConfig
from dreamstyler_jax.tokenizer import Tokenizer
from dreamstyler_jax.weights import init_model, save_model

CAPTIONS_PER_PICTURE = 6
CHUNK_STEPS = 10  # optimizer steps per compiled call


@dataclasses.dataclass(frozen=True)
class PretrainConfig:
    """Sizes and lengths of the pretraining; a step is one optimizer update."""

    output: str = "pretraining"
    """Work folder: rendered pictures, checkpoints, and at the end the model."""
    pictures: int = 80_000
    """Pictures to render and train on."""
    vocabulary: int = 1_500
    """Tokens of the tokenizer, 514 of them bytes and special ones."""
    seed: int = 0
    """Seed of everything."""
    vae_steps: int = 3_000
    """Steps of the autoencoder."""
    vae_batch_size: int = 8
    """Pictures per step of the autoencoder."""
    vae_learning_rate: float = 3e-3
    """Highest learning rate of the autoencoder."""
    clip_steps: int = 2_000
    """Steps of CLIP."""
    clip_batch_size: int = 96
    """Pairs per step of CLIP."""
    clip_learning_rate: float = 1e-3
    """Highest learning rate of CLIP."""
    judge_steps: int = 2_500
    """Steps of the judge."""
    judge_batch_size: int = 32
    """Pictures per step of the judge."""
    judge_learning_rate: float = 2e-3
    """Highest learning rate of the judge."""
    unet_steps: int = 6_000
    """Steps of the UNet."""
    unet_batch_size: int = 32
    """Pictures per step of the UNet."""
    unet_learning_rate: float = 8e-4
    """Highest learning rate of the UNet."""
    save_every: int = 100
    """Steps between two checkpoints, a multiple of 10."""


VAE = AutoencoderKLConfig(
    block_out_channels=(16, 32, 64), layers_per_block=1, latent_channels=8, norm_num_groups=8, sample_size=64
)
SCHEDULE = diffusion.NoiseSchedule(prediction_type="v_prediction", timestep_spacing="trailing")


def clip_config(tokenizer: Tokenizer) -> CLIPConfig:
    """CLIP's sizes, for the vocabulary of ``tokenizer``."""
    ids = dict(bos_token_id=tokenizer.bos_id, eos_token_id=tokenizer.eos_id, pad_token_id=tokenizer.pad_id)
    common = dict(
        hidden_size=128, intermediate_size=512, projection_dim=128, num_hidden_layers=3, num_attention_heads=4
    )
    text = CLIPTextConfig(vocab_size=tokenizer.vocab_size, **common, **ids)
    return CLIPConfig(text, CLIPVisionConfig(**common, image_size=64, patch_size=8), projection_dim=128)


def unet_config() -> UNet2DConditionConfig:
    """The UNet's sizes: three levels, the lower two with attention, and the pooled prompt in the time embedding."""
    return UNet2DConditionConfig(
        sample_size=16,
        in_channels=VAE.latent_channels,
        out_channels=VAE.latent_channels,
        block_out_channels=(64, 96, 192),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        attention_head_dim=4,
        cross_attention_dim=128,
        use_linear_projection=True,
        addition_embed_type="text",
        addition_embed_type_num_heads=4,
    )


class Fit(NamedTuple):
    """The state of one part's training."""

    params: Any
    average: Any
    optimizer: Any
    step: Array


Loss = Callable[[Any, Any, Array, Array], Array]


def all_devices(*axes: str | None) -> NamedSharding:
    """How arrays lie on the devices: ``all_devices("batch")`` splits the first axis, ``all_devices()`` copies."""
    return NamedSharding(Mesh(np.array(jax.devices()), ("batch",)), PartitionSpec(*axes))


def spread(batch: Array) -> Array:
    """The batch split over the devices, where they divide it."""
    if len(batch) % len(jax.devices()):
        return batch
    return jax.lax.with_sharding_constraint(batch, all_devices("batch"))


def fit(
    name: str, config: PretrainConfig, loss: Loss, params: Any, arrays: Any, *, steps: int, learning_rate: float
) -> Any:
    """Trains ``params`` and returns their running average (decay 0.999).

    Args:
      loss: ``loss(params, arrays, key, step) -> scalar``; it draws its own batch, so step k depends on (seed, k) alone.
      arrays: the data, passed through to ``loss``.
    """
    schedule = optax.join_schedules(
        [
            optax.linear_schedule(0, learning_rate, 100),
            optax.constant_schedule(learning_rate),
            optax.linear_schedule(learning_rate, learning_rate / 100, steps // 3),
        ],
        [100, steps - steps // 3],
    )
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule, b2=0.99, weight_decay=1e-3))

    @functools.partial(jax.jit, donate_argnums=0)
    def chunk(state: Fit, arrays: Any) -> tuple[Fit, Array]:
        def body(state, _):
            key = jax.random.fold_in(jax.random.key(config.seed), state.step)
            value, gradient = jax.value_and_grad(loss)(state.params, arrays, key, state.step)
            updates, opt = optimizer.update(gradient, state.optimizer, state.params)
            params = optax.apply_updates(state.params, updates)
            decay = jnp.minimum(0.999, state.step / (state.step + 10.0))
            average = jax.tree.map(lambda a, p: decay * a + (1 - decay) * p, state.average, params)
            return Fit(params, average, opt, state.step + 1), value

        return jax.lax.scan(body, state, None, CHUNK_STEPS)

    state = Fit(params, jax.tree.map(jnp.copy, params), optimizer.init(params), jnp.int32(0))
    arrays = jax.device_put(arrays, all_devices())
    with open_checkpoints(Path(config.output) / name) as checkpoints:
        state = jax.device_put(checkpoints.restore(state) or state, all_devices())
        done = int(state.step)
        with tqdm(total=steps, initial=done, desc=name, unit="step", mininterval=10) as bar:
            while done < steps:
                state, losses = chunk(state, arrays)
                done = int(state.step)
                bar.set_postfix(loss=f"{losses.mean():.4f}", refresh=False)
                bar.update(CHUNK_STEPS)
                if done % config.save_every == 0 or done >= steps:
                    checkpoints.save(done, state)
    return state.average


def make_tokenizer(folder: Path, vocabulary: int) -> Tokenizer:
    """The tokenizer: byte-pair encoding learned from 20,000 captions, the painters' names among them."""
    if (folder / "vocab.json").exists():
        return Tokenizer.from_folder(folder)
    rng = np.random.default_rng(0)
    limits = (len(captions.SUBJECTS), len(captions.COLOURS), len(captions.PLACES), len(captions.TIMES))
    painters = captions.PAINTERS + captions.HELD_OUT
    texts = [captions.caption(rng, *rng.integers(limits), rng.integers(painters)) for _ in range(20_000)]
    tokenizer = Tokenizer.train(texts, vocabulary)
    tokenizer.save(folder)
    return tokenizer


def tokenize_captions(tokenizer: Tokenizer, labels: np.ndarray, seed: int) -> np.ndarray:
    """Several captions of every picture: int16[N, CAPTIONS_PER_PICTURE, 77]."""
    rng = np.random.default_rng(seed)
    texts = [captions.caption(rng, *row) for row in labels for _ in range(CAPTIONS_PER_PICTURE)]
    return tokenizer(texts).astype(np.int16).reshape(len(labels), CAPTIONS_PER_PICTURE, -1)


def to_unit(pixels: Array) -> Array:
    """uint8 [0, 255] to float32 [-1, 1]."""
    return pixels.astype(jnp.float32) / 127.5 - 1


def _mirrored(key: Array, pictures: Array) -> Array:
    """Each picture or its mirror image, by chance. NHWC."""
    flip = jax.random.bernoulli(key, 0.5, (pictures.shape[0], 1, 1, 1))
    return jnp.where(flip, pictures[:, :, ::-1], pictures)


def vae_loss(graphdef, batch_size: int) -> Loss:
    """Mean absolute and squared error of the reconstruction, and a small Kullback-Leibler term."""

    def loss(params, arrays, key, step):
        del step
        k_index, k_flip, k_noise = jax.random.split(key, 3)
        index = spread(jax.random.randint(k_index, (batch_size,), 0, arrays["pixels"].shape[0]))
        x = _mirrored(k_flip, to_unit(arrays["pixels"][index]))
        vae = nnx.merge(graphdef, params)
        mean, logvar = vae.encode(x)
        z = mean + jnp.exp(0.5 * logvar) * jax.random.normal(k_noise, mean.shape)
        error = vae.decode(z) - x
        divergence = 0.5 * (mean**2 + jnp.exp(logvar) - 1 - logvar).mean()
        return jnp.abs(error).mean() + 2 * (error**2).mean() + 1e-4 * divergence

    return loss


def clip_loss(graphdef, batch_size: int, length: int) -> Loss:
    """CLIP's symmetric contrastive loss (Radford et al. 2021, Fig. 3) over captions of at most ``length`` tokens."""

    def loss(params, arrays, key, step):
        del step
        k_index, k_flip, k_caption = jax.random.split(key, 3)
        index = spread(jax.random.randint(k_index, (batch_size,), 0, arrays["pixels"].shape[0]))
        which = jax.random.randint(k_caption, (batch_size,), 0, CAPTIONS_PER_PICTURE)
        clip = nnx.merge(graphdef, params)
        image = clip.get_image_features(_mirrored(k_flip, to_unit(arrays["pixels"][index])))
        text = clip.get_text_features(arrays["captions"][index, which, :length].astype(jnp.int32))
        unit = lambda f: f / jnp.linalg.norm(f, axis=-1, keepdims=True)  # noqa: E731
        logits = unit(image) @ unit(text).T * jnp.exp(jnp.minimum(clip.logit_scale[...], 4.6))
        labels = jnp.arange(batch_size)
        cross = optax.softmax_cross_entropy_with_integer_labels
        return (cross(logits, labels).mean() + cross(logits.T, labels).mean()) / 2

    return loss


def unet_loss(graphdef, text_graphdef, batch_size: int, schedule: diffusion.NoiseSchedule) -> Loss:
    """The denoising loss at stratified uniform timesteps; one caption in ten is left out, for guidance."""

    def loss(params, arrays, key, step):
        del step
        k_index, k_caption, k_drop, k_latent, k_t, k_noise = jax.random.split(key, 6)
        index = spread(jax.random.randint(k_index, (batch_size,), 0, arrays["captions"].shape[0]))
        which = jax.random.randint(k_caption, (batch_size,), 0, CAPTIONS_PER_PICTURE)
        mean, deviation = jnp.moveaxis(arrays["moments"][index].astype(jnp.float32), 1, 0)
        latents = mean + deviation * spread(jax.random.normal(k_latent, mean.shape))
        ids = arrays["captions"][index, which].astype(jnp.int32)
        dropped = jax.random.bernoulli(k_drop, 0.1, (batch_size, 1))
        ids = jnp.where(dropped, arrays["empty"].astype(jnp.int32), ids)
        text = nnx.merge(text_graphdef, arrays["text_params"])(ids)[0]
        t = (jnp.arange(batch_size) + jax.random.uniform(k_t, (batch_size,))) * 1000 / batch_size
        t = t.astype(jnp.int32)
        noise = spread(jax.random.normal(k_noise, latents.shape))
        unet = nnx.merge(graphdef, params)
        prediction = unet(diffusion.add_noise(schedule, latents, noise, t), t, jax.lax.stop_gradient(text))
        return ((prediction - diffusion.target(schedule, latents, noise, t)) ** 2).mean()

    return loss


def latent_moments(graphdef, params, pixels: np.ndarray) -> np.ndarray:
    """Mean and deviation of every picture's latents: float16[N, 2, h, w, c], unscaled."""

    @jax.jit
    def encode(params, pixels):
        mean, logvar = nnx.merge(graphdef, params).encode(to_unit(pixels))
        return jnp.stack([mean, jnp.exp(0.5 * logvar)], 1).astype(jnp.float16)

    chunks = [pixels[i : i + 100] for i in range(0, len(pixels), 100)]
    return np.concatenate([np.asarray(encode(params, chunk)) for chunk in tqdm(chunks, desc="latents", mininterval=10)])


class Parts(NamedTuple):
    """A trained or fresh module, split: ``nnx.merge(graphdef, params)`` puts it together."""

    graphdef: Any
    params: Any


def cached(folder: Path, params: Any, compute: Callable[[], np.ndarray]) -> np.ndarray:
    """``compute()``, kept on disk under the digest of the weights that it depends on."""
    digest = hashlib.sha256(b"".join(np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(params))).hexdigest()
    path = folder / f"{digest[:16]}.npy"
    if not path.exists():
        buffer = io.BytesIO()
        np.save(buffer, compute())
        write_atomic(path, buffer.getvalue())
    return np.load(path)


def train_vae(config: PretrainConfig, pictures: data.Pictures) -> Parts:
    """The autoencoder, trained on all pictures."""
    vae = Parts(*init_model(AutoencoderKL, VAE, seed=config.seed))
    loss = vae_loss(vae.graphdef, config.vae_batch_size)
    arrays = {"pixels": jnp.asarray(pictures.pixels)}
    params = fit(
        "vae", config, loss, vae.params, arrays, steps=config.vae_steps, learning_rate=config.vae_learning_rate
    )
    return vae._replace(params=params)


def train_clip(config: PretrainConfig, pictures: data.Pictures, tokenizer: Tokenizer, ids: np.ndarray) -> Parts:
    """Both encoders of CLIP. Captions are cut after the longest one: the text encoder is causal, so nothing is lost."""
    clip = Parts(*init_model(CLIPModel, clip_config(tokenizer), seed=config.seed))
    length = int((ids != tokenizer.pad_id).sum(-1).max()) + 1
    loss = clip_loss(clip.graphdef, config.clip_batch_size, length)
    arrays = {"pixels": jnp.asarray(pictures.pixels), "captions": jnp.asarray(ids)}
    options = dict(steps=config.clip_steps, learning_rate=config.clip_learning_rate)
    return clip._replace(params=fit("clip", config, loss, clip.params, arrays, **options))


def train_judge(config: PretrainConfig, pictures: data.Pictures) -> Parts:
    """The classifier that evaluations ask."""
    parts = Parts(*init_model(judge.Judge, judge.JudgeConfig(), seed=config.seed))

    def loss(params, arrays, key, step):
        del step
        k_index, k_disturb = jax.random.split(key)
        index = spread(jax.random.randint(k_index, (config.judge_batch_size,), 0, arrays["pixels"].shape[0]))
        pixels, labels = to_unit(arrays["pixels"][index]), arrays["labels"][index]
        return judge.loss(nnx.merge(parts.graphdef, params), k_disturb, pixels, labels)

    arrays = {"pixels": jnp.asarray(pictures.pixels), "labels": jnp.asarray(pictures.labels)}
    options = dict(steps=config.judge_steps, learning_rate=config.judge_learning_rate)
    return parts._replace(params=fit("judge", config, loss, parts.params, arrays, **options))


def text_encoder(tokenizer: Tokenizer, clip: Parts) -> Parts:
    """CLIP's text encoder alone, as Stable Diffusion holds it."""
    graphdef, _ = init_model(CLIPTextModel, clip_config(tokenizer).text_config)
    return Parts(graphdef, {"text_model": clip.params["text_model"]})


def train_unet(
    config: PretrainConfig, moments: np.ndarray, tokenizer: Tokenizer, ids: np.ndarray, clip: Parts
) -> Parts:
    """The UNet, on latents of unit scale, with the text encoder frozen."""
    unet = Parts(*init_model(UNet2DConditionModel, unet_config(), seed=config.seed))
    text = text_encoder(tokenizer, clip)
    loss = unet_loss(unet.graphdef, text.graphdef, config.unet_batch_size, SCHEDULE)
    arrays = {
        "moments": jnp.asarray(moments),
        "captions": jnp.asarray(ids),
        "empty": jnp.asarray(tokenizer([""])),
        "text_params": text.params,
    }
    options = dict(steps=config.unet_steps, learning_rate=config.unet_learning_rate)
    return unet._replace(params=fit("unet", config, loss, unet.params, arrays, **options))


def export(
    folder: Path, tokenizer: Tokenizer, vae: Parts, clip: Parts, referee: Parts, unet: Parts, scale: float
) -> None:
    """Writes the model folder in float16, with the whole CLIP in ``clip`` and the judge in ``judge``."""
    half = lambda params: jax.tree.map(lambda a: a.astype(jnp.float16), params)  # noqa: E731
    vae_config = dataclasses.replace(VAE, scaling_factor=scale)
    text_config = clip_config(tokenizer).text_config
    parts = {
        "text_encoder": (text_config, half(text_encoder(tokenizer, clip).params)),
        "vae": (vae_config, half(vae.params)),
        "unet": (unet_config(), half(unet.params)),
    }
    pipeline.save(folder, tokenizer=tokenizer, schedule=SCHEDULE, parts=parts)
    save_model(folder / "clip", clip_config(tokenizer), half(clip.params))
    tokenizer.save(folder / "clip")
    preprocessor = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "size": {"shortest_edge": 64}}
    preprocessor |= {"crop_size": {"height": 64, "width": 64}}
    write_atomic(folder / "clip" / "preprocessor_config.json", (json.dumps(preprocessor, indent=2) + "\n").encode())
    save_model(folder / "judge", judge.JudgeConfig(), half(referee.params))


def pretrain(config: PretrainConfig) -> None:
    """Runs all parts, each continuing what the work folder holds."""
    work = Path(config.output)
    pictures = data.prepare(work / "pictures", config.pictures, config.seed)
    tokenizer = make_tokenizer(work / "tokenizer", config.vocabulary)
    ids = tokenize_captions(tokenizer, pictures.labels, config.seed)
    vae = train_vae(config, pictures)
    clip = train_clip(config, pictures, tokenizer, ids)
    referee = train_judge(config, pictures)
    moments = cached(work / "latents", vae.params, lambda: latent_moments(*vae, pictures.pixels))
    scale = float(1 / moments[:2000, 0].astype(np.float32).std())
    unet = train_unet(config, moments * np.float16(scale), tokenizer, ids, clip)
    export(work / "model", tokenizer, vae, clip, referee, unet, scale)


if __name__ == "__main__":
    # On a CPU each core as a device of its own: what XLA does not run on several cores at once (attention, the
    # optimizer) then does. On two cores a step of the UNet takes 0.60 s instead of 0.86.
    jax.config.update("jax_num_cpu_devices", os.cpu_count() or 1)
    main(lambda: pretrain(parse(PretrainConfig)))
