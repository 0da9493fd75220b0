"""The time between batches: stalls while requests wait, and throughput that is lost there.

A stage can only be slow while a batch runs; an engine that stands still between two batches, or is a little
late for each, has normal step times and serves less.
"""

from __future__ import annotations

import math
from collections import deque

from prismtop.latency.detector import DRIFT, SHIFT, SPIKE, Detector, Finding
from prismtop.latency.levels import ANCHOR_ROWS, BUCKET_ROWS, CLIP, FAST, SLOW
from prismtop.latency.sensitivity import Sensitivity
from prismtop.model import Batch

LEAST_STALL_NS = 10_000_000
"""What a stall must take beyond the usual gap before it is worth a word."""
LEAST_LOSS_NS = 500_000
"""The same for the gaps of many batches, each; together they must have lost as much as a stall."""
MAX_GAP_NS = 3_600 * 10**9
ACCEPT_BATCHES, ACCEPT_NS = 600, 120 * 10**9
"""A loss that lasted this long, in batches and in time, is the usual gap from then on."""
RECENT = 40
_NOTHING = Finding(False, "")


def gap_before(batch: Batch) -> int | None:
    """Time in ns that was lost before a batch: its period less its duration and less what the engine had
    nothing to do. None when it cannot be told.

    A batch in which every request is new may follow a time without any: unless the engine's wait for
    requests was measured, nobody knows how long somebody waited. Where a request was there before, somebody
    did.
    """
    if batch.period_ns is None:
        return None
    work = batch.workload
    if not batch.idle_ns and work.new_requests and work.new_requests == work.batch_size:
        return None
    gap = batch.period_ns - batch.duration_ns - batch.idle_ns
    return gap if 0 <= gap <= MAX_GAP_NS else None


class _Usual:
    """The usual gap in ns: a level that follows within ten batches, and an anchor that hardly moves.

    In ns, not as a share of the step: what an engine does between two batches does not get longer with them.
    """

    def __init__(self) -> None:
        self.fast = self.anchor = 0.0
        self.rows = self.learnt = 0

    def learn(self, gap_ns: float, step_ns: float, weight: float) -> None:
        """Follow a gap, by no more than a tenth of the step beside it."""
        most = CLIP * step_ns
        rate = max(FAST, 1.0 / (self.learnt + 2)) if self.rows else 1.0
        self.fast += rate * weight * min(max(gap_ns - self.fast, -most), most)
        rate = max(SLOW, 1.0 / (self.rows + 1)) if self.rows < ANCHOR_ROWS else SLOW
        self.anchor += rate * weight * min(max(gap_ns - self.anchor, -most), most)
        self.rows += 1
        self.learnt += 1


class Gaps:
    """The gaps of one engine process."""

    def __init__(self, sensitivity: Sensitivity) -> None:
        self.detector = Detector(sensitivity)
        self._usual = _Usual()
        self._lost_ns = 0
        self._recent: deque[int] = deque(maxlen=RECENT)
        self._firing = 0.0
        self._since_ns: int | None = None

    def take(self, batch: Batch, expected_ns: float) -> tuple[Finding, int]:
        """The finding about the gap before `batch`, and the time lost in it beyond the usual.

        Its gap is that of `gap_before`.
        """
        gap = gap_before(batch)
        if gap is None or expected_ns <= 0:
            return _NOTHING, 0
        usual, detector = self._usual, self.detector
        x = math.log((expected_ns + gap) / (expected_ns + usual.fast))
        against_anchor = math.log((expected_ns + gap) / (expected_ns + usual.anchor))
        lost_ns = int(gap - usual.fast)
        finding = detector.judge(x, against_anchor, usual.rows >= BUCKET_ROWS)
        self._lost_ns = self._lost_ns + lost_ns if lost_ns >= LEAST_LOSS_NS else 0
        least = LEAST_STALL_NS if finding.rule == SPIKE else LEAST_LOSS_NS
        detector.learn(x, finding)
        if not finding.rule:
            usual.learn(gap, expected_ns, 0.1 if finding.flag or detector.sustained else 1.0)
        self._recent.append(gap)
        self._count(finding, batch.end_ns)
        if finding.rule and (lost_ns < least or self._lost_ns < LEAST_STALL_NS):
            finding = Finding(finding.flag, "")
        return finding, lost_ns

    def _count(self, finding: Finding, now_ns: int) -> None:
        if finding.rule in (SHIFT, DRIFT):
            self._firing += 1.0
            self._since_ns = self._since_ns or now_ns
        else:
            self._firing = max(0.0, self._firing - 0.25)
            if self._firing == 0.0:
                self._since_ns = None

    def reconsider(self, now_ns: int) -> str:
        """Whether what looks like a loss has become the usual gap; says why, empty when nothing changed."""
        if self._since_ns is None or self._firing < ACCEPT_BATCHES or now_ns - self._since_ns < ACCEPT_NS:
            return ""
        usual = sorted(self._recent)[len(self._recent) // 2]
        reason = f"{usual / 1e6:.1f} ms between batches for {int(self._firing)} of them: taken as the usual"
        self._usual.fast = self._usual.anchor = usual
        self._firing, self._since_ns, self._lost_ns = 0.0, None, 0
        self.restart()
        return reason

    def restart(self) -> None:
        """The engine is another: learn the usual gap again."""
        self.detector.shifted()
        self._usual.learnt = 0
