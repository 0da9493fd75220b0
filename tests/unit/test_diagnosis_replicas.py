"""An engine with several replicas: what is said of one rests on its own batches."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest

from prismtop.diagnosis.memory import BACK_NS, OBSERVED, PROCESSES, BatchMemory
from prismtop.diagnosis.ranking import NAMED
from prismtop.model import Batch, Prediction
from tests.factories import MS, make_batch
from tests.unit.diagnosis_world import ENGINE_FAULTS, SECOND, Fault, World, make_ranks

SLOW, OTHERS = 4242, (5001, 5002, 5003)
FAULTS = {
    **ENGINE_FAULTS,
    "preemption": Fault(load={"kv_usage": 0.99, "preempted": 1}),
}


@dataclass
class Replicas(World):
    """Batches of four processes by turns; the fault is in the first one."""

    batches_per_step: int = 8

    def _batch(self, at: int, fault: Fault) -> Batch:
        pid = (SLOW, *OTHERS)[self._seq % 4]
        return replace(super()._batch(at, fault if pid == SLOW else Fault()), pid=pid)


@pytest.mark.parametrize("cause", FAULTS)
def test_a_fault_of_one_replica_of_four_is_named(cause: str) -> None:
    usual = Fault(more={"ranks": make_ranks(2.0, 2.1, 1.9, 2.0)}) if cause == "straggler_rank" else Fault()
    causes = Replicas(FAULTS[cause], usual_batch=usual).run()
    assert causes[0].id == cause, [(c.id, c.score, c.evidence) for c in causes]
    assert causes[0].score >= NAMED


def test_another_replica_s_fault_is_not_named() -> None:
    class Elsewhere(Replicas):
        def _batch(self, at: int, fault: Fault) -> Batch:
            made = World._batch(self, at, Fault() if self._seq % 4 == 0 else fault)
            return replace(made, pid=(SLOW, *OTHERS)[(self._seq - 1) % 4])

    assert [cause.id for cause in Elsewhere(FAULTS["kv_cache_full"]).run()] == ["unknown"]


def test_batches_of_every_process_are_remembered_when_they_come_by_turns() -> None:
    memory = BatchMemory()
    for second in range(10):
        memory.take([make_batch(at, second * SECOND + at * 4 * MS, pid=at % 4) for at in range(240)])
    assert {pid: len(memory.seen(pid)) for pid in range(4)} == dict.fromkeys(range(4), 128)
    assert len(memory.seen(None)) == 4 * 128


def test_time_lost_in_one_process_is_not_that_of_another() -> None:
    memory = BatchMemory()
    for pid, times in ((1, 3), (2, 1)):
        expected = Prediction(10 * MS, 0, 1 << 40)
        batches = [
            make_batch(at, at * SECOND // 10, pid=pid, duration_ns=times * 10 * MS, prediction=expected)
            if at < 20
            else make_batch(at, at * SECOND // 10, pid=pid, duration_ns=10 * MS, prediction=expected)
            for at in range(60)
        ]
        memory.take(batches)
    assert memory.lost(1).worst(0, 6 * SECOND) == ([(0, 2 * SECOND)], 2.0)
    assert memory.lost(2).worst(0, 6 * SECOND) == ([(0, 6 * SECOND)], None)
    assert memory.lost(None).worst(0, 6 * SECOND) == ([(0, 2 * SECOND)], 1.0)
    assert memory.lost(3).worst(0, 6 * SECOND) == ([(0, 6 * SECOND)], None)


def test_a_batch_of_many_seconds_makes_nothing_forgotten() -> None:
    memory = BatchMemory()
    memory.take([make_batch(at, at * SECOND // 10, pid=1) for at in range(300)])
    memory.take([make_batch(300, 5 * SECOND, pid=2, duration_ns=26 * SECOND)])
    memory.take([make_batch(301, 2 * SECOND, pid=1, duration_ns=29 * SECOND)])
    assert len(memory.seen(1)) == 301
    memory.take([make_batch(302, 0, pid=1, duration_ns=31 * SECOND - BACK_NS - 1)])  # a replay, moved back
    assert len(memory.seen(1)) <= 1


def test_memory_of_batches_is_bounded() -> None:
    memory = BatchMemory()
    for pid in range(2 * PROCESSES):
        memory.take([make_batch(at, (pid + at) * SECOND, pid=pid) for at in range(3)])
    memory.take([make_batch(at, at * SECOND, pid=1) for at in range(OBSERVED + 100)])
    assert len(memory.seen(1)) == OBSERVED
    assert memory.seen(0) == []
    assert memory.seen(2 * PROCESSES - 1)


def test_usual_batches_of_all_replicas_name_nothing() -> None:
    assert [cause.id for cause in Replicas().run()] == ["unknown"]
