"""A kept model held against the first batches of an engine, and scaled until it fits."""

from __future__ import annotations

from typing import NamedTuple

ROUNDS = (8, 16, 32, 32)
"""Batches of each round. The first of a process that has just begun are slow (cold caches, clocks that rise):
what does not hold is scaled, and looked at again.
"""
HOLDS = 0.05
"""A kept model that is off by no more than this (log ratio) is taken as it is."""
KEPT = "kept from an earlier session; the first batches check it"
FOREIGN = "kept from another engine; the first batches scale it to this one"


class Step(NamedTuple):
    """The end of a round.

    Attributes:
        by: log ratio to scale the model by; 0 when it holds.
        last: whether no round follows.
    """

    by: float
    last: bool


class Calibration:
    """State of it.

    Args:
        exact: whether the model is of this very engine, by its key.

    Attributes:
        scaled: log ratio that the model was scaled by so far.
    """

    def __init__(self, *, exact: bool) -> None:
        self.exact = exact
        self.scaled = 0.0
        self._round = 0
        self._residuals: list[float] = []

    @property
    def reason(self) -> str:
        """Why the model is not relied on yet."""
        return KEPT if self.exact else FOREIGN

    def take(self, residual: float) -> Step | None:
        """Take one batch's residual (log of actual over expected); None before the end of a round."""
        self._residuals.append(residual)
        if len(self._residuals) < ROUNDS[self._round]:
            return None
        middle = sorted(self._residuals)[len(self._residuals) // 2]
        self._residuals = []
        self._round += 1
        if abs(middle) <= HOLDS:
            return Step(0.0, last=True)
        self.scaled += middle
        return Step(middle, last=self._round == len(ROUNDS))
