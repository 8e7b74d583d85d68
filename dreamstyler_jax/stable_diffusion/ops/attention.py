"""Scaled dot-product attention: cuDNN's on an NVIDIA GPU, one head at a time on a CPU, a Pallas kernel on a TPU.

Where none of them pays, ``jax.nn.dot_product_attention``, which XLA compiles. The choice follows the device that the
program is for, which may be another than those that are here (`devices.programs_for`).
"""

import functools
import re
from typing import Any, cast

import jax
import jax.numpy as jnp
from jax import Array

from dreamstyler_jax.runtime.devices import device as target_device

# Of one head: how many logits make a loop worthwhile on a CPU, and how many fit into its cache.
MANY_LOGITS = 2**16
MAX_LOGITS = 2**20
# Of one head: how many logits make the Pallas kernel worthwhile on a TPU (docs/tpu.md), and how wide it may be.
MANY_TPU_LOGITS = 2**18
WIDEST_TPU_HEAD = 512
TPU_LANES = 128  # the kernel's blocks are multiples of them


def attention(
    query: Array, key: Array, value: Array, heads: int, *, causal: bool = False, kind: str | None = None
) -> Array:
    """Scaled dot-product attention in ``heads`` heads, softmax in float32.

    Args:
        query: ``[B, T, C]``.
        key: ``[B, S, C]``.
        value: ``[B, S, C]``.
        heads: divides C.
        causal: position t sees positions <= t only; only the kind ``"xla"`` can do this.
        kind: one of the results of :func:`attention_kind`, which chooses by default.

    Returns:
        ``[B, T, C]`` in the inputs' dtype.
    """
    query, key, value = (x.reshape(*x.shape[:2], heads, -1) for x in (query, key, value))
    kind = kind or attention_kind(query.shape, key.shape[1], query.dtype, target_device(), causal=causal)
    if kind == "cudnn":
        result = cudnn_attention(query, key, value)
    elif kind == "parts":
        result = attention_by_parts(query, key, value)
    elif kind == "splash":
        result = splash_attention(query, key, value)
    else:
        attend = functools.partial(jax.nn.dot_product_attention, is_causal=causal)
        result = (jax.checkpoint(attend) if kind == "recomputed" else attend)(query, key, value)
    return result.reshape(*query.shape[:2], -1)


def attention_kind(
    shape: tuple[int, ...], keys: int, dtype: jax.typing.DTypeLike, device: Any, *, causal: bool = False
) -> str:
    """Chooses how to compute attention.

    Args:
        shape: of the queries, ``[B, T, heads, width]``.
        keys: number of keys.
        dtype: of queries, keys and values.
        device: the device that computes; its platform and, for an NVIDIA GPU, its compute capability matter.
        causal: see :func:`attention`.

    Returns:
        ``"cudnn"`` for :func:`cudnn_attention`, ``"parts"`` for :func:`attention_by_parts`, ``"splash"`` for
        :func:`splash_attention`, ``"xla"`` for ``jax.nn.dot_product_attention``, ``"recomputed"`` for the same whose
        gradient computes the logits again.
    """
    _, tokens, _, width = shape
    if causal:
        return "xla"
    half = jnp.dtype(dtype) in (jnp.bfloat16, jnp.float16)
    if half and tokens % 2 == 0 and width % 8 == 0 and width <= widest_cudnn_head(device):
        return "cudnn"
    if device.platform == "cpu" and tokens * keys >= MANY_LOGITS:
        return "parts"
    if device.platform == "tpu":
        long = tokens * keys >= MANY_TPU_LOGITS and keys >= TPU_LANES
        return "splash" if long and width <= WIDEST_TPU_HEAD else "recomputed"
    return "xla"


def widest_cudnn_head(device: Any) -> int:
    """The widest head for which cuDNN has flash attention and its gradient on a device; 0 if it has none."""
    version = re.fullmatch(r"(\d+)\.\d+", getattr(device, "compute_capability", ""))
    generation = int(version[1]) if version else 0
    return 256 if generation >= 9 else 128 if generation == 8 else 0


def cudnn_attention(query: Array, key: Array, value: Array) -> Array:
    """Flash attention (Dao 2023) by cuDNN, for an NVIDIA GPU in half precision.

    JAX supports its gradient for even lengths only: an odd number of keys is padded with one masked key.

    Args:
        query: ``[B, T, heads, width]``, T even.
        key: ``[B, S, heads, width]``.
        value: ``[B, S, heads, width]``.

    Returns:
        ``[B, T, heads, width]``.
    """
    count = key.shape[1]
    if count % 2 == 0:
        query, key, value = _with_equal_batch_axes(query, key, value)
        return jax.nn.dot_product_attention(query, key, value, implementation="cudnn")
    key, value = (jnp.pad(x, ((0, 0), (0, 1), (0, 0), (0, 0))) for x in (key, value))
    query_lengths, key_lengths = (jnp.full(len(key), length, jnp.int32) for length in (query.shape[1], count))
    query, key, value, query_lengths, key_lengths = _with_equal_batch_axes(
        query, key, value, query_lengths, key_lengths
    )
    return jax.nn.dot_product_attention(
        query, key, value, query_seq_lengths=query_lengths, key_value_seq_lengths=key_lengths, implementation="cudnn"
    )


def attention_by_parts(query: Array, key: Array, value: Array, *, max_logits: int = MAX_LOGITS) -> Array:
    """Computes the logits of one head at a time, so that they stay in the cache of a CPU.

    For long sequences each step takes a part of the queries. Gradients compute the logits again (Rabe & Staats 2021).

    Args:
        query: ``[B, T, heads, width]``.
        key: ``[B, S, heads, width]``.
        value: ``[B, S, heads, width]``.
        max_logits: upper limit to the logits of a part, unless a single query has more.

    Returns:
        ``[B, T, heads, width]``.
    """
    batch, tokens, heads, width = query.shape
    query, key, value = (x.swapaxes(1, 2).reshape(batch * heads, -1, width) for x in (query, key, value))
    fewest = min(-(-tokens * key.shape[1] // max_logits), tokens)
    parts = next(n for n in range(fewest, tokens + 1) if tokens % n == 0)
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


def splash_attention(query: Array, key: Array, value: Array, *, interpret: bool = False) -> Array:
    """JAX's Pallas kernel for TPUs, which keeps blocks of logits in the chip; its gradient computes them again.

    It takes sequences of multiples of 128: they are filled up with zeros, and the filling among the keys is masked.
    It gets the positions along the registers' lanes, which heads of 40 channels would leave two thirds empty.

    Args:
        query: ``[B, T, heads, width]``.
        key: ``[B, S, heads, width]``.
        value: ``[B, S, heads, width]``.
        interpret: compute it without a TPU, operation by operation.

    Returns:
        ``[B, T, heads, width]``.
    """
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernels
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    _, tokens, heads, width = query.shape
    count = key.shape[1]
    query, key, value = (
        jnp.pad(x, ((0, 0), (0, -x.shape[1] % TPU_LANES), (0, 0), (0, 0))).swapaxes(1, 2)
        for x in (query * width**-0.5, key, value)
    )
    rows, columns = query.shape[2], key.shape[2]
    segments = None
    if columns > count:
        segments = kernels.SegmentIds(jnp.zeros(rows, jnp.int32), (jnp.arange(columns) >= count).astype(jnp.int32))
    # Wider rows, of several registers or of float32, leave room in the chip for fewer of them.
    room = -(-width // TPU_LANES) * query.dtype.itemsize // 2
    queries, keys, most_keys = _block(rows, 1024 // room), _block(columns, 1024 // room), _block(columns, 4096 // room)
    blocks = kernels.BlockSizes(
        block_q=queries, block_kv=keys, block_kv_compute=_block(keys, 512),
        # The gradient of the queries is a sum over blocks of keys, and each of its parts is written: few blocks.
        block_q_dkv=queries, block_kv_dkv=most_keys, block_kv_dkv_compute=_block(most_keys, 512),
        use_fused_bwd_kernel=True,
        q_layout=kernels.QKVLayout.SEQ_MINOR, k_layout=kernels.QKVLayout.SEQ_MINOR,
        v_layout=kernels.QKVLayout.SEQ_MINOR,
    )  # fmt: skip
    mask = masks.MultiHeadMask([masks.FullMask((rows, columns))] * heads)
    kernel = kernels.make_splash_mha(mask, block_sizes=blocks, head_shards=1, q_seq_shards=1, interpret=interpret)
    result = cast(Array, jax.vmap(kernel, in_axes=(0, 0, 0, None))(query, key, value, segments))
    return result.swapaxes(1, 2)[:, :tokens]


def _block(length: int, longest: int) -> int:
    """The largest multiple of `TPU_LANES` that divides a length and is at most ``longest``, which is at least one."""
    return max(size for size in range(TPU_LANES, longest + 1, TPU_LANES) if length % size == 0)


def _with_equal_batch_axes(*arrays: Array) -> list[Array]:
    """The same arrays; under ``jax.vmap`` all of them get a batch axis if any has one.

    JAX's batching rule for cuDNN needs this, but rows of guidance share their first queries. The condition is a
    constant, so the compiler removes the choice.
    """
    total = functools.reduce(jnp.add, [x.ravel()[0] for x in arrays])
    return [jnp.where(True, x, total.astype(x.dtype)) for x in arrays]
