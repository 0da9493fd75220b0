"""Batches, stages and counters out of anybody's Chrome trace: Kineto, py-spy, viztracer, LatencyPrism.

Memory is bounded by the number of batches and stages, not of events: spans are kept as rows of integers, and
what belongs to no batch is forgotten. Events may come in any order.

Batches are, in this order of preference: annotations that tell a batch's workload, annotations that only span
an iteration, the calls of the anchor function (a second pass, see `prismtop.trace.anchors`).
"""

from __future__ import annotations

import math
import re
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from prismtop.errors import UsageError
from prismtop.model import STAGES, Batch, Counter, Mode, Origin, Stage
from prismtop.trace.anchors import Anchor, AnchorSearch, outermost
from prismtop.trace.dialects.found import Foreign
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
from prismtop.trace.reader import TraceReader

MAX_ROWS = 3_000_000
"""Spans and readings kept of one file; beyond, the rest is left out and said."""
MAX_NAMES = 200_000
_HOST_PID = re.compile(r"^(?P<host>.*)\((?P<pid>\d{1,9})\)$")
_FUNCTION_CATS = frozenset(
    ("python_function", "python", "py-spy", "FEE", "CAT_APP", "user_annotation", "user probe", "")
)
_RUNTIME_CATS = frozenset(("cuda_runtime", "cuda_driver", "hip_runtime"))
_MODES = tuple(Mode)
_KEYS = (int, str, float)
_NOTHING = ("", 0)
"""What most events are: kernels, operators, flows."""


@dataclass
class _Rows:
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


_Track = tuple[object, object]


def _track(event: Event) -> _Track:
    """The event's thread; what can be no key of a table counts as absent."""
    pid, tid = event.pid, event.tid
    return pid if isinstance(pid, _KEYS) else None, tid if isinstance(tid, _KEYS) else None


class _Collector:
    """One pass over a trace."""

    def __init__(self) -> None:
        self.annotations: dict[_Track, _Rows] = {}
        self.device_annotations: dict[_Track, _Rows] = {}
        self.stages: dict[_Track, _Rows] = {}
        self.modes: dict[_Track, _Rows] = {}
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
        self._open: dict[_Track, list[tuple[int, object, object]]] = {}

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
                self._span(_track(event), event.name, what, start, start + span)
                continue
            if phase == "B":
                at = ns_of(event.ts)
                stack = self._open.setdefault(_track(event), [])
                if at is not None and len(stack) < 10_000:
                    stack.append((at, event.name, event.cat))
            elif phase == "E":
                at = ns_of(event.ts)
                stack = self._open.get(_track(event), [])
                if at is not None and stack:
                    begun, name, cat = stack.pop()
                    if at >= begun:
                        self._ended(_track(event), name, cat, begun, at)
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

    def _ended(self, track: _Track, name: object, cat: object, start: int, end: int) -> None:
        """A begin and its end."""
        try:
            what = self._kinds.get((name, cat)) or self._classify(name, cat)
        except TypeError:  # a name that is a list
            return
        self._span(track, name, what, start, end)

    def _span(self, track: _Track, name: object, kind: tuple[str, int], start: int, end: int) -> None:
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
            self.annotations.setdefault(track, _Rows()).add(start, end, number)
            if len(self.annotations[track].start) >= 4:
                self.search = None
        elif what == "device":
            self.device_annotations.setdefault(track, _Rows()).add(start, end, number)
        elif what == "mode":
            self.modes.setdefault(track, _Rows()).add(start, end, number)
            if self.search is not None:
                self.search.add(track, str(name), start, end)
        else:
            self.stages.setdefault(track, _Rows()).add(start, end, number)
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
                made = ("mode", _MODES.index(mode))
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


def read_chrome(path: Path) -> Foreign:
    """Everything of a Chrome trace that is not ours.

    Raises:
        UsageError: it is no trace, or holds no event.
    """
    reader = TraceReader(path)
    first = _Collector()
    for events in reader.events():
        first.take(events)
    if not first.events:
        raise UsageError(
            f"{reader.path.name!r} holds no trace event.", fix="Name a file that a profiler wrote."
        )
    notes = list(reader.notes)
    if first.rows >= MAX_ROWS:
        notes.append(f"only the first {MAX_ROWS} spans of the trace were used")
    track, spans, how = _batch_spans(path, first, notes)
    base = reader.header.get("baseTimeNanoseconds")
    shift = base if isinstance(base, int) and 0 <= base < 1 << 62 else 0
    if first.start_ns + shift > 1 << 62:
        shift = 0
    named = _assembler(first, track, spans, _pid(track, first), _rank(reader.header), shift)
    start, end = (0, 0) if first.end_ns < first.start_ns else (first.start_ns, first.end_ns)
    return Foreign(
        dialect=_dialect(reader, first, track),
        engine=_engine(first),
        pid=_pid(track, first),
        rank=_rank(reader.header),
        device=_device(reader.header),
        batches=named,
        counters=lambda: _counters(first, shift),
        count=len(spans),
        how=how,
        start_ns=start + shift,
        end_ns=end + shift,
        wall=start + shift > 10**18,
        notes=tuple(notes),
        events=first.events,
        skipped=reader.skipped,
    )


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


_Spans = list[tuple[int, int, int]]


def _batch_spans(path: Path, first: _Collector, notes: list[str]) -> tuple[_Track, _Spans, str]:
    """(track, (start, end, index into `named` or -1), how they were found)."""
    for source, where in ((first.annotations, "annotations"), (first.device_annotations, "GPU annotations")):
        for kind in ("workload", "step"):
            tracks = {
                track: [row for row in rows.sorted() if first.named[row[2]].kind == kind]
                for track, rows in source.items()
            }
            track, spans = max(tracks.items(), key=lambda item: len(item[1]), default=((0, 0), []))
            if spans:
                return track, _disjoint(spans), f"{where} such as {first.names[spans[0][2]]!r}"
    anchor = first.search.best() if first.search is not None else None
    if anchor is None:
        notes.append("no batches in it: no annotation names them and no function is called regularly")
        return (0, 0), [], "no batches"
    calls = [(start, end, -1) for start, end in _calls_of(path, anchor)]
    return anchor.track, calls, f"calls of {anchor.name!r} (confidence {anchor.confidence:.2f})"


def _disjoint(spans: _Spans) -> _Spans:
    made: _Spans = []
    for span in spans:
        if not made or span[0] >= made[-1][1]:
            made.append(span)
    return made


def _calls_of(path: Path, anchor: Anchor) -> list[tuple[int, int]]:
    """Outermost calls of the anchor: a second pass over the file."""
    calls: list[tuple[int, int]] = []
    open_calls: list[tuple[object, int]] = []
    for events in TraceReader(path).events():
        for event in events:
            if event.ph not in ("X", "B", "E") or _track(event) != anchor.track:
                continue
            start = ns_of(event.ts)
            if start is None or len(calls) >= MAX_ROWS:
                continue
            if event.ph == "B" and len(open_calls) < 10_000:
                open_calls.append((event.name, start))
            elif event.ph == "E":
                name, begun = open_calls.pop() if open_calls else (None, 0)
                if name == anchor.name and start >= begun:
                    calls.append((begun, start))
            elif event.ph == "X" and event.name == anchor.name:
                length = ns_of(event.dur)
                if length is not None and length >= 0:
                    calls.append((start, start + length))
    return outermost(calls)


def _assembler(
    found: _Collector, track: _Track, spans: _Spans, pid: int, rank: int | None, shift: int
) -> Callable[[], Iterator[Batch]]:
    engine = _engine(found)
    stages = found.stages.get(track, _Rows()).sorted() if spans else []
    modes = found.modes.get(track, _Rows()).sorted() if spans else []
    found.stages.clear()
    tid = track[1] if isinstance(track[1], int) and 0 <= track[1] < 1 << 32 else 0
    starts = [row[0] for row in stages]
    mode_starts = [row[0] for row in modes]

    def batches() -> Iterator[Batch]:
        previous_end: int | None = None
        for number, (start, end, index) in enumerate(spans):
            named = found.named[index] if index >= 0 else Named("step")
            inside = (
                stages[bisect_right(starts, start - 1) : bisect_right(starts, end - 1)] if end > start else []
            )
            rows = [(s, min(e, end), *found.stage_names[k]) for s, e, k in inside]
            if named.stage:
                rows.insert(0, (start, end, named.stage, "annotation"))
            mode = named.mode
            if mode is Mode.UNKNOWN and modes:
                at = bisect_right(mode_starts, start - 1)
                if at < len(modes) and modes[at][0] < end:
                    mode = _MODES[modes[at][2]]
            yield Batch(
                pid=pid,
                engine=engine,
                seq=number,
                start_ns=start + shift,
                duration_ns=end - start,
                period_ns=None if previous_end is None else end - previous_end,
                mode=mode,
                stages=tuple(_exclusive(rows, pid, tid, rank, shift)),
                workload=named.workload,
                origin=Origin.TRACE,
                rank=rank,
            )
            previous_end = end

    return batches


def _exclusive(
    rows: list[tuple[int, int, str, str]], pid: int, tid: int, rank: int | None, shift: int
) -> list[Stage]:
    """Stages with the time of those nested in them taken out. Rows come by start, outer ones first."""
    own = [end - start for start, end, _, _ in rows]
    stack: list[int] = []
    for number, (start, end, _, _) in enumerate(rows):
        while stack and rows[stack[-1]][1] <= start:
            stack.pop()
        if stack:
            own[stack[-1]] -= min(end, rows[stack[-1]][1]) - start
        stack.append(number)
    return [
        Stage(name, hook, start + shift, max(0, own[number]), pid, tid, rank, end - start)
        for number, (start, end, name, hook) in enumerate(rows)
        if name in STAGES
    ]


def _counters(found: _Collector, shift: int) -> Iterator[Counter]:
    found.readings.sort()
    names = list(found.series)
    for at, series, value in found.readings:
        name, device = names[series]
        yield Counter(name, device, "", at + shift, value, source="trace")


def _dialect(reader: TraceReader, found: _Collector, track: _Track) -> str:
    header = reader.header
    if "viztracer_metadata" in header or "FEE" in found.cats:
        return "viztracer"
    if "schemaVersion" in header or "deviceProperties" in header or "baseTimeNanoseconds" in header:
        return "kineto"
    if "py-spy" in found.cats:
        return "py-spy"
    if host_of(track[0]) or found.cats & {"CAT_APP", "CAT_HOST", "CAT_PROCESS", "CAT_DISK"}:
        return "latencyprism"
    return "chrome"


def _engine(found: _Collector) -> str:
    named = next((one.engine for one in found.named if one.engine), "")
    if named:
        return named
    return max(found.engines, key=lambda name: found.engines[name], default="unknown")


def _pid(track: _Track, found: _Collector) -> int:
    return pid_of(track[0]) or next(
        (pid_of(other[0]) for other in (*found.annotations, *found.stages) if pid_of(other[0])), 0
    )


def _rank(header: dict[str, object]) -> int | None:
    info = header.get("distributedInfo")
    rank = info.get("rank") if isinstance(info, dict) else None
    world = info.get("world_size") if isinstance(info, dict) else None
    return rank if isinstance(rank, int) and 0 <= rank < 1 << 20 and world != 1 else None


def _device(header: dict[str, object]) -> str:
    devices = header.get("deviceProperties")
    if not isinstance(devices, list):
        return ""
    names = [one.get("name") for one in devices if isinstance(one, dict)]
    return next((name[:80] for name in names if isinstance(name, str) and name), "")
