"""The latest reading of every counter, and a short history of each for sparklines."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from prismtop.model import HISTORY_S, Counter

POINTS = 240
_STEP_NS = int(HISTORY_S * 1e9)
_DROP_EVERY_NS = 30 * 10**9

Key = tuple[str, str]
"""(name, device) of a series."""
_Points = tuple[float | None, ...]


class CounterHistory:
    """Takes readings in order of time and keeps one value a second per series."""

    def __init__(self, points: int = POINTS) -> None:
        self._points = points
        self._latest: dict[Key, Counter] = {}
        self._series: dict[Key, _Series] = {}
        self._dropped_ns = 0
        self.latest: tuple[Counter, ...] = ()
        self.values: Mapping[Key, _Points] = {}

    def add(self, readings: Iterable[Counter]) -> None:
        """Take readings; what is shown changes only when there are any."""
        new = tuple(readings)
        if not new:
            return
        latest, series, points = self._latest, self._series, self._points
        for counter in new:
            key = counter.name, counter.device
            latest[key] = counter
            known = series.get(key)
            series[key] = _first(counter) if known is None else known.then(counter, points)
        self._drop_old(max([counter.time_ns for counter in new]))
        self.latest = tuple(latest.values())
        self.values = _Values(series.copy(), points)

    def _drop_old(self, now_ns: int) -> None:
        """Forget series that have no reading within the history (threads and processes that ended)."""
        if 0 <= now_ns - self._dropped_ns < _DROP_EVERY_NS:
            return
        self._dropped_ns = now_ns
        oldest = now_ns - self._points * _STEP_NS
        old = [key for key, counter in self._latest.items() if counter.time_ns < oldest]
        for key in old:
            del self._latest[key], self._series[key]


class _Series:
    """One series as it is after one reading; the next reading makes the next one. Both share the list of
    values, which only grows: what a frame was given stays as it was.
    """

    __slots__ = ("count", "last", "past", "points", "stepped_ns")

    def __init__(self, past: list[float | None], count: int, last: float | None, stepped_ns: int) -> None:
        self.past = past
        self.count = count
        """Of `past`, those before `last`."""
        self.last = last
        self.stepped_ns = stepped_ns
        self.points: _Points | None = None

    def then(self, counter: Counter, points: int) -> _Series:
        """After one more reading."""
        steps = (counter.time_ns - self.stepped_ns) // _STEP_NS
        if steps < 0:  # a replay went back
            return _first(counter)
        if steps < 1:
            return _Series(self.past, self.count, counter.value, self.stepped_ns)
        past = self.past
        if len(past) > 2 * points:
            past = past[self.count - points : self.count]
        past.append(self.last)
        if steps > 1:
            past.extend([None] * min(steps - 1, points))
        return _Series(past, len(past), counter.value, self.stepped_ns + steps * _STEP_NS)


def _first(counter: Counter) -> _Series:
    return _Series([], 0, counter.value, counter.time_ns)


class _Values(Mapping[Key, _Points]):
    """The values of every series, oldest first; made when they are asked for: a screen shows few of them, and
    copying hundreds of series each time costs more than reading the counters. Frames share what did not
    change.
    """

    def __init__(self, series: Mapping[Key, _Series], points: int) -> None:
        self._series = series
        self._points = points

    def __getitem__(self, key: Key) -> _Points:
        series = self._series[key]
        if series.points is None:
            first = max(0, series.count + 1 - self._points)
            series.points = (*series.past[first : series.count], series.last)
        return series.points

    def __iter__(self) -> Iterator[Key]:
        return iter(self._series)

    def __len__(self) -> int:
        return len(self._series)
