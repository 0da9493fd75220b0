"""The layer `scheduler`: when threads ran, waited for a core, were blocked, or waited for the GIL.

Every switch is told by the kernel where perf or bpftrace may be used; else `schedstat` is read 50 times a
second. Whether a thread waits for the GIL is seen in its system call, 50 times a second, in either case.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence

from prismtop.deepdive.layer import LayerEvent
from prismtop.deepdive.layers.background import BackgroundCollector
from prismtop.deepdive.layers.gil import gil_range
from prismtop.deepdive.layers.polling import PERIOD_NS, RATE_HZ, Poller
from prismtop.deepdive.layers.switch_tracing import (
    BpftraceTracing,
    GiveUp,
    PerfTracing,
    Tracing,
    TracingFailed,
)
from prismtop.deepdive.layers.switches import slices
from prismtop.deepdive.layers.threads import MOST, MOST_POLLED, Thread, choose, read_thread
from prismtop.deepdive.layers.tracing import Missing, why_no_bpftrace, why_no_perf
from prismtop.model import Layer, LayerState

MAX_SLICES = 200_000
_EXTRA_S = 15.0
"""A tool ends by itself so long after the window's longest time."""
_READ_S = 90.0
_COUNTED_NS, _ENOUGH = 20_000_000, 0.9
"""Threads that ran for so long altogether have slices for this much of it, or it is said."""
_SAMPLED = f"sampled at {RATE_HZ} Hz from schedstat"

Way = tuple[str, Callable[[], "Missing | None"], Callable[[Sequence[int], float, GiveUp], Tracing]]
WAYS: tuple[Way, ...] = (
    ("bpftrace", why_no_bpftrace, BpftraceTracing),
    ("perf", why_no_perf, PerfTracing),
)
"""Best first: name, why it may not be used, and how it begins. perf is told of no switch from an idle core
where bpftrace is (seen on Linux 6.18 with perf 6.1): `_told_too_little` notices."""


class SchedulerCollector(BackgroundCollector):
    """A `Collector`.

    Args:
        pids: the captured processes.
        hot: native id of the model thread, by pid, where it is known.
        max_s: longest time of the window.
        ways: of tracing, best first.
    """

    name = "scheduler"

    def __init__(
        self, pids: Sequence[int], hot: Mapping[int, int], max_s: float, ways: Sequence[Way] = WAYS
    ) -> None:
        super().__init__()
        self._pids, self._hot, self._max_s, self._ways = list(pids), dict(hot), max_s, ways
        self._tracing: Tracing | None = None
        self._poller: Poller | None = None
        self._at_first: list[Thread] = []
        self._ran_ns: dict[int, int] = {}
        self._chosen = self._altogether = 0
        self._window_ns = (0, 0)
        self._due_ns = 0
        self._refused: list[str] = []
        self._notes: list[str] = []
        self._failed = ""
        self._cpu_s = 0.0
        self._made: list[LayerEvent] | None = None

    def before(self) -> Layer:
        """As `Collector.before`."""
        if not any(os.access(f"/proc/{pid}/schedstat", os.R_OK) for pid in self._pids):
            reason = "the processes are gone, or the kernel has no schedstat (CONFIG_SCHED_INFO)"
            return Layer(self.name, LayerState.OFF, reason)
        missing = []
        for name, why, _ in self._ways:
            no = why()
            if no is None:
                reason = f"every switch of up to {MOST} threads, by {name}; GIL waits sampled at {RATE_HZ} Hz"
                return Layer(self.name, LayerState.ON, reason)
            missing.append(no)
        return Layer(self.name, LayerState.PARTIAL, f"{_SAMPLED}: {_why(missing)}" if missing else _SAMPLED)

    @property
    def begun_ns(self) -> int:
        """When what is told begins, CLOCK_MONOTONIC; 0 before that is known."""
        return self._window_ns[0]

    def events(self) -> Iterator[LayerEvent]:
        """As `Collector.events`: waits until what the tool stored is read, which began with `stop`."""
        self._join(_READ_S)
        if self._made is None:
            self._failed = self._failed or "what the tool stored was not read in time"
        yield from self._made or ()

    def after(self) -> Layer:
        """As `Collector.after`."""
        count = None if self._made is None else len(self._made)
        if self._failed:
            # Waits for the GIL were seen all the same.
            state = LayerState.PARTIAL if count else LayerState.OFF
            return Layer(self.name, state, self._failed, count)
        traced = self._tracing is not None
        what = [f"{self._tracing.how}, every switch" if self._tracing else _SAMPLED]
        most = self._chosen
        what.append(f"{most} of {self._altogether} threads" if most < self._altogether else f"{most} threads")
        if self._tracing is None:
            what.append("how long is exact, when is known to 20 ms")
        begun, ended = self._window_ns
        cost = f"cost {self._cpu_s:.2f} s of CPU in {(ended - begun) / 1e9:.1f} s"
        parts = [", ".join(what), *self._notes, *self._refused, cost]
        reason = "; ".join(part.rstrip(".") for part in parts)
        whole = traced and not self._notes and most == self._altogether
        return Layer(self.name, LayerState.ON if whole else LayerState.PARTIAL, reason, count)

    def _run(self) -> None:
        """In a thread of its own: begin with the best way, poll, end, read what was stored."""
        cpu = time.thread_time()
        try:
            self._begin()
            self._running.set()
            self._poll()
            if self._tracing is not None:
                self._tracing.stop()
            self._window_ns = (self._window_ns[0], time.monotonic_ns())
            self._last_look()
            self._made = sorted(self._collect(), key=lambda event: event.t0_ns)
        except Exception as error:  # a failure of one layer is told, and nothing else
            self._failed = f"{type(error).__name__}: {error}"
        finally:
            if self._tracing is not None:
                self._tracing.close()
            if self._poller is not None:
                self._poller.close()
            self._running.set()
            self._made = self._made or []
            self._cpu_s += time.thread_time() - cpu

    def _begin(self) -> None:
        self._at_first, self._altogether = choose(self._pids, self._hot)
        if not self._at_first:
            self._failed = "no thread of the processes could be read"
            self._ended.set()
            return
        gil = {}
        for pid in self._pids:
            gil[pid], why_not = gil_range(pid)
            if why_not:
                self._refused.append(f"no GIL waits of {pid}: {why_not}")
        polled = [(thread.pid, thread.tid) for thread in self._at_first[:MOST_POLLED]]
        self._poller = Poller(polled, gil)
        began_ns = time.monotonic_ns()
        missing = self._trace()
        if self._tracing is not None:
            self._poller.leave_schedstat()
            began_ns = time.monotonic_ns()
        else:
            self._refused += [_why(missing)] if missing else []
            self._at_first = self._at_first[:MOST_POLLED]
        self._chosen = len(self._at_first)
        # What a thread that never switches did is told by how long it ran.
        now = (read_thread(thread.pid, thread.tid) for thread in self._at_first)
        self._at_first = [thread for thread in now if thread is not None]
        self._window_ns = (began_ns, 0)

    def _trace(self) -> list[Missing]:
        """Begin with the best way that works; why those before it do not. Polls until it has begun: a tool
        takes tenths of a second on a quiet machine, and may take longer than there is to see.
        """
        tids = [thread.tid for thread in self._at_first]
        missing: list[Missing] = []
        for name, why, trace in self._ways:
            no = why()
            if no is not None:
                missing.append(no)
                continue
            try:
                self._tracing = trace(tids, self._max_s + _EXTRA_S, self._meanwhile)
                break
            except TracingFailed as error:
                missing.append(Missing(str(error), f"Try `{name}` by hand."))
                if self._ended.is_set():
                    break
        return missing

    def _meanwhile(self) -> bool:
        """While a tool begins; whether it is too late for it."""
        now = time.monotonic_ns()
        if self._poller is not None and now >= self._due_ns:
            self._poller.read(now)
            self._due_ns = now + PERIOD_NS
        return self._ended.is_set()

    def _poll(self) -> None:
        poller = self._poller
        if poller is None:
            return
        end = time.monotonic() + self._max_s + _EXTRA_S
        due = time.monotonic_ns()
        while time.monotonic() < end:
            poller.read(time.monotonic_ns())
            due = max(due + PERIOD_NS, time.monotonic_ns() + PERIOD_NS // 4)
            if self._ended.wait(max(0.0, (due - time.monotonic_ns()) / 1e9)):
                break
        poller.read(time.monotonic_ns())

    def _last_look(self) -> None:
        """How long each thread ran in the window."""
        for thread in self._at_first if self._tracing is not None else ():
            now = read_thread(thread.pid, thread.tid)
            if now is not None:
                self._ran_ns[thread.tid] = now.ran_ns - thread.ran_ns

    def _collect(self) -> Iterator[LayerEvent]:
        poller, tracing = self._poller, self._tracing
        if poller is not None:
            if poller.gil_refused:
                self._refused.append(poller.gil_refused)
            if poller.full:
                self._notes.append("polling ended early: too many events")
            yield from poller.events()
        if tracing is not None:
            try:
                yield from self._traced(tracing)
            except TracingFailed as error:
                self._failed = str(error)

    def _traced(self, tracing: Tracing) -> Iterator[LayerEvent]:
        records, wrong, cpu_s = tracing.read()
        self._notes += wrong
        self._cpu_s += cpu_s
        threads = {thread.tid: thread.pid for thread in self._at_first}
        if tracing.cut:
            last = records[-1].at_ns if records else self._window_ns[0]
            self._window_ns = (min(self._window_ns[0], last), last)
            self._ran_ns.clear()
            self._notes.append("it ended early: too many switches, or its time was up")
        found = slices(records, threads, self._window_ns, every_thread=tracing.every_thread)
        seen: set[int] = set()
        told: Counter[int] = Counter()
        for count, event in enumerate(found):
            if count >= MAX_SLICES:
                self._notes.append(f"only the first {MAX_SLICES} slices")
                break
            seen.add(event.tid)
            if event.name == "oncpu":
                told[event.tid] += event.dur_ns
            yield event
        for event in self._unswitched(seen):
            told[event.tid] += event.dur_ns
            yield event
        self._notes += self._told_too_little(told)

    def _told_too_little(self, told: Mapping[int, int]) -> list[str]:
        """Whether the slices hold what the kernel counted in the window (`schedstat`)."""
        counted = sum(self._ran_ns.values())
        found = sum(min(told.get(tid, 0), ran) for tid, ran in self._ran_ns.items())
        if counted < _COUNTED_NS or found >= _ENOUGH * counted:
            return []
        return [f"only {found / counted:.0%} of the time that threads ran: not every switch was told"]

    def _unswitched(self, seen: set[int]) -> Iterator[LayerEvent]:
        """A thread that was on its core from the beginning to the end has no switch to tell of."""
        begin, end = self._window_ns
        for thread in self._at_first:
            if thread.tid not in seen and self._ran_ns.get(thread.tid, 0) > 0.9 * (end - begin):
                args = {"open": True, "unswitched": True}
                yield LayerEvent(
                    self.name, "slice", "oncpu", begin, end - begin, thread.pid, thread.tid, args
                )


def _why(missing: Sequence[Missing]) -> str:
    """Why nothing better can be used, with the fix of the best."""
    return f"{'; '.join(dict.fromkeys(no.reason for no in missing))}. {missing[0].fix}"
