"""The sampler: reads counters in threads of its own, at a rate of its own.

One thread reads the host and the processes, another one the devices, so that a driver that hangs costs the
device counters only. Both measure what they cost.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from prismtop.counters.catalogue import SLOW_S
from prismtop.counters.sheet import Reader, Sheet
from prismtop.model import Counter

if TYPE_CHECKING:
    from prismtop.model import Group
    from prismtop.settings import Settings

FAST_HZ = (10.0, 20.0)
"""Rates that `Sampler.fast` accepts are clamped to this."""
MAX_SHARE = 0.2
"""A round that takes a larger share of its period makes the period longer."""
KEPT_ROUNDS = 4096
APART_NS = 5_000_000
"""Lanes have their rounds right after one another: on a core that has just been woken, with what they share
in its caches, and their readings come in one piece. Not at once: they would wait for the interpreter's lock.
"""
_CLOSE_S = 2.0

Opener = Callable[[Sheet], Sequence[Reader]]
"""Opens readers, in the thread that will use them; says on the sheet what is missing."""


class Sampler:
    """A `CounterSource` of `prismtop.session`.

    Args:
        lanes: what each thread reads, by its name.
        hz: rounds a second of fast counters.
    """

    def __init__(self, lanes: dict[str, Opener], hz: float = 1.0) -> None:
        self._out: deque[tuple[Counter, ...]] = deque(maxlen=KEPT_ROUNDS)
        origin_ns = time.monotonic_ns()
        self._lanes = [
            _Lane(name, opener, hz, self._out, origin_ns + at * APART_NS)
            for at, (name, opener) in enumerate(lanes.items())
        ]
        for lane in self._lanes:
            lane.start()

    def read(self) -> tuple[Counter, ...]:
        """Readings since the last call. Never blocks."""
        made: list[Counter] = []
        while self._out:
            made.extend(self._out.popleft())
        return tuple(made)

    def fast(self, hz: float, seconds: float) -> None:
        """Read fast counters `hz` times a second (10 to 20) for the next seconds, then as before.

        A lane whose rounds would take more than a fifth of its time at that rate reads as often as it can
        without.
        """
        hz = min(max(hz, FAST_HZ[0]), FAST_HZ[1])
        for lane in self._lanes:
            lane.fast(hz, seconds)

    def close(self) -> None:
        """End the threads; a driver that hangs is not waited for longer than two seconds. Idempotent."""
        for lane in self._lanes:
            lane.stop()
        end = time.monotonic() + _CLOSE_S
        for lane in self._lanes:
            lane.join(max(0.0, end - time.monotonic()))


class _Lane(threading.Thread):
    def __init__(
        self, name: str, opener: Opener, hz: float, out: deque[tuple[Counter, ...]], origin_ns: int
    ) -> None:
        super().__init__(name=f"prismtop-counters-{name}", daemon=True)
        self._lane = name
        self._opener = opener
        self._period_ns = int(1e9 / hz)
        self._slow_ns = max(self._period_ns, int(SLOW_S * self._period_ns))
        self._out = out
        self._origin_ns = origin_ns
        self._ended = False
        self._wake = threading.Event()
        self._fast: tuple[int, int] | None = None  # period, and when it ends
        self._sheet = Sheet(self._period_ns, self._slow_ns)
        self._failures: dict[str, int] = {}

    def stop(self) -> None:
        self._ended = True
        self._wake.set()

    def fast(self, hz: float, seconds: float) -> None:
        self._fast = (int(1e9 / hz), time.monotonic_ns() + int(seconds * 1e9))
        self._wake.set()

    def run(self) -> None:
        sheet = self._sheet
        readers: Sequence[Reader] = ()
        try:
            readers = self._opener(sheet)
        except Exception as error:
            self._failed(sheet, "opening", error)
        self._put(sheet)
        try:
            self._rounds(sheet, readers)
        finally:
            for reader in readers:
                try:
                    reader.close()
                except Exception:  # a library that is already gone: there is nothing left to close
                    continue

    def _rounds(self, sheet: Sheet, readers: Sequence[Reader]) -> None:
        next_slow = 0
        took = 0
        cpu, since = time.thread_time_ns(), time.monotonic_ns()
        while not self._ended:
            started = time.monotonic_ns()
            sheet.period_ns = max(self._period(started), int(took / MAX_SHARE))
            slow = started >= next_slow
            if slow:
                next_slow = started + self._slow_ns - self._period_ns // 2
            for reader in readers:
                sheet.now_ns = time.monotonic_ns()
                try:
                    reader.read(sheet, slow=slow)
                except Exception as error:
                    self._failed(sheet, reader.name, error)
                if self._ended:
                    return
            sheet.now_ns = now = time.monotonic_ns()
            took = now - started
            sheet.value("sampler_round_seconds", self._lane, took / 1e9)
            if now > since and now - since >= self._period_ns // 2:
                used = time.thread_time_ns()
                sheet.value("sampler_cpu_ratio", self._lane, (used - cpu) / (now - since))
                cpu, since = used, now
            self._put(sheet)
            self._sleep(started, took)

    def _period(self, now: int) -> int:
        fast = self._fast
        if fast is not None and now >= fast[1]:
            self._fast = fast = None
        return fast[0] if fast is not None else self._period_ns

    def _sleep(self, started: int, took: int) -> None:
        while not self._ended:
            now = time.monotonic_ns()
            period = max(self._period(now), int(took / MAX_SHARE))
            # One that reads more often, or cannot keep up, has a rhythm of its own.
            origin = self._origin_ns if period == self._period_ns else started
            left = next_round(started, period, origin) - now
            if left <= 0:
                return
            self._wake.wait(left / 1e9)
            self._wake.clear()

    def _failed(self, sheet: Sheet, reader: str, error: Exception) -> None:
        from prismtop.safe_text import safe_text

        count = self._failures[reader] = self._failures.get(reader, 0) + 1
        text = safe_text(f"{type(error).__name__}: {error}", 200)
        sheet.value("sampler_failures_total", reader, count, text=text)

    def _put(self, sheet: Sheet) -> None:
        made = sheet.take()
        if made:
            self._out.append(made)


def next_round(started_ns: int, period_ns: int, origin_ns: int) -> int:
    """When the round after one that began at `started_ns` is due: the multiple of the period since
    `origin_ns` that is nearest to a period later, so at most half of one too late.
    """
    half = period_ns // 2
    due = started_ns + period_ns
    return due - ((due - origin_ns + half) % period_ns - half)


def host_readers(group: Group | None, proc: str = "/proc", sys: str = "/sys") -> Sequence[Reader]:
    """Readers of the host and of the processes of `group`."""
    from prismtop.counters.cgroups import CgroupReader
    from prismtop.counters.disk import DiskReader
    from prismtop.counters.host import HostReader, numa_nodes
    from prismtop.counters.network import NetworkReader
    from prismtop.counters.pressure import PressureReader
    from prismtop.counters.process import ProcessReader
    from prismtop.counters.rdma import RdmaReader
    from prismtop.counters.thermal import ThermalReader

    members = group.members if group else ()
    processes = ProcessReader([member.id for member in members], proc, numa_nodes(sys))
    return (
        processes,
        HostReader(proc, sys, processes.cores_in_use),
        PressureReader(proc),
        CgroupReader([member.id.pid for member in members], proc),
        NetworkReader(proc),
        DiskReader(proc, sys),
        RdmaReader(sys),
        ThermalReader(sys),
    )


def watching_readers(group: Group | None) -> Sequence[Reader]:
    """The readers of the host and of the processes, and the one that times the engine's core for as long as
    they watch."""
    from prismtop.counters.process import ProcessReader
    from prismtop.counters.speed import SpeedReader

    readers = host_readers(group)
    processes = next(reader for reader in readers if isinstance(reader, ProcessReader))
    return (*readers, SpeedReader(processes.hottest))


def device_readers(sheet: Sheet, group: Group | None) -> Sequence[Reader]:
    """Readers of the devices that are here; a machine without any says so once."""
    from prismtop.counters.device import Where, open_vendors, why_no_device

    readers, absent = open_vendors(Where(targets=group.members if group else ()))
    if not readers:
        sheet.gap("gpu_busy_ratio", "gpu", why_no_device(absent), source="prismtop")
    return readers


def make_sampler(settings: Settings, group: Group | None) -> Sampler:
    """Start sampling the host, the processes of `group`, and the devices."""
    return Sampler(
        {
            "host": lambda sheet: watching_readers(group),
            "devices": lambda sheet: device_readers(sheet, group),
        },
        settings.counters_hz,
    )
