"""Records of whole engine turns, as the engines write them, become the batches that they belong to."""

from __future__ import annotations

import pytest

from prismtop.model import Mode
from prismtop.probe import agent
from prismtop.sources.workload import tag
from prismtop.targets.profile import BatchRule
from tests.unit.engine_records import (
    CORE,
    FIFO,
    KEYED,
    SECOND,
    US,
    WORKER,
    assembler,
    batches,
    core_turn,
    plain_turn,
    process,
    record,
    stages,
    worker_turn,
)


def test_one_turn_is_one_batch() -> None:
    (batch,) = batches(assembler(), plain_turn(0, key=1))
    assert stages(batch) == {"schedule": 10, "launch": 50, "post": 10}
    assert (batch.start_ns, batch.duration_ns) == (0, 70 * US)


def test_sequence_numbers_count_up() -> None:
    made = batches(assembler(), [*plain_turn(0, 1), *plain_turn(100, 2)])
    assert [batch.seq for batch in made] == [0, 1]


def test_the_period_is_settle_to_settle() -> None:
    made = batches(assembler(), [*plain_turn(0, 1), *plain_turn(100, 2)])
    assert [batch.period_ns for batch in made] == [None, 100 * US]


def test_asynchronous_scheduling_puts_stages_to_the_batch_not_to_the_turn() -> None:
    """vLLM step_with_batch_queue: a turn schedules and launches n, then waits for and settles n-1."""
    records = [
        record("schedule", 0, 10, 1, active=1),
        record("execute", 10, 20, 1),
        record("schedule", 20, 30, 2, active=1),
        record("execute", 30, 40, 2),
        record("result", 40, 90),
        record("update", 90, 95, 1),
        record("schedule", 95, 105, 3, active=1),
        record("execute", 105, 115, 3),
        record("result", 115, 150),
        record("update", 150, 155, 2),
    ]
    first, second = batches(assembler(), records)
    assert (stages(first)["wait"], first.duration_ns) == (50, 95 * US)
    assert (stages(second)["wait"], second.start_ns) == (35, 20 * US)


def test_a_reused_key_is_a_new_batch() -> None:
    """id(scheduler_output) comes again as soon as the object is freed."""
    made = batches(assembler(), [*plain_turn(0, 7), *plain_turn(100, 7)])
    assert [batch.start_ns for batch in made] == [0, 100 * US]


def test_overlap_without_keys_settles_the_oldest_launched_batch() -> None:
    """SGLang: run_batch(n) comes before process_batch_result(n-1), which gets a copy of the batch object."""
    records = [
        record("schedule", 0, 10, active=1),
        record("execute", 10, 20),
        record("schedule", 20, 30, active=1),
        record("execute", 30, 40),
        record("update", 40, 60),
        record("schedule", 60, 70, active=1),
        record("execute", 70, 80),
        record("update", 80, 99),
    ]
    first, second = batches(assembler(FIFO), records)
    assert (first.start_ns, stages(first)["post"]) == (0, 20)
    assert (second.start_ns, stages(second)["post"]) == (20 * US, 19)


def test_a_schedule_of_nothing_opens_no_batch() -> None:
    assert batches(assembler(), [record("schedule", 0, 10, 1, active=0)]) == []


def test_nested_stages_are_not_counted_twice() -> None:
    records = [
        record("schedule", 0, 10, 1, active=1),
        record("inner", 15, 35),
        record("execute", 10, 60, 1),
        record("update", 60, 70, 1),
    ]
    (batch,) = batches(assembler(), records)
    assert stages(batch) == {"schedule": 10, "prepare": 20, "launch": 30, "post": 10}


def test_a_request_received_before_the_batch_is_part_of_it() -> None:
    (batch,) = batches(assembler(), [record("recv", 0, 5), *plain_turn(10, 1)])
    assert stages(batch)["recv"] == 5


def test_a_request_received_long_before_the_batch_is_not() -> None:
    (batch,) = batches(assembler(), [record("recv", 0, 5), *plain_turn(50_000, 1)])
    assert "recv" not in stages(batch)


def test_idle_time_is_apart_and_leaves_no_period() -> None:
    records = [*plain_turn(0, 1), record("recv", 5000, 5010), record("idle", 80, 5020), *plain_turn(5030, 2)]
    _, second = batches(assembler(), records)
    assert (second.idle_ns, second.period_ns) == (4930 * US, None)
    assert "idle" not in stages(second)


def test_an_idle_function_around_the_whole_batch_is_idle_only_for_its_rest() -> None:
    """transformers: _generation_loop_body encloses the batch."""
    records = [*plain_turn(10, 1), record("idle", 0, 90), *plain_turn(100, 2)]
    _, second = batches(assembler(), records)
    assert second.idle_ns == 20 * US


def test_a_workers_stages_join_the_batch_and_leave_the_rest_of_the_wait() -> None:
    made = assembler(KEYED, process(WORKER, "worker"))
    (batch,) = batches(made, core_turn(0, 1, tokens=8), worker=worker_turn(20, tokens=8))
    assert stages(batch) == {"schedule": 10, "prepare": 10, "launch": 35, "sample": 5, "wait": 10, "post": 10}


def test_worker_calls_follow_in_order() -> None:
    made = assembler(KEYED, process(WORKER, "worker"))
    core = [*core_turn(0, 1, 8), *core_turn(100, 2, 9)]
    work = [*worker_turn(20, 8), *worker_turn(120, 9)]
    assert ["prepare" in stages(batch) for batch in batches(made, core, worker=work)] == [True, True]


def test_a_worker_call_from_before_the_first_batch_belongs_to_none() -> None:
    made = assembler(KEYED, process(WORKER, "worker"))
    work = [*worker_turn(20, 5), *worker_turn(120, 8)]
    (batch,) = batches(made, core_turn(100, 1, 8), worker=work)
    assert [s.start_ns for s in batch.stages if s.hook == "worker_execute"] == [120 * US]


def test_a_worker_call_that_counted_other_tokens_is_not_taken() -> None:
    made = assembler(KEYED, process(WORKER, "worker"))
    (batch,) = batches(made, core_turn(0, 1, tokens=8), worker=worker_turn(20, tokens=3))
    assert "prepare" not in stages(batch)


def test_a_worker_that_was_read_before_its_launch_waits_for_it() -> None:
    made = assembler(KEYED, process(WORKER, "worker"))
    core = core_turn(0, 1, tokens=8)
    made.feed(CORE, core[:1])
    made.feed(WORKER, worker_turn(20, tokens=8))
    assert made.take(10**15) == []
    made.feed(CORE, core[1:])
    (batch,) = made.take(10**15)
    assert stages(batch)["prepare"] == 10


def test_a_lost_worker_record_does_not_shift_the_following_ones() -> None:
    made = assembler(KEYED, process(WORKER, "worker"))
    core = [*core_turn(0, 1, 8), *core_turn(100, 2, 8), *core_turn(200, 3, 8)]
    work = [*worker_turn(20, 8), *worker_turn(220, 8)]
    seen = ["prepare" in stages(batch) for batch in batches(made, core, worker=work)]
    assert seen == [True, False, True]


def test_each_rank_has_its_time_before_the_collective() -> None:
    made = assembler(KEYED, process(WORKER, "worker", 0), process(SECOND, "worker", 1))
    (batch,) = batches(
        made,
        core_turn(0, 1, 8),
        worker=worker_turn(20, 8),
        second=[record("worker_execute", 20, 75, tokens=8)],
    )
    assert [(r.rank, r.pre_collective_ns // US) for r in batch.ranks] == [(0, 40), (1, 55)]


def test_a_batch_waits_until_every_ring_was_read_past_its_end() -> None:
    made = assembler()
    made.feed(CORE, plain_turn(0, 1))
    assert made.take(69 * US) == []
    assert len(made.take(70 * US)) == 1


def test_lost_records_give_up_the_batches_under_way_and_count_them() -> None:
    made = assembler()
    made.feed(CORE, plain_turn(0, 1)[:2])
    made.gap()
    made.feed(CORE, plain_turn(100, 2))
    assert (len(made.take(10**15)), made.incomplete) == (1, 1)


def test_a_batch_that_never_settles_is_counted_when_a_later_one_does() -> None:
    made = assembler()
    made.feed(CORE, [*plain_turn(0, 1)[:2], *plain_turn(100, 2)])
    assert (len(made.take(10**15)), made.incomplete) == (1, 1)


def test_an_exception_in_a_stage_makes_the_batch_suspect() -> None:
    turn = plain_turn(0, 1)
    broken = (*turn[1][:3], turn[1][3] | agent.FLAG_RAISED << 16, *turn[1][4:])
    (batch,) = batches(assembler(), [turn[0], broken, turn[2]])
    assert batch.suspect == "execute raised an exception"


def test_without_a_settle_hook_the_next_batch_ends_the_one_before() -> None:
    rule = BatchRule("core", ("schedule",), (), (), key=False)
    records = [record("schedule", 0, 40, active=1), record("schedule", 50, 90, active=1)]
    (batch,) = batches(assembler(rule), records)
    assert batch.duration_ns == 40 * US


@pytest.mark.parametrize(
    ("values", "mode"),
    [
        ({"tokens": 8}, Mode.UNKNOWN),
        ({"mode": tag("EXTEND")}, Mode.PREFILL),
        ({"mode": tag("NEW_MODE")}, Mode.UNKNOWN),
    ],
)
def test_the_mode_is_what_the_engine_says_or_unknown(values: dict[str, int], mode: Mode) -> None:
    (batch,) = batches(assembler(FIFO), plain_turn(0, 1, **values))
    assert batch.mode is mode


def test_what_the_engine_does_not_expose_is_none() -> None:
    (batch,) = batches(assembler(), plain_turn(0, 1, batch_size=4))
    assert (batch.workload.batch_size, batch.workload.kv_usage, batch.workload.prefill_tokens) == (
        4,
        None,
        None,
    )
