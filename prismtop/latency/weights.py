"""How much a batch counts for the model of its regime."""

from __future__ import annotations

from prismtop.latency.detector import Detector, Finding
from prismtop.latency.levels import MEET_ROWS, YOUNG_BUCKET_ROWS, Level

GATE = 0.08
"""Residuals beyond this (or six spreads) are learnt from only a little."""
DOUBT = 0.1
SLOW_SPREADS, LESS = 3.0, 0.2
"""Beyond so many spreads a batch is not flagged yet, and weighs so much: the level must not run after it."""
MEET_GATE = 0.08
"""How far a bucket that was met anew may lie off and be taken for what it is, not for an anomaly."""
FAR_YOUNG, FAR_STALE = 0.7, 1.5
"""Residuals that are in doubt even while nothing is known of the noise, and while the model relearns."""


def gate_of(detector: Detector) -> float:
    """The residual beyond which a batch is in doubt."""
    return max(GATE, 6 * detector.spread)


def weight_of(
    detector: Detector, finding: Finding, x: float, level: Level, *, stale: bool, frozen: bool, trees: bool
) -> float:
    """Nothing in an episode or as a spike, a little in doubt, else fully; also when the batch is far larger
    than what was known, where the model can only learn what it is told.

    A shift below what wakes people is followed slowly, so that a bias of the model goes away while an anomaly
    of some dozens of batches does not.

    Args:
        x: the batch's residual.
        stale: the model relearns.
        frozen: a shift or drift has just fired.
        trees: of a model whose word is not to be trusted yet for everything: trees for batches with prefill.
    """
    if not detector.ready:
        return 1.0 if abs(x) < FAR_YOUNG else DOUBT
    if stale:
        return 1.0 if abs(x) < FAR_STALE else DOUBT
    if level.unknown:
        return 0.0 if finding.rule else 1.0
    if frozen or finding.rule:
        return 0.0
    if trees:
        return 1.0  # a prompt of a size not met before is no anomaly
    if level.learnt < MEET_ROWS and abs(x) < max(MEET_GATE, 6 * detector.spread):
        return 1.0
    if abs(x) > gate_of(detector):
        return DOUBT
    if level.learnt < MEET_ROWS or level.rows < YOUNG_BUCKET_ROWS:
        return 1.0
    if finding.flag or detector.sustained:
        return DOUBT
    return LESS if x > SLOW_SPREADS * detector.spread else 1.0
