"""torch.profiler's own file, read block by block: spans, flows and instants with integer times.

Kineto writes an object whose `traceEvents` come in no order; times are microseconds with three decimals,
relative to `baseTimeNanoseconds` where the file has one (it stands behind the events), else Unix time.
Host spans carry the process's pid as it sees itself (another one in a container) and native thread ids; spans
of a device carry the device as pid and the stream as tid; some carry texts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from prismtop.deepdive.clock import MARKER, Marker, marker_of
from prismtop.trace.lenient import Event, arguments, ns_of, text_of
from prismtop.trace.reader import TraceReader

DEVICE_CATS = frozenset(("kernel", "gpu_memcpy", "gpu_memset", "gpu_user_annotation", "cuda_sync"))
"""Categories of spans that lie on a device's stream."""
_MARKER = MARKER.encode()
_LARGEST_ID = 1 << 32
_FAR = 1 << 62


class Item(NamedTuple):
    """One event of a profile that is drawn.

    Attributes:
        phase: `X`, `i`, `s`, `f`, `t`.
        at_ns, end_ns: by the profiler's clock.
        device: whether it lies on a device's stream.
        place: (process or device, thread or stream) as in the file.
        cat, name: as in the file: not safe to print.
        event: for its arguments and its id.
    """

    phase: str
    at_ns: int
    end_ns: int
    device: bool
    place: tuple[object, object]
    cat: str
    name: str
    event: Event


@dataclass
class Facts:
    """What must be known of a profile before its events are used.

    Attributes:
        base_ns: added to the times of events, which gives Unix time.
        markers: sync markers, in the order of the file.
        places: thread of each marker.
        devices: names of devices by number.
        notes: sentences about damage.
    """

    base_ns: int = 0
    markers: list[Marker] = field(default_factory=list)
    places: list[tuple[object, object]] = field(default_factory=list)
    devices: dict[int, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


@dataclass
class Profile:
    """One file; `items` may be iterated any number of times and gives the same every time.

    Attributes:
        path: the file.
        facts: known from the start.
        threads: names of threads by place, once `items` was iterated.
        skipped: events that could not be read or are of no use, in the latest iteration.
    """

    path: Path
    facts: Facts
    threads: dict[tuple[object, object], str] = field(default_factory=dict)
    skipped: int = 0

    @classmethod
    def open(cls, path: Path) -> Profile:
        """Read its facts: one pass in which hardly anything is decoded.

        Raises:
            UsageError: it is no trace, or cannot be read.
        """
        facts = Facts()
        found: list[tuple[int, str, tuple[object, object]]] = []
        reader = TraceReader(path)
        for block in reader.blocks():
            if _MARKER in block.data:
                for event in block.events()[0]:
                    name, at = event.name, ns_of(event.ts)
                    if event.ph != "X" or not isinstance(name, str) or at is None:
                        continue
                    if name.startswith(MARKER) and event.cat not in DEVICE_CATS:
                        found.append((at, name, place_of(event)))
        base = reader.header.get("baseTimeNanoseconds")
        if type(base) is int and 0 <= base < 1 << 62:
            facts.base_ns = base
        for at, name, place in found:
            marker = marker_of(name, facts.base_ns + at)
            if marker is not None:
                facts.markers.append(marker)
                facts.places.append(place)
        facts.notes += reader.notes
        facts.devices = _devices(reader.header)
        return cls(path, facts)

    def items(self) -> Iterator[Item]:
        """Everything that is drawn, in the order of the file."""
        base = self.facts.base_ns
        reader = TraceReader(self.path)
        self.skipped = 0
        for events in reader.events():
            for event in events:
                phase, name = event.ph, event.name
                if phase == "M":
                    self._named(event)
                    continue
                at, cat = ns_of(event.ts), event.cat
                if at is None or type(phase) is not str or type(name) is not str:
                    self.skipped += 1
                    continue
                length = 0
                if phase == "X":
                    span = ns_of(event.dur)
                    if span is None or span < 0:
                        self.skipped += 1
                        continue
                    length = span
                elif phase not in ("i", "s", "f", "t"):
                    self.skipped += 1
                    continue
                cat = cat if type(cat) is str else ""
                at += base
                if not (at > -_FAR and at + length < _FAR):
                    self.skipped += 1
                    continue
                yield Item(phase, at, at + length, cat in DEVICE_CATS, place_of(event), cat, name, event)
        self.skipped += reader.skipped

    def _named(self, event: Event) -> None:
        if event.name == "thread_name":
            self.threads[place_of(event)] = text_of(arguments(event).get("name"), 80)


def place_of(event: Event) -> tuple[object, object]:
    """Process and thread as the file has them; what can be no key counts as absent."""
    pid, tid = event.pid, event.tid
    return (
        pid if isinstance(pid, (int, str)) else None,
        tid if isinstance(tid, (int, str)) else None,
    )


def _devices(header: dict[str, object]) -> dict[int, str]:
    listed = header.get("deviceProperties")
    made: dict[int, str] = {}
    for one in listed if isinstance(listed, list) else ():
        if isinstance(one, dict) and type(one.get("id")) is int:
            made[one["id"]] = text_of(one.get("name"), 80)
    return made


_FLOWS = ("ac2g", "fwdbwd")


def flow_id(number: int, cat: str, value: object) -> int | None:
    """The id of a flow, unique among the profiles and the categories of a file; None when it has none.

    Args:
        number: of the profile, from 0.
    """
    if type(value) is str:
        try:
            value = int(value, 0)
        except ValueError:
            return None
    if type(value) is not int or not 0 <= value < _LARGEST_ID:
        return None
    kind = _FLOWS.index(cat) if cat in _FLOWS else len(_FLOWS)
    return (number * (len(_FLOWS) + 1) + kind + 1) * _LARGEST_ID + value
