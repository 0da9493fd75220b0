"""A part of a deep capture (`deep.py`): how many batches of the window have operators."""

from __future__ import annotations

import time
from typing import Any

LEAST, KEPT = 4, 32  # batches that a quartile is of
MOST = 0.3  # a larger cost is not theirs: threads that spin while they wait have any CPU time
RUN = 4  # batches with operators, or without, in a row: a batch after one of the others finds cold caches
LONG_NS = 4_000_000  # CPU time of a batch beside which cold caches are nothing, and two tell enough
LONG_LEAST, LONG_RUN = 2, 1
LONG_BUDGET = 0.015  # theirs only: batches without them that follow take 1 to 2 % longer too


class Share:
    """Which batches of the window have operators: as many as a budget allows, spread in runs. An operator
    costs about 0.3 us, which is nothing beside a kernel and a fifth of a batch of tiny ones. What a batch
    costs is CPU time of the model thread, compared with batches before the window, and then with those left
    out. Where batches are long the budget is smaller, and fewer are risked before the cost is known: what the
    profiler allocates between large tensors can have malloc give these back to the kernel with every batch
    (+45 % was seen).
    """

    def __init__(self, before: Any, budget: Any) -> None:
        self.budget, self.least, self.run = budget, LEAST, RUN
        self.used = 0
        self.before = [later - earlier for earlier, later in zip(before, before[1:])]
        if self.before and quarter(self.before) >= LONG_NS:
            self.budget, self.least, self.run = min(budget, LONG_BUDGET), LONG_LEAST, LONG_RUN
        self.took: Any = ([], [])  # of batches without operators, and with them
        self.seen = self.recorded = self.left = 0

    def begin(self) -> Any:
        self.used = time.thread_time_ns()

    def compared(self) -> Any:
        without, recorded = self.took
        return self.before + without if len(without) < LEAST else without, recorded

    def known(self) -> Any:
        return min(map(len, self.compared())) >= self.least

    def cost(self) -> Any:
        """How much longer a batch with operators takes than one without, 0.2 is a fifth; 0 while unknown."""
        without, recorded = self.compared()
        if not self.known():
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
        self.left = self.run
        return (self.recorded + 1) * self.at_most() <= self.budget * (self.seen + 1)


def middle(values: Any) -> Any:
    return sorted(values)[len(values) // 2]


def quarter(values: Any) -> Any:
    """The lower quartile: what other processes disturb is longer, and prefills are."""
    return sorted(values)[len(values) // 4]
