"""Judges the batches of one engine process: predict, detect, learn, and open or close episodes."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from math import exp
from typing import NamedTuple

from prismtop.latency.decode import DecodeModel
from prismtop.latency.detector import DRIFT, SHIFT, SPIKE, Finding
from prismtop.latency.episodes import STALL, THROUGHPUT, Alarm, Episodes
from prismtop.latency.features import MAX_DURATION_NS, Features, Unusable, features_of
from prismtop.latency.gaps import Gaps
from prismtop.latency.mixed import MixedModel
from prismtop.latency.padding import Schedule
from prismtop.latency.regime import Expected, Judged, Regime
from prismtop.latency.sensitivity import Sensitivity
from prismtop.latency.trees import Background
from prismtop.model import Alert, Batch, ModelState, Verdict
from prismtop.model.prediction import new_prediction

DURATION, PERIOD = BASES = ("duration", "period")
OVERLAP_RATE = 0.1
OVERLAPPED, SEQUENTIAL = 0.7, 0.2
"""Share of batches whose period is well below their duration that makes an engine an overlapped one."""
TRAIL = 64
CLOCK_SLACK_NS = 10**9
LEAST_NS = 5_000_000
"""What one batch, or slow ones in a row, must have taken beyond the expected before it is worth waking for.
Five steps of 2 ms are over before anybody is awake.
"""
LEAST_ROUGH_NS, LEAST_ROW_ROUGH_NS = 20_000_000, 60_000_000
"""The same in an engine whose steps vary by more than `ROUGH` anyway, on a machine where everything hiccups:
of one batch, and of a row. Measured on two recorded campaigns beside a neighbour that halves a core's speed
for tenths of seconds: 35 false alarms with rows of 20 ms, 10 with 60 and 2 with 120; recall 31 of 31, 34 of
36 and 33 of 40.
"""
SLOWER = 0.02
"""Log ratio beyond which a batch belongs to a row of slow ones."""
ROUGH = 0.05
_READY = ModelState.READY
_OK, _SLOW, _UNKNOWN = Verdict.OK, Verdict.SLOW, Verdict.UNKNOWN
RATE = 0.01
MEAN_RATE = 0.05
STEPS_UNTIL_RATE = 100


class _Past(NamedTuple):
    """A batch that was judged: ns beyond the expected, and log ratios to the expected and, for drift, to the
    anchor.
    """

    batch: Batch
    excess_ns: float
    x: float
    drifted: float
    target_ns: float

    def beyond(self, rule: str) -> tuple[float, float]:
        """Log ratio to what `rule` holds it against, and ns beyond that. A drift is held against the anchor:
        the expectation follows it.
        """
        if rule != DRIFT:
            return self.x, self.excess_ns
        return self.drifted, self.target_ns * (1.0 - exp(-self.drifted))


class EngineJudge:
    """State of one process.

    Attributes:
        regimes: by name.
        basis: what is judged: the duration, or under overlapped scheduling the period.
        latest: features, expected ns and target of the last batch judged; None before.
        unusable: why batches could not be judged, with their number.
    """

    def __init__(
        self, sensitivity: Sensitivity, schedule: Schedule, ids: Iterator[int], background: Background
    ) -> None:
        self.regimes: dict[str, Regime] = {}
        self.basis = DURATION
        self.episodes = Episodes(ids)
        self.gaps = Gaps(sensitivity)
        self.unusable: dict[str, int] = {}
        self.latest: tuple[Features, Expected, float] | None = None
        self.paging = False
        self.schedule = schedule
        self._sensitivity = sensitivity
        self._background = background
        self._last_start_ns = 0
        self._mean_size = self._mean_context = 0.0
        self._overlap = 0.0
        self._trail: deque[_Past] = deque(maxlen=TRAIL)
        self._mean_period_ns = 0.0
        self._periods = 0

    def take(self, batch: Batch) -> Batch:
        """The batch with its prediction. Then learns from it."""
        self.paging = False
        if batch.start_ns < self._last_start_ns - CLOCK_SLACK_NS:
            self.episodes.close()  # the clock stepped back, or another file begins
        self._last_start_ns = batch.start_ns
        self._watch_overlap(batch)
        features = features_of(batch)
        if isinstance(features, Unusable):
            return self._unjudged(batch, features.reason)
        target = batch.duration_ns if self.basis == DURATION else batch.period_ns
        if target is None:
            return batch
        if not 0 < target <= MAX_DURATION_NS:
            return self._unjudged(batch, "a duration that no batch can have")
        regime = self._regime(features)
        decode_ns = self._decode_alone(features) if features.carries_prefill else 0.0
        expected = regime.expect(features, decode_ns)
        judged = None
        if expected:
            judged = regime.judge(expected, target, self._shift_of_others(regime), features)
        if batch.suspect:
            made = self._predicted(batch, regime, expected, None)
            regime.rejected += 1
            return made
        self._pace(batch, target)
        if features.size and not features.carries_prefill:
            rate = MEAN_RATE if self._mean_size else 1.0
            self._mean_size += rate * (features.size - self._mean_size)
            self._mean_context += rate * ((features.context or 0) - self._mean_context)
        if expected and judged:
            self.latest = features, expected, target
            made = self._predicted(batch, regime, expected, judged.finding)
            self._alarms(made, regime, expected, judged, target)
        else:
            made = batch
        regime.learn(features, decode_ns, target, expected, judged)
        if judged:
            changed = regime.reconsider(judged, batch.end_ns)
            if changed:
                self.episodes.close(changed)
                self.gaps.restart()
        self.episodes.pass_time(batch.end_ns)
        return made

    def preview(self, features: Features) -> float | None:
        """What a batch should cost, in ns, without a batch: nothing is learnt. None without a model."""
        regime = self.regimes.get(features.regime)
        if regime is None:
            return None
        return regime.preview(features, self._decode_alone(features) if features.carries_prefill else 0.0)

    def alerts(self, now_ns: int) -> tuple[Alert, ...]:
        """Alerts that changed since the last call."""
        self.episodes.pass_time(now_ns)
        return self.episodes.take()

    def expected_decode_ns(self, size: int, context: int) -> float | None:
        """What a decode batch should cost; None without a model of such."""
        regime = self.decode_regime()
        if regime is None or not isinstance(regime.model, DecodeModel):
            return None
        return regime.model.predict(size, context)

    @property
    def trained(self) -> int:
        """Batches learnt from."""
        return sum(regime.trained for regime in self.regimes.values())

    def decode_regime(self) -> Regime | None:
        """The regime of plain decode batches; None before there is one."""
        for name in ("decode", "decode without context"):
            if name in self.regimes:
                return self.regimes[name]
        return None

    def mean_decode(self) -> tuple[float, float]:
        """Requests and context of a decode batch lately."""
        return self._mean_size, self._mean_context

    def regime(self, name: str, *, carries_prefill: bool) -> Regime:
        """The regime of that name, new if need be."""
        found = self.regimes.get(name)
        if found is None:
            model = MixedModel(self._background) if carries_prefill else DecodeModel(self.schedule)
            found = self.regimes[name] = Regime(name, model, self._sensitivity, self._background)
        return found

    def _shift_of_others(self, regime: Regime) -> float:
        for other in self.regimes.values():
            if other is not regime and other.detector.sustained and other.alerting:
                return other.detector.shift
        return 0.0

    def _regime(self, features: Features) -> Regime:
        found = self.regimes.get(features.regime)
        return found or self.regime(features.regime, carries_prefill=features.carries_prefill)

    def _decode_alone(self, features: Features) -> float:
        if not features.size:
            return 0.0
        return self.expected_decode_ns(features.size, features.context or 0) or 0.0

    def _unjudged(self, batch: Batch, reason: str) -> Batch:
        if reason:
            self.unusable[reason] = self.unusable.get(reason, 0) + 1
        return batch

    def _watch_overlap(self, batch: Batch) -> None:
        """Whether the engine settles a batch after it launched the next: then a token costs the period."""
        if batch.period_ns is None or batch.duration_ns <= 0:
            return
        vote = 1.0 if batch.period_ns < 0.8 * batch.duration_ns else 0.0
        self._overlap += OVERLAP_RATE * (vote - self._overlap)
        basis = self.basis
        if self._overlap > OVERLAPPED:
            basis = PERIOD
        elif self._overlap < SEQUENTIAL:
            basis = DURATION
        if basis != self.basis:
            self.basis = basis
            self.episodes.close("the engine changed how it overlaps batches")
            for regime in self.regimes.values():
                regime.restart(
                    f"the engine {'overlaps' if basis == PERIOD else 'no longer overlaps'} batches"
                )

    def _pace(self, batch: Batch, target: float) -> None:
        """Batches an hour, for thresholds that allow so many false alerts an hour."""
        period = float(batch.period_ns or target)
        if period <= 0:
            return
        self._periods += 1
        rate = max(RATE, 1 / self._periods)
        self._mean_period_ns += rate * (min(period, 1e9) - self._mean_period_ns)
        if self._periods % STEPS_UNTIL_RATE == 0:
            hourly = max(3600.0, 3600e9 / max(self._mean_period_ns, 1e4))
            for detector in (self.gaps.detector, *(regime.detector for regime in self.regimes.values())):
                detector.batches_per_h = hourly

    def _predicted(
        self, batch: Batch, regime: Regime, expected: Expected | None, finding: Finding | None
    ) -> Batch:
        if expected is None:
            return batch
        state = regime.state
        verdict = _UNKNOWN
        if finding is not None and state is _READY:
            verdict = _SLOW if finding.flag else _OK
        ns, low_ns, high_ns, _, _ = expected
        return batch.with_prediction(
            new_prediction(
                expected_ns=int(ns),
                low_ns=int(low_ns),
                high_ns=int(high_ns),
                state=state,
                verdict=verdict,
                basis=self.basis,
            )
        )

    def _alarms(
        self, batch: Batch, regime: Regime, expected: Expected, judged: Judged, target: float
    ) -> None:
        finding = judged.finding
        excess = target - expected.ns
        past = _Past(batch, excess, judged.x, judged.drifted, target)
        if regime.alerting or regime.gross:
            if finding.rule and self._matters(finding.rule, regime, past):
                beyond = past.beyond(finding.rule)[1]
                self._alarm(finding.rule, batch, beyond, target - beyond)
            elif finding.flag and self.episodes.is_open and regime.detector.disturbed:
                self.episodes.go_on(batch, int(excess), int(expected.ns))
            if self.basis == DURATION:
                gap, lost = self.gaps.take(batch, expected.ns)
                if gap.rule:
                    kind = STALL if gap.rule == SPIKE else THROUGHPUT
                    self._alarm(kind, batch, lost, expected.ns)
                usual = self.gaps.reconsider(batch.end_ns)
                if usual:
                    self.episodes.close(usual, only=THROUGHPUT)
        self._trail.append(past)

    def _matters(self, rule: str, regime: Regime, now: _Past) -> bool:
        """Whether what was found has cost enough to open an episode; one that is open goes on anyway."""
        rough = regime.detector.rough >= ROUGH
        if rule == SPIKE:
            if now.excess_ns >= (LEAST_ROUGH_NS if rough else LEAST_NS):
                return True
            # One hiccup is nothing; one in every few batches is (a collector that runs all the time).
            spikes = (past.excess_ns for past in self._trail if past.x > regime.detector.point_at)
            return now.excess_ns + sum(spikes) >= LEAST_ROW_ROUGH_NS
        if self.episodes.is_open:
            return True
        least = LEAST_ROW_ROUGH_NS if rough else LEAST_NS
        cost = now.beyond(rule)[1]
        for past in reversed(self._trail):
            ratio, more = past.beyond(rule)
            if cost >= least or ratio <= SLOWER:
                break
            cost += more
        return cost >= least

    def _alarm(self, kind: str, batch: Batch, excess: float, expected: float) -> None:
        self.paging = True
        first, earlier, count = batch, 0.0, 0
        if not self.episodes.is_open and kind in (SHIFT, DRIFT):
            for past in reversed(self._trail):
                ratio, more = past.beyond(kind)
                if ratio <= SLOWER:
                    break
                first, earlier, count = past.batch, earlier + more, count + 1
        self.episodes.alarm(
            Alarm(kind, batch, int(excess), int(expected), first.seq, first.start_ns, (int(earlier), count))
        )
