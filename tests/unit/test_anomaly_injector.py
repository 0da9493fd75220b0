"""The course of one experiment, in a process of its own: the guard forks."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

RUN = """
import json, os, sys, time
from dataclasses import replace
from pathlib import Path
from prismtop.anomaly import injector
from prismtop.anomaly.catalogue import scenario
from prismtop.anomaly.scenario import Request
from prismtop.errors import PrismtopError
from prismtop.targets.procfs import read_stat

state, pid, seconds = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
seen = {}

def wait(request, guard):
    while True:
        yield 0.05

def now():
    return time.monotonic_ns()

%s
request = Request(pid, read_stat(pid).start_time, seconds)
made = replace(scenario("freeze_bursts"), inject=inject, prepare=prepare)
try:
    outcome = injector.run(made, request, directory=state, **more)
    seen.update(start_ns=outcome.start_ns, end_ns=outcome.end_ns, ended_by=outcome.ended_by,
                ok=outcome.rollback.ok, planned_end_ns=outcome.planned_end_ns)
except PrismtopError as error:
    seen["failed"] = str(error)
print(json.dumps(seen))
"""
USUAL = "inject, prepare, more = wait, lambda request: None, {}\n"


@pytest.fixture
def target() -> Iterator[int]:
    child = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(60)"])
    yield child.pid
    child.kill()
    child.wait()


def start(state: Path, target: int, seconds: float, body: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-c", RUN % (USUAL + body), str(state), str(target), str(seconds)]
    return subprocess.run(argv, capture_output=True, text=True, timeout=60)


def run(state: Path, target: int, seconds: float, body: str) -> dict[str, Any]:
    done = start(state, target, seconds, body)
    assert done.returncode == 0, (done.returncode, done.stderr)
    seen: dict[str, Any] = json.loads(done.stdout)
    return seen


def test_preparing_takes_nothing_from_the_time_of_the_experiment(tmp_path: Path, target: int) -> None:
    slow = "injector.TTL_GRACE_S = 0.3\nprepare = lambda request: time.sleep(1.0)"
    seen = run(tmp_path, target, 0.4, slow)
    assert (seen["ended_by"], seen["ok"]) == ("duration", True)


def test_a_fault_that_hangs_after_it_was_prepared_is_ended_when_its_time_is_up(
    tmp_path: Path, target: int
) -> None:
    hang = "injector.TTL_GRACE_S = 0.3\ndef inject(request, guard):\n    yield 0.05\n    time.sleep(50)"
    assert start(tmp_path, target, 0.2, hang).returncode == -signal.SIGKILL


SLOW_START = """
def inject(request, guard):
    time.sleep(0.3)
    for _ in range(4):
        yield None
    seen["acts_ns"] = now()
    while True:
        yield 0.05
more = {"started": lambda at: seen.setdefault("started", []).append((at, now()))}
"""


def test_an_experiment_begins_when_its_fault_takes_effect(tmp_path: Path, target: int) -> None:
    seen = run(tmp_path, target, 0.4, SLOW_START)
    ((start_ns, told_ns),) = seen["started"]
    assert seen["acts_ns"] <= start_ns == seen["start_ns"] <= told_ns
    assert seen["planned_end_ns"] == start_ns + 400_000_000 <= seen["end_ns"]
    assert seen["ok"]


def test_a_fault_that_takes_no_effect_in_time_has_failed(tmp_path: Path, target: int) -> None:
    never = "injector.START_S = 0.3\ndef inject(request, guard):\n    while True:\n        yield None"
    assert "not taken effect" in run(tmp_path, target, 5.0, never)["failed"]


def test_an_experiment_is_stopped_before_its_fault_took_effect(tmp_path: Path, target: int) -> None:
    body = """
def inject(request, guard):
    while True:
        yield None
more = {"stop": lambda: True, "started": lambda at: seen.setdefault("started", at)}
"""
    seen = run(tmp_path, target, 5.0, body)
    assert (seen["ended_by"], seen["ok"], "started" in seen) == ("stop", True, False)
    assert seen["start_ns"] == seen["end_ns"]
