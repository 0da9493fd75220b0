"""One regime of one engine process: its model, its levels, its detector, and how well it does."""

from __future__ import annotations

import math
from collections import deque
from typing import NamedTuple

from prismtop.latency.calibration import Calibration
from prismtop.latency.decode import DecodeModel
from prismtop.latency.detector import DRIFT, SHIFT, Detector, Finding
from prismtop.latency.features import Features
from prismtop.latency.gross import GrossWatch
from prismtop.latency.levels import BUCKET_ROWS, FARTHER, MEET_ROWS, YOUNG_BUCKET_ROWS, Level, Reach
from prismtop.latency.mixed import MixedModel
from prismtop.latency.padding_choice import PaddingWatch, Seen
from prismtop.latency.sensitivity import Sensitivity
from prismtop.latency.trees import Background
from prismtop.latency.trust import Trust
from prismtop.latency.weights import gate_of, weight_of
from prismtop.model import ModelState

NEVER = float("inf")
WARM_ROWS = 30
"""Batches of a regime before it judges."""
YOUNG_ROWS = 150
SETTLED_NS = 1_500_000_000
"""Time in batches that were learnt from before drift is looked for: against where each bucket is by then."""
QUARANTINE = 120
"""Batches that a regression which is no longer young waits before it learns one: drift is held against a
model that has not seen it, and batches before an alert are never learnt.
"""
FREEZE = 5
"""Batches after a shift or drift fired for which nothing is learnt."""
ACCEPT_BATCHES = 600
ACCEPT_NS = 120 * 10**9
"""A shift that lasted this long, in batches and in time, is the new normal: the model relearns."""
FASTER_BATCHES = 40
"""Batches in a row that are faster than the model can be wrong by: no anomaly, so it relearns at once."""
FLAGGED_BATCHES = 300
"""Flagged batches in a row, none worth an alert, after which the level moves to where they are."""
KEEP = 0.02
"""What the rows of the old regime still count after a relearn."""
RELEARN_ROWS = 50
NO_DRIFT_SPREAD = 0.02
NOISIER = 3.0
"""Batches that vary by so many times what they did before: the kept noise says nothing of them."""
MIXED_NOISE = 0.2
"""Relative error of the regression for mixed batches: kernels jump, it does not."""


class Expected(NamedTuple):
    """A prediction and what it was made from.

    Attributes:
        ns: expected.
        low_ns, high_ns: interval.
        raw_ns: the regression's word, without the bucket's level.
        level: the bucket's.
    """

    ns: float
    low_ns: float
    high_ns: float
    raw_ns: float
    level: Level


class Judged(NamedTuple):
    """A finding and the numbers behind it.

    Attributes:
        x: log of actual over expected.
        against_anchor: the same against the anchor.
        drifted: what of that was looked at as drift; 0 where it says nothing.
    """

    finding: Finding
    x: float
    against_anchor: float
    drifted: float


class _Row(NamedTuple):
    features: Features
    decode_ns: float
    target_ns: float
    weight: float


class Regime:
    """Predict, judge, learn: in this order, for every batch.

    Attributes:
        model: of what a batch costs.
        detector: of what is too much.
        levels: by bucket.
        trained, rejected: batches learnt from, and not.
        stale: why the model relearns; empty when it does not.
        kept: whether it goes on from another session.
        moved: log of what relearning has moved the level by, against the first reference.
    """

    def __init__(
        self, name: str, model: DecodeModel | MixedModel, sensitivity: Sensitivity, background: Background
    ) -> None:
        self._padding = PaddingWatch(background)
        self._trust = Trust()
        self.name = name
        self.model = model
        self.detector = Detector(sensitivity)
        self.levels: dict[int, Level] = {}
        self.trained = 0
        self.rejected = 0
        self.stale = ""
        self.moved = 0.0
        self.drift = 0.0
        self.refit_ns: int | None = None
        self._step = 0
        self._solves = 0
        self._quarantine: deque[_Row] = deque()
        self.kept = False
        self._calibration: Calibration | None = None
        self._frozen = 0
        self._paging = 0.0
        self._paging_since: int | None = None
        self._faster = 0
        self._recent: deque[float] = deque(maxlen=FASTER_BATCHES)
        self._relearnt = 0
        self._forest: object | None = None
        self._gross = GrossWatch()
        self._settled = False
        self._learnt_ns = 0.0
        self._sizes = Reach()
        """Of batches with prefill: trees know nothing beyond, not even a slope."""

    @property
    def state(self) -> ModelState:
        """Learning, ready or stale."""
        if self.stale:
            return ModelState.STALE
        return ModelState.READY if self.detector.ready else ModelState.LEARNING

    @property
    def gross(self) -> int:
        """Batches in a row that were grossly slow, whatever their model is worth."""
        return self._gross.count

    @property
    def alerting(self) -> bool:
        """Whether this regime's findings may wake anybody."""
        if self.stale:
            return False
        return not isinstance(self.model, MixedModel) or self.trusted

    @property
    def trusted(self) -> bool:
        """Whether what the model says is slow may be believed; see `Trust`."""
        if not isinstance(self.model, MixedModel):
            return True
        return self.model.published is not None and self._trust.given

    def expect(self, features: Features, decode_ns: float) -> Expected | None:
        """What the batch should cost; None before the first rows."""
        model = self.model
        self._step += 1
        if isinstance(model, MixedModel):
            raw = model.predict(features, decode_ns)
            bucket = model.bucket(features)
            if model.published is not self._forest:
                self._use_trees(model)
        else:
            if self._padding.choice is not None:
                model = self._use_padding(model)
            raw = model.predict(features.size, features.context)
            bucket = model.bucket(features.size)
        level = self.levels.get(bucket)
        if level is None:
            level = self.levels[bucket] = Level()
            if isinstance(model, DecodeModel) and 0 < FARTHER * model.largest < (features.size or 0):
                level.reach = math.log((features.size or 0) / model.largest)
        level.visit(self._step)
        if raw is None or raw <= 0.0:
            return None
        ns = raw * math.exp(level.fast)
        detector = self.detector
        half = min(max(detector.flag_at, 2 * detector.spread), 1.0) + level.slack
        return Expected(ns, ns * math.exp(-half), ns * math.exp(half), raw, level)

    def preview(self, features: Features, decode_ns: float) -> float | None:
        """The expectation alone, for a batch that there is not; None before the first rows."""
        model = self.model
        if isinstance(model, MixedModel):
            raw, level = model.predict(features, decode_ns), self.levels.get(model.bucket(features))
        else:
            raw = model.predict(features.size, features.context)
            level = self.levels.get(model.bucket(features.size))
        return None if raw is None else raw * math.exp(level.fast if level else 0.0)

    def judge(
        self, expected: Expected, target_ns: float, shift: float = 0.0, features: Features | None = None
    ) -> Judged:
        """Hold the batch against the expectation.

        Args:
            features: the batch's.
            shift: log ratio by which another regime of the process is slower just now; 0 is: none is.
        """
        residual = math.log(target_ns / expected.raw_ns)
        level = expected.level
        x = residual - level.fast
        against_anchor = residual - level.anchor
        mature = level.rows >= BUCKET_ROWS and level.visits > MEET_ROWS
        slack = level.slack
        drifted = against_anchor if self._settled else 0.0  # what is learnt only now would look like drift
        if isinstance(self.model, MixedModel):
            self._trust.note(x > self.detector.odd_at)
            beyond = features is not None and self._sizes.beyond(features.size)
            if level.rows < BUCKET_ROWS or beyond or not self.trusted:
                mature, slack = False, NEVER
            if self.detector.spread > NO_DRIFT_SPREAD:
                drifted = 0.0  # what prompts were sent lately would look like drift
            self._gross.note(x, target_ns - expected.ns, features, 0 if self.stale else self.trained)
        finding = self.detector.judge(x, drifted, mature, slack)
        if self.gross:
            finding = Finding(True, SHIFT if self.gross > 1 else "")
        if shift and not finding.flag and self.detector.ready and x > max(0.01, shift / 2):
            finding = Finding(True, finding.rule)  # the whole process is slow: less evidence is enough
        return Judged(finding, x, against_anchor, drifted)

    def learn(
        self,
        features: Features,
        decode_ns: float,
        target_ns: float,
        expected: Expected | None,
        judged: Judged | None,
    ) -> None:
        """Learn from the batch as far as it can be trusted."""
        self._gross.learn(features)
        if expected is None or judged is None:
            self._fit(features, decode_ns, target_ns, 1.0)
            self.trained += 1
            return
        finding, x, against_anchor, _ = judged
        if self._calibration is not None:
            self._calibrate(self._calibration, x)
            return
        level = expected.level
        trees = isinstance(self.model, MixedModel)
        weight = weight_of(
            self.detector,
            finding,
            x,
            level,
            stale=bool(self.stale),
            frozen=bool(self._frozen or self.gross),
            trees=trees and (level.rows < BUCKET_ROWS or not self.trusted),
        )
        detector = self.detector
        unknown = level.unknown
        if not unknown:
            detector.learn(x, finding)
        if trees:
            self._sizes.met(features.size)
        if weight <= 0.0:
            self.rejected += 1
            return
        self.trained += 1
        if unknown:
            level.pass_on()
        else:
            level.learn(x + level.fast, weight)
        if weight == 1.0 and features.size and not features.carries_prefill:
            self._note_padding(Seen(features.size, features.context or 0, target_ns))
        young = self.trained < YOUNG_ROWS or level.rows < YOUNG_BUCKET_ROWS
        row = _Row(features, decode_ns, target_ns, weight if young else weight * self._huber(x))
        if young or unknown or trees:
            self._fit(*row, at_once=unknown)
        else:
            self._quarantine.append(row)
            if len(self._quarantine) > QUARANTINE:
                self._fit(*self._quarantine.popleft())
        if weight == 1.0:
            self.drift += 0.02 * (against_anchor - self.drift)
        if not self._settled:
            self._settle(target_ns)
        if self.stale:
            self._relearnt += 1
            if self._relearnt >= RELEARN_ROWS:
                self.stale = ""

    def _settle(self, target_ns: float) -> None:
        self._learnt_ns += target_ns
        if self._learnt_ns >= SETTLED_NS:
            self._settled = True
            for level in self.levels.values():
                level.anchor = level.fast

    def reconsider(self, judged: Judged, now_ns: int) -> str:
        """Whether what looks abnormal has become the normal; says why, empty when nothing changed."""
        finding, x, against_anchor, _ = judged
        detector = self.detector
        self._recent.append(against_anchor)
        if not detector.ready:
            return ""
        if self.model.solves != self._solves:
            self._solves, self.refit_ns = self.model.solves, now_ns
        if finding.rule in (SHIFT, DRIFT):
            self._frozen = FREEZE
            self._quarantine.clear()
            self._paging += 1.0
            if self._paging_since is None:
                self._paging_since = now_ns
            if self._paging >= ACCEPT_BATCHES and now_ns - self._paging_since >= ACCEPT_NS:
                return self._relearn(f"for {int(self._paging)} batches")
        else:
            self._frozen = max(0, self._frozen - 1)
            self._paging = max(0.0, self._paging - 0.25)
            if self._paging == 0.0:
                self._paging_since = None
        self._faster = self._faster + 1 if x < -gate_of(detector) else 0
        if self._faster >= FASTER_BATCHES:
            return self._relearn(f"for {self._faster} batches")
        if detector.streak >= FLAGGED_BATCHES and not self._frozen:
            by = self._lately()
            for level in self.levels.values():
                if self._step - level.last < FLAGGED_BATCHES:
                    level.fast = level.anchor + by
            detector.shifted()
        return ""

    def take_over(
        self, levels: dict[int, Level], noise: list[float], rough: float, moved: float, *, exact: bool
    ) -> None:
        """Go on from another session's state; the first batches say how far it still holds."""
        self.levels = levels
        for level in levels.values():
            level.fast = level.anchor  # what the last batches of that session were like is over
        self.moved = moved
        self.kept = True
        self._calibration = Calibration(exact=exact)
        self.stale = self._calibration.reason
        if noise:
            self.detector.bear(rough)
            self.detector.reseed(noise)

    def _calibrate(self, calibration: Calibration, residual: float) -> None:
        """Take one batch's residual; after enough of them, scale the model to this engine where it is off."""
        result = calibration.take(residual)
        if result is None:
            return
        self._calibration = None
        if not result.holds:
            # What was noise then says nothing of an engine, or a machine, that is another now.
            self.detector = self.detector.anew()
            self.restart(
                f"scaled by {math.exp(result.by):.2f} to this engine; {RELEARN_ROWS} batches confirm it",
                math.exp(result.by),
            )
        elif calibration.exact:
            self.stale, self._settled = "", True
            if result.spread > NOISIER * self.detector.spread:
                self.detector = self.detector.anew()
                self.detector.reseed(list(result.residuals))

    def typical_factor(self) -> float:
        """The present level of the bucket that was met last, as a factor on the regression's word."""
        latest = max(self.levels.values(), key=lambda level: level.last, default=None)
        return math.exp(latest.fast) if latest else 1.0

    def restart(self, reason: str, factor: float = 1.0) -> None:
        """The engine is another: relearn from what is known, scaled by `factor`."""
        self.stale = reason
        self._relearnt = 0
        self.model.rescale(factor, KEEP)
        for level in self.levels.values():
            level.fast = level.anchor
            level.learnt = 0
        self.detector.shifted()
        self._recent.clear()
        self.drift = 0.0
        self._quarantine.clear()
        self._frozen = self._faster = 0
        self._paging, self._paging_since = 0.0, None

    def _relearn(self, what: str) -> str:
        by = self._lately()
        self.moved += by
        reason = f"{_percent(by)} {what}: taken as the new normal"
        self.restart(reason, math.exp(by))
        return reason

    def _lately(self) -> float:
        """The median distance from the anchor lately."""
        recent = sorted(self._recent)
        return recent[len(recent) // 2] if recent else 0.0

    def _huber(self, size: float) -> float:
        bound = 2.5 * max(0.01, self.detector.spread)
        return 1.0 if size <= bound else bound / size

    def _fit(
        self, features: Features, decode_ns: float, target_ns: float, weight: float, *, at_once: bool = False
    ) -> None:
        noise = max(0.01, self.detector.spread)
        model = self.model
        if isinstance(model, MixedModel):
            model.learn(features, decode_ns, target_ns, weight, max(MIXED_NOISE, noise))
        else:
            model.learn(features.size, features.context, target_ns, weight, noise, at_once=at_once)

    def _note_padding(self, seen: Seen) -> None:
        if isinstance(self.model, DecodeModel):
            self._padding.note(seen, self.model.schedule)

    def _use_padding(self, model: DecodeModel) -> DecodeModel:
        """Another way of padding was found better: its buckets are others, so are their levels."""
        choice = self._padding.take()
        if choice is None:
            return model
        self.model = choice.model
        self.levels.clear()
        self._quarantine.clear()
        self.detector.reseed(list(choice.residuals))
        return choice.model

    def _use_trees(self, model: MixedModel) -> None:
        """Trees were published: what was known of the residuals is about another model."""
        self._forest = model.published
        if model.published is not None:
            self.detector.reseed(list(model.published.residuals))
            for level in self.levels.values():
                level.fast = level.anchor = 0.0
                level.learnt = 0


def _percent(log_ratio: float) -> str:
    return f"{100 * (math.exp(log_ratio) - 1):+.0f} %"
