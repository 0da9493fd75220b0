"""Values of hooks become a workload."""

from __future__ import annotations

import pytest

from prismtop.model import Mode
from prismtop.probe import agent
from prismtop.sources.workload import tag, work_of


@pytest.mark.parametrize(
    ("values", "parts"),
    [
        ({"tokens": 40, "prefill_tokens": 32}, (32, 8)),
        ({"tokens": 40, "decode_tokens": 8}, (32, 8)),
        ({"tokens": 40}, (None, None)),
        ({"prefill_tokens": 5}, (5, None)),
    ],
)
def test_the_missing_part_of_the_tokens_is_derived_when_it_can_be(
    values: dict[str, int], parts: tuple[int | None, int | None]
) -> None:
    workload, _ = work_of(values, (), {})
    assert (workload.prefill_tokens, workload.decode_tokens) == parts


def test_a_sum_over_part_of_a_large_batch_is_scaled_and_named() -> None:
    values = {"batch_size": 2 * agent.CAP, "context_tokens": 1000, "tokens": 2 * agent.CAP}
    workload, _ = work_of(values, {"context_tokens"}, {})
    assert (workload.context_tokens, workload.sampled) == (2000, frozenset({"context_tokens"}))


@pytest.mark.parametrize("size", [{}, {"batch_size": 8}])
def test_what_was_cut_but_not_by_the_batch_is_named_and_not_scaled(size: dict[str, int]) -> None:
    """A long waiting queue; or a batch of unknown size."""
    workload, _ = work_of({**size, "waiting": agent.CAP}, {"waiting"}, {})
    assert (workload.waiting, workload.sampled) == (agent.CAP, frozenset({"waiting"}))


def test_what_is_derived_from_an_estimate_is_one() -> None:
    values = {"batch_size": 2 * agent.CAP, "prefill_tokens": 100, "tokens": 2000}
    workload, _ = work_of(values, {"prefill_tokens"}, {})
    assert workload.sampled == {"prefill_tokens", "decode_tokens"}


def test_an_estimate_never_exceeds_the_tokens_that_were_scheduled() -> None:
    values = {"batch_size": 4 * agent.CAP, "prefill_tokens": 900, "tokens": 1000}
    workload, _ = work_of(values, {"prefill_tokens"}, {})
    assert (workload.prefill_tokens, workload.decode_tokens) == (1000, 0)


def test_kv_usage_travels_as_millionths() -> None:
    assert work_of({"kv_usage": 210_000}, (), {})[0].kv_usage == 0.21


@pytest.mark.parametrize(
    ("values", "mode"),
    [
        ({"prefill_tokens": 4, "decode_tokens": 0}, Mode.PREFILL),
        ({"prefill_tokens": 0, "decode_tokens": 4}, Mode.DECODE),
        ({"prefill_tokens": 4, "decode_tokens": 4}, Mode.MIXED),
        ({"prefill_tokens": 0, "decode_tokens": 0}, Mode.IDLE),
        ({}, Mode.UNKNOWN),
        ({"mode": tag("EXTEND"), "decode_tokens": 4}, Mode.PREFILL),
    ],
)
def test_the_mode_is_the_engines_own_or_follows_from_the_tokens(values: dict[str, int], mode: Mode) -> None:
    assert work_of(values, (), {tag("EXTEND"): "prefill"})[1] is mode
