"""The decoder-only transformer: RMSNorm, rotary positions, grouped-query attention, SwiGLU, untied head.

The block is that of Llama (Touvron et al. 2023). RMSNorm: Zhang and Sennrich 2019. Rotary position
embedding: Su et al., "RoFormer", 2021, in the half-split layout of GPT-NeoX. SwiGLU: Shazeer, "GLU Variants
Improve Transformer", 2020. Linear weights are ``[in, out]``, drawn from N(0, 1/in) so that activations keep
their scale.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from prismtop.demo.attention import FloatArray, IntArray, PagedKVCache, SequenceSpan, paged_attention
from prismtop.demo.config import ModelConfig


@dataclass(frozen=True)
class LayerWeights:
    """Weights of one block. ``qkv`` and ``gate_up`` are fused, in the order of their names."""

    attention_norm: FloatArray
    qkv: FloatArray
    attention_out: FloatArray
    mlp_norm: FloatArray
    gate_up: FloatArray
    down: FloatArray


@dataclass(frozen=True)
class ModelWeights:
    """All weights. ``embedding`` is ``[vocab, hidden]``, ``lm_head`` is ``[hidden, vocab]``."""

    embedding: FloatArray
    layers: list[LayerWeights]
    final_norm: FloatArray
    lm_head: FloatArray


def random_weights(config: ModelConfig) -> ModelWeights:
    """The weights that ``config.seed`` stands for."""
    rng = np.random.default_rng(config.seed)
    hidden, inner = config.hidden_size, config.intermediate_size

    def linear(rows: int, columns: int) -> FloatArray:
        return rng.standard_normal((rows, columns), dtype=np.float32) * np.float32(rows**-0.5)

    def norm() -> FloatArray:
        return rng.uniform(0.5, 1.5, hidden).astype(np.float32)

    kv_width = config.num_kv_heads * config.head_dim
    embedding = rng.standard_normal((config.vocab_size, hidden), dtype=np.float32)
    layers = [
        LayerWeights(
            attention_norm=norm(),
            qkv=linear(hidden, hidden + 2 * kv_width),
            attention_out=linear(hidden, hidden),
            mlp_norm=norm(),
            gate_up=linear(hidden, 2 * inner),
            down=linear(inner, hidden),
        )
        for _ in range(config.num_layers)
    ]
    return ModelWeights(embedding, layers, norm(), linear(hidden, config.vocab_size))


class Transformer:
    """Computes logits for a flattened batch of tokens, reading and writing a paged KV cache."""

    def __init__(self, config: ModelConfig) -> None:
        self.config = config
        self.weights = random_weights(config)
        inverse = config.rope_theta ** (-np.arange(0, config.head_dim, 2) / config.head_dim)
        angles = np.arange(config.max_model_len)[:, None] * inverse[None, :]
        self._cos: FloatArray = np.cos(angles).astype(np.float32)
        self._sin: FloatArray = np.sin(angles).astype(np.float32)

    def forward(
        self,
        token_ids: IntArray,
        positions: IntArray,
        slots: IntArray,
        spans: list[SequenceSpan],
        cache: PagedKVCache,
    ) -> FloatArray:
        """Hidden states ``[tokens, hidden]`` after the last block; also caches keys and values."""
        config = self.config
        cos, sin = self._cos[positions][:, None, :], self._sin[positions][:, None, :]
        hidden: FloatArray = self.weights.embedding[token_ids]
        for index, layer in enumerate(self.weights.layers):
            normed = rms_norm(hidden, layer.attention_norm, config.rms_norm_eps)
            fused = (normed @ layer.qkv).reshape(len(token_ids), -1, config.head_dim)
            rotated = rotate(fused[:, : config.num_heads + config.num_kv_heads], cos, sin)
            cache.write(index, slots, rotated[:, config.num_heads :], fused[:, -config.num_kv_heads :])
            mixed = paged_attention(rotated[:, : config.num_heads], cache, index, spans, config.group_size)
            hidden += mixed @ layer.attention_out
            normed = rms_norm(hidden, layer.mlp_norm, config.rms_norm_eps)
            hidden += swiglu(normed @ layer.gate_up) @ layer.down
        return hidden

    def compute_logits(self, hidden: FloatArray) -> FloatArray:
        """Logits ``[rows, vocab]`` of hidden states ``[rows, hidden]``."""
        normed = rms_norm(hidden, self.weights.final_norm, self.config.rms_norm_eps)
        logits: FloatArray = normed @ self.weights.lm_head
        return logits


def rms_norm(x: FloatArray, weight: FloatArray, eps: float) -> FloatArray:
    """``x / sqrt(mean(x^2) + eps) * weight`` over the last axis."""
    mean_square = np.einsum("...i,...i->...", x, x)[..., None] / np.float32(x.shape[-1])
    normed: FloatArray = x * (np.float32(1.0) / np.sqrt(mean_square + np.float32(eps))) * weight
    return normed


def rotate(x: FloatArray, cos: FloatArray, sin: FloatArray) -> FloatArray:
    """Rotary positions of ``[tokens, heads, head_dim]``; ``cos``, ``sin``: ``[tokens, 1, head_dim / 2]``."""
    half = x.shape[-1] // 2
    first, second = x[..., :half], x[..., half:]
    out = np.empty(x.shape, dtype=np.float32)
    np.subtract(first * cos, second * sin, out=out[..., :half])
    np.add(second * cos, first * sin, out=out[..., half:])
    return out


def swiglu(gate_up: FloatArray) -> FloatArray:
    """``silu(gate) * up`` of a fused ``[tokens, 2 * intermediate]``."""
    half = gate_up.shape[-1] // 2
    gate = gate_up[:, :half]
    # The logistic function by way of tanh cannot overflow.
    activated: FloatArray = gate * (np.float32(0.5) * (np.float32(1.0) + np.tanh(np.float32(0.5) * gate)))
    activated *= gate_up[:, half:]
    return activated
