"""The UNet of this project beside maxdiffusion's, both compiled for a TPU that need not be here.

    git clone https://github.com/AI-Hypercomputer/maxdiffusion    # and install it, beside this project's extra tpu
    PYTHONPATH=maxdiffusion/src python -m benchmarks.peer_maxdiffusion --target v5e:2x2

Stable Diffusion 1.5 at 512 x 512 with shapes in place of weights: one pass, and one with the gradient of the text
states, which is what inversion needs. maxdiffusion runs with each of its attentions, "dot_product", its default, and
"flash". The figures are the compiler's estimates, see docs/tpu.md.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from dreamstyler_jax.commands import estimating
from dreamstyler_jax.commands.cli import parse, run_and_exit
from dreamstyler_jax.commands.workloads import SIZES, TOKENS, Workload
from dreamstyler_jax.runtime.devices import device, placed, programs_for
from dreamstyler_jax.runtime.errors import UserError
from dreamstyler_jax.runtime.settings import check_values, option
from dreamstyler_jax.runtime.topologies import described_chip
from dreamstyler_jax.stable_diffusion.conditioning import Conditioning

MEASURES = ("pass", "gradient")
CONFIG = SIZES["sd15"].unet
SIDE, CHANNELS, WIDTH = 64, CONFIG.in_channels, CONFIG.cross_attention_dim
Predict = Callable[[Any, jax.Array, jax.Array, jax.Array], jax.Array]


@dataclasses.dataclass(frozen=True)
class PeerConfig:
    """Compile both UNets for a TPU."""

    target: str = option("v5e:2x2", "The TPU's topology.")
    batch: int = option(8, "Pictures at once.", low=1, high=1024)
    dtype: str = option("bfloat16", "Precision of the computations.", choices=("bfloat16", "float32"))
    measure: list[str] = option(list(MEASURES), "A pass, or one with the gradient of the text.", choices=MEASURES)

    def __post_init__(self):
        check_values(self)


def run(config: PeerConfig) -> None:
    """Prints a line of the table for each program, as it is compiled."""
    tpu = described_chip(config.target)
    chip = estimating.chip_of(tpu)
    print(f"Stable Diffusion 1.5's UNet in {config.dtype}, {chip}.\n{estimating.NOTE}\n\n{estimating.HEAD}")
    for name, make in {"this project": ours, "maxdiffusion": theirs("dot_product"), "flash": theirs("flash")}.items():
        for measure in config.measure:
            with programs_for(tpu):
                result = estimating.estimate(workload(make, measure, config), chip)
            print(estimating.row(f"{name}, {measure}", config.batch, result, chip), flush=True)


def workload(make: Callable[[str], tuple[Predict, Any]], measure: str, config: PeerConfig) -> Workload:
    """A pass of a UNet with or without the gradient, of shapes."""
    predict, params = make(config.dtype)

    def loss(states: jax.Array, params: Any, latents: jax.Array, timesteps: jax.Array) -> jax.Array:
        return jnp.square(predict(params, latents, timesteps, states).astype(jnp.float32)).mean()

    def one_pass(states: jax.Array, params: Any, latents: jax.Array, timesteps: jax.Array) -> jax.Array:
        return predict(params, latents, timesteps, states)

    function = {"pass": one_pass, "gradient": jax.value_and_grad(loss)}[measure]
    shapes = [(config.batch, TOKENS, WIDTH), (config.batch, SIDE, SIDE, CHANNELS)]
    states, latents = (jax.ShapeDtypeStruct(shape, config.dtype) for shape in shapes)
    timesteps = jax.ShapeDtypeStruct((config.batch,), jnp.int32)
    inputs = jax.tree.map(lambda leaf: leaf.update(sharding=placed()), (states, params, latents, timesteps))
    return Workload(jax.jit(function), (), inputs, {}, config.batch, 1)


def ours(dtype: str) -> tuple[Predict, Any]:
    """This project's UNet and the shapes of its weights."""
    model = estimating.model_without_weights("sd15", dtype)

    def predict(params: Any, latents: jax.Array, timesteps: jax.Array, states: jax.Array) -> jax.Array:
        return model.networks.denoise(params, latents, timesteps, Conditioning(states))

    return predict, {"unet": model.params["unet"]}


def theirs(attention: str) -> Callable[[str], tuple[Predict, Any]]:
    """maxdiffusion's UNet, whose latents are [B, C, H, W], and the shapes of its weights.

    Raises:
        UserError: maxdiffusion is not installed.
    """

    def make(dtype: str) -> tuple[Predict, Any]:
        try:
            from maxdiffusion.models.unet_2d_condition_flax import (  # type: ignore[import-not-found]
                FlaxUNet2DConditionModel,
            )
        except ImportError as error:
            raise UserError(f"maxdiffusion is missing ({error}); this module's docstring says how to get it") from error
        mesh = jax.sharding.Mesh([[device()]], ("data", "fsdp"))
        unet = FlaxUNet2DConditionModel(
            sample_size=SIDE, cross_attention_dim=WIDTH, dtype=jnp.dtype(dtype), weights_dtype=jnp.dtype(dtype),
            split_head_dim=True, attention_kernel=attention, mesh=mesh,
        )  # fmt: skip
        boxed = unet.init_weights(jax.random.key(0), eval_only=True)
        params = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.dtype(dtype)), flax_unboxed(boxed))

        def predict(params: Any, latents: jax.Array, timesteps: jax.Array, states: jax.Array) -> jax.Array:
            channels_first = latents.transpose(0, 3, 1, 2)
            return unet.apply({"params": params}, channels_first, timesteps, states).sample.transpose(0, 2, 3, 1)

        return predict, params

    return make


def flax_unboxed(tree: Any) -> Any:
    """The shapes of weights without the names of their axes."""
    from flax import linen

    return linen.meta.unbox(tree)


if __name__ == "__main__":
    run_and_exit(lambda: run(parse(PeerConfig)))
