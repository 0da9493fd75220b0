"""The streams and signals of this process, as `prismtop.cli` hands them to commands."""

from __future__ import annotations

import os
import select
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

from prismtop.commands.context import Interrupted, Reporter

MEANWHILE_S = 0.07
_HANDLED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class StderrReporter:
    """Sentences on stderr; a spinner for long steps, only when stderr is a terminal."""

    def __init__(self) -> None:
        self._status: Any = None

    def say(self, text: str) -> None:
        """Print one sentence; a stderr that is closed swallows it."""
        self.write(f"prismtop: {text}\n")

    def write(self, text: str) -> None:
        """Print text as it is."""
        if self._status is not None:
            self._status.stop()
        try:
            sys.stderr.write(text)
            sys.stderr.flush()
        except (AttributeError, OSError, ValueError):
            pass
        if self._status is not None:
            self._status.start()

    @contextmanager
    def status(self, text: str) -> Iterator[None]:
        """A spinner with `text` until the block ends; nothing when nobody would see it."""
        if not _is_terminal(sys.stderr) or self._status is not None:
            yield
            return
        from rich.console import Console
        from rich.text import Text

        with Console(stderr=True).status(Text(text)) as self._status:
            try:
                yield
            finally:
                self._status = None

    def update(self, text: str) -> None:
        """Change the spinner's text."""
        if self._status is not None:
            from rich.text import Text

            self._status.update(Text(text))

    def confirm(self, question: str, meanwhile: Callable[[], object] | None = None) -> bool | None:
        """Ask on the terminal; only `y` or `yes` agrees. None when there is no terminal to ask on."""
        if not (_is_terminal(sys.stderr) and sys.stdin is not None and sys.stdin.isatty()):
            return None
        sys.stderr.write(f"prismtop: {question} [y/N] ")
        sys.stderr.flush()
        while meanwhile is not None and not select.select([sys.stdin], [], [], MEANWHILE_S)[0]:
            meanwhile()
        return sys.stdin.readline().strip().lower() in ("y", "yes")


class ProcessSignals:
    """SIGINT, SIGTERM and SIGHUP as `Interrupted`; what was ignored at the start (nohup) stays ignored."""

    def __init__(self, report: Reporter) -> None:
        self._report = report
        self._waiting: int | None = None
        self._deferred = False
        self._shielded = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> ProcessSignals:
        for number in _HANDLED:
            try:
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._previous[number] = signal.signal(number, self._handle)
            except ValueError:  # not the main thread: somebody else owns the signals
                break
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._shielded:
            self._shielded = False
            self._report.say("detaching; once more leaves the probe to remove itself when its lease ends")
        elif self._deferred and self._waiting is None:
            self._waiting = number
        else:
            raise Interrupted(number)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """The first signal waits for `check()`, so that no line is cut in its middle."""
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False

    @contextmanager
    def shielded(self) -> Iterator[None]:
        """The first signal is only answered: somebody who presses ctrl-c twice still detaches cleanly."""
        self._shielded = True
        try:
            yield
        finally:
            self._shielded = False

    def check(self) -> None:
        """Raise what waits."""
        if self._waiting is not None:
            number, self._waiting = self._waiting, None
            raise Interrupted(number)


def _is_terminal(stream: Any) -> bool:
    return stream is not None and stream.isatty() and os.environ.get("TERM", "dumb") != "dumb"
