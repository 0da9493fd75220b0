"""What moved: named series in a baseline and an incident window, compared robustly.

Nothing here knows what a series means; `prismtop.diagnosis.hypotheses` does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TypeAlias

Point: TypeAlias = "tuple[int, float]"
"""(CLOCK_MONOTONIC ns, value)."""

ENOUGH = 4
"""Points of a baseline below which nothing can be said about its noise."""
INDEPENDENT = 16
"""Readings of one window count as at most so many independent ones: neighbours are correlated."""
NOISE_FLOOR = 0.002
"""A series is never taken to be steadier than this share of its level: resolution, rounding."""
STRETCHES = 8
"""Stretches of a baseline from which it can be told how far a series wanders."""
NEVER_BEFORE = 1 / 3
"""What never happened in the baseline stands out by happening, however unevenly: the share of an incident's
own spread that counts when two of its readings, and half of them, are beyond all that a long baseline had
(by chance: less than one time in a thousand).
"""
MAD_SIGMA = 1.4826
"""Standard deviation of a normal distribution over its median absolute deviation."""
BEYOND_ALL = 1e6
"""z of a change in a series that had no noise at all and no level to take a floor from."""


@dataclass(frozen=True)
class Effect:
    """How one series differs between the windows.

    Attributes:
        name: of the signal.
        device: of the series; empty when there is one only.
        before, after: level in the baseline and in the incident, in the signal's unit.
        z: difference over its standard error; its sign is that of the difference.
        baseline_points, incident_points: readings it rests on.
        onset_ns: when the series left its baseline; None when the windows are separate captures, or when it
            had left before they begin.
        period_ns: time between readings, so how exact the onset is.
        text: words that came with the latest reading (the reasons of a clock limit, a rank).
    """

    name: str
    device: str
    before: float
    after: float
    z: float
    baseline_points: int
    incident_points: int
    onset_ns: int | None = None
    period_ns: int = 0
    text: str = ""

    @property
    def delta(self) -> float:
        """After minus before."""
        return self.after - self.before

    @property
    def log_ratio(self) -> float:
        """ln(after / before); infinite when only one of them is zero, 0 when both are, or a sign changed."""
        if self.before > 0 and self.after > 0:
            return math.log(self.after / self.before)
        if self.before == self.after or min(self.before, self.after) < 0:
            return 0.0
        return math.inf if self.after > self.before else -math.inf


@dataclass(frozen=True)
class Evidence:
    """Effects by signal name, one per device.

    Attributes:
        effects: signals with enough readings in both windows.
        thin: signals that were there, with too few readings to compare.
        slower: what the detector says of the incident's time over its prediction (0.38 is +38 %); None when
            there is no detector, as with two captures.
        onset_ns: when the incident began; None for separate captures.
    """

    effects: Mapping[str, tuple[Effect, ...]] = field(default_factory=dict)
    thin: frozenset[str] = frozenset()
    slower: float | None = None
    onset_ns: int | None = None

    def of(self, names: Sequence[str]) -> Iterator[Effect]:
        """Effects of these signals."""
        for name in names:
            yield from self.effects.get(name, ())


def compare(
    name: str,
    baseline: Sequence[Point],
    incident: Sequence[Point],
    *,
    device: str = "",
    mean: bool = False,
    lead: Sequence[Point] | None = None,
    text: str = "",
) -> Effect | None:
    """The effect on one series; None when it is too thin to compare.

    Medians, with the spread of the median absolute deviation, or means with the standard deviation for
    series that are mostly zero (shares, rare events). A single reading is held against the range of the
    baseline instead of its spread, for one reading has no spread of its own. Values that are not finite are
    left out.

    Args:
        lead: the points in which the onset is looked for, in order of time; None leaves it out.
        mean: compare means.
    """
    before, after = _finite(baseline), _finite(incident)
    if len(before) < ENOUGH or not after:
        return None
    middle = _mean if mean else median
    level, now = middle(before), middle(after)
    difference = now - level
    error = _error(before, after, mean=mean)
    if error > 0:
        z = difference / error
    else:
        z = math.copysign(BEYOND_ALL, difference) if difference else 0.0
    points = [] if lead is None else [point for point in lead if math.isfinite(point[1])]
    return Effect(
        name=name,
        device=device,
        before=level,
        after=now,
        z=z,
        baseline_points=len(before),
        incident_points=len(after),
        onset_ns=onset(points, level, now),
        period_ns=_period(points),
        text=text,
    )


def onset(points: Sequence[Point], before: float, after: float) -> int | None:
    """Time of the first of the readings that stay beyond the middle between two levels.

    Two readings in a row must be beyond it, or the last one; None when the first reading is already, or none.
    """
    if before == after:
        return None
    middle, up = (before + after) / 2, after > before
    beyond = [(value > middle) == up and value != middle for _, value in points]
    for at, (time_ns, _) in enumerate(points):
        if beyond[at] and (at + 1 == len(points) or beyond[at + 1]):
            return time_ns if at else None
    return None


def rate(points: Iterable[Point]) -> list[Point]:
    """A count that only rises, as events a second; a fall (a restart of the counter) is left out."""
    made: list[Point] = []
    last: Point | None = None
    for time_ns, value in points:
        if last is not None and time_ns > last[0] and value >= last[1]:
            made.append((time_ns, (value - last[1]) / ((time_ns - last[0]) / 1e9)))
        last = (time_ns, value)
    return made


def median(values: Sequence[float]) -> float:
    """The median. Raises IndexError without values."""
    ordered = sorted(values)
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2


def _error(before: Sequence[float], after: Sequence[float], *, mean: bool) -> float:
    """Standard error of the difference of the two levels."""
    spread = _deviation if mean else _mad
    noise = max(spread(before), NOISE_FLOOR * abs(_mean(before) if mean else median(before)))
    if len(after) == 1:
        noise = max(noise, (max(before) - min(before)) / 3)
        own = noise
    else:
        own = max(spread(after), noise if len(after) <= ENOUGH else noise / 2)
        if (mean and not any(before)) or _is_new(before, after):
            own = max(own * NEVER_BEFORE, noise)
    error = math.sqrt(noise**2 / min(len(before), INDEPENDENT) + own**2 / min(len(after), INDEPENDENT))
    return max(error, _wandering(before, len(after), _mean if mean else median))


def _is_new(before: Sequence[float], after: Sequence[float]) -> bool:
    if len(before) < STRETCHES * ENOUGH:
        return False
    lowest, highest = min(before), max(before)
    beyond = max(sum(value > highest for value in after), sum(value < lowest for value in after))
    return beyond >= 2 and 2 * beyond >= len(after)


def _wandering(before: Sequence[float], count: int, level: Callable[[Sequence[float]], float]) -> float:
    """How far the level of so many neighbouring readings strays within the baseline: series wander, and a
    short incident is held against stretches of its own length. 0 for a baseline too short to tell.
    """
    if len(before) < STRETCHES * ENOUGH:
        return 0.0
    size = min(count, len(before) // STRETCHES)
    levels = [level(before[at : at + size]) for at in range(0, len(before) - size + 1, size)]
    return _deviation(levels) * math.sqrt(1 + 1 / len(levels))


def _finite(points: Sequence[Point]) -> list[float]:
    return [value for _, value in points if math.isfinite(value)]


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _deviation(values: Sequence[float]) -> float:
    middle = _mean(values)
    return math.sqrt(math.fsum((value - middle) ** 2 for value in values) / len(values))


def _mad(values: Sequence[float]) -> float:
    middle = median(values)
    return MAD_SIGMA * median([abs(value - middle) for value in values])


def _period(points: Sequence[Point]) -> int:
    if len(points) < 2:
        return 0
    return int(median([after[0] - before[0] for before, after in pairwise(points)]))
