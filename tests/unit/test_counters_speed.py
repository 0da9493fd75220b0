"""The speed of the engine's core, with a worker and timings made up here; the last tests use the real one."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from prismtop.counters.sheet import Sheet
from prismtop.counters.speed import (
    ANYWHERE,
    BLOCK,
    NO_BASELINE,
    NO_TURN,
    SpeedReader,
    Timing,
    Worker,
    WorkerProcess,
)
from prismtop.counters.speed_worker import time_work
from tests.unit.counter_trees import Readings, Rounds, plant, reason, value

HOST, CORE = "host_cpu_speed_ratio", "core_speed_ratio"
FULL_NS = 30_000
WAIT_S = 20.0


class FakeWorker:
    """Hands out what tests say that it timed."""

    def __init__(self) -> None:
        self.made: list[Timing] = []
        self.followed: list[str] = []
        self.ended = self.closed = False

    def follow(self, path: str) -> None:
        self.followed.append(path)

    def timings(self) -> Sequence[Timing]:
        if self.ended:
            raise BrokenPipeError(errno.EPIPE, "gone")
        made, self.made = self.made, []
        return made

    def close(self) -> None:
        self.closed = True


class Watch:
    """A reader with its worker. `took` gives one reading from timings on a core; None is a core without
    any.
    """

    def __init__(self, sys: str = "/sys") -> None:
        self.worker = FakeWorker()
        self.thread: tuple[int, int] | None = (5, 7)
        self.reader = SpeedReader(
            lambda: self.thread, "/proc", sys, lambda: self.worker, work=lambda: FULL_NS
        )
        self.rounds = Rounds(self.reader)

    def took(self, *took_ns: int, core: int = 3, seconds: float = 1.0) -> Readings:
        self.worker.made += [Timing(core, one, 1000) for one in took_ns]
        return self.rounds.round(seconds=seconds)

    def failed(self, code: int) -> Readings:
        self.worker.made.append(Timing(-1, code, 0))
        return self.rounds.round()


def test_there_is_no_speed_before_there_is_a_baseline() -> None:
    watch = Watch()
    assert reason(watch.took(FULL_NS), HOST) == NO_BASELINE
    assert value(watch.took(*[FULL_NS] * (BLOCK - 1)), HOST) == 1


def test_the_speed_is_a_share_of_the_best_decile() -> None:
    watch = Watch()
    lucky = FULL_NS // 2
    watch.took(lucky, lucky, lucky, *[FULL_NS] * (BLOCK - 3))
    assert value(watch.took(2 * FULL_NS), HOST) == pytest.approx(0.5)


def test_a_reading_is_the_speed_over_all_its_timings() -> None:
    watch = Watch()
    watch.took(*[FULL_NS] * BLOCK)
    assert value(watch.took(FULL_NS, FULL_NS, 2 * FULL_NS, 2 * FULL_NS), HOST) == pytest.approx(2 / 3)


def test_a_slow_time_however_long_does_not_become_the_full_speed() -> None:
    watch = Watch()
    watch.took(*[FULL_NS] * BLOCK)
    assert value(watch.took(*[2 * FULL_NS] * 10 * BLOCK), HOST) == pytest.approx(0.5)


def test_a_start_at_half_speed_is_put_right_without_a_fall() -> None:
    watch = Watch()
    watch.took(*[2 * FULL_NS] * BLOCK)
    speeds = [value(watch.took(FULL_NS), HOST) for _ in range(BLOCK)]
    assert speeds == [1.0] * BLOCK
    assert value(watch.took(2 * FULL_NS), HOST) == pytest.approx(0.5)


def test_the_core_of_the_hottest_thread_is_timed_and_named() -> None:
    watch = Watch()
    readings = watch.took(*[FULL_NS] * BLOCK)
    assert watch.worker.followed == ["/proc/5/task/7/stat"]
    assert value(readings, CORE, "core 3") == 1
    assert readings[HOST, "host"].source == "timing"


def test_another_thread_is_followed_when_it_is_hotter() -> None:
    watch = Watch()
    watch.took(FULL_NS)
    watch.thread = (5, 9)
    watch.took(FULL_NS)
    assert watch.worker.followed == ["/proc/5/task/7/stat", "/proc/5/task/9/stat"]


def test_a_thread_that_ended_is_followed_no_longer() -> None:
    watch = Watch()
    watch.took(FULL_NS)
    watch.failed(errno.ENOENT)
    watch.took(FULL_NS)
    assert len(watch.worker.followed) == 2
    assert not watch.worker.closed


def test_cores_are_told_apart_and_the_host_is_both() -> None:
    watch = Watch()
    watch.took(*[FULL_NS] * BLOCK)
    watch.worker.made.append(Timing(4, 3 * FULL_NS, 1000))
    readings = watch.took(FULL_NS)
    assert value(readings, CORE, "core 3") == 1
    assert value(readings, CORE, "core 4") == pytest.approx(1 / 3)
    assert value(readings, HOST) == pytest.approx(0.5)


def test_kinds_of_cores_are_not_compared_with_each_other(tmp_path: Path) -> None:
    cpus = "devices/system/cpu"
    watch = Watch(plant(tmp_path, {f"{cpus}/cpu3/cpu_capacity": 1024, f"{cpus}/cpu4/cpu_capacity": 400}))
    watch.took(*[FULL_NS] * BLOCK)
    assert value(watch.took(*[3 * FULL_NS] * BLOCK, core=4), CORE, "core 4") == 1


def test_a_worker_without_a_turn_is_waited_for_and_told_after_two_seconds() -> None:
    watch = Watch()
    watch.took(*[FULL_NS] * BLOCK)
    assert HOST not in {name for name, _ in watch.took()}
    assert reason(watch.took(), HOST) == NO_TURN
    assert value(watch.took(FULL_NS), HOST) == 1


def test_rounds_in_between_have_no_reading_of_their_own() -> None:
    watch = Watch()
    watch.took(*[FULL_NS] * BLOCK)
    assert not any(watch.took(seconds=0.1) for _ in range(5))


def test_on_a_core_that_is_not_ours_any_core_is_timed_and_the_source_says_so() -> None:
    watch = Watch()
    watch.took(*[FULL_NS] * BLOCK)
    watch.failed(errno.EINVAL)
    readings = [watch.took() for _ in range(BLOCK)][-1]
    assert watch.worker.closed
    assert value(readings, HOST) == 1
    assert readings[HOST, "host"].source == ANYWHERE
    assert CORE not in {name for name, _ in readings}


@pytest.mark.parametrize("kept", ["isolated", "nohz_full"])
def test_on_a_machine_with_cores_set_apart_no_worker_goes_anywhere(tmp_path: Path, kept: str) -> None:
    watch = Watch(plant(tmp_path, {f"devices/system/cpu/{kept}": "2-7\n"}))
    readings = [watch.took() for _ in range(BLOCK)][-1]
    assert readings[HOST, "host"].source == ANYWHERE
    assert watch.worker.followed == []


def test_a_kernel_that_names_no_isolated_core_isolates_none(tmp_path: Path) -> None:
    watch = Watch(plant(tmp_path, {"devices/system/cpu/nohz_full": "(null)\n"}))
    watch.took(FULL_NS)
    assert watch.worker.followed


def test_a_worker_that_was_killed_is_not_started_again() -> None:
    watch = Watch()
    watch.took(*[FULL_NS] * BLOCK)
    watch.worker.ended = True
    readings = [watch.took() for _ in range(BLOCK)][-1]
    assert readings[HOST, "host"].source == ANYWHERE
    assert len(watch.worker.followed) == 1


def test_a_worker_that_cannot_be_started_is_not_needed() -> None:
    def refused() -> Worker:
        raise PermissionError(errno.EPERM, "no")

    rounds = Rounds(SpeedReader(lambda: (5, 7), start=refused, work=lambda: FULL_NS))
    assert value([rounds.round() for _ in range(BLOCK)][-1], HOST) == 1


def test_without_an_engine_any_core_is_timed_and_no_worker_started() -> None:
    watch = Watch()
    watch.thread = None
    readings = [watch.took() for _ in range(BLOCK)][-1]
    assert readings[HOST, "host"].source == ANYWHERE
    assert watch.worker.followed == []


def test_the_worker_is_closed_with_the_reader() -> None:
    watch = Watch()
    watch.took(FULL_NS)
    watch.reader.close()
    assert watch.worker.closed


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


def timings_of(worker: WorkerProcess, count: int = 1) -> list[Timing]:
    end = time.monotonic() + WAIT_S
    made: list[Timing] = []
    while len(made) < count:
        assert time.monotonic() < end, "the worker says nothing"
        time.sleep(0.01)
        made += worker.timings()
    return made


def own_stat() -> str:
    return f"/proc/{os.getpid()}/task/{threading.get_native_id()}/stat"


def test_the_worker_times_the_work_where_the_thread_ran() -> None:
    before = os.sched_getaffinity(0)
    worker = WorkerProcess()
    try:
        worker.follow(own_stat())
        first, second = timings_of(worker, 2)[:2]
    finally:
        worker.close()
    assert {first.core, second.core} <= before
    assert 0 < first.took_ns < second.used_ns
    assert first.used_ns < second.used_ns
    assert os.sched_getaffinity(0) == before


def test_the_worker_says_that_a_thread_has_ended_and_follows_another() -> None:
    worker = WorkerProcess()
    try:
        worker.follow("/proc/0/task/0/stat")
        assert timings_of(worker)[0][:2] == (-1, errno.ENOENT)
        worker.follow(own_stat())
        assert timings_of(worker)[0].core >= 0
    finally:
        worker.close()


def test_the_worker_ends_with_its_input() -> None:
    worker = WorkerProcess()
    worker.follow(own_stat())
    timings_of(worker)
    stdin = worker._process.stdin
    assert stdin is not None
    stdin.close()
    assert worker._process.wait(WAIT_S) == 0
    worker.close()


def test_a_reader_with_the_real_worker_leaves_nothing_behind() -> None:
    reader = SpeedReader(lambda: (os.getpid(), threading.get_native_id()))
    reader.read(Sheet(), slow=False)
    assert isinstance(reader._worker, WorkerProcess)
    process = reader._worker._process
    reader.close()
    assert process.poll() is not None
