"""Keys and values in pages, and attention over them.

Paged KV cache: Kwon et al., PagedAttention, SOSP 2023. Grouped-query attention: Ainslie et al., "GQA:
Training Generalized Multi-Query Transformer Models from Multi-Head Checkpoints", EMNLP 2023.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from prismtop.demo.config import CacheConfig, ModelConfig

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class SequenceSpan:
    """One request's rows in the flattened batch.

    Rows ``start:end`` are its query tokens, the last of which is at position ``context_len - 1``;
    ``block_ids`` holds at least the blocks of its first ``context_len`` tokens.
    """

    start: int
    end: int
    context_len: int
    block_ids: IntArray


class PagedKVCache:
    """Keys and values of every layer, ``[kv_heads, num_blocks, block_size, head_dim]`` each, float32."""

    def __init__(self, model: ModelConfig, cache: CacheConfig) -> None:
        shape = (model.num_kv_heads, cache.num_blocks, cache.block_size, model.head_dim)
        # np.full touches every page now, so that no later step pays for a page fault.
        self.keys: list[FloatArray] = [np.full(shape, 0, dtype=np.float32) for _ in range(model.num_layers)]
        self.values: list[FloatArray] = [np.full(shape, 0, dtype=np.float32) for _ in range(model.num_layers)]
        self._flat_shape = (model.num_kv_heads, cache.num_blocks * cache.block_size, model.head_dim)

    def write(self, layer: int, slots: IntArray, keys: FloatArray, values: FloatArray) -> None:
        """Store ``[tokens, kv_heads, head_dim]`` each; a slot is block id * block size + offset."""
        self.keys[layer].reshape(self._flat_shape)[:, slots] = keys.transpose(1, 0, 2)
        self.values[layer].reshape(self._flat_shape)[:, slots] = values.transpose(1, 0, 2)

    def gather(self, layer: int, block_ids: IntArray, length: int) -> tuple[FloatArray, FloatArray]:
        """The first ``length`` keys and values of a block table, ``[kv_heads, length, head_dim]`` each."""
        heads, _, dim = self._flat_shape
        keys = self.keys[layer].take(block_ids, axis=1).reshape(heads, -1, dim)[:, :length]
        values = self.values[layer].take(block_ids, axis=1).reshape(heads, -1, dim)[:, :length]
        return keys, values


def paged_attention(
    queries: FloatArray, cache: PagedKVCache, layer: int, spans: list[SequenceSpan], group_size: int
) -> FloatArray:
    """Causal attention of each span's queries over its own cached context.

    ``queries`` is ``[tokens, heads, head_dim]``, already rotated; returns ``[tokens, heads * head_dim]``.
    """
    tokens, heads, dim = queries.shape
    out = np.empty((tokens, heads, dim), dtype=np.float32)
    for span in spans:
        keys, values = cache.gather(layer, span.block_ids, span.context_len)
        out[span.start : span.end] = _attend(queries[span.start : span.end], keys, values, group_size)
    return out.reshape(tokens, heads * dim)


def _attend(queries: FloatArray, keys: FloatArray, values: FloatArray, group_size: int) -> FloatArray:
    """``softmax(Q K^T / sqrt(d)) V``, Vaswani et al. 2017, section 3.2.1; the queries end the context."""
    num_queries, heads, dim = queries.shape
    kv_heads, context_len, _ = keys.shape
    grouped = queries.reshape(num_queries, kv_heads, group_size, dim).transpose(1, 2, 0, 3)
    grouped = grouped.reshape(kv_heads, group_size * num_queries, dim) * np.float32(dim**-0.5)
    scores: FloatArray = grouped @ keys.transpose(0, 2, 1)
    if num_queries > 1:
        positions = np.arange(context_len - num_queries, context_len)
        future = np.arange(context_len) > positions[:, None]
        by_query = scores.reshape(kv_heads, group_size, num_queries, context_len)
        by_query[:, :, future] = -np.inf
    scores -= scores.max(axis=-1, keepdims=True)
    np.exp(scores, out=scores)
    scores /= scores.sum(axis=-1, keepdims=True)
    mixed = (scores @ values).reshape(kv_heads, group_size, num_queries, dim)
    by_token: FloatArray = mixed.transpose(2, 0, 1, 3).reshape(num_queries, heads, dim)
    return by_token
