"""The latest reading of every counter, and a short history of each for sparklines."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping

from prismtop.model import HISTORY_S, Counter

POINTS = 240
_STEP_NS = int(HISTORY_S * 1e9)
_DROP_EVERY_NS = 30 * 10**9


class CounterHistory:
    """Takes readings in order of time and keeps one value a second per series."""

    def __init__(self, points: int = POINTS) -> None:
        self._points = points
        self._latest: dict[tuple[str, str], Counter] = {}
        self._values: dict[tuple[str, str], deque[float | None]] = {}
        self._stepped_ns: dict[tuple[str, str], int] = {}
        self._dropped_ns = 0
        self.latest: tuple[Counter, ...] = ()
        self.values: Mapping[tuple[str, str], tuple[float | None, ...]] = {}

    def add(self, readings: Iterable[Counter]) -> None:
        """Take readings; what is shown changes only when there are any."""
        new = tuple(readings)
        if not new:
            return
        changed = set()
        for counter in new:
            key = counter.key
            changed.add(key)
            self._latest[key] = counter
            values = self._values.setdefault(key, deque(maxlen=self._points))
            stepped = self._stepped_ns.get(key)
            steps = 1 if stepped is None else (counter.time_ns - stepped) // _STEP_NS
            if stepped is not None and steps < 0:  # a replay went back
                values.clear()
                steps = 1
            if steps < 1:
                if values:
                    values[-1] = counter.value
                continue
            values.extend([None] * min(steps - 1, self._points))
            values.append(counter.value)
            self._stepped_ns[key] = counter.time_ns if stepped is None else stepped + steps * _STEP_NS
        if self._drop_old(max(counter.time_ns for counter in new)):
            self.values = {key: values for key, values in self.values.items() if key in self._latest}
        self.latest = tuple(self._latest.values())
        # Frames share what did not change: copying hundreds of series each time costs more than reading them.
        self.values = {**self.values, **{key: tuple(self._values[key]) for key in changed}}

    def _drop_old(self, now_ns: int) -> bool:
        """Forget series that have no reading within the history (threads and processes that ended)."""
        if 0 <= now_ns - self._dropped_ns < _DROP_EVERY_NS:
            return False
        self._dropped_ns = now_ns
        oldest = now_ns - self._points * _STEP_NS
        old = [key for key, counter in self._latest.items() if counter.time_ns < oldest]
        for key in old:
            del self._latest[key], self._values[key], self._stepped_ns[key]
        return bool(old)
