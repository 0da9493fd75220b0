"""Sets of disjoint intervals on one clock, in whole nanoseconds: unions, parts in common, lengths within."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Times = NDArray[np.int64]
_FOREVER = 1 << 62


@dataclass(frozen=True)
class Intervals:
    """Disjoint intervals in order of time; `starts[n] < ends[n] <= starts[n + 1]`."""

    starts: Times
    ends: Times

    @property
    def total(self) -> int:
        """Their lengths together."""
        return int((self.ends - self.starts).sum())

    def before(self, at: Times) -> Times:
        """How much of the set lies before each time."""
        if not len(self.starts):
            return np.zeros(len(at), np.int64)
        sums = np.concatenate((np.zeros(1, np.int64), np.cumsum(self.ends - self.starts)))
        place = np.searchsorted(self.starts, at, "right")
        last = np.maximum(place - 1, 0)
        inside = np.minimum(at, self.ends[last]) - self.starts[last]
        found: Times = np.where(place > 0, sums[last] + inside, 0)
        return found

    def within(self, starts: Times, ends: Times) -> Times:
        """How much of the set lies in each [start, end)."""
        return self.before(ends) - self.before(starts)

    def without(self, other: Intervals) -> Intervals:
        """What is in this set and not in the other."""
        edge = np.array([_FOREVER], np.int64)
        return self.common(
            Intervals(np.concatenate((-edge, other.ends)), np.concatenate((other.starts, edge)))
        )

    def common(self, other: Intervals) -> Intervals:
        """What is in both."""
        edges = np.concatenate((self.starts, other.starts, self.ends, other.ends))
        opening = len(self.starts) + len(other.starts)
        steps = np.ones(len(edges), np.int64)
        steps[opening:] = -1
        order = np.argsort(edges, kind="stable")
        edges, depth = edges[order], np.cumsum(steps[order])
        inside = np.flatnonzero((depth[:-1] == 2) & (edges[1:] > edges[:-1]))
        return union(edges[inside], edges[inside + 1])

    def cut(self, start: int, end: int) -> Intervals:
        """The part in [start, end)."""
        first = int(np.searchsorted(self.ends, start, "right"))
        last = int(np.searchsorted(self.starts, end, "left"))
        return Intervals(np.maximum(self.starts[first:last], start), np.minimum(self.ends[first:last], end))


def union(starts: Times, ends: Times) -> Intervals:
    """The set that intervals cover which may overlap and come in any order; empty ones are left out."""
    keep = ends > starts
    starts, ends = starts[keep], ends[keep]
    if not len(starts):
        return Intervals(starts.astype(np.int64), ends.astype(np.int64))
    order = np.argsort(starts, kind="stable")
    starts, reach = starts[order], np.maximum.accumulate(ends[order])
    first = np.concatenate((np.array([True]), starts[1:] > reach[:-1]))
    last = np.concatenate((first[1:], np.array([True])))
    return Intervals(starts[first], reach[last])
