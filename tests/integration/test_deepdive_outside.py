"""Layers from outside over real processes. Each test needs a tool or a privilege, and says which it lacks."""

from __future__ import annotations

import itertools
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from prismtop.deepdive.layer import LayerEvent
from prismtop.deepdive.layers.scheduler import WAYS, SchedulerCollector
from prismtop.deepdive.layers.stacks import StacksCollector
from prismtop.deepdive.layers.uprobes import UprobesCollector, why_no_uprobes
from prismtop.model import LayerState
from prismtop.sources.stacks import find_py_spy
from tests.unit.outside_processes import NCCL, gone, library, python_programs, wait_for

ROOT = Path(__file__).resolve().parents[2]
S = 10**9
WORK = """
import os, time
os.sched_setaffinity(0, {{{core}}})
def step():
    end = time.thread_time() + 0.004
    while time.thread_time() < end:
        pass
while True:
    step()
    time.sleep(0.002)
"""
HOG = """
import ctypes, os
os.sched_setaffinity(0, {{{core}}})
ctypes.CDLL(None).prctl(15, b"the hog", 0, 0, 0)
while True:
    pass
"""


@pytest.fixture
def process() -> Iterator[Callable[[str], int]]:
    with python_programs() as start:
        yield start


def a_core() -> int:
    return max(os.sched_getaffinity(0))


def ran_ns(pid: int) -> int:
    """CPU time of the main thread so far."""
    return int(Path(f"/proc/{pid}/task/{pid}/schedstat").read_text().split()[0])


def switches(pid: int) -> int:
    """How often the main thread left its core by itself so far."""
    words = Path(f"/proc/{pid}/task/{pid}/status").read_text().split()
    return int(words[words.index("voluntary_ctxt_switches:") + 1])


def captured(collector: SchedulerCollector | UprobesCollector, pid: int, seconds: float) -> list[LayerEvent]:
    """What is collected while the process runs for some seconds, once the layer does."""
    collector.start()
    wait_for(lambda: collector.running, "the layer to begin")
    before = ran_ns(pid)
    wait_for(lambda: ran_ns(pid) - before > seconds * S, "the process to run")
    collector.stop()
    return list(collector.events())


@pytest.mark.parametrize("way", WAYS, ids=[way[0] for way in WAYS])
def test_a_hog_on_the_targets_core_shows_as_waits_and_by_its_name(way, process: Callable[[str], int]) -> None:  # type: ignore[no-untyped-def]
    missing = way[1]()
    if missing is not None:
        pytest.skip(str(missing))
    core = a_core()
    pid, _ = process(WORK.format(core=core)), process(HOG.format(core=core))
    time.sleep(0.3)
    collector = SchedulerCollector([pid], {pid: pid}, 30.0, [way])
    began = time.monotonic_ns()
    events = captured(collector, pid, 0.15)
    layer = collector.after()
    assert layer.state is LayerState.ON, layer.reason
    assert layer.reason.startswith(way[0])
    waits = [event for event in events if event.name == "runq"]
    blamed = {str(event.args.get(key, "")) for event in waits for key in ("instead", "also", "preempted_by")}
    assert "the hog" in ", ".join(blamed).split(", ")
    assert {event.args["core"] for event in events if event.name == "oncpu"} == {core}
    # One thread is in one state at a time: its slices do not overlap.
    ordered = sorted((event.t0_ns, event.t0_ns + event.dur_ns) for event in events if event.name != "gil")
    assert all(first[1] <= second[0] for first, second in itertools.pairwise(ordered))
    assert began <= ordered[0][0] <= ordered[-1][1] <= time.monotonic_ns()


@pytest.mark.parametrize("way", WAYS, ids=[way[0] for way in WAYS])
def test_an_engine_of_many_threads_is_traced(way, process: Callable[[str], int]) -> None:  # type: ignore[no-untyped-def]
    """bpftrace 0.17 made of a filter for 18 threads and more what the kernel refuses."""
    missing = way[1]()
    if missing is not None:
        pytest.skip(str(missing))
    pid = process(
        "import threading, time\n"
        "for n in range(45): threading.Thread(target=time.sleep, args=(600,), daemon=True).start()\n"
        "while True: time.sleep(0.002)"
    )
    wait_for(lambda: len(os.listdir(f"/proc/{pid}/task")) == 46, "its threads")
    collector = SchedulerCollector([pid], {pid: pid}, 30.0, [way])
    collector.start()
    wait_for(lambda: collector.running, "the layer to begin")
    before = switches(pid)
    wait_for(lambda: switches(pid) > before + 40, "switches")
    collector.stop()
    events = list(collector.events())
    reason = collector.after().reason
    assert reason.startswith(way[0])
    # perf is told of no switch from an idle core (Linux 6.18): that there are some is all that is sure.
    least = 40 if way[0] == "bpftrace" else 1
    assert sum(event.tid == pid and event.name == "oncpu" for event in events) >= least, reason


@pytest.mark.parametrize("way", WAYS, ids=[way[0] for way in WAYS])
def test_what_is_told_agrees_with_what_the_kernel_counts_or_that_is_said(
    way, process: Callable[[str], int]
) -> None:  # type: ignore[no-untyped-def]
    missing = way[1]()
    if missing is not None:
        pytest.skip(str(missing))
    pid = process(WORK.format(core=a_core()))
    time.sleep(0.3)
    collector = SchedulerCollector([pid], {pid: pid}, 30.0, [way])
    collector.start()
    wait_for(lambda: collector.running, "the layer to begin")

    def counted() -> tuple[int, int, int]:
        ran, waited = Path(f"/proc/{pid}/task/{pid}/schedstat").read_text().split()[:2]
        return int(ran), int(waited), time.monotonic_ns()

    first = counted()
    time.sleep(1.0)
    last = counted()
    collector.stop()
    events = list(collector.events())

    def within(name: str) -> int:
        spans = [(e.t0_ns, e.t0_ns + e.dur_ns) for e in events if e.name == name]
        return sum(max(0, min(end, last[2]) - max(begin, first[2])) for begin, end in spans)

    def slack(name: str) -> float:
        """The kernel counts a run or a wait when it ends: one may be under way at either end."""
        return 0.05 * (last[2] - first[2]) + 2 * max((e.dur_ns for e in events if e.name == name), default=0)

    if "not every switch was told" in collector.after().reason:
        assert collector.after().state is LayerState.PARTIAL
        assert within("oncpu") < 0.95 * (last[0] - first[0])
        return
    assert abs(within("oncpu") - (last[0] - first[0])) < slack("oncpu")
    assert abs(within("runq") - (last[1] - first[1])) < slack("runq")


def test_calls_of_a_collective_are_timed(process: Callable[[str], int], tmp_path: Path) -> None:
    why_not = why_no_uprobes(os.getpid())
    if why_not:
        pytest.skip(why_not)
    made = library(tmp_path, "#include <unistd.h>\n" + NCCL.replace("return x + 1;", "usleep(x); return 0;"))
    pid = process(f"import ctypes\nl = ctypes.CDLL({str(made)!r})\nwhile True: l.ncclAllReduce(5000)")
    collector = UprobesCollector([pid], 30.0)
    wait_for(lambda: collector.before().state is not LayerState.OFF, "the library")
    events = captured(collector, pid, 0.01)
    assert collector.after().state is LayerState.PARTIAL, collector.after().reason
    assert {event.name for event in events} == {"ncclAllReduce"}
    whole = [event for event in events if not event.args.get("open")]
    assert min(event.dur_ns for event in whole) >= 5_000_000


def test_python_functions_are_seen_by_py_spy(process: Callable[[str], int]) -> None:
    if find_py_spy() is None:
        pytest.skip("py-spy is not installed")
    pid = process(WORK.format(core=a_core()))
    time.sleep(0.3)
    collector = StacksCollector(pid, 30.0)
    began = time.monotonic_ns()
    collector.start()
    assert collector._leash is not None
    leash = collector._leash
    wait_for(lambda: "Sampling" in leash.output() + leash.errors(), "py-spy to begin")
    time.sleep(1.0)
    collector.stop()
    events = list(collector.events())
    layer = collector.after()
    if layer.state is LayerState.OFF and "permission" in layer.reason:
        pytest.skip(layer.reason)
    assert {event.name for event in events} >= {"<module>", "step"}, layer
    assert {event.tid for event in events} == {pid}
    assert all(began <= event.t0_ns <= time.monotonic_ns() for event in events)


OWNER = """
import sys, time
from prismtop.deepdive.layers import collectors
from prismtop.model import CaptureRequest
made = collectors([int(sys.argv[1])], {}, CaptureRequest(max_s=600, uprobes=True))
print("imported", flush=True)
for one in made:
    one.start()
time.sleep(float(sys.argv[2]))
for one in made:
    one.stop()
for one in made:
    list(one.events())
time.sleep(600)
"""


def test_nothing_is_left_when_the_collector_is_killed_at_any_moment(
    process: Callable[[str], int], tmp_path: Path
) -> None:
    made = library(tmp_path, NCCL)
    pid = process(f"import ctypes, time; ctypes.CDLL({str(made)!r})\nwhile True: time.sleep(0.001)")
    mounts = Path("/proc/mounts").read_text()
    for turn in range(3):
        mark = f"prismtop-test-{os.getpid()}-{turn}"
        owner = subprocess.Popen(
            [sys.executable, "-c", OWNER, str(pid), "0.7"],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            env={**os.environ, "PRISMTOP_TEST": mark},
        )
        try:
            assert owner.stdout is not None
            owner.stdout.readline()
            time.sleep(random.uniform(0.0, 1.2))
        finally:
            owner.kill()
            owner.wait()
        wait_for(lambda mark=mark: not marked(mark), "the tools to end")  # type: ignore[misc]
    assert Path("/proc/mounts").read_text() == mounts
    assert not gone(pid)


def marked(mark: str) -> list[int]:
    """Processes that were started by the one with this mark."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                if mark.encode() in Path(f"/proc/{name}/environ").read_bytes():
                    found.append(int(name))
            except OSError:
                continue
    return found
