"""A part of a deep capture (`deep.py`): how many batches of the window have operators."""

from __future__ import annotations

import time
from typing import Any

LEAST, KEPT = 4, 32  # batches that a quartile is of
MOST = 0.3  # a larger cost is not theirs: threads that spin while they wait have any CPU time
RUN = 4  # batches with operators, or without, in a row: a batch after one of the others finds cold caches


class Share:
    """Which batches of the window have operators: as many as a budget allows, spread in runs. An operator
    costs about 0.3 us, which is nothing beside a kernel and a fifth of a batch of tiny ones. What a batch
    costs is CPU time of the model thread, compared with batches before the window, and then with those left
    out.
    """

    def __init__(self, before: Any, budget: Any) -> None:
        self.budget = budget
        self.used = 0
        self.before = [later - earlier for earlier, later in zip(before, before[1:])]
        self.took: Any = ([], [])  # of batches without operators, and with them
        self.seen = self.recorded = self.left = 0

    def begin(self) -> Any:
        self.used = time.thread_time_ns()

    def compared(self) -> Any:
        without, recorded = self.took
        return self.before + without if len(without) < LEAST else without, recorded

    def cost(self) -> Any:
        """How much longer a batch with operators takes than one without, 0.2 is a fifth; 0 while unknown."""
        without, recorded = self.compared()
        if min(len(without), len(recorded)) < LEAST:
            return 0.0
        return quarter(recorded) / max(1, quarter(without)) - 1

    def doubt(self) -> Any:
        """By how much that may be too little: batches that differ, or are disturbed, tell less."""
        spread = sum(
            ((middle(each) / max(1, quarter(each)) - 1) ** 2 / len(each)) for each in self.compared()
        )
        return spread**0.5

    def at_most(self) -> Any:
        cost = self.cost()
        return min(cost + self.doubt(), MOST) if cost else 0.0

    def batch(self, recording: Any) -> Any:
        """At the end of a batch with or without operators; whether the next one has them."""
        used = time.thread_time_ns()
        took = self.took[recording]
        if self.seen:  # the first one has the profiler's start in it
            took.append(used - self.used)
            del took[:-KEPT]
        self.used = used
        self.seen += 1
        self.recorded += recording
        self.left -= 1
        if self.left > 0:
            return recording
        self.left = RUN
        return (self.recorded + 1) * self.at_most() <= self.budget * (self.seen + 1)


def middle(values: Any) -> Any:
    return sorted(values)[len(values) // 2]


def quarter(values: Any) -> Any:
    """The lower quartile: what other processes disturb is longer, and prefills are."""
    return sorted(values)[len(values) // 4]
