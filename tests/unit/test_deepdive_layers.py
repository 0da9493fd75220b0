"""Layers from outside a target: tools on a leash, polling, stacks and uprobes."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest

from prismtop.deepdive.layers import checks, collectors, stacks, switch_tracing, tracing
from prismtop.deepdive.layers.gil import gil_range
from prismtop.deepdive.layers.leash import End, Leash
from prismtop.deepdive.layers.polling import Poller
from prismtop.deepdive.layers.scheduler import SchedulerCollector
from prismtop.deepdive.layers.stacks import parse as parse_stacks
from prismtop.deepdive.layers.switch_tracing import TracingFailed
from prismtop.deepdive.layers.switches import Switch, Wakeup
from prismtop.deepdive.layers.threads import choose
from prismtop.deepdive.layers.tracing import Missing
from prismtop.deepdive.layers.uprobes import Probe, find_probes, program
from prismtop.deepdive.layers.uprobes import parse as parse_calls
from prismtop.model import CaptureRequest, LayerState
from prismtop.sources.ring import find_ring
from prismtop.sources.stacks import find_py_spy
from tests.unit.outside_processes import NCCL, WAITED_S, gone, library, python_programs, wait_for

ROOT = Path(__file__).resolve().parents[2]
MS = 10**6
SPIN = "import time\nwhile True:\n    sum(range(5000)); time.sleep(0.0005)"
FIGHT = """
import threading
def spin():
    while True:
        sum(range(100000))
threading.Thread(target=spin, daemon=True).start()
spin()
"""


@pytest.fixture
def process() -> Iterator[Callable[[str], int]]:
    with python_programs() as start:
        yield start


def children(pid: int) -> list[int]:
    try:
        with open(f"/proc/{pid}/task/{pid}/children") as file:
            return [int(word) for word in file.read().split()]
    except OSError:
        return []


# A tool on a leash


def test_a_tool_is_asked_to_end_and_its_output_and_cost_are_kept() -> None:
    leash = Leash(
        ["sh", "-c", "trap 'echo bye; exit 3' INT; echo hi; echo no >&2; while :; do sleep 0.02; done"],
        seconds=60,
    )
    try:
        wait_for(lambda: leash.output() == "hi\n", "the tool's output")
        leash.stop()
        end = leash.wait(WAITED_S)
        assert (end.code, leash.output(), leash.errors()) == (3, "hi\nbye\n", "no\n")
        assert end.cpu_s > 0
        assert 0 < end.began_ns < time.monotonic_ns()
    finally:
        leash.close()


def test_a_tool_ends_when_its_time_is_up() -> None:
    leash = Leash(["sleep", "600"], seconds=0.2)
    try:
        assert leash.wait(WAITED_S).code == -2
    finally:
        leash.close()


def test_a_tool_that_missed_being_asked_to_end_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prismtop.deepdive.layers.leash._AGAIN_S", 0.2)
    deaf_once = "import signal, sys, time\nasked = []\ndef ask(*_):\n    asked.append(1)\n"
    deaf_once += "    if len(asked) == 2: sys.exit(7)\n"
    deaf_once += "signal.signal(signal.SIGINT, ask)\nprint('up', flush=True)\nwhile True: time.sleep(0.01)"
    leash = Leash([sys.executable, "-c", deaf_once], seconds=60)
    try:
        wait_for(lambda: leash.output() == "up\n", "the tool's output")
        leash.stop()
        assert leash.wait(WAITED_S).code == 7
    finally:
        leash.close()


def test_a_tool_that_is_missing_says_so() -> None:
    leash = Leash(["/nowhere/tool"], seconds=5)
    try:
        assert leash.wait(WAITED_S).code == 126
        assert "No such file" in leash.errors()
    finally:
        leash.close()


def test_a_tool_may_write_into_memory_that_is_no_file_on_disk() -> None:
    leash = Leash(["sh", "-c", "echo kept > {data}"], seconds=60)
    try:
        assert leash.wait(WAITED_S).code == 0
        assert leash.data() == "kept\n"
    finally:
        leash.close()


OWNER = """
import sys, time
from prismtop.deepdive.layers.leash import Leash
leash = Leash(["sh", "-c", "trap '' INT TERM HUP; echo $$; while :; do sleep 0.05; done"], seconds=600)
while not leash.output():
    time.sleep(0.01)
print(leash.pid, leash.output().strip(), flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("killed", ["owner", "holder"])
def test_a_tool_does_not_outlive_who_holds_it_nor_who_started_it(killed: str) -> None:
    owner = subprocess.Popen([sys.executable, "-c", OWNER], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert owner.stdout is not None
        holder, tool = (int(word) for word in owner.stdout.readline().split())
        os.kill(owner.pid if killed == "owner" else holder, 9)
        if killed == "owner":
            owner.wait()
        wait_for(lambda: gone(tool) and (killed == "holder" or gone(holder)), "the end of the tool")
    finally:
        owner.kill()
        owner.wait()


def test_a_tool_is_in_our_session_and_not_in_our_process_group() -> None:
    """A session of its own would not have the priority that ours was raised to."""
    leash = Leash(["sleep", "600"], seconds=60)
    try:
        wait_for(lambda: os.getpgid(leash.pid) != os.getpgid(0), "a process group of its own")
        assert os.getsid(leash.pid) == os.getsid(0)
    finally:
        leash.close()


# Polling


def test_polling_tells_how_long_a_thread_ran(process: Callable[[str], int]) -> None:
    pid = process(SPIN)
    wait_for(lambda: choose([pid], {})[0][0].ran_ns > 50 * MS, "a process that runs")
    poller = Poller([(pid, pid)])
    before = choose([pid], {})[0][0]
    began = time.monotonic_ns()
    poller.read(began)
    wait_for(lambda: choose([pid], {})[0][0].ran_ns > before.ran_ns + 20 * MS, "a process that runs")
    poller.read(time.monotonic_ns())
    events = list(poller.events())
    poller.close()
    ran = sum(event.dur_ns for event in events if event.name == "oncpu")
    assert ran >= 10 * MS
    assert sum(event.dur_ns for event in events) <= time.monotonic_ns() - began
    assert all(event.args["sampled"] for event in events)


def test_polling_ends_with_its_thread(process: Callable[[str], int]) -> None:
    pid = process("import time; time.sleep(600)")
    poller = Poller([(pid, pid), (pid, 4_194_303)])
    poller.read(time.monotonic_ns())
    poller.read(time.monotonic_ns())
    assert list(poller.events()) == []
    poller.close()


def test_two_threads_that_fight_for_the_gil_are_seen_to_wait_for_it(process: Callable[[str], int]) -> None:
    pid = process(FIGHT)
    wait_for(lambda: len(choose([pid], {})[0]) == 2, "the second thread")
    where, why_not = gil_range(pid)
    if not where:
        pytest.skip(f"no GIL to be found: {why_not}")
    threads = [(thread.pid, thread.tid) for thread in choose([pid], {})[0]]
    poller = Poller(threads, {pid: where}, schedstat=False)

    def seen() -> bool:
        poller.read(time.monotonic_ns())
        return len({event.tid for event in poller.events() if event.name == "gil"}) == 2

    wait_for(seen, "both threads to wait")
    if poller.gil_refused:
        pytest.skip(poller.gil_refused)
    poller.close()


def test_a_thread_that_sleeps_does_not_wait_for_the_gil(process: Callable[[str], int]) -> None:
    pid = process("import threading; threading.Event().wait(600)")
    where, _ = gil_range(pid)
    poller = Poller([(pid, pid)], {pid: where}, schedstat=False)
    for _ in range(20):
        poller.read(time.monotonic_ns())
        time.sleep(0.01)
    # While it starts it is alone, so nobody else has the GIL.
    assert list(poller.events()) == []
    poller.close()


# The scheduler's layer


def test_without_a_tool_the_scheduler_is_sampled_and_says_why_and_what_would_help(
    process: Callable[[str], int],
) -> None:
    def refuse(*_: object) -> switch_tracing.Tracing:
        raise TracingFailed("perf ended with 255: Permission denied")

    ways = (
        ("perf", lambda: None, refuse),
        ("bpftrace", lambda: Missing("bpftrace is not installed", "Install it."), refuse),
    )
    pid = process(SPIN)
    collector = SchedulerCollector([pid], {pid: pid}, 30.0, ways)
    collector.start()
    wait_for(lambda: collector.running, "the layer to begin")
    before = choose([pid], {})[0][0].ran_ns
    wait_for(lambda: choose([pid], {})[0][0].ran_ns > before + 30 * MS, "a process that runs")
    collector.stop()
    events = list(collector.events())
    assert {event.name for event in events} >= {"oncpu"}
    layer = collector.after()
    assert layer.state is LayerState.PARTIAL
    assert "Permission denied" in layer.reason
    assert "bpftrace is not installed" in layer.reason
    assert "s of CPU" in layer.reason
    assert layer.events == len(events)


class Ended:
    """A tool that ended by itself: it knows of one switch."""

    how, every_thread, cut = "a tool", True, True

    def __init__(self, tids: Sequence[int], seconds: float, give_up: Callable[[], bool]) -> None:
        self._record = Switch(time.monotonic_ns(), 0, 999, "other", "S", tids[0], "ours")

    def stop(self) -> None: ...

    def read(self) -> tuple[list[Switch | Wakeup], list[str], float]:
        return [self._record], [], 0.1

    def close(self) -> None: ...


def test_what_happened_after_a_tool_ended_by_itself_is_not_made_up(process: Callable[[str], int]) -> None:
    pid = process("import time; time.sleep(600)")
    collector = SchedulerCollector([pid], {pid: pid}, 30.0, [("tool", lambda: None, Ended)])
    collector.start()
    wait_for(lambda: collector.running, "the layer to begin")
    collector.stop()
    assert [event for event in collector.events() if event.name == "oncpu"] == []
    assert collector.after().state is LayerState.PARTIAL
    assert "ended early" in collector.after().reason


def test_a_tool_that_has_not_begun_when_the_window_is_over_is_given_up_and_what_was_sampled_is_kept(
    process: Callable[[str], int],
) -> None:
    def slow(tids: object, seconds: float, give_up: Callable[[], bool]) -> switch_tracing.Tracing:
        wait_for(give_up, "the end of the window")
        raise TracingFailed("the window was over before the tool had begun")

    def never(*_: object) -> switch_tracing.Tracing:
        raise AssertionError("another tool is tried when it is too late")

    pid = process(SPIN)
    ways = [("slow", lambda: None, slow), ("other", lambda: None, never)]
    collector = SchedulerCollector([pid], {pid: pid}, 30.0, ways)
    before = choose([pid], {})[0][0].ran_ns
    collector.start()
    wait_for(lambda: choose([pid], {})[0][0].ran_ns > before + 60 * MS, "a process that runs")
    assert not collector.running
    collector.stop()
    events = list(collector.events())
    layer = collector.after()
    assert sum(event.dur_ns for event in events if event.name == "oncpu") > 20 * MS
    assert all(event.args["sampled"] for event in events)
    assert layer.state is LayerState.PARTIAL
    assert "the window was over before" in layer.reason


def test_what_was_sampled_is_dropped_once_a_tool_tells_of_every_switch() -> None:
    pollers = kept, left = [Poller([(os.getpid(), os.getpid())]) for _ in range(2)]
    for _ in range(2):
        end = time.process_time() + 0.01
        while time.process_time() < end:
            pass
        for poller in pollers:
            poller.read(time.monotonic_ns())
    left.leave_schedstat()
    left.read(time.monotonic_ns())
    assert [event for event in kept.events() if event.name == "oncpu"]
    assert list(left.events()) == []
    for poller in pollers:
        poller.close()


def test_what_came_when_bpftrace_had_no_room_left_is_not_made_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread that is seen to wait last would seem to wait until the end of the window."""
    told = ["@s[{0}, 1, 7, 1, 8, a, b]: 1", "@s[{0}, 1, 8, 1, 7, b, a]: 1", "@w[{0}, 1, 7, 9, c]: 1"]
    lines = "\n".join(told[n % 3].format(1000 + n) for n in range(9))
    tool = SimpleNamespace(
        alive=True,
        stop=list,
        close=list,
        wait=lambda: End(0, 0.1),
        errors=str,
        output=lambda: lines,
    )
    monkeypatch.setattr(switch_tracing, "run_bpftrace", lambda *_: tool)
    monkeypatch.setattr(switch_tracing, "MAX_STORED", 5)
    tracing = switch_tracing.BpftraceTracing([7], 30.0)
    tracing.stop()
    records, wrong, _ = tracing.read()
    assert (len(records), tracing.cut, wrong) == (8, True, ["only the first 5 events"])
    monkeypatch.setattr(switch_tracing, "MAX_STORED", 7)
    tracing = switch_tracing.BpftraceTracing([7], 30.0)
    tracing.stop()
    assert (len(tracing.read()[0]), tracing.cut) == (9, False)


def test_before_the_scheduler_says_what_it_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    ways = (("perf", lambda: Missing("the perf tool is not installed", "Install it."), lambda *_: None),)
    layer = SchedulerCollector([os.getpid()], {}, 1.0, ways).before()  # type: ignore[arg-type]
    assert layer.state is LayerState.PARTIAL
    assert "the perf tool is not installed. Install it." in layer.reason
    assert SchedulerCollector([4_194_303], {}, 1.0).before().state is LayerState.OFF


def test_a_process_that_is_gone_fails_its_layer_only() -> None:
    for collector in collectors([4_194_303], {}, CaptureRequest(uprobes=True, max_s=1.0)):
        collector.start()
        collector.stop()
        assert list(collector.events()) == []
        assert collector.after().state is LayerState.OFF
        assert collector.after().reason


def test_stacks_are_sampled_only_where_no_probe_is_inside(process: Callable[[str], int]) -> None:
    entered = process("import os, time; os.memfd_create('prismtop-abc'); time.sleep(600)")
    other = process("import time; time.sleep(600)")
    wait_for(lambda: find_ring(entered), "the memfd")
    made = collectors([entered, other], {}, CaptureRequest())
    states = {layer.pid: layer.state for layer in (one.before() for one in made) if layer.name == "stacks"}
    assert states[entered] is LayerState.OFF
    assert states[other] is (LayerState.ON if find_py_spy() else LayerState.OFF)
    assert "stacks" not in {one.name for one in collectors([other], {}, CaptureRequest(python="off"))}


def test_the_model_thread_and_the_main_thread_come_first() -> None:
    started, end = threading.Event(), threading.Event()

    def idle() -> None:
        started.set()
        end.wait()

    thread = threading.Thread(target=idle)
    thread.start()
    started.wait()
    try:
        me = os.getpid()
        chosen, altogether = choose([me], {me: thread.native_id or 0}, most=2)
        assert [one.tid for one in chosen] == [thread.native_id, me]
        assert altogether >= 2
    finally:
        end.set()
        thread.join()


def test_missing_privileges_are_named_with_their_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(tracing, "in_first_pid_namespace", lambda: True)
    monkeypatch.setattr(tracing, "tracefs_mounted", lambda: True)
    monkeypatch.setattr(tracing, "has_capability", lambda number: False)
    monkeypatch.setattr(tracing, "read_int", lambda path: 2)
    no_perf, no_bpftrace = tracing.why_no_perf(), tracing.why_no_bpftrace()
    assert no_perf is not None
    assert "perf_event_paranoid is 2" in no_perf.reason
    assert "CAP_PERFMON" in no_perf.fix
    assert no_bpftrace is not None
    assert "root" in no_bpftrace.fix
    monkeypatch.setattr(tracing, "in_first_pid_namespace", lambda: False)
    inside = tracing.why_no_perf()
    assert inside is not None
    assert "--pid=host" in inside.fix


@pytest.mark.parametrize(
    ("perf", "bpftrace", "states"),
    [
        (None, None, ["ok", "ok"]),
        ("perf", None, ["ok", "ok"]),
        (None, "bpftrace", ["ok", "none"]),
        ("perf", "bpftrace", ["partial", "none"]),
    ],
)
def test_doctor_says_what_a_capture_could_collect(
    monkeypatch: pytest.MonkeyPatch, perf: str | None, bpftrace: str | None, states: list[str]
) -> None:
    missing = {name: Missing(f"{name} is not installed", f"Install {name}.") for name in ("perf", "bpftrace")}
    monkeypatch.setattr(checks, "why_no_perf", lambda: missing[perf] if perf else None)
    monkeypatch.setattr(checks, "why_no_bpftrace", lambda: missing[bpftrace] if bpftrace else None)
    found = {check.id: check for check in checks.layer_checks()}
    tracing_checks = [found["deepdive.scheduler"], found["deepdive.uprobes"]]
    assert [check.status for check in tracing_checks] == states
    assert all(check.fix for check in tracing_checks if check.status != "ok")


# Stacks

PY_SPY = [
    ("thread (12869): helper", "B", 2, 539_414, "", 0),
    ("spin", "B", 2, 539_414, "/app/a.py", 7),
    ("inner\x1b[2J", "B", 2, 539_414, "/app/a.py", 4),
    ("thread (0x7F00AA): MainThread", "B", 1, 539_421, "", 0),
    ("<module>", "B", 1, 539_421, "/app/a.py", 10),
    ("inner\x1b[2J", "E", 2, 919_067, "/app/a.py", 4),
    ("<module>", "E", 1, 919_070, "/app/a.py", 10),
]


def py_spy() -> object:
    return [
        {
            "name": name,
            "ph": phase,
            "tid": tid,
            "ts": at,
            "pid": 12847,
            "args": {"filename": file, "line": line},
        }
        for name, phase, tid, at, file, line in PY_SPY
    ]


def test_samples_become_slices_on_the_clock_of_everything_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stacks, "native_id", lambda pid, ident: {(12847, 0x7F00AA): 12847}[pid, ident])
    events = parse_stacks(py_spy(), 12847, began_ns=10**12)
    assert [(event.name, event.tid, event.t0_ns - 10**12, event.dur_ns) for event in events] == [
        ("spin", 12869, 539_414_000, 379_656_000),
        ("inner\ufffd[2J", 12869, 539_414_000, 379_653_000),
        ("<module>", 12847, 539_421_000, 379_649_000),
    ]
    assert all(event.args["sampled"] for event in events)


@pytest.mark.parametrize(
    "text", ["null", "[1, {}]", '[{"tid": 1, "ph": "E", "ts": 1, "name": "x"}]', '{"a": 1}']
)
def test_what_is_no_trace_gives_no_slices(text: str) -> None:
    assert parse_stacks(json.loads(text), 1, 0) == []


@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc" or platform.machine() != "x86_64", reason="needs glibc on x86_64"
)
def test_a_thread_that_is_known_by_its_ident_is_found() -> None:
    found: list[int] = []
    me = os.getpid()
    thread = threading.Thread(target=lambda: found.append(stacks.native_id(me, threading.get_ident())))
    thread.start()
    thread.join()
    assert found == [thread.native_id]
    assert stacks.native_id(me, threading.main_thread().ident or 0) == me
    assert stacks.native_id(me, 0x1000) == 0


# Uprobes

NOPPED = "__attribute__((patchable_function_entry(5))) int ncclAllReduce(int x) { return x + 1; }"


def test_functions_are_found_in_the_libraries_that_the_process_uses(
    process: Callable[[str], int], tmp_path: Path
) -> None:
    made = library(tmp_path, NCCL)
    pid = process(f"import ctypes, time; ctypes.CDLL({str(made)!r}); time.sleep(600)")
    wait_for(lambda: find_probes(pid)[0], "the library")
    probes, reasons = find_probes(pid)
    assert [(probe.function, probe.path) for probe in probes] == [
        ("ncclAllReduce", f"/proc/{pid}/root{made}")
    ]
    assert reasons == ["the process uses no library with cudaGraphLaunch, cuStreamSynchronize"]


def test_a_function_that_begins_with_a_long_nop_is_left_alone(
    process: Callable[[str], int], tmp_path: Path
) -> None:
    made = library(tmp_path, NOPPED)
    pid = process(f"import ctypes, time; ctypes.CDLL({str(made)!r}); time.sleep(600)")
    # GCC puts five one-byte nops there, clang one of five bytes: the file is made to have that one.
    wait_for(lambda: "libnccl" in Path(f"/proc/{pid}/maps").read_text(), "the library")
    data = made.read_bytes()
    made.write_bytes(data.replace(b"\x90" * 5, b"\x0f\x1f\x44\x00\x00"))
    probes, reasons = find_probes(pid)
    assert probes == []
    assert any("5-byte nop" in reason for reason in reasons)


def test_the_program_records_only_the_captured_processes() -> None:
    text = program([Probe("ncclAllReduce", "/proc/5/root/l.so", "l.so", (1, 2))], [5, 6])
    assert "uprobe:/proc/5/root/l.so:ncclAllReduce /pid==5||pid==6/" in text


CALLS = """\
ready
@begun[16463, 16468, 0]: 13430893020660
@calls[16463, 16468, 0, 13430183250706]: 3078640
@calls[16463, 16463, 0, 13430269354557]: 3080073
@calls[16463, 16463, 7, 13430269354557]: 3080073
"""


def test_calls_become_slices_and_one_that_has_not_returned_is_marked() -> None:
    probes = [Probe("ncclAllReduce", "/l.so", "l.so", (1, 2))]
    events = parse_calls(CALLS.split("\n"), probes, 13430893020660 + 5 * MS)
    assert [(event.tid, event.t0_ns, event.dur_ns) for event in events] == [
        (16468, 13430183250706, 3078640),
        (16463, 13430269354557, 3080073),
        (16468, 13430893020660, 5 * MS),
    ]
    assert [bool(event.args.get("open")) for event in events] == [False, False, True]
