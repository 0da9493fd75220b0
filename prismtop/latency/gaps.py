"""The time between batches: stalls while requests wait, and throughput that is lost there.

A stage can only be slow while a batch runs; an engine that stands still between two batches, or is a little
late for each, has normal step times and serves less.
"""

from __future__ import annotations

import math

from prismtop.latency.detector import SPIKE, Detector, Finding
from prismtop.latency.levels import Level
from prismtop.latency.sensitivity import Sensitivity
from prismtop.model import Batch

LEAST_STALL_NS = 10_000_000
"""What a stall must take beyond the usual gap before it is worth a word."""
LEAST_LOSS_NS = 500_000
"""The same for the gaps of many batches, each; together they must have lost as much as a stall."""
MAX_GAP_NS = 3_600 * 10**9
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


class Gaps:
    """The gaps of one engine process."""

    def __init__(self, sensitivity: Sensitivity) -> None:
        self.detector = Detector(sensitivity)
        self._level = Level()
        self._step = 0
        self._lost_ns = 0

    def take(self, batch: Batch, expected_ns: float) -> tuple[Finding, int]:
        """The finding about the gap before `batch`, and the time lost in it beyond the usual.

        Its gap is that of `gap_before`.
        """
        gap = gap_before(batch)
        if gap is None or expected_ns <= 0:
            return _NOTHING, 0
        self._step += 1
        level, detector = self._level, self.detector
        level.last = self._step
        loss = math.log((expected_ns + gap) / expected_ns)
        x = loss - level.fast
        lost_ns = int(gap - expected_ns * math.expm1(max(0.0, level.fast)))
        finding = detector.judge(x, loss - level.anchor, level.rows >= 20)
        self._lost_ns = self._lost_ns + lost_ns if lost_ns >= LEAST_LOSS_NS else 0
        least = LEAST_STALL_NS if finding.rule == SPIKE else LEAST_LOSS_NS
        detector.learn(x, finding)
        if not finding.rule:
            level.learn(loss, 0.1 if finding.flag or detector.sustained else 1.0)
        if finding.rule and (lost_ns < least or self._lost_ns < LEAST_STALL_NS):
            finding = Finding(finding.flag, "")
        return finding, lost_ns

    def restart(self) -> None:
        """The engine is another: learn the usual gap again."""
        self.detector.shifted()
        self._level.learnt = 0
