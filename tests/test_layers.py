"""Vectors for each cross-attention layer (P+): each reaches its layer alone, and equal ones are one for all."""

import dataclasses
import functools
import types
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dreamstyler_jax import inversion, training
from dreamstyler_jax.commands.config import TrainConfig
from dreamstyler_jax.commands.train import Run, summary
from dreamstyler_jax.commands.workloads import SIZES
from dreamstyler_jax.encoding import check_styles, encode, initial_tables, join_tables
from dreamstyler_jax.guidance import cfg
from dreamstyler_jax.painting import Request, paint_requests
from dreamstyler_jax.runtime.errors import UserError
from dreamstyler_jax.sampling import plan_steps
from dreamstyler_jax.solvers import solver_table
from dreamstyler_jax.stable_diffusion.clip import CLIPTextModel
from dreamstyler_jax.stable_diffusion.unet import UNet2DConditionConfig, UNet2DConditionModel
from dreamstyler_jax.stable_diffusion.weights import init_model
from dreamstyler_jax.style import Style
from dreamstyler_jax.style_files import FORMATS
from dreamstyler_jax.train_settings import TrainSettings

# The transformers of the tiny model in the order in which the forward pass meets them.
PLACES = (("down_blocks", 0, 0), ("mid_block", 0), ("up_blocks", 1, 0), ("up_blocks", 1, 1))
LAYERS = len(PLACES)
SETTINGS = TrainSettings(layers="each", stages=1, steps=3, batch_size=2, weight_decay=0.0)


def random_table(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def gogh(table):
    return {"gogh": Style("gogh", table)}


# Styles and their files


@given(st.integers(1, 4), st.integers(1, 5), st.integers(1, 3), st.sampled_from([("clip_l",), ("clip_l", "clip_g")]))
def test_a_style_with_layers_is_saved_and_loaded(tmp_path_factory, stages, layers, vectors, encoders):
    path = tmp_path_factory.mktemp("styles") / "gogh.safetensors"
    tables = {name: random_table(stages, layers, vectors, 4 + i) for i, name in enumerate(encoders)}
    saved = Style("gogh", tables)
    saved.save(path)
    loaded = Style.load(path)
    assert (loaded.stages, loaded.layers, loaded.vectors) == (stages, layers, vectors)
    assert (loaded.hash, loaded.widths) == (saved.hash, saved.widths)
    for name, table in tables.items():
        np.testing.assert_array_equal(loaded.tables[name].reshape(table.shape), table)
    one_less = {name: table[:, :1] for name, table in tables.items()}
    assert (Style("gogh", one_less).hash == saved.hash) == (layers == 1)


def test_one_layer_is_none():
    table = random_table(3, 2, 4)
    style = Style("gogh", table[:, None])
    np.testing.assert_array_equal(style.tables["clip_l"], table)
    assert (style.layers, style.hash, repr(style)) == (
        1,
        Style("gogh", table).hash,
        "Style('gogh', 3 stages x 2 vectors)",
    )
    assert repr(Style("gogh", random_table(3, 16, 2, 4))) == "Style('gogh', 3 stages x 16 layers x 2 vectors)"
    with pytest.raises(ValueError, match="one number of stages, layers and vectors"):
        Style("gogh", {"clip_l": random_table(1, 2, 1, 4), "clip_g": random_table(1, 3, 1, 4)})


@pytest.mark.parametrize("format", FORMATS)
def test_files_of_other_tools_have_no_room_for_layers(tmp_path, format):
    with pytest.raises(UserError, match=r"'gogh' has vectors for each cross-attention layer, .* --layers shared"):
        Style("gogh", random_table(1, 2, 1, 4)).export(tmp_path / "gogh.safetensors", format)
    assert not list(tmp_path.iterdir())


# Text states


@given(st.integers(1, 4), st.integers(1, 4), st.integers(2, 5), st.integers(1, 2))
def test_styles_without_layers_are_repeated_for_each(stages_a, stages_b, layers, vectors):
    a, b = random_table(stages_a, layers, 1, 4), random_table(stages_b, vectors, 4, seed=1)
    joined = join_tables({"a": Style("a", a), "b": Style("b", b)})["clip_l"]
    beginnings = {Fraction(stage, stages) for stages in (stages_a, stages_b) for stage in range(stages)}
    assert joined.shape == (len(beginnings), layers, 1 + vectors, 4)
    for layer in range(layers):
        styles = {"a": Style("a", a[:, layer]), "b": Style("b", b)}
        np.testing.assert_array_equal(joined[:, layer], join_tables(styles)["clip_l"])


def test_each_layer_has_the_states_of_its_vectors(tiny):
    table, prompts = random_table(2, LAYERS, 1, 16), ["a house by {}", "a house"]
    states = encode(tiny, prompts, gogh(table)).states
    assert isinstance(states, tuple) and len(states) == LAYERS
    for layer, of_layer in enumerate(states):
        alone = encode(tiny, prompts, gogh(table[:, layer])).states
        np.testing.assert_allclose(of_layer, alone, atol=2e-5)


def test_sdxl_has_layers_in_both_tables_and_pools_their_mean(sdxl):
    layers = sdxl.networks.unet_config.cross_attentions
    assert layers == 4, "transformers, of which one has two layers"
    tables = {name: random_table(2, layers, 1, width) for name, width in sdxl.networks.text_widths.items()}
    conditioning = encode(sdxl, ["a house by {}"], gogh(tables))
    alone = [encode(sdxl, ["a house by {}"], gogh({n: t[:, k] for n, t in tables.items()})) for k in range(layers)]
    for ours, one in zip(conditioning.states, alone, strict=True):
        np.testing.assert_allclose(ours, one.states, atol=2e-5)
    np.testing.assert_allclose(conditioning.pooled, np.mean([one.pooled for one in alone], 0), atol=2e-5)
    assert (initial_tables(sdxl, ["sea"] * 2, 1, layers)["clip_g"].shape) == tables["clip_g"].shape


# The denoiser


def test_the_layers_of_real_models():
    configs = {name: sizes.unet for name, sizes in SIZES.items()}
    assert {name: config.cross_attentions for name, config in configs.items()} == {"sd15": 16, "sd21": 16, "sdxl": 11}
    assert configs["sd15"].encoder_transformers == 7


def test_each_layer_reads_its_states_alone():
    """Where a transformer's attention to the text is cut off, its states have no influence, and only these."""
    config = UNet2DConditionConfig(
        sample_size=8, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4, attention_head_dim=2,
        cross_attention_dim=16, down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )  # fmt: skip
    graphdef, params = init_model(UNet2DConditionModel, config)
    assert config.cross_attentions == LAYERS
    states, x = tuple(jnp.asarray(random_table(LAYERS, 1, 5, 16))), random_table(1, 8, 8, 4)

    @jax.jit
    def influence(params):
        gradient = jax.grad(lambda states: (nnx.merge(graphdef, params)(x, 500, states) ** 2).sum())(states)
        return jnp.stack([jnp.abs(of_layer).max() for of_layer in gradient])

    def transformer(params, block, *path):
        blocks = params[block] if len(path) == 1 else params[block][path[0]]
        return blocks["attentions"][path[-1]]["transformer_blocks"][0]["attn2"]

    assert (influence(params) > 1e-6).all()
    for layer, place in enumerate(PLACES):
        cut = jax.tree.map(lambda leaf: leaf, params)
        transformer(cut, *place)["to_out"][0] = jax.tree.map(jnp.zeros_like, transformer(params, *place)["to_out"][0])
        assert ((influence(cut) == 0) == (np.arange(LAYERS) == layer)).all()


# Learning


@pytest.fixture(scope="module")
def lesson(tiny):
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8))
    return training.prepare(tiny, "gogh", {"a.png": picture}, ["a red house by {}"], SETTINGS)


def test_every_layer_learns(tiny, lesson):
    states = [inversion.start(lesson.style.tables, training.make_optimizer(SETTINGS))]
    (chunk,) = training.train(tiny, [lesson], SETTINGS, states, lambda done: done + 3)
    style = training.style_in(lesson.style, chunk.states[0])
    assert (style.layers, style.metadata["layers"]) == (LAYERS, "each")
    moved = style.tables["clip_l"] - lesson.style.tables["clip_l"]
    assert (np.abs(moved).max(-1) > 0.01).all()
    assert len(np.unique(moved[0, :, 0], axis=0)) == LAYERS


def test_a_run_says_for_how_many_layers_it_learns(lesson):
    config = TrainConfig(name="gogh", prompts=["a red house by {}"])
    says = summary(Run(config, None, lesson))
    assert says == "Learning the style 'gogh', for each of 4 cross-attention layers, from a.png: 'a red house by {}'"
    shared = lesson._replace(style=dataclasses.replace(lesson.style, tables=random_table(1, 1, 16)))
    assert summary(Run(config, None, shared)) == "Learning the style 'gogh' from a.png: 'a red house by {}'"


def without_weights(cls, config):
    """A network's graph definition and the shapes of its weights."""
    key = jax.random.key(0)
    rngs = types.SimpleNamespace(params=lambda: key)  # nnx.Rngs takes 10 s to trace
    graphdef, state = nnx.split(nnx.eval_shape(lambda: cls(config, rngs=rngs)))
    return graphdef, nnx.to_pure_dict(state)


def test_stable_diffusion_can_be_trained_in_all_its_layers(tiny):
    """Shapes alone: there are no weights."""
    text_encoder, text_weights = without_weights(CLIPTextModel, SIZES["sd15"].text_encoder)
    unet, unet_weights = without_weights(UNet2DConditionModel, SIZES["sd15"].unet)
    networks = dataclasses.replace(
        tiny.networks,
        text_encoder=text_encoder,
        text_config=SIZES["sd15"].text_encoder,
        unet=unet,
        unet_config=SIZES["sd15"].unet,
    )
    latents, ids = jax.ShapeDtypeStruct((2, 64, 64, 4), np.float32), jax.ShapeDtypeStruct((2, 77), np.int32)
    timesteps = jax.ShapeDtypeStruct((2,), np.int32)
    batch = inversion.Batch(latents, latents, timesteps, {"clip_l": inversion.Tokens(ids, ids)})
    tables = {"clip_l": jax.ShapeDtypeStruct((6, 16, 1, 768), np.float32)}
    params = {"text_encoder": text_weights, "unet": unet_weights}
    grads, _ = jax.eval_shape(functools.partial(inversion.gradient, networks), params, tables, batch)
    assert grads["clip_l"].shape == (6, 16, 1, 768)


# Painting


def test_equal_layers_paint_what_shared_vectors_paint_and_others_do_not(tiny):
    plan = plan_steps(solver_table("dpmpp_2m", tiny.networks.schedule, 3), cache_interval=2)
    request = Request(("", "a house by {gogh}", "", ""), cfg(3), 3)

    def painted(table):
        (picture,) = paint_requests(tiny, [request], gogh(table), plan, size=(16, 16), batch_size=1)
        return picture

    shared = random_table(2, 1, 16)
    each = np.repeat(shared[:, None], LAYERS, 1)
    expected = painted(shared)
    np.testing.assert_allclose(painted(each), expected, atol=2e-4)
    for layer in range(LAYERS):
        other = each.copy()
        other[:, layer] = random_table(16, seed=1)
        assert np.abs(painted(other) - expected).max() > 1e-3


def test_a_style_of_another_number_of_layers_is_refused(tiny):
    table = random_table(1, 3, 1, 16)
    with pytest.raises(
        UserError, match=r"'gogh' has vectors for each of 3 cross-attention layers.*4, 0 to 3: use .* sd"
    ):
        check_styles(tiny, {"gogh": Style("gogh", table, {"model": "sd"})})
    with pytest.raises(UserError, match=r"each of 3 .* 0 to 3: divide these$"):
        encode(tiny, ["a house by {}"], {"gogh": Style("gogh", table, {"mix": "a:layers 0-1,b:layer 2"})})
