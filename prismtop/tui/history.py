"""Predicted and actual cost by the second: what the strip draws."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from prismtop.model import Batch
from prismtop.tui.fields import is_slow, judged_ns

BUCKET_NS = 1_000_000_000
BUCKETS = 2400
REWIND_NS = BUCKET_NS // 2
"""So much further back than the newest batch is a replay that was rewound."""


@dataclass
class Bucket:
    """One second of batches, by their end.

    Attributes:
        index: of the second, on the batches' clock.
        batches: that ended in it.
        judged: of these, those that have a prediction.
        slow: of these, those that took longer than their workload explains.
        actual_ns, expected_ns, low_ns, high_ns: sums over the judged ones.
        all_ns: sum of the durations of all.
    """

    index: int
    batches: int = 0
    judged: int = 0
    slow: int = 0
    actual_ns: int = 0
    expected_ns: int = 0
    low_ns: int = 0
    high_ns: int = 0
    all_ns: int = 0


class StepHistory:
    """Adds batches up by the second, forty minutes back."""

    def __init__(self) -> None:
        self._buckets: deque[Bucket] = deque(maxlen=BUCKETS)
        self._newest_ns = 0

    def add(self, batches: Iterable[Batch]) -> None:
        """Take new batches in order of time; a jump back (a rewound replay) drops what came after."""
        for batch in batches:
            index = batch.end_ns // BUCKET_NS
            if batch.end_ns < self._newest_ns - REWIND_NS:
                while self._buckets and self._buckets[-1].index >= index:
                    self._buckets.pop()
                self._newest_ns = batch.end_ns
            self._newest_ns = max(self._newest_ns, batch.end_ns)
            bucket = self._bucket(index)
            bucket.batches += 1
            bucket.all_ns += batch.duration_ns
            judged = judged_ns(batch)
            if batch.prediction is None or judged is None:
                continue
            bucket.judged += 1
            bucket.slow += is_slow(batch)
            bucket.actual_ns += judged
            bucket.expected_ns += batch.prediction.expected_ns
            bucket.low_ns += batch.prediction.low_ns
            bucket.high_ns += batch.prediction.high_ns

    def _bucket(self, index: int) -> Bucket:
        buckets = self._buckets
        # Batches of several ranks may end in another order than they came, by a little.
        if buckets and index <= buckets[-1].index:
            return buckets[-2] if index < buckets[-1].index and len(buckets) > 1 else buckets[-1]
        buckets.append(Bucket(index))
        return buckets[-1]

    @property
    def first(self) -> int | None:
        """Index of the oldest second kept; None without any."""
        return self._buckets[0].index if self._buckets else None

    def between(self, first: int, end: int) -> dict[int, Bucket]:
        """The buckets with `first` <= index < `end`, by index."""
        found: dict[int, Bucket] = {}
        for bucket in reversed(self._buckets):
            if bucket.index < first:
                break
            if bucket.index < end:
                found[bucket.index] = bucket
        return found
