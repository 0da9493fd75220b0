"""`prismtop analyze`: what a trace amounts to."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from prismtop.commands.context import Context
from prismtop.commands.replay import diagnoser_for, judge_for, open_trace
from prismtop.errors import EXIT_FINDING, EXIT_OK, UsageError
from prismtop.export import jsonl
from prismtop.safe_text import safe_text

if TYPE_CHECKING:
    from prismtop.deepdive.analysis import DeepAnalysis
    from prismtop.model import Frame
    from prismtop.session import Session
    from prismtop.sources.replay import ReplaySource
    from prismtop.trace.load import Trace
    from prismtop.trace.summary import Summary


def run(context: Context, paths: Sequence[str], html: str | None) -> int:
    """Summarise traces as text, JSON or one HTML page. Returns 1 when there are anomalies, else 0.

    Raises:
        UsageError: a file is no trace, or the page cannot be written.
    """
    trace = open_trace(context, paths)
    with context.report.status("reading the trace"):
        summary = analyse(context, trace)
        deep = _deep(trace)
    if html is not None:
        from prismtop.export.html_report import page

        _write(html, page(trace, summary, deep))
        context.report.say(f"wrote {safe_text(html, 200)}")
    if context.json:
        from prismtop.export.analysis_json import analysis_object

        context.write(jsonl.document("analysis", analysis_object(trace, summary, deep)))
    elif html is None:
        from prismtop.export.text_report import analysis_lines

        for line in analysis_lines(trace, summary, deep):
            context.write(line)
    return EXIT_FINDING if summary.alerts else EXIT_OK


def _deep(trace: Trace) -> DeepAnalysis | None:
    """What operators and device events amount to; None without any, which costs nothing then."""
    if not any(story.dialect == "kineto" or story.captured is not None for story in trace.stories):
        return None
    from prismtop.deepdive.analysis import of_trace

    return of_trace(trace)


def analyse(context: Context, trace: Trace) -> Summary:
    """The whole trace, judged as recorded or by a model that learns from it."""
    from prismtop.session import Session
    from prismtop.sources.replay import ReplaySource
    from prismtop.trace.summary import summarise

    judge = judge_for(trace, context.settings, inline=True)
    source = ReplaySource(trace, speed=math.inf, as_recorded=True)
    session = Session(source, history=16, figures=False, judge=judge, diagnoser=diagnoser_for(trace))
    try:
        with context.signals.deferred():
            summary = summarise(_frames(context, session, source), trace.start_ns, trace.end_ns)
        finish = getattr(judge, "finish", None)
        for alert in finish() if finish else ():  # the trace ends, and with it what is still open
            known = summary.alerts.get(alert.id)
            summary.alerts[alert.id] = replace(alert, causes=alert.causes or known.causes) if known else alert
    finally:
        notes = session.close()
    for note in notes:
        context.report.say(note)
    return summary


def _frames(context: Context, session: Session, source: ReplaySource) -> Iterator[Frame]:
    while not source.ended:
        yield session.tick()
        context.signals.check()


def _write(path: str, text: str) -> None:
    try:
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not a path"
        raise UsageError(
            f"{safe_text(path, 200)} cannot be written: {reason}.", fix="Name another file after --html."
        ) from None
