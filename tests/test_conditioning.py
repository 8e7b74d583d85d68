"""A conditioning is one pytree, whatever transforms it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dreamstyler_jax.stable_diffusion.conditioning import Conditioning

PROMPTS, STAGES, TOKENS, WIDTH = 4, 3, 5, 2


def random_conditioning(*leading, seed=0):
    shape = (*leading, STAGES, TOKENS, WIDTH)
    return Conditioning(jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32))


def test_a_stage_is_taken_from_any_leading_axes():
    for leading in [(), (PROMPTS,), (2, PROMPTS)]:
        conditioning = random_conditioning(*leading)
        assert conditioning.stages == STAGES
        for stage in range(STAGES):
            at = conditioning.at(stage)
            assert isinstance(at, Conditioning)
            np.testing.assert_array_equal(at.states, conditioning.states[..., stage, :, :])


def test_a_stage_may_be_traced():
    conditioning = random_conditioning(PROMPTS)
    by_stage = jax.jit(Conditioning.at)
    scanned = jax.lax.scan(lambda _, stage: (None, conditioning.at(stage)), None, jnp.arange(STAGES))[1]
    for stage in range(STAGES):
        expected = conditioning.states[:, stage]
        np.testing.assert_array_equal(by_stage(conditioning, jnp.int32(stage)).states, expected)
        np.testing.assert_array_equal(scanned.states[stage], expected)


def test_every_prompt_may_have_its_stage():
    conditioning, stages = random_conditioning(PROMPTS), jnp.array([0, 2, 1, 2])
    at = jax.jit(jax.vmap(Conditioning.at))(conditioning, stages)
    np.testing.assert_array_equal(at.states, conditioning.states[jnp.arange(PROMPTS), stages])


@pytest.mark.parametrize("compile", [lambda function: function, jax.jit])
def test_prompts_are_taken_in_the_shape_of_their_indices(compile):
    conditioning = random_conditioning(PROMPTS)
    for indices in (np.array([2, 0, 2]), np.array([[0, 3], [1, 1]])):
        taken = compile(Conditioning.take)(conditioning, indices)
        assert isinstance(taken, Conditioning) and taken.stages == STAGES
        np.testing.assert_array_equal(taken.states, conditioning.states[indices])
    rows = jax.vmap(Conditioning.take, in_axes=(None, 0))(conditioning, jnp.array([[0, 3], [1, 1]]))
    np.testing.assert_array_equal(rows.states, conditioning.states[jnp.array([[0, 3], [1, 1]])])


@pytest.mark.parametrize("compile", [lambda function: function, jax.jit])
def test_parts_are_put_one_after_another(compile):
    parts = [random_conditioning(count, seed=count) for count in (1, 3, 2)]
    whole = compile(Conditioning.concatenate)(parts)
    assert isinstance(whole, Conditioning)
    np.testing.assert_array_equal(whole.states, np.concatenate([part.states for part in parts]))
    one = compile(Conditioning.concatenate)(parts[:1])
    np.testing.assert_array_equal(one.states, parts[0].states)


def test_it_is_a_pytree():
    conditioning = random_conditioning(PROMPTS)
    leaves, structure = jax.tree.flatten(conditioning)
    assert len(leaves) == 1
    assert isinstance(jax.tree.unflatten(structure, leaves), Conditioning)
    doubled = jax.jit(lambda given: jax.tree.map(lambda leaf: 2 * leaf, given))(conditioning)
    assert isinstance(doubled, Conditioning)
    np.testing.assert_array_equal(doubled.states, 2 * conditioning.states)
    gradient = jax.grad(lambda given: (given.at(1).states ** 2).sum())(conditioning)
    np.testing.assert_array_equal(gradient.states[:, 1], 2 * conditioning.states[:, 1])
    assert not gradient.states[:, [0, 2]].any()
