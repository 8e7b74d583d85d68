"""Scaled dot-product attention: cuDNN's on an NVIDIA GPU, one head at a time on a CPU, XLA's otherwise."""

import functools
import re

import jax
import jax.numpy as jnp
from jax import Array

MANY_LOGITS, MOST_LOGITS = 2**16, 2**20  # of one head: what is worth a loop on a CPU, and what fits into its cache


def attention(query: Array, key: Array, value: Array, heads: int, *, causal: bool = False) -> Array:
    """Scaled dot-product attention in ``heads`` heads, softmax in float32.

    Args:
        query: ``[B, T, C]``; key, value: ``[B, S, C]``; ``heads`` divides C.
        causal: position t sees positions <= t only.

    Returns:
        ``[B, T, C]`` in the inputs' dtype.
    """
    query, key, value = (x.reshape(*x.shape[:2], heads, -1) for x in (query, key, value))
    if not causal and _cudnn_has(query):
        result = _by_cudnn(query, key, value)
    elif not causal and jax.default_backend() == "cpu" and query.shape[1] * key.shape[1] >= MANY_LOGITS:
        result = _by_parts(query, key, value)
    else:
        result = jax.nn.dot_product_attention(query, key, value, is_causal=causal)
    return result.reshape(*query.shape[:2], -1)


def _cudnn_has(query: Array) -> bool:
    """Whether cuDNN's flash attention computes it, and its gradient, on this machine."""
    tokens, width = query.shape[1], query.shape[3]
    half = query.dtype in (jnp.bfloat16, jnp.float16)
    return half and tokens % 2 == 0 and width % 8 == 0 and width <= _widest_head()


@functools.cache
def _widest_head() -> int:
    """Of the heads that cuDNN takes, which depends on the GPU; 0 where it is none of NVIDIA's, or too old."""
    version = re.fullmatch(r"(\d+)\.\d+", getattr(jax.local_devices()[0], "compute_capability", ""))
    generation = int(version[1]) if version else 0
    return 256 if generation >= 9 else 128 if generation == 8 else 0


def _by_cudnn(query: Array, key: Array, value: Array) -> Array:
    """Flash attention (Dao 2023). For its gradient JAX wants even lengths: an odd number of keys gets one, unheeded."""
    count, counts = key.shape[1], {}
    if count % 2:
        key, value = (jnp.pad(x, ((0, 0), (0, 1), (0, 0), (0, 0))) for x in (key, value))
        counts = {"query_seq_lengths": query.shape[1], "key_value_seq_lengths": count}
    lengths = [jnp.full(len(key), length, jnp.int32) for length in counts.values()]
    query, key, value, *lengths = _batched_alike(query, key, value, *lengths)
    lengths = dict(zip(counts, lengths, strict=True))
    return jax.nn.dot_product_attention(query, key, value, implementation="cudnn", **lengths)


def _batched_alike(*arrays: Array) -> list[Array]:
    """The same arrays; under ``jax.vmap`` all of them with a batch axis where any has one.

    JAX's batching rule for cuDNN wants it so, but rows of guidance share their first queries. The choice is constant,
    and the compiler leaves it out.
    """
    other = sum(x.ravel()[0] for x in arrays)
    return [jnp.where(True, x, other.astype(x.dtype)) for x in arrays]


def _by_parts(query: Array, key: Array, value: Array) -> Array:
    """As ``jax.nn.dot_product_attention``, for a CPU: one head at a time, so that its logits stay in the cache.

    Of long sequences it takes a part of the queries. Gradients compute the logits again (Rabe & Staats 2021). Chosen
    while tracing: the gradient of ``lax.platform_dependent`` would keep what every platform's way needs.
    """
    batch, tokens, heads, width = query.shape
    query, key, value = (x.swapaxes(1, 2).reshape(batch * heads, -1, width) for x in (query, key, value))
    parts = next(n for n in range(-(-tokens * key.shape[1] // MOST_LOGITS), tokens + 1) if tokens % n == 0)
    query = query.reshape(batch * heads, parts, -1, width)

    @functools.partial(jax.checkpoint, prevent_cse=False)
    def attend(query: Array, key: Array, value: Array) -> Array:
        logits = jnp.matmul(query, key.T, preferred_element_type=jnp.float32) * width**-0.5
        return jax.nn.softmax(logits).astype(value.dtype) @ value

    def one_head(head: tuple[Array, Array, Array]) -> Array:
        query, key, value = head
        return jax.lax.map(lambda part: attend(part, key, value), query)

    result = jax.lax.map(one_head, (query, key, value))
    return result.reshape(batch, heads, tokens, width).swapaxes(1, 2)
