"""Ranks that each run a scheduler: one batch per iteration, whoever is late, missing, or attached later."""

from __future__ import annotations

from prismtop.model import Batch, Workload
from prismtop.sources.open_batch import Process
from prismtop.sources.ranks import PATIENCE_NS, RankJoiner, rank_times
from tests.factories import MS, make_batch, make_stages

LEAD, SECOND, THIRD = 10, 11, 12
NOW = 10**12
PERIOD = 10 * MS


def rank(pid: int) -> Process:
    return Process(pid, "scheduler", pid - LEAD, {})


def batch(pid: int, n: int, *, size: int = 16, late: int = 0, length: int = 2 * PERIOD) -> Batch:
    """The n-th of a rank's overlapped batches: one a period, each two long, settled `late` ns late."""
    start = NOW + n * PERIOD
    return make_batch(
        n,
        start,
        pid=pid,
        duration_ns=length + late,
        period_ns=PERIOD,
        stages=make_stages(start, pid, schedule=1.0, launch=2.0 if pid == LEAD else 3.0),
        workload=Workload(batch_size=size),
    )


def joiner(*others: int) -> RankJoiner:
    return RankJoiner(rank(LEAD), [rank(pid) for pid in others])


def joined(made: list[Batch]) -> list[tuple[int, list[int]]]:
    """(sequence number, pids whose stages are in it)."""
    return [(b.seq, sorted({stage.pid for stage in b.stages})) for b in made]


def test_the_views_of_one_iteration_become_one_batch() -> None:
    made = joiner(SECOND).join({LEAD: [batch(LEAD, 0)], SECOND: [batch(SECOND, 0)]}, NOW + 2 * PERIOD)
    assert joined(made) == [(0, [LEAD, SECOND])]


def test_each_rank_has_its_own_time() -> None:
    (made,) = joiner(SECOND).join({LEAD: [batch(LEAD, 0)], SECOND: [batch(SECOND, 0)]}, NOW)
    assert [(r.rank, r.pre_collective_ns) for r in made.ranks] == [(0, 3 * MS), (1, 4 * MS)]


def test_a_batch_waits_for_a_rank_that_was_not_read_yet() -> None:
    ranks = joiner(SECOND)
    assert ranks.join({LEAD: [batch(LEAD, 0)]}, NOW + 2 * PERIOD) == []
    assert joined(ranks.join({SECOND: [batch(SECOND, 0)]}, NOW + 2 * PERIOD)) == [(0, [LEAD, SECOND])]


def test_waiting_for_one_rank_does_not_lose_another() -> None:
    ranks = joiner(SECOND, THIRD)
    ranks.join({LEAD: [batch(LEAD, 0)], SECOND: [batch(SECOND, 0)]}, NOW + 2 * PERIOD)
    assert joined(ranks.join({THIRD: [batch(THIRD, 0)]}, NOW + 2 * PERIOD)) == [(0, [LEAD, SECOND, THIRD])]


def test_a_rank_that_lost_a_batch_does_not_shift_the_rest() -> None:
    """All batches hold as many requests, and under overlap each is half in the next."""
    lead = [batch(LEAD, n) for n in range(4)]
    second = [batch(SECOND, n) for n in (0, 2, 3)]
    made = joiner(SECOND).join({LEAD: lead, SECOND: second}, NOW + 6 * PERIOD)
    assert joined(made) == [(0, [LEAD, SECOND]), (1, [LEAD]), (2, [LEAD, SECOND]), (3, [LEAD, SECOND])]


def test_a_batch_that_a_later_one_shows_to_be_missing_is_not_waited_for() -> None:
    made = joiner(SECOND).join({LEAD: [batch(LEAD, 0)], SECOND: [batch(SECOND, 2)]}, NOW + 2 * PERIOD)
    assert joined(made) == [(0, [LEAD])]


def test_a_rank_that_is_gone_is_waited_for_only_so_long() -> None:
    ranks = joiner(SECOND)
    lead = batch(LEAD, 0)
    assert ranks.join({LEAD: [lead]}, lead.end_ns + PATIENCE_NS - 1) == []
    assert joined(ranks.join({}, lead.end_ns + PATIENCE_NS)) == [(0, [LEAD])]


def test_a_straggler_that_settles_later_is_still_found() -> None:
    made = joiner(SECOND).join({LEAD: [batch(LEAD, 0)], SECOND: [batch(SECOND, 0, late=4 * MS)]}, NOW)
    assert joined(made) == [(0, [LEAD, SECOND])]


def test_a_batch_of_another_size_is_another_batch() -> None:
    second = [batch(SECOND, 0, size=3), batch(SECOND, 3)]
    assert joined(joiner(SECOND).join({LEAD: [batch(LEAD, 0)], SECOND: second}, NOW)) == [(0, [LEAD])]


def test_one_rank_alone_has_no_skew() -> None:
    assert rank_times([rank(LEAD)], batch(LEAD, 0).stages) == ()


def test_waits_are_no_time_before_the_collective() -> None:
    stages = (*make_stages(NOW, LEAD, launch=1.0, wait=50.0), *make_stages(NOW, SECOND, launch=2.0))
    times = [r.pre_collective_ns for r in rank_times([rank(LEAD), rank(SECOND)], stages)]
    assert times == [1 * MS, 2 * MS]
