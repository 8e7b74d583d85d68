"""A Stable Diffusion model as one frozen bundle: tokenizer, noise schedule, networks and their weights.

`Networks` is what a compiled program is made of and hashable, so it enters ``jax.jit`` as a static argument; the
weights are a pytree and always enter as an ordinary argument.
"""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from dreamstyler_jax.runtime.devices import replicate
from dreamstyler_jax.runtime.errors import UserError
from dreamstyler_jax.stable_diffusion.clip import CLIPTextConfig, CLIPTextModel
from dreamstyler_jax.stable_diffusion.controlnet import ControlNetConfig, ControlNetModel
from dreamstyler_jax.stable_diffusion.schedule import NoiseSchedule
from dreamstyler_jax.stable_diffusion.tokenizer import Tokenizer
from dreamstyler_jax.stable_diffusion.unet import DeepFeatures, UNet2DConditionConfig, UNet2DConditionModel
from dreamstyler_jax.stable_diffusion.vae import AutoencoderKL, AutoencoderKLConfig
from dreamstyler_jax.stable_diffusion.weights import load_model, resolve_model, save_model

EMBEDDED_MODEL = Path(__file__).parents[1] / "mini" / "model"
_PIECE = 4096  # bytes
PARTS = {"text_encoder": CLIPTextModel, "vae": AutoencoderKL, "unet": UNet2DConditionModel}


@dataclasses.dataclass(frozen=True)
class Networks:
    """The three networks without their weights. ``params`` below is always ``StableDiffusion.params``.

    Attributes:
      text_encoder, vae, unet: graph definitions of the modules.
      schedule: noise schedule and prediction type.
      controlnets: graph definitions of ControlNets, whose residuals add up.
      guess_mode: whether the ControlNets paint without the prompt's help, see `models.controlnet`.
    """

    text_encoder: nnx.GraphDef
    vae: nnx.GraphDef
    unet: nnx.GraphDef
    vae_config: AutoencoderKLConfig
    schedule: NoiseSchedule
    controlnets: tuple[nnx.GraphDef, ...] = ()
    guess_mode: bool = False

    def embed_tokens(self, params: Any, ids: Array) -> Array:
        """Token vectors [B, L, D] of int32[B, L]."""
        return nnx.merge(self.text_encoder, params["text_encoder"]).embed_tokens(ids)

    def encode_text(self, params: Any, token_embeddings: Array, ids: Array) -> Array:
        """The text encoder's states [B, L, D] for token vectors [B, L, D]; ``ids`` int32[B, L] mark the end of text."""
        return nnx.merge(self.text_encoder, params["text_encoder"]).encode(token_embeddings, ids)[0]

    def encode_images(self, params: Any, images: Array) -> tuple[Array, Array]:
        """Mean and deviation, float32[B, h, w, c], of the scaled latents of images [B, H, W, 3] in [-1, 1]."""
        mean, logvar = nnx.merge(self.vae, params["vae"]).encode(images)
        scale = self.vae_config.scaling_factor
        return mean.astype(jnp.float32) * scale, jnp.exp(0.5 * logvar.astype(jnp.float32)) * scale

    def decode_latents(self, params: Any, latents: Array) -> Array:
        """Images float32[B, H, W, 3], about [-1, 1], of scaled latents [B, h, w, c]."""
        vae = nnx.merge(self.vae, params["vae"])
        return vae.decode(latents / self.vae_config.scaling_factor).astype(jnp.float32)

    def hints(self, params: Any, maps: Sequence[Array]) -> tuple[Array, ...]:
        """What each ControlNet makes of its control map [B, H, W, 3] in [0, 1], for all timesteps."""
        return tuple(net.hint(map) for net, map in zip(self._controlnets(params), maps, strict=True))

    def denoise(
        self,
        params: Any,
        latents: Array,
        timesteps: Array,
        states: Array,
        hints: Sequence[Array] = (),
        scales: Array | None = None,
    ) -> Array:
        """The UNet's output float32[B, h, w, c] for latents, timesteps int32[] or [B] and text states [B, L, D].

        Args:
          hints: of each ControlNet; none: the UNet alone.
          scales: float32[B, K], how much each of them counts.
        """
        unet = nnx.merge(self.unet, params["unet"])
        residuals = self._residuals(params, latents, timesteps, states, hints, scales)
        return unet(latents, timesteps, states, residuals).astype(jnp.float32)

    def denoise_deep(
        self,
        params: Any,
        latents: Array,
        timesteps: Array,
        states: Array,
        hints: Sequence[Array] = (),
        scales: Array | None = None,
    ) -> DeepFeatures:
        """What `denoise` spends its time on, to be kept for the timesteps that follow; arguments as there."""
        unet = nnx.merge(self.unet, params["unet"])
        residuals = self._residuals(params, latents, timesteps, states, hints, scales)
        return unet.deep(latents, timesteps, states, residuals)

    def denoise_surface(
        self, params: Any, latents: Array, timesteps: Array, states: Array, deep: DeepFeatures
    ) -> Array:
        """The rest of `denoise`: the UNet's output float32[B, h, w, c]."""
        unet = nnx.merge(self.unet, params["unet"])
        return unet.surface(latents, timesteps, states, deep).astype(jnp.float32)

    def _residuals(
        self,
        params: Any,
        latents: Array,
        timesteps: Array,
        states: Array,
        hints: Sequence[Array],
        scales: Array | None,
    ) -> list[Array]:
        """What the ControlNets add to the UNet's feature maps, all together."""
        residuals: list[tuple[Array, ...]] = []
        for k, (net, hint) in enumerate(zip(self._controlnets(params), hints, strict=True)):
            residuals.append(net(latents, timesteps, states, hint, scales[:, k], guess_mode=self.guess_mode))
        return [sum(parts) for parts in zip(*residuals, strict=True)]

    def _controlnets(self, params: Any) -> list[ControlNetModel]:
        pairs = zip(self.controlnets, params.get("controlnets", ()), strict=True)
        return [nnx.merge(graphdef, own) for graphdef, own in pairs]

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """Shape (h, w, c) of the latents of an image of ``height`` x ``width`` pixels."""
        factor = self.vae_config.downsampling
        return height // factor, width // factor, self.vae_config.latent_channels


@dataclasses.dataclass(frozen=True, eq=False)
class StableDiffusion:
    """A loaded model.

    Attributes:
      networks: the architecture, static under jit.
      params: ``{"text_encoder": ..., "vae": ..., "unet": ...}``, with ControlNets also ``"controlnets"``, a list; all
        of one dtype.
      tokenizer: the model's tokenizer.
      text_width: width D of the text encoder, and of a style's vectors.
      resolution: side in pixels of the images that the model was trained on.
      multiple: image sizes are multiples of this many pixels.
      name: folder or hub id as the user gave it.
      hash: twelve hexadecimal digits that identify the weights on disk (sizes and samples of the files).
    """

    networks: Networks
    params: dict[str, Any]
    tokenizer: Tokenizer
    text_width: int
    resolution: int
    multiple: int
    name: str
    hash: str

    @classmethod
    def load(cls, model: str, *, variant: str | None = None, dtype: str = "float32") -> Self:
        """Loads a folder in diffusers' layout, a hub id, or ``"mini"``, the embedded model.

        Args:
          variant: the word in the names of the weights' files, such as ``fp16``; None or empty: no such word.
          dtype: of the weights in memory, and so of the computation.

        Raises:
          UserError: not such a model, or one of its files missing or damaged.
        """
        folder = model_folder(model, variant)
        schedule = NoiseSchedule.from_config(_read_json(folder / "scheduler" / "scheduler_config.json"))
        tokenizer = Tokenizer.from_folder(folder / "tokenizer")
        parts = {
            name: load_model(module, folder / name, dtype=jnp.dtype(dtype), variant=variant or None)
            for name, module in PARTS.items()
        }
        configs = {
            name: module.config_class.from_dict(_read_json(folder / name / "config.json"))
            for name, module in PARTS.items()
        }
        text, vae, unet = configs["text_encoder"], configs["vae"], configs["unet"]
        _check_fit(folder, text, vae, unet, tokenizer)
        return cls(
            networks=Networks(**{name: part[0] for name, part in parts.items()}, vae_config=vae, schedule=schedule),
            params={name: part[1] for name, part in parts.items()},
            tokenizer=tokenizer,
            text_width=text.hidden_size,
            resolution=unet.sample_size * vae.downsampling,
            multiple=vae.downsampling * 2 ** (len(unet.block_out_channels) - 1),
            name=model,
            hash=_hash_files(sorted(file for name in PARTS for file in (folder / name).glob("*.safetensors"))),
        )

    def with_controlnets(
        self, folders: Sequence[str | Path], *, variant: str | None = None, guess_mode: bool = False
    ) -> Self:
        """The model with ControlNets, each a folder in diffusers' layout or a hub id; the hash is that of all of them.

        Raises:
          UserError: not a ControlNet, or one of another family of models.
        """
        graphdefs, params, hashes = [], [], [self.hash]
        for name in folders:
            folder = resolve_model(name, variant=variant or None)
            config = ControlNetConfig.from_dict(_read_json(folder / "config.json"))
            _check_controlnet(folder, config, self)
            dtype = jax.tree.leaves(self.params["unet"])[0].dtype
            graphdef, own = load_model(ControlNetModel, folder, dtype=dtype, variant=variant or None)
            graphdefs.append(graphdef)
            params.append(own)
            hashes.append(_hash_files(sorted(folder.glob("*.safetensors"))))
        networks = dataclasses.replace(self.networks, controlnets=tuple(graphdefs), guess_mode=guess_mode)
        hash = hashlib.sha256(" ".join(hashes).encode()).hexdigest()[:12]
        return dataclasses.replace(self, networks=networks, params={**self.params, "controlnets": params}, hash=hash)

    def size(self, height: int | None, width: int | None) -> tuple[int, int]:
        """Height and width in pixels, the model's own where None.

        Raises:
          UserError: not a multiple of ``multiple``.
        """
        for name, value in (("height", height), ("width", width)):
            if value is not None and value % self.multiple:
                near = max(self.multiple, round(value / self.multiple) * self.multiple)
                raise UserError(
                    f"{name}: must be a multiple of {self.multiple} for this model, such as {near}, not {value}"
                )
        return height or self.resolution, width or self.resolution

    @functools.cached_property
    def everywhere(self) -> dict[str, Any]:
        """``params`` on all devices of this process."""
        return replicate(self.params)

    @functools.cached_property
    def embedding_table(self) -> Array:
        """float32[vocabulary, D]: the vectors of all tokens."""
        ids = jnp.arange(self.tokenizer.vocab_size)[None]
        return self.networks.embed_tokens(self.params, ids)[0].astype(jnp.float32)


def model_folder(model: str, variant: str | None = None) -> Path:
    """Where a model, as `StableDiffusion.load` takes it, lies on the disk."""
    return EMBEDDED_MODEL if model == "mini" else resolve_model(model, variant=variant or None)


def own_controlnet(model: str, variant: str | None = None) -> Path | None:
    """The ControlNet that a model's folder holds, if any."""
    folder = model_folder(model, variant) / "controlnet"
    return folder if (folder / "config.json").is_file() else None


def save(folder: Path, *, tokenizer: Tokenizer, schedule: NoiseSchedule, parts: dict[str, tuple[Any, Any]]) -> None:
    """Writes a model folder in diffusers' layout.

    Args:
      parts: ``{"text_encoder": (config, params), "vae": ..., "unet": ...}``.
    """
    for name, (config, params) in parts.items():
        save_model(folder / name, config, params)
    tokenizer.save(folder / "tokenizer")
    _write_json(folder / "scheduler" / "scheduler_config.json", schedule.to_config())
    classes = {"text_encoder": ["transformers", "CLIPTextModel"], "tokenizer": ["transformers", "CLIPTokenizer"]}
    classes |= {"vae": ["diffusers", "AutoencoderKL"], "unet": ["diffusers", "UNet2DConditionModel"]}
    nothing = {"safety_checker": [None, None], "feature_extractor": [None, None]}
    index = {
        "_class_name": "StableDiffusionPipeline",
        "scheduler": ["diffusers", "DDIMScheduler"],
        **classes,
        **nothing,
    }
    _write_json(folder / "model_index.json", index)


def _check_fit(
    folder: Path, text: CLIPTextConfig, vae: AutoencoderKLConfig, unet: UNet2DConditionConfig, tokenizer: Tokenizer
) -> None:
    pairs = (
        ("text_encoder hidden_size", text.hidden_size, "unet cross_attention_dim", unet.cross_attention_dim),
        ("vae latent_channels", vae.latent_channels, "unet in_channels", unet.in_channels),
        (
            "text_encoder max_position_embeddings",
            text.max_position_embeddings,
            "tokenizer length",
            tokenizer.max_length,
        ),
    )
    if not isinstance(unet.sample_size, int):
        raise UserError(f"{folder}/unet/config.json: sample_size must be the side of square latents")
    if tokenizer.vocab_size > text.vocab_size:
        raise UserError(
            f"{folder}: the tokenizer has {tokenizer.vocab_size} tokens, the text_encoder {text.vocab_size}"
        )
    for left, a, right, b in pairs:
        if a != b:
            raise UserError(f"{folder} is not a text-to-image Stable Diffusion: its {left} is {a}, but its {right} {b}")


def _check_controlnet(folder: Path, config: ControlNetConfig, model: StableDiffusion) -> None:
    unet, vae = nnx.merge(model.networks.unet, model.params["unet"]).config, model.networks.vae_config
    theirs = {"downsampling of its control map": config.downsampling, "cross_attention_dim": config.cross_attention_dim}
    ours = {"downsampling of its control map": vae.downsampling, "cross_attention_dim": unet.cross_attention_dim}
    for name in ("in_channels", "block_out_channels", "layers_per_block", "down_block_types"):
        theirs[name], ours[name] = getattr(config, name), getattr(unet, name)
    different = [f"{name} is {theirs[name]}, not {ours[name]}" for name in ours if theirs[name] != ours[name]]
    if different:
        raise UserError(f"the ControlNet {folder} is for another family of models than {model.name}: {different[0]}")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} is missing: a model is a folder in diffusers' layout") from None
    except ValueError as error:
        raise UserError(f"{path} is damaged: {error}") from error


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _hash_files(paths: list[Path]) -> str:
    """Of each file its size and 256 evenly spaced pieces: tells models apart without reading gigabytes.

    Pieces from all over the file, since many models differ from their parents in some layers only.
    """
    digest = hashlib.sha256()
    for path in paths:
        size = path.stat().st_size
        digest.update(f"{path.parent.name}/{size}".encode())
        with path.open("rb") as file:
            for start in range(0, size, max(size // 256, _PIECE)):
                file.seek(start)
                digest.update(file.read(_PIECE))
    return digest.hexdigest()[:12]
