"""Model folders: exactly the expected tensors, bit-identical round trips, conventional file names, hub downloads."""

import json
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx
from flax.traverse_util import flatten_dict

from dreamstyler_jax.runtime.errors import UserError
from dreamstyler_jax.stable_diffusion.checkpoint_files import files_of
from dreamstyler_jax.stable_diffusion.clip import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTextModel, CLIPVisionConfig
from dreamstyler_jax.stable_diffusion.unet import UNet2DConditionConfig, UNet2DConditionModel
from dreamstyler_jax.stable_diffusion.vae import AutoencoderKL, AutoencoderKLConfig
from dreamstyler_jax.stable_diffusion.weight_names import WeightNames
from dreamstyler_jax.stable_diffusion.weights import init_model, load_model, read_config, read_model, save_model

TEXT_CONFIG = CLIPTextConfig(
    vocab_size=20, hidden_size=8, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
    max_position_embeddings=6,
)  # fmt: skip
CONFIGS = {
    CLIPTextModel: TEXT_CONFIG,
    CLIPModel: CLIPConfig(
        TEXT_CONFIG,
        CLIPVisionConfig(
            hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2, image_size=8, patch_size=4
        ),
        projection_dim=4,
    ),
    AutoencoderKL: AutoencoderKLConfig(block_out_channels=(4, 8), norm_num_groups=2),
    UNet2DConditionModel: UNet2DConditionConfig(
        block_out_channels=(4, 8), layers_per_block=1, cross_attention_dim=6, norm_num_groups=2,
        attention_head_dim=(1, 2),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        addition_embed_type="text", addition_embed_type_num_heads=2,
    ),
}  # fmt: skip


def saved(cls, folder, dtype=jnp.float32):
    """Saves a model of random numbers, norms and biases included, and returns them."""
    _, params = init_model(cls, CONFIGS[cls])
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda array: jnp.asarray(rng.standard_normal(array.shape), dtype), params)
    save_model(folder, CONFIGS[cls], params)
    return params


def assert_same(params, others):
    params, others = flatten_dict(params), flatten_dict(others)
    assert params.keys() == others.keys()
    for path, array in params.items():
        assert array.dtype == others[path].dtype
        np.testing.assert_array_equal(array, others[path], err_msg=str(path))


def edit_tensors(file, edit, new_file=None):
    """Rewrites a safetensors file after ``edit`` has changed the dict of its tensors."""
    tensors = safetensors.numpy.load_file(file)
    edit(tensors)
    tensors = {name: np.asarray(array, order="C") for name, array in tensors.items()}
    safetensors.numpy.save_file(tensors, new_file or file)


def rename(pattern, replacement):
    def edit(tensors):
        for name in list(tensors):
            tensors[re.sub(pattern, replacement, name)] = tensors.pop(name)

    return edit


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("cls", CONFIGS)
def test_round_trip_is_bit_identical(cls, dtype, tmp_path):
    params = saved(cls, tmp_path, dtype)
    graphdef, others = load_model(cls, tmp_path, dtype=dtype)
    assert_same(params, others)
    assert nnx.merge(graphdef, others).config == CONFIGS[cls]
    assert sorted(file.suffix for file in tmp_path.iterdir()) == [".json", ".safetensors"]


def test_kernels_are_stored_channels_first(tmp_path):
    """Transposed views must be made contiguous before they are written."""
    kernel = saved(UNet2DConditionModel, tmp_path)["conv_in"]["kernel"]
    tensors = safetensors.numpy.load_file(tmp_path / "diffusion_pytorch_model.safetensors")
    np.testing.assert_array_equal(tensors["conv_in.weight"], np.transpose(kernel, (3, 2, 0, 1)))


def test_all_differences_are_listed_at_once(tmp_path):
    saved(UNet2DConditionModel, tmp_path)

    def damage(tensors):
        del tensors["conv_in.bias"], tensors["mid_block.resnets.1.norm2.weight"]
        tensors["conv_extra.weight"] = np.zeros(3, np.float32)
        tensors["add_embedding.proj.bias"] = np.zeros(3, np.float32)
        tensors["conv_out.weight"] = np.zeros((4, 4, 3, 1), np.float32)

    edit_tensors(tmp_path / "diffusion_pytorch_model.safetensors", damage)
    with pytest.raises(UserError) as error:
        load_model(UNet2DConditionModel, tmp_path)
    assert str(error.value) == (
        f"the weights in {tmp_path} do not fit its config.json; "
        "missing: conv_in.bias, mid_block.resnets.1.norm2.weight; unknown: conv_extra.weight; "
        "misshapen: add_embedding.proj.bias (3,) instead of (16,), conv_out.weight (4, 4, 3, 1) instead of (4, 4, 3, 3)"
    )


def test_long_lists_of_differences_are_cut(tmp_path):
    saved(UNet2DConditionModel, tmp_path)
    edit_tensors(tmp_path / "diffusion_pytorch_model.safetensors", rename("^", "other."))
    with pytest.raises(UserError, match=r"missing: .* and \d+ more; unknown: .* and \d+ more$") as error:
        load_model(UNet2DConditionModel, tmp_path)
    assert len(str(error.value)) < 1000


def test_a_config_is_not_read_again_if_the_caller_has_it(tmp_path):
    params = saved(CLIPTextModel, tmp_path)
    config = read_config(CLIPTextModel, tmp_path)
    assert config == TEXT_CONFIG
    (tmp_path / "config.json").unlink()
    assert_same(params, load_model(CLIPTextModel, tmp_path, config=config)[1])


class InMemory:
    """A source of tensors that is no file."""

    def __init__(self, tensors):
        self.tensors = tensors

    def names(self):
        return self.tensors.keys()

    def shape(self, name):
        return self.tensors[name].shape

    def tensor(self, name):
        return self.tensors[name]


def test_models_are_read_from_any_source_of_tensors(tmp_path):
    params = saved(CLIPTextModel, tmp_path)
    source = InMemory(safetensors.numpy.load_file(tmp_path / "model.safetensors"))
    assert_same(params, read_model(CLIPTextModel, TEXT_CONFIG, source, dtype="float32", origin="memory")[1])
    source.tensors.popitem()
    with pytest.raises(UserError, match="the weights in memory do not fit"):
        read_model(CLIPTextModel, TEXT_CONFIG, source, dtype="float32", origin="memory")


def test_names_that_other_versions_write_are_understood(tmp_path):
    params = saved(CLIPTextModel, tmp_path / "text")
    file = tmp_path / "text/model.safetensors"
    edit_tensors(file, lambda tensors: tensors.update({"text_model.embeddings.position_ids": np.arange(6)[None]}))
    assert_same(params, load_model(CLIPTextModel, tmp_path / "text")[1])
    edit_tensors(file, rename(r"^text_model\.", ""))
    assert_same(params, load_model(CLIPTextModel, tmp_path / "text")[1])

    params = saved(AutoencoderKL, tmp_path / "vae")
    file = tmp_path / "vae/diffusion_pytorch_model.safetensors"
    for today, before in {"to_q": "query", "to_k": "key", "to_v": "value", r"to_out\.0": "proj_attn"}.items():
        edit_tensors(file, rename(today, before))
    assert "decoder.mid_block.attentions.0.proj_attn.weight" in safetensors.numpy.load_file(file)
    assert_same(params, load_model(AutoencoderKL, tmp_path / "vae")[1])


@pytest.mark.parametrize("stored", ["float16", "bfloat16"])
def test_half_precision_files_load_in_the_dtype_asked_for(stored, tmp_path):
    params = saved(CLIPTextModel, tmp_path, stored)
    _, others = load_model(CLIPTextModel, tmp_path)
    assert_same(jax.tree.map(lambda array: array.astype(jnp.float32), params), others)


def test_variants_and_shards_are_found_by_name(tmp_path):
    params = saved(CLIPTextModel, tmp_path)
    single = tmp_path / "model.safetensors"
    names = sorted(safetensors.numpy.load_file(single))
    shards = {"model.fp16-00001-of-00002.safetensors": names[:9], "model.fp16-00002-of-00002.safetensors": names[9:]}
    for shard, kept in shards.items():
        edit_tensors(single, lambda tensors, kept=kept: [tensors.pop(name) for name in names if name not in kept],
                     tmp_path / shard)  # fmt: skip
    index = {"metadata": {}, "weight_map": {name: shard for shard, kept in shards.items() for name in kept}}
    (tmp_path / "model.safetensors.index.fp16.json").write_text(json.dumps(index))
    single.rename(tmp_path / "model.ema.safetensors")
    assert_same(params, load_model(CLIPTextModel, tmp_path, variant="fp16")[1])
    assert_same(params, load_model(CLIPTextModel, tmp_path, variant="ema")[1])
    with pytest.raises(UserError, match=r"no weights without a variant in their name, only model\.ema"):
        load_model(CLIPTextModel, tmp_path)
    (tmp_path / "model.fp16-00002-of-00002.safetensors").unlink()
    with pytest.raises(UserError, match=r"lacks model\.fp16-00002-of-00002\.safetensors"):
        load_model(CLIPTextModel, tmp_path, variant="fp16")
    (tmp_path / "model.safetensors.index.fp16.json").write_text('{"weight_map": []}')
    with pytest.raises(UserError, match=r"index\.fp16\.json is damaged, weight_map should be an object"):
        load_model(CLIPTextModel, tmp_path, variant="fp16")


def test_unusable_folders_are_explained(tmp_path):
    with pytest.raises(UserError, match=r"config\.json is missing; give a model folder"):
        load_model(CLIPTextModel, tmp_path)
    saved(CLIPTextModel, tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(UserError, match="damaged"):
        load_model(CLIPTextModel, tmp_path)
    weights.rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"only pytorch_model\.bin.*convert it to safetensors"):
        load_model(CLIPTextModel, tmp_path)
    (tmp_path / "pytorch_model.bin").unlink()
    with pytest.raises(UserError, match="no weights in safetensors format"):
        load_model(CLIPTextModel, tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config\.json is damaged, it is not valid JSON"):
        load_model(CLIPTextModel, tmp_path)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        (dict(act_fn="gelu", class_embed_type="timestep"), r'act_fn = "gelu".*class_embed_type = "timestep"'),
        (dict(down_block_types=["AttnDownBlock2D"] * 4), "down_block_types"),
        (dict(layers_per_block=[1, 2, 2]), "layers_per_block has 3 entries for the 4"),
        (dict(num_attention_heads=7), "320 channels are not divisible by norm_num_groups = 32 and 7 attention heads"),
        (dict(attention_head_dim=[5, 10]), "attention_head_dim has 2 entries for the 4"),
        (dict(norm_num_groups=33), "not divisible by norm_num_groups = 33"),
        (dict(transformer_layers_per_block=[1, [1, 2], 1, 1]), "needs reverse_transformer_layers_per_block"),
        (dict(transformer_layers_per_block=[[1], 1, 1, 1]), r"has \(1,\) for a level of 2 layers"),
        (
            dict(transformer_layers_per_block=[1, "2", 1, 1]),
            r'transformer_layers_per_block\[1\] = "2" \(supported: a whole number from 1 to 64 or a list\)',
        ),
        (dict(reverse_transformer_layers_per_block=[1, 1, 1, [1, 1]]), r"reverse_.* has \(1, 1\) for a level of 3"),
        (dict(reverse_transformer_layers_per_block=[1, 1, 1]), "has 3 entries for the 4"),
    ],
)
def test_unsupported_settings_are_refused_by_name(settings, named):
    with pytest.raises(UserError, match=named):
        UNet2DConditionConfig.from_dict(settings)


def test_null_means_the_default_where_it_has_no_meaning_of_its_own():
    """As in the UNet of a model that diffusers' own script has converted."""
    nulls = ("upcast_attention", "only_cross_attention", "class_embed_type", "mid_block_only_cross_attention", "act_fn")
    assert UNet2DConditionConfig.from_dict(dict.fromkeys(nulls)) == UNet2DConditionConfig()
    assert AutoencoderKLConfig.from_dict({"shift_factor": None, "scaling_factor": None}) == AutoencoderKLConfig()
    assert CLIPTextConfig.from_dict({"bos_token_id": None, "hidden_act": None}).bos_token_id is None
    assert UNet2DConditionConfig.from_dict({"mid_block_type": None}).mid_block_type is None
    with pytest.raises(UserError, match="norm_num_groups = null"):  # the UNet has no such layers
        UNet2DConditionConfig.from_dict({"norm_num_groups": None})


def test_configs_of_other_models_are_refused_in_a_short_line():
    with pytest.raises(UserError, match=r"of another kind: AutoencoderTiny, not AutoencoderKL$"):
        AutoencoderKLConfig.from_dict({"_class_name": "AutoencoderTiny", "act_fn": "relu"})
    with pytest.raises(UserError, match=r"of another kind: SD3Transformer2DModel, not UNet2DConditionModel$"):
        UNet2DConditionConfig.from_dict({"_class_name": "SD3Transformer2DModel", "sample_size": 128})
    odd = {
        "_class_name": "UNet2DConditionModel", "down_block_types": ["ResnetDownsampleBlock2D"] * 1000,
        "up_block_types": ["ResnetUpsampleBlock2D"] * 1000, "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
        "act_fn": "gelu", "addition_embed_type": "image", "class_embed_type": "identity", "encoder_hid_dim": 1280,
        "encoder_hid_dim_type": "image_proj", "resnet_time_scale_shift": "scale_shift", "layers_per_block": [3] * 1000,
    }  # fmt: skip
    with pytest.raises(UserError, match=r"down_block_types = \[.Resnet.*\.\.\. .* and \d more$") as error:
        UNet2DConditionConfig.from_dict(odd)
    assert len(str(error.value)) < 800


def test_an_interrupted_save_leaves_the_old_file(tmp_path, monkeypatch):
    params = saved(CLIPTextModel, tmp_path)

    def fail(tensors, file, metadata):
        Path(file).write_bytes(b"half a file")
        raise OSError("disk full")

    monkeypatch.setattr(safetensors.numpy, "save_file", fail)
    with pytest.raises(OSError, match="disk full"):
        save_model(tmp_path, TEXT_CONFIG, params)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
    assert_same(params, load_model(CLIPTextModel, tmp_path)[1])


def test_initial_parameters_have_unit_gain():
    config = UNet2DConditionConfig(layers_per_block=1, block_out_channels=(32,) * 4)
    _, params = init_model(UNet2DConditionModel, config)
    kernel = params["down_blocks"][1]["resnets"][0]["conv2"]["kernel"]
    assert np.std(kernel) == pytest.approx((9 * 32) ** -0.5, rel=0.05)
    assert np.all(np.asarray(params["conv_norm_out"]["scale"]) == 1)
    assert not np.any(params["conv_out"]["bias"])


@pytest.mark.parametrize("name", ["../outside.safetensors", "/outside.safetensors", "a/../../outside.safetensors"])
def test_an_index_names_files_of_its_own_folder_only(tmp_path, name):
    """What lies outside would be loaded without a place in the model's hash."""
    (tmp_path / "outside.safetensors").touch()
    folder = tmp_path / "unet"
    folder.mkdir()
    index = "diffusion_pytorch_model.safetensors.index.json"
    (folder / index).write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(UserError, match="should be a text that names a file inside its folder"):
        files_of(folder, WeightNames(index))
