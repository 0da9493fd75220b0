"""How far the load may grow, and what prefill costs those who decode: both from the fitted model."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from prismtop.latency.decode import DecodeModel
from prismtop.latency.engine import EngineJudge
from prismtop.latency.features import Features
from prismtop.latency.mixed import MixedModel
from prismtop.model import Batch, Headroom, Interference

WINDOW_NS = 60 * 10**9
REACH = 2
"""Beyond twice the largest batch seen, the model's word is worth nothing."""
MAX_PREFILL = 32_768
STEP_NS = 5 * 10**9
POINTS = 12
LEAST_POINTS = 6
LONGEST_FORECAST_S = 3600.0
CLEAR = 3.0
"""Standard errors by which a slope must differ from 0 to be called a trend."""


class _Step(NamedTuple):
    end_ns: int
    seq: int
    decoders: int
    duration_ns: int
    added_ns: float


class Prefills:
    """What prefill tokens added to the steps of decoding requests, over the last minute.

    The excess of a mixed batch over what its decoding requests alone would have cost counts once for each of
    them: they all waited.
    """

    def __init__(self) -> None:
        self._steps: deque[_Step] = deque()

    def take(self, batch: Batch, alone_ns: float | None) -> None:
        """Take a batch; `alone_ns` is what it would have cost without prefill, None when unknown."""
        work = batch.workload
        if not work.decode_tokens or (work.prefill_tokens and alone_ns is None):
            return
        added = max(0.0, batch.duration_ns - alone_ns) if work.prefill_tokens and alone_ns else 0.0
        self._steps.append(_Step(batch.end_ns, batch.seq, work.decode_tokens, batch.duration_ns, added))
        edge = batch.end_ns - WINDOW_NS
        while self._steps and self._steps[0].end_ns < edge:
            self._steps.popleft()

    def figure(self) -> Interference | None:
        """Share and the worst batch; None when no batch of the window carried both."""
        steps = self._steps
        if not any(step.added_ns for step in steps):
            return None
        total = sum(step.duration_ns * step.decoders for step in steps)
        worst = max(steps, key=lambda step: step.added_ns)
        share = sum(step.added_ns * step.decoders for step in steps) / total
        return Interference(share, worst.added_ns / 1e6, worst.seq)


class Trend:
    """The time per token over the last minute, and when it will break a target if it goes on like this."""

    def __init__(self) -> None:
        self._points: deque[tuple[float, float]] = deque(maxlen=POINTS)
        self._until_ns: int | None = None
        self._sum = 0.0
        self._tokens = 0

    def take(self, batch: Batch) -> None:
        """Take a batch."""
        tokens, period = batch.workload.decode_tokens, batch.period_ns
        if not tokens or not period:
            return
        if self._until_ns is None or batch.end_ns < self._until_ns - STEP_NS:
            self._points.clear()
            self._until_ns, self._sum, self._tokens = batch.end_ns + STEP_NS, 0.0, 0
        elif batch.end_ns >= self._until_ns:
            if self._tokens:
                self._points.append((self._until_ns / 1e9, self._sum / self._tokens / 1e6))
            self._until_ns, self._sum, self._tokens = batch.end_ns + STEP_NS, 0.0, 0
        self._sum += float(period) * tokens
        self._tokens += tokens

    def breaks_in_s(self, target_ms: float) -> float | None:
        """Seconds until the line through the points crosses the target; None without a clear rise."""
        points = self._points
        n = len(points)
        if n < LEAST_POINTS:
            return None
        mean_t = sum(t for t, _ in points) / n
        mean_y = sum(y for _, y in points) / n
        spread = sum((t - mean_t) ** 2 for t, _ in points)
        if spread <= 0:
            return None
        slope = sum((t - mean_t) * (y - mean_y) for t, y in points) / spread
        left = sum((y - mean_y - slope * (t - mean_t)) ** 2 for t, y in points)
        error = (left / (n - 2) / spread) ** 0.5
        now = mean_y + slope * (points[-1][0] - mean_t)
        if slope <= CLEAR * error or slope <= 0 or now >= target_ms:
            return None
        seconds = (target_ms - now) / slope
        return seconds if seconds <= LONGEST_FORECAST_S else None


def headroom(engine: EngineJudge | None, tpot_ms: float | None, trend: Trend) -> Headroom:
    """The largest batch and prefill that keep a step under the target, at the present mix of contexts."""
    if tpot_ms is None:
        return Headroom(reason="no target for the time per output token")
    if engine is None or engine.latest is None:
        return Headroom(reason="no batch was judged yet")
    decode = engine.decode_regime()
    if decode is None or not decode.detector.ready or not isinstance(decode.model, DecodeModel):
        return Headroom(reason="the model of decode batches is still learning")
    target_ns = tpot_ms * 1e6
    features = engine.latest[0]
    size, context = engine.mean_decode()
    if not size:
        return Headroom(reason="no decode batch lately")
    each = context / size
    factor = decode.typical_factor()
    largest = 0
    limit = REACH * max(decode.model.largest, 1)
    for candidate in range(1, limit + 1):
        cost = decode.model.predict(candidate, round(candidate * each))
        if cost is not None and cost * factor <= target_ns:
            largest = candidate
    reason = f"not judged beyond {limit} requests, twice what was seen" if largest == limit else ""
    return Headroom(
        max_batch_size=largest,
        max_prefill_tokens=_prefill(engine, features, round(size), round(context), target_ns),
        breaks_in_s=trend.breaks_in_s(tpot_ms),
        reason=reason,
    )


def _prefill(engine: EngineJudge, latest: Features, size: int, context: int, target_ns: float) -> int | None:
    """The most prefill tokens beside the present decodes; None before mixed batches were learnt."""
    regime = engine.regimes.get("mixed")
    if regime is None or not isinstance(regime.model, MixedModel) or regime.trained < 30:
        return None
    model = regime.model
    alone = engine.expected_decode_ns(size, context) or 0.0
    low, high = 0, MAX_PREFILL
    while low < high:
        tokens = (low + high + 1) // 2
        work = latest._replace(
            size=size, context=context, prefill=tokens, attention=float(tokens) ** 2, new=1
        )
        if model.regression(model.phi(work, alone), alone) <= target_ns:
            low = tokens
        else:
            high = tokens - 1
    return low
