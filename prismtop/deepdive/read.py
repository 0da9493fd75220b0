"""The spans of a trace file that can be added up: a merged capture of ours, or torch.profiler's own file."""

from __future__ import annotations

from collections import Counter as Tally
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from prismtop.deepdive.activity import HOST_KINDS, Activities, Kind, PartOfTrace
from prismtop.deepdive.clock import MARKER
from prismtop.deepdive.profile import DEVICE_CATS, place_of
from prismtop.deepdive.timeline import Timeline, timeline_of
from prismtop.trace.dialects.collect import pid_of
from prismtop.trace.lenient import Event, arguments, ns_of
from prismtop.trace.own import CAPTURE_EVENT, DEVICE_EVENT, SESSION_EVENT, THREAD_EVENT
from prismtop.trace.reader import TraceReader

_Place = tuple[object, object]


@dataclass
class _Found:
    activities: Activities = field(default_factory=Activities)
    numbers: dict[tuple[bool, _Place], int] = field(default_factory=dict)
    devices: dict[int, tuple[int, int]] = field(default_factory=dict)
    native: dict[_Place, int] = field(default_factory=dict)
    processes: Tally[int] = field(default_factory=Tally)
    markers: list[tuple[_Place, int]] = field(default_factory=list)
    recorded: list[tuple[int, int, int]] = field(default_factory=list)
    instead: dict[tuple[int, int], Tally[str]] = field(default_factory=dict)
    layers: frozenset[str] = frozenset()
    base_ns: int | None = None

    def take(self, event: Event) -> None:
        if event.ph == "M":
            self._metadata(event)
            return
        name, cat = event.name, event.cat
        if event.ph != "X" or type(name) is not str or type(cat) is not str:
            return
        at, length = ns_of(event.ts), ns_of(event.dur)
        if at is None or length is None or length < 0:
            return
        device = cat in DEVICE_CATS
        place = place_of(event)
        if name.startswith(MARKER) and not device:
            self.markers.append((place, at))
        elif cat == "Trace":
            self.recorded.append((pid_of(place[0]), at, at + length))
        track = self.numbers.setdefault((device, place), len(self.numbers))
        if cat == "scheduler" and name == "runq":
            other = arguments(event).get("instead")
            if isinstance(other, str):
                own = self.instead.setdefault((pid_of(place[0]), self.native.get(place, 0)), Tally())
                own[other[:64]] += length
        if not device and cat == "cpu_op":
            self.processes[pid_of(place[0])] += 1
        self.activities.add(track, cat, name, at, at + length)

    def _metadata(self, event: Event) -> None:
        args = arguments(event)
        if event.name == DEVICE_EVENT and isinstance(event.pid, int):
            of, device = args.get("of"), args.get("device")
            if type(of) is int and type(device) is int:
                self.devices[event.pid] = (of, device)
        elif event.name == THREAD_EVENT and type(args.get("of")) is int:
            self.native[place_of(event)] = args["of"]
        elif event.name == SESSION_EVENT and type(args.get("base_ns")) is int:
            self.base_ns = args["base_ns"]
        elif event.name == CAPTURE_EVENT:
            layers = args.get("layers")
            self.layers = frozenset(
                str(layer.get("name"))
                for layer in (layers if isinstance(layers, list) else ())
                if isinstance(layer, dict) and layer.get("state") != "off"
            )

    def owners(self) -> dict[int, tuple[int, int]]:
        """(process, thread or device) of each track."""
        main = self.processes.most_common(1)[0][0] if self.processes else 0
        made: dict[int, tuple[int, int]] = {}
        for (device, (process, thread)), number in self.numbers.items():
            tid = self.native.get((process, thread), thread)
            if type(tid) is not int or not -(1 << 62) < tid < 1 << 62:
                tid = 0
            if not device:
                made[number] = (pid_of(process), tid)
            elif type(process) is int and process in self.devices:
                made[number] = self.devices[process]
            else:
                made[number] = (main, process if type(process) is int and 0 <= process < 1024 else 0)
        return made

    def windows(self, part: PartOfTrace) -> dict[int, tuple[int, int]]:
        """How long each process was recorded: by its markers, else by Kineto's own span, else by all that a
        profiler's file holds.
        """
        main = self.processes.most_common(1)[0][0] if self.processes else 0
        marked = [(pid_of(place[0]), at, at) for place, at in self.markers]
        spans = marked or [(pid or main, start, end) for pid, start, end in self.recorded]
        made: dict[int, tuple[int, int]] = {}
        if not spans and self.base_ns is None and len(part.start):
            return {main: (int(part.start.min()), int(part.end.max()))}
        shift = int(part.start[0]) - self.activities.start[0] if len(part.start) else 0
        for pid, start, end in spans:
            first, last = made.get(pid, (start + shift, end + shift))
            made[pid] = (min(first, start + shift), max(last, end + shift))
        return made


def read_timeline(path: Path) -> Timeline:
    """One pass over the file.

    Raises:
        UsageError: it is no trace, or cannot be read.
    """
    found = _Found()
    reader = TraceReader(path)
    for events in reader.events():
        for event in events:
            found.take(event)
    shift = found.base_ns
    if shift is None:
        base = reader.header.get("baseTimeNanoseconds")
        shift = base if type(base) is int and 0 <= base < 1 << 62 else 0
    rows = found.activities
    start, end = (np.frombuffer(times, np.int64) + shift for times in (rows.start, rows.end))
    part = PartOfTrace(rows, start, end, np.ones(len(start), np.bool_), found.owners())
    threads: dict[int, int] = {}
    for place, _ in found.markers:
        tid = found.native.get(place, place[1])
        if isinstance(tid, int):
            threads[pid_of(place[0])] = tid
    return timeline_of(
        [part],
        model_threads=threads,
        layers=found.layers,
        ranks=_ranks(reader.header, part),
        windows=found.windows(part),
        instead=found.instead,
    )


def _ranks(header: dict[str, Any], part: PartOfTrace) -> dict[int, int]:
    info = header.get("distributedInfo")
    rank = info.get("rank") if isinstance(info, dict) else None
    if type(rank) is not int:
        return {}
    kinds = np.frombuffer(part.activities.kind, np.int8)
    host = np.isin(kinds, [int(kind) for kind in (*HOST_KINDS, Kind.COMPUTE)])
    tracks = np.unique(np.frombuffer(part.activities.track, np.int32)[host])
    return {part.owners[int(track)][0]: rank for track in tracks}
