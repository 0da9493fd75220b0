"""Counters of processes and their hot threads: against this very process, and against a made-up /proc."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from prismtop.counters.files import KeptFile
from prismtop.counters.process import HOT_THREADS, ProcessReader
from prismtop.model import ProcessId
from prismtop.targets.procfs import read_stat
from tests.unit.counter_trees import Readings, Rounds, plant, reason, value

PID = os.getpid()


def myself() -> ProcessId:
    stat = read_stat(PID)
    assert stat is not None
    return ProcessId(PID, stat.start_time)


@contextmanager
def threads(count: int, body: object = None) -> Iterator[list[threading.Thread]]:
    """Threads that sleep, or run `body` until the event they get is set."""
    ended = threading.Event()
    run = body if callable(body) else (lambda event: event.wait())
    made = [threading.Thread(target=run, args=(ended,)) for _ in range(count)]
    for thread in made:
        thread.start()
    try:
        yield made
    finally:
        ended.set()
        for thread in made:
            thread.join()


def hot_tids(readings: Readings) -> set[str]:
    return {device for name, device in readings if name == "thread_core_id"}


def test_memory_and_threads_agree_with_psutil() -> None:
    with threads(3):
        first = Rounds(ProcessReader([myself()])).round()
        theirs = psutil.Process()
        assert value(first, "process_threads_count", f"pid {PID}") == theirs.num_threads()
        rss = theirs.memory_info().rss
        assert value(first, "process_rss_bytes", f"pid {PID}") == pytest.approx(rss, rel=0.05)
        allowed = first["process_cores_allowed_count", f"pid {PID}"]
        assert allowed.value == len(theirs.cpu_affinity())
        assert allowed.text


def burn(seconds: float) -> None:
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        sum(range(1000))


def test_cpu_time_agrees_with_psutil_over_the_same_time() -> None:
    rounds = Rounds(ProcessReader([myself()]))
    times = psutil.Process().cpu_times()
    rounds.round()
    burn(0.3)
    second = rounds.round(seconds=1.0)  # of the test's own clock: the burnt 0.3 s are 0.3 of it
    after = psutil.Process().cpu_times()
    theirs = after.user + after.system - times.user - times.system
    assert value(second, "process_cpu_ratio", f"pid {PID}") == pytest.approx(theirs, abs=0.05)


def test_fast_rounds_tell_the_cpu_of_a_process_twice_a_second() -> None:
    """As during a DeepDive: ticks are no number over 50 ms, and two seconds without one would be old."""
    rounds = Rounds(ProcessReader([myself()]))
    rounds.round()
    rounds.sheet.period_ns = 50 * 10**6
    burn(0.2)
    made = [rounds.round(slow=False, seconds=0.05) for _ in range(20)]
    found = [
        one["process_cpu_ratio", f"pid {PID}"] for one in made if ("process_cpu_ratio", f"pid {PID}") in one
    ]
    assert [counter.period_ns for counter in found] == [500 * 10**6] * 2
    assert found[0].value == pytest.approx(0.4, abs=0.15)


def test_the_main_thread_and_the_busy_ones_are_hot_and_sleepers_are_not() -> None:
    def busy(ended: threading.Event) -> None:
        while not ended.is_set():
            burn(0.01)

    def body(ended: threading.Event) -> None:
        busy(ended)

    rounds = Rounds(ProcessReader([myself()]))
    with threads(20), threads(1, body) as (worker,):
        rounds.round()
        time.sleep(0.3)
        rounds.round()
        third = rounds.round()
        devices = hot_tids(third)
        assert any(f"tid {worker.native_id} " in device for device in devices)
        assert any(f"tid {PID} " in device for device in devices)
        assert len(devices) <= HOT_THREADS


def test_a_thread_that_ends_is_forgotten() -> None:
    rounds = Rounds(ProcessReader([myself()]))
    before = len(os.listdir("/proc/self/task"))  # a numeric library may have some that Python does not count
    with threads(5):
        for _ in range(3):
            rounds.round()
    end = time.monotonic() + 20
    # The kernel takes a thread away a moment after Python has joined it.
    while value(rounds.round(), "process_threads_count", f"pid {PID}") > before:
        assert time.monotonic() < end
    devices = hot_tids(rounds.round())
    alive = {f"tid {name} " for name in os.listdir("/proc/self/task")}
    assert all(any(tid in device for tid in alive) for device in devices)


def test_not_every_thread_is_read_in_every_round(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 60 sleeping threads each takes its turn once in two slow periods of five rounds."""
    read: list[str] = []
    original = KeptFile.read

    def counting(file: KeptFile) -> bytes:
        if file.path.endswith("schedstat") and f"/task/{PID}/" not in file.path:
            read.append(file.path)
        return original(file)

    monkeypatch.setattr(KeptFile, "read", counting)
    rounds = Rounds(ProcessReader([myself()]))
    with threads(60):
        for _ in range(3):
            rounds.round(slow=False)
        read.clear()
        for _ in range(10):
            rounds.round(slow=False)
        others = threading.active_count() - 1
        assert len(set(read)) >= others - HOT_THREADS
        assert len(read) <= others + 10


def test_threads_beyond_the_descriptors_that_are_kept_are_read_as_well(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("prismtop.counters.process.KEPT_OPEN", 2)
    before = len(os.listdir("/proc/self/fd"))
    reader = ProcessReader([myself()])
    rounds = Rounds(reader)

    def turn(ended: threading.Event) -> None:
        while not ended.wait(0.001):
            sum(range(20_000))

    with threads(8, turn):
        rounds.round(slow=False)
        opened = len(os.listdir("/proc/self/fd")) - before
        time.sleep(0.2)
        rounds.round(slow=False, seconds=0.2)
        third = rounds.round()
    assert opened <= 2 + 1 + 3  # those two, the process's, and the main thread's
    assert sum(name == "thread_core_id" for name, _ in third) == HOT_THREADS
    reader.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_run_queue_waits_and_switches_come_from_schedstat_and_status(tmp_path: Path) -> None:
    rounds = Rounds(ProcessReader([ProcessId(42, 999)], proc(tmp_path, ran=0), {3: 1}))
    rounds.round()
    proc(tmp_path, ran=400_000_000, waited=100_000_000, slices=50, voluntary=30, involuntary=20)
    second = rounds.round()
    thread = "pid 42 tid 42 loop"
    assert value(second, "thread_cpu_ratio", thread) == pytest.approx(0.4)
    assert value(second, "thread_runq_wait_ratio", thread) == pytest.approx(0.1)
    assert value(second, "thread_runq_delay_seconds", thread) == pytest.approx(0.002)
    assert value(second, "thread_voluntary_switches_per_s", thread) == 30
    assert value(second, "thread_involuntary_switches_per_s", thread) == 20
    assert value(second, "thread_core_id", thread) == 3
    assert value(second, "thread_numa_node_id", thread) == 1
    assert value(second, "process_runq_wait_ratio", "pid 42") == pytest.approx(0.1)
    assert second["process_numa_nodes_count", "pid 42"].text == "1"
    assert value(second, "process_swap_bytes", "pid 42") == 7 * 1024
    assert second["process_cores_allowed_count", "pid 42"].text == "0-3,8"
    assert value(second, "process_cores_allowed_count", "pid 42") == 5


def proc(
    root: Path, ran: int, waited: int = 0, slices: int = 0, voluntary: int = 0, involuntary: int = 0
) -> str:
    fields = ["0"] * 50
    fields[0], fields[17], fields[19], fields[21], fields[36] = "S", "1", "999", "100", "3"
    stat = f"42 (a) b) {' '.join(fields)}\n"
    status = (
        "Name:\tloop\nVmSwap:\t7 kB\nCpus_allowed_list:\t0-3,8\nMems_allowed_list:\t0\n"
        f"voluntary_ctxt_switches:\t{voluntary}\nnonvoluntary_ctxt_switches:\t{involuntary}\n"
    )
    files = {
        "42/stat": stat,
        "42/status": status,
        "42/io": "rchar: 1\nread_bytes: 0\nwrite_bytes: 0\n",
        "42/task/42/stat": stat,
        "42/task/42/status": status,
        "42/task/42/comm": "loop\n",
        "42/task/42/schedstat": f"{ran} {waited} {slices}\n",
    }
    return plant(root, files)


def test_a_kernel_without_schedstat_is_a_reason(tmp_path: Path) -> None:
    where = proc(tmp_path, 0)
    (tmp_path / "42/task/42/schedstat").unlink()
    rounds = Rounds(ProcessReader([ProcessId(42, 999)], where))
    readings = rounds.round()
    readings.update(rounds.round())
    assert "no schedstat" in reason(readings, "thread_runq_wait_ratio", "pid 42 tid 42 loop")
    assert "no schedstat" in reason(readings, "process_runq_wait_ratio", "pid 42")


def test_a_pid_that_was_given_to_another_process_counts_as_ended(tmp_path: Path) -> None:
    rounds = Rounds(ProcessReader([ProcessId(42, 1)], proc(tmp_path, 0)))
    first = rounds.round()
    assert reason(first, "process_cpu_ratio", "pid 42") == "the process has ended"
    assert rounds.round() == {}


def test_a_process_that_ends_is_said_once_and_its_files_are_closed() -> None:
    import subprocess
    import sys

    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    stat = read_stat(child.pid)
    assert stat is not None
    rounds = Rounds(ProcessReader([ProcessId(child.pid, stat.start_time)]))
    rounds.round()
    child.communicate()
    open_files = len(os.listdir("/proc/self/fd"))
    after = rounds.round()
    assert reason(after, "process_rss_bytes", f"pid {child.pid}") == "the process has ended"
    assert len(os.listdir("/proc/self/fd")) < open_files
    assert rounds.round() == {}


def test_a_process_of_another_user_says_why_its_disk_traffic_is_missing(tmp_path: Path) -> None:
    where = proc(tmp_path, 0)
    (tmp_path / "42/io").unlink()
    (tmp_path / "42/io").mkdir()  # opening it fails, as for root too it would not with mode bits alone
    first = Rounds(ProcessReader([ProcessId(42, 999)], where)).round()
    assert reason(first, "process_read_bytes_per_s", "pid 42").startswith("/proc/42/io: ")


def test_a_thread_name_cannot_carry_control_characters(tmp_path: Path) -> None:
    where = proc(tmp_path, 0)
    (tmp_path / "42/task/42/comm").write_text("a\x1b[2J\n")
    first = Rounds(ProcessReader([ProcessId(42, 999)], where)).round()
    assert hot_tids(first) == {"pid 42 tid 42 a\ufffd[2J"}


def test_a_process_that_cannot_be_read_for_a_while_has_not_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exhausted(path: str) -> list[str]:
        raise OSError(24, "Too many open files")

    rounds = Rounds(ProcessReader([ProcessId(42, 999)], proc(tmp_path, 0)))
    with monkeypatch.context() as patched:
        patched.setattr(os, "listdir", exhausted)
        assert "Too many open files" in reason(rounds.round(), "process_cpu_ratio", "pid 42")
    assert value(rounds.round(), "process_threads_count", "pid 42") == 1
