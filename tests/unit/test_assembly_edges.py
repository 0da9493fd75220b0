"""What engines do seldom, and what an attach finds in the middle of it: nothing is put to the wrong batch."""

from __future__ import annotations

from dataclasses import replace
from itertools import count

import pytest

from prismtop.model import Batch
from prismtop.probe import agent
from prismtop.sources.assemble import LATE_NS, MAX_OPEN, Assembler
from prismtop.sources.open_batch import Process
from prismtop.targets.profile import BatchRule
from tests.unit.engine_records import (
    CORE,
    FIFO,
    KEYED,
    PLANS,
    US,
    WORKER,
    Record,
    assembler,
    batches,
    core_turn,
    plain_turn,
    process,
    record,
    stages,
    worker_turn,
)

OPEN_ONLY = BatchRule("core", ("schedule",), (), (), key=False)


def raised(made: Record) -> Record:
    """The same call, ended by an exception."""
    return (*made[:3], made[3] | agent.FLAG_RAISED << 16, *made[4:])


def hooks(batch: Batch) -> list[str]:
    return [stage.hook for stage in batch.stages]


# -- the attach comes in the middle


def test_a_settle_of_a_batch_from_before_the_attach_closes_none_of_ours() -> None:
    """SGLang in full overlap: the first settle is of the batch before the first that was seen. A batch
    that has no key at its schedule is known by its result (launch and settle)."""
    records = [
        record("schedule", 0, 10, active=1),
        record("execute", 10, 20, key=2),
        record("update", 20, 40, key=1),
        record("schedule", 40, 50, active=1),
        record("execute", 50, 60, key=3),
        record("update", 60, 80, key=2),
    ]
    (batch,) = batches(assembler(FIFO), records)
    assert (batch.start_ns, batch.duration_ns) == (0, 80 * US)


def test_keys_that_never_match_give_way_to_first_in_first_out() -> None:
    """SGLang's pipeline ranks get results from the last rank: not what their own launch returned."""
    turns = [
        [
            *plain_turn(n * 100, None)[:1],
            record("execute", n * 100 + 10, n * 100 + 60, 500 + n),
            record("update", n * 100 + 60, n * 100 + 70, 900 + n),
        ]
        for n in range(20)
    ]
    made = assembler(FIFO)
    assert len(batches(made, [r for turn in turns for r in turn])) + made.incomplete >= 11


def test_launch_keys_that_are_never_there_leave_first_in_first_out() -> None:
    assert len(batches(assembler(FIFO), [*plain_turn(0, None), *plain_turn(100, None)])) == 2


def test_an_unknown_settle_takes_its_wait_with_it() -> None:
    records = [record("result", 0, 50), record("update", 50, 60, 99), *core_turn(60, 1, 8)]
    (batch,) = batches(assembler(), records)
    assert stages(batch)["wait"] == 55


def test_an_unknown_settle_leaves_what_was_received() -> None:
    records = [record("recv", 0, 5), record("update", 10, 20, 99), *plain_turn(20, 1)]
    (batch,) = batches(assembler(), records)
    assert stages(batch)["recv"] == 5


def test_a_launch_of_nothing_keeps_its_stages_to_itself() -> None:
    """vLLM executes a schedule without tokens too; it opened no batch."""
    nothing = [record("inner", 75, 80), record("execute", 72, 90, 50)]
    records = [*plain_turn(0, 1), *nothing, *plain_turn(100, 2)]
    assert ["prepare" in stages(batch) for batch in batches(assembler(), records)] == [False, False]


def test_a_wait_survives_a_launch_of_nothing() -> None:
    records = [
        record("schedule", 0, 10, 1, active=1),
        record("execute", 10, 20, 1),
        record("result", 20, 60),
        record("execute", 60, 65, 50),
        record("update", 65, 70, 1),
    ]
    (batch,) = batches(assembler(), records)
    assert stages(batch)["wait"] == 40


# -- batches that never settle


def test_a_key_that_comes_again_gives_up_the_batch_that_had_it() -> None:
    made = assembler()
    stale = plain_turn(0, 7)[:2]
    (batch,) = batches(made, [*stale, *plain_turn(100, 7)])
    assert (batch.start_ns, made.incomplete) == (100 * US, 1)


def test_where_no_batch_settles_a_key_may_come_again() -> None:
    """The hook that settles is not in: a batch is freed before the next is made, which gets its id."""
    records = [r for n in range(4) for r in plain_turn(100 * n, key=7)[:2]]
    made = assembler(replace(KEYED, settle=()))
    assert [b.start_ns // US for b in batches(made, records)] == [0, 100, 200]
    assert made.incomplete == 0


def test_no_period_spans_a_batch_that_was_given_up() -> None:
    records = [*plain_turn(0, 1), *plain_turn(100, 2)[:2], *plain_turn(200, 3), *plain_turn(300, 4)]
    assert [batch.period_ns for batch in batches(assembler(), records)] == [None, None, 100 * US]


def test_open_batches_are_limited() -> None:
    made = assembler()
    batches(made, [record("schedule", n, n + 1, n, active=1) for n in range(MAX_OPEN + 5)])
    assert made.incomplete == 5


def test_an_exception_in_the_opening_call_opens_no_batch() -> None:
    assert (
        batches(assembler(OPEN_ONLY), [raised(record("schedule", 0, 10)), record("schedule", 20, 30)]) == []
    )


def test_batches_that_had_settled_before_records_were_lost_say_so() -> None:
    made = assembler()
    made.feed(CORE, plain_turn(0, 1))
    made.gap()
    (batch,) = made.take(10**15)
    assert batch.suspect == "records were lost"


def test_there_is_no_period_across_lost_records() -> None:
    made = assembler()
    made.feed(CORE, plain_turn(0, 1))
    made.take(10**15)
    made.gap()
    made.feed(CORE, plain_turn(100, 2))
    assert made.take(10**15)[0].period_ns is None


# -- engines without a settle


def test_what_follows_the_opening_call_belongs_to_its_batch() -> None:
    records = [record("schedule", 0, 10, active=1), record("inner", 20, 30), record("schedule", 50, 60)]
    (batch,) = batches(assembler(OPEN_ONLY), records)
    assert (stages(batch), batch.duration_ns) == ({"schedule": 10, "prepare": 20 // 2}, 30 * US)


def test_a_period_without_settles_ends_with_the_last_stage() -> None:
    turn = [record("schedule", 0, 10, active=1), record("inner", 20, 30)]
    later = [record("schedule", 100, 110, active=1), record("inner", 120, 130), record("schedule", 200, 210)]
    assert [b.period_ns for b in batches(assembler(OPEN_ONLY), [*turn, *later])] == [None, 100 * US]


def test_an_opening_call_that_measures_no_stage_is_enough() -> None:
    plans = {0: PLANS["schedule"].__class__(0, _without_stage(), False, PLANS["schedule"].slots)}
    made = Assembler("x", OPEN_ONLY, Process(CORE, "core", None, plans), (), count().__next__)
    made.feed(CORE, [record("schedule", 0, 10, active=1), record("schedule", 50, 60, active=1)])
    assert [batch.stages for batch in made.take(10**15)] == [()]


def _without_stage():  # type: ignore[no-untyped-def]
    from dataclasses import replace

    return replace(PLANS["schedule"].hook, stage="")


def test_work_long_before_the_opening_call_counts_when_other_work_joins_them() -> None:
    """diffusers: the prompt is encoded before a forward pass that takes longer than `REACH_NS`."""
    records = [
        record("load", 0, 5000),
        record("load", 5000, 60_000),
        record("schedule", 60_000, 60_010, active=1),
        record("schedule", 90_000, 90_010),
    ]
    (batch,) = batches(assembler(OPEN_ONLY), records)
    assert batch.start_ns == 0


# -- idle engines


def test_an_idle_turn_takes_what_it_received_with_it() -> None:
    """SGLang polls: every turn without work receives nothing, then is idle."""
    polls = [
        r
        for n in range(5)
        for r in (record("recv", n * 10, n * 10 + 4), record("idle", n * 10 + 5, n * 10 + 9))
    ]
    (batch,) = batches(assembler(FIFO), [*polls, record("recv", 50, 54), *plain_turn(55, None)])
    assert (stages(batch)["recv"], batch.start_ns) == (4, 50 * US)


def test_many_short_idle_turns_add_up() -> None:
    polls = [record("idle", 100 + n * 10, 100 + n * 10 + 9) for n in range(200)]
    _, second = batches(assembler(), [*plain_turn(0, 1), *polls, *plain_turn(2200, 2)])
    assert (second.idle_ns, second.period_ns) == (1800 * US, None)


# -- records that come after the batch was handed out


def test_stages_after_the_settle_belong_to_the_batch_before() -> None:
    first, _ = batches(assembler(), [*plain_turn(0, 1), record("after", 72, 80), *plain_turn(100, 2)])
    assert stages(first)["stream"] == 8


def test_once_a_stage_came_too_late_batches_wait_for_it() -> None:
    made = assembler()
    made.feed(CORE, plain_turn(0, 1))
    made.take(70 * US)
    made.feed(CORE, [record("after", 72, 80), *plain_turn(100, 2)])
    assert made.take(170 * US) == []
    made.feed(CORE, [record("after", 172, 180), *plain_turn(200, 3)])
    (batch,) = made.take(270 * US)
    assert stages(batch)["stream"] == 8


def test_a_late_stage_is_not_waited_for_for_ever() -> None:
    made = assembler()
    made.feed(CORE, plain_turn(0, 1))
    made.take(70 * US)
    made.feed(CORE, [record("after", 72, 80), *plain_turn(100, 2)])
    assert len(made.take(170 * US + LATE_NS)) == 1


# -- workers


def output_turn(start: int, tokens: int, length: int = 30) -> list[Record]:
    """A worker's execution of 40 us, and the wait for the device on the thread of its outputs."""
    return [
        record("worker_execute", start, start + 40, tid=9, tokens=tokens),
        record("worker_output", start + 41, start + 41 + length, tid=10),
    ]


def ahead(start: int, key: int, waits: int) -> list[Record]:
    """The core launches one batch, then waits for and settles the one before (vLLM, asynchronous)."""
    return [
        record("schedule", start, start + 5, key, active=1, tokens=8),
        record("execute", start + 5, start + 10, key),
        record("result", start + 10, start + waits),
        record("update", start + waits, start + waits + 5, key - 1),
    ]


def test_outputs_from_before_the_attach_do_not_shift_those_that_follow() -> None:
    """The core launched our first batch while the worker still ran the one before: only the worker's own
    order of launch and output tells whose output it is."""
    core = [record for n in range(1, 5) for record in ahead(n * 100, n, 90)]
    work = [
        record("worker_output", 141, 171, tid=10),  # of batch 0, after batch 1 was launched
        *(r for n in range(1, 5) for r in output_turn(n * 100 + 60, 8, length=60)),
    ]
    made = batches(assembler(KEYED, process(WORKER, "worker")), core, worker=work)
    waits = [s.start_ns // US for batch in made for s in batch.stages if s.hook == "worker_output"]
    assert waits == [201, 301, 401]


def test_a_batch_whose_launch_was_not_recorded_does_not_hold_the_workers_up() -> None:
    made = assembler(KEYED, process(WORKER, "worker"))
    first = [r for r in core_turn(0, 1, 8) if r[3] != PLANS["execute"].fid]
    made.feed(CORE, [*first, *core_turn(100, 2, 8)])
    made.feed(WORKER, worker_turn(120, 8))
    assert ["prepare" in stages(batch) for batch in made.take(10**15)] == [False, True]


def test_what_a_worker_did_before_an_unknown_call_is_kept() -> None:
    made = assembler(KEYED, process(WORKER, "worker"))
    unknown = record("worker_execute", 95, 98, tid=9, tokens=77)
    (batch,) = batches(made, core_turn(0, 1, 8), worker=[*worker_turn(20, 8), unknown])
    assert stages(batch)["sample"] == 5


def test_several_threads_of_workers_are_not_mixed() -> None:
    made = assembler(KEYED, process(WORKER, "worker"))
    other = record("worker_prepare", 25, 30, tid=77)
    (batch,) = batches(made, core_turn(0, 1, 8), worker=[other, *worker_turn(20, 8)])
    assert [s.tid for s in batch.stages if s.hook == "worker_prepare"] == [9]


@pytest.mark.parametrize("tid", [1, 2])
def test_stages_are_in_order_of_start_whatever_thread_they_ran_on(tid: int) -> None:
    """Forked workers have the thread ident of their parent."""
    made = assembler(KEYED, process(WORKER, "worker"))
    (batch,) = batches(made, core_turn(0, 1, 8), worker=worker_turn(20, 8, tid=tid))
    starts = [stage.start_ns for stage in batch.stages]
    assert starts == sorted(starts)
