"""What one capture costs its target: means before, in and after its window."""

from __future__ import annotations

from collections.abc import Sequence

from prismtop.deepdive import slowdown
from prismtop.model import Batch, Frame

BEFORE_NS = 30_000_000_000
"""Older batches say nothing about the load of now."""
AFTER_BATCHES = 100
AFTER_NS = 10_000_000_000
"""After so long what has come must do."""
LOOKS = 3
AGAIN_NS = 3_000_000_000
"""A slowdown has stayed when it is found so many times in a row, so far apart: others use the machine too."""


class Cost:
    """Batches before, in (`inside`) and after the window.

    Args:
        history: batches up to the request, oldest first.
        started_ns: when it was asked for.
    """

    def __init__(self, history: Sequence[Batch], started_ns: int) -> None:
        self._before = tuple(b for b in history if started_ns - BEFORE_NS < b.end_ns < started_ns)
        self._after: list[Batch] = []
        self._told = False
        self._slower = 0
        self._from_ns = 0
        self.inside: Sequence[Batch] = ()
        self.after_ms: float | None = None
        self.residual: bool | None = None

    @property
    def before_ms(self) -> float | None:
        """Mean before, of work like that of the window."""
        return slowdown.mean_ms(slowdown.comparable(self.inside or self._before, self._before)[1])

    @property
    def during_ms(self) -> float | None:
        """Mean in the window."""
        return slowdown.mean_ms(slowdown.comparable(self.inside, self._before)[0])

    def take(self, frame: Frame, since_ns: int) -> bool:
        """Gather batches that began after `since_ns`; True once, when the verdict is there."""
        if self._told:
            return False
        self._from_ns = self._from_ns or since_ns
        self._after += slowdown.within(frame.new_batches, self._from_ns, frame.time_ns)
        passed = frame.time_ns - self._from_ns
        if len(self._after) < AFTER_BATCHES and passed < AFTER_NS:
            return False
        if self._slower and passed < AGAIN_NS:
            return False
        reference = self.inside or self._before
        _, before, after = slowdown.comparable(reference, self._before, self._after)
        slower = slowdown.slower(before, after)
        if slower and self._slower < LOOKS - 1:
            self._slower += 1
            self._after, self._from_ns = [], frame.time_ns
            return False
        self._told = True
        self.after_ms, self.residual = slowdown.mean_ms(after), slower
        return True
