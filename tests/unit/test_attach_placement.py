"""Where the helper runs while it holds a thread."""

from __future__ import annotations

import os
import threading

import pytest

from prismtop.attach import placement
from prismtop.attach.process import thread_cpu

CPUS = os.sched_getaffinity(0)
ME = os.getpid()


def test_the_processor_of_a_thread_is_one_of_ours() -> None:
    assert thread_cpu(ME, threading.get_native_id()) in CPUS


def test_a_thread_that_has_ended_has_no_processor() -> None:
    assert thread_cpu(ME, 1 << 22) is None


def test_a_held_thread_shares_its_processor_and_afterwards_we_may_run_anywhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cpu = min(CPUS)
    monkeypatch.setattr(placement, "thread_cpu", lambda pid, tid: cpu)
    monkeypatch.setattr(placement, "running_on", lambda pid: None)
    with placement.beside(ME, ME):
        inside = os.sched_getaffinity(0)
    assert (inside, os.sched_getaffinity(0)) == ({cpu}, CPUS)


@pytest.mark.skipif(len(CPUS) < 2, reason="one processor only")
def test_the_rehearsal_keeps_off_the_processor_of_a_running_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, rehearsed = min(CPUS), []
    monkeypatch.setattr(placement, "thread_cpu", lambda pid, tid: cpu)
    monkeypatch.setattr(placement, "running_on", lambda pid: cpu)
    monkeypatch.setattr(placement, "rehearse_again", lambda: rehearsed.append(os.sched_getaffinity(0)))
    with placement.beside(ME, ME):
        assert os.sched_getaffinity(0) == {cpu}
    assert rehearsed == [CPUS - {cpu}]


def test_a_thread_that_ended_meanwhile_moves_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement, "thread_cpu", lambda pid, tid: None)
    with placement.beside(ME, ME):
        assert os.sched_getaffinity(0) == CPUS
