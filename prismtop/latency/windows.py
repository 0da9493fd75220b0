"""Quantiles of the latest observations, and thresholds beyond what was seen."""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Iterable, Sequence


class SortedWindow:
    """The latest `size` numbers, kept in order of time and of value: about 2 us for a number."""

    def __init__(self, size: int) -> None:
        self._times: deque[float] = deque()
        self._sorted: list[float] = []
        self._size = size

    def __len__(self) -> int:
        return len(self._sorted)

    def add(self, value: float) -> None:
        """Take one number; the oldest leaves. NaN is refused with ValueError: it has no place in an order."""
        if value != value:
            raise ValueError("not a number")
        times, ordered = self._times, self._sorted
        if len(times) >= self._size:
            del ordered[bisect_left(ordered, times.popleft())]
        times.append(value)
        insort(ordered, value)

    def fill(self, values: Iterable[float]) -> None:
        """Start again with `values`."""
        self._times = deque(values)
        while len(self._times) > self._size:
            self._times.popleft()
        self._sorted = sorted(self._times)

    def values(self) -> list[float]:
        """In order of time."""
        return list(self._times)

    @property
    def ordered(self) -> Sequence[float]:
        """In order of value; not to be changed."""
        return self._sorted

    def quantile(self, share: float) -> float:
        """The value below which `share` (0 to 1) of the window lies. Raises IndexError when empty."""
        values = self._sorted
        return values[min(len(values) - 1, int(share * len(values)))]


def tail(window: SortedWindow, probability: float, least_slope: float) -> float:
    """The value that is exceeded with `probability`, which may be far rarer than the window is long.

    Above its 95th percentile the window is taken for exponential (peaks over threshold, with shape 0), whose
    slope is read from two quantiles instead of the mean excess: a few anomalies that slipped into the window
    do not move quantiles.

    Args:
        probability: per observation, in (0, 1].
        least_slope: smallest scale of the tail, in the window's unit; a floor for windows that are too short
            or too regular to tell.
    """
    low, high = window.quantile(0.95), window.quantile(0.99)
    slope = max((high - low) / math.log(5.0), least_slope)
    return high + slope * math.log(0.01 / probability)


def beyond(window: SortedWindow, value: float, least_slope: float) -> float:
    """The probability with which `value`, a threshold in the tail, is exceeded: the inverse of `tail`."""
    low, high = window.quantile(0.95), window.quantile(0.99)
    slope = max((high - low) / math.log(5.0), least_slope)
    return 0.01 * math.exp(min(0.0, (high - value) / slope))


def spread(window: SortedWindow) -> float:
    """Half of the distance between the 16th and 84th percentile: the standard deviation if it were normal."""
    return (window.quantile(0.84) - window.quantile(0.16)) / 2
