"""The speed of the engine's core, with a worker and timings made up here; the last tests use the real one."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Iterable
from pathlib import Path

import pytest

from prismtop.counters.sheet import Sheet
from prismtop.counters.speed import (
    ANYWHERE,
    BLOCK,
    NO_BASELINE,
    NO_TURN,
    NOT_YET,
    SHORTEST_NS,
    Answer,
    SpeedReader,
    WorkerProcess,
)
from prismtop.counters.speed_worker import time_work
from tests.unit.counter_trees import Readings, Rounds, plant, reason, value

HOST, CORE = "host_cpu_speed_ratio", "core_speed_ratio"
FULL_NS = 30_000
WAIT_S = 20.0


class FakeWorker:
    """Says what each piece of work took; None is: it had no turn; 0 is: it has ended."""

    def __init__(self, took: Iterable[int | None]) -> None:
        self.took = iter(took)
        self.asked: list[int] = []
        self.closed = False

    def ask(self, core: int) -> None:
        self.asked.append(core)

    def answer(self) -> Answer | None:
        took = next(self.took)
        if took == 0:
            raise BrokenPipeError("gone")
        return None if took is None else Answer(self.asked[-1], took, 10**6 * len(self.asked))

    def close(self) -> None:
        self.closed = True


def proc_with(tmp_path: Path, core: int = 3) -> str:
    """A /proc in which thread 7 of process 5 ran last on that core."""
    tail = " ".join(["0"] * 35)
    return plant(tmp_path / "proc", {"5/task/7/stat": f"7 (a b) S {tail} {core} 0 0\n"})


def reading(tmp_path: Path, *took: int | None) -> tuple[Rounds, FakeWorker]:
    """A reader whose worker was asked once."""
    worker = FakeWorker(took)
    sys = str(tmp_path / "sys")
    reader = SpeedReader(lambda: (5, 7), proc_with(tmp_path), sys, lambda: worker, work=lambda: FULL_NS)
    rounds = Rounds(reader)
    assert reason(rounds.round(), HOST) == NOT_YET
    return rounds, worker


def last_of(rounds: Rounds, count: int) -> Readings:
    readings: Readings = {}
    for _ in range(count):
        readings = rounds.round()
    return readings


def test_there_is_no_speed_before_there_is_a_baseline(tmp_path: Path) -> None:
    rounds, _ = reading(tmp_path, *[FULL_NS] * BLOCK)
    assert reason(rounds.round(), HOST) == NO_BASELINE
    assert value(last_of(rounds, BLOCK - 1), HOST) == 1


def test_the_speed_is_a_share_of_the_best_decile(tmp_path: Path) -> None:
    lucky = FULL_NS // 2
    rounds, _ = reading(tmp_path, lucky, *[FULL_NS] * (BLOCK - 1), 2 * FULL_NS)
    assert value(last_of(rounds, BLOCK + 1), HOST) == pytest.approx(0.5)


def test_a_slow_time_however_long_does_not_become_the_full_speed(tmp_path: Path) -> None:
    rounds, _ = reading(tmp_path, *[FULL_NS] * BLOCK, *[2 * FULL_NS] * 10 * BLOCK)
    assert value(last_of(rounds, 11 * BLOCK), HOST) == pytest.approx(0.5)


def test_a_start_at_half_speed_is_put_right_without_a_fall(tmp_path: Path) -> None:
    rounds, _ = reading(tmp_path, *[2 * FULL_NS] * BLOCK, *[FULL_NS] * BLOCK, 2 * FULL_NS)
    last_of(rounds, BLOCK)
    speeds = [value(rounds.round(), HOST) for _ in range(BLOCK)]
    assert speeds == [1.0] * BLOCK
    assert value(rounds.round(), HOST) == pytest.approx(0.5)


def test_the_engines_core_is_timed_and_named(tmp_path: Path) -> None:
    rounds, worker = reading(tmp_path, *[FULL_NS] * BLOCK)
    readings = last_of(rounds, BLOCK)
    assert worker.asked == [3] * (BLOCK + 1)
    assert value(readings, CORE, "core 3") == 1
    assert readings[HOST, "host"].source == "timing"


def test_kinds_of_cores_are_not_compared_with_each_other(tmp_path: Path) -> None:
    cpus = "sys/devices/system/cpu"
    plant(tmp_path, {f"{cpus}/cpu3/cpu_capacity": 1024, f"{cpus}/cpu4/cpu_capacity": 400})
    rounds, _ = reading(tmp_path, *[FULL_NS] * BLOCK, *[3 * FULL_NS] * (BLOCK + 1))
    last_of(rounds, BLOCK)
    (tmp_path / "proc/5/task/7/stat").write_text(f"7 (a b) S {' '.join(['0'] * 35)} 4 0 0\n")
    assert value(last_of(rounds, BLOCK + 1), CORE, "core 4") == 1


def test_a_worker_without_a_turn_is_not_asked_again_until_it_answers(tmp_path: Path) -> None:
    rounds, worker = reading(tmp_path, *[FULL_NS] * BLOCK, None, None, FULL_NS)
    last_of(rounds, BLOCK)
    assert reason(rounds.round(), HOST) == NO_TURN
    assert HOST not in {name for name, _ in rounds.round()}
    assert len(worker.asked) == BLOCK + 1
    assert value(rounds.round(), HOST) == 1


@pytest.mark.parametrize("answer", [-errno.EINVAL, 0], ids=["a core that is not ours", "a worker that ended"])
def test_where_no_worker_can_be_any_core_is_timed_and_the_source_says_so(tmp_path: Path, answer: int) -> None:
    rounds, worker = reading(tmp_path, answer)
    rounds.round()
    readings = last_of(rounds, BLOCK)
    assert worker.closed
    assert readings[HOST, "host"].source == ANYWHERE
    assert CORE not in {name for name, _ in readings}


def test_a_worker_that_cannot_be_started_is_not_needed(tmp_path: Path) -> None:
    def refused() -> FakeWorker:
        raise PermissionError(errno.EPERM, "no")

    reader = SpeedReader(lambda: (5, 7), proc_with(tmp_path), start=refused, work=lambda: FULL_NS)
    rounds = Rounds(reader)
    rounds.round()
    assert value(last_of(rounds, BLOCK), HOST) == 1


def test_an_engine_that_ended_leaves_any_core(tmp_path: Path) -> None:
    worker = FakeWorker([])
    reader = SpeedReader(lambda: (5, 8), proc_with(tmp_path), start=lambda: worker, work=lambda: FULL_NS)
    assert last_of(Rounds(reader), BLOCK)[HOST, "host"].source == ANYWHERE
    assert worker.asked == []


def test_it_is_never_read_more_often_than_it_may_cost(tmp_path: Path) -> None:
    rounds, worker = reading(tmp_path, *[FULL_NS] * 9)
    for _ in range(10):
        rounds.round(seconds=SHORTEST_NS / 2e9)
    assert len(worker.asked) == 1 + 5


def test_who_looks_once_gets_a_baseline_at_once() -> None:
    reader = SpeedReader(work=lambda: FULL_NS)
    reader.learn_at_once()
    assert value(Rounds(reader).round(), HOST) == 1


def test_the_work_takes_time_of_this_thread_and_not_of_others() -> None:
    waiting = threading.Event()
    other = threading.Thread(target=waiting.wait)
    other.start()
    try:
        before = time.thread_time_ns()
        took = time_work()
        assert 0 < took <= time.thread_time_ns() - before
    finally:
        waiting.set()
        other.join()


def answer_of(worker: WorkerProcess) -> Answer:
    end = time.monotonic() + WAIT_S
    while (answer := worker.answer()) is None:
        assert time.monotonic() < end, "the worker does not answer"
        time.sleep(0.01)
    return answer


def test_the_worker_times_the_work_on_the_core_that_it_is_told() -> None:
    core = min(os.sched_getaffinity(0))
    worker = WorkerProcess()
    try:
        worker.ask(core)
        answer = answer_of(worker)
    finally:
        worker.close()
    assert answer.core == core
    assert answer.took_ns > 0
    assert answer.used_ns > answer.took_ns


def test_the_worker_says_that_a_core_is_not_there() -> None:
    worker = WorkerProcess()
    try:
        worker.ask(1000)
        assert answer_of(worker).took_ns == -errno.EINVAL
    finally:
        worker.close()


def test_the_worker_ends_with_its_reader_and_leaves_the_affinity_of_prismtop_alone() -> None:
    before = os.sched_getaffinity(0)
    reader = SpeedReader(lambda: (os.getpid(), threading.get_native_id()))
    sheet = Sheet()
    reader.read(sheet, slow=False)
    assert isinstance(reader._worker, WorkerProcess)
    process = reader._worker._process
    reader.close()
    assert process.poll() is not None
    assert os.sched_getaffinity(0) == before
