"""Attention as each device computes it: the same numbers, in less memory or less time."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dreamstyler_jax.runtime.flops import flops
from dreamstyler_jax.stable_diffusion.ops import attention as module

ON_CPU = jax.default_backend() == "cpu"


@pytest.fixture(params=[2**20, 40], ids=["whole heads", "parts"])
def always(monkeypatch, request):
    """As if every sequence were long; with parts of at most 40 logits, too."""
    if not ON_CPU:
        pytest.skip("only a CPU computes attention by parts")
    monkeypatch.setattr(module, "MANY_LOGITS", 1)
    monkeypatch.setattr(module, "MOST_LOGITS", request.param)


def sequences(dtype=jnp.float32, tokens=12, others=7):
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.standard_normal((3, n, 10)), dtype) for n in (tokens, others, others)]


def reference(query, key, value):
    split = lambda x: x.reshape(*x.shape[:2], 2, -1)  # noqa: E731
    return jax.nn.dot_product_attention(*map(split, (query, key, value))).reshape(query.shape)


def gradients(function):
    return jax.grad(lambda *sequences: jnp.sin(function(*sequences)).sum(), (0, 1, 2))


def ours(query, key, value):
    return module.attention(query, key, value, 2)


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
    before = module.attention(query, key, value, 2, causal=True)
    after = module.attention(query, key.at[:, 8:].add(1), value.at[:, 8:].add(1), 2, causal=True)
    np.testing.assert_array_equal(before[:, :8], after[:, :8])
    assert np.abs(before[:, 8:] - after[:, 8:]).max() > 1e-2


@pytest.mark.skipif(not ON_CPU, reason="only a CPU computes attention by parts")
def test_long_sequences_take_less_memory():
    """A training step would keep the logits of all heads of all pictures, and their softmax."""

    def temporary(function):
        lowered = jax.jit(gradients(function)).lower(*sequences(tokens=512, others=512))
        return lowered.compile().memory_analysis().temp_size_in_bytes

    assert temporary(ours) < temporary(reference) / 2


def on_a(monkeypatch, capability):
    """As if this machine had a GPU of such a compute capability, or none."""
    device = types.SimpleNamespace(**({"compute_capability": capability} if capability else {}))
    monkeypatch.setattr(jax, "local_devices", lambda: [device])
    monkeypatch.setattr(module, "_widest_head", module._widest_head.__wrapped__)


@pytest.mark.parametrize(("capability", "widest"), [("9.0", 256), ("8.6", 128), ("7.5", 0), ("gfx942", 0), (None, 0)])
def test_cudnn_takes_what_the_gpu_can(monkeypatch, capability, widest):
    on_a(monkeypatch, capability)
    assert module._widest_head() == widest


@pytest.mark.parametrize(
    ("dtype", "tokens", "width", "taken"),
    [("bfloat16", 64, 40, True), ("float16", 64, 256, True), ("float32", 64, 40, False), ("bfloat16", 63, 40, False),
     ("bfloat16", 64, 44, False), ("bfloat16", 64, 512, False)],
)  # fmt: skip
def test_cudnn_is_left_alone_with_what_it_has_no_kernel_for(monkeypatch, dtype, tokens, width, taken):
    on_a(monkeypatch, "9.0")
    assert module._cudnn_has(jnp.zeros((1, tokens, 2, width), dtype)) == taken


@pytest.fixture
def cudnn(monkeypatch):
    """As if there were cuDNN, but XLA computes; and the arguments of its calls."""
    computes, calls = jax.nn.dot_product_attention, []

    def instead(*sequences, implementation=None, **keywords):
        calls.append((implementation, sorted(keywords)))
        return computes(*sequences, **keywords)

    on_a(monkeypatch, "9.0")
    monkeypatch.setattr(jax.nn, "dot_product_attention", instead)
    return calls


def wide(others, dtype=jnp.bfloat16):
    """In two heads of 8, [R, B, S, C]: rows of guidance, of which the first queries are shared."""
    rng = np.random.default_rng(1)
    return [jnp.asarray(rng.standard_normal(shape), dtype) for shape in ((3, 12, 16), (2, 3, others, 16))]


@pytest.mark.parametrize("others", [8, 7])
def test_rows_that_share_their_queries_and_odd_numbers_of_keys_are_the_same_by_cudnn(cudnn, others):
    query, texts = wide(others)

    def of_rows(attend):
        return lambda query, texts: jax.vmap(lambda text: attend(query, text, text))(texts)

    def slopes(attend):
        return jax.grad(lambda *arrays: jnp.sin(of_rows(attend)(*arrays).astype(jnp.float32)).sum(), (0, 1))

    found, by_cudnn = [of_rows(ours)(query, texts), *slopes(ours)(query, texts)], list(cudnn)
    expected = [of_rows(reference)(query, texts), *slopes(reference)(query, texts)]
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one.astype(jnp.float32), other.astype(jnp.float32), atol=3e-2)
    lengths = ["key_value_seq_lengths", "query_seq_lengths"] if others % 2 else []
    assert by_cudnn == [("cudnn", lengths)] * 2


@pytest.mark.parametrize("others", [8, 7])
def test_cudnns_program_can_be_made_and_its_operations_are_counted(monkeypatch, others):
    """For another machine than this one, so what JAX asks of the GPU is answered here."""
    on_a(monkeypatch, "9.0")
    known = "jax._src.cudnn.fused_attention_stablehlo"
    monkeypatch.setattr(f"{known}.check_cudnn_version", lambda: 91200)
    monkeypatch.setattr(f"{known}.check_compute_capability", lambda capability: True)

    def loss(query, texts):
        return jax.vmap(lambda text: ours(query, text, text))(texts).astype(jnp.float32).sum()

    traced = jax.jit(jax.grad(loss, (0, 1))).trace(*wide(others))
    program = traced.lower(lowering_platforms=("cuda",)).as_text()
    assert program.count("__cudnn$fmhaSoftmaxBackward") == 1 and "__cudnn$fmhaSoftmax(" in program
    assert flops(traced.jaxpr) == 6 * 2 * (2 * 3 * 12 * 16) * 8  # forward two products, back four
