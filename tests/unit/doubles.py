"""Stand-ins for the parts of prismtop that need a live target, for tests of the command line."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import StringIO

from prismtop.commands.context import Context, Interrupted
from prismtop.model import Frame
from prismtop.settings import Settings


class FakeSession:
    """Hands out the given frames, then the last one again without batches; remembers that it was closed."""

    def __init__(self, frames: Sequence[Frame], left_behind: tuple[str, ...] = ()) -> None:
        self.frames = list(frames)
        self.left_behind = left_behind
        self.ticks = 0
        self.closed = 0

    def tick(self) -> Frame:
        from dataclasses import replace

        self.ticks += 1
        if len(self.frames) > 1:
            return self.frames.pop(0)
        frame = self.frames[0]
        self.frames[0] = replace(frame, new_batches=(), requests=(), warnings=())
        return frame

    def close(self) -> tuple[str, ...]:
        self.closed += 1
        return self.left_behind


class FakeReporter:
    """Remembers what was said."""

    def __init__(self, answer: bool | None = None) -> None:
        self.said: list[str] = []
        self.asked: list[str] = []
        self.answer = answer

    def say(self, text: str) -> None:
        self.said.append(text)

    @contextmanager
    def status(self, text: str) -> Iterator[None]:
        yield

    def update(self, text: str) -> None:
        pass

    def confirm(self, question: str, meanwhile: object = None) -> bool | None:
        self.asked.append(question)
        return self.answer


class FakeSignals:
    """Raises `Interrupted` at the n-th check."""

    def __init__(self, interrupt_at: int = 0, signum: int = 2) -> None:
        self.left = interrupt_at
        self.signum = signum

    @contextmanager
    def deferred(self) -> Iterator[None]:
        yield

    @contextmanager
    def shielded(self) -> Iterator[None]:
        yield

    def check(self) -> None:
        self.left -= 1
        if self.left == 0:
            raise Interrupted(self.signum)


def make_context(
    *, json: bool = False, reporter: FakeReporter | None = None, signals: FakeSignals | None = None
) -> tuple[Context, StringIO, FakeReporter]:
    """A context that writes into memory and ticks as fast as settings allow."""
    out, report = StringIO(), reporter or FakeReporter()
    settings = Settings(tick_hz=100.0)
    return Context(settings, out, report, signals or FakeSignals(), json=json), out, report
