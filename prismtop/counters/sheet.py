"""`Sheet`: where readers put their readings; turns totals into rates and remembers reasons for gaps."""

from __future__ import annotations

import time
from typing import Any, Protocol

from prismtop.counters.catalogue import CATALOGUE, FAST_S
from prismtop.model import Counter

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

    def value(
        self, name: str, device: str, value: float, *, source: str = "", text: str = "", seldom: bool = False
    ) -> None:
        """One reading, in the unit of its name. `seldom`: it is read in slow rounds only."""
        spec = CATALOGUE[name]
        period = self.slow_ns if seldom or spec.period_s > FAST_S else self.period_ns
        origin = source or spec.source
        if self._gaps:
            self._gaps.pop((name, device), None)
        self._made.append(
            Counter(name, device, spec.unit, self.now_ns, float(value), "", origin, period, text)
        )

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
        stores: tuple[dict[tuple[str, str], Any], ...] = (self._totals, self._gaps)
        for store in stores:
            for key in [key for key in store if key[1] == device and key[0].startswith(prefix)]:
                del store[key]

    def take(self) -> tuple[Counter, ...]:
        """The readings since the last call."""
        made = tuple(self._made)
        self._made.clear()
        return made
