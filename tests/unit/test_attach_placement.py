"""Where the main thread of a process runs, and keeping off that place."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import pytest

from prismtop.attach import placement
from prismtop.attach.process import thread_cpu

CPUS = os.sched_getaffinity(0)
ME = os.getpid()


def test_the_processor_of_a_thread_is_one_of_ours() -> None:
    assert thread_cpu(ME, threading.get_native_id()) in CPUS


def test_a_thread_that_has_ended_has_no_processor() -> None:
    assert thread_cpu(ME, 1 << 22) is None


def test_a_process_whose_main_thread_sleeps_runs_nowhere() -> None:
    with subprocess.Popen(["sleep", "30"]) as process:
        wait_until(lambda: placement.running_on(process.pid) is None)
        process.kill()


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_the_processor_of_a_running_main_thread_is_known() -> None:
    with subprocess.Popen([sys.executable, "-S", "-c", "while True: pass"]) as process:
        wait_until(lambda: placement.running_on(process.pid) in CPUS)
        process.kill()


def processors_of(pid: int) -> set[int]:
    return os.sched_getaffinity(pid)


def test_a_process_is_kept_off_the_processor_of_the_engines_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement, "thread_cpu", lambda pid, tid: min(CPUS))
    with subprocess.Popen(["sleep", "30"]) as process:
        elsewhere = placement.keep_off(ME, CPUS, (process.pid,))
        assert processors_of(process.pid) == (CPUS - {min(CPUS)} or CPUS)
        assert elsewhere is (len(CPUS) > 1)
        process.kill()


def test_with_one_processor_for_both_it_is_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement, "thread_cpu", lambda pid, tid: min(CPUS))
    with subprocess.Popen(["sleep", "30"]) as process:
        assert placement.keep_off(ME, {min(CPUS)}, (process.pid,)) is False
        assert processors_of(process.pid) == {min(CPUS)}
        process.kill()


def test_what_has_ended_is_left_out() -> None:
    placement.place(CPUS, (1 << 22,))
