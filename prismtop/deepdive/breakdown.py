"""What a batch's time was, on the host and on the device.

What limits a batch (`Bound`), by one rule with two numbers:

* `device`: something ran on the device for at least `BUSY` of the batch's length.
* `launch`: otherwise, when at least `HALF` of the time in which the device had nothing to do lies where the
  host was launching work: in the `launch` stage, or where there is none, from the first launching call of
  the batch to the end of the last one. The device waited for launches.
* `host`: otherwise. The device waited for something else that the host did: scheduling, preparing,
  sampling, answering.
* It cannot be told when nothing at all ran on the device during the batch: its work came later, or the trace
  does not show it.

Time on the device is what overlaps the batch's interval on the host. With overlapped scheduling part of it
belongs to the batch before, so figures of single batches shift by that; sums over batches do not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from itertools import pairwise

import numpy as np

from prismtop.deepdive.activity import DEVICE_KINDS, Kind
from prismtop.deepdive.intervals import Intervals, Times
from prismtop.deepdive.timeline import Columns, Timeline
from prismtop.model import Batch, Bound, Breakdown, DeviceTime, HostTime, Part

BUSY = 0.8
HALF = 0.5
EDGE = 0.02
"""A batch whose operators are recorded but for so much of it has them all: recording is switched between
batches."""
NO_DEVICE = "no device events in this trace"
SPLIT = ("launch", "wait")
"""Stages that are split."""

Span = tuple[int, int]


def breakdowns(timeline: Timeline, batches: Sequence[Batch]) -> list[Breakdown | None]:
    """For each batch what device and host did; None for those that the trace does not cover wholly."""
    made: list[Breakdown | None] = [None] * len(batches)
    by_process: dict[int, list[int]] = {}
    for number, batch in enumerate(batches):
        pid = process_of(batch, timeline.pids)
        if pid is not None:
            by_process.setdefault(pid, []).append(number)
    for pid, numbers in by_process.items():
        process = ProcessTime(timeline, pid)
        inside = [n for n in numbers if process.covers(batches[n].start_ns, batches[n].end_ns)]
        found = process.breakdowns([batches[n] for n in inside])
        for number, one in zip(inside, found, strict=True):
            made[number] = one
    return made


def process_of(batch: Batch, pids: Sequence[int]) -> int | None:
    """The captured process that ran the batch's model: of several ranks the lowest; None when none is."""
    launching = sorted(
        (-1 if stage.rank is None else stage.rank, stage.pid)
        for stage in batch.stages
        if stage.name in SPLIT and stage.pid in pids
    )
    if launching:
        return launching[0][1]
    if batch.pid in pids:
        return batch.pid
    return pids[0] if len(pids) == 1 else None


def stage_spans(batch: Batch, name: str, pid: int) -> list[Span]:
    """Where a process was in a stage of a batch, without the other stages nested in it."""
    own = [s for s in batch.stages if s.pid == pid]
    made: list[Span] = []
    for stage in own:
        if stage.name != name:
            continue
        at, end = stage.start_ns, stage.start_ns + (stage.span_ns or stage.duration_ns)
        nested = sorted(
            (other.start_ns, other.start_ns + other.span_ns)
            for other in own
            if other.name != name and at <= other.start_ns and other.start_ns + other.span_ns <= end
        )
        for begin, until in nested:
            if begin > at:
                made.append((at, begin))
            at = max(at, until)
        if end > at:
            made.append((at, end))
    return _disjoint(made)


def _disjoint(spans: Sequence[Span]) -> list[Span]:
    """Their union: a stage may be measured by several hooks, one inside the other."""
    made: list[Span] = []
    for start, end in sorted(spans):
        if made and start <= made[-1][1]:
            made[-1] = (made[-1][0], max(made[-1][1], end))
        else:
            made.append((start, end))
    return made


class ProcessTime:
    """What one process's model thread and devices did, as sets of intervals."""

    def __init__(self, timeline: Timeline, pid: int) -> None:
        rows = timeline.process(pid)
        thread = timeline.model_thread(pid)
        host = rows.where(rows.unit == (-1 if thread is None else thread))
        self.pid = pid
        collected = rows.of(Kind.GC)
        self._unrecorded = rows.of(Kind.UNRECORDED).covered
        self._gc = collected.covered if len(collected) or "gc" in timeline.layers else None
        self._host = _host_sets(host)
        self._scheduled = _reach(rows) if len(host.of(Kind.ON_CPU, Kind.RUNQUEUE)) else None
        self._on_cpu, self._runqueue = host.of(Kind.ON_CPU).covered, host.of(Kind.RUNQUEUE).covered
        self._launches = host.of(Kind.LAUNCH).start
        self._launch_ends = host.of(Kind.LAUNCH).end
        on_device = rows.of(*DEVICE_KINDS)
        self._devices = [
            _DeviceSets(on_device.where(on_device.unit == device)) for device in np.unique(on_device.unit)
        ]
        framework = rows.of(Kind.OPERATOR, Kind.LAUNCH, Kind.SYNC, Kind.RUNTIME, *DEVICE_KINDS)
        window = timeline.windows.get(pid, (int(framework.start[0]), int(framework.start[0])))
        self._window = (min(window[0], int(framework.start[0])), max(window[1], int(framework.end.max())))

    def covers(self, start_ns: int, end_ns: int) -> bool:
        """Whether the profile goes on for all of it, and its operators were recorded."""
        if not (self._window[0] <= start_ns and end_ns <= self._window[1]):
            return False
        return self._unrecorded.cut(start_ns, end_ns).total <= EDGE * (end_ns - start_ns)

    def breakdowns(self, batches: Sequence[Batch]) -> list[Breakdown]:
        """One for each batch."""
        parts: list[list[Part]] = [[] for _ in batches]
        launching: list[list[Span]] = []
        for stage in ("", *SPLIT):
            spans = [
                stage_spans(batch, stage, self.pid) if stage else [(batch.start_ns, batch.end_ns)]
                for batch in batches
            ]
            if stage == "launch":
                launching = spans
            for number, part in enumerate(self.parts(stage, spans)):
                if part is not None:
                    parts[number].append(part)
        reason = "" if self._devices else NO_DEVICE
        return [
            Breakdown(self.pid, tuple(own), self._bound(batch, own[0], spans), reason)
            for batch, own, spans in zip(batches, parts, launching, strict=True)
        ]

    def parts(self, stage: str, spans: Sequence[Sequence[Span]]) -> list[Part | None]:
        """One part for each list of spans; None for an empty one."""
        places = _Places(spans)
        host = self._host_times(places)
        devices = self._device_times(places)
        return [
            Part(stage, wall, host[n], devices[n] if devices else None) if spans[n] else None
            for n, wall in enumerate(places.walls)
        ]

    def _host_times(self, places: _Places) -> list[HostTime]:
        columns: dict[str, Sequence[int | None]] = {}
        if self._host is not None:
            parts = {name: places.within(covered) for name, covered in self._host.items()}
            columns.update(parts)
            known = map(sum, zip(*parts.values(), strict=True))
            columns["other_ns"] = [wall - part for wall, part in zip(places.walls, known, strict=True)]
            columns["launches"] = places.counted(self._launches)
        if self._gc is not None:
            columns["gc_ns"] = places.within(self._gc)
        if self._scheduled is not None:
            seen = places.lie_in(self._scheduled)
            waited = places.within(self._runqueue)
            columns["runqueue_ns"] = [ns if own else None for ns, own in zip(waited, seen, strict=True)]
            if self._on_cpu.total:
                ran = places.within(self._on_cpu)
                columns["off_cpu_ns"] = [
                    max(0, w - a - b) if own else None
                    for w, a, b, own in zip(places.walls, ran, waited, seen, strict=True)
                ]
        return [
            HostTime(**{name: values[n] for name, values in columns.items()})
            for n in range(len(places.walls))
        ]

    def _device_times(self, places: _Places) -> list[DeviceTime]:
        """Sums over devices; empty without any."""
        made: list[DeviceTime] = []
        for device in self._devices:
            names = ("busy", "compute", "collective", "exposed", "copy")
            sums = [places.within(device.sets[name]) for name in names]
            kernels = places.counted(device.kernels)
            idle = [_gaps(device.sets["busy"], own) for own in places.spans]
            own = [
                DeviceTime(1, busy, wall - busy, gaps, longest, compute, collective, exposed, copy, count)
                for wall, busy, compute, collective, exposed, copy, (gaps, longest), count in zip(
                    places.walls, *sums, idle, kernels, strict=True
                )
            ]
            made = [_together(a, b) for a, b in zip(made, own, strict=True)] if made else own
        return made

    def _bound(self, batch: Batch, whole: Part, launching: Sequence[Span]) -> Bound | None:
        """See the head of this module."""
        if whole.device is None or not whole.device.busy_ns:
            return None
        if whole.device.busy_ns >= BUSY * whole.device.devices * whole.wall_ns:
            return Bound.DEVICE
        spans = list(launching) or self._calls(batch)
        if not spans:
            return Bound.HOST
        starts, ends = (np.array(times, np.int64) for times in zip(*spans, strict=True))
        idle = sum(
            int((ends - starts).sum() - device.sets["busy"].within(starts, ends).sum())
            for device in self._devices
        )
        return Bound.LAUNCH if idle >= HALF * whole.device.idle_ns else Bound.HOST

    def _calls(self, batch: Batch) -> list[Span]:
        """From the first launching call of a batch to the end of the last one."""
        first = int(np.searchsorted(self._launches, batch.start_ns, "left"))
        last = int(np.searchsorted(self._launches, batch.end_ns, "left"))
        if first == last:
            return []
        return [(int(self._launches[first]), min(int(self._launch_ends[first:last].max()), batch.end_ns))]


class _DeviceSets:
    def __init__(self, rows: Columns) -> None:
        compute = rows.of(Kind.COMPUTE).covered
        collective = rows.of(Kind.COLLECTIVE).covered
        self.sets = {
            "busy": rows.covered,
            "compute": compute,
            "collective": collective,
            "exposed": collective.without(compute),
            "copy": rows.of(Kind.COPY).covered,
        }
        self.kernels = rows.of(Kind.COMPUTE, Kind.COLLECTIVE).start


def _host_sets(rows: Columns) -> dict[str, Intervals] | None:
    """Exclusive parts of the model thread's time: a call is taken out of the operators around it."""
    framework = rows.of(Kind.OPERATOR, Kind.LAUNCH, Kind.SYNC, Kind.RUNTIME)
    if not len(framework):
        return None
    syncs = rows.of(Kind.SYNC).covered
    launches = rows.of(Kind.LAUNCH).covered.without(syncs)
    calls = rows.of(Kind.LAUNCH, Kind.SYNC).covered
    runtime = rows.of(Kind.RUNTIME).covered.without(calls)
    all_calls = rows.of(Kind.LAUNCH, Kind.SYNC, Kind.RUNTIME).covered
    return {
        "operators_ns": rows.of(Kind.OPERATOR).covered.without(all_calls),
        "launches_ns": launches,
        "syncs_ns": syncs,
        "runtime_ns": runtime,
    }


def _reach(rows: Columns) -> Span | None:
    """From when to when the scheduler's layer tells of a process: it may begin late, or end early."""
    told = rows.of(Kind.ON_CPU, Kind.RUNQUEUE)
    return (int(told.start.min()), int(told.end.max())) if len(told) else None


def _together(a: DeviceTime, b: DeviceTime) -> DeviceTime:
    sums = {f.name: getattr(a, f.name) + getattr(b, f.name) for f in fields(DeviceTime)}
    return DeviceTime(**{**sums, "longest_gap_ns": max(a.longest_gap_ns, b.longest_gap_ns)})


class _Places:
    """Lists of spans, one list for each batch.

    Attributes:
        spans: as given.
        walls: length of each list.
    """

    def __init__(self, spans: Sequence[Sequence[Span]]) -> None:
        self.spans = spans
        self._owner = np.array([n for n, own in enumerate(spans) for _ in own], np.int64)
        self._starts = np.array([start for own in spans for start, _ in own], np.int64)
        self._ends = np.array([end for own in spans for _, end in own], np.int64)
        self.walls = self._total(self._ends - self._starts)

    def within(self, covered: Intervals) -> list[int]:
        """How much of a set lies in each list."""
        return self._total(covered.within(self._starts, self._ends))

    def lie_in(self, whole: Span) -> list[bool]:
        """Whether each list does."""
        return [all(whole[0] <= start and end <= whole[1] for start, end in own) for own in self.spans]

    def counted(self, at: Times) -> list[int]:
        """How many of the times, in order, lie in each list."""
        before = np.searchsorted(at, self._starts, "left")
        return self._total(np.searchsorted(at, self._ends, "left") - before)

    def _total(self, values: Times) -> list[int]:
        made: list[int] = np.bincount(self._owner, values, len(self.spans)).astype(np.int64).tolist()
        return made


def _gaps(busy: Intervals, spans: Sequence[Span]) -> tuple[int, int]:
    """How often nothing ran within the spans, and for how long at most."""
    lengths: list[int] = []
    for start, end in spans:
        inside = busy.cut(start, end)
        edges = [start, *np.stack((inside.starts, inside.ends), 1).ravel().tolist(), end]
        lengths += [b - a for n, (a, b) in enumerate(pairwise(edges)) if n % 2 == 0 and b > a]
    return len(lengths), max(lengths, default=0)
