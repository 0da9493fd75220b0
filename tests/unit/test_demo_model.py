"""The model's numbers: paged, chunked computation against plain attention over the whole sequence."""

from __future__ import annotations

import numpy as np
import pytest

from prismtop.demo.attention import PagedKVCache, SequenceSpan
from prismtop.demo.config import CacheConfig, EngineConfig, ModelConfig
from prismtop.demo.model import Transformer
from prismtop.demo.sampler import Sampler

CACHE = CacheConfig(block_size=16, num_blocks=24)


def small_model(**changes: int) -> ModelConfig:
    sizes = {"num_layers": 3, "hidden_size": 64, "num_heads": 4, "num_kv_heads": 2, "intermediate_size": 96}
    return ModelConfig(vocab_size=257, max_model_len=256, **{**sizes, **changes})


def random_tokens(length: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 257, length)


def reference_logits(model: Transformer, token_ids: np.ndarray) -> np.ndarray:
    """All logits in float64, head by head, with no cache: written without the code under test."""
    config, weights = model.config, model.weights
    length, dim = len(token_ids), config.head_dim

    def norm(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
        return x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + config.rms_norm_eps) * weight

    def rope(x: np.ndarray) -> np.ndarray:
        frequencies = config.rope_theta ** (-2.0 * np.arange(dim // 2) / dim)
        turned = (x[:, : dim // 2] + 1j * x[:, dim // 2 :]) * np.exp(
            1j * np.outer(np.arange(length), frequencies)
        )
        return np.concatenate([turned.real, turned.imag], axis=1)

    hidden = weights.embedding[token_ids].astype(np.float64)
    for layer in weights.layers:
        columns = np.split(
            norm(hidden, layer.attention_norm) @ layer.qkv.astype(np.float64),
            layer.qkv.shape[1] // dim,
            axis=1,
        )
        queries, rest = columns[: config.num_heads], columns[config.num_heads :]
        keys, values = rest[: config.num_kv_heads], rest[config.num_kv_heads :]
        mixed = []
        for head, query in enumerate(queries):
            shared = head // config.group_size
            scores = rope(query) @ rope(keys[shared]).T / np.sqrt(dim)
            scores[np.triu_indices(length, 1)] = -np.inf
            shares = np.exp(scores - scores.max(axis=1, keepdims=True))
            mixed.append(shares / shares.sum(axis=1, keepdims=True) @ values[shared])
        hidden = hidden + np.concatenate(mixed, axis=1) @ layer.attention_out
        gate, up = np.split(norm(hidden, layer.mlp_norm) @ layer.gate_up.astype(np.float64), 2, axis=1)
        hidden = hidden + (gate / (1.0 + np.exp(-gate)) * up) @ layer.down
    return norm(hidden, weights.final_norm) @ weights.lm_head


def paged_logits(
    model: Transformer, token_ids: np.ndarray, chunks: list[int], block_ids: list[int]
) -> np.ndarray:
    """All logits through the paged cache, ``chunks`` tokens at a time."""
    assert sum(chunks) == len(token_ids)
    cache, table = PagedKVCache(model.config, CACHE), np.array(block_ids)
    rows, first = [], 0
    for size in chunks:
        positions = np.arange(first, first + size)
        slots = table[positions // CACHE.block_size] * CACHE.block_size + positions % CACHE.block_size
        span = SequenceSpan(0, size, first + size, table)
        rows.append(
            model.compute_logits(model.forward(token_ids[positions], positions, slots, [span], cache))
        )
        first += size
    return np.concatenate(rows)


@pytest.mark.parametrize("chunks", [[75], [32, 32, 11], [1] * 75, [50, 24, 1], [7, 16, 52]])
def test_chunked_prefill_over_pages_gives_the_logits_of_full_attention(chunks: list[int]) -> None:
    model, token_ids = Transformer(small_model()), random_tokens(75)
    logits = paged_logits(model, token_ids, chunks, block_ids=[17, 3, 20, 0, 9])
    np.testing.assert_allclose(logits, reference_logits(model, token_ids), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("num_kv_heads", [1, 4])
def test_multi_query_and_multi_head_attention_match_the_reference_too(num_kv_heads: int) -> None:
    model, token_ids = Transformer(small_model(num_kv_heads=num_kv_heads)), random_tokens(40)
    logits = paged_logits(model, token_ids, [20, 20], block_ids=[5, 2, 8])
    np.testing.assert_allclose(logits, reference_logits(model, token_ids), rtol=1e-3, atol=1e-3)


def test_the_last_logits_depend_on_the_first_token() -> None:
    model, token_ids = Transformer(small_model()), random_tokens(75)
    changed = token_ids.copy()
    changed[0] = (changed[0] + 1) % 257
    before, after = (paged_logits(model, ids, [75], [0, 1, 2, 3, 4])[-1] for ids in (token_ids, changed))
    assert np.abs(before - after).max() > 1e-2


def test_everything_is_computed_in_float32() -> None:
    model, token_ids = Transformer(small_model()), random_tokens(20)
    assert paged_logits(model, token_ids, [19, 1], [0, 1]).dtype == np.float32


def test_the_same_seed_gives_the_same_weights_and_another_seed_others() -> None:
    first, same, other = (Transformer(small_model(seed=seed)).weights.lm_head for seed in (1, 1, 2))
    assert np.array_equal(first, same)
    assert not np.allclose(first, other)


def test_greedy_sampling_takes_the_largest_logit_of_each_row() -> None:
    logits = np.array([[0.0, 3.0, 1.0], [5.0, 3.0, 1.0]], dtype=np.float32)
    generators = [np.random.default_rng(0), np.random.default_rng(0)]
    assert Sampler().sample(logits, [0.0, 0.0], generators) == [1, 0]


def test_temperature_sampling_follows_the_softmax() -> None:
    logits = np.log(np.array([[0.7, 0.2, 0.1]], dtype=np.float32))
    generator = np.random.default_rng(0)
    drawn = [Sampler().sample(logits, [1.0], [generator])[0] for _ in range(4000)]
    np.testing.assert_allclose(np.bincount(drawn, minlength=3) / 4000, [0.7, 0.2, 0.1], atol=0.03)


@pytest.mark.parametrize(
    "sizes",
    [
        {"num_layers": 0},
        {"num_heads": 3},
        {"num_kv_heads": 3},
        {"hidden_size": 20, "num_heads": 4},
        {"max_model_len": 1},
        {"seed": -1},
    ],
)
def test_sizes_that_do_not_go_together_are_refused(sizes: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(sizes))):
        ModelConfig(**sizes)


def test_a_cache_that_cannot_hold_the_longest_request_is_refused() -> None:
    with pytest.raises(ValueError, match="raise num_blocks"):
        EngineConfig(model=ModelConfig(max_model_len=1024), cache=CacheConfig(block_size=16, num_blocks=63))
