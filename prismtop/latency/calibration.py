"""A kept model held against the first batches of an engine, and scaled where it does not fit."""

from __future__ import annotations

from math import sqrt
from statistics import median
from typing import NamedTuple

ROWS = 8
"""Batches that it is held against. The first of a process that has just begun are slow (cold caches, clocks
that rise): a model that was scaled by them learns on before it is relied on.
"""
HOLDS, MAY_HOLD = 0.05, 0.15
"""A kept model that is off by no more than this (log ratio) is taken as it is; by no more than the second
where its batches vary so much that it may not be off at all.
"""
CHANCE = 2.0
"""Standard errors of a median that chance explains."""
NORMAL, OF_MEDIAN = 1.4826, 1.2533
"""Standard deviation over median absolute deviation, and standard error of a median over that of a mean, both
of a normal distribution.
"""
KEPT = "kept from an earlier session; the first batches check it"
FOREIGN = "kept from another engine; the first batches scale it to this one"


class Result(NamedTuple):
    """What the first batches say of a kept model.

    Attributes:
        by: log ratio to scale it by; 0 when it holds.
        residuals: log of actual over expected, of each batch.
        spread: their standard deviation (robust).
    """

    by: float
    residuals: tuple[float, ...]
    spread: float

    @property
    def holds(self) -> bool:
        """Whether the model may be taken as it is."""
        return self.by == 0.0


class Calibration:
    """State of it.

    Args:
        exact: whether the model is of this very engine, by its key.
    """

    def __init__(self, *, exact: bool) -> None:
        self.exact = exact
        self._residuals: list[float] = []

    @property
    def reason(self) -> str:
        """Why the model is not relied on yet."""
        return KEPT if self.exact else FOREIGN

    def take(self, residual: float) -> Result | None:
        """Take one batch's residual (log of actual over expected); None before there are enough."""
        self._residuals.append(residual)
        if len(self._residuals) < ROWS:
            return None
        residuals = tuple(self._residuals)
        middle = median(residuals)
        spread = NORMAL * median(abs(residual - middle) for residual in residuals)
        chance = CHANCE * OF_MEDIAN * spread / sqrt(len(residuals))
        holds = abs(middle) <= min(max(HOLDS, chance), MAY_HOLD)
        return Result(0.0 if holds else middle, residuals, spread)
