"""Batches with prefill that are slow beyond anything their model could be wrong by."""

from __future__ import annotations

import math

from prismtop.latency.features import Features

GROSS, GROSS_NS = math.log(5.0), 100_000_000
"""A batch with prefill whose shape is not larger than what was learnt is grossly slow beyond this (log ratio,
and time), however little its model is trusted: no kernel jumps that far. Two in a row are an alert.
"""
GROSS_ROWS, GROSS_MOST = 30, 50
"""Rows before such a thing can be said, and batches in a row after which it is believed to be normal."""


class GrossWatch:
    """Counts them.

    Attributes:
        count: how many there were in a row; 0 once there were so many that they are believed to be normal.
    """

    def __init__(self) -> None:
        self.count = 0
        self._row = 0
        self._largest = (0.0, 0.0, 0.0)

    def note(self, x: float, excess_ns: float, features: Features | None, rows: int) -> None:
        """Take one batch.

        Args:
            x, excess_ns: log ratio and time beyond what was expected.
            rows: batches that its model has learnt from; 0 while it relearns.
        """
        self._row = self._row + 1 if self._is_gross(x, excess_ns, features, rows) else 0
        self.count = self._row if self._row <= GROSS_MOST else 0

    def _is_gross(self, x: float, excess_ns: float, features: Features | None, rows: int) -> bool:
        if features is None or x < GROSS or excess_ns < GROSS_NS:
            return False
        if rows < GROSS_ROWS:
            return False
        return all(now <= most for now, most in zip(_shape(features), self._largest, strict=True))

    def learn(self, features: Features) -> None:
        """Take the shape of a batch whose time is known to be usual."""
        if features.carries_prefill and not self.count:
            prefill, size, attention = map(max, self._largest, _shape(features))
            self._largest = prefill, size, attention


def _shape(features: Features) -> tuple[float, float, float]:
    """What a batch with prefill can be larger in than others."""
    return float(features.prefill or 0), float(features.size or 0), features.attention
