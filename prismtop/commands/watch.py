"""`prismtop watch`: batches on stdout, as a table or as JSON lines."""

from __future__ import annotations

import select
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from prismtop.commands.attaching import open_session
from prismtop.commands.choose import describe, only_group, profiles_in_use
from prismtop.commands.context import Context, closing_session
from prismtop.deepdive import report
from prismtop.errors import EXIT_FINDING, EXIT_OK, UnavailableError
from prismtop.export import jsonl, table
from prismtop.model import AttachState, Capture, Frame, HookStatus, Lost
from prismtop.safe_text import safe_text

_ENDED = (AttachState.GONE, AttachState.DETACHED)


class Ticking(Protocol):
    """A session, as far as reading it goes."""

    def tick(self) -> Frame:
        """Everything since the previous tick."""


class Sink(Protocol):
    """Where frames go."""

    def write(self, frame: Frame) -> None:
        """Print what is new in `frame`."""


@dataclass(frozen=True)
class Watched:
    """How a stream ended.

    Attributes:
        batches: printed.
        target_ended: the target was gone.
        probe_left: the probe left the target before us.
        note: the last frame's, where the target was only watched from outside.
    """

    batches: int
    target_ended: bool
    probe_left: bool = False
    note: str = ""


def run(context: Context, pids: Sequence[int], batches: int | None, duration_s: float | None) -> int:
    """Watch the engine that `pids` name, or the only one that runs.

    Returns 0; 1 when `batches` were asked for and fewer came in `duration_s`.

    Raises:
        UnavailableError: the target ended before the first batch, or before the number asked for; or the
            probe left it.
    """
    profiles = profiles_in_use()
    group = only_group(context, pids, profiles)
    session = open_session(context, group, profiles, figures=False, counters=wants_counters(context))
    with closing_session(context, session):
        watched = stream(context, session, batches=batches, duration_s=duration_s)
    return conclude(context, watched, batches, describe(group))


def wants_counters(context: Context) -> bool:
    """Whether counters are sampled to be printed: as JSON only, and they cost CPU."""
    if context.settings.counters and not context.json:
        context.report.say("the table has no counters: use --json, or the screen")
    return context.settings.counters and context.json


def stream(
    context: Context, session: Ticking, *, batches: int | None = None, duration_s: float | None = None
) -> Watched:
    """Print frames until enough batches were seen, the time is over, the target ended, or a signal came."""
    sink: Sink = JsonSink(context, counters=context.settings.counters) if context.json else TableSink(context)
    period_s = 1 / context.settings.tick_hz
    reader_left = _reader_watch(context)
    end = None if duration_s is None else time.monotonic() + duration_s
    seen = 0
    with context.signals.deferred():
        while True:
            started = time.monotonic()
            frame = session.tick()
            if batches is not None and seen + len(frame.new_batches) > batches:
                frame = replace(frame, new_batches=frame.new_batches[: batches - seen])
            seen += len(frame.new_batches)
            sink.write(frame)
            context.out.flush()
            context.signals.check()
            enough = batches is not None and seen >= batches
            if enough or frame.state in _ENDED:
                left = frame.state is AttachState.DETACHED and not enough
                return Watched(seen, frame.state is AttachState.GONE, left)
            now = time.monotonic()
            if end is not None and now >= end:
                outside = frame.state is AttachState.EXTERNAL
                return Watched(seen, False, note=frame.note if outside else "")
            if reader_left():
                raise BrokenPipeError
            pause = max(0.0, started + period_s - now)
            time.sleep(pause if end is None else min(pause, max(0.0, end - now)))
            context.signals.check()


def conclude(context: Context, watched: Watched, wanted: int | None, name: str) -> int:
    """The exit code of a stream that ended by itself, with a sentence when it was not what was asked for."""
    short = wanted is not None and watched.batches < wanted
    if watched.probe_left:
        raise UnavailableError(
            f"{name} runs on, but the probe has left it after {watched.batches} batches.",
            fix="Start this command again.",
        )
    if watched.target_ended and (short or not watched.batches):
        goal = f" of {wanted}" if wanted is not None else ""
        raise UnavailableError(
            f"{name} ended after {watched.batches}{goal} batches.",
            fix="Start it again, then `prismtop list`.",
        )
    if watched.target_ended:
        context.report.say(f"{name} ended after {watched.batches} batches")
    elif not watched.batches and watched.note:
        context.report.say(f"no batch can be told from outside: {watched.note}")
    elif not watched.batches:
        context.report.say(f"no batch was seen: {name} had nothing to do")
    elif short:
        context.report.say(f"{watched.batches} of {wanted} batches were seen in that time")
    return EXIT_FINDING if short else EXIT_OK


class JsonSink:
    """JSON lines; see `prismtop.export.jsonl` for their types.

    Args:
        counters: print readings too.
    """

    def __init__(self, context: Context, *, counters: bool = True) -> None:
        self._context = context
        self._counters = counters
        self._state: tuple[object, ...] | None = None
        self._lost = Lost()
        self._warned: set[str] = set()
        self._gaps: dict[tuple[str, str], str] = {}
        self._captured = _Captured()

    def write(self, frame: Frame) -> None:
        """Print the session line first, then what is new, with few writes: Python's output may be unbuffered
        (containers), and such a write is cut by a signal unless a pipe takes it as a whole.
        """
        chunk: list[str] = []
        room = select.PIPE_BUF
        for line in self._lines(frame):
            room -= len(line) + 1
            if chunk and room < 0:
                self._context.write("\n".join(chunk))
                chunk, room = [], select.PIPE_BUF - len(line) - 1
            chunk.append(line)
        if chunk:
            self._context.write("\n".join(chunk))

    def _lines(self, frame: Frame) -> list[str]:
        lines: list[str] = []
        state, write = (frame.state, frame.hooks), lines.append
        if self._state is None:
            write(jsonl.session_line(frame))
        elif state != self._state:
            write(jsonl.state_line(frame))
        self._state = state
        for text in frame.warnings:
            if text not in self._warned:
                self._warned.add(text)
                write(jsonl.warning_line(text))
        for batch in frame.new_batches:
            write(jsonl.batch_line(batch, frame.clock))
        for request in frame.requests:
            write(jsonl.request_line(request, frame.clock))
        for alert in frame.changed_alerts:
            write(jsonl.alert_line(alert, frame.clock))
        if frame.capture is not None and self._captured.news(frame.capture):
            write(jsonl.capture_line(frame.capture, frame.clock))
        for counter in frame.new_counters if self._counters else ():
            if counter.value is not None or self._gaps.get(counter.key) != counter.reason:
                write(jsonl.counter_line(counter, frame.clock))
            self._gaps[counter.key] = counter.reason
        if frame.lost != self._lost:
            write(jsonl.lost_line(_since(self._lost, frame.lost)))
            self._lost = frame.lost
        return lines


class TableSink:
    """Aligned columns; what is not a batch is said on stderr."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._terminal = context.out.isatty()
        self._columns: tuple[table.Column, ...] = ()
        self._hooks: tuple[HookStatus, ...] | None = None
        self._rows = 0
        self._said: set[str] = set()
        self._alerted: set[int] = set()
        self._outside = False
        self._lost = Lost()
        self._captured = _Captured()

    def write(self, frame: Frame) -> None:
        """Print new batches, and the headings once, or once a screenful on a terminal."""
        note = "" if frame.state is AttachState.EXTERNAL and self._outside else frame.note
        self._outside = frame.state is AttachState.EXTERNAL and bool(frame.note)
        for text in (note, *frame.warnings):
            if text and text not in self._said:
                self._said.add(text)
                self._context.report.say(text)
        if frame.lost != self._lost:
            delta = _since(self._lost, frame.lost)
            self._lost = frame.lost
            self._context.report.say(
                f"lost {delta.records} records ({delta.torn} torn, {delta.batches} incomplete batches)"
            )
        for alert in frame.changed_alerts:
            opened = alert.id not in self._alerted
            if opened or alert.closed_ns is not None:
                self._alerted.add(alert.id)
                word = "alert" if alert.closed_ns is None else "over"
                self._context.report.say(f"{word} {alert.id}: {safe_text(alert.text)}")
                if opened and self._terminal and self._context.settings.bell:
                    self._context.out.write("\a")
        if frame.capture is not None and self._captured.news(frame.capture):
            self._context.report.say(report.told(frame.capture))
        for batch in frame.new_batches:
            self._head(frame.hooks)
            self._context.write(table.row(batch, frame.clock, self._columns))
            self._rows += 1

    def _head(self, hooks: tuple[HookStatus, ...]) -> None:
        size = shutil.get_terminal_size() if self._terminal else None
        due = self._hooks is None or (size is not None and self._rows >= max(5, size.lines - 2))
        if due or hooks != self._hooks:
            columns = table.columns_for(hooks, size.columns if size else None)
            due = due or table.header(columns) != table.header(self._columns)
            self._hooks, self._columns = hooks, columns
        if due:
            self._context.write(table.header(self._columns))
            self._rows = 1


class _Captured:
    """Tells what is new of a capture: its phase, and at last its verdict."""

    def __init__(self) -> None:
        self._told: tuple[object, ...] = ()

    def news(self, capture: Capture) -> bool:
        """Whether this was not told yet."""
        now = capture.number, capture.phase, capture.after_ms, capture.residual
        if now == self._told:
            return False
        self._told = now
        return True


def _since(before: Lost, now: Lost) -> Lost:
    return Lost(now.records - before.records, now.torn - before.torn, now.batches - before.batches)


def _reader_watch(context: Context) -> Callable[[], bool]:
    """A check for `| head`: whether the other end of stdout was closed while nothing was written."""
    try:
        poller = select.poll()
        poller.register(context.out.fileno(), 0)  # POLLERR and POLLHUP are always reported
    except (AttributeError, OSError, ValueError):
        return lambda: False
    return lambda: any(event & (select.POLLERR | select.POLLHUP) for _, event in poller.poll(0))
