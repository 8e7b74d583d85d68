"""LoRAs merged by us equal those that diffusers loads and fuses."""

import json

import diffusers
import lora_tools
import numpy as np
import pytest
import safetensors.numpy
import torch
from diffusers.loaders import lora_conversion_utils
from flax.traverse_util import flatten_dict
from lora_tools import random_layers, tensors_of, write_lora

from dreamstyler_jax.stable_diffusion.loras.original_names import original_names
from dreamstyler_jax.stable_diffusion.tensor_names import tensor_name, to_torch_layout

TOLERANCE = 1e-6
XL = dict(
    block_out_channels=(320, 640, 1280), cross_attention_dim=2048, transformer_layers_per_block=(1, 2, 10),
    attention_head_dim=(5, 10, 20), use_linear_projection=True, sample_size=128,
    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"), addition_embed_type="text_time",
    addition_time_embed_dim=256, projection_class_embeddings_input_dim=2816,
)  # fmt: skip


def fused(folder, *loras):
    """The weights of a pipeline after diffusers has loaded LoRAs and fused them with their scales, by part and name."""
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(folder)
    for number, (file, _) in enumerate(loras):
        pipe.load_lora_weights(file.parent, weight_name=file.name, adapter_name=f"lora{number}")
    pipe.set_adapters([f"lora{number}" for number in range(len(loras))], [scale for _, scale in loras])
    pipe.fuse_lora(adapter_names=[f"lora{number}" for number in range(len(loras))])
    pipe.unload_lora_weights()
    return {"unet": pipe.unet.state_dict(), "text_encoder": pipe.text_encoder.state_dict()}


def assert_fused(model, reference):
    """Every parameter, relative to its largest number."""
    for part, state in reference.items():
        prefix = "text_model." if not any(name.startswith("text_model.") for name in state) else ""
        for path, array in flatten_dict(model.params[part]).items():
            name = tensor_name(path)
            expected = state[name if name in state else name.removeprefix(prefix)].numpy()
            error = np.abs(to_torch_layout(path, np.asarray(array)) - expected).max()
            assert error <= TOLERANCE * np.abs(expected).max(), (part, name)


def is_known(part, name):
    """Whether diffusers reads kohya's name of the layer; it cuts those of the pooled text's embedding wrongly."""
    return "add_embedding" not in name


@pytest.mark.parametrize(
    ("naming", "wanted", "alpha"),
    [
        (lora_tools.kohya, is_known, 1.5),
        (lora_tools.kohya, is_known, None),
        (lora_tools.peft, None, None),
        (lora_tools.diffusers, lora_tools.is_attention, None),
        (lora_tools.processors, lora_tools.is_attention, None),
    ],
)
def test_a_merged_lora_is_the_fused_one(tiny, tiny_folder, naming, wanted, alpha, tmp_path):
    layers = random_layers(tiny.params, wanted or (lambda part, name: True), alpha=alpha)
    file = write_lora(tmp_path / "a.safetensors", layers, naming)
    assert_fused(tiny.with_loras(f"{file}*0.7"), fused(tiny_folder, (file, 0.7)))


def test_two_merged_loras_are_the_fused_ones(tiny, tiny_folder, tmp_path):
    files = [
        write_lora(tmp_path / f"{rank}.safetensors", random_layers(tiny.params, is_known, rank=rank, alpha=alpha))
        for rank, alpha in ((2, 1.0), (5, 8.0))
    ]
    merged = tiny.with_loras(f"{files[0]}*0.6+{files[1]}*-0.4")
    assert_fused(merged, fused(tiny_folder, (files[0], 0.6), (files[1], -0.4)))


def test_alpha_in_the_metadata_is_that_of_diffusers(tiny, tiny_folder, tmp_path):
    layers = random_layers(tiny.params, lora_tools.is_attention, rank=4, alpha=None)
    names = [name for part, name in layers if part == "unet"]
    settings = {
        "unet.r": 4, "unet.lora_alpha": 8, "unet.target_modules": ["to_q", "to_k", "to_v", "to_out.0"],
        "unet.use_rslora": True, "unet.alpha_pattern": {f"^{names[0]}": 5, "^to_v": 9, "attn2.to_k": 3, "to_k": 7},
        "text_encoder.r": 4, "text_encoder.lora_alpha": 2, "text_encoder.alpha_pattern": {"q_proj": 6},
        "text_encoder.target_modules": ["q_proj", "k_proj", "v_proj", "out_proj"],
    }  # fmt: skip
    file = tmp_path / "a.safetensors"
    metadata = {"format": "pt", "lora_adapter_metadata": json.dumps(settings)}
    safetensors.numpy.save_file(tensors_of(layers, lora_tools.peft), file, metadata)
    assert_fused(tiny.with_loras(str(file)), fused(tiny_folder, (file, 1.0)))


def test_original_names_at_the_true_size_of_stable_diffusion_xl():
    """By names only: each layer's number stands for its matrices, and comes out under diffusers' name of the layer."""
    with torch.device("meta"):
        model = diffusers.UNet2DConditionModel(**XL)
    names = [name.removesuffix(".weight") for name, array in model.state_dict().items() if array.ndim > 1]
    original = original_names(names)
    assert original.keys() == set(names) and len(names) > 700
    for distinct in (original.values(), {name.replace(".", "_") for name in [*names, *original.values()]}):
        assert len(set(distinct)) == len(distinct) >= len(names)
    state = {
        f"lora_unet_{original[name].replace('.', '_')}.lora_{matrix}.weight": torch.tensor(number)
        for number, name in enumerate(names)
        for matrix in ("down", "up")
    }
    state = lora_conversion_utils._maybe_map_sgm_blocks_to_diffusers(state, model.config)
    converted, _ = lora_conversion_utils._convert_non_diffusers_lora_to_diffusers(state)
    downs = {name: int(number) for name, number in converted.items() if name.endswith("lora.down.weight")}
    assert len(downs) == len(names)
    for theirs, number in downs.items():
        name = theirs.removeprefix("unet.").replace(".processor", "").removesuffix("lora.down.weight")[:-1]
        assert name + ".0" * name.endswith("to_out") == names[number]
