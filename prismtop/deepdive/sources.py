"""The parts of a capture that are not our own recording, as drawable events on numbered tracks.

Each can be gone through twice, with the same events in the same order: first to see what nests and what can
be added up, then to be written. Nothing is held in memory but what came without a file.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple, Protocol, cast

from prismtop.deepdive.clock import Alignment, align
from prismtop.deepdive.layer import LayerEvent
from prismtop.deepdive.profile import Item, Profile, flow_id
from prismtop.deepdive.tracks import CaptureTracks
from prismtop.trace.lenient import FAST, Event, arguments
from prismtop.trace.metadata import json_object
from prismtop.trace.own import CATEGORIES

_ALIGNED = Alignment(0, error_ns=0)
_HOST_LAYERS = {"python_function": "python"}
MAX_LINE = 1 << 20
MAX_EVENTS = 5_000_000
"""Of one file of the target's own events."""


class Drawn(NamedTuple):
    """One event.

    Attributes:
        phase: `X`, `i`, `C`, `s`, `t`, `f`.
        track: number of its track.
        start_ns, end_ns: by the clock of its source.
        cat, name: not safe to print.
        layer: whom it is counted to; empty for flows.
        args: the arguments, as what makes their text; see `args_text`.
        flow: id of a flow.
    """

    phase: str
    track: int
    start_ns: int
    end_ns: int
    cat: str
    name: str
    layer: str
    args: object
    flow: int | None = None


class Source(Protocol):
    """Events of one origin."""

    pid: int
    alignment: Alignment

    def drawn(self) -> Iterator[Drawn]:
        """All of them; the same every time."""

    def notes(self) -> list[str]:
        """Sentences about what is missing, once they were gone through."""


@dataclass
class ProfileSource:
    """torch.profiler's file of one process.

    Attributes:
        number: of the profile in this capture, from 0.
        model_thread: native id of the thread that made the markers; None without markers.
    """

    profile: Profile
    pid: int
    number: int
    tracks: CaptureTracks
    threads: Mapping[int, int]
    alignment: Alignment
    model_thread: int | None = None
    _numbers: dict[tuple[bool, tuple[object, object]], int] = field(default_factory=dict)
    _begun: set[int] = field(default_factory=set)
    _ended: set[int] = field(default_factory=set)

    @classmethod
    def open(
        cls,
        path: Path,
        pid: int,
        number: int,
        tracks: CaptureTracks,
        threads: Mapping[int, int],
        wall_minus_mono_ns: int,
    ) -> ProfileSource:
        """Raises UsageError when the file is no trace."""
        profile = Profile.open(path)
        made = cls(profile, pid, number, tracks, threads, align(profile.facts.markers, wall_minus_mono_ns))
        if profile.facts.places:
            made.model_thread = made._native(profile.facts.places[0][1])
        return made

    def drawn(self) -> Iterator[Drawn]:
        """All of them; the same every time."""
        numbers = self._numbers
        for item in self.profile.items():
            phase, cat = item.phase, item.cat
            if phase not in ("X", "i"):
                flow = self._flow(item)
                if flow is not None:
                    yield flow
                continue
            key = (item.device, item.place)
            track = numbers.get(key)
            if track is None:
                track = numbers[key] = self._track(item)
            layer = "gpu" if item.device else _HOST_LAYERS.get(cat, "operators")
            yield Drawn(phase, track, item.at_ns, item.end_ns, cat, item.name, layer, item.event)

    def _flow(self, item: Item) -> Drawn | None:
        """An end of a flow. It lies on a host thread or on a stream, and nothing in it tells on which: what
        lies there does, once everything was seen. Kineto also writes ends of flows that never began, of which
        viewers complain: known in the second pass as well.
        """
        first = item.phase != "s"  # a launch is on the host, what it starts on the device
        places = ((first, item.place), (not first, item.place))
        track = next((self._numbers[key] for key in places if key in self._numbers), None)
        number = flow_id(self.number, item.cat, item.event.id)
        if number is None:
            return None
        whole = number in self._begun and number in self._ended
        (self._begun if item.phase == "s" else self._ended).add(number)
        if track is None or not whole:
            return None
        return Drawn(item.phase, track, item.at_ns, item.at_ns, item.cat, item.name, "", None, number)

    def notes(self) -> list[str]:
        """Sentences about what is missing."""
        made = [*self.profile.facts.notes]
        if self.alignment.note:
            made.append(f"pid {self.pid}: {self.alignment.note}")
        if self.profile.skipped:
            made.append(f"pid {self.pid}: {self.profile.skipped} events of its profile could not be used")
        return made

    @property
    def window(self) -> tuple[int, int] | None:
        """CLOCK_MONOTONIC of the first and the last marker; None without any."""
        read = [marker.mono_ns for marker in self.profile.facts.markers]
        return (min(read), max(read)) if read else None

    def name_threads(self) -> None:
        """Give tracks the names that the profile has for them, once it was gone through."""
        for (device, place), track in self._numbers.items():
            name = self.profile.threads.get(place, "")
            tid = self.tracks.owner(track)[1]
            if not device and tid:
                model = "model " if tid == self.model_thread else ""
                self.tracks.rename(track, model + (name or f"thread {tid}"))

    def _track(self, item: Item) -> int:
        process, thread = item.place
        if item.device:
            device = process if type(process) is int and 0 <= process < 1024 else 0
            title = self.profile.facts.devices.get(device, "")
            return self.tracks.stream(self.pid, device, thread, title)
        if type(process) is int and type(thread) is int and 0 < thread < 1 << 31:
            return self.tracks.thread(self.pid, self._native(thread))
        return self.tracks.beside(self.pid, 0, f"profiler {thread}" if thread else "profiler")

    def _native(self, thread: object) -> int:
        tid = thread if type(thread) is int else 0
        return self.threads.get(tid, tid)


@dataclass
class EventsSource:
    """The target's own events of one process: JSON lines, their times CLOCK_MONOTONIC."""

    path: Path
    pid: int
    tracks: CaptureTracks
    threads: Mapping[int, int]
    alignment: Alignment = _ALIGNED
    skipped: int = 0

    def drawn(self) -> Iterator[Drawn]:
        """All of them; the same every time."""
        self.skipped = 0
        with open(self.path, "rb") as file:
            for count, line in enumerate(iter(lambda: file.readline(MAX_LINE), b"")):
                made = self._event(line) if count < MAX_EVENTS else None
                if made is None:
                    self.skipped += 1
                else:
                    yield made

    def notes(self) -> list[str]:
        """Sentences about what is missing."""
        if not self.skipped:
            return []
        return [f"pid {self.pid}: {self.skipped} of its Python and gc events could not be used"]

    def _event(self, line: bytes) -> Drawn | None:
        try:
            made = json.loads(line)
            layer, name = made["layer"], made["name"]
            start, length, tid = made["t0"], made["dur"], made["tid"]
        except (ValueError, KeyError, TypeError, RecursionError):
            return None
        whole = all(type(value) is int and 0 <= value < 1 << 62 for value in (start, length, tid))
        if not whole or not isinstance(layer, str) or not isinstance(name, str):
            return None
        args = made.get("args")
        event = LayerEvent(
            layer, "slice", name, start, length, self.pid, self.threads.get(tid, tid),
            args if isinstance(args, dict) else {},
        )  # fmt: skip
        return _of_layer(event, self.tracks)


@dataclass
class LayerSource:
    """Events of the layers outside the target."""

    events: Sequence[LayerEvent]
    tracks: CaptureTracks
    pid: int = 0
    alignment: Alignment = _ALIGNED

    @classmethod
    def of(cls, events: Iterable[LayerEvent], tracks: CaptureTracks) -> LayerSource:
        """Take them all: they come once."""
        return cls([event for event in events if event.kind in ("slice", "instant", "counter")], tracks)

    def drawn(self) -> Iterator[Drawn]:
        """All of them; the same every time."""
        for event in self.events:
            made = _of_layer(event, self.tracks)
            if made is not None:
                yield made

    def notes(self) -> list[str]:
        """Nothing is left out."""
        return []


def _of_layer(event: LayerEvent, tracks: CaptureTracks) -> Drawn | None:
    track = tracks.beside(event.pid, event.tid, event.layer)
    args: Mapping[str, object] = event.args
    phase = {"slice": "X", "instant": "i", "counter": "C"}[event.kind]
    if phase == "C":
        args = {name: value for name, value in args.items() if _is_number(value)}
        if not args:
            return None
    end = event.t0_ns + max(0, event.dur_ns if phase == "X" else 0)
    # Sampled: how long is known, when within the period is not. It is drawn, and not added up.
    cat = f"{event.layer} sampled" if args.get("sampled") else event.layer
    return Drawn(phase, track, event.t0_ns, end, cat, event.name, event.layer, args)


def _is_number(value: object) -> bool:
    return type(value) is int or (isinstance(value, float) and isfinite(value))


def category(cat: str) -> str:
    """A category that is never one of our own recording's, nor empty: those would be read as ours."""
    return f"profiler {cat}".strip() if cat in CATEGORIES or not cat else cat


def args_text(args: object) -> str:
    """The arguments as one line of JSON; empty without any."""
    if isinstance(args, Mapping):
        text = json_object(args) if args else ""
    else:
        text = _raw_text(cast("Event", args))
    # What counts lines of our own recording looks for this very text.
    return text.replace('"cat":', '"cat" :')


def _raw_text(event: Event) -> str:
    """The text of the file where it is strict JSON, which spares reading it."""
    raw: Any = event.args
    if raw is None:
        return ""
    text = ""
    if FAST and not isinstance(raw, dict):  # what msgspec did not read was not checked
        try:
            text = bytes(raw).decode()
        except (UnicodeDecodeError, TypeError):
            text = ""
    if not text:
        made = arguments(event)
        return json_object(made) if made else ""
    if not text.startswith("{"):
        return ""
    if "\n" in text or "\r" in text:  # no line feed stands inside of a JSON string
        text = " ".join(text.split())
    return text
