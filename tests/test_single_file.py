"""Single files in Stable Diffusion's original layout: the same model as its folder, or a line on what they are."""

import dataclasses
import json
import re
import shutil
import struct
import sys

import numpy as np
import pytest
import safetensors.numpy
from flax.traverse_util import flatten_dict
from original_layout_tools import (
    folder_tensors,
    original_open_clip,
    original_tensors,
    original_unet,
    original_vae,
    with_prefix,
    write_tensors,
)
from script_tools import refusal
from tiny_model import with_random_vectors

from dreamstyler_jax.commands import sample, train
from dreamstyler_jax.runtime.errors import UserError
from dreamstyler_jax.stable_diffusion.clip import CLIPTextConfig, CLIPTextConfigWithProjection, CLIPTextModel
from dreamstyler_jax.stable_diffusion.model_files import find_model
from dreamstyler_jax.stable_diffusion.parts import PARTS, SDXL_PARTS
from dreamstyler_jax.stable_diffusion.pipeline import StableDiffusion
from dreamstyler_jax.stable_diffusion.schedule import NoiseSchedule
from dreamstyler_jax.stable_diffusion.single_files.families import SD1, SD2, SDXL, TextEncoder
from dreamstyler_jax.stable_diffusion.unet import UNet2DConditionConfig, UNet2DConditionModel
from dreamstyler_jax.stable_diffusion.vae import AutoencoderKL, AutoencoderKLConfig
from dreamstyler_jax.stable_diffusion.weights import init_model, load_model, read_config, save_model

WIDTH = 16
TEXT = CLIPTextConfig(
    vocab_size=30, hidden_size=WIDTH, intermediate_size=24, projection_dim=12, num_hidden_layers=2,
    num_attention_heads=2, max_position_embeddings=6,
)  # fmt: skip
VAE = AutoencoderKLConfig(
    block_out_channels=(8, 8, 16), layers_per_block=2, norm_num_groups=4, sample_size=32, scaling_factor=0.5
)
UNET = UNet2DConditionConfig(
    sample_size=8, block_out_channels=(8, 16, 16), layers_per_block=2, norm_num_groups=4, attention_head_dim=2,
    cross_attention_dim=WIDTH, down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
)  # fmt: skip
CONFIGS = {
    "1.x": {"text_encoder": TEXT, "vae": VAE, "unet": UNET},
    "2.x": {
        "text_encoder": dataclasses.replace(TEXT, hidden_act="gelu", projection_dim=512),
        "vae": dataclasses.replace(VAE, use_quant_conv=False, latent_channels=2, layers_per_block=1),
        "unet": dataclasses.replace(
            UNET, in_channels=2, out_channels=2, layers_per_block=1, transformer_layers_per_block=2,
            use_linear_projection=True, attention_head_dim=(2, 4, 4), upcast_attention=True, sample_size=12,
        ),
    },
    "XL": {
        "text_encoder": TEXT,
        "text_encoder_2": CLIPTextConfigWithProjection(
            **{**dataclasses.asdict(TEXT), "hidden_size": 24, "hidden_act": "gelu", "projection_dim": 20}
        ),
        "vae": dataclasses.replace(VAE, scaling_factor=0.13025),
        "unet": dataclasses.replace(
            UNET, cross_attention_dim=WIDTH + 24, transformer_layers_per_block=(1, 1, 2), attention_head_dim=(2, 4, 4),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"), use_linear_projection=True,
            addition_embed_type="text_time", addition_time_embed_dim=256,
            projection_class_embeddings_input_dim=20 + 6 * 256,
        ),
    },
}  # fmt: skip
# What tiny models have in place of their families' settings.
_SIZES = {"norm_num_groups": 4}
_TINY_VAE = {"norm_num_groups": 4, "sample_size": 32, "scaling_factor": 0.5}
_HEADS = {"num_attention_heads": 2}
TINY_1 = dataclasses.replace(
    SD1, unet=_SIZES, vae=_TINY_VAE, heads=2, sample_sizes={"epsilon": 8, "v_prediction": 8},
    text_encoders={
        "text_encoder": dataclasses.replace(
            SD1.text_encoders["text_encoder"], layers=2, config={**_HEADS, "projection_dim": 12}
        )
    },
)  # fmt: skip
TINY_2 = dataclasses.replace(
    SD2, unet={**SD2.unet, **_SIZES}, vae=_TINY_VAE, head_width=4, sample_sizes={"epsilon": 8, "v_prediction": 12},
    text_encoders={
        "text_encoder": TextEncoder("cond_stage_model.model.", 2, {**_HEADS, "hidden_act": "gelu"}, "!", open_clip=True)
    },
)  # fmt: skip
TINY_XL = dataclasses.replace(
    SDXL, unet={**SDXL.unet, **_SIZES}, vae={**_TINY_VAE, "scaling_factor": 0.13025}, head_width=4,
    sample_sizes={"epsilon": 8},
    text_encoders={
        "text_encoder": dataclasses.replace(
            SDXL.text_encoders["text_encoder"], layers=2, config={**_HEADS, "projection_dim": 12}
        ),
        "text_encoder_2": dataclasses.replace(
            SDXL.text_encoders["text_encoder_2"], layers=2, config={**_HEADS, "hidden_act": "gelu"}
        ),
    },
)  # fmt: skip
FAMILIES = {"1.x": {WIDTH: TINY_1}, "2.x": {WIDTH: TINY_2}, "XL": {WIDTH + 24: TINY_XL}}


@pytest.fixture(scope="module")
def weights():
    """Random numbers for each part of both models, the norms' and biases' included."""
    return {
        version: {
            name: with_random_vectors(init_model(SDXL_PARTS[name], config)[1]) for name, config in configs.items()
        }
        for version, configs in CONFIGS.items()
    }


@pytest.fixture(scope="module")
def folders(weights, tmp_path_factory):
    """The folders of both models, without tokenizer and scheduler."""
    folders = {}
    for version, configs in CONFIGS.items():
        folders[version] = tmp_path_factory.mktemp(version)
        for name, config in configs.items():
            save_model(folders[version] / name, config, weights[version][name])
    return folders


@pytest.fixture(scope="module")
def tensors(folders):
    """The tensors of both models in the original layout; the second with a third layer of text that is not used."""
    second = {
        **with_prefix("model.diffusion_model.", original_unet(folder_tensors(folders["2.x"] / "unet"))),
        **with_prefix("first_stage_model.", original_vae(folder_tensors(folders["2.x"] / "vae"))),
    }
    text = original_open_clip(folder_tensors(folders["2.x"] / "text_encoder"))
    last = {name.replace(".1.", ".2."): tensor for name, tensor in text.items() if "resblocks.1." in name}
    extra = {"text_projection": np.ones((16, 16), np.float32), "logit_scale": np.float32(1)}
    xl = {name: folder_tensors(folders["XL"] / name) for name in CONFIGS["XL"]}
    return {
        "1.x": original_tensors(folders["1.x"]),
        "2.x": {**second, **with_prefix("cond_stage_model.model.", {**text, **last, **extra})},
        "XL": {
            **with_prefix("model.diffusion_model.", original_unet(xl["unet"])),
            **with_prefix("first_stage_model.", original_vae(xl["vae"])),
            **with_prefix("conditioner.embedders.0.transformer.", xl["text_encoder"]),
            **with_prefix("conditioner.embedders.1.model.", original_open_clip(xl["text_encoder_2"])),
        },
    }


def find(file, version="1.x", **options):
    return find_model(file, families=FAMILIES[version], **options)


def load(part, cls):
    return flatten_dict(part.load(cls, part.config(cls), "float32")[1])


def assert_same(params, others):
    assert params.keys() == others.keys()
    for path, array in params.items():
        np.testing.assert_array_equal(array, others[path], err_msg=str(path))


def refused(file, version="1.x", **options):
    """The line that refuses a file, on the way to the weights."""
    with pytest.raises(UserError) as error:
        found = find(file, version, **options)
        for name, cls in PARTS.items():
            load(found.parts[name], cls)
    assert "\n" not in str(error.value) and len(str(error.value)) < 500
    return str(error.value)


@pytest.mark.parametrize("version", FAMILIES)
def test_a_single_file_is_the_model_of_its_folder(version, folders, weights, tensors, tmp_path):
    file = write_tensors(tmp_path / "model.safetensors", tensors[version])
    found = find(file, version, prediction_type="v_prediction" if version == "2.x" else None)
    assert found.parts.keys() == CONFIGS[version].keys()
    for name, config in CONFIGS[version].items():
        cls = SDXL_PARTS[name]
        assert found.parts[name].config(cls) == read_config(cls, folders[version] / name) == config
        assert_same(load(found.parts[name], cls), flatten_dict(weights[version][name]))
    assert NoiseSchedule.from_config(found.scheduler) == NoiseSchedule(
        prediction_type="v_prediction" if version == "2.x" else "epsilon",
        timestep_spacing="leading" if version == "XL" else None,
    )
    assert found.read_tokenizer("tokenizer").pad_id == (0 if version == "2.x" else 49_407)
    if version == "XL":
        assert found.read_tokenizer("tokenizer_2").pad_id == 0 and found.zeros_if_empty
    assert found.folder is None


@pytest.mark.parametrize(
    ("version", "change"),
    [
        (
            "XL",
            dict(
                mid_block_type="UNetMidBlock2D", transformer_layers_per_block=((1,), (1, 1), (2, 1)),
                reverse_transformer_layers_per_block=((1, 1, 3), (2, 1, 1), (1,)),
            ),
        ),
        ("XL", dict(mid_block_type="UNetMidBlock2D", transformer_layers_per_block=(1, 1, 2))),
        ("1.x", dict(mid_block_type=None, layers_per_block=1)),
    ],
    ids=["as SSD-1B", "as Vega", "as BK-SDM-tiny"],
)  # fmt: skip
def test_single_files_of_distilled_models(version, change, tensors, tmp_path):
    config = dataclasses.replace(CONFIGS[version]["unet"], **change)
    params = init_model(UNet2DConditionModel, config)[1]
    save_model(tmp_path / "unet", config, params)
    unet = with_prefix("model.diffusion_model.", original_unet(folder_tensors(tmp_path / "unet")))
    rest = {name: tensor for name, tensor in tensors[version].items() if not name.startswith("model.diffusion_model.")}
    part = find(write_tensors(tmp_path / "model.safetensors", {**rest, **unet}), version).parts["unet"]
    assert part.config(UNet2DConditionModel) == config
    assert_same(load(part, UNet2DConditionModel), flatten_dict(params))


def test_what_training_leaves_in_a_file_is_set_aside(folders, weights, tensors, tmp_path):
    number = np.zeros((), np.float32)
    text = "cond_stage_model.transformer."
    extras = {
        **with_prefix("model_ema.", {"decay": number, "diffusion_modelinput_blocks00weight": number}),
        **dict.fromkeys(("alphas_cumprod", "alphas_cumprod_prev", "betas", "logvar", "posterior_mean_coef1"), number),
        **dict.fromkeys(("sqrt_recipm1_alphas_cumprod", "log_one_minus_alphas_cumprod", "lvlb_weights"), number),
        **dict.fromkeys(("first_stage_model.loss.logvar", "cond_stage_model.logit_scale", "denoiser.sigmas"), number),
        text + "text_model.embeddings.position_ids": np.arange(6)[None],
        text + "text_projection.weight": np.ones((16, 16), np.float32),
    }
    old_names = {name.replace(text + "text_model.", text): tensor for name, tensor in tensors["1.x"].items()}
    for base in (tensors["1.x"], old_names):
        found = find(write_tensors(tmp_path / "model.safetensors", {**base, **extras}))
        assert_same(load(found.parts["text_encoder"], CLIPTextModel), flatten_dict(weights["1.x"]["text_encoder"]))
        for name in ("unet", "vae"):
            assert set(found.parts[name].source.names()) == set(folder_tensors(folders["1.x"] / name))


def test_missing_unknown_and_misshapen_tensors_are_named(tensors, tmp_path):
    changed = dict(tensors["1.x"])
    unet, file = "model.diffusion_model.", tmp_path / "model.safetensors"
    del changed[unet + "output_blocks.5.1.norm.bias"]
    changed[unet + "input_blocks.1.0.in_layers.9.weight"] = np.zeros(3, np.float32)
    changed[unet + "output_blocks.1.2.norm.weight"] = np.zeros(3, np.float32)
    changed[unet + "out.2.bias"] = np.zeros(3, np.float32)
    assert refused(write_tensors(file, changed)) == (
        f"the weights in {file} (unet) do not fit Stable Diffusion 1.x; missing: up_blocks.1.attentions.2.norm.bias; "
        "unknown: down_blocks.0.resnets.0.in_layers.9.weight, output_blocks.1.2.norm.weight; "
        "misshapen: conv_out.bias (3,) instead of (4,)"
    )
    changed = {**tensors["1.x"], "extra.weight": np.zeros(3, np.float32)}
    assert refused(write_tensors(file, changed)) == f"{file} is not a plain Stable Diffusion 1.x; unknown: extra.weight"
    flat = {**tensors["1.x"], unet + "input_blocks.0.0.weight": np.zeros(3, np.float32)}
    assert refused(write_tensors(file, flat)) == f"{file} is damaged; misshapen: conv_in.weight (3,)"
    vae = {name: tensor for name, tensor in tensors["1.x"].items() if "encoder.down.1.block.0.conv2" not in name}
    assert "not complete; missing: encoder.down_blocks.1.resnets.0.conv2.weight" in refused(write_tensors(file, vae))
    layer = [name for name in tensors["1.x"] if ".encoder.layers.1." in name]
    fewer = {name: tensor for name, tensor in tensors["1.x"].items() if name not in layer}
    assert re.search(
        r"missing: text_model\.encoder\.layers\.1\.layer_norm1.* and 11 more$", refused(write_tensors(file, fewer))
    )
    for part, line in {
        "first_stage_model": "has no autoencoder: name one with --vae",
        "cond_stage_model": "is a Stable Diffusion 1.x without its text_encoder: give a whole checkpoint",
    }.items():
        rest = {name: tensor for name, tensor in tensors["1.x"].items() if not name.startswith(part)}
        assert line in refused(write_tensors(file, rest))


@pytest.mark.parametrize(
    ("names", "line"),
    [
        (["lora_unet_mid_block_attentions_0_proj_in.lora_down.weight"], "is a LoRA"),
        (["unet.down_blocks.0.attentions.0.to_q.lora_A.weight"], "is a LoRA"),
        (["unet.mid_block.attentions.0.processor.to_q_lora.down.weight"], "is a LoRA"),
        (["control_model.input_blocks.0.0.weight", "control_model.zero_convs.0.0.bias"], "is a ControlNet"),
        (["controlnet_cond_embedding.conv_in.weight", "down_blocks.0.resnets.0.norm1.bias"], "is a ControlNet"),
        (["emb_params"], "is an embedding .* with --styles"),
        (["clip_l", "clip_g"], "is an embedding .* with --styles"),
        (["<gogh>"], "is an embedding .* with --styles"),
        (["gogh"], "holds one tensor: if it is an embedding"),
        (["encoder.down.0.block.0.norm1.weight"], r"is an autoencoder \(VAE\): give it with --vae"),
        (["decoder.up_blocks.0.resnets.0.norm1.weight"], r"is an autoencoder \(VAE\): give it with --vae"),
        (["conv_in.bias", "down_blocks.0.resnets.0.norm1.weight"], "is the UNet alone.* model_index.json"),
        (["text_model.final_layer_norm.bias", "text_model.encoder.layers.0.mlp.fc1.bias"], "is a text encoder alone"),
        ([f"double_blocks.{n}.img_mod.lin.weight" for n in range(9)], "no Stable Diffusion .* it holds .* and 6 more"),
        (["model.diffusion_model.joint_blocks.0.x_block.bias", "a"], "no Stable Diffusion .*joint_blocks"),
    ],
)  # fmt: skip
def test_other_files_are_called_what_they_are(names, line, tmp_path):
    file = write_tensors(tmp_path / "other.safetensors", dict.fromkeys(names, np.zeros((2, 3), np.float32)))
    with pytest.raises(UserError, match=f"^{file} {'is ' if line.startswith('no ') else ''}{line}"):
        find(file)


@pytest.mark.parametrize(
    ("channels", "kind"), [(9, "an inpainting model"), (8, "InstructPix2Pix"), (7, "an upscaler"), (5, "depth maps")]
)
def test_models_that_see_more_than_latents_are_refused(channels, kind, tensors, tmp_path):
    first = {"model.diffusion_model.input_blocks.0.0.weight": np.zeros((8, channels, 3, 3), np.float32)}
    line = refused(write_tensors(tmp_path / "model.safetensors", {**tensors["1.x"], **first}))
    assert kind in line and f"{channels} input channels" in line and "text-to-image" in line


def test_families_are_told_by_the_width_of_the_text(tensors, tmp_path):
    file = write_tensors(tmp_path / "model.safetensors", tensors["1.x"])
    with pytest.raises(UserError, match=r"text states of width 16, .*: Stable Diffusion 1\.x \(768\), .* XL \(2048\)"):
        find_model(file)
    name = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
    wide = {**tensors["1.x"], name: np.zeros((16, 1280), np.float32)}
    assert "the refiner of Stable Diffusion XL: give the base" in refused(write_tensors(file, wide))


def test_what_a_model_predicts(tensors, tmp_path):
    file, mark = tmp_path / "model.safetensors", np.zeros(0, np.float32)
    line = refused(write_tensors(file, tensors["2.x"]), "2.x")
    assert "do not tell what it predicts: add --prediction_type v_prediction" in line
    sizes = {}
    for asked in ("epsilon", "v_prediction"):
        found = find(file, "2.x", prediction_type=asked)
        assert found.scheduler["prediction_type"] == asked
        sizes[asked] = found.parts["unet"].config(UNet2DConditionModel).sample_size
    assert sizes == TINY_2.sample_sizes
    for said, meant in {"v": "v_prediction", "epsilon": "epsilon"}.items():
        write_tensors(file, tensors["2.x"], {"modelspec.prediction_type": said})
        assert find(file, "2.x").scheduler["prediction_type"] == meant
    write_tensors(file, {**tensors["1.x"], "v_pred": mark})
    assert NoiseSchedule.from_config(find(file).scheduler) == NoiseSchedule(prediction_type="v_prediction")
    write_tensors(file, {**tensors["1.x"], "v_pred": mark, "ztsnr": mark})
    assert NoiseSchedule.from_config(find(file).scheduler).rescale_betas_zero_snr
    assert find(file, prediction_type="epsilon").scheduler["prediction_type"] == "epsilon"


def test_an_autoencoder_from_elsewhere(folders, tensors, tmp_path):
    whole = write_tensors(tmp_path / "model.safetensors", tensors["1.x"])
    other = AutoencoderKLConfig(block_out_channels=(8, 16), norm_num_groups=4, sample_size=32, scaling_factor=0.25)
    save_model(tmp_path / "other" / "vae", other, init_model(AutoencoderKL, other, seed=9)[1])
    mine = folder_tensors(tmp_path / "other" / "vae")
    expected = flatten_dict(load_model(AutoencoderKL, tmp_path / "other" / "vae")[1])
    original = original_vae(mine)
    flat = {
        name: array[..., 0, 0] if "attn_1" in name and array.ndim == 4 else array for name, array in original.items()
    }
    places = [
        (tmp_path / "other", 0.25),
        (tmp_path / "other" / "vae", 0.25),
        (write_tensors(tmp_path / "diffusers.safetensors", mine), 0.5),
        (write_tensors(tmp_path / "original.safetensors", {**original, "loss.logvar": np.float32(0)}), 0.5),
        (write_tensors(tmp_path / "flat.safetensors", flat), 0.5),
        (write_tensors(tmp_path / "prefix.safetensors", with_prefix("first_stage_model.", original)), 0.5),
    ]
    for model in (whole, folders["1.x"]):
        if model == folders["1.x"]:
            model = shutil.copytree(model, tmp_path / "copy")
            (model / "scheduler").mkdir()
            (model / "scheduler" / "scheduler_config.json").write_text('{"prediction_type": "epsilon"}')
            (model / "vae" / "diffusion_pytorch_model.safetensors").unlink()
        hashes = set()
        for place, scale in places:
            found = find(model, vae=place)
            part = found.parts["vae"]
            assert part.config(AutoencoderKL) == dataclasses.replace(other, scaling_factor=scale)
            if model == whole:
                assert_same(load(part, AutoencoderKL), expected)
            hashes.add(found.hash(PARTS))
        assert len(hashes) == 5, "one for each file of another content"
    line = refused(whole, vae=write_tensors(tmp_path / "no.safetensors", {"a": np.zeros(3, np.float32)}))
    assert line.endswith(
        "no.safetensors holds no autoencoder of Stable Diffusion; give another file or folder with --vae"
    )
    misses = {name: array for name, array in original.items() if name != "decoder.conv_out.bias"}
    line = refused(whole, vae=write_tensors(tmp_path / "less.safetensors", misses))
    assert line.endswith("less.safetensors (vae) do not fit an autoencoder; missing: decoder.conv_out.bias")


def test_the_hash_is_of_the_files_in_use(tensors, tmp_path):
    file = write_tensors(tmp_path / "model.safetensors", tensors["1.x"])
    digest = find(file).hash(PARTS)
    (tmp_path / "elsewhere").mkdir()
    moved = shutil.copy(file, tmp_path / "elsewhere" / "renamed.safetensors")
    assert find(moved).hash(PARTS) == digest, "it does not depend on the place"
    assert find(file, prediction_type="epsilon").hash(PARTS) == digest, "as the file says"
    assert find(file, prediction_type="v_prediction").hash(PARTS) != digest
    changed = dict(tensors["1.x"])
    changed["model.diffusion_model.out.2.bias"] = changed["model.diffusion_model.out.2.bias"] + 1
    assert find(write_tensors(file, changed)).hash(PARTS) != digest


def test_files_that_are_no_safetensors(tensors, tmp_path, monkeypatch):
    file = tmp_path / "model.ckpt"
    file.write_bytes(b"PK\x03\x04 and more")
    assert refused(file) == (
        f"{file} is a pickle, which can run code when it is opened: convert it to safetensors, or add --allow_pickle, "
        "which reads nothing but its tensors"
    )
    monkeypatch.setitem(sys.modules, "torch", None)  # as if it were not installed
    assert "was written by PyTorch: pip install torch to read it, or convert it" in refused(file, allow_pickle=True)
    file = write_tensors(tmp_path / "model.safetensors", tensors["1.x"])
    file.write_bytes(file.read_bytes()[:-10])
    assert "is no safetensors file, or a damaged one" in refused(file)
    file.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 4265380512\n")
    assert "is only a pointer to the weights: fetch them with git lfs pull" in refused(file)
    line = refused(tmp_path)
    assert line.endswith(f"is missing; give a model folder in diffusers' layout, or a single file, such as {file}")
    for name in ("owner/missing.safetensors", "missing.ckpt"):
        assert refused(name) == f"there is no file {name}"
    header = json.dumps({"model.diffusion_model.out.0.bias": dict(dtype="F8_E4M3", shape=[4], data_offsets=[0, 4])})
    file.write_bytes(struct.pack("<Q", len(header)) + header.encode() + bytes(4))
    assert refused(file) == f"{file} has 8-bit numbers, which are not supported; give a 16-bit version"


# A whole model of a real family: the tokenizer's full vocabulary, few layers.


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """A file with the widths and the text encoder's layers of Stable Diffusion 1.x, the same twelve times."""
    configs = {
        "text_encoder": CLIPTextConfig(vocab_size=1, hidden_size=768, intermediate_size=32, num_hidden_layers=1),
        "vae": AutoencoderKLConfig(block_out_channels=(32, 32)),
        "unet": UNet2DConditionConfig(
            block_out_channels=(32, 64), down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), layers_per_block=1, cross_attention_dim=768,
        ),
    }  # fmt: skip
    folder = tmp_path_factory.mktemp("real")
    for name, config in configs.items():
        save_model(folder / name, config, init_model(PARTS[name], config, dtype="float16")[1])
    tensors = original_tensors(folder)
    tensors["cond_stage_model.transformer.text_model.embeddings.token_embedding.weight"] = np.ones((49_408, 768), "f2")
    for layer in range(1, 12):
        tensors |= {name.replace(".layers.0.", f".layers.{layer}."): array for name, array in tensors.items()}
    return write_tensors(folder / "model.safetensors", tensors)


def test_a_file_is_loaded_as_a_model(real):
    model = StableDiffusion.load(real)
    assert model.networks.unet_config.heads == (8, 8) and model.networks.text_config.num_attention_heads == 12
    assert (model.resolution, model.multiple, model.folder, model.name) == (128, 4, None, str(real))
    assert model.networks.schedule == NoiseSchedule()
    assert model.networks.vae_config.scaling_factor == 0.18215
    assert model.tokenizer.vocab_size == model.networks.text_config.vocab_size == 49_408
    assert model.bundled_controlnet is None
    stored = safetensors.numpy.load_file(real)["model.diffusion_model.out.2.weight"]
    np.testing.assert_array_equal(model.params["unet"]["conv_out"]["kernel"], stored.transpose(2, 3, 1, 0))


@pytest.mark.parametrize("command", [train, sample])
def test_the_commands_pass_on_how_to_read_a_model(command, tiny_folder, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    pickle, vae = tmp_path / "model.ckpt", write_tensors(tmp_path / "vae.safetensors", {"a": np.zeros(3, np.float32)})
    pickle.write_bytes(b"PK\x03\x04")
    monkeypatch.setitem(sys.modules, "torch", None)
    folder = shutil.copytree(tiny_folder, tmp_path / "model")
    settings = {**NoiseSchedule(prediction_type="v_prediction").to_config(), "rescale_betas_zero_snr": True}
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(settings))
    for words, line in {
        ("--model", pickle): "is a pickle",
        ("--model", pickle, "--allow_pickle"): "pip install torch to read it",
        ("--model", tiny_folder, "--vae", vae): "holds no autoencoder",
        ("--model", folder, "--prediction_type", "epsilon"): "needs prediction_type 'v_prediction'",
    }.items():
        assert line in refusal(capfd, command, *words)
