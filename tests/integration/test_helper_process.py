"""One helper process serves several requests, and its death or its parent's is noticed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from prismtop.attach.errors import HelperError, TargetExitedError
from prismtop.attach.helper_process import Helper
from prismtop.attach.process import read_stat
from tests.integration.targets.harness import enter, python_or_skip, running
from tests.integration.test_inject_states import wait_for_state

NO_SIGN = "pass"
"""A payload that makes no memfd: the helper waits for one until its time is over."""


def probe_of_ourselves() -> dict[str, Any]:
    """A request that touches nothing but the test's own process."""
    return {"op": "probe", "pid": os.getpid(), "address": 0}


def helpers() -> list[int]:
    """Helper processes that are children of the test."""
    children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
    return [int(pid) for pid in children if b"attach.helper" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def test_two_processes_are_entered_by_one_helper(tmp_path: Path) -> None:
    with running("loop", tmp_path) as one, running("loop", tmp_path) as two, Helper() as helper:
        seen = []
        for target in (one, two):
            enter(target, helper=helper)
            seen.append(helpers())
    assert len(seen[0]) == 1
    assert seen[0] == seen[1]


def test_a_helper_is_gone_when_it_is_closed() -> None:
    with Helper() as helper:
        helper.ask(probe_of_ourselves(), 0.0)
    assert helpers() == []


def test_no_helper_is_started_before_it_is_asked_something() -> None:
    with Helper():
        assert helpers() == []


def test_a_request_that_fails_does_not_end_the_helper() -> None:
    with Helper() as helper:
        gone = {"op": "free", "pid": os.getpid(), "start_time": 1, "scratch": [0, 0]}
        with pytest.raises(TargetExitedError):
            helper.ask(gone, 0.0)
        before = helpers()
        helper.ask(probe_of_ourselves(), 0.0)
        assert helpers() == before != []


def test_a_helper_that_was_killed_is_replaced_at_the_next_request() -> None:
    with Helper() as helper:
        helper.ask(probe_of_ourselves(), 0.0)
        (killed,) = helpers()
        os.kill(killed, signal.SIGKILL)
        os.waitid(os.P_PID, killed, os.WEXITED | os.WNOWAIT)
        helper.ask(probe_of_ourselves(), 0.0)
        assert helpers() not in ([], [killed])


def test_a_helper_killed_at_work_is_said_to_be_killed(tmp_path: Path) -> None:
    with running("loop", tmp_path) as target, Helper() as helper:

        def kill() -> None:
            for pid in helpers():
                os.kill(pid, signal.SIGKILL)

        with pytest.raises(HelperError, match="killed by signal 9"):
            enter(target, NO_SIGN, timeout_s=20, helper=helper, meanwhile=kill)
        assert target.works()


def test_a_main_thread_that_does_not_stop_in_time_is_not_stopped_later(tmp_path: Path) -> None:
    with running("vfork", tmp_path, python_or_skip("3.11")) as target, Helper() as helper:
        fifo = Path(f"{target.counter}.fifo")
        os.mkfifo(fifo)
        wait_for_state(target.pid, "D")
        done, _ = enter(target, timeout_s=8, helper=helper)
        assert done.armed
        assert "did not stop within 2 s" in done.notes[0]
        assert helpers() == []  # nothing else takes back that it shall stop
        fifo.write_bytes(b"")
        assert target.works(2)
        enter(target, helper=helper)
        assert len(helpers()) == 1
        assert target.works()


def test_the_helper_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    program = (
        "import os, time\nfrom prismtop.attach.helper_process import Helper\nh = Helper()\n"
        "h.ask({'op': 'probe', 'pid': os.getpid(), 'address': 0}, 0.0)\n"
        "print(h._process.pid, flush=True)\ntime.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    start_time = read_stat(pid).start_time
    parent.kill()
    parent.communicate()
    end = time.monotonic() + 20
    while time.monotonic() < end and _lives(pid, start_time):
        time.sleep(0.02)
    assert not _lives(pid, start_time)


def _lives(pid: int, start_time: int) -> bool:
    try:
        stat = read_stat(pid)
    except Exception:
        return False
    return stat.start_time == start_time and not stat.exited
