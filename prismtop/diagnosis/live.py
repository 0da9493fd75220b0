"""Causes of alerts while a session runs: a bounded memory of evidence, read when an alert opens or closes."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, field, replace

from prismtop.diagnosis.collect import WANTED, Key, Windows, evenly, gather, with_derived
from prismtop.diagnosis.evidence import Evidence, Point
from prismtop.diagnosis.hypotheses import UNKNOWN
from prismtop.diagnosis.memory import BatchMemory
from prismtop.diagnosis.observations import Observation, observe
from prismtop.diagnosis.ranking import MOST, NAMED, rank
from prismtop.diagnosis.worst import Span, within
from prismtop.model import Alert, Cause, Counter, Frame, Group, ModelState

SECOND = 1_000_000_000
BASELINE_NS = 90 * SECOND
"""The baseline is what was seen in the latest so much time before an episode in which no alert was open."""
GUARD_NS = SECOND
"""Left out before an episode: counters describe a period, and detectors place a start with some delay."""
LEAD_NS = 15 * SECOND
"""The onset of a series is looked for from so long before the episode."""
SPACING_NS = SECOND // 2
"""Readings of a series closer together than this are not kept: memory, not resolution, is what is short."""
POINTS = 400
SERIES = 1024
SOUND_READINGS = 20
"""Of a counter's baseline, in seconds whose batches were not slow: with fewer the others count too."""
BASELINE_BATCHES, INCIDENT_BATCHES = 200, 80
"""Batches compared: the cost of an answer."""
LOOKS_NS = (0, 3 * SECOND, 12 * SECOND, 60 * SECOND)
"""After an alert opened: at once from batches, then again when counters of one and of five seconds came."""
LAST_LOOK_NS = 3 * SECOND
"""After it closed, once more: the readings of its last seconds come late."""
ANSWER_SHARE = 0.005
"""Share of a core that answers may take in the long run: in a storm of alerts they come later."""
ANSWER_BURST_S = 0.4
"""CPU seconds of answers that may come at once."""
SLO = "slo"
"""The kind of alerts that are about requests, so about every process of the engine."""
CHANGED = 0.03
"""Scores that moved by less are the same answer."""

_METRICS = (
    ("workload.kv_usage", ("kv_cache_usage", "token_usage")),
    ("workload.waiting", ("num_requests_waiting", "num_queue_reqs")),
    ("metrics.preemptions_total", ("num_preemptions",)),
)
"""The engine's own metrics that a hypothesis asks for, by a part of their names."""


@dataclass
class _Case:
    """An alert that is being explained: when to look at it next, how often it was looked at, and what was
    named then.
    """

    due_ns: int
    looks: int = 0
    closed: bool = False
    named: dict[str, Cause] = field(default_factory=dict)


class LiveDiagnoser:
    """Remembers what frames hold and explains alerts: the session's `Diagnoser`.

    Keeps about four minutes, so that a baseline is left when much of that was alerts. `take` costs a few
    microseconds per batch kept and per reading; an explanation some milliseconds, at most one per frame.
    """

    def __init__(self) -> None:
        self._series: dict[Key, deque[Point]] = {}
        self._periods: dict[Key, int] = {}
        self._texts: dict[Key, str] = {}
        self._batches = BatchMemory()
        self._cases: dict[int, _Case] = {}
        self._spans: dict[int, tuple[int, int]] = {}
        self._sampled_ns = 0
        self._budget_s, self._budget_ns = ANSWER_BURST_S, 0
        self._group: Group | None = None
        self._roles: dict[int, str] = {}

    def take(self, frame: Frame) -> tuple[Alert, ...]:
        """Remember what the frame holds; alerts whose causes are new or changed."""
        for counter in frame.new_counters:
            self._keep_reading(counter)
        self._batches.take(frame.new_batches)
        if frame.time_ns - self._sampled_ns >= SPACING_NS:
            self._sampled_ns = frame.time_ns
            self._keep_said(frame)
        for alert in frame.changed_alerts:
            self._note(alert, frame.time_ns)
        if not self._cases:
            return ()
        return self._explain_one(frame)

    def _keep_reading(self, counter: Counter) -> None:
        if counter.value is None or counter.name not in WANTED:
            return
        key = counter.key
        points = self._series.get(key)
        if points is None:
            if len(self._series) >= SERIES:
                self._forget_oldest()
            points = self._series[key] = deque(maxlen=POINTS)
        elif points and 0 <= counter.time_ns - points[-1][0] < SPACING_NS:
            return
        elif points and counter.time_ns < points[-1][0]:
            points.clear()  # a replay that was moved back
        points.append((counter.time_ns, counter.value))
        self._periods[key] = counter.period_ns
        if counter.text:
            self._texts[key] = counter.text

    def _forget_oldest(self) -> None:
        """Threads and processes come and go; their series must not pile up. Many at once: it takes a sort."""
        by_age = sorted(self._series, key=lambda key: self._series[key][-1][0] if self._series[key] else 0)
        for key in by_age[: SERIES // 4]:
            del self._series[key]
            self._periods.pop(key, None)
            self._texts.pop(key, None)

    def _keep_said(self, frame: Frame) -> None:
        """What the engine's metrics and the latency model say of themselves."""
        self._keep_roles(frame.group)
        for name, value in frame.metrics.values.items():
            for signal, parts in _METRICS:
                if any(part in name for part in parts):
                    self._keep_point((signal, "metrics"), frame.time_ns, value)
        if frame.model is not None:
            stale = float(frame.model.state is ModelState.STALE)
            self._keep_point(("model.stale", ""), frame.time_ns, stale)
            self._texts["model.stale", ""] = frame.model.reason

    def _keep_point(self, key: Key, time_ns: int, value: float) -> None:
        points = self._series.setdefault(key, deque(maxlen=POINTS))
        if points and time_ns < points[-1][0]:
            points.clear()
        points.append((time_ns, value))
        self._periods[key] = SPACING_NS

    def _keep_roles(self, group: Group) -> None:
        if group is not self._group:
            self._group = group
            self._roles = {member.id.pid: member.role for member in group.members}

    def _note(self, alert: Alert, now_ns: int) -> None:
        end = alert.closed_ns or now_ns
        self._spans[alert.id] = (alert.started_ns, end)
        while len(self._spans) > 64:
            self._spans.pop(next(iter(self._spans)))
        case = self._cases.get(alert.id)
        if alert.closed_ns is None:
            if case is None:
                self._cases[alert.id] = _Case(now_ns)
        elif case is None or not case.closed:
            self._cases[alert.id] = _Case(now_ns, closed=True, named=case.named if case else {})

    def _explain_one(self, frame: Frame) -> tuple[Alert, ...]:
        due = [id_ for id_, case in self._cases.items() if case.due_ns <= frame.time_ns]
        if not due or not self._affordable(frame):
            return ()
        id_ = due[0]
        case = self._cases[id_]
        alert = next((alert for alert in frame.alerts if alert.id == id_), None)
        if alert is None:
            del self._cases[id_]
            return ()
        self._plan(id_, case, frame.time_ns)
        began = time.thread_time()
        causes = rank(self._evidence(alert, frame))
        self._budget_s -= time.thread_time() - began
        causes = _with_earlier(causes, case, (frame.time_ns - alert.started_ns) / 1e9)
        early = case.looks == 1 and not case.closed and causes[0].id == UNKNOWN
        if early or _same(causes, alert.causes):  # counters of this moment are still to come
            return ()
        return (replace(alert, causes=causes),)

    def _affordable(self, frame: Frame) -> bool:
        """Whether answers took little enough lately; a replay may take what it needs."""
        elapsed_s = max(0, frame.time_ns - self._budget_ns) / 1e9
        self._budget_s = min(ANSWER_BURST_S, self._budget_s + ANSWER_SHARE * elapsed_s)
        self._budget_ns = frame.time_ns
        return self._budget_s > 0 or frame.replay is not None

    def _plan(self, id_: int, case: _Case, now_ns: int) -> None:
        """When to look again; a case that was looked at for the last time is closed."""
        if case.closed:
            if case.looks:
                del self._cases[id_]
                return
            case.due_ns = now_ns + LAST_LOOK_NS
        elif case.looks + 1 < len(LOOKS_NS):
            case.due_ns = now_ns + LOOKS_NS[case.looks + 1] - LOOKS_NS[case.looks]
        else:
            case.due_ns = 1 << 62  # until it closes
        case.looks += 1

    def _evidence(self, alert: Alert, frame: Frame) -> Evidence:
        start, end = alert.started_ns, alert.closed_ns or frame.time_ns
        others = [span for id_, span in self._spans.items() if id_ != alert.id and span[0] < start]
        since = _undisturbed_since(start, others)
        slower = None if alert.excess_pct is None else alert.excess_pct / 100
        baseline, incident = self._observations(alert, frame, since, others)
        time_of = self._batches.lost(_whose(alert))
        spans, lost = time_of.worst(start, end)
        sound = time_of.sound()
        worst = [seen for seen in incident if within(seen.time_ns, spans)]
        if slower is not None and lost is not None:
            slower = max(slower, lost)
        series = {key: list(points) for key, points in self._series.items()}
        counters: dict[Key, Windows] = {}
        for key, points in with_derived(series, self._roles).items():
            period = self._periods.get(key, SECOND)
            counters[key] = _windows(points, (since, start), spans, period, others, sound)
        return gather(
            counters,
            (baseline, evenly(worst or incident, INCIDENT_BATCHES)),
            texts=self._texts,
            slower=slower,
            onset_ns=spans[0][0],
        )

    def _observations(
        self, alert: Alert, frame: Frame, since: int, others: list[tuple[int, int]]
    ) -> tuple[list[Observation], list[Observation]]:
        start, whose = alert.started_ns, _whose(alert)
        baseline, incident = [], {}
        for seen in self._batches.seen(whose):
            if _holds(alert, frame.time_ns, seen.seq, seen.time_ns, seen.duration_ns):
                incident[seen.pid, seen.seq] = seen
            elif since <= seen.time_ns < start and not _inside(seen.time_ns, others):
                baseline.append(seen)
        latest = [
            batch
            for batch in frame.batches
            if whose in (None, batch.pid)
            and (batch.pid, batch.seq) not in incident
            and _holds(alert, frame.time_ns, batch.seq, batch.start_ns, batch.duration_ns)
        ]
        for batch in latest[-INCIDENT_BATCHES:]:
            incident[batch.pid, batch.seq] = observe(batch)
        ordered = sorted(incident.values(), key=lambda seen: seen.time_ns)
        return evenly(baseline, BASELINE_BATCHES), ordered


def _whose(alert: Alert) -> int | None:
    """The process whose batches an alert is about; None when it is about those of all."""
    return None if alert.kind == SLO else alert.pid


def _holds(alert: Alert, now_ns: int, seq: int, start_ns: int, duration_ns: int) -> bool:
    """Whether a batch is one of an alert's: by its number, or by its time where that is about requests."""
    if alert.kind == SLO:
        end_ns = now_ns if alert.closed_ns is None else alert.closed_ns
        return start_ns < end_ns and start_ns + duration_ns > alert.started_ns
    return alert.first_seq <= seq <= alert.last_seq


def _windows(
    points: Iterable[Point],
    times: tuple[int, int],
    spans: Sequence[Span],
    period_ns: int,
    others: list[tuple[int, int]],
    sound: Container[int] | None = None,
) -> Windows:
    """A counter's baseline, incident and lead. A reading describes the period that ends at it: a short
    episode shows in the reading after it.

    Args:
        times: where the baseline begins and where the alert does.
        spans: of the alert, what is to be explained.
        sound: seconds in which batches ran as they should. Others are no baseline, unless there is nothing
            else: while an engine has little to do a fault goes on unseen.
    """
    since, start = times
    into = min(period_ns // 4, SECOND)
    bounds = []
    for first, last in spans:
        tail = period_ns * 9 // 10 if last - first < 3 * period_ns else 0
        bounds.append((first + into, max(last, first + SECOND // 2) + tail))
    baseline: list[Point] = []
    doubtful: list[Point] = []
    incident: list[Point] = []
    lead: list[Point] = []
    for point in points:
        time_ns = point[0]
        if time_ns > bounds[-1][1]:
            break
        if any(first <= time_ns <= last for first, last in bounds):
            incident.append(point)
        elif since <= time_ns < start - GUARD_NS and not _inside(time_ns, others):
            middle = (time_ns - period_ns // 2) // SECOND
            (baseline if sound is None or middle in sound else doubtful).append(point)
        if time_ns >= spans[0][0] - LEAD_NS:
            lead.append(point)
    if len(baseline) < SOUND_READINGS:
        baseline = sorted((*baseline, *doubtful))
    return baseline, incident, lead


def _undisturbed_since(start: int, others: Iterable[tuple[int, int]]) -> int:
    """When the baseline begins: from there to `start`, `BASELINE_NS` are without another alert."""
    wanted, until = BASELINE_NS, start
    for first, last in sorted(others, key=lambda span: -span[1]):
        after = min(last + SECOND, until)
        if until - after >= wanted:
            break
        wanted -= until - after
        until = min(until, first)
    return until - wanted


def _with_earlier(causes: tuple[Cause, ...], case: _Case, after_s: float) -> tuple[Cause, ...]:
    """Causes with those that were named at an earlier look. One alert may hold several things, one after the
    other: what explained its beginning goes on to do so when something else prolongs it.
    """
    now = {cause.id for cause in causes if cause.score >= NAMED}
    earlier = [cause for id_, cause in case.named.items() if id_ not in now]
    for cause in causes:
        if cause.id in now - {UNKNOWN}:
            case.named[cause.id] = replace(cause, text=f"{cause.text[:-1]} (in its first {after_s:.0f} s).")
    if not earlier:
        return causes
    replaced = {UNKNOWN, *(cause.id for cause in earlier)}
    rest = [cause for cause in causes if cause.id not in replaced]
    return tuple(sorted((*rest, *earlier), key=lambda cause: -cause.score))[:MOST]


def _inside(time_ns: int, spans: Iterable[tuple[int, int]]) -> bool:
    return any(start <= time_ns <= end + SECOND for start, end in spans)


def _same(new: tuple[Cause, ...], old: tuple[Cause, ...]) -> bool:
    return [cause.id for cause in new] == [cause.id for cause in old] and all(
        abs(a.score - b.score) < CHANGED for a, b in zip(new, old, strict=True)
    )
