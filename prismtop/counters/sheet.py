"""`Sheet`: where readers put their readings; turns totals into rates and remembers reasons for gaps."""

from __future__ import annotations

import time
from typing import Any, Protocol

from prismtop.counters.catalogue import CATALOGUE, FAST_S
from prismtop.model import Counter
from prismtop.model.counter import new_counter

GAP_REPEAT_NS = 60 * 10**9
"""A gap is told when its reason changes, and again after this time."""
_SHORTEST_NS = 1_000_000


class Reader(Protocol):
    """Reads one group of counters; lives in one thread of the sampler."""

    name: str

    def read(self, sheet: Sheet, *, slow: bool) -> None:
        """Put present readings on the sheet; those of the slow counters only when `slow`."""

    def close(self) -> None:
        """Let go of files and libraries."""


class Sheet:
    """Readings of one round. Used by one thread.

    Args:
        period_ns: time between two rounds.
        slow_ns: time between two rounds in which slow counters are read.
    """

    def __init__(self, period_ns: int = 10**9, slow_ns: int = 5 * 10**9) -> None:
        self.period_ns = period_ns
        self.slow_ns = slow_ns
        self.now_ns = time.monotonic_ns()
        self._made: list[Counter] = []
        self._totals: dict[tuple[str, str], tuple[int, float]] = {}
        self._gaps: dict[tuple[str, str], tuple[str, int]] = {}
        self._series: dict[tuple[str, str], _Series] = {}

    def value(
        self,
        name: str,
        device: str,
        value: float,
        *,
        source: str = "",
        text: str = "",
        seldom: bool = False,
        period_ns: int = 0,
    ) -> None:
        """One reading, in the unit of its name. `seldom`: it is read in slow rounds only; `period_ns`: it has
        a period of its own.
        """
        key = (name, device)
        series = self._series.get(key)
        if series is None or series.source != source or series.seldom != seldom:
            series = self._series[key] = _Series(name, device, source, seldom)
        fields = series.fields
        fields["time_ns"] = self.now_ns
        fields["value"] = float(value)
        fields["period_ns"] = period_ns or (self.slow_ns if series.slow else self.period_ns)
        fields["text"] = text
        if key in self._gaps:
            del self._gaps[key]
        self._made.append(new_counter(fields))

    def gap(self, name: str, device: str, reason: str, *, source: str = "") -> None:
        """Say why there is no reading."""
        known = self._gaps.get((name, device))
        if known is not None and known[0] == reason and self.now_ns - known[1] < GAP_REPEAT_NS:
            return
        self._gaps[(name, device)] = (reason, self.now_ns)
        self._totals.pop((name, device), None)
        spec = CATALOGUE[name]
        self._made.append(
            Counter(
                name,
                device,
                spec.unit,
                self.now_ns,
                None,
                reason,
                source or spec.source,
                GAP_REPEAT_NS,
            )
        )

    def delta(self, name: str, device: str, total: float) -> tuple[float, float] | None:
        """(growth, seconds) since the last total under this name; None the first time, and after a reset."""
        key = (name, device)
        before = self._totals.get(key)
        if before is not None and self.now_ns - before[0] < _SHORTEST_NS:
            return None
        self._totals[key] = (self.now_ns, total)
        if before is None or total < before[1]:
            return None
        return total - before[1], (self.now_ns - before[0]) / 1e9

    def rate(
        self,
        name: str,
        device: str,
        total: float,
        scale: float = 1.0,
        *,
        source: str = "",
        seldom: bool = False,
    ) -> float | None:
        """Growth of `total` a second, times `scale`, as a reading; nothing the first time."""
        grown = self.delta(name, device, total)
        if grown is None:
            return None
        rate = grown[0] * scale / grown[1]
        self.value(name, device, rate, source=source, seldom=seldom)
        return rate

    def forget(self, device: str, prefix: str = "") -> None:
        """Drop what is remembered about a device that is gone, or about its counters with that prefix."""
        stores: tuple[dict[tuple[str, str], Any], ...] = (self._totals, self._gaps, self._series)
        for store in stores:
            for key in [key for key in store if key[1] == device and key[0].startswith(prefix)]:
                del store[key]

    def take(self) -> tuple[Counter, ...]:
        """The readings since the last call."""
        made = tuple(self._made)
        self._made.clear()
        return made


class _Series:
    """What is the same in every reading of a series. A kept mapping that is copied, with the new value in it,
    costs a third of making a `Counter` of all its fields; there are hundreds a second.
    """

    __slots__ = ("fields", "seldom", "slow", "source")

    def __init__(self, name: str, device: str, source: str, seldom: bool) -> None:
        spec = CATALOGUE[name]
        self.source = source
        self.seldom = seldom
        self.slow = seldom or spec.period_s > FAST_S
        self.fields: dict[str, object] = {
            "name": name,
            "device": device,
            "unit": spec.unit,
            "time_ns": 0,
            "value": None,
            "reason": "",
            "source": source or spec.source,
            "period_ns": 0,
            "text": "",
        }
