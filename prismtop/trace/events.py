"""Frames as Chrome trace events, loss-free; `prismtop.trace.decode` is the way back.

Rules that keep a file readable in every viewer: times are microseconds with three decimals relative to a
base, made from integer nanoseconds; a stage never ends after the batch that holds it; numbers are finite;
counters carry one number and nothing else; what may overlap is async or on a lane of its own.

Every text is one JSON object without a line feed. It is built with format strings because that is several
times faster than `json.dumps`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import isfinite

from prismtop.model import (
    Alert,
    Counter,
    FirstToken,
    Frame,
    Request,
)
from prismtop.safe_text import safe_text
from prismtop.trace.decode import Decoding, decode, unfinished
from prismtop.trace.metadata import json_object, lost_totals, session_event, state_args
from prismtop.trace.own import (
    BEFORE_NS,
    CAT_ALERT,
    CAT_COUNTER,
    CAT_REQUEST,
    CAT_SESSION,
    CAT_TRUTH,
    CAT_VALUE,
    END_EVENT,
    READING_EVENT,
    SERIES_EVENT,
    GroundTruth,
)
from prismtop.trace.slices import BatchEncoder, us
from prismtop.trace.tracks import (
    ALERTS_TID,
    MACHINE_PID,
    REQUESTS_TID,
    SESSION_TID,
    Tracks,
    anchor_pid,
    quoted,
)

__all__ = ["Decoding", "Encoder", "decode", "events_of", "unfinished"]

_REQUEST = ("ttft_ns", "tpot_ns", "output_tokens", "prompt_tokens")
_OWNER = re.compile(r"pid ([1-9][0-9]{0,9})")


def events_of(frame: Frame, encoder: Encoder) -> list[str]:
    """What is new in `frame` as serialised events, tracks' names before their first event."""
    return encoder.events_of(frame)


class Encoder:
    """Encodes the frames of one session, in order. Not thread safe.

    Attributes:
        base_ns: CLOCK_MONOTONIC of the trace's time 0.
    """

    def __init__(self, first: Frame) -> None:
        self.base_ns = first.time_ns - BEFORE_NS
        self._tracks = Tracks()
        self._tracks.know(first.group)
        self._anchor = anchor_pid(first.group)
        self._slices = BatchEncoder(self._tracks, self.base_ns, first.group.engine)
        self._frame = first
        self._state = _state_key(first)
        self._lost = first.lost
        self._series: dict[tuple[str, str], tuple[object, ...]] = {}
        self._series_events: dict[tuple[str, str], str] = {}
        self._counters: dict[tuple[str, str], str] = {}
        self._request = 0
        self._open: set[int] = set()

    def header(self, segment: int = 0) -> list[str]:
        """Metadata that every file starts with: the session, processes, tracks, counter series."""
        self._tracks.process(self._anchor)
        return [
            session_event(self._frame, self.base_ns, segment),
            *self._tracks.metadata,
            *self._series_events.values(),
        ]

    def events_of(self, frame: Frame) -> list[str]:
        """What is new in `frame`, which becomes the state of later headers."""
        self._frame = frame
        out: list[str] = []
        self._changes(frame, out)
        for batch in frame.new_batches:
            self._slices.encode(batch, out)
        for first in frame.first_tokens:
            out.append(self._first_token(first))
        for request in frame.requests:
            self._finished(request, out)
        for counter in frame.new_counters:
            self._counter(counter, out)
        for alert in frame.changed_alerts:
            out.append(self._alert(alert, frame.time_ns))
        return self._tracks.take_fresh() + out

    def ground_truth(self, label: GroundTruth) -> list[str]:
        """An injected fault as a slice, with its track's names when they are new."""
        tid = self._tracks.place(
            label.pid,
            "injected faults",
            max(0, label.start_ns - self.base_ns),
            label.start_ns + label.duration_ns - self.base_ns,
        )
        event = (
            f'{{"ph":"X","cat":"{CAT_TRUTH}","name":{quoted(label.scenario)},{self._at(label.start_ns)},'
            f'"dur":{us(label.duration_ns)},"pid":{label.pid},"tid":{tid},"args":{json_object(label.args)}}}'
        )
        return [*self._tracks.take_fresh(), event]

    def process(self, pid: int) -> list[str]:
        """The name of a process, when it has none yet."""
        self._tracks.process(pid)
        return self._tracks.take_fresh()

    def dropped(self, time_ns: int, events: int) -> list[str]:
        """A mark where `events` events are missing because the queue was full."""
        event = self._instant(CAT_SESSION, "dropped", time_ns, self._anchor, SESSION_TID, {"events": events})
        return [*self._tracks.take_fresh(), event]

    def end(self, events: int, dropped: int) -> str:
        """The last event of a recording: what it holds and what is missing."""
        return _metadata(END_EVENT, self._anchor, {"events": events, "dropped": dropped})

    def _at(self, time_ns: int) -> str:
        return f'"ts":{us(max(0, time_ns - self.base_ns))}'

    def _instant(self, cat: str, name: str, time_ns: int, pid: int, tid: int, args: dict[str, object]) -> str:
        return (
            f'{{"ph":"i","s":"t","cat":"{cat}","name":{quoted(name)},{self._at(time_ns)},'
            f'"pid":{pid},"tid":{self._tracks.fixed(pid, tid)},"args":{json_object(args)}}}'
        )

    def _changes(self, frame: Frame, out: list[str]) -> None:
        state = _state_key(frame)
        if state != self._state:
            self._state = state
            args = state_args(frame)
            name = f"state: {frame.state.value}"
            out.append(self._instant(CAT_SESSION, name, frame.time_ns, self._anchor, SESSION_TID, args))
        if frame.lost != self._lost:
            self._lost = frame.lost
            args = {"lost": lost_totals(frame.lost)}
            out.append(self._instant(CAT_SESSION, "lost", frame.time_ns, self._anchor, SESSION_TID, args))
        for text in frame.warnings:
            args = {"text": safe_text(text)}
            out.append(self._instant(CAT_SESSION, "warning", frame.time_ns, self._anchor, SESSION_TID, args))

    def _first_token(self, first: FirstToken) -> str:
        args: dict[str, object] = {} if first.ttft_ns is None else {"ttft_ns": first.ttft_ns}
        return self._instant(CAT_REQUEST, "first token", first.time_ns, self._anchor, REQUESTS_TID, args)

    def _finished(self, request: Request, out: list[str]) -> None:
        """A request from its arrival to its end, with its phases inside; async, because requests overlap.
        Where the arrival is not known it begins at the first token, or has no length.
        """
        self._request += 1
        tid = self._tracks.fixed(self._anchor, REQUESTS_TID)
        tail = f'"id2":{{"local":"0x{self._request:x}"}},"pid":{self._anchor},"tid":{tid}'

        base = self.base_ns
        end = request.finished_ns
        decoding = (request.tpot_ns or 0) * max(0, (request.output_tokens or 1) - 1)
        first = end - decoding
        arrived = first - (request.ttft_ns or 0)
        begun, got, over = (us(max(0, at - base)) for at in (arrived, first, end))

        def event(phase: str, name: str, at: str) -> str:
            return f'{{"ph":"{phase}","cat":"{CAT_REQUEST}","name":"{name}","ts":{at},{tail}'

        out.append(event("b", "request", begun) + "}")
        if request.ttft_ns is not None:
            out.append(event("b", "time to first token", begun) + "}")
            out.append(event("e", "time to first token", got) + "}")
        if decoding:
            out.append(event("b", "decode", got) + "}")
            out.append(event("e", "decode", over) + "}")
        # The last event carries everything: its time is exact and no begin needs to be found for it.
        args = ",".join(
            f'"{name}":{value}' for name in _REQUEST if (value := getattr(request, name)) is not None
        )
        out.append(event("e", "request", over) + f',"args":{{{args}}}}}')

    def _counter(self, counter: Counter, out: list[str]) -> None:
        """A reading with a finite value is a `C` event; one without is metadata, which no viewer draws as
        a number. One with a value and words is both.
        """
        key = counter.key
        series = (counter.unit, counter.source, counter.period_ns)
        if self._series.get(key) != series:
            self._series[key] = series
            self._new_series(counter, out)
        value = counter.value
        if value is not None and isfinite(value) and not counter.reason:
            drawn = f"{self._counters[key]}{value!r}}},{self._at(counter.time_ns)}}}"
            if not counter.text:
                out.append(drawn)
                return
            out.append(drawn.replace(f'"cat":"{CAT_COUNTER}"', f'"cat":"{CAT_VALUE}"', 1))
        pid, track = _counter_track(counter)
        args: dict[str, object] = {"track": track}
        if counter.reason:
            args["reason"] = safe_text(counter.reason)
        if counter.text:
            args["text"] = safe_text(counter.text)
        if value is not None:
            args["value"] = value if isfinite(value) else str(value)
        out.append(_metadata(READING_EVENT, pid, args, counter.time_ns - self.base_ns))

    def _new_series(self, counter: Counter, out: list[str]) -> None:
        pid, track = _counter_track(counter)
        self._tracks.process(pid)
        args = {
            "track": track,
            "name": safe_text(counter.name),
            "device": safe_text(counter.device),
            "unit": safe_text(counter.unit),
            "source": safe_text(counter.source),
            "period_ns": counter.period_ns,
        }
        event = _metadata(SERIES_EVENT, pid, args)
        self._series_events[counter.key] = event
        self._counters[counter.key] = (
            f'{{"ph":"C","cat":"{CAT_COUNTER}","name":{quoted(track)},"pid":{pid},"tid":0,"args":{{"value":'
        )
        out.append(event)

    def _alert(self, alert: Alert, now_ns: int) -> str:
        """An instant where the episode opened, changed (at the frame's time) or closed."""
        when = alert.closed_ns
        if when is None:
            when = now_ns if alert.id in self._open else alert.opened_ns
        phase = (
            "closed" if alert.closed_ns is not None else "open" if alert.id not in self._open else "update"
        )
        (self._open.discard if phase == "closed" else self._open.add)(alert.id)
        args = {
            "id": alert.id,
            "phase": phase,
            "kind": safe_text(alert.kind),
            "severity": alert.severity.value,
            "opened_ns": alert.opened_ns - self.base_ns,
            "closed_ns": None if alert.closed_ns is None else alert.closed_ns - self.base_ns,
            "started_ns": alert.started_ns - self.base_ns,
            "pid": alert.pid,
            "first_seq": alert.first_seq,
            "last_seq": alert.last_seq,
            "batches": alert.batches,
            "excess_ns": alert.excess_ns,
            "excess_pct": alert.excess_pct,
            "text": safe_text(alert.text),
            "causes": [
                {
                    "id": safe_text(cause.id),
                    "score": cause.score,
                    "text": safe_text(cause.text),
                    "evidence": [safe_text(line) for line in cause.evidence],
                    "against": [safe_text(line) for line in cause.against],
                    "next_step": safe_text(cause.next_step),
                }
                for cause in alert.causes
            ],
        }
        name = alert.text if phase == "open" else f"{phase}: {alert.text}"
        return self._instant(CAT_ALERT, name, when, alert.pid, ALERTS_TID, args)


def _state_key(frame: Frame) -> tuple[object, ...]:
    return frame.state, frame.note, frame.hooks, frame.target_states


def _metadata(name: str, pid: int, args: Mapping[str, object], rel_ns: int = 0) -> str:
    """An event that no viewer draws."""
    at = us(max(0, rel_ns))
    return f'{{"ph":"M","name":"{name}","ts":{at},"pid":{pid},"tid":0,"args":{json_object(args)}}}'


def _counter_track(counter: Counter) -> tuple[int, str]:
    """The process and the name of a counter's track."""
    owner = _OWNER.fullmatch(counter.device)
    if owner:
        return int(owner[1]), safe_text(counter.name)
    if counter.device == "host":
        return MACHINE_PID, safe_text(counter.name)
    return MACHINE_PID, safe_text(f"{counter.name} {counter.device}")
