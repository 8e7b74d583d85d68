"""Models in folders: variants part by part, and folders whose weights are something else."""

import json
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tiny_model import write_controlnet

from dreamstyler_jax.runtime.errors import UserError
from dreamstyler_jax.stable_diffusion.checkpoint_files import hash_files
from dreamstyler_jax.stable_diffusion.folder_parts import FolderPart
from dreamstyler_jax.stable_diffusion.model_files import find_model
from dreamstyler_jax.stable_diffusion.pipeline import StableDiffusion
from dreamstyler_jax.stable_diffusion.weight_names import find_weights

UNET, TEXT = "unet/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors"


@pytest.fixture
def folder(tiny_folder, tmp_path):
    return Path(shutil.copytree(tiny_folder, tmp_path / "model"))


def add_variant(file, word):
    """Writes other weights beside a file, under the name of a variant."""
    tensors = {name: (array + 1).astype(np.float16) for name, array in load_file(file).items()}
    save_file(tensors, file.with_suffix(f".{word}.safetensors"))


@pytest.mark.parametrize(
    ("names", "variant", "pickles", "head"),
    [
        (["model.safetensors", "model.fp16.safetensors"], None, False, "model.safetensors"),
        (["model.safetensors", "model.fp16.safetensors"], "fp16", False, "model.fp16.safetensors"),
        (["model.safetensors"], "fp16", False, "model.safetensors"),
        (["model.fp16.safetensors"], None, False, None),
        (["pytorch_model.bin"], None, False, None),
        (["pytorch_model.bin"], None, True, "pytorch_model.bin"),
        (["pytorch_model.bin", "model.safetensors"], None, True, "model.safetensors"),
        (["pytorch_model.fp16.bin", "model.safetensors"], "fp16", True, "pytorch_model.fp16.bin"),
        (["pytorch_model.fp16.bin", "model.safetensors"], "fp16", False, "model.safetensors"),
        (["diffusion_pytorch_model.safetensors.index.fp16.json"], "fp16", False,
         "diffusion_pytorch_model.safetensors.index.fp16.json"),
    ],
)  # fmt: skip
def test_which_files_are_read(names, variant, pickles, head):
    found = find_weights(names, variant, pickles=pickles)
    assert (found.head if found else None) == head


def test_parts_without_the_variant_are_read_without(folder, tiny):
    """As in Stable Diffusion 1.5, whose UNet alone has the variant non_ema."""
    add_variant(folder / UNET, "non_ema")
    with pytest.warns(UserWarning, match="no weights of the variant non_ema for text_encoder, vae: reading the files"):
        model = StableDiffusion.load(str(folder), variant="non_ema")
    unet, text = model.params["unet"], model.params["text_encoder"]
    np.testing.assert_allclose(unet["conv_out"]["bias"], tiny.params["unet"]["conv_out"]["bias"] + 1, atol=1e-2)
    np.testing.assert_array_equal(
        text["text_model"]["final_layer_norm"]["scale"],
        tiny.params["text_encoder"]["text_model"]["final_layer_norm"]["scale"],
    )
    files = [folder / TEXT, folder / UNET.replace(".safe", ".non_ema.safe"), folder / UNET.replace("unet", "vae")]
    assert model.hash == hash_files(files), "of the files that were read"
    for name in (TEXT, "vae/diffusion_pytorch_model.safetensors"):
        add_variant(folder / name, "non_ema")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert StableDiffusion.load(str(folder), variant="non_ema").hash != model.hash


def test_a_variant_that_no_part_has_is_an_error(folder):
    add_variant(folder / UNET, "fp16")
    with pytest.raises(
        UserError, match=r"model has no weights of the variant fp61: choose fp16, or leave --variant out"
    ):
        find_model(folder, variant="fp61")


def test_controlnets_fall_back_too(tiny, tmp_path):
    """Beside a model of half precision, ControlNets without such files; and those with."""
    first, second = (write_controlnet(tmp_path / name) for name in ("first", "second"))
    plain = tiny.with_controlnets([first, second])
    add_variant(second / "diffusion_pytorch_model.safetensors", "fp16")
    with pytest.warns(UserWarning, match=r"no weights of the variant fp16 for .*/first: reading the files"):
        mixed = tiny.with_controlnets([first, second], variant="fp16")
    biases = [[net["conv_in"]["bias"] for net in model.params["controlnets"]] for model in (plain, mixed)]
    np.testing.assert_array_equal(biases[0][0], biases[1][0])
    np.testing.assert_allclose(biases[0][1] + 1, biases[1][1], atol=1e-2)
    assert mixed.hash != plain.hash


@pytest.mark.parametrize(
    ("names", "line"),
    [
        (
            ["pytorch_model.bin", "pytorch_model.fp16.bin"],
            r"has only pytorch_model\.bin, .* or add --allow_pickle, which",
        ),
        (["pytorch_model.fp16.bin"], r"has only pytorch_model\.fp16\.bin, .* add --variant fp16 --allow_pickle, which"),
        (["model.fp16.safetensors", "model.ema.safetensors"], r"without a variant .*: add --variant ema or fp16"),
        (
            ["model.onnx", "model.onnx_data"],
            r"holds weights for ONNX alone \(model\.onnx\): give the",
        ),
        (["flax_model.msgpack"], r"holds weights for Flax alone \(flax_model\.msgpack\)"),
        ([], "has no weights in safetensors format; download the model again"),
    ],
)
def test_other_weights_are_named(names, line, folder):
    weights = folder / TEXT
    weights.unlink()
    for name in names:
        (weights.parent / name).write_bytes(b"")
    with pytest.raises(UserError, match=line):
        find_model(folder)


def test_pointers_of_git_lfs_are_named(folder):
    """A clone without Git LFS has them in the places of the weights."""
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:6c05\nsize 492265168\n"
    (folder / TEXT).write_text(pointer)
    with pytest.raises(UserError, match=r"model\.safetensors is only a pointer to the weights: .* git lfs pull$"):
        StableDiffusion.load(str(folder))


def test_a_lora_among_the_weights_is_named(folder):
    """As diffusers saves a UNet with a LoRA that is loaded but not merged."""
    tensors = load_file(folder / UNET)
    name = "up_blocks.1.attentions.0.transformer_blocks.0.attn1"
    tensors[f"{name}.to_q.base_layer.weight"] = tensors.pop(f"{name}.to_q.weight")
    tensors[f"{name}.to_q.lora_A.default_0.weight"] = np.zeros((2, 8), np.float32)
    tensors[f"{name}.to_q.lora.up.weight"] = np.zeros((8, 2), np.float32)
    save_file(tensors, folder / UNET)
    with pytest.raises(UserError, match=r"unet hold a LoRA beside the model, such as .*lora.*: merge it \(fuse_lora"):
        StableDiffusion.load(str(folder))


def test_an_autoencoder_that_is_replaced_may_be_of_any_kind(folder, tiny_folder):
    for file, changes in {"model_index.json": {"vae": ["diffusers", "VQModel"]},
                          "vae/config.json": {"_class_name": "VQModel", "act_fn": "relu"}}.items():  # fmt: skip
        (folder / file).write_text(json.dumps({**json.loads((folder / file).read_text()), **changes}))
    with pytest.raises(UserError, match="a vae of another kind: VQModel, not AutoencoderKL or AutoencoderTiny"):
        find_model(folder)
    assert find_model(folder, vae=tiny_folder / "vae").parts["vae"].files[0].is_relative_to(tiny_folder)


def test_a_part_without_its_config_is_named(folder):
    (folder / "unet" / "config.json").unlink()
    with pytest.raises(UserError, match=r"unet/config\.json is missing; give a model folder in diffusers' layout"):
        find_model(folder)
    assert FolderPart.find(folder / "vae").files == [folder / "vae/diffusion_pytorch_model.safetensors"]
