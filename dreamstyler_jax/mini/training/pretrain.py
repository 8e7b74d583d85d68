"""Pretrains the embedded model from nothing: ``python -m dreamstyler_jax.mini.training.pretrain``.

    pictures -> tokenizer -> vae, clip, judge -> latents -> unet -> controlnet -> model folder

Each part finds what is already done in the work folder and continues it; a run may be interrupted at any moment. CLIP
comes first and is then frozen, because a text encoder in which painters and subjects are already apart is worth
several times the samples. The result has the file layout of a Stable Diffusion checkpoint, plus the whole CLIP for
evaluation, and the judge.
"""

import dataclasses
import hashlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import Array
from tqdm import tqdm

from dreamstyler_jax.commands.cli import main, parse
from dreamstyler_jax.mini import judge
from dreamstyler_jax.mini.training import controls
from dreamstyler_jax.mini.training.trainer import Loss, fit, spread
from dreamstyler_jax.mini.world import captions, data
from dreamstyler_jax.runtime import images
from dreamstyler_jax.runtime.compilation import set_up, share_cores
from dreamstyler_jax.runtime.files import write_atomic
from dreamstyler_jax.stable_diffusion import pipeline, schedule
from dreamstyler_jax.stable_diffusion.clip import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTextModel, CLIPVisionConfig
from dreamstyler_jax.stable_diffusion.controlnet import ControlNetConfig, ControlNetModel
from dreamstyler_jax.stable_diffusion.tokenizer import Tokenizer
from dreamstyler_jax.stable_diffusion.unet import UNet2DConditionConfig, UNet2DConditionModel
from dreamstyler_jax.stable_diffusion.vae import AutoencoderKL, AutoencoderKLConfig
from dreamstyler_jax.stable_diffusion.weights import init_model, save_model

CAPTIONS_PER_PICTURE = 6


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
    vae_learning_rate: float = 2e-3
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
    controlnet_steps: int = 2_000
    """Steps of the ControlNet."""
    controlnet_batch_size: int = 32
    """Pictures per step of the ControlNet."""
    controlnet_learning_rate: float = 4e-4
    """Highest learning rate of the ControlNet."""
    save_every: int = 100
    """Steps between two checkpoints, a multiple of 10."""


VAE = AutoencoderKLConfig(
    block_out_channels=(16, 32, 64), layers_per_block=1, latent_channels=8, norm_num_groups=8, sample_size=64
)
SCHEDULE = schedule.NoiseSchedule(prediction_type="v_prediction", timestep_spacing="trailing")


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


def _fit(part: str, config: PretrainConfig, loss: Loss, params: Any, arrays: Any) -> Any:
    """Trains a part as long and as fast as the config says of it."""
    steps, rate = (getattr(config, f"{part}_{name}") for name in ("steps", "learning_rate"))
    options = dict(steps=steps, learning_rate=rate, seed=config.seed, save_every=config.save_every)
    return fit(Path(config.output) / part, loss, params, arrays, **options)


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
        x = _mirrored(k_flip, images.to_unit(arrays["pixels"][index]))
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
        image = clip.get_image_features(_mirrored(k_flip, images.to_unit(arrays["pixels"][index])))
        text = clip.get_text_features(arrays["captions"][index, which, :length].astype(jnp.int32))
        unit = lambda f: f / jnp.linalg.norm(f, axis=-1, keepdims=True)  # noqa: E731
        logits = unit(image) @ unit(text).T * jnp.exp(jnp.minimum(clip.logit_scale[...], 4.6))
        labels = jnp.arange(batch_size)
        cross = optax.softmax_cross_entropy_with_integer_labels
        return (cross(logits, labels).mean() + cross(logits.T, labels).mean()) / 2

    return loss


class Denoising(NamedTuple):
    """A batch to denoise: pictures by ``index``, ``noisy`` latents at ``timesteps``, ``text`` states, ``target``."""

    index: Array
    noisy: Array
    timesteps: Array
    text: Array
    target: Array


def draw_denoising(arrays: Any, key: Array, text_graphdef: Any, batch_size: int, dropout: float) -> Denoising:
    """Pictures at stratified uniform timesteps; of the captions a share ``dropout`` is left out, for guidance."""
    k_index, k_caption, k_drop, k_latent, k_t, k_noise = jax.random.split(key, 6)
    index = spread(jax.random.randint(k_index, (batch_size,), 0, arrays["captions"].shape[0]))
    which = jax.random.randint(k_caption, (batch_size,), 0, CAPTIONS_PER_PICTURE)
    mean, deviation = jnp.moveaxis(arrays["moments"][index].astype(jnp.float32), 1, 0)
    latents = mean + deviation * spread(jax.random.normal(k_latent, mean.shape))
    ids = arrays["captions"][index, which].astype(jnp.int32)
    dropped = jax.random.bernoulli(k_drop, dropout, (batch_size, 1))
    ids = jnp.where(dropped, arrays["empty"].astype(jnp.int32), ids)
    text = jax.lax.stop_gradient(nnx.merge(text_graphdef, arrays["text_params"])(ids)[0])
    t = (jnp.arange(batch_size) + jax.random.uniform(k_t, (batch_size,))) * 1000 / batch_size
    t = t.astype(jnp.int32)
    noise = spread(jax.random.normal(k_noise, latents.shape))
    noisy, target = schedule.add_noise(SCHEDULE, latents, noise, t), schedule.target(SCHEDULE, latents, noise, t)
    return Denoising(index, noisy, t, text, target)


def unet_loss(graphdef: Any, text_graphdef: Any, batch_size: int) -> Loss:
    """The denoising loss; one caption in ten is left out."""

    def loss(params, arrays, key, step):
        del step
        batch = draw_denoising(arrays, key, text_graphdef, batch_size, dropout=0.1)
        return ((nnx.merge(graphdef, params)(*batch[1:4]) - batch.target) ** 2).mean()

    return loss


def controlnet_loss(graphdef: Any, unet_graphdef: Any, text_graphdef: Any, batch_size: int) -> Loss:
    """The denoising loss of the frozen UNet with a ControlNet, which is given one kind of map or another.

    Every second caption is left out, so that it learns to read the map (Zhang et al. 2023, section 3.3).
    """

    def loss(params, arrays, key, step):
        del step
        batch = draw_denoising(arrays, key, text_graphdef, batch_size, dropout=0.5)
        controlnet = nnx.merge(graphdef, params)
        kind = jax.random.randint(jax.random.fold_in(key, 6), (batch_size,), 0, len(arrays["maps"]))
        maps = arrays["maps"][kind, batch.index].astype(jnp.float32)[..., None] / 255
        residuals = controlnet(*batch[1:4], controlnet.hint(jnp.repeat(maps, 3, axis=-1)))
        prediction = nnx.merge(unet_graphdef, arrays["unet_params"])(*batch[1:4], residuals)
        return ((prediction - batch.target) ** 2).mean()

    return loss


def latent_moments(graphdef, params, pixels: np.ndarray) -> np.ndarray:
    """Mean and deviation of every picture's latents: float16[N, 2, h, w, c], unscaled."""

    @jax.jit
    def encode(params, pixels):
        mean, logvar = nnx.merge(graphdef, params).encode(images.to_unit(pixels))
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
    return vae._replace(params=_fit("vae", config, loss, vae.params, arrays))


def train_clip(config: PretrainConfig, pictures: data.Pictures, tokenizer: Tokenizer, ids: np.ndarray) -> Parts:
    """Both encoders of CLIP. Captions are cut after the longest one: the text encoder is causal, so nothing is lost."""
    clip = Parts(*init_model(CLIPModel, clip_config(tokenizer), seed=config.seed))
    length = int((ids != tokenizer.pad_id).sum(-1).max()) + 1
    loss = clip_loss(clip.graphdef, config.clip_batch_size, length)
    arrays = {"pixels": jnp.asarray(pictures.pixels), "captions": jnp.asarray(ids)}
    return clip._replace(params=_fit("clip", config, loss, clip.params, arrays))


def train_judge(config: PretrainConfig, pictures: data.Pictures) -> Parts:
    """The classifier that evaluations ask."""
    parts = Parts(*init_model(judge.Judge, judge.JudgeConfig(), seed=config.seed))

    def loss(params, arrays, key, step):
        del step
        k_index, k_disturb = jax.random.split(key)
        index = spread(jax.random.randint(k_index, (config.judge_batch_size,), 0, arrays["pixels"].shape[0]))
        pixels, labels = images.to_unit(arrays["pixels"][index]), arrays["labels"][index]
        return judge.loss(nnx.merge(parts.graphdef, params), k_disturb, pixels, labels)

    arrays = {"pixels": jnp.asarray(pictures.pixels), "labels": jnp.asarray(pictures.labels)}
    return parts._replace(params=_fit("judge", config, loss, parts.params, arrays))


def text_encoder(tokenizer: Tokenizer, clip: Parts) -> Parts:
    """CLIP's text encoder alone, as Stable Diffusion holds it."""
    graphdef, _ = init_model(CLIPTextModel, clip_config(tokenizer).text_config)
    return Parts(graphdef, {"text_model": clip.params["text_model"]})


def denoising_arrays(moments: np.ndarray, tokenizer: Tokenizer, ids: np.ndarray, text: Parts) -> dict[str, Any]:
    """What `draw_denoising` draws from."""
    captions, empty = jnp.asarray(ids), jnp.asarray(tokenizer([""]))
    return {"moments": jnp.asarray(moments), "captions": captions, "empty": empty, "text_params": text.params}


def train_unet(config: PretrainConfig, arrays: dict[str, Any], text: Parts) -> Parts:
    """The UNet, on latents of unit scale, with the text encoder frozen."""
    unet = Parts(*init_model(UNet2DConditionModel, unet_config(), seed=config.seed))
    loss = unet_loss(unet.graphdef, text.graphdef, config.unet_batch_size)
    return unet._replace(params=_fit("unet", config, loss, unet.params, arrays))


def controlnet_config() -> ControlNetConfig:
    """The UNet's sizes, as far as it is copied."""
    shared = {field.name for field in dataclasses.fields(ControlNetConfig)}
    copied = {name: value for name, value in dataclasses.asdict(unet_config()).items() if name in shared}
    return ControlNetConfig(**copied, conditioning_embedding_out_channels=(16, 32, 64))


def initial_controlnet(unet: Parts, seed: int) -> Parts:
    """The UNet's encoder, and layers that give nothing yet (Zhang et al. 2023, section 3.1)."""
    controlnet = Parts(*init_model(ControlNetModel, controlnet_config(), seed=seed))
    params = {**controlnet.params, **{name: unet.params[name] for name in controlnet.params if name in unet.params}}
    for name in ("controlnet_down_blocks", "controlnet_mid_block"):
        params[name] = jax.tree.map(jnp.zeros_like, params[name])
    embedding = params["controlnet_cond_embedding"]
    silent = jax.tree.map(jnp.zeros_like, embedding["conv_out"])
    return controlnet._replace(params={**params, "controlnet_cond_embedding": {**embedding, "conv_out": silent}})


def train_controlnet(config: PretrainConfig, arrays: dict[str, Any], unet: Parts, text: Parts) -> Parts:
    """One ControlNet for all kinds of maps, over the frozen UNet."""
    controlnet = initial_controlnet(unet, config.seed)
    loss = controlnet_loss(controlnet.graphdef, unet.graphdef, text.graphdef, config.controlnet_batch_size)
    arrays = {**arrays, "unet_params": unet.params, "maps": jnp.asarray(control_maps(config.pictures, config.seed))}
    return controlnet._replace(params=_fit("controlnet", config, loss, controlnet.params, arrays))


def control_maps(count: int, seed: int) -> np.ndarray:
    """The control maps of the training pictures: uint8[2, count, 64, 64], depth and edges."""
    chunks = tqdm(range(-(-count // data.CHUNK)), desc="control maps", mininterval=10)
    return np.concatenate([controls.maps(data.chunk_scenes(seed, chunk)) for chunk in chunks], axis=1)[:, :count]


def export(
    folder: Path,
    tokenizer: Tokenizer,
    vae: Parts,
    clip: Parts,
    referee: Parts,
    unet: Parts,
    controlnet: Parts,
    scale: float,
) -> None:
    """Writes the model folder in float16, with the whole CLIP in ``clip``, the judge in ``judge``, the ControlNet."""
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
    save_model(folder / "controlnet", controlnet_config(), half(controlnet.params))


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
    text = text_encoder(tokenizer, clip)
    arrays = denoising_arrays(moments * np.float16(scale), tokenizer, ids, text)
    unet = train_unet(config, arrays, text)
    controlnet = train_controlnet(config, arrays, unet, text)
    export(work / "model", tokenizer, vae, clip, referee, unet, controlnet, scale)


def command() -> None:
    """What the command line asks for."""
    config = parse(PretrainConfig)
    sizes = [getattr(config, f"{part}_batch_size") for part in ("vae", "clip", "judge", "unet", "controlnet")]
    share_cores("mini", *sizes)
    pretrain(config)


if __name__ == "__main__":
    set_up()
    main(command)
