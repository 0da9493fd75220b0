"""The layers of a deep capture that CPython gives: pauses of the garbage collector, and calls."""

from __future__ import annotations

import gc
import sys
import time
from _thread import get_ident, get_native_id
from typing import Any

MAX_PAUSES = 4096


class Pauses:
    """Garbage collections of all threads, while they run: (start, ns, generation, collected, native id)."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, int, int, int, int]] = []
        self.began = self.lost = 0

    def __call__(self, phase: Any, info: Any) -> Any:
        now = time.monotonic_ns()
        if phase == "start":
            self.began = now
        elif self.began:
            if len(self.rows) < MAX_PAUSES:
                row = (self.began, now - self.began, info["generation"], info["collected"], get_native_id())
                self.rows.append(row)
            else:
                self.lost += 1
            self.began = 0

    def start(self) -> Any:
        gc.callbacks.append(self)

    def stop(self) -> Any:
        if self in gc.callbacks:
            gc.callbacks.remove(self)

    def layer(self) -> Any:
        if self.lost:
            return "gc", "partial", "the first %d of %d collections" % (MAX_PAUSES, MAX_PAUSES + self.lost)
        return "gc", "on", "gc.callbacks; CPython keeps no record of waits for the GIL"


class Calls:
    """Calls of Python functions on one thread, into lists that are made before: no object that the garbage
    collector would count is created while it records. Times are negative for an exit."""

    def __init__(self, limit: Any) -> None:
        self.size = max(2, limit)
        self.times = [0] * self.size
        self.codes: list[Any] = [None] * self.size
        self.tool = -1
        self.profile: Any = None
        self.end: Any = None
        self.events: Any = ()
        self.share: Any = None  # tells what they cost; all batches have them
        self.how = self.refused = ""
        self.count = self.full = 0

    def start(self) -> Any:
        mon: Any = getattr(sys, "monitoring", None)
        for tool in (3, 4, 1) if mon is not None else ():
            if mon.get_tool(tool) is None:
                mon.use_tool_id(tool, "prismtop deep capture")
                self.tool = tool
                self.watch(mon, get_ident())
                self.how = "sys.monitoring"
                return
        if sys.getprofile() is not None:
            self.refused = "another profiler is set on the model thread"
        elif sys.gettrace() is not None:
            self.refused = "a debugger or a coverage tool traces the model thread"
        else:
            self.how = "sys.setprofile"
            self.by_profile()

    def by_profile(self) -> Any:
        times, codes, clock, last = self.times, self.codes, time.monotonic_ns, self.size - 1
        n = 0

        def profile(frame: Any, event: Any, arg: Any) -> Any:
            nonlocal n
            if event == "call":
                times[n] = clock()
            elif event == "return":
                times[n] = -clock()
            else:
                return
            codes[n] = frame.f_code
            if n >= last:
                sys.setprofile(None)
            n += 1

        self.profile, self.end = profile, lambda: n
        sys.setprofile(profile)

    def watch(self, mon: Any, thread: Any) -> Any:
        times, codes, clock, last, tool = self.times, self.codes, time.monotonic_ns, self.size - 1, self.tool
        n = 0

        def enter(code: Any, _offset: Any, _value: Any = None) -> Any:
            nonlocal n
            if get_ident() == thread and n <= last:
                times[n] = clock()
                codes[n] = code
                n += 1
                if n > last:
                    mon.set_events(tool, 0)

        def leave(code: Any, _offset: Any, _value: Any = None) -> Any:
            nonlocal n
            if get_ident() == thread and n <= last:
                times[n] = -clock()
                codes[n] = code
                n += 1
                if n > last:
                    mon.set_events(tool, 0)

        ev = mon.events
        self.end = lambda: n
        self.events = (
            (ev.PY_START, enter), (ev.PY_RESUME, enter), (ev.PY_THROW, enter),
            (ev.PY_RETURN, leave), (ev.PY_YIELD, leave), (ev.PY_UNWIND, leave),
        )  # fmt: skip
        mask = 0
        for event, callback in self.events:
            mon.register_callback(tool, event, callback)
            mask |= event
        mon.set_events(tool, mask)

    def stop(self) -> Any:
        if self.tool >= 0:
            mon: Any = getattr(sys, "monitoring")
            mon.set_events(self.tool, 0)
            for event, _ in self.events:
                mon.register_callback(self.tool, event, None)
            mon.free_tool_id(self.tool)
            self.tool, self.events = -1, ()
        elif self.profile is not None:
            if sys.getprofile() is self.profile:
                sys.setprofile(None)
            elif self.end() < self.size:
                self.refused = "another profiler took its place in the window"
            self.profile = None
        if self.end is not None:
            self.count, self.end = self.end(), None
            self.full = self.count >= self.size

    def end_batch(self) -> Any:
        if self.share is not None and self.end is not None:
            self.share.batch(True)

    def layer(self) -> Any:
        if self.refused:
            return "python", "partial" if self.count else "off", self.refused
        if self.full:
            return "python", "partial", "%s, up to its bound of %d events" % (self.how, self.size)
        return "python", "on", self.how + " on the model thread" + self.cost()

    def cost(self) -> Any:
        if self.share is None or not self.share.known():
            return ""
        cost = 100 * self.share.cost()
        return (
            "; a batch takes %.0f %% longer with them" % cost
            if cost > 0
            else "; their cost is not measurable"
        )
