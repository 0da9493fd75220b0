"""Two captures against each other: the batches and counters of two traces, however long."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Generic, TypeVar

from prismtop.diagnosis.collect import WANTED, Key, Windows, evenly, gather, with_derived
from prismtop.diagnosis.evidence import Evidence, Point
from prismtop.diagnosis.observations import Observation, observe
from prismtop.model import Batch, Counter

KEPT = 2000
"""Batches, and readings of one series, that are kept of a capture: spread over the whole of it."""
COMPARED = 1000
ROUND_NS = 300_000_000
"""Readings of several processes closer together than this belong to one round of the sampler."""

_Item = TypeVar("_Item")
_PID = re.compile(r"\bpid (\d+)\b")


class Spread(Generic[_Item]):
    """At most `KEPT` items of a stream of unknown length, at equal distances."""

    def __init__(self) -> None:
        self.items: list[_Item] = []
        self._every, self._seen = 1, 0

    def add(self, item: Callable[[], _Item]) -> None:
        """Take the next item; it is made only when it is kept."""
        if self._seen % self._every == 0:
            self.items.append(item())
            if len(self.items) >= KEPT:
                self.items = self.items[::2]
                self._every *= 2
        self._seen += 1


class Capture:
    """What is kept of one trace.

    Args:
        roles: role of each process by pid, for series must have the same names in both captures.
    """

    def __init__(self, roles: Mapping[int, str]) -> None:
        self.roles = roles
        self._batches: Spread[Observation] = Spread()
        self._series: dict[Key, Spread[Point]] = {}

    def read(self, nouns: Iterable[object]) -> Capture:
        """Take batches and counters, and leave the rest."""
        for noun in nouns:
            if isinstance(noun, Batch):
                self._batches.add(partial(_unjudged, noun))
            elif isinstance(noun, Counter) and noun.name in WANTED and noun.value is not None:
                spread = self._series.setdefault(noun.key, Spread())
                spread.add(partial(_point, noun.time_ns, noun.value))
        return self

    @property
    def empty(self) -> bool:
        """Whether there is nothing to compare."""
        return not self._batches.items and not self._series

    def batches(self) -> list[Observation]:
        """In order of time."""
        return evenly(sorted(self._batches.items, key=lambda seen: seen.time_ns), COMPARED)

    def counters(self) -> dict[Key, Sequence[Point]]:
        """Series by name and device; processes and threads are merged by role, for pids differ."""
        own = {key: spread.items for key, spread in self._series.items()}
        merged: dict[Key, list[Point]] = {}
        for (name, device), points in with_derived(own, self.roles).items():
            merged.setdefault((name, self._place(device)), []).extend(points)
        return {
            key: _highest(points) if key[1] in self._names else sorted(points)
            for key, points in merged.items()
        }

    @property
    def _names(self) -> set[str]:
        return {*self.roles.values(), "the engine's processes"}

    def _place(self, device: str) -> str:
        found = _PID.search(device)
        if found is None:
            return device
        return self.roles.get(int(found[1]), "") or "the engine's processes"


def evidence_of(
    normal: Capture,
    abnormal: Capture,
    more: Mapping[Key, Windows] | None = None,
    texts: Mapping[Key, str] | None = None,
) -> Evidence:
    """Compare two captures; there is no onset between them.

    Args:
        more: series that are neither of batches nor of counters: kernels of deep captures.
        texts: words about a series.
    """
    before, after = normal.counters(), abnormal.counters()
    windows: dict[Key, Windows] = {
        key: (before.get(key, ()), after.get(key, ()), None) for key in {**before, **after}
    }
    return gather({**windows, **(more or {})}, (normal.batches(), abnormal.batches()), texts=texts)


def _unjudged(batch: Batch) -> Observation:
    """Without its prediction: each trace has its own, which does not say what is usual in the other."""
    return observe(batch)._replace(excess=None)


def _point(time_ns: int, value: float) -> Point:
    return time_ns, value


def _highest(points: list[Point]) -> list[Point]:
    """Of the readings of one round, the highest."""
    made: list[Point] = []
    for time_ns, value in sorted(points):
        if made and time_ns - made[-1][0] < ROUND_NS:
            made[-1] = (made[-1][0], max(made[-1][1], value))
        else:
            made.append((time_ns, value))
    return made
