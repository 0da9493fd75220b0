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
YOUNG_BUCKET_ROWS = 30
"""Batches of a bucket that count fully, whatever they say: nothing better is known."""
MEET_ROWS = 8
"""Batches after which the level of a bucket that was met anew is known again."""
MEET_SLACK = 0.04
NEW_SLACK = 0.15
FARTHER = 1.5
"""Beyond so many times the largest size that was learnt, what a batch costs is a guess until such were met
often enough.
"""


class Reach:
    """How large the batches that were met are: the largest size that enough of them had."""

    def __init__(self) -> None:
        self._largest = self._larger = self._next = 0

    def beyond(self, size: int | None) -> bool:
        """Whether a batch is larger."""
        return (size or 0) > self._largest

    def met(self, size: int | None) -> None:
        """Take a batch; after `BUCKET_ROWS` that are larger, theirs is known."""
        if not self.beyond(size):
            return
        self._larger += 1
        self._next = max(self._next, size or 0)
        if self._larger >= BUCKET_ROWS:
            self._largest, self._larger, self._next = self._next, 0, 0


class Level:
    """State of one bucket; logarithms of ratios.

    Attributes:
        fast: present level.
        anchor: reference for drift.
        rows: learnt from, ever.
        visits: batches since the bucket was met (anew).
        learnt: of those, learnt from.
        reach: log ratio of the bucket's size to the largest that was known when it was first met, if it was
            far larger, else 0: a batch may cost as much more as it is larger, and nothing learnt says if so.
    """

    __slots__ = ("anchor", "fast", "last", "learnt", "reach", "rows", "visits")

    def __init__(self, fast: float = 0.0, rows: int = 0) -> None:
        self.fast = fast
        self.anchor = fast
        self.rows = rows
        self.visits = 0
        self.learnt = 0
        self.last = 0
        self.reach = 0.0

    @property
    def unknown(self) -> bool:
        """Whether it is far larger than what was known, and too few of its batches were seen to tell."""
        return self.reach > 0.0 and self.rows < BUCKET_ROWS

    @property
    def slack(self) -> float:
        """How far a bucket that was just met (anew) may lie off, beyond the noise."""
        if self.learnt >= MEET_ROWS and self.rows >= BUCKET_ROWS:
            return 0.0
        slack = MEET_SLACK / (1 + self.learnt)
        return slack if self.rows >= BUCKET_ROWS else slack + NEW_SLACK / (1 + self.rows) + self.reach

    def visit(self, step: int) -> bool:
        """Note a batch; True when the bucket is met anew."""
        anew = step - self.last > REENTRY
        if anew:
            self.visits = self.learnt = 0
        self.last = step
        self.visits += 1
        return anew

    def pass_on(self) -> None:
        """Count a batch that the regression alone learns from: both would each learn all of what is new."""
        self.rows += 1
        self.learnt += 1

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
