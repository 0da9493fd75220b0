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
tracepoint:sched:sched_switch {{
  $left = args->prev_pid; $came = args->next_pid;
  if ({switched}) {{
    @s[nsecs, cpu, $left, args->prev_state, $came, args->prev_comm, args->next_comm] = 1;
  }}
}}
tracepoint:sched:sched_wakeup {{
  $woken = args->pid;
  if ({woken}) {{
    @w[nsecs, args->target_cpu, $woken, tid, comm] = 1;
  }}
}}
"""
"""The thread is read once, into a variable: of 18 and more comparisons with a field LLVM makes a pointer to
it, and the kernel refuses the program ("dereference of modified ctx ptr", seen with bpftrace 0.17).

Events are kept in the kernel and printed at the end: printing each one would wake bpftrace for each one,
often on the very core that the target runs on.
"""
_STORED = re.compile(r"@([sw])\[(\d+), (\d+), (-?\d+), (-?\d+), (.*)\]: 1$")
_NEXT = re.compile(r"(-?\d+), (.*), (.*)")
_STATES = {0x1: "S", 0x2: "D", 0x4: "T", 0x8: "t", 0x10: "X", 0x20: "Z"}
_REPORTED = 0xFF
"""TASK_REPORT of include/linux/sched.h. A ready thread that loses its core has none of these bits."""


def parse_bpftrace(lines: Iterable[str]) -> tuple[list[Switch | Wakeup], int]:
    """Read what `BPFTRACE` prints; also how many lines made no sense."""
    made: list[Switch | Wakeup] = []
    odd = 0
    for line in lines:
        found = _STORED.match(line)
        if found is None:
            odd += bool(line.strip())
            continue
        kind, rest = found[1], found[6]
        at, core, tid, number = (int(found[at]) for at in (2, 3, 4, 5))
        after = _NEXT.match(rest) if kind == "s" else None
        if kind == "w":
            made.append(Wakeup(at, core, tid, number, rest))
        elif after is not None:
            word = _STATES.get(number & _REPORTED, "S") if number & _REPORTED else "R"
            made.append(Switch(at, core, tid, after[2], word, int(after[1]), after[3]))
        else:
            odd += 1
    made.sort(key=lambda record: record.at_ns)
    return made, odd


@dataclass
class _Story:
    """What a thread does now, and since when."""

    state: str = "?"
    since_ns: int = 0
    core: int = -1
    waker: str = ""
    preempted_by: str = ""
    preempted_by_tid: int = 0


class _Cores:
    """Who had each core since when; right only when all switches are known.

    Args:
        begin_ns: when tracing began: who leaves a core first had it since then.
    """

    def __init__(self, begin_ns: int) -> None:
        self._begin_ns = begin_ns
        self._given: dict[int, list[tuple[int, int, str]]] = {}

    def take(self, record: Switch) -> None:
        given = self._given.setdefault(record.core, [(self._begin_ns, record.tid, record.name)])
        if given[-1][1] == _IDLE_TID != record.tid:
            # The switch from idle was not told; while somebody waited for the core it was not idle.
            given[-1] = (given[-1][0], record.tid, record.name)
        given.append((record.at_ns, record.next_tid, record.next_name))

    def others(self, core: int, tid: int, begin_ns: int, end_ns: int) -> dict[tuple[int, str], int]:
        """ns that other threads had the core between two times, the longest first."""
        found: dict[tuple[int, str], int] = {}
        until = end_ns
        for since, other, name in reversed(self._given.get(core, ())):
            if since < until:
                if other not in (_IDLE_TID, tid):
                    found[other, name] = found.get((other, name), 0) + until - max(since, begin_ns)
                until = since
            if since <= begin_ns:
                break
        return dict(sorted(found.items(), key=lambda item: -item[1]))


def slices(
    records: Iterable[Switch | Wakeup],
    threads: Mapping[int, int],
    window_ns: tuple[int, int],
    *,
    every_thread: bool = False,
) -> Iterator[LayerEvent]:
    """Slices of the threads (tid -> pid), not in order of time.

    A `runq` slice has in its args who had the core `instead` (with `instead_tid`): the thread that had it for
    the longest part of the wait (`instead_ns`) when all switches are known, else the one that had it last.
    `waker` is the thread that ran where the wake-up came from: it did it, or an interrupt found it there.

    Args:
        records: in order of time.
        window_ns: when tracing began and ended: what is open then is cut there, and says so (`open`).
        every_thread: the records hold the switches of all threads of the host.
    """
    records = list(records)
    begin, end = window_ns
    begin = min([begin, *(record.at_ns for record in records[:1])])
    cores = _Cores(begin)
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
            stories[record.tid] = _Story("runq", record.at_ns, record.core, waker=by)
            continue
        story = stories.get(record.next_tid)
        if every_thread:
            cores.take(record)
        if story is not None:
            if story.state == "runq":
                story.core = record.core
                args = _why_waited(story, record)
                if every_thread:
                    had = cores.others(record.core, record.next_tid, story.since_ns, record.at_ns)
                    args = {**args, **_longest(had)}
                yield event("runq", record.next_tid, story, record.at_ns, args)
            elif story.state == "blocked":
                yield event("blocked", record.next_tid, story, record.at_ns, {})
            stories[record.next_tid] = _Story("oncpu", record.at_ns, record.core)
        story = stories.get(record.tid)
        if story is not None:
            if story.state in ("oncpu", "?"):
                # Of a thread that leaves first we know that it was there since tracing began.
                story.core = record.core
                yield event("oncpu", record.tid, story, record.at_ns, {"ended": _ending(record.state)})
            elif story.state == "runq":
                # Linux 6.18 tells perf no switch from idle. There a thread runs when it is woken.
                story.core = record.core
                args = {"ended": _ending(record.state), "began": "when it was woken: the core was idle"}
                yield event("oncpu", record.tid, story, record.at_ns, args)
            stories[record.tid] = _left(record)
    for tid, story in stories.items():
        if story.state in ("oncpu", "runq", "blocked") and end > story.since_ns:
            had = cores.others(story.core, tid, story.since_ns, end) if story.state == "runq" else {}
            yield event(story.state, tid, story, end, {"open": True, **_longest(had)})


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
    if story.waker:
        args["waker"] = story.waker
    return args


def _longest(had: Mapping[tuple[int, str], int]) -> dict[str, object]:
    if not had:
        return {}
    (tid, name), ns = next(iter(had.items()))
    args: dict[str, object] = {"instead": safe_text(name, 16), "instead_tid": tid, "instead_ns": ns}
    also = list(dict.fromkeys(safe_text(other, 16) for _, other in list(had)[1:4]))
    return {**args, "also": ", ".join(also)} if also else args


def _ending(state: str) -> str:
    """Why it left the core."""
    if state.startswith("R"):
        return "preempted"
    return {"S": "sleep", "D": "disk", "I": "sleep", "Z": "exit", "X": "exit", "T": "stop", "t": "trace"}.get(
        state[:1], "sleep"
    )
