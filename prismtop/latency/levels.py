"""How far one bucket of batches lies from the regression: a fast level, and an anchor that hardly moves.

The fast level makes predictions accurate (shared/latency-model.md A4: 1.1 % -> 0.7 % MAPE). Drift is judged
against the anchor: a level that follows within ten batches would follow an anomaly too.
"""

from __future__ import annotations

FAST = 0.1
SLOW = 0.002
CLIP = 0.1
LIMIT = 0.5
ANCHOR_ROWS = 20
REENTRY = 400
"""Batches of the regime after which a bucket counts as met anew: its mix of contexts is another by then."""
BUCKET_ROWS = 20
"""Batches after which a bucket that was never met before is known."""
MEET_ROWS = 8
"""Batches after which the level of a bucket that was met anew is known again."""
MEET_SLACK = 0.04
NEW_SLACK = 0.15


class Level:
    """State of one bucket; logarithms of ratios.

    Attributes:
        fast: present level.
        anchor: reference for drift.
        rows: learnt from, ever.
        visits: batches since the bucket was met (anew).
        learnt: of those, learnt from.
    """

    __slots__ = ("anchor", "fast", "last", "learnt", "rows", "visits")

    def __init__(self, fast: float = 0.0, rows: int = 0) -> None:
        self.fast = fast
        self.anchor = fast
        self.rows = rows
        self.visits = 0
        self.learnt = 0
        self.last = 0

    @property
    def slack(self) -> float:
        """How far a bucket that was just met (anew) may lie off, beyond the noise."""
        if self.learnt >= MEET_ROWS and self.rows >= BUCKET_ROWS:
            return 0.0
        slack = MEET_SLACK / (1 + self.learnt)
        return slack if self.rows >= BUCKET_ROWS else slack + NEW_SLACK / (1 + self.rows)

    def visit(self, step: int) -> bool:
        """Note a batch; True when the bucket is met anew."""
        anew = step - self.last > REENTRY
        if anew:
            self.visits = self.learnt = 0
        self.last = step
        self.visits += 1
        return anew

    def learn(self, residual: float, weight: float) -> None:
        """Follow `residual` (log of actual over regression).

        Args:
            weight: 0 to 1; 1 for a batch that is not in doubt.
        """
        gap = residual - self.fast
        gap = CLIP if gap > CLIP else -CLIP if gap < -CLIP else gap
        rate = 1.0 / (self.learnt + 2)
        fast = self.fast + (rate if rate > FAST else FAST) * weight * gap
        self.fast = LIMIT if fast > LIMIT else -LIMIT if fast < -LIMIT else fast
        gap = residual - self.anchor
        gap = CLIP if gap > CLIP else -CLIP if gap < -CLIP else gap
        self.anchor += (rate if self.learnt < ANCHOR_ROWS else SLOW) * weight * gap
        self.rows += 1
        self.learnt += 1
