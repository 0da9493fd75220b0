"""`prismtop replay`: a saved trace in the same screen, or as the lines that `watch` prints."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from prismtop.commands.context import Context, closing_session
from prismtop.commands.watch import JsonSink, TableSink
from prismtop.errors import EXIT_OK, UsageError
from prismtop.safe_text import safe_text

if TYPE_CHECKING:
    from prismtop.model import Alert, Judgement
    from prismtop.session import Diagnoser, Judge, Session
    from prismtop.settings import Settings
    from prismtop.sources.replay import ReplaySource
    from prismtop.sources.tick import SourceTick
    from prismtop.trace.load import Trace

JUDGED_BATCHES = 20_000
"""A trace without recorded alerts is searched for anomalies up to this size."""


@dataclass(frozen=True)
class Place:
    """A place in a trace: seconds after its start, or a fraction of it."""

    seconds: float = 0.0
    fraction: float | None = None

    def in_trace(self, start_ns: int, end_ns: int) -> int:
        """Its time, inside the trace."""
        offset = self.seconds * 1e9 if self.fraction is None else self.fraction * (end_ns - start_ns)
        return min(end_ns, max(start_ns, start_ns + round(offset)))


@dataclass(frozen=True)
class ReplayOptions:
    """What `replay` was asked for; speed None: 1 on the screen, as fast as can be without one."""

    paths: Sequence[str]
    headless: bool = False
    speed: float | None = None
    place: Place | None = None
    rank: int | None = None
    pids: Sequence[int] = ()


class RecordedJudge:
    """Says of a recording again what was said when it was made."""

    def take(self, tick: SourceTick) -> Judgement:
        """The predictions and alerts that stand in the trace."""
        from prismtop.model import Judgement

        return Judgement(tick.batches, tick.alerts)

    def close(self) -> tuple[str, ...]:
        """Nothing was learnt."""
        return ()


def run(context: Context, options: ReplayOptions) -> int:
    """Play traces on the screen, or print them.

    Raises:
        UsageError: a file is no trace, holds nothing to play, or has no such rank or process.
    """
    headless = options.headless or context.json
    if not headless and not context.interactive:
        context.report.say("no terminal for the screen: showing a table, as with --headless")
        headless = True
    trace = open_trace(context, options.paths)
    _check_filters(trace, options)
    source = _source(context, trace, options, headless)
    session = _session(context, trace, source, figures=not headless)
    with closing_session(context, session):
        if headless:
            _print(context, session, source, options.speed)
            return EXIT_OK
        from prismtop.tui.app import run_app

        return run_app(session, settings=context.settings)


def open_trace(context: Context, paths: Sequence[str]) -> Trace:
    """Load, and say what is damaged or missing.

    Raises:
        UsageError: a file is no trace, or there is nothing in it.
    """
    from prismtop.trace.load import load

    with context.report.status("reading " + ", ".join(safe_text(path, 60) for path in paths)):
        trace = load([Path(path) for path in paths])
    if not trace.batch_count and next(trace.counters(), None) is None:
        why = trace.notes[0] if trace.notes else "nothing was recorded"
        raise UsageError(
            f"{safe_text(str(trace.path), 200)} holds no batches and no counters: {safe_text(why, 200)}.",
            fix="Name a trace of an inference engine.",
        )
    for note in trace.notes:
        context.report.say(safe_text(note, 300))
    for story in trace.stories:
        if story.how and story.index.batches:
            name = safe_text(story.path.name, 80)
            context.report.say(f"{name}: {story.index.batches} batches from {safe_text(story.how, 160)}")
    return trace


def judge_for(trace: Trace, settings: Settings, *, inline: bool) -> Judge:
    """What was recorded when anything was judged then, else a fresh model.

    Nothing that is learnt from a trace is kept: it would pass for what was learnt from the live engine.

    Args:
        inline: the model refits in the calling thread, so that the same trace always gives the same result.
    """
    if trace.judged:
        return RecordedJudge()
    from prismtop.latency.judge import LatencyJudge

    return LatencyJudge(settings, trace.group, inline=inline)


def diagnoser_for(trace: Trace) -> Diagnoser | None:
    """What finds causes; None when they were looked for when the trace was recorded."""
    if trace.judged:
        return None
    from prismtop.diagnosis.live import LiveDiagnoser

    return LiveDiagnoser()


def anomaly_times(trace: Trace, settings: Settings) -> list[int]:
    """When anomalies began: recorded alerts, injected faults, else what the model finds."""
    times = [alert.opened_ns for alert in trace.alerts()]
    times += [truth.start_ns for truth in trace.ground_truth()]
    if not times and not trace.judged and trace.batch_count <= JUDGED_BATCHES:
        times = [alert.opened_ns for alert in judged_alerts(trace, settings)]
    return sorted(set(times))


def judged_alerts(trace: Trace, settings: Settings) -> list[Alert]:
    """Alerts that the model opens when it sees the whole trace."""
    judge = judge_for(trace, settings, inline=True)
    from prismtop.session import Session
    from prismtop.sources.replay import ReplaySource

    source = ReplaySource(trace, speed=math.inf, as_recorded=True)
    session = Session(source, history=16, figures=False, judge=judge)
    found: dict[int, Alert] = {}
    while not source.ended:
        found.update((alert.id, alert) for alert in session.tick().changed_alerts)
    return list(found.values())


def _source(context: Context, trace: Trace, options: ReplayOptions, headless: bool) -> ReplaySource:
    from prismtop.sources.replay import ReplaySource

    speed = options.speed if options.speed is not None else math.inf if headless else 1.0
    place = options.place
    return ReplaySource(
        trace,
        speed=speed,
        from_ns=place.in_trace(trace.start_ns, trace.end_ns) if place else None,
        rank=options.rank,
        pids=options.pids,
        as_recorded=headless,
        anomalies=lambda: anomaly_times(trace, context.settings),
    )


def _session(context: Context, trace: Trace, source: ReplaySource, *, figures: bool) -> Session:
    from prismtop.session import Session

    settings = context.settings
    return Session(
        source,
        history=settings.history,
        window_s=settings.window_s,
        figures=figures,
        judge=judge_for(trace, settings, inline=not figures),
        diagnoser=diagnoser_for(trace),
        replay=source.controls,
    )


def _print(context: Context, session: Session, source: ReplaySource, speed: float | None) -> None:
    sink = JsonSink(context) if context.json else TableSink(context)
    paced = speed is not None and not math.isinf(speed)
    with context.signals.deferred():
        while not source.ended:
            frame = session.tick()
            sink.write(frame)
            if paced:
                context.out.flush()
                time.sleep(1 / context.settings.tick_hz)
            context.signals.check()


def _check_filters(trace: Trace, options: ReplayOptions) -> None:
    known = {member.id.pid for member in trace.group.members}
    for pid in options.pids:
        if pid not in known:
            raise UsageError(
                f"the trace holds nothing of process {pid}.",
                fix="It has " + ", ".join(map(str, sorted(known))) + "." if known else "",
            )
    if options.rank is not None:
        ranks = {member.rank for member in trace.group.members} - {None}
        first = next(trace.batches(), None)
        if options.rank not in ranks and (first is None or first.rank is None):
            raise UsageError(
                f"the trace holds no rank {options.rank}.",
                fix=f"It has {', '.join(map(str, sorted(r for r in ranks if r is not None)))}."
                if ranks
                else "",
            )
