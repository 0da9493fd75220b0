"""Where the main thread of a process runs."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable

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
