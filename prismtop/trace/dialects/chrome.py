"""Batches, stages and counters out of anybody's Chrome trace: Kineto, py-spy, viztracer, LatencyPrism.

Memory is bounded by the number of batches and stages, not of events: spans are kept as rows of integers, and
what belongs to no batch is forgotten. Events may come in any order.

Batches are, in this order of preference: annotations that tell a batch's workload, annotations that only span
an iteration, the calls of the anchor function (a second pass, see `prismtop.trace.anchors`).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator
from pathlib import Path

from prismtop.errors import UsageError
from prismtop.model import STAGES, Batch, Counter, Mode, Origin, Stage
from prismtop.trace.anchors import Anchor, outermost
from prismtop.trace.dialects.collect import (
    MAX_ROWS,
    MODES,
    Collector,
    Rows,
    Track,
    host_of,
    pid_of,
    track_of,
)
from prismtop.trace.dialects.found import Foreign
from prismtop.trace.dialects.names import Named
from prismtop.trace.lenient import ns_of
from prismtop.trace.reader import TraceReader


def read_chrome(path: Path) -> Foreign:
    """Everything of a Chrome trace that is not ours.

    Raises:
        UsageError: it is no trace, or holds no event.
    """
    reader = TraceReader(path)
    first = Collector()
    for events in reader.events():
        first.take(events)
    if not first.events:
        raise UsageError(
            f"{reader.path.name!r} holds no trace event.", fix="Name a file that a profiler wrote."
        )
    notes = list(reader.notes)
    if first.rows >= MAX_ROWS:
        notes.append(f"only the first {MAX_ROWS} spans of the trace were used")
    if "py-spy" in first.cats:
        notes.append("py-spy samples: what it shows as one call may be several, so batches are not all there")
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


_Spans = list[tuple[int, int, int]]


def _batch_spans(path: Path, first: Collector, notes: list[str]) -> tuple[Track, _Spans, str]:
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
            if event.ph not in ("X", "B", "E") or track_of(event) != anchor.track:
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
    found: Collector, track: Track, spans: _Spans, pid: int, rank: int | None, shift: int
) -> Callable[[], Iterator[Batch]]:
    engine = _engine(found)
    stages = found.stages.get(track, Rows()).sorted() if spans else []
    modes = found.modes.get(track, Rows()).sorted() if spans else []
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
                    mode = MODES[modes[at][2]]
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


def _counters(found: Collector, shift: int) -> Iterator[Counter]:
    found.readings.sort()
    names = list(found.series)
    for at, series, value in found.readings:
        name, device = names[series]
        yield Counter(name, device, "", at + shift, value, source="trace")


def _dialect(reader: TraceReader, found: Collector, track: Track) -> str:
    header = reader.header
    if "viztracer_metadata" in header or found.cats & {"FEE", "fee"}:
        return "viztracer"
    if "schemaVersion" in header or "deviceProperties" in header or "baseTimeNanoseconds" in header:
        return "kineto"
    if "py-spy" in found.cats:
        return "py-spy"
    if host_of(track[0]) or found.cats & {"CAT_APP", "CAT_HOST", "CAT_PROCESS", "CAT_DISK"}:
        return "latencyprism"
    return "chrome"


def _engine(found: Collector) -> str:
    named = next((one.engine for one in found.named if one.engine), "")
    if named:
        return named
    return max(found.engines, key=lambda name: found.engines[name], default="unknown")


def _pid(track: Track, found: Collector) -> int:
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
