"""What a capture cost, from the batches before, in and after its window, at comparable work."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from math import sqrt
from statistics import fmean, median

from prismtop.model import Batch, Mode, ModelState

LEAST = 5
"""Batches that a median is taken of at least."""
TESTED = 20
"""Batches on either side that a test needs."""
LEAST_SHIFT = 0.03
"""A smaller shift of the median is not called a slowdown."""
LEAST_Z = 3.09
"""One-sided 0.1 %: the normal approximation of Mann-Whitney's U."""


def cost_ns(batch: Batch) -> int | None:
    """What a batch took of the engine's time: start to start while it was busy; None after an idle gap."""
    return batch.period_ns or None


def within(batches: Iterable[Batch], start_ns: int, end_ns: int) -> tuple[Batch, ...]:
    """Batches whose whole cost lies in the interval."""
    return tuple(
        batch
        for batch in batches
        if batch.end_ns <= end_ns and batch.end_ns - (cost_ns(batch) or batch.duration_ns) >= start_ns
    )


def comparable(*groups: Sequence[Batch]) -> tuple[tuple[Batch, ...], ...]:
    """Of every group the batches that do the same kind of work: the mode that most of the first group has,
    and its batch sizes where every group has enough of those.
    """
    modes = Counter(batch.mode for batch in groups[0] if cost_ns(batch) and batch.mode is not Mode.IDLE)
    if not modes:
        return tuple(() for _ in groups)
    mode = modes.most_common(1)[0][0]
    alike = [tuple(b for b in group if b.mode is mode and cost_ns(b)) for group in groups]
    sizes = {batch.workload.batch_size for batch in alike[0]}
    same = [tuple(b for b in group if b.workload.batch_size in sizes) for group in alike]
    return tuple(same if all(len(group) >= LEAST for group in same) else alike)


def mean_ms(batches: Sequence[Batch]) -> float | None:
    """Mean cost without the twentieth at either end; None of too few. In a window some batches have operators
    and some have not: the median would be that of one kind.
    """
    costs = sorted(cost for batch in batches if (cost := cost_ns(batch)))
    cut = len(costs) // 20
    return fmean(costs[cut : len(costs) - cut]) / 1e6 if len(costs) >= LEAST else None


def slower(before: Sequence[Batch], after: Sequence[Batch]) -> bool | None:
    """Whether batches cost measurably more afterwards; None when it cannot be told.

    What is compared is the cost over the expected cost where every batch has an expectation, else the cost.
    Not slower is a median that has shifted by `LEAST_SHIFT` at most. Slower is a larger shift which is above
    twice what the median of `before` shifts by itself from its first half to its second (batches that follow
    each other are alike, so that a rank test alone finds something in any load), and which Mann-Whitney's
    test (with ties) finds at 0.1 % as well. Anything between is neither, as are too few batches.
    """
    expected = all(_expected(batch) for batch in (*before, *after))
    old, new = _values(before, expected), _values(after, expected)
    if len(old) < TESTED or len(new) < TESTED:
        return None
    half = len(old) // 2
    own = abs(median(old[half:]) / median(old[:half]) - 1)
    shift = median(new) / median(old) - 1
    if shift <= LEAST_SHIFT:
        return False
    return True if shift > 2 * own and mann_whitney_z(old, new) > LEAST_Z else None


def _expected(batch: Batch) -> int:
    made = batch.prediction
    return made.expected_ns if made is not None and made.state is ModelState.READY else 0


def _values(batches: Sequence[Batch], expected: bool) -> list[float]:
    if not expected:
        return [float(cost) for batch in batches if (cost := cost_ns(batch))]
    return [(batch.judged_ns or cost) / _expected(batch) for batch in batches if (cost := cost_ns(batch))]


def mann_whitney_z(before: Sequence[float], after: Sequence[float]) -> float:
    """Standard score of Mann and Whitney's U for `after` being larger (1947; ties by mid-ranks)."""
    n, m = len(before), len(after)
    values = sorted([(value, 0) for value in before] + [(value, 1) for value in after])
    total = n + m
    ranks = ties = 0.0
    first = 0
    while first < total:
        last = first
        while last + 1 < total and values[last + 1][0] == values[first][0]:
            last += 1
        count = last - first + 1
        ties += count**3 - count
        ranks += (first + last + 2) / 2 * sum(values[i][1] for i in range(first, last + 1))
        first = last + 1
    u = ranks - m * (m + 1) / 2
    spread = n * m / 12 * (total + 1 - ties / (total * (total - 1)))
    return (u - n * m / 2) / sqrt(spread) if spread > 0 else 0.0
