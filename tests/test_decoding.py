"""Large batches are decoded part by part: the same pictures, in memory that does not grow with the batch."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dreamstyler_jax.stable_diffusion.ops.parts import by_parts
from dreamstyler_jax.stable_diffusion.tiny_autoencoder import AutoencoderTiny, AutoencoderTinyConfig
from dreamstyler_jax.stable_diffusion.weights import init_model


@pytest.mark.parametrize(("count", "at_once", "expected"), [(6, 8, 6), (6, 6, 6), (6, 4, 3), (8, 3, 2), (7, 4, 1)])
def test_parts_are_equal_and_as_large_as_allowed(count, at_once, expected):
    sizes = []

    def function(rows):
        sizes.append(len(rows))
        return rows[:, ::-1] + 1

    rows = np.random.default_rng(0).random((count, 3, 2), np.float32)
    np.testing.assert_array_equal(by_parts(function, jnp.asarray(rows), at_once), rows[:, ::-1] + 1)
    assert set(sizes) == {expected}


def test_parts_of_a_batch_are_decoded_to_the_same_pictures(tiny):
    latents = np.random.default_rng(0).standard_normal((4, *tiny.networks.latent_shape(16, 24)), np.float32)

    def decode(rows):
        return tiny.networks.decode_latents(tiny.params, rows)

    pictures = jax.jit(decode)(latents)
    assert pictures.shape == (4, 16, 24, 3)
    np.testing.assert_allclose(jax.jit(lambda rows: by_parts(decode, rows, 2))(latents), pictures, rtol=0, atol=1e-6)


def test_memory_does_not_grow_with_the_batch(tiny):
    config = AutoencoderTinyConfig()
    graphdef, params = init_model(AutoencoderTiny, config)
    networks = dataclasses.replace(tiny.networks, vae=graphdef, vae_config=config)

    def memory(count):
        latents = jax.ShapeDtypeStruct((count, *networks.latent_shape(1024, 1024)), jnp.float32)
        program = jax.jit(networks.decode_latents).lower({"vae": params}, latents).compile()
        return program.memory_analysis().temp_size_in_bytes

    assert memory(4) > 2 * memory(1), "four pictures of 64 channels at once"
    assert memory(16) < 1.25 * memory(4)
