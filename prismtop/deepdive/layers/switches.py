"""Switches and wake-ups of the scheduler, as perf and bpftrace print them, made into slices of threads.

A thread of the target is on a core (`oncpu`), ready and waiting for one (`runq`), blocked where nothing can
wake it but its device (`blocked`, state D), or asleep, which is no slice.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from prismtop.deepdive.layer import LayerEvent
from prismtop.safe_text import safe_text

_IDLE_TID = 0


@dataclass(frozen=True)
class Switch:
    """A core was given from one thread to another (sched:sched_switch).

    Attributes:
        state: of the thread that left; it begins with R when that was ready to run on.
    """

    at_ns: int
    core: int
    tid: int
    name: str
    state: str
    next_tid: int
    next_name: str


@dataclass(frozen=True)
class Wakeup:
    """A thread became ready to run (sched:sched_wakeup).

    Attributes:
        core: on whose queue it was put.
        by_tid, by_name: the thread that was running when it happened; an interrupt's is by chance.
    """

    at_ns: int
    core: int
    tid: int
    by_tid: int
    by_name: str


_LINE = re.compile(r"\s*(.{1,16}?)\s+(-?\d+)\s+\[(\d+)\]\s+(\d+)\.(\d{9}):\s+sched:(sched_\w+):\s(.*)")
_SWITCH = re.compile(
    r"prev_comm=(.*) prev_pid=(\d+) prev_prio=-?\d+ prev_state=(\S+) ==> "
    r"next_comm=(.*) next_pid=(\d+) next_prio=-?\d+"
)
_SWITCH_SHORT = re.compile(r"(.*):(\d+) \[-?\d+\] (\S+) ==> (.*):(\d+) \[-?\d+\]")
"""perf's own way of writing it, where its libtraceevent has the plugin."""
_WAKEUP = re.compile(r"comm=(.*) pid=(\d+) prio=-?\d+ (?:success=\d+ )?target_cpu=(\d+)")
_WAKEUP_SHORT = re.compile(r"(.*):(\d+) \[-?\d+\](?: <CANT FIND FIELD success>|success=\d+)? CPU:(\d+)")


def parse_perf(lines: Iterable[str]) -> tuple[list[Switch | Wakeup], int]:
    """Read `perf script -F comm,tid,cpu,time,event,trace --ns`; also how many lines made no sense."""
    made: list[Switch | Wakeup] = []
    names: dict[int, str] = {}
    odd = 0
    for line in lines:
        found = _LINE.match(line)
        if found is None:
            odd += bool(line.strip())
            continue
        comm, tid, core, seconds, fraction, event, rest = found.groups()
        at_ns = int(seconds) * 10**9 + int(fraction)
        if event == "sched_switch":
            words = _SWITCH.match(rest) or _SWITCH_SHORT.match(rest)
            if words is not None:
                name, left, state, next_name, came = words.groups()
                names[int(left)], names[int(came)] = name, next_name
                made.append(Switch(at_ns, int(core), int(left), name, state, int(came), next_name))
                continue
        elif event == "sched_wakeup":
            words = _WAKEUP.match(rest) or _WAKEUP_SHORT.match(rest)
            if words is not None:
                # Without a record of its name perf shows a thread's number; a switch may have told it.
                by = names.get(int(tid), "") if comm.lstrip().startswith(":") else comm
                made.append(Wakeup(at_ns, int(words[3]), int(words[2]), int(tid), by))
                continue
        odd += 1
    return made, odd


BPFTRACE = """
tracepoint:sched:sched_switch /{switched}/ {{
  printf("S %lu %u %d %d %d %s\\t%s\\n", nsecs, cpu, args->prev_pid, args->prev_state, args->next_pid,
    args->prev_comm, args->next_comm);
}}
tracepoint:sched:sched_wakeup /{woken}/ {{
  printf("W %lu %d %d %d %s\\n", nsecs, args->target_cpu, args->pid, tid, comm);
}}
"""
_STATES = {0x1: "S", 0x2: "D", 0x4: "T", 0x8: "t", 0x10: "X", 0x20: "Z"}
_REPORTED = 0xFF
"""TASK_REPORT of include/linux/sched.h. A ready thread that loses its core has none of these bits."""


def parse_bpftrace(lines: Iterable[str]) -> tuple[list[Switch | Wakeup], int]:
    """Read what `BPFTRACE` prints; also how many lines made no sense."""
    made: list[Switch | Wakeup] = []
    odd = 0
    for line in lines:
        kind, _, rest = line.partition(" ")
        try:
            if kind == "S":
                at, core, left, state, came, names = rest.split(" ", 5)
                name, _, next_name = names.partition("\t")
                bits = int(state)
                word = _STATES.get(bits & _REPORTED, "S") if bits & _REPORTED else "R"
                made.append(Switch(int(at), int(core), int(left), name, word, int(came), next_name))
            elif kind == "W":
                at, core, woken, by, name = rest.split(" ", 4)
                made.append(Wakeup(int(at), int(core), int(woken), int(by), name))
        except ValueError:
            odd += 1
    made.sort(key=lambda record: record.at_ns)  # every core has a buffer of its own
    return made, odd


@dataclass
class _Story:
    """What a thread does now, and since when."""

    state: str = "?"
    since_ns: int = 0
    core: int = -1
    woken_by: str = ""
    preempted_by: str = ""
    preempted_by_tid: int = 0


def slices(
    records: Iterable[Switch | Wakeup], threads: Mapping[int, int], window_ns: tuple[int, int]
) -> Iterator[LayerEvent]:
    """Slices of the threads (tid -> pid), not in order of time.

    Args:
        records: in order of time.
        window_ns: when tracing began and ended: what is open then is cut there, and says so (`open`).
    """
    begin, end = window_ns
    stories = {tid: _Story(since_ns=begin) for tid in threads}

    def event(name: str, tid: int, story: _Story, until_ns: int, args: dict[str, object]) -> LayerEvent:
        args = {"core": story.core, **args}
        began = story.since_ns
        return LayerEvent(
            "scheduler", "slice", name, began, max(0, until_ns - began), threads[tid], tid, args
        )

    for record in records:
        if isinstance(record, Wakeup):
            story = stories.get(record.tid)
            if story is None or story.state in ("oncpu", "runq"):
                continue
            if story.state == "blocked":
                yield event("blocked", record.tid, story, record.at_ns, {})
            by = "" if record.by_tid == _IDLE_TID else safe_text(record.by_name, 16)
            stories[record.tid] = _Story("runq", record.at_ns, record.core, woken_by=by)
            continue
        story = stories.get(record.next_tid)
        if story is not None:
            if story.state == "runq":
                story.core = record.core
                yield event("runq", record.next_tid, story, record.at_ns, _why_waited(story, record))
            elif story.state == "blocked":
                yield event("blocked", record.next_tid, story, record.at_ns, {})
            stories[record.next_tid] = _Story("oncpu", record.at_ns, record.core)
        story = stories.get(record.tid)
        if story is not None:
            if story.state in ("oncpu", "?"):
                # Of a thread that leaves first we know that it was there since tracing began.
                story.core = record.core
                args: dict[str, object] = {"ended": _ending(record.state)}
                yield event("oncpu", record.tid, story, record.at_ns, args)
            stories[record.tid] = _left(record)
    for tid, story in stories.items():
        if story.state in ("oncpu", "runq", "blocked") and end > story.since_ns:
            yield event(story.state, tid, story, end, {"open": True})


def _left(record: Switch) -> _Story:
    if record.state.startswith("R"):
        other = "" if record.next_tid == _IDLE_TID else safe_text(record.next_name, 16)
        return _Story("runq", record.at_ns, record.core, preempted_by=other, preempted_by_tid=record.next_tid)
    return _Story("blocked" if record.state.startswith("D") else "asleep", record.at_ns, record.core)


def _why_waited(story: _Story, record: Switch) -> dict[str, object]:
    """Who had the core instead: the one that had it last, else the one that took it away."""
    args: dict[str, object] = {}
    if record.tid not in (_IDLE_TID, record.next_tid):
        args["instead"], args["instead_tid"] = safe_text(record.name, 16), record.tid
    elif story.preempted_by:
        args["instead"], args["instead_tid"] = story.preempted_by, story.preempted_by_tid
    if story.preempted_by:
        args["preempted_by"] = story.preempted_by
    if story.woken_by:
        args["woken_by"] = story.woken_by
    return args


def _ending(state: str) -> str:
    """Why it left the core."""
    if state.startswith("R"):
        return "preempted"
    return {"S": "sleep", "D": "disk", "I": "sleep", "Z": "exit", "X": "exit", "T": "stop", "t": "trace"}.get(
        state[:1], "sleep"
    )
