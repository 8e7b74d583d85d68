"""Attention as each device computes it: the same numbers, in less memory or less time."""

import functools
import re
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dreamstyler_jax.runtime.flops import flops
from dreamstyler_jax.stable_diffusion.ops.attention import (
    attention,
    attention_by_parts,
    attention_kind,
    cudnn_attention,
    splash_attention,
    widest_cudnn_head,
)

CPU = types.SimpleNamespace(platform="cpu")
TPU = types.SimpleNamespace(platform="tpu", device_kind="TPU v5 lite")


@pytest.fixture(autouse=True)
def full_precision():
    """GPUs would round the factors of float32 products."""
    with jax.default_matmul_precision("highest"):
        yield


def gpu(capability):
    """A device with a compute capability, as JAX describes NVIDIA's GPUs."""
    return types.SimpleNamespace(platform="gpu", compute_capability=capability)


def sequences(dtype=jnp.float32, tokens=12, keys=7):
    """Query, key and value: [3, tokens or keys, 2 heads, 5]."""
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.standard_normal((3, n, 2, 5)), dtype) for n in (tokens, keys, keys)]


reference = jax.nn.dot_product_attention


def gradients(function):
    return jax.grad(lambda *sequences: jnp.sin(function(*sequences)).sum(), (0, 1, 2))


# One head at a time


@pytest.fixture(params=[2**20, 40, 5], ids=["whole heads", "parts", "single queries"])
def by_parts(request):
    """Attention by parts of at most so many logits."""
    return lambda *sequences: attention_by_parts(*sequences, max_logits=request.param)


def test_values_and_gradients_by_parts_are_jaxs(by_parts):
    np.testing.assert_allclose(by_parts(*sequences()), reference(*sequences()), atol=1e-6)
    slopes = (jax.jit(gradients(function))(*sequences()) for function in (by_parts, reference))
    for found, expected in zip(*slopes, strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_rows_of_guidance_can_be_mapped_over(by_parts):
    rows = [jnp.stack([x, x[::-1]]) for x in sequences()]
    np.testing.assert_allclose(jax.vmap(by_parts)(*rows), jax.vmap(reference)(*rows), atol=1e-6)


def test_bfloat16_stays_bfloat16_and_sums_in_float32(by_parts):
    found = by_parts(*sequences(jnp.bfloat16))
    assert found.dtype == jnp.bfloat16
    np.testing.assert_allclose(found.astype(jnp.float32), reference(*sequences()), atol=3e-2)


@pytest.mark.parametrize(("max_logits", "rows"), [(2**20, 12), (40, 4), (5, 1)])
def test_a_part_takes_as_many_queries_as_the_limit_allows(max_logits, rows):
    function = functools.partial(attention_by_parts, max_logits=max_logits)
    program = jax.jit(function).lower(*sequences(tokens=12, keys=7)).as_text()
    assert re.findall(r"stablehlo.exponential .*tensor<(\w+)>", program) == [f"{rows}x7xf32"]


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="it is made for a CPU")
def test_long_sequences_take_less_memory():
    """A training step would keep the logits of all heads of all pictures, and their softmax."""

    def temporary(function):
        lowered = jax.jit(gradients(function)).lower(*sequences(tokens=512, keys=512))
        return lowered.compile().memory_analysis().temp_size_in_bytes

    assert temporary(attention_by_parts) < temporary(reference) / 2


# The choice


def flat(arrays):
    """Heads side by side, as `attention` takes them."""
    return [x.reshape(*x.shape[:2], -1) for x in arrays]


@pytest.mark.parametrize("kind", [None, "xla", "parts"])
def test_attention_takes_and_gives_heads_side_by_side(kind):
    found = attention(*flat(sequences()), heads=2, kind=kind)
    np.testing.assert_allclose(found, *flat([reference(*sequences())]), atol=1e-6)


def test_causal_attention_does_not_see_later_positions():
    query, key, value = flat(sequences(keys=12))
    before = attention(query, key, value, 2, causal=True)
    after = attention(query, key.at[:, 8:].add(1), value.at[:, 8:].add(1), 2, causal=True)
    np.testing.assert_array_equal(before[:, :8], after[:, :8])
    assert np.abs(before[:, 8:] - after[:, 8:]).max() > 1e-2


@pytest.mark.parametrize(("capability", "widest"), [("9.0", 256), ("8.6", 128), ("7.5", 0), ("gfx942", 0), (None, 0)])
def test_the_widest_head_of_cudnn_depends_on_the_gpu(capability, widest):
    assert widest_cudnn_head(gpu(capability) if capability else CPU) == widest


@pytest.mark.parametrize(
    ("dtype", "tokens", "width", "kind"),
    [
        ("bfloat16", 64, 40, "cudnn"),
        ("float16", 64, 256, "cudnn"),
        ("float32", 64, 40, "xla"),
        ("bfloat16", 63, 40, "xla"),
        ("bfloat16", 64, 44, "xla"),
        ("bfloat16", 64, 512, "xla"),
    ],
)
def test_cudnn_gets_only_what_it_has_a_kernel_for(dtype, tokens, width, kind):
    assert attention_kind((1, tokens, 2, width), 77, dtype, gpu("9.0")) == kind
    assert attention_kind((1, tokens, 2, width), 77, dtype, gpu("7.5")) == "xla"


@pytest.mark.parametrize(("tokens", "keys", "kind"), [(1024, 64, "parts"), (1023, 64, "xla"), (4096, 77, "parts")])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_cpu_takes_long_sequences_by_parts(dtype, tokens, keys, kind):
    assert attention_kind((1, tokens, 2, 40), keys, dtype, CPU) == kind


@pytest.mark.parametrize(
    ("tokens", "keys", "width", "kind"),
    [
        (4096, 4096, 40, "splash"),
        (16384, 16384, 512, "splash"),
        (16384, 16384, 640, "recomputed"),
        (256, 256, 40, "recomputed"),
        (16384, 77, 40, "recomputed"),
    ],
)
def test_a_tpu_takes_its_kernel_where_the_logits_are_many_and_the_sizes_suit_it(tokens, keys, width, kind):
    assert attention_kind((1, tokens, 2, width), keys, "bfloat16", TPU) == kind


@pytest.mark.parametrize("device", [CPU, TPU, gpu("9.0")])
def test_causal_attention_is_left_to_xla(device):
    assert attention_kind((1, 1024, 2, 64), 1024, "bfloat16", device, causal=True) == "xla"


def test_attention_chooses_for_the_device_that_computes():
    long = [jnp.zeros((1, 512, 16))] * 3
    chosen = attention_kind((1, 512, 2, 8), 512, "float32", jax.local_devices()[0])
    programs = {
        kind: jax.jit(lambda *x, kind=kind: attention(*x, heads=2, kind=kind)).lower(*long).as_text()
        for kind in (None, "xla", "parts")
    }
    assert programs[None] == programs[chosen] and programs["xla"] != programs["parts"]


# A TPU's kernel


@pytest.mark.parametrize(("tokens", "keys"), [(130, 135), (128, 256)])
def test_values_and_gradients_of_the_tpus_kernel_are_jaxs(tokens, keys):
    """In Pallas' interpreter, for rows of guidance; the first lengths are filled up, and the filling is masked."""
    query, key, value = sequences(tokens=tokens, keys=keys)
    arrays = query, jnp.stack([key, key[::-1]]), jnp.stack([value, value[::-1]])

    def of_rows(attend):
        def loss(*arrays):
            results = jax.vmap(attend, (None, 0, 0))(*arrays)
            return jnp.sin(results).sum(), results

        return jax.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True))(*arrays)

    (_, found), found_slopes = of_rows(functools.partial(splash_attention, interpret=True))
    (_, expected), slopes = of_rows(reference)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    for one, other in zip(found_slopes, slopes, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_the_operations_of_the_tpus_kernel_are_counted_with_what_is_filled_up():
    arrays = sequences(jnp.bfloat16, tokens=2048, keys=200)
    product = 2 * 3 * 2 * 2048 * 256 * 5  # of three pictures in two heads, with the keys filled up to 256
    assert flops(jax.make_jaxpr(splash_attention)(*arrays)) == 2 * product
    assert flops(jax.make_jaxpr(gradients(splash_attention))(*arrays)) == pytest.approx((2 + 5) * product, rel=2e-3)


# cuDNN


@pytest.fixture
def calls(monkeypatch):
    """Lets XLA compute what cuDNN is asked for; gives the implementation and the other options of each call."""
    computes, calls = jax.nn.dot_product_attention, []

    def instead(*sequences, implementation=None, **options):
        calls.append((implementation, sorted(options)))
        return computes(*sequences, **options)

    monkeypatch.setattr(jax.nn, "dot_product_attention", instead)
    return calls


def wide(keys, dtype=jnp.bfloat16):
    """In two heads of 8, [R, B, S, 2, 8]: rows of guidance that share their queries."""
    rng = np.random.default_rng(1)
    return [jnp.asarray(rng.standard_normal(shape), dtype) for shape in ((3, 12, 2, 8), (2, 3, keys, 2, 8))]


@pytest.mark.parametrize("keys", [8, 7])
def test_shared_queries_and_odd_numbers_of_keys_give_the_same_numbers(calls, keys):
    query, texts = wide(keys)

    def of_rows(attend):
        return lambda query, texts: jax.vmap(lambda text: attend(query, text, text))(texts)

    def slopes(attend):
        return jax.grad(lambda *arrays: jnp.sin(of_rows(attend)(*arrays).astype(jnp.float32)).sum(), (0, 1))

    @functools.partial(jax.jit, static_argnums=0)
    def computed(attend, *arrays):
        return of_rows(attend)(*arrays), *slopes(attend)(*arrays)

    pairs = zip(computed(cudnn_attention, query, texts), computed(reference, query, texts), strict=True)
    for one, other in pairs:
        np.testing.assert_allclose(one.astype(jnp.float32), other.astype(jnp.float32), atol=3e-2)
    lengths = ["key_value_seq_lengths", "query_seq_lengths"] if keys % 2 else []
    assert calls == [("cudnn", lengths)] * 2


@pytest.mark.parametrize("keys", [8, 7])
def test_cudnns_program_can_be_made_and_its_operations_are_counted(monkeypatch, keys):
    """The program is lowered for a GPU that this machine may lack, so JAX's questions about it are answered here."""
    known = "jax._src.cudnn.fused_attention_stablehlo"
    monkeypatch.setattr(f"{known}.check_cudnn_version", lambda: 91200)
    monkeypatch.setattr(f"{known}.check_compute_capability", lambda capability: True)

    def loss(query, texts):
        return jax.vmap(lambda text: cudnn_attention(query, text, text))(texts).astype(jnp.float32).sum()

    traced = jax.jit(jax.grad(loss, (0, 1))).trace(*wide(keys))
    program = traced.lower(lowering_platforms=("cuda",)).as_text()
    assert program.count("__cudnn$fmhaSoftmaxBackward") == 1 and "__cudnn$fmhaSoftmax(" in program
    assert flops(traced.jaxpr) == 6 * 2 * (2 * 3 * 12 * 16) * 8  # forward two products, back four
