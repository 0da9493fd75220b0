"""The model card: what the latency model knows, how well it does, and why it does not know more."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from prismtop.latency.decode import DecodeModel
from prismtop.latency.engine import EngineJudge
from prismtop.latency.features import DECODE_FEATURES, MIXED_FEATURES
from prismtop.latency.mixed import MixedModel
from prismtop.latency.regime import WARM_ROWS, Regime
from prismtop.latency.ridge import Vector
from prismtop.latency.sensitivity import Sensitivity
from prismtop.model import ModelCard, ModelState

TREELESS = "batches with prefill are predicted, but raise no alert until nearly all of them fit"


def card_of(engines: Sequence[EngineJudge], sense: Sensitivity, origin: str = "fresh") -> ModelCard:
    """One card for all processes of a group: the fit over all, the state of the most used regime."""
    regimes = [regime for engine in engines for regime in engine.regimes.values()]
    if not regimes:
        return ModelCard(ModelState.LEARNING, _why_nothing(engines), origin=origin, sensitivity=sense.name)
    main = max(regimes, key=lambda regime: regime.trained)
    plain = [regime for regime in regimes if isinstance(regime.model, DecodeModel)]
    decode = _errors(plain)
    errors = decode if len(plain) == len(regimes) else _errors(regimes)
    rates = [regime.detector.expected_false_alerts() for regime in regimes if regime.alerting]
    rates += [engine.gaps.detector.expected_false_alerts() for engine in engines]
    known = [rate for rate in rates if rate is not None]
    features = dict.fromkeys(
        name
        for regime in regimes
        for name in (MIXED_FEATURES if isinstance(regime.model, MixedModel) else DECODE_FEATURES)
    )
    missing = dict.fromkeys(name for regime in regimes for name in _missing(regime))
    refits = [regime.refit_ns for regime in regimes if regime.refit_ns is not None]
    return ModelCard(
        state=main.state,
        reason=_reason(main, regimes),
        features=tuple(name for name in features if name not in missing),
        missing=tuple(missing),
        trained=sum(regime.trained for regime in regimes),
        rejected=sum(regime.rejected for regime in regimes)
        + sum(sum(engine.unusable.values()) for engine in engines),
        median_ape=_percent(errors, 0.5),
        p95_ape=_percent(errors, 0.95),
        within_10pct=_share_within(errors, 0.1),
        decode_median_ape=_percent(decode, 0.5),
        drift_pct=100 * math.expm1(main.moved + main.drift) if main.detector.ready else None,
        last_refit_ns=max(refits, default=None),
        origin=origin,
        sensitivity=sense.name,
        false_alerts_per_h=round(sum(known), 3) if known else None,
        regimes=tuple(sorted({regime.name for regime in regimes})),
    )


def _reason(main: Regime, regimes: Sequence[Regime]) -> str:
    if main.stale:
        return main.stale
    if main.state is ModelState.LEARNING:
        return f"{main.trained} of {WARM_ROWS} batches of {main.name} seen"
    if any(isinstance(r.model, MixedModel) and not r.alerting and not r.stale for r in regimes):
        return TREELESS
    return ""


def _why_nothing(engines: Sequence[EngineJudge]) -> str:
    reasons = {reason for engine in engines for reason in engine.unusable}
    return "; ".join(sorted(reasons)) or "no batch yet"


def _missing(regime: Regime) -> tuple[str, ...]:
    missing = []
    if "without context" in regime.name or "without batch size" in regime.name:
        missing.append("KV read")
    if "without batch size" in regime.name:
        missing += ["batch size", "padded batch size"]
    if "without tokens" in regime.name:
        missing += ["prefill tokens", "prefill attention"]
    return tuple(missing)


def _errors(regimes: Sequence[Regime]) -> Vector:
    """Absolute relative errors of the latest undisturbed predictions, in order of size."""
    residuals = [np.array(regime.detector.noise.ordered) for regime in regimes]
    return np.sort(np.abs(np.expm1(np.concatenate(residuals)))) if residuals else np.zeros(0)


def _percent(errors: Vector, share: float) -> float | None:
    return 100 * float(errors[min(len(errors) - 1, int(share * len(errors)))]) if len(errors) else None


def _share_within(errors: Vector, bound: float) -> float | None:
    return int(np.searchsorted(errors, bound, side="right")) / len(errors) if len(errors) else None
