"""Alerts: a banner, a panel with ranked causes, and the page with the evidence."""

from __future__ import annotations

import time

from prismtop.model import Alert, Cause, Frame, Severity
from prismtop.safe_text import safe_text
from prismtop.tui.look import Glyphs, Line, Span, cut, fit, ruled, width_of
from prismtop.tui.numbers import seconds
from prismtop.tui.panels.hooks import wrapped
from prismtop.tui.view import View

UNLOOKED = "no cause was looked for or found"


def clock(frame: Frame, time_ns: int) -> str:
    """Local wall time."""
    return time.strftime("%H:%M:%S", time.localtime(frame.clock.wall_us(time_ns) / 1e6))


def newest_first(frame: Frame) -> list[Alert]:
    """Open ones first, then the newest."""
    return sorted(frame.alerts, key=lambda alert: (alert.closed_ns is not None, -alert.opened_ns))


def role_of(alert: Alert) -> str:
    """Closed ones are quiet."""
    if alert.closed_ns is not None:
        return "base"
    return "error" if alert.severity is Severity.CRITICAL else "warn"


def none(frame: Frame) -> str:
    """Why there is no alert."""
    if frame.model is None and frame.slo is None and not any(b.prediction for b in frame.batches[-32:]):
        return "none can open: batches are not judged (prediction is switched off)"
    return "none in this session"


def span_of(alert: Alert, frame: Frame) -> str:
    """Since when, or how long it took."""
    end = alert.closed_ns or frame.time_ns
    passed = max(0.0, (end - alert.started_ns) / 1e9)
    length = seconds(passed) if passed >= 10 or alert.closed_ns is None else f"{passed:.1f} s"
    return f"closed after {length}" if alert.closed_ns is not None else f"open for {length}"


def cause_text(number: int, cause: Cause) -> str:
    """`1 gpu clock 1980 -> 1395 MHz (0.91)`."""
    text = safe_text(cause.evidence[0] if cause.evidence else cause.text or cause.id, 120)
    return f"{number} {safe_text(cause.id, 40).replace('_', ' ')} ({cause.score:.2f}): {text}"


def _headline(alert: Alert, frame: Frame, glyphs: Glyphs) -> list[Span]:
    mark = glyphs.slow if alert.closed_ns is None else " "
    return [
        (f"{mark} {clock(frame, alert.started_ns)} ", role_of(alert)),
        (safe_text(alert.text, 200), role_of(alert)),
    ]


def wanted(frame: Frame | None) -> int:
    """Lines for a title, every open alert and its three best causes."""
    if frame is None or not frame.alerts:
        return 1
    shown = newest_first(frame)[:6]
    return 1 + sum(1 + (min(3, len(alert.causes)) or 1) * (alert.closed_ns is None) for alert in shown)


def lines(view: View, width: int, height: int, glyphs: Glyphs, *, focused: bool = False) -> list[Line]:
    """A banner on one line; a title, alerts and causes on more."""
    frame = view.frame
    if frame is None or height <= 0:
        return []
    role = "title" if focused else "muted"
    alerts = newest_first(frame)
    if not alerts:
        return [((fit(f" alerts: {none(frame)}", width), role if focused else "muted"),)]
    if height < 3:
        return [_banner(alerts, frame, width, glyphs, role)]
    opened = sum(alert.closed_ns is None for alert in alerts)
    made: list[Line] = [
        ruled(f"alerts {glyphs.dot} {opened} open, {len(alerts)} in all (A)", width, glyphs, role)
    ]
    body: list[Line] = []
    for alert in alerts:
        head = [(" ", "base"), *_headline(alert, frame, glyphs), (f"  {span_of(alert, frame)}", "muted")]
        body.append(_within(head, width))
        if alert.closed_ns is None:
            body += [
                ((cut(f"     {cause_text(i, cause)}", width), "base"),)
                for i, cause in enumerate(alert.causes[:3], 1)
            ] or [((f"     {UNLOOKED}", "muted"),)]
    top = max(0, min(view.scroll.get("alerts", 0), len(body) - (height - 1)))
    view.scroll["alerts"] = top
    return [*made, *body[top : top + height - 1]]


def _banner(alerts: list[Alert], frame: Frame, width: int, glyphs: Glyphs, role: str) -> Line:
    first = alerts[0]
    opened = sum(alert.closed_ns is None for alert in alerts)
    label = f" alerts {opened} open " if opened else f" alerts 0 open, {len(alerts)} closed, last: "
    spans: list[Span] = [(label, role), *_headline(first, frame, glyphs)]
    if first.closed_ns is None and first.causes:
        spans.append((f"  {cause_text(1, first.causes[0])}", "base"))
    return _within(spans, width)


def _within(spans: list[Span], width: int) -> Line:
    made: list[Span] = []
    room = width
    for text, role in spans:
        if room <= 0:
            break
        text = cut(text, room)
        made.append((text, role))
        room -= width_of(((text, role),))
    return tuple(made)


def page(view: View, width: int, glyphs: Glyphs) -> list[Line]:
    """Every alert with its causes, their evidence, what speaks against them, and the next step."""
    frame = view.frame
    if frame is None:
        return [((" Waiting for the first reading.", "muted"),)]
    alerts = newest_first(frame)
    if not alerts:
        text = none(frame)
        return [((f" Alerts: {text}.", "muted"),)]
    made: list[Line] = []
    for alert in alerts:
        words = (alert.severity.value, safe_text(alert.kind, 20), span_of(alert, frame))
        title = " " + f" {glyphs.dot} ".join(words)
        made.append(((fit(title, width), "column"),))
        first, *more = wrapped(safe_text(alert.text), width, role_of(alert), 12)
        made += [
            ((f" {clock(frame, alert.started_ns)}  ", "strong"), (first[0][0][12:], role_of(alert))),
            *more,
        ]
        facts = (
            f"batches {alert.first_seq} to {alert.last_seq} ({alert.batches:,} slow), process {alert.pid}, "
            f"{alert.excess_ns / 1e6:,.0f} ms beyond the prediction"
        )
        made += wrapped(facts, width, "muted", 12)
        for number, cause in enumerate(alert.causes, 1):
            made += _cause(number, cause, width)
        if not alert.causes:
            made += wrapped(UNLOOKED, width, "muted", 12)
        made.append(())
    return made


def _cause(number: int, cause: Cause, width: int) -> list[Line]:
    title = f"{safe_text(cause.id, 40).replace('_', ' ')}  {cause.score:.2f}"
    made: list[Line] = [((f"    {number}  ", "muted"), (title, "strong"))]
    if cause.text:
        made += wrapped(safe_text(cause.text), width, "base", 7)
    for sentence in cause.evidence:
        made += wrapped(f"+ {safe_text(sentence)}", width, "base", 9)
    for sentence in cause.against:
        made += wrapped(f"- {safe_text(sentence)}", width, "muted", 9)
    if cause.next_step:
        made += wrapped(f"next: {safe_text(cause.next_step)}", width, "ok", 7)
    return made
