"""A Stable Diffusion model as one frozen bundle: tokenizer, networks and their weights."""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from dreamstyler_jax.runtime import compilation
from dreamstyler_jax.runtime.devices import replicate
from dreamstyler_jax.runtime.errors import UserError, shortened
from dreamstyler_jax.stable_diffusion.checkpoint_files import hash_files
from dreamstyler_jax.stable_diffusion.controlnet import ControlNetModel
from dreamstyler_jax.stable_diffusion.folder_parts import find_parts
from dreamstyler_jax.stable_diffusion.hub import resolve_model
from dreamstyler_jax.stable_diffusion.loras.merging import LoraStack, merge_loras, read_loras
from dreamstyler_jax.stable_diffusion.loras.recipes import NO_LORAS
from dreamstyler_jax.stable_diffusion.model_files import find_model
from dreamstyler_jax.stable_diffusion.networks import Networks
from dreamstyler_jax.stable_diffusion.parts import (
    check_controlnet,
    check_fit,
    networks_of,
    not_default,
    part_classes,
    settings_hash,
)
from dreamstyler_jax.stable_diffusion.schedule import NoiseSchedule
from dreamstyler_jax.stable_diffusion.scheduler_config import scheduler_name
from dreamstyler_jax.stable_diffusion.tokenizer import Tokenizer
from dreamstyler_jax.stable_diffusion.weights import read_config

_TOKENIZERS = (("clip_l", "text_encoder", "tokenizer"), ("clip_g", "text_encoder_2", "tokenizer_2"))
EMBEDDED_MODEL = Path(__file__).parents[1] / "mini" / "model"


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class StableDiffusion:
    """A loaded model.

    Attributes:
        networks: the architecture, static under jit.
        params: the weights, ``{"text_encoder": ..., "vae": ..., "unet": ...}``, of SDXL also ``"text_encoder_2"``, and
            with ControlNets a list ``"controlnets"``; all of one dtype.
        tokenizers: the tokenizer of each text encoder, ``clip_l`` and, of SDXL, ``clip_g``.
        resolution: side in pixels of the images that the model was trained on.
        multiple: the sides of pictures to repaint are filled up to multiples of this many pixels.
        name: folder, file or hub id as the user gave it.
        hash: twelve hexadecimal digits that identify the weights on disk (from sizes and samples of the files).
        folder: the folder it was loaded from; None for a single file and for a model made in memory.
        loras: the LoRAs that are merged into the weights.
        scheduler: which of diffusers' schedulers its files name; empty if none.
        settings: twelve hexadecimal digits of what its files say besides the weights: configs, noise schedule,
            tokenizers; empty for the embedded model, where they come with the weights, and for a model made in memory.
    """

    networks: Networks
    params: dict[str, Any]
    tokenizers: Mapping[str, Tokenizer]
    resolution: int
    multiple: int
    name: str
    hash: str
    folder: Path | None = None
    loras: LoraStack = dataclasses.field(default_factory=LoraStack)
    scheduler: str = ""
    settings: str = ""

    @classmethod
    def load(
        cls,
        model: str | Path = "mini",
        *,
        variant: str = "",
        revision: str = "",
        vae: str | Path = "",
        prediction_type: str | None = None,
        allow_pickle: bool = False,
        dtype: str = "float32",
        loras: str = NO_LORAS,
        clip_skip: int = 0,
    ) -> Self:
        """Loads a folder in diffusers' layout, a single-file checkpoint, a hub id, or ``"mini"``, the embedded model.

        Prepares JAX as the commands do (`compilation.prepare`) if nothing has been computed yet.

        Args:
            model: the folder, the file, the hub id, or ``"mini"``.
            variant: the word in the names of the weight files, such as ``fp16``; empty for files without one.
            revision: branch, tag or commit of the hub repository; empty for its main branch.
            vae: an autoencoder in place of the model's own: a file, a folder or a hub id; empty for the model's own.
            prediction_type: ``epsilon`` or ``v_prediction``; None for what the model's files say.
            allow_pickle: whether to read the tensors of files in other formats than safetensors (needs torch).
            dtype: ``float32`` or ``bfloat16``, of the weights in memory and so of the computation.
            loras: LoRAs to merge into the weights, see `with_loras`.
            clip_skip: the number of the text encoders' last layers to leave out, see `with_clip_skip`.

        Raises:
            UserError: not such a model, or one of its files is missing or damaged.
        """
        compilation.prepare(str(model))
        files = find_model(
            EMBEDDED_MODEL if model == "mini" else model,
            variant=variant,
            revision=revision,
            vae=vae,
            prediction_type=prediction_type,
            allow_pickle=allow_pickle,
        )
        modules = part_classes(files.parts)
        configs = {name: files.parts[name].config(module) for name, module in modules.items()}
        tokenizers = {name: files.read_tokenizer(folder) for name, part, folder in _TOKENIZERS if part in modules}
        check_fit(files.origin, configs, tokenizers)
        schedule, weights = NoiseSchedule.from_config(files.scheduler), jnp.dtype(dtype)
        parts = {name: files.parts[name].load(module, configs[name], weights) for name, module in modules.items()}
        graphdefs = {name: graphdef for name, (graphdef, _) in parts.items()}
        vae_config, unet, end_id = configs["vae"], configs["unet"], tokenizers["clip_l"].eos_id
        settings = "" if model == "mini" else settings_hash(configs, schedule, tokenizers, files.zeros_if_empty)
        loaded = cls(
            networks=networks_of(graphdefs, configs, schedule, end_id=end_id, zeros_if_empty=files.zeros_if_empty),
            params={name: params for name, (_, params) in parts.items()},
            tokenizers=tokenizers,
            resolution=unet.latent_side * vae_config.downsampling,
            multiple=vae_config.downsampling * 2 ** (len(unet.block_out_channels) - 1),
            name=str(model),
            hash=files.hash(modules),
            folder=files.folder,
            scheduler=scheduler_name(files.scheduler),
            settings=settings,
        )
        return loaded.with_clip_skip(clip_skip).with_loras(loras)

    @property
    def tokenizer(self) -> Tokenizer:
        """The first text encoder's tokenizer, which says what a prompt's words are."""
        return self.tokenizers["clip_l"]

    @property
    def bundled_controlnet(self) -> Path | None:
        """The ControlNet in the model's own folder, if there is one."""
        folder = self.folder / "controlnet" if self.folder else None
        return folder if folder and (folder / "config.json").is_file() else None

    @property
    def dtype(self) -> jnp.dtype:
        """The type of the weights, and so of the computation."""
        return jax.tree.leaves(self.params["unet"])[0].dtype

    def __repr__(self) -> str:
        count = len(self.networks.controlnets)
        controlnets = f", {count} ControlNet{'s' if count > 1 else ''}" if count else ""
        loras = f", LoRAs {shortened(str(self.loras))}" if self.loras.members else ""
        skip = f", clip skip {self.networks.clip_skip}" if self.networks.clip_skip else ""
        size = f"{self.resolution} x {self.resolution} pixels"
        return f"StableDiffusion({shortened(self.name)!r}, {size}, {self.dtype}{controlnets}{loras}{skip})"

    def with_controlnets(
        self,
        folders: Sequence[str | Path],
        *,
        variant: str = "",
        allow_pickle: bool = False,
        guess_mode: bool = False,
    ) -> Self:
        """The model with ControlNets, each a folder in diffusers' layout or a hub id; its hash covers all of them.

        Those without weights of the variant are read from their files without a variant, with a warning.

        Raises:
            UserError: not a ControlNet, or one for another family of models.
        """
        graphdefs, params, hashes, own = [], [], [self.hash], self.bundled_controlnet
        found = [resolve_model(name, variant=variant or None, allow_pickle=allow_pickle) for name in folders]
        configs = [read_config(ControlNetModel, folder) for folder in found]
        for folder, config in zip(found, configs, strict=True):
            check_controlnet(folder, config, self.networks, self.name)
        parts = find_parts({str(folder): folder for folder in found}, variant or None, allow_pickle=allow_pickle)
        for folder, config in zip(found, configs, strict=True):
            graphdef, weights = parts[str(folder)].load(ControlNetModel, config, self.dtype)
            graphdefs.append(graphdef)
            params.append(weights)
            hashes.append(hash_files(sorted(parts[str(folder)].files)))
        networks = dataclasses.replace(self.networks, controlnets=tuple(graphdefs), guess_mode=guess_mode)
        return dataclasses.replace(
            self.with_settings(
                *(not_default(config) for name, config in zip(folders, configs, strict=True) if name != own)
            ),
            networks=networks,
            params={**self.params, "controlnets": params},
            hash=hashlib.sha256(" ".join(hashes).encode()).hexdigest()[:12],
        )

    def with_settings(self, *further: Any) -> Self:
        """The model with further things, as JSON values, in the hash `settings`, since its pictures depend on them."""
        if not further:
            return self
        content = json.dumps([self.settings, *further], sort_keys=True)
        return dataclasses.replace(self, settings=hashlib.sha256(content.encode()).hexdigest()[:12])

    def with_clip_skip(self, clip_skip: int) -> Self:
        """The model without the last layers of its text encoders, as some models were trained; counted as in diffusers.

        Args:
            clip_skip: the number of layers to leave out. (The option "Clip skip" of other programs is one more.)

        Raises:
            UserError: a text encoder has too few layers.
        """
        networks = self.networks
        second = networks.second_text_encoder.config if networks.second_text_encoder else networks.text_config
        layers = min(networks.text_config.num_hidden_layers, second.num_hidden_layers)
        if not 0 <= clip_skip < layers:
            raise UserError(f"clip_skip: must be from 0 to {layers - 1} for this model, not {clip_skip}")
        return dataclasses.replace(self, networks=dataclasses.replace(networks, clip_skip=clip_skip))

    def with_loras(self, loras: str | LoraStack) -> Self:
        """The model with LoRAs merged into its weights; its hash covers their files and scales.

        Programs compiled for this model also serve the new one.

        Args:
            loras: ``none``, safetensors files with scales, such as ``gogh.safetensors*0.8+ink.safetensors*0.5``, or the
                LoRAs themselves, from `lora.read_loras` for this model.

        Raises:
            UserError: a file cannot be read or does not fit the model, or the model has LoRAs already.
        """
        stack = read_loras([loras], self.params, self.name)[0] if isinstance(loras, str) else loras
        if not stack.members:
            return self
        if self.loras.members:
            raise UserError(f"loras: the model has {self.loras} already; give all at once, as {self.loras}+{stack}")
        params = merge_loras(self.params, stack)
        return dataclasses.replace(self, params=params, hash=stack.hash_on(self.hash), loras=stack)

    def with_size_conditions(self, original_size: Sequence[int] = (), crop_top_left: Sequence[int] = ()) -> Self:
        """SDXL that is told other sizes than those of the pictures themselves (Podell et al. 2023, section 2.2).

        Args:
            original_size: height and width in pixels before scaling; small ones ask for a blurred picture, large ones
                for a sharp one. Empty for the size of the picture.
            crop_top_left: top and left in pixels of what was cut out; not 0 asks for a picture that is cut off. Empty
                for a whole picture.

        Raises:
            UserError: the model is not SDXL.
        """
        if not original_size and not crop_top_left:
            return self
        if self.networks.second_text_encoder is None:
            raise UserError(f"original_size, crop_top_left: only SDXL takes them, and {self.name} is none")
        networks = dataclasses.replace(
            self.networks,
            original_size=tuple(original_size) or self.networks.original_size,
            crop_top_left=tuple(crop_top_left) or self.networks.crop_top_left,
        )
        return dataclasses.replace(self, networks=networks)

    def size(self, height: int | None, width: int | None) -> tuple[int, int]:
        """Height and width in pixels, with the model's resolution where None.

        Raises:
            UserError: one is not a multiple of the pixels of a latent.
        """
        return self.side("height", height), self.side("width", width)

    def side(self, option: str, value: int | None) -> int:
        """A side of an image in pixels, the model's resolution where None.

        Args:
            option: how an error calls it.
            value: the side.

        Raises:
            UserError: it is not a positive multiple of the pixels of a latent.
        """
        if value is None:
            return self.resolution
        step = self.networks.vae_config.downsampling
        if value <= 0 or value % step:
            near = max(step, round(value / step) * step)
            raise UserError(f"{option}: must be a multiple of {step} for this model, such as {near}, not {value}")
        return value

    @functools.cached_property
    def replicated_params(self) -> dict[str, Any]:
        """``params`` on all devices of this process."""
        return replicate(self.params)

    def encode_images(self, pictures: Array | np.ndarray) -> tuple[Array, Array]:
        """`Networks.encode_images` with these weights, compiled once for each shape of the pictures."""
        return _encode_images(self.networks, self.params, pictures)

    @functools.cached_property
    def vocabulary_vectors(self) -> dict[str, Array]:
        """The vectors of all tokens, float32[vocabulary, D], for each text encoder."""
        tables = self.networks.token_tables(self.params)
        return {name: table[: self.tokenizers[name].vocab_size].astype(jnp.float32) for name, table in tables.items()}


@functools.partial(jax.jit, static_argnames="networks")
def _encode_images(networks: Networks, params: Any, pictures: Array) -> tuple[Array, Array]:
    return networks.encode_images(params, pictures)


def model_folder(model: str | Path) -> Path:
    """The folder of a model on the disk; ``model`` as in `StableDiffusion.load`."""
    return EMBEDDED_MODEL if model == "mini" else resolve_model(model)
