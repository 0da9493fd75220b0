"""Counters of a process against what top, pidstat and perf say about it over the same time."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from prismtop.counters.process import ProcessReader
from prismtop.counters.sheet import Sheet
from prismtop.model import Counter, ProcessId
from prismtop.targets.procfs import read_stat

SECONDS = 2.0
WORKER = """
import time
print("up", flush=True)
while True:
    end = time.thread_time() + 0.004
    while time.thread_time() < end:
        pass
    time.sleep(0.006)
"""


@pytest.fixture
def worker() -> Iterator[int]:
    """A process that works 4 ms and sleeps 6 ms, over and over."""
    process = subprocess.Popen([sys.executable, "-c", WORKER], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    try:
        yield process.pid
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


class Measured:
    """Our own counters of a process, from `start` to `stop`."""

    def __init__(self, pid: int) -> None:
        stat = read_stat(pid)
        assert stat is not None
        self.pid = pid
        self._sheet = Sheet()
        self._reader = ProcessReader([ProcessId(pid, stat.start_time)])

    def read(self) -> dict[str, Counter]:
        self._sheet.now_ns = time.monotonic_ns()
        self._reader.read(self._sheet, slow=True)
        return {counter.name: counter for counter in self._sheet.take()}

    def during(self, command: list[str]) -> tuple[dict[str, float], str]:
        """Values over the time that a command runs, and what the command printed."""
        self.read()
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        found = {name: c.value for name, c in self.read().items() if c.value is not None}
        self._reader.close()
        assert done.returncode == 0, done.stderr
        return found, done.stdout + done.stderr


def tool(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed")
    return path


def test_cpu_and_memory_agree_with_top(worker: int) -> None:
    top = [tool("top"), "-b", "-n", "2", "-d", str(SECONDS), "-p", str(worker)]
    mine, text = Measured(worker).during(top)
    rows = [line.split() for line in text.splitlines() if line.split()[:1] == [str(worker)]]
    resident, cpu = rows[-1][5], float(rows[-1][8])
    # top's second sample covers almost the same time; a loaded machine moves both.
    assert mine["process_cpu_ratio"] == pytest.approx(cpu / 100, rel=0.35, abs=0.05)
    kib = float(resident.rstrip("mg")) * {"m": 1024, "g": 1 << 20}.get(resident[-1], 1)
    assert mine["process_rss_bytes"] == pytest.approx(kib * 1024, rel=0.1)


def test_switches_and_faults_agree_with_pidstat(worker: int) -> None:
    pidstat = [tool("pidstat"), "-w", "-p", str(worker), str(int(SECONDS)), "1"]
    mine, text = Measured(worker).during(pidstat)
    row = next(line.split() for line in text.splitlines() if f" {worker} " in line)
    at = row.index(str(worker))
    assert mine["thread_voluntary_switches_per_s"] == pytest.approx(float(row[at + 1]), rel=0.25)


def test_cpu_time_and_switches_agree_with_perf(worker: int) -> None:
    events = "task-clock,context-switches"
    perf = [tool("perf"), "stat", "-x", ";", "-e", events, "-p", str(worker), "sleep", str(SECONDS)]
    if subprocess.run([*perf[:-1], "0.1"], capture_output=True, check=False).returncode != 0:
        pytest.skip("perf may not count here")
    measured = Measured(worker)
    began = time.monotonic()
    mine, text = measured.during(perf)
    took = time.monotonic() - began
    counts = {
        name: float(value) for value, name in re.findall(r"^([\d.]+);[^;]*;([a-z-]+)", text, re.MULTILINE)
    }
    switches = mine["thread_voluntary_switches_per_s"] + mine["thread_involuntary_switches_per_s"]
    # perf counts while its `sleep` runs; its own start and end are in our time too.
    assert switches * took == pytest.approx(counts["context-switches"], rel=0.3)
    assert mine["thread_cpu_ratio"] * took == pytest.approx(counts["task-clock"] / 1e3, rel=0.3)
