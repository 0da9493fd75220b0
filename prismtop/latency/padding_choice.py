"""Learns how an engine pads its batches: the schedule that predicts batches it was not fitted to best."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from statistics import median
from typing import NamedTuple

from prismtop.latency.decode import DecodeModel
from prismtop.latency.padding import SCHEDULES, Schedule
from prismtop.latency.trees import Background

LEAST_GAIN = 0.85
"""What remains of the error that makes another schedule worth a change."""
NOISE = 0.01
ROWS = 400
"""Batches after which it is asked how the engine pads; then again each time there are five times as many."""


class Seen(NamedTuple):
    """An undisturbed decode batch."""

    size: int
    context: int
    target_ns: float


class Choice(NamedTuple):
    """A better schedule.

    Attributes:
        model: fitted with it, to all batches.
        residuals: log residuals of the batches held out of the comparison.
    """

    model: DecodeModel
    residuals: tuple[float, ...]


def better_schedule(seen: Sequence[Seen], present: Schedule) -> Choice | None:
    """The schedule that beats `present` clearly, by two-fold cross-validation; None when none does."""
    if len({one.size for one in seen}) < 3:
        return None
    found = {schedule: _residuals(seen, schedule) for schedule in (present, *SCHEDULES)}
    errors = {schedule: median(map(abs, residuals)) for schedule, residuals in found.items()}
    best = min(errors, key=lambda schedule: errors[schedule])
    if best == present or errors[best] > LEAST_GAIN * errors[present]:
        return None
    return Choice(_fitted(seen, best), tuple(found[best]))


def _residuals(seen: Sequence[Seen], schedule: Schedule) -> list[float]:
    made = []
    for half in (0, 1):
        model = _fitted(seen[half::2], schedule)
        for one in seen[1 - half :: 2]:
            expected = model.predict(one.size, one.context)
            made.append(math.log(one.target_ns / expected) if expected else 0.0)
    return made


def _fitted(seen: Sequence[Seen], schedule: Schedule) -> DecodeModel:
    model = DecodeModel(schedule)
    for one in seen:
        model.learn(one.size, one.context, one.target_ns, 1.0, NOISE)
    model.ridge.solve(NOISE)
    model.forget_lines()
    return model


class PaddingWatch:
    """Keeps undisturbed decode batches and asks now and then, off the hot path, how the engine pads."""

    def __init__(self, background: Background) -> None:
        self.choice: Choice | None = None
        self._background = background
        self._seen: deque[Seen] = deque(maxlen=ROWS)
        self._next = ROWS
        self._count = 0

    def note(self, seen: Seen, present: Schedule) -> None:
        """Take one batch; `choice` is set some time later when another schedule is better."""
        self._seen.append(seen)
        self._count += 1
        if self._count < self._next:
            return
        batches = list(self._seen)

        def choose() -> None:
            self.choice = better_schedule(batches, present)

        if self._background.run(choose):
            self._next = 5 * self._count

    def take(self) -> Choice | None:
        """The choice that was made, once."""
        choice, self.choice = self.choice, None
        return choice
