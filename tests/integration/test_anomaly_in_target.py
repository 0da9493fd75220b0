"""Faults inside a target's interpreter: they act, they end, and the target is as it was."""

from __future__ import annotations

import json
import os
import random
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import pytest

from prismtop.anomaly.faults import in_target
from prismtop.anomaly.journal import all_journals

ROOT = Path(__file__).resolve().parents[2]
TARGET = ROOT / "tests" / "integration" / "targets" / "tokenizing_loop.py"
PATIENCE_S = 30.0
KILLS = 6
AGREED = ("--in-target", "--yes")


@pytest.fixture
def target() -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen([sys.executable, str(TARGET)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        there = in_target.check(process.pid)
        if not there.ok:
            pytest.skip(f"no way into a process here: {there.reason}")
        yield process
    finally:
        process.kill()
        process.wait()


def injecting(state: Path, pid: int, *argv: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "prismtop", "anomaly", *map(str, argv), "--pid", str(pid)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "XDG_STATE_HOME": str(state)},
    )


def run(state: Path, pid: int, fault: str, seconds: float = 60.0) -> subprocess.Popen[str]:
    return injecting(state, pid, "run", fault, "--duration", seconds, "--intensity", "0.9", *AGREED, "--json")


def ours(pid: int) -> list[str]:
    """Descriptors of ours that the target holds."""
    found = []
    for number in os.listdir(f"/proc/{pid}/fd"):
        try:
            found.append(os.readlink(f"/proc/{pid}/fd/{number}"))
        except OSError:
            continue
    return [name for name in found if "prismtop" in name]


def wait_for(condition: Callable[[], bool]) -> bool:
    limit = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > limit:
            return False
        time.sleep(0.002)
    return True


def says(output: IO[str] | None) -> dict[str, float]:
    """The target's latest line: calls of its tokeniser a second, CPU seconds, threads, its method's name."""
    assert output is not None
    made: dict[str, float] = json.loads(output.readline())
    return made


def disturbed(line: dict[str, float], wrapped: bool) -> bool:
    return line["longest_ms"] > 5 and line["wrapped"] == wrapped


@pytest.mark.parametrize("fault", ["gc_storm", "gil_hog", "slow_tokenizer"])
def test_it_acts_and_then_everything_is_as_before(
    tmp_path: Path, target: subprocess.Popen[str], fault: str
) -> None:
    injector = run(tmp_path, target.pid, fault)
    assert wait_for(lambda: bool(ours(target.pid)))
    # A round takes 1 ms; the interpreter is handed on after 5 ms at the earliest.
    assert wait_for(lambda: disturbed(says(target.stdout), fault == "slow_tokenizer"))
    injector.send_signal(signal.SIGTERM)
    _, err = injector.communicate(timeout=PATIENCE_S)
    assert (injector.returncode, err, ours(target.pid)) == (128 + signal.SIGTERM, "", [])
    assert all_journals(tmp_path / "prismtop" / "anomaly") == []
    assert wait_for(lambda: says(target.stdout)["wrapped"] == 0)


def test_it_ends_when_its_time_is_over(tmp_path: Path, target: subprocess.Popen[str]) -> None:
    out, err = run(tmp_path, target.pid, "gil_hog", 0.3).communicate(timeout=PATIENCE_S)
    assert (json.loads(out)["rollback"], err, ours(target.pid)) == ("ok", "", [])


def test_it_is_refused_without_the_flag_that_agrees_to_it(
    tmp_path: Path, target: subprocess.Popen[str]
) -> None:
    done = injecting(tmp_path, target.pid, "run", "gil_hog", "--yes")
    _, err = done.communicate(timeout=PATIENCE_S)
    assert (done.returncode, "--in-target" in err, ours(target.pid)) == (2, True, [])


def test_it_is_refused_in_production(tmp_path: Path, target: subprocess.Popen[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "prismtop", "anomaly", "run", "gil_hog", f"--pid={target.pid}", *AGREED],
        cwd=ROOT,
        env={**os.environ, "XDG_STATE_HOME": str(tmp_path), "PRISMTOP_PRODUCTION": "1"},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert (done.returncode, "production" in done.stderr, ours(target.pid)) == (2, True, [])


def test_a_process_without_a_tokeniser_is_left_as_it_was(tmp_path: Path) -> None:
    code = "import time\nprint(1, flush=True)\nwhile True: time.sleep(0.01)"
    plain = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    try:
        assert plain.stdout is not None
        plain.stdout.readline()
        if not in_target.check(plain.pid).ok:
            pytest.skip("no way into a process here")
        injector = run(tmp_path, plain.pid, "slow_tokenizer", 5.0)
        _, err = injector.communicate(timeout=PATIENCE_S)
        assert (injector.returncode, "no tokeniser" in err) == (3, True)
        assert [name for name in ours(plain.pid) if "-err-" not in name] == []
        assert all_journals(tmp_path / "prismtop" / "anomaly") == []
    finally:
        plain.kill()
        plain.wait()


def test_kills_of_the_injector_at_random_moments_are_all_rolled_back(
    tmp_path: Path, target: subprocess.Popen[str]
) -> None:
    rng = random.Random(5)
    times = []
    for number in range(KILLS):
        injector = run(tmp_path, target.pid, ("gil_hog", "gc_storm", "slow_tokenizer")[number % 3])
        assert wait_for(lambda: bool(ours(target.pid)))
        time.sleep(rng.uniform(0, 0.2))
        killed = time.monotonic()
        injector.send_signal(signal.SIGKILL)
        injector.communicate(timeout=PATIENCE_S)
        assert wait_for(lambda: not ours(target.pid))
        times.append(1000 * (time.monotonic() - killed))
        assert wait_for(lambda: not all_journals(tmp_path / "prismtop" / "anomaly"))
    print(f"kill -9 to target undisturbed: median {statistics.median(times):.0f} ms, most {max(times):.0f}")
    assert says(target.stdout) is not None
    assert wait_for(lambda: says(target.stdout)["wrapped"] == 0)


def test_it_ends_by_itself_when_nobody_is_left_to_roll_it_back(
    tmp_path: Path, target: subprocess.Popen[str]
) -> None:
    injector = run(tmp_path, target.pid, "gil_hog")
    assert wait_for(lambda: bool(ours(target.pid)))
    (journal,) = all_journals(tmp_path / "prismtop" / "anomaly")
    assert journal.header is not None
    os.kill(injector.pid, signal.SIGSTOP)
    watchdog = next(pid for pid in children(injector.pid) if comm(pid) == "prismtop-guard")
    os.kill(watchdog, signal.SIGKILL)
    injector.kill()
    injector.wait()
    assert wait_for(lambda: not ours(target.pid))


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def comm(pid: int) -> str:
    return Path(f"/proc/{pid}/comm").read_text().strip()
