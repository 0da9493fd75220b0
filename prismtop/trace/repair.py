"""Traces that a viewer rejects, written anew so that both open them; nothing else in them changes."""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any

from prismtop.trace.container import WholeReader, decoded
from prismtop.trace.lenient import ns_of, number_of
from prismtop.trace.output import EventsFile, finite, new_file
from prismtop.trace.overlap import Overlaps, TrackKey


@dataclass
class Repaired:
    """What was done.

    Attributes:
        events: in the new file.
        changes: sentences with numbers; empty when the new file says the same as the old one.
    """

    events: int = 0
    changes: list[str] = field(default_factory=list)


@dataclass
class _Counts:
    lost: int = 0
    broken: int = 0
    no_time: int = 0
    numbers: int = 0
    lengths: int = 0
    values: int = 0
    samples: int = 0
    moved: int = 0
    ends: int = 0

    def sentences(self) -> list[str]:
        said = (
            (self.lost, "{} left out: nothing in it can be read"),
            (self.broken, "{} made valid JSON"),
            (self.no_time, "{} left out: without a time"),
            (self.numbers, "{} with NaN or Infinity made text"),
            (self.lengths, "{} without a length given the length 0"),
            (self.values, "{} of a counter freed of values that are no numbers"),
            (self.samples, "{} of a counter left out: without a number"),
            (self.moved, "{} moved to a track beside their own, which they overlap"),
            (self.ends, "{} left out: an end without a begin"),
        )
        return [text.format(_events(count)) for count, text in said if count]


def repair(source: Path, target: Path) -> Repaired:
    """Write a readable copy of `source`; it is read twice and never changed.

    Raises:
        UsageError: `source` is no trace; or `target` exists or cannot be created.
        UnavailableError: the disk is full.
    """
    lanes = _overlaps(source)
    reader = WholeReader(source)
    counts = _Counts()
    fixer = _Fixer(counts, lanes)
    blocks = reader.blocks()
    first = next(blocks, None)
    with new_file(target) as file:
        # Whether there is anything beside the events of an object is known at its end only.
        out = EventsFile(file, as_object=reader.form == "object")
        while first is not None:
            content = decoded(first)
            counts.broken += len(content.broken) - content.lost + content.recoded
            counts.lost += content.lost
            for _, event in content.events:
                for made in fixer.fix(event):
                    out.put(made)
            first = next(blocks, None)
        out.close(reader.header)
    return Repaired(out.events, [*dict.fromkeys(reader.notes), *counts.sentences()])


def _overlaps(source: Path) -> dict[TrackKey, array[int]]:
    """Lanes of the slices of every track that has overlaps."""
    found = Overlaps()
    for block in WholeReader(source).blocks():
        for _, event in decoded(block).events:
            if event.get("ph") == "X" and (start := ns_of(event.get("ts"))) is not None:
                found.add(track_of(event), start, max(0, ns_of(event.get("dur")) or 0))
    return dict(found.lanes())


def track_of(event: Mapping[str, Any]) -> TrackKey:
    """Process and thread of an event, whatever stands there."""
    pid, tid = event.get("pid"), event.get("tid")
    hashable = (str, int, float, type(None))
    return (pid if isinstance(pid, hashable) else repr(pid), tid if isinstance(tid, hashable) else repr(tid))


class _Fixer:
    def __init__(self, counts: _Counts, lanes: dict[TrackKey, array[int]]) -> None:
        self._counts = counts
        self._lanes = lanes
        self._seen: dict[TrackKey, int] = {}
        self._depth: dict[TrackKey, int] = {}
        self._names: dict[TrackKey, str] = {}
        self._tids: dict[tuple[TrackKey, int], int] = {}

    def fix(self, event: dict[str, Any]) -> list[dict[str, Any]]:
        """The event as it may stand, with names of tracks before it; empty to leave it out."""
        phase = event.get("ph")
        if phase == "M":
            self._remember_name(event)
            return [self._finite(event)]
        if ns_of(event.get("ts")) is None:
            self._counts.no_time += 1
            return []
        if phase == "C":
            return self._counter(event)
        if phase in ("B", "E") and not self._paired(event, phase):
            self._counts.ends += 1
            return []
        if phase == "X":
            if ns_of(event.get("dur")) is None:
                self._counts.lengths += 1
                event = {**event, "dur": 0}
            return self._moved(self._finite(event))
        return [self._finite(event)]

    def _finite(self, event: dict[str, Any]) -> dict[str, Any]:
        made, changed = finite(event)
        self._counts.numbers += changed > 0
        fixed: dict[str, Any] = made
        return fixed

    def _counter(self, event: dict[str, Any]) -> list[dict[str, Any]]:
        args = event.get("args")
        if not isinstance(args, dict):
            self._counts.samples += 1
            return []
        good = {
            key: value
            for key, value in args.items()
            if type(value) is int or (type(value) is float and isfinite(value))
        }
        for key, value in args.items():
            if isinstance(value, str) and (number := number_of(value)) is not None:
                good[key] = number
        if not good:
            self._counts.samples += 1
            return []
        if good.keys() != args.keys() or any(good[key] is not args[key] for key in good):
            self._counts.values += 1
        return [self._finite({**event, "args": good})]

    def _paired(self, event: Mapping[str, Any], phase: str) -> bool:
        track = track_of(event)
        depth = self._depth.get(track, 0) + (1 if phase == "B" else -1)
        if depth < 0:
            return False
        self._depth[track] = depth
        return True

    def _moved(self, event: dict[str, Any]) -> list[dict[str, Any]]:
        track = track_of(event)
        lanes = self._lanes.get(track)
        if lanes is None:
            return [event]
        number = self._seen.get(track, 0)
        self._seen[track] = number + 1
        lane = lanes[number]
        if lane == 0:
            return [event]
        self._counts.moved += 1
        made: list[dict[str, Any]] = []
        tid = self._tids.get((track, lane))
        if tid is None:
            tid = self._tids[track, lane] = _FIRST_TID + len(self._tids)
            name = self._names.get(track, str(event.get("tid", "")))
            args = {"name": f"{name} (overlap {lane})"}
            made.append(
                {"ph": "M", "name": "thread_name", "ts": 0, "pid": event.get("pid"), "tid": tid, "args": args}
            )
        return [*made, {**event, "tid": tid}]

    def _remember_name(self, event: Mapping[str, Any]) -> None:
        args = event.get("args")
        if (
            event.get("name") == "thread_name"
            and isinstance(args, dict)
            and isinstance(args.get("name"), str)
        ):
            self._names[track_of(event)] = args["name"]


_FIRST_TID = 2_000_000_001
"""Above every thread id of Linux, below 2^31."""


def _events(count: int) -> str:
    return "1 event" if count == 1 else f"{count} events"
