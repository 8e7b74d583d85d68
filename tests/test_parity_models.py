"""Our networks give the numbers of transformers and diffusers, from the files those libraries write; and back."""

import functools

import diffusers
import jax
import numpy as np
import pytest
import torch
import transformers
from flax import nnx
from parity_tools import loaded, randomised, relative_error, to_numpy, to_torch

from dreamstyler_jax.stable_diffusion.clip import CLIPModel, CLIPTextModel
from dreamstyler_jax.stable_diffusion.controlnet import ControlNetModel
from dreamstyler_jax.stable_diffusion.unet import UNet2DConditionModel
from dreamstyler_jax.stable_diffusion.vae import AutoencoderKL
from dreamstyler_jax.stable_diffusion.weights import load_model, save_model

TOLERANCE = 1e-5

TEXT = dict(
    vocab_size=100, hidden_size=48, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
    max_position_embeddings=12, bos_token_id=98, pad_token_id=99,
)  # fmt: skip
# The end token of "legacy" is wrong as in real files; that of the other is not the largest id.
TEXT_VARIANTS = {
    "legacy, quick_gelu": dict(hidden_act="quick_gelu", eos_token_id=2),
    "gelu": dict(hidden_act="gelu", eos_token_id=50),
}
VISION = dict(
    hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, image_size=24, patch_size=8
)
VAE = dict(
    block_out_channels=(16, 32), layers_per_block=1, norm_num_groups=8,
    down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
)  # fmt: skip
VAE_VARIANTS = {
    "as Stable Diffusion": dict(latent_channels=4),
    "no quant_conv, no attention": dict(
        latent_channels=8, use_quant_conv=False, use_post_quant_conv=False, mid_block_add_attention=False
    ),
}
UNET = dict(
    block_out_channels=(32, 48), layers_per_block=1, cross_attention_dim=24, norm_num_groups=8,
    down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
)  # fmt: skip
DISTILLED_XL = dict(
    attention_head_dim=[2, 4], use_linear_projection=True, mid_block_type="UNetMidBlock2D",
    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
)  # fmt: skip
UNET_VARIANTS = {
    "as 1.5": dict(attention_head_dim=4, layers_per_block=2),
    "as 2.1": dict(
        attention_head_dim=[2, 3, 6], use_linear_projection=True, upcast_attention=True,
        block_out_channels=(32, 48, 48),
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    ),
    "as embedded": dict(
        attention_head_dim=4, addition_embed_type="text", addition_embed_type_num_heads=3, in_channels=8, out_channels=8
    ),
    "as BK-SDM-tiny": dict(attention_head_dim=4, mid_block_type=None),
    "as SSD-1B": dict(
        layers_per_block=2, transformer_layers_per_block=[[1], [2, 1]],
        reverse_transformer_layers_per_block=[[1, 3, 2], 1], **DISTILLED_XL,
    ),
    "as Vega": dict(
        transformer_layers_per_block=[[1], [2]], reverse_transformer_layers_per_block=[[2, 2], 1], **DISTILLED_XL
    ),
    "nested depths, with a middle": dict(
        attention_head_dim=4, layers_per_block=2, transformer_layers_per_block=[[1, 2], [2]],
        reverse_transformer_layers_per_block=[1, [2, 1, 1]],
    ),
    "other layers per level": dict(
        attention_head_dim=4, layers_per_block=[1, 3, 2], block_out_channels=(32, 48, 48),
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    ),
    "other sinusoids, deeper": dict(
        attention_head_dim=2, transformer_layers_per_block=2, flip_sin_to_cos=False, freq_shift=1
    ),
}  # fmt: skip


@pytest.fixture(autouse=True)
def full_precision():
    with jax.default_matmul_precision("highest"), torch.no_grad():
        yield


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def text_reference(**settings):
    torch.manual_seed(0)
    return randomised(transformers.CLIPTextModel(transformers.CLIPTextConfig(**TEXT, **settings)))


def clip_reference():
    torch.manual_seed(1)
    text = {**TEXT, **TEXT_VARIANTS["gelu"]}
    config = transformers.CLIPConfig(text_config=text, vision_config=VISION, projection_dim=16)
    return randomised(transformers.CLIPModel(config))


def vae_reference(**settings):
    torch.manual_seed(2)
    return randomised(diffusers.AutoencoderKL(**VAE, **settings))


def unet_reference(**settings):
    torch.manual_seed(3)
    return randomised(diffusers.UNet2DConditionModel(**{**UNET, **settings}))


def controlnet_reference(**settings):
    torch.manual_seed(4)
    encoder = {key: value for key, value in (UNET | settings).items() if key not in ("up_block_types", "out_channels")}
    model = randomised(diffusers.ControlNetModel(**encoder))
    for name, parameter in model.named_parameters():  # layers that are initialised with zeros
        if "controlnet_down" in name or "controlnet_mid" in name or "embedding.conv_out" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    return model


def prompts(rng):
    """Three rows with one to eight end tokens (50), of which the first counts, and pad tokens (99) in one row."""
    ids = rng.integers(0, 45, (3, 12)).astype(np.int32)
    ids[0, 4:] = 50
    ids[1, 7], ids[1, 8:] = 50, 99
    ids[2, [9, 11]] = 50
    return ids


def unet_inputs(rng, channels):
    """A map that is not square and is halved to odd sizes, so that upsampling must cut it to the skip connections."""
    sample = rng.standard_normal((2, 13, 6, channels), np.float32)
    return sample, np.array([7, 981]), rng.standard_normal((2, 5, UNET["cross_attention_dim"]), np.float32)


def settings(config):
    """A reference model's configuration, without the entries on how and by which library it was saved."""
    config = config.to_dict() if hasattr(config, "to_dict") else config
    ignored = {"architectures", "dtype", "initializer_range", "initializer_factor", "transformers_version"}
    kept = {key: value for key, value in config.items() if key not in ignored and not str(key).startswith("_")}
    return {
        key: settings(value) if isinstance(value, dict) else list(value) if isinstance(value, tuple) else value
        for key, value in kept.items()
    }


@pytest.mark.parametrize("variant", TEXT_VARIANTS)
def test_text_encoder(variant, tmp_path, rng):
    reference = text_reference(**TEXT_VARIANTS[variant])
    ours = loaded(CLIPTextModel, reference, tmp_path)
    ids = prompts(rng)
    expected = reference(torch.from_numpy(ids))
    states, pooled, _ = jax.jit(CLIPTextModel.__call__)(ours, ids)
    assert relative_error(states, expected.last_hidden_state) < TOLERANCE
    assert relative_error(pooled, expected.pooler_output) < TOLERANCE


def test_spliced_vectors_act_like_new_rows_of_the_token_table(tmp_path, rng):
    reference = text_reference(**TEXT_VARIANTS["gelu"])
    ours = loaded(CLIPTextModel, reference, tmp_path)
    ids = prompts(rng)
    vector = rng.standard_normal(TEXT["hidden_size"], np.float32)
    token = ids[0, 2]
    reference.get_input_embeddings().weight[token] = torch.from_numpy(vector)
    embeddings = np.where((ids == token)[..., None], vector, ours.embed_tokens(ids))
    states = jax.jit(CLIPTextModel.encode)(ours, embeddings, ids).states
    assert relative_error(states, reference(torch.from_numpy(ids)).last_hidden_state) < TOLERANCE


def test_clip_features(tmp_path, rng):
    reference = clip_reference()
    ours = loaded(CLIPModel, reference, tmp_path)
    ids = prompts(rng)
    text = reference.get_text_features(torch.from_numpy(ids)).pooler_output
    assert relative_error(jax.jit(CLIPModel.get_text_features)(ours, ids), text) < TOLERANCE
    pixels = rng.standard_normal((2, 24, 24, 3), np.float32)
    image = reference.get_image_features(to_torch(pixels)).pooler_output
    assert relative_error(jax.jit(CLIPModel.get_image_features)(ours, pixels), image) < TOLERANCE


@pytest.mark.parametrize("variant", VAE_VARIANTS)
def test_autoencoder(variant, tmp_path, rng):
    reference = vae_reference(**VAE_VARIANTS[variant])
    ours = loaded(AutoencoderKL, reference, tmp_path)
    picture = rng.uniform(-1, 1, (2, 12, 20, 3)).astype(np.float32)
    latents = rng.standard_normal((2, 6, 10, ours.config.latent_channels), np.float32)
    posterior = reference.encode(to_torch(picture)).latent_dist
    mean, log_variance = jax.jit(AutoencoderKL.encode)(ours, picture)
    assert relative_error(mean, posterior.mean) < TOLERANCE
    assert relative_error(log_variance, posterior.logvar) < TOLERANCE
    decoded = jax.jit(AutoencoderKL.decode)(ours, latents)
    assert relative_error(decoded, reference.decode(to_torch(latents)).sample) < TOLERANCE


def test_log_variance_is_clamped(tmp_path, rng):
    reference = vae_reference()
    reference.quant_conv.bias[-4:] = torch.tensor([-90.0, 0.0, 0.0, 90.0])
    ours = loaded(AutoencoderKL, reference, tmp_path)
    picture = rng.uniform(-1, 1, (1, 8, 8, 3)).astype(np.float32)
    _, log_variance = jax.jit(AutoencoderKL.encode)(ours, picture)
    assert np.all(log_variance[..., 0] == -30)
    assert np.all(log_variance[..., 3] == 20)


@pytest.mark.parametrize("variant", UNET_VARIANTS)
def test_unet(variant, tmp_path, rng):
    reference = unet_reference(**UNET_VARIANTS[variant])
    ours = loaded(UNet2DConditionModel, reference, tmp_path)
    sample, timesteps, context = unet_inputs(rng, ours.config.in_channels)
    expected = reference(to_torch(sample), torch.from_numpy(timesteps), torch.from_numpy(context)).sample
    prediction = jax.jit(UNet2DConditionModel.__call__)(ours, sample, timesteps, context)
    assert relative_error(prediction, expected) < TOLERANCE


CONTROLNET_VARIANTS = {
    "as 1.5": UNET_VARIANTS["as 1.5"],
    "as 2.1": UNET_VARIANTS["as 2.1"],
    "as embedded": UNET_VARIANTS["as embedded"] | dict(
        conditioning_embedding_out_channels=(8, 16, 24), controlnet_conditioning_channel_order="bgr"
    ),
    "pooled": dict(attention_head_dim=4, global_pool_conditions=True),
    "number of heads given": dict(attention_head_dim=8, num_attention_heads=4),
}  # fmt: skip


@functools.partial(jax.jit, static_argnames="guess_mode")
def controlled(model, sample, timesteps, context, control, *more, **options):
    return model(sample, timesteps, context, model.hint(control), *more, **options)


@pytest.mark.parametrize("guess_mode", [False, True])
@pytest.mark.parametrize("variant", CONTROLNET_VARIANTS)
def test_controlnet(variant, guess_mode, tmp_path, rng):
    reference = controlnet_reference(**CONTROLNET_VARIANTS[variant])
    ours = loaded(ControlNetModel, reference, tmp_path)
    sample, timesteps, context = unet_inputs(rng, ours.config.in_channels)
    height, width = (side * ours.config.downsampling for side in sample.shape[1:3])
    control = rng.random((2, height, width, 3), np.float32)
    inputs = to_torch(sample), torch.from_numpy(timesteps), torch.from_numpy(context), to_torch(control)
    expected = reference(*inputs, conditioning_scale=0.7, guess_mode=guess_mode)
    *skips, middle = controlled(ours, sample, timesteps, context, control, 0.7, guess_mode=guess_mode)
    for residual, other in zip(skips, expected.down_block_res_samples, strict=True):
        assert relative_error(residual, other) < TOLERANCE
    assert relative_error(middle, expected.mid_block_res_sample) < TOLERANCE


def test_unet_with_the_residuals_of_a_controlnet(tmp_path, rng):
    shared = UNET_VARIANTS["as 1.5"]
    unet, control = unet_reference(**shared), controlnet_reference(**shared)
    ours, controlnet = (
        loaded(UNet2DConditionModel, unet, tmp_path / "u"),
        loaded(ControlNetModel, control, tmp_path / "c"),
    )
    sample, timesteps, context = unet_inputs(rng, 4)
    image = rng.random((2, 8 * 13, 8 * 6, 3), np.float32)
    inputs = to_torch(sample), torch.from_numpy(timesteps), torch.from_numpy(context)
    down, middle = control(*inputs, to_torch(image), return_dict=False)
    expected = unet(*inputs, down_block_additional_residuals=down, mid_block_additional_residual=middle).sample
    residuals = controlled(controlnet, sample, timesteps, context, image)
    prediction = jax.jit(UNet2DConditionModel.__call__)(ours, sample, timesteps, context, residuals)
    assert relative_error(prediction, expected) < TOLERANCE


def test_unet_gradient_in_the_text_states(tmp_path, rng):
    reference = unet_reference(**UNET_VARIANTS["as embedded"])
    ours = loaded(UNet2DConditionModel, reference, tmp_path)
    sample, _, context = unet_inputs(rng, ours.config.in_channels)
    weights = rng.standard_normal(sample.shape, np.float32)
    with torch.enable_grad():
        leaf = torch.from_numpy(context).requires_grad_()
        (reference(to_torch(sample), 500, leaf).sample * to_torch(weights)).sum().backward()
    gradient = jax.jit(jax.grad(lambda context, model: (model(sample, 500, context) * weights).sum()))(context, ours)
    assert relative_error(gradient, leaf.grad) < TOLERANCE


@pytest.mark.parametrize(
    ("cls", "make"),
    [
        (CLIPTextModel, lambda: text_reference(**TEXT_VARIANTS["gelu"])),
        (CLIPModel, clip_reference),
        (AutoencoderKL, vae_reference),
        (UNet2DConditionModel, lambda: unet_reference(**UNET_VARIANTS["as 2.1"])),
        (UNet2DConditionModel, lambda: unet_reference(**UNET_VARIANTS["as embedded"])),
        (UNet2DConditionModel, lambda: unet_reference(**UNET_VARIANTS["as SSD-1B"])),
        (ControlNetModel, lambda: controlnet_reference(**CONTROLNET_VARIANTS["as 2.1"])),
    ],
)
def test_what_we_save_is_what_the_reference_library_loads(cls, make, tmp_path):
    reference = make()
    reference.save_pretrained(tmp_path / "theirs")
    graphdef, params = load_model(cls, tmp_path / "theirs")
    save_model(tmp_path / "ours", nnx.merge(graphdef, params).config, params)
    back, report = type(reference).from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(report.values())
    expected = reference.state_dict()
    assert back.state_dict().keys() == expected.keys()
    for name, tensor in back.state_dict().items():
        assert torch.equal(tensor, expected[name]), name
    assert settings(back.config) == settings(reference.config)


def test_controlled_unet_in_bfloat16(tmp_path, rng):
    """The residuals have the parameters' dtype: float32 ones would not fit the UNet's attention."""
    shared = UNET_VARIANTS["as 1.5"]
    reference, control = unet_reference(**shared), controlnet_reference(**shared)
    ours = loaded(UNet2DConditionModel, reference, tmp_path / "u", dtype="bfloat16")
    controlnet = loaded(ControlNetModel, control, tmp_path / "c", dtype="bfloat16")
    sample, timesteps, context = unet_inputs(rng, 4)
    image = rng.random((2, 8 * 13, 8 * 6, 3), np.float32)
    inputs = to_torch(sample), torch.from_numpy(timesteps), torch.from_numpy(context)
    down, middle = control(*inputs, to_torch(image), conditioning_scale=0.5, return_dict=False)
    expected = reference(*inputs, down_block_additional_residuals=down, mid_block_additional_residual=middle).sample
    residuals = controlled(controlnet, sample, timesteps, context, image, np.full(2, 0.5, np.float32))
    assert {residual.dtype for residual in residuals} == {np.dtype("bfloat16")}
    result = jax.jit(UNet2DConditionModel.__call__)(ours, sample, timesteps, context, residuals)
    assert result.dtype == "bfloat16"
    assert relative_error(result.astype(np.float32), expected) < 0.03


def test_parameters_decide_the_dtype(tmp_path, rng):
    reference = unet_reference(**UNET_VARIANTS["as embedded"])
    ours = loaded(UNet2DConditionModel, reference, tmp_path, dtype="bfloat16")
    sample, timesteps, context = unet_inputs(rng, ours.config.in_channels)
    expected = to_numpy(reference(to_torch(sample), torch.from_numpy(timesteps), torch.from_numpy(context)).sample)
    result = jax.jit(UNet2DConditionModel.__call__)(ours, sample, timesteps, context)
    assert result.dtype == "bfloat16"
    assert np.linalg.norm(result.astype(np.float32) - expected) < 0.03 * np.linalg.norm(expected)
