"""Many injections, under load and while idle, into programs that notice every disturbance.

By default 200 per case; all 2,000 with --slow.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from prismtop.attach.ladder import free_scratch
from tests.integration.targets.harness import HERE, Target, enter, python_or_skip, run_injector, running

MINORS = ["3.9", "3.10", "3.11", "3.12", "3.13", "3.14"]
CLOSING = "import os\nfd = os.memfd_create('prismtop-%(nonce)s')\nimport time\ntime.sleep(0.3)\nos.close(fd)"


def soak_careful(minor: str, count: int, *, alarm: bool, where: str = "aux") -> dict[str, object]:
    """Inject into targets/careful.py and return what it noticed."""
    python = python_or_skip(minor)
    seconds = count * 0.13 + 5  # an injection looks twice, 30 ms apart, which threads sleep
    command = [python, str(HERE / "careful.py"), str(seconds), *(["alarm"] if alarm else [])]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        pid = int(process.stdout.readline().split()[1])
        done = run_injector(pid, where, count, timeout_s=seconds * 4 + 60)
        assert done.returncode == 0, done.stderr
        told = json.loads(done.stdout)
        out, err = process.communicate(timeout=seconds * 3 + 60)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 0, (process.returncode, err[-500:])
    noticed: dict[str, object] = json.loads(out)
    noticed["told"] = {k: v for k, v in told.items() if k != "pauses"}
    return noticed


def assert_unnoticed(noticed: dict[str, object], count: int) -> None:
    told = noticed["told"]
    assert isinstance(told, dict)
    assert told["done"] + sum(told["errors"].values()) == count, told
    assert told["done"] >= count * 0.9, told
    assert noticed["errors"] == [], noticed
    assert noticed["mask"] is True
    assert noticed["runs"] == told["done"], noticed


@pytest.mark.parametrize("minor", MINORS)
def test_busy_threads_notice_nothing_of_200_injections(minor: str) -> None:
    assert_unnoticed(soak_careful(minor, 200, alarm=False), 200)


@pytest.mark.slow
@pytest.mark.parametrize("minor", MINORS)
def test_busy_threads_notice_nothing_of_2000_injections(minor: str) -> None:
    assert_unnoticed(soak_careful(minor, 2000, alarm=False), 2000)


@pytest.mark.slow
@pytest.mark.parametrize("minor", ["3.9", "3.11", "3.13"])
def test_a_target_with_a_200_hz_timer_signal_lives_through_2000_injections(minor: str) -> None:
    """The kernel may hand such signals to any thread, so early wake-ups are not counted here; all else is."""
    noticed = soak_careful(minor, 2000, alarm=True)
    told, errors = noticed["told"], noticed["errors"]
    assert isinstance(told, dict)
    assert isinstance(errors, list)
    assert noticed["runs"] == told["done"]
    assert noticed["mask"] is True
    assert not [e for e in errors if "alloc" in e or "pipe" in e or "queue" in e or "float" in e]


@pytest.mark.parametrize("mode", ["spin_threads", "malloc", "queue"])
@pytest.mark.parametrize("minor", ["3.9", "3.12", "3.14"])
def test_attach_and_detach_again_and_again_leaves_nothing(minor: str, mode: str, tmp_path: Path) -> None:
    cycles(minor, mode, tmp_path, 20)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["loop", "malloc", "queue"])
@pytest.mark.parametrize("minor", ["3.11", "3.14"])
def test_attach_and_detach_200_times_leaves_nothing(minor: str, mode: str, tmp_path: Path) -> None:
    cycles(minor, mode, tmp_path, 200)


def settled(target: Target) -> list[str]:
    """Its descriptors, when the last payload has ended."""
    for _ in range(200):
        if not [d for d in target.descriptors() if "prismtop" in d]:
            break
        time.sleep(0.01)
    return target.descriptors()


def cycles(minor: str, mode: str, tmp: Path, count: int) -> None:
    """The whole way, helper process included."""
    with running(mode, tmp, python_or_skip(minor)) as target:
        enter(target, CLOSING)  # imports and memory arenas settle
        before = (settled(target), target.mappings())
        for _ in range(count):
            done, _ = enter(target, CLOSING)
            assert done.started, done
            if done.scratch:
                assert free_scratch(target.pid, target.start_time, done.scratch)
        assert target.works()
        assert settled(target) == before[0]
        assert target.mappings() <= before[1] + 8  # its own allocations come and go; two per cycle would show


COUNTING = """
import mmap, os, signal, struct, sys, time
shared = mmap.mmap(os.open(sys.argv[1], os.O_RDWR), 8)
n = [0]
def count(*_):
    n[0] += 1
    struct.pack_into('<Q', shared, 0, n[0])
signal.signal(signal.SIGUSR1, count)
print('PID', os.getpid(), flush=True)
while True:
    time.sleep(0.001)
"""


@pytest.mark.parametrize("minor", ["3.9", "3.11", "3.13"])
def test_signals_sent_during_injections_all_arrive(minor: str, tmp_path: Path) -> None:
    """A signal that arrives while a thread is held is handed on: none is lost, none ends the target.

    Each is sent only when the one before it has arrived, because two that wait at the same time count once.
    """
    counter = tmp_path / "counter"
    counter.write_bytes(bytes(8))
    process = subprocess.Popen(
        [python_or_skip(minor), "-c", COUNTING, str(counter)], stdout=subprocess.PIPE, text=True
    )
    injector = None
    try:
        assert process.stdout is not None
        process.stdout.readline()
        command = [sys.executable, str(HERE / "injector.py"), str(process.pid), "main", "200"]
        injector = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        sent = 0
        while injector.poll() is None and sent < 3000:
            process.send_signal(signal.SIGUSR1)
            sent += 1
            end = time.monotonic() + 10
            while int.from_bytes(counter.read_bytes(), "little") < sent:
                assert time.monotonic() < end, f"signal {sent} was lost"
                assert process.poll() is None
                time.sleep(0.0005)
        assert sent > 100
        assert process.poll() is None
    finally:
        process.kill()
        process.communicate()
        if injector is not None:
            injector.kill()
            injector.wait()
