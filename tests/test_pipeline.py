"""A model's folder as one object: what is loaded, how latents are scaled, what is refused."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compilations import compilations
from flax import nnx
from safetensors.numpy import load_file, save_file
from tiny_model import write_controlnet

from dreamstyler_jax.runtime.errors import UserError
from dreamstyler_jax.stable_diffusion.checkpoint_files import hash_files
from dreamstyler_jax.stable_diffusion.parts import PARTS, save_folder
from dreamstyler_jax.stable_diffusion.pipeline import EMBEDDED_MODEL, StableDiffusion
from dreamstyler_jax.stable_diffusion.schedule import NoiseSchedule


@pytest.fixture
def folder(tiny_folder, tmp_path):
    """A copy of the model, to change."""
    return shutil.copytree(tiny_folder, tmp_path / "copy")


def edit_json(file, **changes):
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def test_sizes_come_from_the_folder(tiny, tiny_folder):
    assert (tiny.networks.text_widths, tiny.resolution, tiny.multiple) == ({"clip_l": 16}, 16, 4)
    assert tiny.tokenizer.max_length == 24
    assert tiny.networks.schedule == NoiseSchedule()
    assert tiny.networks.latent_shape(16, 24) == (8, 12, 4)
    assert tiny.name == str(tiny_folder)
    assert tiny.dtype == jnp.float32


def test_what_a_model_is_in_a_line(tiny):
    line = repr(tiny)
    assert tiny.name in line and "16 x 16 pixels, float32" in line
    assert len(repr(dataclasses.replace(tiny, name="x" * 1000))) < 200


def test_saving_what_was_loaded_gives_the_same_model(tiny, tmp_path):
    modules = {name: nnx.merge(getattr(tiny.networks, name), tiny.params[name]) for name in PARTS}
    parts = {name: (module.config, tiny.params[name]) for name, module in modules.items()}
    save_folder(tmp_path, tokenizers=tiny.tokenizers, schedule=tiny.networks.schedule, parts=parts)
    again = StableDiffusion.load(str(tmp_path))
    jax.tree.map(np.testing.assert_array_equal, again.params, tiny.params)
    assert again.hash == tiny.hash
    assert (again.networks, hash(again.networks)) == (tiny.networks, hash(tiny.networks)), "or jit compiles again"
    np.testing.assert_array_equal(again.tokenizer(["a red house"]), tiny.tokenizer(["a red house"]))


def test_latents_are_scaled_on_the_way_in_and_out(tiny):
    vae = nnx.merge(tiny.networks.vae, tiny.params["vae"])
    images = np.random.default_rng(0).uniform(-1, 1, (2, 16, 24, 3)).astype(np.float32)

    @jax.jit
    def ours_and_the_autoencoders(params, images):
        mean, deviation = tiny.networks.encode_images(params, images)
        plain_mean, plain_log_variance = vae.encode(images)
        decoded = tiny.networks.decode_latents(params, mean)
        return (mean, deviation, decoded), (plain_mean, plain_log_variance, vae.decode(plain_mean))

    (mean, deviation, decoded), (plain_mean, log_variance, plain) = ours_and_the_autoencoders(tiny.params, images)
    scale = 0.5
    np.testing.assert_allclose(mean, scale * plain_mean, rtol=1e-6)
    np.testing.assert_allclose(deviation, scale * np.exp(0.5 * log_variance), rtol=1e-5)
    np.testing.assert_allclose(decoded, plain, atol=1e-5)
    assert mean.shape == (2, *tiny.networks.latent_shape(16, 24))
    assert decoded.shape == images.shape


def test_encoding_pictures_compiles_once_for_each_shape(tiny):
    pictures = np.random.default_rng(0).uniform(-1, 1, (3, 8, 12, 3)).astype(np.float32)
    mean, _ = tiny.encode_images(pictures)
    with compilations() as programs:
        again, _ = dataclasses.replace(tiny).encode_images(pictures)
    assert not programs, "an equal model shares the program"
    np.testing.assert_array_equal(again, mean)
    expected, _ = tiny.networks.encode_images(tiny.params, pictures)
    np.testing.assert_allclose(mean, expected, atol=1e-5)


def test_every_token_has_its_vector(tiny):
    stored = tiny.params["text_encoder"]["text_model"]["embeddings"]["token_embedding"]["embedding"]
    assert tiny.vocabulary_vectors.keys() == tiny.networks.text_widths.keys()
    np.testing.assert_array_equal(tiny.vocabulary_vectors["clip_l"], stored)


def test_replicated_weights_are_the_weights(tiny):
    jax.tree.map(np.testing.assert_array_equal, tiny.replicated_params, tiny.params)
    assert tiny.replicated_params is tiny.replicated_params, "they are sent to the devices once"


@pytest.mark.parametrize("folder", ["tiny_folder", "sdxl_folder"])
def test_bfloat16_weights_give_float32_results(folder, request):
    model = StableDiffusion.load(str(request.getfixturevalue(folder)), dtype="bfloat16")
    assert {leaf.dtype for leaf in jax.tree.leaves(model.params)} == {jnp.dtype("bfloat16")}
    assert model.dtype == jnp.bfloat16
    assert model.vocabulary_vectors["clip_l"].dtype == jnp.float32
    networks, latents = model.networks, jnp.zeros((2, 8, 8, 4))
    vectors = {name: jnp.zeros((2, 24, width)) for name, width in networks.text_widths.items()}
    ids = dict.fromkeys(vectors, jnp.zeros((2, 24), jnp.int32))
    conditioning = jax.eval_shape(networks.encode_text, model.params, vectors, ids)
    for result in (
        jax.eval_shape(networks.denoise, model.params, latents, jnp.int32(0), conditioning),
        jax.eval_shape(networks.decode_latents, model.params, latents),
        *jax.eval_shape(networks.encode_images, model.params, jnp.zeros((2, 16, 16, 3))),
    ):
        assert result.dtype == jnp.float32


def test_sizes_are_the_models_resolution_or_multiples(tiny):
    assert tiny.size(None, None) == (16, 16)
    assert tiny.size(8, None) == (8, 16)
    assert tiny.size(None, 24) == (16, 24)
    assert tiny.size(18, 10) == (18, 10), "the UNet takes latents of odd sides"
    with pytest.raises(UserError, match="height: must be a multiple of 2 for this model, such as 16, not 17"):
        tiny.size(17, 16)
    with pytest.raises(UserError, match="width: must be a multiple of 2 for this model, such as 2, not 1"):
        tiny.size(16, 1)
    assert (tiny.side("resolution", None), tiny.side("resolution", 8)) == (16, 8)
    with pytest.raises(UserError, match="resolution: must be a multiple of 2"):
        tiny.side("resolution", 11)
    for value in (0, -4):
        with pytest.raises(UserError, match="height: must be a multiple of 2 for this model, such as 2, not"):
            tiny.size(value, 16)


def hash_of(folder):
    return hash_files(sorted(folder.rglob("*.safetensors")))


def test_the_hash_tells_models_apart(folder):
    """Any byte of a file of a megabyte or less changes it, and a part of the bytes of a larger one."""
    before = hash_of(folder)
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    data = bytearray(weights.read_bytes())
    for place in (0.5, 0.75, 0.99):
        data[int(place * len(data))] ^= 1
        weights.write_bytes(data)
        assert hash_of(folder) != before
        data[int(place * len(data))] ^= 1
    weights.write_bytes(data)
    assert hash_of(folder) == before

    large = folder / "large.safetensors"
    large.write_bytes(bytes(3_000_000))
    before = hash_of(folder)
    large.write_bytes(bytes(1_400_000) + b"1" * 200_000 + bytes(1_400_000))
    assert hash_of(folder) != before


def test_the_hash_depends_on_the_weights_in_use_alone(tiny, folder):
    (folder / "safety_checker").mkdir()
    shutil.copy(folder / "vae" / "diffusion_pytorch_model.safetensors", folder / "safety_checker" / "model.safetensors")
    (folder / "README.md").write_text("about")
    # Another tool adds the half-precision files to a folder that it shares with this one.
    for file in [*folder.glob("unet/*.safetensors"), *folder.glob("text_encoder/*.safetensors")]:
        half = {name: array.astype(np.float16) for name, array in load_file(file).items()}
        save_file(half, file.with_suffix(".fp16.safetensors"))
    assert StableDiffusion.load(str(folder)).hash == tiny.hash
    vae = folder / "vae" / "diffusion_pytorch_model.safetensors"
    shutil.copy(vae, vae.with_suffix(".fp16.safetensors"))
    assert StableDiffusion.load(str(folder), variant="fp16").hash != tiny.hash


def test_all_else_that_pictures_depend_on_has_a_hash_of_its_own(tiny, folder):
    def settings(**options):
        return StableDiffusion.load(str(folder), **options).settings

    before = settings()
    assert before == tiny.settings and len(before) == 12
    edit_json(folder / "unet" / "config.json", _diffusers_version="0.99", another_tool="says")
    assert settings() == before, "what nothing depends on"
    found = {before, settings(prediction_type="v_prediction")}
    edit_json(folder / "scheduler" / "scheduler_config.json", beta_end=0.013)
    found.add(settings())
    edit_json(folder / "vae" / "config.json", scaling_factor=0.3)
    found.add(settings())
    edit_json(folder / "tokenizer" / "special_tokens_map.json", pad_token="a</w>")
    found.add(settings())
    assert len(found) == 5
    assert tiny.with_settings() is tiny and tiny.with_settings("a depth model").settings != tiny.settings
    assert StableDiffusion.load("mini").settings == "", "so that the ids of its pictures stay"


def test_what_the_user_says_of_a_model_is_in_its_hash(tiny, folder):
    again = StableDiffusion.load(folder, prediction_type="epsilon")
    assert (again.hash, again.networks) == (tiny.hash, tiny.networks), "it says so itself"
    other = StableDiffusion.load(folder, prediction_type="v_prediction")
    assert other.networks.schedule == NoiseSchedule(prediction_type="v_prediction")
    assert other.hash != tiny.hash
    other_vae = shutil.copytree(folder / "vae", folder.parent / "other")
    edit_json(other_vae / "config.json", scaling_factor=0.25)
    weights = other_vae / "diffusion_pytorch_model.safetensors"
    save_file({name: 2 * array for name, array in load_file(weights).items()}, weights)
    other = StableDiffusion.load(folder, vae=other_vae)
    assert other.hash != tiny.hash and other.networks.vae_config.scaling_factor == 0.25
    np.testing.assert_array_equal(
        other.params["vae"]["decoder"]["conv_out"]["bias"], 2 * tiny.params["vae"]["decoder"]["conv_out"]["bias"]
    )


def test_controlnets_join_a_model(tiny, tmp_path):
    first, second = (write_controlnet(tmp_path / name) for name in ("first", "second"))
    weights = second / "diffusion_pytorch_model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    one, other = tiny.with_controlnets([first]), tiny.with_controlnets([second], guess_mode=True)
    both = tiny.with_controlnets([first, second])
    assert [len(model.networks.controlnets) for model in (tiny, one, other, both)] == [0, 1, 1, 2]
    assert [len(model.params["controlnets"]) for model in (one, other, both)] == [1, 1, 2]
    assert (one.networks.guess_mode, other.networks.guess_mode) == (False, True)
    assert len({model.hash for model in (tiny, one, other, both)}) == 4
    shutil.copy(second / weights.name, first / "diffusion_pytorch_model.fp16.safetensors")
    assert tiny.with_controlnets([first]).hash == one.hash, "of the weights in use"
    edit_json(first / "config.json", norm_eps=1e-4)
    assert len({model.settings for model in (tiny, one, tiny.with_controlnets([first]))}) == 3
    assert "1 ControlNet" in repr(one) and "2 ControlNets" in repr(both)
    assert "controlnets" not in tiny.params, "the model itself is unchanged"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"cross_attention_dim": 24}, r"for another family of models than .*cross_attention_dim is 24, not 16"),
        ({"conditioning_embedding_out_channels": (4, 4, 4, 4)}, "downsampling of its control map is 8, not 2"),
    ],
)
def test_controlnets_for_other_models_are_refused(tiny, tmp_path, settings, message):
    with pytest.raises(UserError, match=message):
        tiny.with_controlnets([write_controlnet(tmp_path, **settings)])


def test_the_controlnet_in_a_models_folder_is_found(folder):
    model = StableDiffusion.load(folder)
    assert model.folder == folder and model.bundled_controlnet is None
    write_controlnet(folder / "controlnet")
    assert model.bundled_controlnet == folder / "controlnet"
    assert dataclasses.replace(model, folder=None).bundled_controlnet is None
    assert dataclasses.replace(model, folder=EMBEDDED_MODEL).bundled_controlnet == EMBEDDED_MODEL / "controlnet"


def test_parts_that_do_not_fit_together_are_refused(folder):
    config = folder / "tokenizer" / "tokenizer_config.json"
    edit_json(config, model_max_length=77)
    with pytest.raises(UserError, match=r"its text_encoder max_position_embeddings is 24, but its tokenizer length 77"):
        StableDiffusion.load(str(folder))
    edit_json(config, model_max_length=24)
    (folder / "tokenizer" / "added_tokens.json").write_text(json.dumps({"<new>": 560}))
    with pytest.raises(UserError, match=r"the tokenizer has 561 tokens, the text_encoder 560"):
        StableDiffusion.load(str(folder))


def test_incomplete_folders_are_refused(folder):
    file = folder / "scheduler" / "scheduler_config.json"
    file.write_text("{")
    with pytest.raises(UserError, match=r"scheduler_config\.json is damaged"):
        StableDiffusion.load(str(folder))
    file.unlink()
    with pytest.raises(UserError, match=r"scheduler_config\.json is missing; give a model folder in diffusers' layout"):
        StableDiffusion.load(str(folder))
