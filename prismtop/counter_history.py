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
_Series = tuple[list[float | None], int, float | None, int]
"""One series after one reading: the values before it, how many of them there were then, its value, and the
second that it belongs to (ns). A tuple, because hundreds are made every second.
"""


class CounterHistory:
    """Takes readings in order of time and keeps one value a second per series."""

    def __init__(self, points: int = POINTS) -> None:
        self._points = points
        self._latest: dict[Key, Counter] = {}
        self._series: dict[Key, _Series] = {}
        self._shown: dict[Key, tuple[_Series, _Points]] = {}
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
            series[key] = _first(counter) if known is None else _then(known, counter, points)
        self._drop_old(max([counter.time_ns for counter in new]))
        self.latest = tuple(latest.values())
        self.values = _Values(series.copy(), points, self._shown)

    def _drop_old(self, now_ns: int) -> None:
        """Forget series that have no reading within the history (threads and processes that ended)."""
        if 0 <= now_ns - self._dropped_ns < _DROP_EVERY_NS:
            return
        self._dropped_ns = now_ns
        oldest = now_ns - self._points * _STEP_NS
        old = [key for key, counter in self._latest.items() if counter.time_ns < oldest]
        for key in old:
            del self._latest[key], self._series[key]
            self._shown.pop(key, None)


def _first(counter: Counter) -> _Series:
    return [], 0, counter.value, counter.time_ns


def _then(known: _Series, counter: Counter, points: int) -> _Series:
    """After one more reading. Both share the list of values, which only grows: what a frame was given stays
    as it was.
    """
    past, count, last, stepped_ns = known
    steps = (counter.time_ns - stepped_ns) // _STEP_NS
    if steps < 0:  # a replay went back
        return _first(counter)
    if steps < 1:
        return past, count, counter.value, stepped_ns
    if len(past) > 2 * points:
        past = past[count - points : count]
    past.append(last)
    if steps > 1:
        past.extend([None] * min(steps - 1, points))
    return past, len(past), counter.value, stepped_ns + steps * _STEP_NS


class _Values(Mapping[Key, _Points]):
    """The values of every series, oldest first; made when they are asked for: a screen shows few of them, and
    copying hundreds of series each time costs more than reading the counters. Frames share what did not
    change.
    """

    def __init__(
        self, series: Mapping[Key, _Series], points: int, shown: dict[Key, tuple[_Series, _Points]]
    ) -> None:
        self._series = series
        self._points = points
        self._shown = shown

    def __getitem__(self, key: Key) -> _Points:
        series = self._series[key]
        shown = self._shown.get(key)
        if shown is None or shown[0] is not series:
            past, count, last, _ = series
            first = max(0, count + 1 - self._points)
            shown = self._shown[key] = series, (*past[first:count], last)
        return shown[1]

    def __iter__(self) -> Iterator[Key]:
        return iter(self._series)

    def __len__(self) -> int:
        return len(self._series)
