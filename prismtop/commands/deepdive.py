"""`prismtop deepdive`: one full capture of a running engine, merged into one trace."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from prismtop.commands.attaching import open_session
from prismtop.commands.choose import describe, only_group, profiles_in_use
from prismtop.commands.context import Context, Interrupted, closing_session
from prismtop.deepdive import report
from prismtop.errors import EXIT_OK, UnavailableError, UsageError
from prismtop.export import jsonl
from prismtop.model import Capture, CapturePhase, CaptureRequest, Frame
from prismtop.safe_text import safe_text

if TYPE_CHECKING:
    from prismtop.session import Session

BEFORE_BATCHES = 60
BEFORE_S = 3.0
"""Batches to compare with are waited for, this long at most."""
AFTER_S = 35.0


def run(context: Context, pids: Sequence[int], request: CaptureRequest, *, agreed: bool) -> int:
    """Capture the engine that `pids` name, or the only one that runs.

    Raises:
        UsageError: read-only, or the file's name is taken.
        UnavailableError: it cannot be captured, or the capture failed.
    """
    if context.settings.readonly:
        raise UsageError(
            "read-only: nothing may change the engine beyond the Sentinel probe.",
            fix="Leave --readonly (or the setting) away.",
        )
    if context.settings.external_only:
        raise UsageError(
            "a capture starts inside the engine, and nothing may be put into it.",
            fix="Leave --external-only (or the setting) away.",
        )
    if request.path:
        from prismtop.trace.segments import check_free

        check_free(Path(request.path).expanduser())
    profiles = profiles_in_use()
    group = only_group(context, pids, profiles)
    session = open_session(context, group, profiles, figures=False, counters=True, deepdive=True)
    with closing_session(context, session):
        frame = _look_first(context, session)
        planned = session.preview_deepdive(request)
        _tell(context, planned, describe(group))
        if not agreed and not _confirmed(context, session):
            context.report.say("nothing was captured")
            return EXIT_OK
        capture, frame = _capture(context, session, request)
        return _conclude(context, capture, frame)


def _look_first(context: Context, session: Session) -> Frame:
    """Some batches to compare with."""
    seen: list[int] = []

    def enough(frame: Frame) -> bool:
        seen.append(len(frame.new_batches))
        return sum(seen) >= BEFORE_BATCHES

    with context.report.status("looking at some batches first"):
        return _tick_until(context, session, enough, BEFORE_S)


def _tick_until(
    context: Context, session: Session, enough: Callable[[Frame], bool], seconds: float | None = None
) -> Frame:
    period_s = 1 / context.settings.tick_hz
    end = None if seconds is None else time.monotonic() + seconds
    with context.signals.deferred():
        while True:
            started = time.monotonic()
            frame = session.tick()
            for text in frame.warnings:
                context.report.say(safe_text(text))
            now = time.monotonic()
            if enough(frame) or (end is not None and now >= end):
                return frame
            context.signals.check()
            time.sleep(max(0.0, started + period_s - now))
            context.signals.check()


def _tell(context: Context, planned: Capture, name: str) -> None:
    context.report.say(f"{name}: {report.expected(planned)}")
    for layer, state, reason in report.layer_lines(planned.layers):
        context.report.say(f"  {layer:<10} {state:<8} {reason}")


def _confirmed(context: Context, session: Session) -> bool:
    """Ask on a terminal; where there is nobody to ask, the command was the answer. The probe is kept alive
    while somebody thinks.
    """
    return context.report.confirm("Capture now?", meanwhile=session.tick) is not False


def _capture(context: Context, session: Session, request: CaptureRequest) -> tuple[Capture, Frame]:
    """Until it has ended, and until it is known whether a slowdown has stayed."""
    session.deepdive(request)
    try:
        with context.report.status("DeepDive: preparing"):
            frame = _tick_until(context, session, lambda frame: _shown(context, frame))
        if frame.capture is not None and frame.capture.phase is CapturePhase.DONE:
            with context.report.status("DeepDive: comparing with the batches afterwards"):
                frame = _tick_until(context, session, _compared, AFTER_S)
    except Interrupted:
        cancelled = session.cancel_deepdive()
        if cancelled is not None:
            context.report.say("the capture was cancelled: no file was written")
        raise
    assert frame.capture is not None
    return frame.capture, frame


def _shown(context: Context, frame: Frame) -> bool:
    if frame.capture is None:
        return False
    context.report.update(f"DeepDive: {report.progress(frame.capture)}")
    return frame.capture.phase.final


def _compared(frame: Frame) -> bool:
    capture = frame.capture
    return capture is None or capture.after_ms is not None or capture.residual is not None


def _conclude(context: Context, capture: Capture, frame: Frame) -> int:
    if context.json:
        content = jsonl.capture_object(capture)
        content["t_us"] = frame.clock.wall_us(capture.started_ns)
        content["path"] = os.path.abspath(capture.path) if capture.path else ""
        context.write(jsonl.document("capture", content))
    if capture.phase is not CapturePhase.DONE:
        raise UnavailableError(
            f"the capture {report.progress(capture)}", fix="Nothing was left in the engine; try again."
        )
    if context.json:
        return EXIT_OK
    for line in report.result_lines(capture):
        context.report.say(line)
    for layer, state, reason in report.layer_lines(capture.layers):
        context.report.say(f"  {layer:<10} {state:<14} {reason}")
    _causes(context, frame)
    path = safe_text(capture.path, 4096)
    context.report.say(
        f"look at it: `prismtop replay {path}`, or in Perfetto; `prismtop analyze {path}` counts"
    )
    return EXIT_OK


def _causes(context: Context, frame: Frame) -> None:
    """What is known of the alerts that are open."""
    from prismtop.commands.diagnose import described

    for alert in frame.alerts:
        if alert.closed_ns is None:
            context.report.say(f"alert {alert.id} is open: {safe_text(alert.text)}")
            for number, cause in enumerate(alert.causes[:3], start=1):
                for line in described(number, cause):
                    context.report.say(f"  {line}")
