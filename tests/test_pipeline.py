"""A model folder as one object: what it loads, how it is scaled, what it refuses."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from dreamstyler_jax.runtime.errors import UserError
from dreamstyler_jax.stable_diffusion import pipeline
from dreamstyler_jax.stable_diffusion.pipeline import PARTS, StableDiffusion
from dreamstyler_jax.stable_diffusion.schedule import NoiseSchedule


@pytest.fixture
def folder(tiny_folder, tmp_path):
    """A copy of the model, to change."""
    return shutil.copytree(tiny_folder, tmp_path / "copy")


def edit_json(file, **changes):
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def test_sizes_come_from_the_folder(tiny, tiny_folder):
    assert (tiny.text_width, tiny.resolution, tiny.multiple) == (16, 16, 4)
    assert tiny.tokenizer.max_length == 24
    assert tiny.networks.schedule == NoiseSchedule()
    assert tiny.networks.latent_shape(16, 24) == (8, 12, 4)
    assert tiny.name == str(tiny_folder)


def test_saving_what_was_loaded_gives_the_same_model(tiny, tmp_path):
    modules = {name: nnx.merge(getattr(tiny.networks, name), tiny.params[name]) for name in PARTS}
    parts = {name: (module.config, tiny.params[name]) for name, module in modules.items()}
    pipeline.save(tmp_path, tokenizer=tiny.tokenizer, schedule=tiny.networks.schedule, parts=parts)
    again = StableDiffusion.load(str(tmp_path))
    jax.tree.map(np.testing.assert_array_equal, again.params, tiny.params)
    assert again.hash == tiny.hash
    assert (again.networks, hash(again.networks)) == (tiny.networks, hash(tiny.networks)), "else jit compiles again"
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


def test_every_token_has_its_vector_in_the_table(tiny):
    stored = tiny.params["text_encoder"]["text_model"]["embeddings"]["token_embedding"]["embedding"]
    np.testing.assert_array_equal(tiny.embedding_table, stored)


def test_bfloat16_is_of_the_weights_and_results_stay_float32(tiny_folder):
    model = StableDiffusion.load(str(tiny_folder), dtype="bfloat16")
    assert {leaf.dtype for leaf in jax.tree.leaves(model.params)} == {jnp.dtype("bfloat16")}
    assert model.embedding_table.dtype == jnp.float32
    networks, latents = model.networks, jnp.zeros((2, 8, 8, 4))
    states = jax.eval_shape(networks.encode_text, model.params, jnp.zeros((2, 24, 16)), jnp.zeros((2, 24), jnp.int32))
    for result in (
        jax.eval_shape(networks.denoise, model.params, latents, jnp.int32(0), states),
        jax.eval_shape(networks.decode_latents, model.params, latents),
        *jax.eval_shape(networks.encode_images, model.params, jnp.zeros((2, 16, 16, 3))),
    ):
        assert result.dtype == jnp.float32


def test_sizes_are_the_models_own_or_multiples(tiny):
    assert tiny.size(None, None) == (16, 16)
    assert tiny.size(8, None) == (8, 16)
    assert tiny.size(None, 24) == (16, 24)
    with pytest.raises(UserError, match="height: must be a multiple of 4 for this model, such as 16, not 17"):
        tiny.size(17, 16)
    with pytest.raises(UserError, match="width: must be a multiple of 4 for this model, such as 4, not 1"):
        tiny.size(16, 1)


def hash_of(folder):
    return pipeline._hash_files(sorted(folder.rglob("*.safetensors")))


def test_the_hash_tells_models_apart(folder):
    """By any byte of a file of a megabyte or less; by a share of those of a larger one."""
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


def test_the_hash_is_of_the_weights_in_use(tiny, folder):
    (folder / "safety_checker").mkdir()
    shutil.copy(folder / "vae" / "diffusion_pytorch_model.safetensors", folder / "safety_checker" / "model.safetensors")
    (folder / "README.md").write_text("about")
    assert StableDiffusion.load(str(folder)).hash == tiny.hash


def test_parts_that_do_not_fit_together_are_refused(folder):
    config = folder / "tokenizer" / "tokenizer_config.json"
    edit_json(config, model_max_length=77)
    with pytest.raises(UserError, match=r"its text_encoder max_position_embeddings is 24, but its tokenizer length 77"):
        StableDiffusion.load(str(folder))
    edit_json(config, model_max_length=24)
    (folder / "tokenizer" / "added_tokens.json").write_text(json.dumps({"<new>": 560}))
    with pytest.raises(UserError, match=r"the tokenizer has 561 tokens, the text_encoder 560"):
        StableDiffusion.load(str(folder))
    (folder / "tokenizer" / "added_tokens.json").unlink()
    edit_json(folder / "unet" / "config.json", sample_size=[8, 8])
    with pytest.raises(UserError, match=r"unet/config\.json: sample_size must be the side"):
        StableDiffusion.load(str(folder))


def test_incomplete_folders_are_refused(folder):
    file = folder / "scheduler" / "scheduler_config.json"
    file.write_text("{")
    with pytest.raises(UserError, match=r"scheduler_config\.json is damaged"):
        StableDiffusion.load(str(folder))
    file.unlink()
    with pytest.raises(UserError, match=r"scheduler_config\.json is missing: a model is a folder in diffusers' layout"):
        StableDiffusion.load(str(folder))
