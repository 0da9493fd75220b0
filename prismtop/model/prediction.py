"""`Prediction`: what a batch should have cost; `ModelCard`: how far the model that says so can be trusted."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from prismtop.model.construct import by_keyword


class ModelState(str, Enum):
    """LEARNING: too few batches yet. STALE: the engine changed and the model is relearning."""

    LEARNING = "learning"
    READY = "ready"
    STALE = "stale"


class Verdict(str, Enum):
    """One batch against its prediction. UNKNOWN: there is no prediction to hold it against."""

    OK = "ok"
    SLOW = "slow"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Prediction:
    """What one batch should have cost, said before it was learnt from.

    Attributes:
        expected_ns: point prediction of what is judged, which is `basis`.
        low_ns, high_ns: interval that holds all but about 1 in 100 undisturbed batches.
        state: of the model that gave it.
        verdict: the flag that colours the batch.
        basis: `duration` or, under overlapped scheduling, `period`.
    """

    expected_ns: int
    low_ns: int
    high_ns: int
    state: ModelState = ModelState.READY
    verdict: Verdict = Verdict.OK
    basis: str = "duration"


new_prediction = by_keyword(Prediction)


@dataclass(frozen=True)
class ModelCard:
    """The latency model in numbers, for a screen and for `analyze`.

    Attributes:
        state: learning, ready or stale.
        reason: why it is learning or stale; empty when it is ready.
        features: names of the features in use.
        missing: features that this engine does not expose.
        trained: batches learnt from.
        rejected: batches seen and not learnt from.
        median_ape, p95_ape: absolute percentage error of recent undisturbed predictions, in percent; None
            before there are any.
        within_10pct: share of those within 10 %, 0 to 1.
        decode_median_ape: the same for decode batches only.
        drift_pct: present level against the frozen reference, in percent.
        last_refit_ns: CLOCK_MONOTONIC of the last refit; None before the first.
        origin: `fresh`, `restored` or `calibrated` from another key's state.
        sensitivity: of the detector.
        false_alerts_per_h: expected at that sensitivity; None when unknown.
        regimes: what is modelled apart (`decode`, `mixed`, ...).
    """

    state: ModelState
    reason: str = ""
    features: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    trained: int = 0
    rejected: int = 0
    median_ape: float | None = None
    p95_ape: float | None = None
    within_10pct: float | None = None
    decode_median_ape: float | None = None
    drift_pct: float | None = None
    last_refit_ns: int | None = None
    origin: str = "fresh"
    sensitivity: str = "normal"
    false_alerts_per_h: float | None = None
    regimes: tuple[str, ...] = ()
