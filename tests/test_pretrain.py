"""The pretraining of the embedded model, at sizes at which it takes seconds."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from script_tools import contents

from dreamstyler_jax.evaluation import scores
from dreamstyler_jax.mini import judge
from dreamstyler_jax.mini.training import pretrain, trainer
from dreamstyler_jax.mini.world import data, painter
from dreamstyler_jax.prompts import encode
from dreamstyler_jax.runtime.checkpoints import Checkpoints
from dreamstyler_jax.stable_diffusion.clip import CLIPModel
from dreamstyler_jax.stable_diffusion.pipeline import StableDiffusion
from dreamstyler_jax.stable_diffusion.weights import load_model


@pytest.fixture
def small(monkeypatch):
    """Pictures of noise in place of paint, and the same networks with few channels, layers and levels."""
    small_clip, small_unet = pretrain.clip_config, pretrain.unet_config

    def noise(painters, keys, scene):
        return jax.vmap(lambda key: jax.random.uniform(key, (64, 64, 3)))(keys)

    def clip_config(tokenizer):
        config = small_clip(tokenizer)
        sizes = dict(hidden_size=16, intermediate_size=16, projection_dim=16)
        sizes |= dict(num_hidden_layers=1, num_attention_heads=2)
        text, vision = (dataclasses.replace(part, **sizes) for part in (config.text_config, config.vision_config))
        return dataclasses.replace(config, text_config=text, vision_config=vision, projection_dim=16)

    def unet_config():
        config = small_unet()
        levels = dict(down_block_types=config.down_block_types[:2], up_block_types=config.up_block_types[-2:])
        sizes = dict(block_out_channels=(8, 8), norm_num_groups=2, attention_head_dim=2, cross_attention_dim=16)
        return dataclasses.replace(config, **levels, **sizes, addition_embed_type_num_heads=2)

    channels = tuple(4 for _ in pretrain.VAE.block_out_channels)
    vae = dataclasses.replace(pretrain.VAE, block_out_channels=channels, norm_num_groups=2)
    monkeypatch.setattr(pretrain, "VAE", vae)
    monkeypatch.setattr(pretrain, "clip_config", clip_config)
    monkeypatch.setattr(pretrain, "unet_config", unet_config)
    monkeypatch.setattr(judge.JudgeConfig, "widths", (8, 8))
    monkeypatch.setattr(trainer, "CHUNK_STEPS", 1)
    monkeypatch.setattr(data, "CHUNK", 4)
    monkeypatch.setattr(painter, "pictures", noise)


PARTS = ("vae", "clip", "judge", "unet", "controlnet")


def config_for(folder) -> pretrain.PretrainConfig:
    small = {f"{part}_{number}": 2 for part in PARTS for number in ("steps", "batch_size")}
    return pretrain.PretrainConfig(output=str(folder), pictures=6, vocabulary=600, save_every=1, **small)


def test_all_parts_run_and_make_a_model_that_a_second_call_leaves_alone(small, monkeypatch, tmp_path):
    pretrain.pretrain(config_for(tmp_path))
    done = contents(tmp_path / "model")
    model = StableDiffusion.load(str(tmp_path / "model"))
    assert np.isfinite(encode(model, ["a red house in the style of dots"], {})).all()
    assert 0 < model.networks.vae_config.scaling_factor < 1e4
    _, clip = load_model(CLIPModel, tmp_path / "model" / "clip")
    assert clip.keys() >= {"text_model", "vision_model", "logit_scale"}
    pixels = np.zeros((1, 64, 64, 3), np.float32)
    assert scores.Clip.load(tmp_path / "model" / "clip").pictures(pixels).shape == (1, 16)
    assert judge.Referee.load(tmp_path / "model" / "judge").verdict(pixels).painter.shape == (1, 241)
    assert len(model.with_controlnets([str(tmp_path / "model" / "controlnet")]).networks.controlnets) == 1
    jax.tree.map(np.testing.assert_array_equal, clip["text_model"], model.params["text_encoder"]["text_model"])

    def never(*_):
        raise AssertionError("this was done before")

    for owner, work in ((data, "render_chunk"), (pretrain, "latent_moments"), (Checkpoints, "save")):
        monkeypatch.setattr(owner, work, never)
    pretrain.pretrain(config_for(tmp_path))
    assert contents(tmp_path / "model") == done


def test_an_interrupted_part_continues_identically(monkeypatch, tmp_path):
    monkeypatch.setattr(trainer, "CHUNK_STEPS", 3)

    def loss(params, arrays, key, step):
        noise = jax.random.normal(key, (4,)) / (1 + step)
        return ((params["weights"] - arrays + noise) ** 2).sum()

    def fit(name):
        start, options = {"weights": jnp.zeros(4)}, dict(steps=30, learning_rate=0.1, save_every=6)
        return trainer.fit(tmp_path / name, loss, start, jnp.arange(4.0), **options)["weights"]

    whole = fit("whole")
    saved = []

    def save_and_stop(checkpoints, step, state, save=Checkpoints.save):
        save(checkpoints, step, state)
        saved.append(step)
        if len(saved) < 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(Checkpoints, "save", save_and_stop)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            fit("pieces")
    np.testing.assert_array_equal(fit("pieces"), whole)
    assert saved == [6, 12, 18, 24, 30]
    assert np.abs(whole - np.arange(4)).max() < np.abs(np.arange(4)).max()  # and it has learned something
