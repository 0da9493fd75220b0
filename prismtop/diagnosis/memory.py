"""What is remembered of batches, one process at a time: a sample of them, and the time that they lost.

An engine may be several replicas, of which one is slow: batches of the others say nothing about it.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Sequence

from prismtop.diagnosis.observations import Observation, observe
from prismtop.diagnosis.worst import LostTime
from prismtop.model import Batch

SECOND = 1_000_000_000
OBSERVED_PER_S = 8.0
"""Batches a second and process that are remembered."""
OBSERVED = 2000
"""Batches of a process that are remembered."""
PROCESSES = 64
BACK_NS = 15 * SECOND
"""A batch that ended so long before the latest one belongs to a replay that was moved back."""


class _Process:
    """Batches of one process, in order of their ends."""

    def __init__(self) -> None:
        self.seen: deque[Observation] = deque(maxlen=OBSERVED)
        self.lost = LostTime()
        self.end_ns = 0
        self._stride, self._skip = 1, 0
        self._second_ns, self._in_second = 0, 0

    def take(self, batches: Sequence[Batch]) -> None:
        """Remember every so many-th: picking by time instead would prefer those that follow long ones."""
        self.lost.take(batches)
        start_ns = batches[0].start_ns
        if not 0 <= start_ns - self._second_ns < SECOND:
            self._stride = max(1, math.ceil(self._in_second / OBSERVED_PER_S))
            self._second_ns, self._in_second = start_ns, 0
        self._in_second += len(batches)
        if batches[0].end_ns < self.end_ns - BACK_NS:
            self.seen.clear()
        self.end_ns = batches[-1].end_ns
        self.seen.extend(map(observe, batches[self._skip :: self._stride]))
        self._skip = (self._skip - len(batches)) % self._stride


class BatchMemory:
    """About four minutes of every process's batches."""

    def __init__(self) -> None:
        self._processes: dict[int, _Process] = {}

    def take(self, batches: Iterable[Batch]) -> None:
        """Remember batches, in order of their ends."""
        by_pid: dict[int, list[Batch]] = {}
        for batch in batches:
            by_pid.setdefault(batch.pid, []).append(batch)
        for pid, own in by_pid.items():
            self._process(pid).take(own)

    def _process(self, pid: int) -> _Process:
        found = self._processes.get(pid)
        if found is None:
            while len(self._processes) >= PROCESSES:
                oldest = min(self._processes, key=lambda pid: self._processes[pid].end_ns)
                del self._processes[oldest]
            found = self._processes[pid] = _Process()
        return found

    def seen(self, pid: int | None) -> list[Observation]:
        """Of one process, or of all of them, in order of time."""
        if pid is not None:
            found = self._processes.get(pid)
            return [] if found is None else list(found.seen)
        every = (seen for one in self._processes.values() for seen in one.seen)
        return sorted(every, key=lambda seen: seen.time_ns)

    def lost(self, pid: int | None) -> LostTime:
        """Of one process, or of all of them together."""
        if pid is None:
            return LostTime.of(one.lost for one in self._processes.values())
        found = self._processes.get(pid)
        return LostTime() if found is None else found.lost
