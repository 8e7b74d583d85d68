"""The doors for models: configs, tokenizers, weights, the networks of scores."""

import dataclasses
import functools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from cells import plain_picture
from original_layout_tools import folder_tensors, original_unet, original_vae, with_prefix, write_tensors
from tiny_model import WIDTH
from tiny_score_networks import write_score_networks

from dreamstyler_jax.evaluation.checkpoints import load_checkpoint
from dreamstyler_jax.evaluation.clip import Clip
from dreamstyler_jax.stable_diffusion.model_files import find_model
from dreamstyler_jax.stable_diffusion.networks import Networks
from dreamstyler_jax.stable_diffusion.parts import part_classes
from dreamstyler_jax.stable_diffusion.pipeline import StableDiffusion
from dreamstyler_jax.stable_diffusion.single_files.families import SD1
from dreamstyler_jax.stable_diffusion.tokenizer import Tokenizer
from fuzzing.door import FolderDoor
from fuzzing.mutations import (
    json_file,
    mutated_bytes,
    remove,
    safetensors_file,
    spoil_file,
)


def run_networks(networks: Networks, params: Any) -> Any:
    """Calls every network of a model once."""
    ids = {"clip_l": np.zeros((1, networks.text_config.max_position_embeddings), np.int32)}
    conditioning = networks.encode_text(params, networks.embed_tokens(params, ids), ids)
    latents = jnp.zeros((1, 8, 8, networks.vae_config.latent_channels))
    denoised = networks.denoise(params, latents, jnp.zeros(1), conditioning)
    return networks.encode_images(params, networks.decode_latents(params, denoised))


class Models(FolderDoor):
    """The configs of a model's folder."""

    def prepare(self) -> None:
        shutil.rmtree(self.folder)
        self.materials.copy(self.materials.model_folder, self.folder.name)
        index = {
            "_class_name": "StableDiffusionPipeline", "text_encoder": ["transformers", "CLIPTextModel"],
            "unet": ["diffusers", "UNet2DConditionModel"], "vae": ["diffusers", "AutoencoderKL"],
            "force_zeros_for_empty_prompt": True, "safety_checker": [None, None],
        }  # fmt: skip
        (self.folder / "model_index.json").write_text(json.dumps(index))
        self.files = {}
        parts = ("text_encoder", "unet", "vae")
        self.spoil_json(
            "model_index.json", "scheduler/scheduler_config.json", *(f"{part}/config.json" for part in parts)
        )

    def read(self, rng: Random) -> None:
        """Loads the model; if that is done, runs its networks without computing anything."""
        model = StableDiffusion.load(str(self.folder))
        repr(model)
        jax.eval_shape(functools.partial(run_networks, model.networks), model.params)


class Tokenizers(FolderDoor):
    """The files of a tokenizer."""

    def prepare(self) -> None:
        shutil.rmtree(self.folder)
        self.materials.copy(self.materials.model_folder / "tokenizer", self.folder.name)
        vocab = json.loads((self.folder / "vocab.json").read_text())
        merges = [line.split(" ") for line in (self.folder / "merges.txt").read_text().splitlines()[1:]]
        token = {"content": "<|endoftext|>", "special": True, "normalized": False, "lstrip": False}
        added = [{"id": vocab["<|endoftext|>"], **token}]
        whole = {"added_tokens": added, "model": {"type": "BPE", "vocab": vocab, "merges": merges}}
        (self.folder / "special_tokens_map.json").write_text(
            json.dumps({"bos_token": "<|startoftext|>", "pad_token": token})
        )
        (self.folder / "added_tokens.json").write_text(json.dumps({"<new>": len(vocab)}))
        self.files = {"merges.txt": lambda rng: mutated_bytes(rng, b"#version: 0.2\na b\nb c</w>\n")}
        self.spoil_json("vocab.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
        self.files["tokenizer.json"] = lambda rng: json_file(rng, whole)

    def read(self, rng: Random) -> None:
        """Reads the folder, half of the times without the older files, and encodes a prompt."""
        hidden = self.folder / "vocab.json"
        if (self.folder / "tokenizer.json").exists() and hidden.is_file() and rng.random() < 0.9:
            hidden = hidden.rename(self.folder / "hidden.json")
        try:
            tokenizer = Tokenizer.from_folder(self.folder)
            tokenizer(["a painting of a house! <new>", ""])
            tokenizer.decode(tokenizer.encode("a house"))
        finally:
            if hidden.name == "hidden.json":
                hidden.rename(self.folder / "vocab.json")


class Clips(FolderDoor):
    """The folder of a CLIP, and that of a DINOv2."""

    def prepare(self) -> None:
        shutil.rmtree(self.folder)
        self.materials.copy(self.materials.clip_folder, self.folder.name)
        self.networks = write_score_networks(self.folder / "scores")
        self.files = {}
        dino = "scores/dino"
        self.spoil_json(
            "config.json", "preprocessor_config.json", f"{dino}/config.json", f"{dino}/preprocessor_config.json"
        )

    def read(self, rng: Random) -> None:
        """Loads both, and prepares a picture."""
        picture = plain_picture(0)
        Clip.load(self.folder).preprocessor(picture)
        load_checkpoint("dino", str(self.folder / "scores" / "dino")).preprocessor(picture)


class Weights(FolderDoor):
    """Weights in safetensors files, one or several with their index, in diffusers' layout and in single files."""

    FAMILY: ClassVar = dataclasses.replace(
        SD1, unet={"norm_num_groups": 4}, vae={"norm_num_groups": 4, "scaling_factor": 0.5}, heads=2,
        sample_sizes={"epsilon": 8, "v_prediction": 8},
        text_encoders={
            "text_encoder": dataclasses.replace(
                SD1.text_encoders["text_encoder"], layers=1, config={"num_attention_heads": 2, "projection_dim": WIDTH}
            )
        },
    )  # fmt: skip

    def prepare(self) -> None:
        shutil.rmtree(self.folder)
        self.materials.copy(self.materials.model_folder, self.folder.name)
        vae = self.folder / "vae" / "diffusion_pytorch_model.safetensors"
        text = self.folder / "text_encoder" / "model.safetensors"
        shard = text.with_name("model-00001-of-00001.safetensors")
        text.rename(shard)
        index = {
            "metadata": {"total_size": 5},
            "weight_map": dict.fromkeys(safetensors.numpy.load_file(shard), shard.name),
        }
        (text.parent / "model.safetensors.index.json").write_text(json.dumps(index))
        self.files = {str(file.relative_to(self.folder)): self.spoilt(file) for file in (vae, shard)}
        model = self.materials.model_folder
        unet = {name: array for name, array in folder_tensors(model / "unet").items() if "add_embedding" not in name}
        single = write_tensors(
            self.folder / "single.safetensors",
            {
                **with_prefix("model.diffusion_model.", original_unet(unet)),
                **with_prefix("first_stage_model.", original_vae(folder_tensors(model / "vae"))),
                **with_prefix("cond_stage_model.transformer.", folder_tensors(model / "text_encoder")),
            },
        )
        self.files["single.safetensors"] = self.spoilt(single)
        lone_vae = self.folder / "vae.safetensors"
        shutil.copy(vae, lone_vae)
        self.files["vae.safetensors"] = self.spoilt(lone_vae)
        self.spoil_json("text_encoder/model.safetensors.index.json")

    @staticmethod
    def spoilt(file: Path) -> Callable[[Random], bytes]:
        """What writes a spoilt version of a file."""
        data = file.read_bytes()
        return lambda rng: safetensors_file(rng, data)

    def read(self, rng: Random) -> None:
        """Loads the model."""
        match rng.randrange(4):
            case 0:
                files = find_model(self.folder / "single.safetensors", families={WIDTH: self.FAMILY})
                for name, module in part_classes(files.parts).items():
                    files.parts[name].load(module, files.parts[name].config(module), "float32")
            case 1:
                StableDiffusion.load(str(self.materials.model_folder), vae=str(self.folder / "vae.safetensors"))
            case _:
                StableDiffusion.load(str(self.folder))


class ScoreNetworks(FolderDoor):
    """The single files of the networks that scores need."""

    def prepare(self) -> None:
        self.networks = write_score_networks(self.folder)
        self.files = {
            str(path.relative_to(self.folder)): Weights.spoilt(path)
            for name, path in self.networks.items()
            if name != "dino"
        }
        self.files["dino/model.safetensors"] = Weights.spoilt(self.folder / "dino" / "model.safetensors")

    def attempt(self, rng: Random) -> None:
        """Spoils and loads one of them."""
        name = rng.choice(list(self.networks))
        path = self.networks[name]
        key = str(path.relative_to(self.folder)) if path.suffix else f"{name}/model.safetensors"
        file, before = self.folder / key, (self.folder / key).read_bytes()
        try:
            spoil_file(rng, file, self.files[key])
            load_checkpoint(name, str(path))
        finally:
            remove(file)
            file.write_bytes(before)
