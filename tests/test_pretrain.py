"""The pretraining of the embedded model, with networks so small that it takes seconds."""

import dataclasses
import itertools
import math
import os
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from script_tools import contents

from dreamstyler_jax.commands.config_files import read_values
from dreamstyler_jax.encoding import encode
from dreamstyler_jax.evaluation.clip import Clip
from dreamstyler_jax.mini.judge import JudgeConfig, LoadedJudge
from dreamstyler_jax.mini.training import trainer
from dreamstyler_jax.mini.training.pretrain import PARTS, PretrainConfig, plan_for, pretrain, run
from dreamstyler_jax.mini.training.sizes import SIZES, Sizes
from dreamstyler_jax.mini.training.trainer import Plan, fit
from dreamstyler_jax.mini.world import data
from dreamstyler_jax.runtime.errors import UserError
from dreamstyler_jax.runtime.interruption import listening
from dreamstyler_jax.stable_diffusion.clip import CLIPConfig, CLIPModel
from dreamstyler_jax.stable_diffusion.pipeline import StableDiffusion
from dreamstyler_jax.stable_diffusion.weights import load_model


def tiny_clip(config: CLIPConfig) -> CLIPConfig:
    """CLIP of one narrow layer."""
    sizes = dict(hidden_size=16, intermediate_size=16, projection_dim=16, num_hidden_layers=1, num_attention_heads=2)
    text, vision = (dataclasses.replace(part, **sizes) for part in (config.text_config, config.vision_config))
    return dataclasses.replace(config, text_config=text, vision_config=vision, projection_dim=16)


TINY = Sizes(
    autoencoder=dataclasses.replace(SIZES.autoencoder, block_out_channels=(4, 4, 4, 4), norm_num_groups=2),
    clip=tiny_clip(SIZES.clip),
    judge=JudgeConfig(widths=(8, 8)),
    unet=dataclasses.replace(
        SIZES.unet,
        down_block_types=SIZES.unet.down_block_types[-1:],
        up_block_types=SIZES.unet.up_block_types[:1],
        block_out_channels=(8,),
        norm_num_groups=2,
        attention_head_dim=2,
        cross_attention_dim=16,
        addition_embed_type_num_heads=2,
    ),
    pictures_per_file=4,
    steps_per_call=1,
)


def noise(seed: int, chunk: int, size: int) -> data.Pictures:
    """A chunk of the training set with noise in place of paint."""

    def paint(painters, keys, scene):
        return jax.vmap(lambda key: jax.random.uniform(key, (data.SIZE, data.SIZE, 3)))(keys)

    return data.render_chunk(seed, chunk, size, paint)


def never(*_):
    raise AssertionError("the chunk is already rendered")


def tiny_config(folder: Path) -> PretrainConfig:
    short = {f"{part}_{number}": 2 for part in PARTS for number in ("steps", "batch_size")}
    return PretrainConfig(output=str(folder), pictures=6, vocabulary=600, save_every=1, **short)


def written_files(folder: Path) -> dict[Path, int]:
    """When each file below the folder was last written, apart from the weights, which every call writes again."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    again = {"model", "weights"}
    return {path: path.stat().st_mtime_ns for path in files if not again & set(path.relative_to(folder).parts)}


def test_all_parts_make_a_model_and_a_second_call_trains_nothing_again(tmp_path, capsys):
    pretrain(tiny_config(tmp_path), TINY, noise)
    written, model_files = written_files(tmp_path), contents(tmp_path / "model")
    folders = {*PARTS, "pictures", "tokenizer", "captions", "latents"}
    assert {path.relative_to(tmp_path).parts[0] for path in written} == folders
    assert sorted(path.name for path in (tmp_path / "pictures").iterdir()) == [f"pictures_000{i}.npz" for i in (0, 1)]
    model = StableDiffusion.load(str(tmp_path / "model"))
    assert np.isfinite(encode(model, ["a red house in the style of dots"], {}).states).all()
    assert 0 < model.networks.vae_config.scaling_factor < 1e4
    _, clip = load_model(CLIPModel, tmp_path / "model" / "clip")
    assert clip.keys() >= {"text_model", "vision_model", "logit_scale"}
    pixels = np.zeros((1, data.SIZE, data.SIZE, 3), np.float32)
    assert Clip.load(tmp_path / "model" / "clip").picture_features(pixels).shape == (1, 16)
    assert LoadedJudge.load(tmp_path / "model" / "judge").verdict(pixels).painter.shape == (1, 241)
    assert len(model.with_controlnets([str(tmp_path / "model" / "controlnet")]).networks.controlnets) == 1
    jax.tree.map(np.testing.assert_array_equal, clip["text_model"], model.params["text_encoder"]["text_model"])

    capsys.readouterr()
    pretrain(tiny_config(tmp_path), TINY, never)
    said = capsys.readouterr().out.splitlines()
    assert said == [f"{p}: taken from {tmp_path / p / 'weights'}; remove this folder to train it again" for p in PARTS]
    assert contents(tmp_path / "model") == model_files
    assert written_files(tmp_path) == written

    other = tmp_path / "other machine"  # which gets the weights alone, and makes pictures and latents again
    shutil.copytree(tmp_path / "tokenizer", other / "tokenizer")
    for part in PARTS:
        shutil.copytree(tmp_path / part / "weights", other / part / "weights")
    pretrain(tiny_config(other), TINY, noise)
    assert contents(other / "model") == model_files
    assert not list(other.rglob("checkpoints"))


def test_an_interrupted_part_continues_identically(tmp_path):
    def loss(params, target, key):
        return ((params["weights"] - target + jax.random.normal(key, (4,)) / 10) ** 2).sum()

    def train(name, after_save=lambda step: None):
        plan = Plan(tmp_path / name, steps=30, batch_size=1, learning_rate=0.1, save_every=6, steps_per_call=3)
        return fit(plan, loss, {"weights": jnp.zeros(4)}, jnp.arange(4.0), after_save)["weights"]

    saved = []

    def stop_twice(step):
        saved.append(step)
        if len(saved) < 3:
            raise KeyboardInterrupt

    whole = train("whole")
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            train("pieces", stop_twice)
    np.testing.assert_array_equal(train("pieces", stop_twice), whole)
    assert saved == [6, 12, 18, 24, 30]
    assert np.abs(whole - np.arange(4)).max() < 3, "the weights approach the target"

    saved.clear()
    with listening(lambda: None):
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            train("told to stop", saved.append)
    np.testing.assert_array_equal(train("told to stop", saved.append), whole)
    assert saved == [3, 6, 12, 18, 24, 30], "the steps that were running are saved"


def test_where_time_is_short_the_weights_are_those_of_a_plan_with_fewer_steps(tmp_path, monkeypatch):
    def loss(params, target, key):
        return ((params["weights"] - target + jax.random.normal(key, (4,)) / 10) ** 2).sum()

    def train(name, **settings):
        plan = Plan(tmp_path / name, batch_size=1, learning_rate=0.1, steps_per_call=1, **settings)
        weights = fit(plan, loss, {"weights": jnp.zeros(4)}, jnp.arange(4.0), saved.append)["weights"]
        return weights, saved.pop()

    saved = []
    seconds = itertools.accumulate([1] * 27 + [3] * 1000)  # of each step; more when the learning rate has begun to fall
    monkeypatch.setattr(trainer, "time", SimpleNamespace(monotonic=lambda: next(seconds)))
    short, taken = train("short", steps=900, until=40)
    assert 39 <= taken <= 41
    whole, _ = train("whole", steps=taken)
    np.testing.assert_array_equal(short, whole)


def test_each_part_has_its_share_of_the_time():
    shares = list(PARTS.values())
    assert shares == sorted(shares) and shares[0] > 0 and shares[-1] < 1
    config = PretrainConfig(minutes=12)
    assert [plan_for(part, config, start=100.0).until for part in PARTS] == [100 + 720 * share for share in shares]
    assert plan_for("unet", PretrainConfig()).until == math.inf


def test_checkpoints_are_saved_at_the_first_call_that_reaches_their_step(tmp_path):
    saved = []
    plan = Plan(tmp_path, steps=10, batch_size=1, learning_rate=0.1, save_every=4, steps_per_call=3)
    fit(plan, lambda params, data, key: (params["weight"] ** 2).sum(), {"weight": jnp.ones(1)}, (), saved.append)
    assert saved == [6, 9, 12]


def test_the_file_for_a_gpu_repeats_no_default():
    values, defaults = read_values(PretrainConfig, "pretrain/gpu"), PretrainConfig()
    assert values["dtype"] == "bfloat16"
    assert not [name for name, value in values.items() if value == getattr(defaults, name)]
    PretrainConfig(**values)


@pytest.mark.parametrize("wrong", [{"pictures": 0}, {"vocabulary": 513}, {"vocabulary": 2**15 + 1}, {"unet_steps": 0}])
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(UserError, match=f"^{next(iter(wrong))}: must be from"):
        PretrainConfig(**wrong)


def test_bfloat16_is_for_accelerators(tmp_path):
    with pytest.raises(UserError, match=r"^dtype: .* --dtype float32"):
        run(PretrainConfig(output=str(tmp_path / "work"), dtype="bfloat16"))
