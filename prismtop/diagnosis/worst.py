"""The part of an alert that has to be explained: where most of its time was lost.

Alerts close late, and one alert may hold several things: a machine that is a little slow for half a minute
and a fault of five seconds in it. What counters read while batches were as fast as ever, or hardly slower,
only hides what they read in the part that made the alert.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from prismtop.model import Batch

Span = tuple[int, int]
"""From and to, CLOCK_MONOTONIC ns."""

STRETCH_NS = 10**9
"""Time is told apart in stretches of a second: counters say no more."""
STRETCHES = 300
WORST = 0.25
"""The worst stretches that hold this share of the lost time say how bad it was."""
AS_BAD = 0.4
"""Stretches that lost at least so much of that share of their time belong to them."""
MUCH_WORSE = 1.5
"""How much slower than the whole they must be to be explained instead of it: fewer readings are left."""
FAR_LONGER = 1.5
"""Times the expected that the batches of a second took, beyond which it is no second as it should be."""


@dataclass
class _Stretch:
    """Batches that began in one second: what they took and should have taken, and when the last one ended."""

    at: int
    took_ns: int = 0
    expected_ns: int = 0
    end_ns: int = 0


class LostTime:
    """What batches took beyond their predictions, second by second, for the last five minutes."""

    def __init__(self) -> None:
        self._stretches: dict[int, _Stretch] = {}
        self._end_ns = 0

    def sound(self) -> set[int]:
        """The seconds in which batches ran, and none that took far longer than it should have."""
        ran: set[int] = set()
        slow: set[int] = set()
        for one in self._stretches.values():
            own = range(one.at, min(one.end_ns // STRETCH_NS, one.at + STRETCHES) + 1)
            ran.update(own)
            if one.took_ns > FAR_LONGER * one.expected_ns:
                slow.update(own)
        return ran - slow

    @classmethod
    def of(cls, parts: Iterable[LostTime]) -> LostTime:
        """All of them together."""
        whole = cls()
        for part in parts:
            for stretch in part._stretches.values():
                whole._add(stretch.at, stretch.took_ns, stretch.expected_ns, stretch.end_ns)
        return whole

    def take(self, batches: Iterable[Batch]) -> None:
        """Count batches, in order of their ends: a long one may have begun before many that came already."""
        for batch in batches:
            expected = batch.prediction
            if expected is None or expected.expected_ns <= 0:
                continue
            took = batch.judged_ns
            if took is None:
                continue
            if batch.end_ns < self._end_ns - STRETCH_NS:
                self._stretches.clear()  # a replay that was moved back
            self._end_ns = batch.end_ns
            self._add(batch.start_ns // STRETCH_NS, took, expected.expected_ns, batch.end_ns)

    def _add(self, at: int, took_ns: int, expected_ns: int, end_ns: int) -> None:
        found = self._stretches.get(at)
        if found is None:
            found = self._stretches[at] = _Stretch(at)
            if len(self._stretches) > STRETCHES:
                del self._stretches[min(self._stretches)]
        found.took_ns += took_ns
        found.expected_ns += expected_ns
        found.end_ns = max(found.end_ns, end_ns)

    def worst(self, start: int, end: int) -> tuple[list[Span], float | None]:
        """Where an alert's batches lost most, in order, and by what share they were slower there; the whole
        of it and None when nothing was lost in batches.
        """
        whole = [
            stretch
            for _, stretch in sorted(self._stretches.items())
            if start < (stretch.at + 1) * STRETCH_NS and stretch.at * STRETCH_NS < end
        ]
        lost = [
            (1 - stretch.expected_ns / stretch.took_ns, stretch)
            for stretch in whole
            if stretch.took_ns > stretch.expected_ns
        ]
        level = AS_BAD * _level([share for share, _ in lost])
        kept = [stretch for share, stretch in lost if share >= level]
        slower = _slower(kept)
        if not kept or slower < MUCH_WORSE * _slower(whole):
            return [(start, end)], None
        spans: list[Span] = []
        for stretch in kept:
            first = max(start, stretch.at * STRETCH_NS)
            last = min(max((stretch.at + 1) * STRETCH_NS, stretch.end_ns), end)
            if spans and spans[-1][1] >= first:
                first = spans.pop()[0]
            spans.append((first, last))
        return spans, slower


def _slower(stretches: Sequence[_Stretch]) -> float:
    expected = sum(stretch.expected_ns for stretch in stretches)
    return sum(stretch.took_ns for stretch in stretches) / expected - 1 if expected else 0.0


def within(time_ns: int, spans: Sequence[Span]) -> bool:
    """Whether a time lies in one of the spans."""
    return any(first <= time_ns < last for first, last in spans)


def _level(shares: Sequence[float]) -> float:
    """The share of the mildest of the worst stretches that hold `WORST` of all."""
    level, seen, total = 0.0, 0.0, math.fsum(shares)
    for level in sorted(shares, reverse=True):
        seen += level
        if seen >= WORST * total:
            break
    return level
