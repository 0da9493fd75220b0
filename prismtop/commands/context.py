"""What a command gets from `prismtop.cli`: settings, streams, and how to stop."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Protocol, TextIO

from prismtop.settings import Settings


class Interrupted(KeyboardInterrupt):
    """A signal asked prismtop to end. A KeyboardInterrupt, because event loops let that one through.

    Attributes:
        signum: the signal; the exit code is 128 plus it.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum


class Signals(Protocol):
    """How SIGINT, SIGTERM and SIGHUP reach a command: as `Interrupted`, at a moment that suits it."""

    def deferred(self) -> AbstractContextManager[None]:
        """Inside, the first signal only waits for `check()`; a second one interrupts at once."""

    def shielded(self) -> AbstractContextManager[None]:
        """Inside, the first signal is answered with a sentence; a second one interrupts at once."""

    def check(self) -> None:
        """Raise `Interrupted` when a signal is waiting."""


class Reporter(Protocol):
    """Sentences for a person, on stderr."""

    def say(self, text: str) -> None:
        """Print one sentence, with `prismtop: ` in front."""

    def status(self, text: str) -> AbstractContextManager[None]:
        """Show that something long is going on, when stderr is a terminal."""

    def update(self, text: str) -> None:
        """Change the text of the status that is shown now; nothing without one."""

    def confirm(self, question: str, meanwhile: Callable[[], object] | None = None) -> bool | None:
        """Ask yes or no; None when there is nobody to ask. `meanwhile` is called some ten times a second
        while the answer is waited for.
        """


@dataclass(frozen=True)
class Context:
    """One run of prismtop."""

    settings: Settings
    out: TextIO
    report: Reporter
    signals: Signals
    json: bool = False

    def write(self, line: str) -> None:
        """One line on stdout."""
        self.out.write(line + "\n")

    @property
    def interactive(self) -> bool:
        """Whether a screen can be opened: stdin and stdout are a terminal that can address its cursor, or the
        browser behind `prismtop serve` is at the other end."""
        import os
        import sys

        if os.environ.get("TEXTUAL_DRIVER"):
            return True
        return self.out.isatty() and sys.stdin.isatty() and os.environ.get("TERM", "dumb") != "dumb"


@contextmanager
def closing_session(context: Context, session: Closable) -> Iterator[None]:
    """Detach on every way out, signals included, and say what was left behind."""
    try:
        yield
    finally:
        with context.signals.shielded():
            for sentence in session.close():
                context.report.say(sentence)


class Closable(Protocol):
    """A session, as far as ending it goes."""

    def close(self) -> tuple[str, ...]:
        """Detach; sentences about what was left behind."""
