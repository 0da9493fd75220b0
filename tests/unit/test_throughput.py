"""Rates and percentiles of the last seconds."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prismtop.model import FirstToken, Mode, Origin, Request, Workload
from prismtop.throughput import Window, percentiles
from tests.factories import MS, make_batch

START = 10**12


def batch(n: int, **changes: object):  # type: ignore[no-untyped-def]
    """The n-th of batches of 8 ms that follow each other every 10 ms."""
    return make_batch(n, START + n * 10 * MS, **{"period_ns": 10 * MS, **changes})


def window(batches=(), first=(), finished=(), seconds: float = 10.0) -> Window:  # type: ignore[no-untyped-def]
    made = Window(seconds)
    made.add(batches, first, finished)
    return made


def test_nothing_is_said_before_the_first_batch() -> None:
    assert window().throughput(START) is None


def test_rates_are_over_the_time_since_the_first_batch() -> None:
    rates = window([batch(n) for n in range(100)]).throughput(START + 1000 * MS)
    assert rates is not None
    assert (rates.batches_per_s, rates.decode_tokens_per_s) == (100, 1600)


def test_old_batches_leave_the_window() -> None:
    rates = window([batch(n) for n in range(300)], seconds=1.0).throughput(START + 3000 * MS)
    assert rates is not None
    assert rates.batches_per_s == pytest.approx(100, abs=1)


def test_what_no_batch_exposes_is_none() -> None:
    rates = window([batch(0, workload=Workload())]).throughput(START + 10 * MS)
    assert rates is not None
    assert (rates.tokens_per_s, rates.decode_tokens_per_s, rates.requests_per_s) == (None, None, None)


def test_itl_weighs_a_period_by_the_requests_that_waited_for_it() -> None:
    slow = batch(0, period_ns=100 * MS, workload=Workload(decode_tokens=1))
    fast = batch(1, period_ns=10 * MS, workload=Workload(decode_tokens=99))
    rates = window([slow, fast]).throughput(START + 100 * MS)
    assert rates is not None
    assert rates.itl_ms is not None
    assert (rates.itl_ms.count, rates.itl_ms.p50, rates.itl_ms.p99) == (100, 10, 10)


def test_a_batch_after_an_idle_gap_gives_no_itl() -> None:
    rates = window([batch(0, period_ns=None)]).throughput(START + 10 * MS)
    assert rates is not None
    assert rates.itl_ms is None


def test_ttft_leaves_out_requests_whose_arrival_was_not_seen() -> None:
    tokens = [FirstToken(START + MS, 30 * MS), FirstToken(START + MS, None)]
    rates = window([batch(0)], first=tokens).throughput(START + 10 * MS)
    assert rates is not None
    assert rates.ttft_ms is not None
    assert (rates.ttft_ms.count, rates.ttft_ms.p50) == (1, 30)


def test_finished_requests_are_counted_per_second() -> None:
    rates = window([batch(0)], finished=[Request(START + MS)] * 5).throughput(START + 1000 * MS)
    assert rates is not None
    assert rates.requests_per_s == 5


def test_steps_and_stages_are_apart_by_mode() -> None:
    rates = window([batch(0), batch(1, mode=Mode.MIXED)]).throughput(START + 100 * MS)
    assert rates is not None
    assert set(rates.step_ms) == {"decode", "mixed"}
    assert ("mixed", "launch") in rates.stage_ms


def mean(n: int, iterations: int, idle: float = 0.0):  # type: ignore[no-untyped-def]
    """What is seen from outside of the n-th second."""
    turn = 1000 * MS // iterations
    active = int(turn * (1 - idle))
    at = START + n * 1000 * MS - active
    spent = {"duration_ns": active, "period_ns": active, "idle_ns": turn - active}
    return make_batch(n, at, origin=Origin.SAMPLED, workload=Workload(), **spent)


def test_a_mean_of_a_second_stands_for_all_iterations_of_it() -> None:
    made = window([mean(1, 100, idle=0.75), mean(2, 20, idle=0.25)])
    rates = made.throughput(START + 2000 * MS)
    assert rates is not None
    assert (rates.batches_per_s, rates.busy) == (pytest.approx(60), pytest.approx(0.5))


def test_without_a_mean_in_the_window_nothing_is_known_of_iterations() -> None:
    rates = window([mean(1, 100)]).throughput(START + 20_000 * MS)
    assert rates is not None
    assert (rates.batches_per_s, rates.busy) == (None, None)


def test_percentiles_of_nothing_are_none() -> None:
    assert percentiles([]) is None


@given(st.lists(st.tuples(st.floats(0, 1e6), st.integers(1, 9)), min_size=1, max_size=60))
def test_weighted_percentiles_are_those_of_the_repeated_values(weighted: list[tuple[float, int]]) -> None:
    repeated = np.repeat([value for value, _ in weighted], [weight for _, weight in weighted])
    found = percentiles(weighted)
    assert found is not None
    ordered = np.sort(repeated)
    expected = [ordered[math.ceil(share * len(ordered)) - 1] for share in (0.5, 0.95, 0.99)]
    assert [found.p50, found.p95, found.p99] == expected
