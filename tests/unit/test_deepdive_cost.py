"""What a capture cost: medians of comparable batches, and whether a slowdown has stayed."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import pytest

from prismtop.deepdive.cost import Cost
from prismtop.deepdive.slowdown import comparable, mann_whitney_z, mean_ms, slower, within
from prismtop.model import Batch, Mode, Prediction, Workload
from tests.factories import MS, make_batch, make_frame


def batches(costs_ms: Sequence[float], size: int = 16, **changes: object) -> list[Batch]:
    """Batches one after the other."""
    made, at = [], 10**12
    for seq, ms in enumerate(costs_ms):
        cost = int(ms * MS)
        workload = Workload(batch_size=size)
        made.append(make_batch(seq, at, duration_ns=cost, period_ns=cost, workload=workload, **changes))
        at += cost
    return made


def noisy(count: int, ms: float, seed: int = 0, spread: float = 0.05) -> list[float]:
    source = random.Random(seed)
    return [ms * (1 + source.gauss(0, spread)) for _ in range(count)]


def test_equal_batches_are_not_slower() -> None:
    found = [slower(batches(noisy(100, 8, seed)), batches(noisy(100, 8, seed + 1000))) for seed in range(50)]
    assert found == [False] * 50


@pytest.mark.parametrize("share", [1.06, 1.1, 1.2])
def test_a_shift_of_several_percent_is_found(share: float) -> None:
    found = [
        slower(batches(noisy(100, 8, seed)), batches(noisy(100, 8 * share, seed + 1000)))
        for seed in range(20)
    ]
    assert found == [True] * 20


def test_a_shift_that_the_load_makes_by_itself_is_no_slowdown() -> None:
    growing = [8 + seq * 0.01 for seq in range(200)]
    assert slower(batches(growing[:100]), batches(growing[100:])) is None


def test_a_faster_engine_is_not_slower() -> None:
    assert slower(batches(noisy(100, 8)), batches(noisy(100, 6, 1))) is False


def test_few_batches_tell_nothing() -> None:
    assert slower(batches([8] * 100), batches([16] * 19)) is None


def test_work_that_should_cost_more_is_no_slowdown() -> None:
    def expecting(made: list[Batch], ms: float) -> list[Batch]:
        want = Prediction(int(ms * MS), 0, 10**12)
        return [replace(batch, prediction=want) for batch in made]

    before, after = expecting(batches([8.0] * 50), 8.0), expecting(batches([16.0] * 50), 16.0)
    assert slower(before, after) is False
    assert slower(before, batches([16.0] * 50)) is True


@pytest.mark.parametrize(
    ("before", "after", "z"),
    # U statistics by hand; normal approximation without continuity correction
    [([1, 2, 3], [4, 5, 6], 1.964), ([4, 5, 6], [1, 2, 3], -1.964), ([1, 1, 1], [1, 1, 1], 0.0)],
)
def test_the_rank_test_is_that_of_mann_and_whitney(before: list[float], after: list[float], z: float) -> None:
    assert mann_whitney_z(before, after) == pytest.approx(z, abs=0.001)


def test_ties_are_mid_ranks() -> None:
    # ranks 1, 2.5, 2.5, 4: U of the second = 1 + 2 + 0.5 = 3.5; spread with the tie term
    assert mann_whitney_z([1, 2], [2, 3]) == pytest.approx(1.5 / (4 / 12 * (5 - 6 / 12)) ** 0.5)


def test_only_batches_of_the_same_kind_are_compared() -> None:
    window = batches([8.0] * 10)
    history = batches([8.0] * 10) + batches([30.0] * 40, mode=Mode.PREFILL) + batches([4.0] * 40, size=2)
    _, alike = comparable(window, history)
    assert (len(alike), mean_ms(alike)) == (10, 8.0)


def test_other_sizes_are_taken_when_there_are_too_few_of_the_same() -> None:
    window = batches([8.0] * 10)
    _, alike = comparable(window, batches([8.0] * 4) + batches([9.0] * 8, size=15))
    assert len(alike) == 12


def test_a_batch_after_an_idle_gap_says_nothing() -> None:
    made = [replace(batch, period_ns=None) for batch in batches([8.0] * 10)]
    assert mean_ms(made) is None


def test_a_batch_that_holds_the_start_of_the_profiler_is_not_in_the_window() -> None:
    made = batches([8.0, 900.0, 8.0, 8.0])
    start = made[2].end_ns - 8 * MS
    assert [batch.seq for batch in within(made, start, made[3].end_ns)] == [2, 3]


def test_the_verdict_is_given_once() -> None:
    history = batches([8.0] * 100)
    cost = Cost(history, history[-1].end_ns + 1)
    cost.inside = batches([8.8] * 50)
    assert (cost.before_ms, cost.during_ms) == (8.0, pytest.approx(8.8))
    later = [replace(b, start_ns=b.start_ns + 10**10) for b in batches([8.0] * 120)]
    frame = replace(make_frame(0, time_ns=later[-1].end_ns), new_batches=tuple(later))
    assert [cost.take(frame, 10**12 + 10**9), cost.take(frame, 10**12 + 10**9)] == [True, False]
    assert (cost.after_ms, cost.residual) == (8.0, False)


def test_an_engine_without_requests_gets_no_verdict() -> None:
    cost = Cost(batches([8.0] * 100), 2 * 10**12)
    frame = make_frame(0, time_ns=2 * 10**12)
    assert not cost.take(frame, 2 * 10**12)
    assert cost.take(replace(frame, time_ns=2 * 10**12 + 11 * 10**9), 2 * 10**12)
    assert (cost.after_ms, cost.residual) == (None, None)
