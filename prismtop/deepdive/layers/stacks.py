"""The layer `stacks`: Python functions of a process by nonblocking py-spy, 20 times a second.

A slice begins with the first sample that shows a function and ends with the first that does not, so what is
shorter than a period is seen by chance, and both ends are uncertain by a period.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from typing import Any

from prismtop.deepdive.layer import LayerEvent
from prismtop.deepdive.layers.leash import Leash
from prismtop.model import Layer, LayerState
from prismtop.safe_text import safe_text
from prismtop.sources.stacks import RATE_HZ, THREAD, explain_py_spy, find_py_spy
from prismtop.targets.procfs import read_status

PERIOD_NS = 10**9 // RATE_HZ
MAX_EVENTS = 200_000
_EXTRA_S = 15
_TID_AT = 0x2D0
_NO_PY_SPY = "py-spy is not installed beside prismtop. `pip install py-spy`"


class StacksCollector:
    """A `Collector` of one process.

    Args:
        pid: the process.
        max_s: longest time of the window.
        why_not: a reason for which stacks are not wanted; empty when they are.
    """

    name = "stacks"

    def __init__(self, pid: int, max_s: float, why_not: str = "") -> None:
        self.pid, self._max_s, self._why_not = pid, max_s, why_not
        self._leash: Leash | None = None
        self._failed = ""
        self._notes: list[str] = []
        self._cpu_s = 0.0
        self._made: list[LayerEvent] | None = None

    def before(self) -> Layer:
        """As `Collector.before`."""
        if self._why_not:
            return Layer(self.name, LayerState.OFF, self._why_not, pid=self.pid)
        if find_py_spy() is None:
            return Layer(self.name, LayerState.OFF, _NO_PY_SPY, pid=self.pid)
        reason = f"sampled at {RATE_HZ} Hz by nonblocking py-spy"
        return Layer(self.name, LayerState.ON, reason, pid=self.pid)

    def start(self) -> None:
        """As `Collector.start`."""
        py_spy = find_py_spy()
        if self._why_not or py_spy is None:
            self._failed = self._why_not or _NO_PY_SPY
            return
        seconds = int(self._max_s) + _EXTRA_S
        command = [
            py_spy, "record", "--nonblocking", "--idle", "--threads", "--full-filenames",
            "--format", "chrometrace", "--rate", str(RATE_HZ), "--duration", str(seconds),
            "--output", "{data}", "--pid", str(self.pid),
        ]  # fmt: skip
        try:
            self._leash = Leash(command, seconds=seconds + _EXTRA_S)
        except OSError as error:
            self._failed = f"py-spy cannot be run ({error.strerror})"

    def stop(self) -> None:
        """As `Collector.stop`."""
        if self._leash is not None:
            self._leash.stop()

    def events(self) -> Iterator[LayerEvent]:
        """As `Collector.events`: waits for py-spy to write what it saw."""
        if self._made is None:
            self._made = []
            if self._leash is not None:
                try:
                    self._made = self._read(self._leash)
                finally:
                    self._leash.close()
        yield from self._made

    def after(self) -> Layer:
        """As `Collector.after`."""
        count = None if self._made is None else len(self._made)
        if self._failed:
            return Layer(self.name, LayerState.OFF, self._failed, count, self.pid)
        cost = f"cost {self._cpu_s:.2f} s of CPU"
        reason = "; ".join([f"sampled at {RATE_HZ} Hz by nonblocking py-spy", *self._notes, cost])
        state = LayerState.PARTIAL if self._notes else LayerState.ON
        return Layer(self.name, state, reason, count, self.pid)

    def _read(self, leash: Leash) -> list[LayerEvent]:
        end = leash.wait()
        self._cpu_s = end.cpu_s
        text = leash.data()
        if end.code or not text:
            self._failed = explain_py_spy(leash.errors(), self.pid)
            return []
        try:
            records = json.loads(text)
        except ValueError:
            self._failed = "what py-spy wrote could not be read"
            return []
        made = parse(records, self.pid, end.began_ns)
        if len(made) > MAX_EVENTS:
            self._notes.append(f"only the first {MAX_EVENTS} slices")
        return made[:MAX_EVENTS]


def parse(records: Any, pid: int, began_ns: int) -> list[LayerEvent]:
    """Slices in order of time from py-spy's `chrometrace` (its times are us since it began).

    Args:
        records: the decoded file: B and E events, the outermost of each thread being the thread itself.
        began_ns: when py-spy began, CLOCK_MONOTONIC.
    """
    made: list[LayerEvent] = []
    open_: dict[object, list[Mapping[str, Any]]] = {}
    tids: dict[object, tuple[int, str]] = {}
    last_us = 0
    for record in records if isinstance(records, list) else ():
        try:
            thread, phase, at_us = record["tid"], record["ph"], int(record["ts"])
            name = str(record["name"])
        except (TypeError, KeyError, ValueError):
            continue
        last_us = max(last_us, at_us)
        stack = open_.setdefault(thread, [])
        label = THREAD.match(name)
        if label is not None:
            tids[thread] = _identity(label[1], name, pid)
        elif phase == "B":
            stack.append(record)
        elif phase == "E" and stack:
            made.append(_slice(stack.pop(), at_us, pid, tids.get(thread, (0, "")), began_ns))
    for thread, stack in open_.items():
        while stack:
            made.append(_slice(stack.pop(), last_us, pid, tids.get(thread, (0, "")), began_ns))
    return sorted(made, key=lambda event: (event.t0_ns, -event.dur_ns))


def _identity(number: str, label: str, pid: int) -> tuple[int, str]:
    """Native id and name of a thread."""
    name = safe_text(label.partition("): ")[2], 64)
    return (int(number) if number.isdecimal() else native_id(pid, int(number, 16))), name


def native_id(pid: int, ident: int) -> int:
    """The thread with this ident (pthread_self(3)), which is all that CPython 3.10 and older know; 0 unknown.

    glibc's `struct pthread` has the kernel's id of its thread at this offset on x86_64 (nptl/descr.h, 2.4 to
    2.41); what is read there counts only when it is the id of a thread of the process.
    """
    from prismtop.attach.errors import AttachError
    from prismtop.attach.memory import read

    try:
        inside = int.from_bytes(read(pid, ident + _TID_AT, 4), "little")
        for name in os.listdir(f"/proc/{pid}/task"):
            status = read_status(int(name), f"/proc/{pid}/task")
            if status is not None and status.ns_pid == inside:
                return int(name)
    except (AttachError, OSError):
        return 0
    return 0


def _slice(
    record: Mapping[str, Any], end_us: int, pid: int, thread: tuple[int, str], began_ns: int
) -> LayerEvent:
    begin_us = int(record["ts"])
    more = record.get("args")
    args = {
        "sampled": True,
        "period_ns": PERIOD_NS,
        "thread": thread[1],
        "file": safe_text(more.get("filename", "") if isinstance(more, dict) else "", 256),
    }
    name = safe_text(record["name"], 128)
    t0_ns, dur_ns = began_ns + begin_us * 1000, (end_us - begin_us) * 1000
    return LayerEvent("stacks", "slice", name, t0_ns, max(0, dur_ns), pid, thread[0], args)
