"""Attention by parts, as it is computed on a CPU: the same numbers in less memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dreamstyler_jax.models import layers

pytestmark = pytest.mark.skipif(jax.default_backend() != "cpu", reason="other platforms have kernels of their own")


@pytest.fixture(params=[2**20, 40], ids=["whole heads", "parts"])
def always(monkeypatch, request):
    """As if every sequence were long; with parts of at most 40 logits, too."""
    monkeypatch.setattr(layers, "MANY_LOGITS", 1)
    monkeypatch.setattr(layers, "MOST_LOGITS", request.param)


def sequences(dtype=jnp.float32, tokens=12, others=7):
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.standard_normal((3, n, 10)), dtype) for n in (tokens, others, others)]


def reference(query, key, value):
    split = lambda x: x.reshape(*x.shape[:2], 2, -1)  # noqa: E731
    return jax.nn.dot_product_attention(*map(split, (query, key, value))).reshape(query.shape)


def gradients(function):
    return jax.grad(lambda *sequences: jnp.sin(function(*sequences)).sum(), (0, 1, 2))


def ours(query, key, value):
    return layers.attention(query, key, value, 2)


def test_values_and_gradients_are_jaxs(always):
    assert "while" in jax.jit(ours).lower(*sequences()).as_text()
    np.testing.assert_allclose(ours(*sequences()), reference(*sequences()), atol=1e-6)
    for found, expected in zip(gradients(ours)(*sequences()), gradients(reference)(*sequences()), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_rows_of_guidance_can_be_mapped_over(always):
    rows = [jnp.stack([x, x[::-1]]) for x in sequences()]
    np.testing.assert_allclose(jax.vmap(ours)(*rows), jax.vmap(reference)(*rows), atol=1e-6)


def test_bfloat16_stays_bfloat16_and_sums_in_float32(always):
    found = ours(*sequences(jnp.bfloat16))
    assert found.dtype == jnp.bfloat16
    np.testing.assert_allclose(found.astype(jnp.float32), reference(*sequences()), atol=3e-2)


def test_the_text_encoders_stays_causal(always):
    query, key, value = sequences(others=12)
    before = layers.attention(query, key, value, 2, causal=True)
    after = layers.attention(query, key.at[:, 8:].add(1), value.at[:, 8:].add(1), 2, causal=True)
    np.testing.assert_array_equal(before[:, :8], after[:, :8])
    assert np.abs(before[:, 8:] - after[:, 8:]).max() > 1e-2


def test_long_sequences_take_less_memory():
    """A training step would keep the logits of all heads of all pictures, and their softmax."""

    def temporary(function):
        lowered = jax.jit(gradients(function)).lower(*sequences(tokens=512, others=512))
        return lowered.compile().memory_analysis().temp_size_in_bytes

    assert temporary(ours) < temporary(reference) / 2
