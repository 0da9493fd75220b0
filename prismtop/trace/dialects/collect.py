"""One pass over anybody's Chrome trace: annotations, engine functions, counters; everything else is only
counted.
"""

from __future__ import annotations

import math
import re
from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TypeAlias

from prismtop.model import Mode
from prismtop.trace.anchors import AnchorSearch
from prismtop.trace.dialects.names import (
    SPAN_CATS,
    Named,
    batch_named,
    engine_of,
    function_and_file,
    mode_named,
    stage_named,
)
from prismtop.trace.lenient import Event, arguments, ns_of, number_of, text_of

MAX_ROWS = 3_000_000
"""Spans and readings kept of one file; beyond, the rest is left out and said."""
MAX_NAMES = 200_000
_HOST_PID = re.compile(r"^(?P<host>.*)\((?P<pid>\d{1,9})\)$")
_FUNCTION_CATS = frozenset(
    ("python_function", "python", "py-spy", "FEE", "fee", "CAT_APP", "user_annotation", "user probe", "")
)
_RUNTIME_CATS = frozenset(("cuda_runtime", "cuda_driver", "hip_runtime"))
MODES = tuple(Mode)
_KEYS = (int, str, float)
_NOTHING = ("", 0)
"""What most events are: kernels, operators, flows."""
Track: TypeAlias = tuple[object, object]


@dataclass
class Rows:
    """Spans of one track: start, end, number of a name."""

    start: array[int] = field(default_factory=lambda: array("q"))
    end: array[int] = field(default_factory=lambda: array("q"))
    kind: array[int] = field(default_factory=lambda: array("i"))

    def add(self, start: int, end: int, kind: int) -> None:
        self.start.append(start)
        self.end.append(end)
        self.kind.append(kind)

    def sorted(self) -> list[tuple[int, int, int]]:
        return sorted(zip(self.start, self.end, self.kind, strict=True), key=lambda row: (row[0], -row[1]))


def track_of(event: Event) -> Track:
    """The event's thread; what can be no key of a table counts as absent."""
    pid, tid = event.pid, event.tid
    return pid if isinstance(pid, _KEYS) else None, tid if isinstance(tid, _KEYS) else None


class Collector:
    """One pass over a trace."""

    def __init__(self) -> None:
        self.annotations: dict[Track, Rows] = {}
        self.device_annotations: dict[Track, Rows] = {}
        self.stages: dict[Track, Rows] = {}
        self.modes: dict[Track, Rows] = {}
        self.named: list[Named] = []
        self.names: list[str] = []
        self.stage_names: list[tuple[str, str]] = []  # (stage, function)
        self.search: AnchorSearch | None = AnchorSearch()
        self.engines: dict[str, int] = {}
        self.readings: list[tuple[int, int, float]] = []
        self.series: dict[tuple[str, str], int] = {}
        self.start_ns, self.end_ns = 1 << 62, -(1 << 62)
        self.events = 0
        self.rows = 0
        self.cats: set[str] = set()
        self._kinds: dict[tuple[object, object], tuple[str, int]] = {}
        self._low_us, self._high_us = math.inf, -math.inf
        self._open: dict[Track, list[tuple[int, object, object]]] = {}

    def take(self, events: Iterable[Event]) -> None:
        """Look at a block of events."""
        kinds = self._kinds
        low, high, count = self._low_us, self._high_us, self.events
        for event in events:
            phase = event.ph
            if phase == "X":
                try:
                    what = kinds[event.name, event.cat]
                except KeyError:
                    what = self._classify(event.name, event.cat)
                except TypeError:  # a name that is a list
                    continue
                at, length = event.ts, event.dur
                if what is _NOTHING:
                    if type(at) is float and type(length) is float:
                        # Most events of a trace: only that it goes on for so long matters.
                        if at < low:
                            low = at
                        if at + length > high:
                            high = at + length
                    count += 1
                    continue
                start, span = ns_of(at), ns_of(length)
                if start is None or span is None or span < 0:
                    continue
                count += 1
                self._span(track_of(event), event.name, what, start, start + span)
                continue
            if phase == "B":
                at = ns_of(event.ts)
                stack = self._open.setdefault(track_of(event), [])
                if at is not None and len(stack) < 10_000:
                    stack.append((at, event.name, event.cat))
            elif phase == "E":
                at = ns_of(event.ts)
                stack = self._open.get(track_of(event), [])
                if at is not None and stack:
                    begun, name, cat = stack.pop()
                    if at >= begun:
                        self._ended(track_of(event), name, cat, begun, at)
            elif phase == "C":
                self._counter(event)
            elif phase != "M":
                continue
            count += 1
        self._low_us, self._high_us, self.events = low, high, count
        for bound in (low, high):
            at_ns = ns_of(bound)
            if at_ns is not None:
                self.start_ns, self.end_ns = min(self.start_ns, at_ns), max(self.end_ns, at_ns)

    def _ended(self, track: Track, name: object, cat: object, start: int, end: int) -> None:
        """A begin and its end."""
        try:
            what = self._kinds.get((name, cat)) or self._classify(name, cat)
        except TypeError:  # a name that is a list
            return
        self._span(track, name, what, start, end)

    def _span(self, track: Track, name: object, kind: tuple[str, int], start: int, end: int) -> None:
        if start < self.start_ns:
            self.start_ns = start
        if end > self.end_ns:
            self.end_ns = end
        what, number = kind
        if not what:
            return
        if what == "function":
            if self.search is not None:
                self.search.add(track, str(name), start, end)
            return
        if self.rows >= MAX_ROWS:
            return
        self.rows += 1
        if what == "batch":
            self.annotations.setdefault(track, Rows()).add(start, end, number)
            if len(self.annotations[track].start) >= 4:
                self.search = None
        elif what == "device":
            self.device_annotations.setdefault(track, Rows()).add(start, end, number)
        elif what == "mode":
            self.modes.setdefault(track, Rows()).add(start, end, number)
            if self.search is not None:
                self.search.add(track, str(name), start, end)
        else:
            self.stages.setdefault(track, Rows()).add(start, end, number)
            if self.search is not None and what == "stage":
                self.search.add(track, str(name), start, end)

    def _classify(self, name: object, cat: object) -> tuple[str, int]:
        if not isinstance(name, str) or not (cat is None or isinstance(cat, str)) or len(name) > 4096:
            return _NOTHING
        kind = cat or ""
        self.cats.add(kind[:64])
        made = _NOTHING
        engine = engine_of(function_and_file(name)[1])
        if engine:
            self.engines[engine] = self.engines.get(engine, 0) + 1
        if kind in SPAN_CATS or kind not in _RUNTIME_CATS:
            annotation = batch_named(name)
            if annotation is not None:
                self.named.append(annotation)
                self.names.append(name[:200])
                made = ("device" if kind == "gpu_user_annotation" else "batch", len(self.named) - 1)
        if not made[0] and kind != "gpu_user_annotation":
            stage = stage_named(name, kind) if kind in _FUNCTION_CATS or kind in _RUNTIME_CATS else ""
            mode = mode_named(name) if kind in _FUNCTION_CATS else None
            if mode is not None:
                made = ("mode", MODES.index(mode))
            elif stage:
                self.stage_names.append((stage, function_and_file(name)[0]))
                made = ("runtime" if kind in _RUNTIME_CATS else "stage", len(self.stage_names) - 1)
            elif kind in _FUNCTION_CATS and kind not in SPAN_CATS:
                made = ("function", 0)
        if len(self._kinds) < MAX_NAMES:
            self._kinds[name, cat] = made
        return made

    def _counter(self, event: Event) -> None:
        at = ns_of(event.ts)
        if at is None or not isinstance(event.name, str) or len(self.readings) >= MAX_ROWS:
            return
        values = arguments(event)
        device = f"pid {pid_of(event.pid)}" if pid_of(event.pid) else text_of(event.pid, 64) or "host"
        for key, value in values.items():
            number = number_of(value)
            if number is None or isinstance(value, str) or key in ("hostname", "host"):
                continue
            name = event.name[:200] if key in ("value", "") else f"{event.name[:200]}.{key[:80]}"
            series = self.series.setdefault((name, device), len(self.series))
            self.readings.append((at, series, number))
            self.start_ns, self.end_ns = min(self.start_ns, at), max(self.end_ns, at)


def pid_of(value: object) -> int:
    """The pid in an event's `pid`, which may be text such as `4242` or `host(4242)`; 0 without one."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value if 0 < value < 1 << 31 else 0
    if isinstance(value, str):
        found = _HOST_PID.match(value)
        digits = found["pid"] if found else value
        return int(digits) if digits.isascii() and digits.isdigit() and len(digits) < 10 else 0
    return 0


def host_of(value: object) -> str:
    """The host in `host(4242)`; empty without one."""
    found = _HOST_PID.match(value) if isinstance(value, str) else None
    return found["host"] if found else ""
