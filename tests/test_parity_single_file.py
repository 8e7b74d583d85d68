"""Single files in the original layout against diffusers' conversion, which also checks the files that tests write."""

import dataclasses
from unittest.mock import ANY

import diffusers
import numpy as np
import pytest
import torch
import transformers
from diffusers.loaders import single_file_utils as reference
from original_layout_tools import (
    original_open_clip,
    original_tensors,
    original_unet,
    original_vae,
    with_prefix,
    write_tensors,
)
from parity_tools import randomised
from safetensors.numpy import load_file
from tiny_model import CAPTIONS, with_random_vectors

from dreamstyler_jax.runtime.errors import UserError
from dreamstyler_jax.stable_diffusion.clip import CLIPTextConfig
from dreamstyler_jax.stable_diffusion.model_files import find_model
from dreamstyler_jax.stable_diffusion.parts import PARTS, save_folder
from dreamstyler_jax.stable_diffusion.schedule import NoiseSchedule
from dreamstyler_jax.stable_diffusion.single_files.families import SD1, SDXL, Family
from dreamstyler_jax.stable_diffusion.single_files.layout import OriginalModel
from dreamstyler_jax.stable_diffusion.tokenizer import Tokenizer
from dreamstyler_jax.stable_diffusion.unet import UNet2DConditionConfig
from dreamstyler_jax.stable_diffusion.vae import AutoencoderKLConfig
from dreamstyler_jax.stable_diffusion.weights import init_model

# config.json of the published models, without the defaults of the format.
TEXT_L = dict(
    hidden_size=768, intermediate_size=3072, num_attention_heads=12, num_hidden_layers=12, hidden_act="quick_gelu",
    projection_dim=768,
)  # fmt: skip
TEXT_H = dict(
    hidden_size=1024, intermediate_size=4096, num_attention_heads=16, num_hidden_layers=23, hidden_act="gelu",
    projection_dim=512,
)  # fmt: skip
TEXT_G = dict(
    hidden_size=1280, intermediate_size=5120, num_attention_heads=20, num_hidden_layers=32, hidden_act="gelu",
    projection_dim=1280,
)  # fmt: skip
UNET = {
    "1.5": dict(cross_attention_dim=768, attention_head_dim=8, sample_size=64),
    "2.1": dict(
        cross_attention_dim=1024, attention_head_dim=[5, 10, 20, 20], use_linear_projection=True, upcast_attention=True,
        sample_size=96,
    ),
    "XL": dict(
        cross_attention_dim=2048, attention_head_dim=[5, 10, 20], use_linear_projection=True, sample_size=128,
        block_out_channels=[320, 640, 1280], transformer_layers_per_block=[1, 2, 10],
        down_block_types=["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        up_block_types=["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
        addition_embed_type="text_time", addition_time_embed_dim=256, projection_class_embeddings_input_dim=2816,
    ),
}  # fmt: skip
VAE = dict(
    block_out_channels=[128, 256, 512, 512], layers_per_block=2, sample_size=512,
    down_block_types=["DownEncoderBlock2D"] * 4, up_block_types=["UpDecoderBlock2D"] * 4,
)  # fmt: skip
KINDS = {"1.5": "v1", "2.1": "v2", "XL": "xl_base"}


class Shapes:
    """A source of tensors that knows their shapes alone."""

    def __init__(self, tensors):
        self.shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}

    def names(self):
        return self.shapes.keys()

    def shape(self, name):
        return self.shapes[name]


def shapes_of(tensors):
    return {name.removeprefix("text_model."): tuple(tensor.shape) for name, tensor in tensors.items()}


class InMemory(Shapes):
    """A source of tensors that is no file."""

    def __init__(self, tensors):
        super().__init__(tensors)
        self.tensor = tensors.get


def state(model):
    """A reference model's tensors by name, as arrays without numbers."""
    return {name: np.broadcast_to(np.int8(0), value.shape) for name, value in model.state_dict().items()}


def with_text_prefix(tensors):
    """Names of transformers before and after version 5.6 as those before."""
    return {n if n.startswith("text_") else f"text_model.{n}": tensor for n, tensor in tensors.items()}


def published(version):
    """The parts of a published model as reference models without weights."""
    with torch.device("meta"):
        text = transformers.CLIPTextModel(transformers.CLIPTextConfig(**(TEXT_H if version == "2.1" else TEXT_L)))
        vae = {**VAE, "scaling_factor": 0.13025, "sample_size": 1024} if version == "XL" else VAE
        parts = {
            "text_encoder": text,
            "unet": diffusers.UNet2DConditionModel(**UNET[version]),
            "vae": diffusers.AutoencoderKL(**vae),
        }
        if version == "XL":
            config = transformers.CLIPTextConfig(**TEXT_G)
            parts["text_encoder_2"] = transformers.CLIPTextModelWithProjection(config)
    return parts


def original(version, parts, tensors_of):
    """The parts under their original names."""
    tensors = {part: tensors_of(model) for part, model in parts.items()}
    text = with_text_prefix(tensors["text_encoder"])
    whole = {
        **with_prefix("model.diffusion_model.", original_unet(tensors["unet"])),
        **with_prefix("first_stage_model.", original_vae(tensors["vae"])),
    }
    if version == "1.5":
        return {**whole, **with_prefix("cond_stage_model.transformer.", text)}
    if version == "2.1":
        text = original_open_clip(text)
        last = {n.replace(".22.", ".23."): tensor for n, tensor in text.items() if "resblocks.22." in n}
        return {**whole, **with_prefix("cond_stage_model.model.", {**text, **last})}
    second = original_open_clip(with_text_prefix(tensors["text_encoder_2"]))
    return {
        **whole,
        **with_prefix("conditioner.embedders.0.transformer.", text),
        **with_prefix("conditioner.embedders.1.model.", second),
    }


@pytest.mark.parametrize("version", KINDS)
def test_published_models_by_names_and_shapes(version):
    parts = published(version)
    tensors = original(version, parts, state)
    checkpoint = {name: torch.empty(tensor.shape, device="meta") for name, tensor in tensors.items()}
    # The file that the test writes is what diffusers takes for this model.
    assert reference.infer_diffusers_model_type(checkpoint) == KINDS[version]
    converted = {
        "unet": reference.convert_ldm_unet_checkpoint(checkpoint, parts["unet"].config),
        "vae": reference.convert_ldm_vae_checkpoint(checkpoint, parts["vae"].config),
        "text_encoder": reference.convert_ldm_clip_checkpoint(checkpoint),
    }
    if version == "2.1":
        converted["text_encoder"] = reference.convert_open_clip_checkpoint(parts["text_encoder"], checkpoint)
    if version == "XL":
        second, prefix = parts["text_encoder_2"], "conditioner.embedders.1.model."
        converted["text_encoder_2"] = reference.convert_open_clip_checkpoint(second, checkpoint, prefix)
    # And so is ours.
    model = OriginalModel.read(Shapes(tensors), "file", prediction_type="v_prediction")
    assert model.sources.keys() == parts.keys()
    for part, source in model.sources.items():
        expected = shapes_of(state(parts[part]))
        assert shapes_of(converted[part]) == expected, part
        assert {name.removeprefix("text_model."): source.shape(name) for name in source.names()} == expected, part
        config = parts[part].config
        config = {**(config if part in ("unet", "vae") else config.to_dict()), "architectures": ANY, "_class_name": ANY}
        assert listed(model.configs[part]) == listed({key: config[key] for key in model.configs[part]}), part
    assert model.own_prediction_type == "epsilon"


def listed(settings):
    return {key: list(value) if isinstance(value, tuple) else value for key, value in settings.items()}


TEXT = dict(vocab_size=40, max_position_embeddings=6, num_hidden_layers=2, num_attention_heads=2)
TINY_XL = Family(
    "tiny XL",
    {
        "text_encoder": dataclasses.replace(SDXL.text_encoders["text_encoder"], layers=2, config={}),
        "text_encoder_2": dataclasses.replace(SDXL.text_encoders["text_encoder_2"], layers=2, config={}),
    },
    unet=SDXL.unet, vae={}, scheduler={}, sample_sizes={"epsilon": 8}, head_width=4,
)  # fmt: skip


def arrays(model):
    """A reference model's tensors by name."""
    return {name: value.numpy() for name, value in model.state_dict().items()}


def assert_same(tensors, others):
    assert tensors.keys() == others.keys()
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(tensor, others[name], err_msg=name)


def test_a_small_xl_number_by_number(tmp_path):
    torch.manual_seed(0)
    text, projection = transformers.CLIPTextConfig, transformers.CLIPTextModelWithProjection
    parts = {
        "text_encoder": transformers.CLIPTextModel(text(**TEXT, hidden_size=8, intermediate_size=12)),
        "text_encoder_2": projection(text(**TEXT, hidden_size=12, intermediate_size=16, projection_dim=10)),
        "unet": diffusers.UNet2DConditionModel(
            **{**UNET["XL"], "block_out_channels": [32, 64, 64], "transformer_layers_per_block": [1, 2, 3]}
            | dict(cross_attention_dim=20, attention_head_dim=[8, 16, 16], projection_class_embeddings_input_dim=30)
        ),
        "vae": diffusers.AutoencoderKL(
            block_out_channels=[32, 32], layers_per_block=1, down_block_types=["DownEncoderBlock2D"] * 2,
            up_block_types=["UpDecoderBlock2D"] * 2,
        ),
    }  # fmt: skip
    tensors = original("XL", {name: randomised(model) for name, model in parts.items()}, arrays)
    checkpoint = {name: torch.from_numpy(np.array(tensor)) for name, tensor in tensors.items()}
    model = OriginalModel.read(InMemory(tensors), "file", families={20: TINY_XL})
    second, prefix = parts["text_encoder_2"], "conditioner.embedders.1.model."
    converted = {
        "text_encoder": reference.convert_ldm_clip_checkpoint(checkpoint),
        "text_encoder_2": reference.convert_open_clip_checkpoint(second, checkpoint, prefix),
        "unet": reference.convert_ldm_unet_checkpoint(checkpoint, parts["unet"].config),
        "vae": reference.convert_ldm_vae_checkpoint(checkpoint, parts["vae"].config),
    }
    for name, source in model.sources.items():
        ours = {tensor: source.tensor(tensor) for tensor in source.names()}
        assert_same(ours, {tensor: value.numpy() for tensor, value in converted[name].items()})
        expected = arrays(parts[name])
        assert_same(ours, with_text_prefix(expected) if "text" in name else expected)
    assert model.configs["unet"]["transformer_layers_per_block"] == [1, 2, 3]
    assert model.configs["unet"]["projection_class_embeddings_input_dim"] == 30
    assert model.configs["text_encoder_2"]["projection_dim"] == 10
    found = find_model(write_tensors(tmp_path / "model.safetensors", tensors), families={20: TINY_XL})
    assert found.parts.keys() == parts.keys()
    assert [found.read_tokenizer(name).pad_id for name in ("tokenizer", "tokenizer_2")] == [49_407, 0]


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A small 1.x as a folder, and as a single file next to it."""
    folder = tmp_path_factory.mktemp("small")
    tokenizer = Tokenizer.train(CAPTIONS * 20, 560, max_length=8)
    configs = {
        "text_encoder": CLIPTextConfig(
            vocab_size=tokenizer.vocab_size, hidden_size=16, intermediate_size=24, num_hidden_layers=2,
            num_attention_heads=2, max_position_embeddings=8,
        ),
        "vae": AutoencoderKLConfig(block_out_channels=(32, 32)),
        "unet": UNet2DConditionConfig(
            sample_size=8, block_out_channels=(32, 64, 64), layers_per_block=2, cross_attention_dim=16,
            down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        ),
    }  # fmt: skip
    parts = {
        name: (config, with_random_vectors(init_model(PARTS[name], config)[1])) for name, config in configs.items()
    }
    save_folder(folder, tokenizers={"clip_l": tokenizer}, schedule=NoiseSchedule(), parts=parts)
    write_tensors(folder / "model.safetensors", original_tensors(folder))
    return folder


def test_diffusers_reads_the_single_file_as_its_folder(small):
    from_file = diffusers.StableDiffusionPipeline.from_single_file(
        str(small / "model.safetensors"), config=str(small), local_files_only=True, torch_dtype=torch.float32
    )
    found = find_model(small / "model.safetensors", families={16: SD1})
    for name in PARTS:
        source = found.parts[name].source
        ours = {tensor: source.tensor(tensor) for tensor in source.names()}
        theirs = arrays(getattr(from_file, name))
        assert_same(ours, with_text_prefix(theirs) if name == "text_encoder" else theirs)


class Dangerous:
    def __reduce__(self):
        return print, ("code from the file has run",)


def test_pickles_are_read_where_they_are_allowed_and_run_no_code(small, tmp_path, capsys):
    tensors = load_file(small / "model.safetensors")
    checkpoint = {name: torch.from_numpy(tensor) for name, tensor in tensors.items()}
    half = {name: tensor.bfloat16() for name, tensor in checkpoint.items()}
    for zipped in (True, False):
        file = tmp_path / "model.ckpt"
        torch.save({"state_dict": half, "global_step": 3}, file, _use_new_zipfile_serialization=zipped)
        with pytest.raises(UserError, match=r"is a pickle, .* --allow_pickle"):
            find_model(file, families={16: SD1})
        source = find_model(file, families={16: SD1}, allow_pickle=True).parts["unet"].source
        value = tensors["model.diffusion_model.out.2.weight"]
        np.testing.assert_array_equal(source.tensor("conv_out.weight"), torch.from_numpy(value).bfloat16().float())
    torch.save({"state_dict": checkpoint, "callbacks": Dangerous()}, file)
    with pytest.raises(UserError, match="more than plain tensors, or is damaged: convert it to safetensors"):
        find_model(file, families={16: SD1}, allow_pickle=True)
    torch.save([1, 2], file)
    with pytest.raises(UserError, match="holds no named tensors"):
        find_model(file, families={16: SD1}, allow_pickle=True)
    assert capsys.readouterr().out == ""
