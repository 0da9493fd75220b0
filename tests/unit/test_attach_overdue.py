"""A thread that does not stop in time: the process that asked for it has to end, and says what it knows."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from prismtop.attach import helper, pep768, ptrace, ptrace_inject
from prismtop.attach.errors import AttachPermissionError, TargetStateError
from prismtop.attach.handshake import NOTHING, Handshake, Seen
from prismtop.attach.pep768 import RemoteDebugger
from prismtop.attach.ptrace_inject import PtraceInjector, PtraceResult

LATE = TargetStateError("Thread 7 of process 7 did not stop within 2 s.")


def nothing(*_: object, **__: object) -> None:
    pass


def test_the_way_of_new_pythons_waits_no_longer_for_its_script(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ptrace, "_overdue", set())
    monkeypatch.setattr(pep768, "look", lambda *_: NOTHING)
    monkeypatch.setattr(pep768, "check_identity", nothing)
    monkeypatch.setattr(pep768._Follow, "_ask", nothing)
    waits = []

    def wake(follow: Any) -> None:
        waits.append(7)
        ptrace._overdue.add(7)

    monkeypatch.setattr(pep768._Follow, "_wake", wake)
    fields = RemoteDebugger(0, 0, 0, 0)
    follow = pep768._Follow(7, 1, Handshake.of("ab"), fields, True, contextlib.nullcontext)
    assert follow.until(ptrace.time.monotonic() + 5) == NOTHING
    assert waits == [7]


def test_the_first_reason_is_told_when_the_room_cannot_be_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    injector = PtraceInjector.__new__(PtraceInjector)
    injector.pid, injector.on_step = 7, nothing
    injector.image = SimpleNamespace(symbols={"Py_IsInitialized": 1})  # type: ignore[assignment]
    monkeypatch.setattr(ptrace_inject, "seems_initialized", lambda *_: True)
    monkeypatch.setattr(ptrace_inject.memory, "write", nothing)
    stops = iter([None, LATE, AttachPermissionError("The kernel refuses ptrace on process 7.")])

    def with_thread(work: Callable[[Any], None], **_: bool) -> Any:
        error = next(stops)
        if error is not None:
            raise error
        thread = SimpleNamespace(syscall=lambda *_: 0x1000)
        work(thread)
        return thread

    monkeypatch.setattr(injector, "with_thread", with_thread)
    with pytest.raises(TargetStateError, match="did not stop"):
        injector.inject("pass", Handshake.of("ab"), timeout_s=1.0)
    assert list(stops) == []


def test_a_payload_that_runs_is_no_failure_when_its_room_cannot_be_given_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    room = (0x1000, 4096)
    seen = Seen(begun=True, started=True, error=None, error_fd=None)
    done = PtraceResult(7, "main", 100.0, 100.0, False, seen, room, ())

    def unmap(_: object) -> bool:
        raise LATE

    injector = SimpleNamespace(inject=lambda *_, **__: done, unmap=unmap)
    monkeypatch.setattr(ptrace_inject, "PtraceInjector", lambda *_, **__: injector)
    for name in ("check_identity", "keep_off", "rehearse"):
        monkeypatch.setattr(helper, name, nothing)
    monkeypatch.setattr(ptrace_inject, "mark_read", nothing)
    request = {"op": "inject", "way": "ptrace", "pid": os.getpid(), "start_time": 1, "memfd": "a",
               "error_memfd": "b", "source": "pass", "timeout_s": 1.0, "wake": True, "give_back": True,
               "cpus": [0]}  # fmt: skip
    answer = helper._answer_to(request)
    assert answer["ok"]
    assert answer["result"]["started"]
    assert tuple(answer["result"]["scratch"]) == room
