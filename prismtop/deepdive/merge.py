"""One trace out of one capture: our own recording, the profilers' files, and every other layer.

The file is a recording of ours (`prismtop.trace.events`): a JSON array of one event a line that
`prismtop replay` reads as its own, with the other layers behind it on tracks of their own. Everything is on
CLOCK_MONOTONIC, relative to the recording's base.
"""

from __future__ import annotations

import dataclasses
from collections import Counter as Tally
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Any, Protocol

from prismtop.deepdive.activity import only_first
from prismtop.deepdive.findings import findings
from prismtop.deepdive.layer import LayerEvent
from prismtop.deepdive.lines import Lines, LineWriter
from prismtop.deepdive.sources import (
    EventsSource,
    LayerSource,
    ProfileSource,
    Source,
)
from prismtop.deepdive.survey import Survey, survey_of
from prismtop.deepdive.tracks import CaptureTracks, native_threads
from prismtop.errors import PrismtopError, UnavailableError
from prismtop.model import Capture, EngineMetrics, Frame, Layer, LayerState
from prismtop.safe_text import safe_text
from prismtop.trace.events import Encoder
from prismtop.trace.metadata import json_object
from prismtop.trace.output import new_file
from prismtop.trace.own import CAPTURE_EVENT
from prismtop.trace.tracks import anchor_pid

_LEVEL = 3
"""gzip: 2.4 times faster than level 6 for 15 % more bytes."""
FAR_NS = 600 * 10**9
"""Spans farther than this from the capture have times that mean nothing: they are left out."""


class FetchedDeep(Protocol):
    """What was fetched of one process; see `prismtop.sources.deep_link`."""

    @property
    def pid(self) -> int:
        """In our pid namespace."""

    @property
    def profile(self) -> Path | None:
        """torch.profiler's file."""

    @property
    def events(self) -> Path | None:
        """The target's own events as JSON lines."""


@dataclass(frozen=True)
class WrittenTrace:
    """What was written.

    Attributes:
        events: in the file.
        size_bytes: of the file.
        clock_error_ns: largest error of aligning a profile; None when nothing was aligned, or one of them
            has no marker, which `notes` says then.
        events_per_layer: drawn events by (layer, pid), pid 0 for the machine's.
        notes: sentences for a person about what is missing or inexact.
        findings: sentences for a person about what the batches' time was.
    """

    events: int
    size_bytes: int
    clock_error_ns: int | None
    events_per_layer: Mapping[tuple[str, int], int]
    notes: tuple[str, ...]
    findings: tuple[str, ...] = ()


def write_trace(
    target: Path,
    *,
    frames: Sequence[Frame],
    fetched: Sequence[FetchedDeep],
    layers: Iterable[LayerEvent],
    capture: Capture,
) -> WrittenTrace:
    """Write one file that only its owner can read; it has its name once it is complete.

    A profile that cannot be read is left out and said. Slow: seconds for a profile of 100 MB.

    Args:
        target: ends in .json or .json.gz; must not exist.
        frames: of the session, in order: the window and a little around.
        fetched: files of each process.
        layers: what was collected outside the target.
        capture: kept in the file, with the number of events of each layer.

    Raises:
        PrismtopError: there are no frames, `target` cannot be created, or the disk is full.
    """
    if not frames:
        raise UnavailableError(
            "the capture saw nothing of the engine: there is nothing to write.",
            fix="Capture while the engine has requests.",
        )
    merger = _Merger(frames, capture)
    for one in fetched:
        merger.add_process(one)
    merger.add_layers(layers)
    merger.survey()
    merger.break_down()
    return merger.write(target)


class _Merger:
    def __init__(self, frames: Sequence[Frame], capture: Capture) -> None:
        self._frames = [_with_state(frames[0]), *frames[1:]]
        self._capture = capture
        self._sources: list[Source] = []
        self._surveys: list[Survey] = []
        self._tracks = CaptureTracks()
        self._notes: list[str] = []
        self._counts: Tally[tuple[str, int]] = Tally()
        self._errors: list[int | None] = []
        self._findings: tuple[str, ...] = ()

    def add_process(self, one: FetchedDeep) -> None:
        threads = native_threads(one.pid)
        if one.profile is not None:
            wall = self._frames[0].clock.wall_minus_mono_ns
            try:
                source = ProfileSource.open(
                    one.profile, one.pid, len(self._sources), self._tracks, threads, wall
                )
            except PrismtopError as error:
                self._notes.append(f"pid {one.pid}: its profile is left out: {error.message}")
            else:
                self._sources.append(source)
                self._errors.append(source.alignment.error_ns)
        if one.events is not None:
            self._sources.append(EventsSource(one.events, one.pid, self._tracks, threads))

    def add_layers(self, layers: Iterable[LayerEvent]) -> None:
        self._sources.append(LayerSource.of(layers, self._tracks))

    def survey(self) -> None:
        """The first pass over everything."""
        kept = []
        for source in self._sources:
            try:
                survey = survey_of(source, self._tracks, self._window())
            except (OSError, PrismtopError) as error:
                said = getattr(error, "message", None) or getattr(error, "strerror", None) or "damaged"
                self._notes.append(f"pid {source.pid}: left out: {safe_text(said)}")
                continue
            self._notes += source.notes()
            if isinstance(source, ProfileSource):
                source.name_threads()
            if survey.outside:
                self._notes.append(f"pid {source.pid}: {survey.outside} spans lie far outside of the capture")
            if survey.activities.full:
                self._notes.append(f"pid {source.pid}: {only_first()}")
            self._counts.update(survey.counts)
            kept.append(source)
            self._surveys.append(survey)
        self._sources = kept

    def _window(self) -> tuple[int, int]:
        return self._frames[0].time_ns - FAR_NS, self._frames[-1].time_ns + FAR_NS

    def break_down(self) -> None:
        """Tell of every batch what device and host did in it."""
        from prismtop.deepdive.breakdown import breakdowns
        from prismtop.deepdive.timeline import timeline_of

        profiles = [source for source in self._sources if isinstance(source, ProfileSource)]
        known = {one.pid: one.model_thread for one in profiles if one.model_thread is not None}
        collected = {layer.name for layer in self._capture.layers if layer.state is not LayerState.OFF}
        timeline = timeline_of(
            [survey.part(self._tracks) for survey in self._surveys],
            model_threads=known,
            layers=frozenset(collected),
            windows={one.pid: one.window for one in profiles if one.window is not None},
        )
        batches = [batch for frame in self._frames for batch in frame.new_batches]
        broken_down = breakdowns(timeline, batches)
        self._findings = findings([one for one in broken_down if one is not None])
        found = iter(broken_down)
        self._frames = [
            replace(
                frame,
                new_batches=tuple(replace(batch, breakdown=next(found)) for batch in frame.new_batches),
            )
            for frame in self._frames
        ]

    def write(self, target: Path) -> WrittenTrace:
        encoder = Encoder(self._frames[0])
        for frame in self._frames:
            for batch in frame.new_batches:
                self._counts["batches", batch.pid] += 1
            self._counts["counters", 0] += len(frame.new_counters)
        error = None
        if self._errors and None not in self._errors:
            error = max(value for value in self._errors if value is not None)
        with new_file(target, _LEVEL) as file:
            out = Lines(file)
            out.put(encoder.header())
            encoder.process(anchor_pid(self._frames[0].group))  # the header has named it
            out.put([self._capture_event(error)])
            for frame in self._frames:
                out.put(encoder.events_of(frame))
            for survey in self._surveys:
                survey.open_lanes(self._tracks)
            for pid in self._tracks.processes:
                out.put(encoder.process(pid))
            out.put(self._tracks.metadata())
            for source, survey in zip(self._sources, self._surveys, strict=True):
                self._write_source(source, survey, encoder.base_ns, out)
            out.put([encoder.end(out.events, 0)])
            out.close()
        return WrittenTrace(
            out.events,
            target.stat().st_size,
            error,
            dict(+self._counts),
            tuple(dict.fromkeys(safe_text(note) for note in self._notes)),
            self._findings,
        )

    def _write_source(self, source: Source, survey: Survey, base_ns: int, out: Lines) -> None:
        writer = LineWriter(self._tracks, survey, source.alignment, base_ns, self._window())
        for drawn in source.drawn():
            line = writer.line(drawn)
            if line:
                out.put_one(line)
        out.put(writer.late_lines())

    def _capture_event(self, error_ns: int | None) -> str:
        layers = tuple(
            layer if layer.events is not None else replace(layer, events=self._events_of(layer))
            for layer in self._capture.layers
        )
        notes = (*self._capture.notes, *self._notes)
        made = replace(self._capture, layers=layers, clock_error_ns=error_ns, notes=notes)
        pid = anchor_pid(self._frames[0].group)
        args = json_object(_plain(dataclasses.asdict(made)))
        return f'{{"ph":"M","name":"{CAPTURE_EVENT}","ts":0,"pid":{pid},"tid":0,"args":{args}}}'

    def _events_of(self, layer: Layer) -> int:
        return sum(
            count
            for (name, owner), count in self._counts.items()
            if name == layer.name and layer.pid in (0, owner)
        )


def stripped(frames: Sequence[Frame]) -> list[Frame]:
    """The frames without what only a screen shows: most of them, by size, and no part of a trace."""
    bare = [
        replace(
            frame,
            batches=(), throughput=None, metrics=EngineMetrics(), model=None, slo=None, counter_history={},
            recording=None, replay=None, capture=None,
        )
        for frame in frames
    ]  # fmt: skip
    return [*bare[:1], *(replace(frame, alerts=(), counters=()) for frame in bare[1:])]


def _with_state(frame: Frame) -> Frame:
    """The first frame with what is known before it: open alerts, and the latest reading of every counter."""
    changed = {alert.id: alert for alert in frame.alerts if alert.closed_ns is None}
    changed.update({alert.id: alert for alert in frame.changed_alerts})
    new = {counter.key for counter in frame.new_counters}
    earlier = tuple(counter for counter in frame.counters if counter.key not in new)
    return replace(
        frame, changed_alerts=tuple(changed.values()), new_counters=(*earlier, *frame.new_counters)
    )


def _plain(value: Any) -> Any:
    """Dataclasses' own values as JSON has them, texts safe to print."""
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, str):
        return safe_text(value)
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    return value
