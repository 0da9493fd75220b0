"""Says of each residual whether its batch is slow (a flag) and whether a person should know (a rule that
fires).

Input is `x`, the logarithm of actual over expected. Three rules open alerts: one batch far out (`spike`), the
median of five out (`shift`), a cumulative sum against the slow anchor (`drift`; Page 1954). Choice of rules
and what was tried instead: shared/latency-model.md B2. Thresholds are floors from the sensitivity, raised to
where the engine's own undisturbed residuals would cross them only as often as the sensitivity allows.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from prismtop.latency.sensitivity import RULES, Sensitivity
from prismtop.latency.windows import SortedWindow, beyond, spread, tail

SPIKE, SHIFT, DRIFT = "spike", "shift", "drift"
WINDOW = 1000
FEWER = 400
"""Kept of the statistics over several batches, one in `MEDIAN_OF`: neighbours say the same."""
LEAST = 30
"""Residuals before anything is flagged or a spike is one; shifts and drifts need `LEAST_FOR_SHIFTS`."""
LEAST_FOR_SHIFTS = 50
YOUNG = 50.0
"""Residuals by which little is known of the noise: with so many, thresholds are twice as high."""
FORGET_ROUGH = 0.9995
"""For each `REFRESH` residuals: half is forgotten after 35,000."""
FORGET_YOUNG = 0.95
"""The same for the first `WINDOW` residuals, after which an eighth is left."""
REFRESH = 25
MEDIAN_OF = 5
ODD_PROBABILITY, ODD_SPREADS = 0.002, 8.0
FLAG_PROBABILITY = 0.0005
FLAG_SPREADS = 10.0
"""Beyond so many spreads a batch is slow, whatever a few outliers in the window say of its tail."""
LEAST_SPREAD = 0.003
SUSTAINED_ALLOWANCE, SUSTAINED_LIMIT = 0.025, 0.06
SINGLE = 0.7
"""Share of the limit that one batch may count for."""
DRIFT_CAP = 0.14
CLEAR_AFTER = 5
"""Batches in a row below the allowance that clear a cumulative sum."""
_NEVER = float("inf")


class Finding(NamedTuple):
    """About one batch.

    Attributes:
        flag: it is slow for its workload.
        rule: the rule that fires on it; empty for none.
    """

    flag: bool
    rule: str


class Detector:
    """State for one regime. Feed `judge`, then `learn` with the same residual.

    Attributes:
        noise: undisturbed residuals.
        ready: whether it flags.
        spread: their standard deviation (robust).
        rough: the largest that it was, forgotten slowly: what calls people must bear with the noise of a
            machine's bad minutes, not with that of its best.
        flag_at, point_at, shift_at, drift_at: thresholds in use.
        odd_at: what hardly any undisturbed batch exceeds: a model that is often wrong by more is not to be
            trusted yet.
        sustained: whether the latest batches are slower than usual by more than noise.
        shift: how much slower, while they are (log ratio).
    """

    def __init__(self, sensitivity: Sensitivity) -> None:
        self.sensitivity = sensitivity
        self.noise = SortedWindow(WINDOW)
        self.ready = False
        self.spread = LEAST_SPREAD
        self.rough = LEAST_SPREAD
        self.flag_at = self.odd_at = self.point_at = self.shift_at = self.drift_at = _NEVER
        self.sustained = False
        self.shift = 0.0
        self.drifting = False
        self.batches_per_h = 72_000.0
        self.streak = 0
        """Flagged batches in a row."""
        self._medians = SortedWindow(FEWER)
        self._sums = SortedWindow(FEWER)
        self._recent: deque[float] = deque(maxlen=MEDIAN_OF)
        self._flags: deque[bool] = deque(maxlen=MEDIAN_OF)
        self._sum = 0.0
        self._sum_low = 0
        self._drift = 0.0
        self._drift_low = 0
        self._median: float | None = None
        self._stale = 0
        self._few = True
        self._learnt = 0
        self._seen = 0
        self._derive()

    def bear(self, rough: float) -> None:
        """Take `rough` as the largest spread that there was: of another session."""
        self.rough = max(self.rough, rough)
        self._seen = WINDOW

    def anew(self) -> Detector:
        """One that knows no noise."""
        made = Detector(self.sensitivity)
        made.batches_per_h = self.batches_per_h
        return made

    def _derive(self) -> None:
        """What follows from the spread: it changes once in `REFRESH` batches and is asked for in each."""
        spread, sense, rough = self.spread, self.sensitivity, self.rough
        self._allowance = max(SUSTAINED_ALLOWANCE, 1.5 * spread)
        self._limit = max(SUSTAINED_LIMIT, 6.0 * spread)
        self._drift_allowance = allowance = max(sense.drift_allowance, 1.5 * rough)
        # No single batch may count for more than a third of what it takes.
        self._drift_cap = allowance + min(max(DRIFT_CAP, 3.0 * rough) - allowance, limit_of(sense, rough) / 3)

    def judge(self, x: float, against_anchor: float, mature: bool, slack: float = 0.0) -> Finding:
        """Look at one residual.

        Args:
            x: log of actual over expected.
            against_anchor: log of actual over the regression, less the anchor.
            mature: whether the batch's bucket is known well enough for `shift` and `drift`.
            slack: how far the prediction may be off beyond the noise.
        """
        rule = ""
        if mature:
            rule = self._many(x, against_anchor)
        elif self.sustained or self.drifting:
            self._other(x, against_anchor)
        if x > self.point_at + slack and not rule:
            rule = SPIKE
        flag = x > self.flag_at + slack
        if self.sustained and not flag and self.ready and self.shift > SUSTAINED_ALLOWANCE:
            # With a sustained shift under way a smaller excess is enough: half of the shift.
            flag = x > slack + max(1.5 * self.spread, min(self.flag_at, self.shift / 2))
        if rule == SHIFT and not flag and x <= 2 * self.spread:
            rule = ""  # the window still remembers an episode; this batch is none of it
        elif rule == DRIFT and against_anchor < self.sensitivity.drift_allowance / 2:
            rule = ""
        self._flags.append(flag)
        self.streak = self.streak + 1 if flag else 0
        return Finding(flag, rule)

    def _many(self, x: float, against_anchor: float) -> str:
        recent = self._recent
        recent.append(x)
        allowance, limit = self._allowance, self._limit
        # One batch, however slow, is no lasting slowness.
        step = min(x, 0.15) - allowance
        total = self._sum + (step if step < SINGLE * limit else SINGLE * limit)
        self._sum = total = total if total > 0.0 else 0.0
        self._sum_low = self._sum_low + 1 if x < allowance else 0
        if total > limit:
            self.sustained = True
            self._sum = min(total, 2.0 * limit)
        if self.sustained and self._sum_low >= CLEAR_AFTER:
            self.sustained = False
            self._sum = self.shift = 0.0

        allowance, cap = self._drift_allowance, self._drift_cap
        total = self._drift + (against_anchor if against_anchor < cap else cap) - allowance
        self._drift = total = total if total > 0.0 else 0.0
        self._drift_low = self._drift_low + 1 if against_anchor < allowance else 0
        if total > self.drift_at:
            self.drifting = True
            self._drift = min(total, 2.0 * self.drift_at)
        if self.drifting and self._drift_low >= CLEAR_AFTER:
            self.drifting = False
            self._drift = 0.0

        if len(recent) == MEDIAN_OF:
            self._median = sorted(recent)[MEDIAN_OF // 2]
            if self.sustained:
                self.shift += (0.1 if self.shift else 1.0) * (self._median - self.shift)
            if self._median > self.shift_at:
                return SHIFT
        return DRIFT if self.drifting else ""

    def _other(self, x: float, against_anchor: float) -> None:
        """A batch that is no evidence for a shift can still be evidence against one."""
        self._sum_low = self._sum_low + 1 if x < SUSTAINED_ALLOWANCE else 0
        self._drift_low = self._drift_low + 1 if against_anchor < self.sensitivity.drift_allowance else 0
        if self._sum_low >= CLEAR_AFTER:
            self.sustained, self._sum, self.shift = False, 0.0, 0.0
        if self._drift_low >= CLEAR_AFTER:
            self.drifting, self._drift = False, 0.0

    @property
    def disturbed(self) -> bool:
        """Whether the latest batches look like an episode rather than like single outliers."""
        return self.sustained or self.drifting or sum(self._flags) >= 3

    def learn(self, x: float, finding: Finding) -> None:
        """Take a residual as one of undisturbed operation, unless it is not."""
        if finding.rule in (SHIFT, DRIFT) or (self.ready and self.disturbed):
            return
        self.noise.add(x if x < self.sensitivity.point else self.sensitivity.point)
        self._stale += 1
        self._seen += 1
        self._learnt += 1
        if self._learnt % MEDIAN_OF == 0 and self._median is not None and not finding.flag:
            self._medians.add(self._median)
            self._sums.add(self._drift)
        if self._stale >= REFRESH or self._few:
            self._few = len(self.noise) < LEAST_FOR_SHIFTS
            self.refresh()

    def refresh(self) -> None:
        """Set the thresholds from what was seen."""
        self._stale = 0
        noise, n = self.noise, len(self.noise)
        self.ready = n >= LEAST
        if not self.ready:
            return
        self.spread = max(LEAST_SPREAD, spread(noise))
        # While a model is young it is wrong by more than the machine will ever be.
        self.rough = max(self.spread, self.rough * (FORGET_ROUGH if self._seen >= WINDOW else FORGET_YOUNG))
        self._derive()
        slope = 0.35 * self.spread + 0.6 / n
        self.flag_at = min(
            tail(noise, FLAG_PROBABILITY, slope), max(0.02, FLAG_SPREADS * self.spread) + 0.6 / n
        )
        self.odd_at = min(tail(noise, ODD_PROBABILITY, slope), max(0.02, ODD_SPREADS * self.spread) + 0.6 / n)
        sense = self.sensitivity
        wanted = min(0.01, sense.false_alerts_per_h / RULES / self.batches_per_h)
        rough = self.rough * (1.0 + YOUNG / n)
        self.point_at = max(sense.point, tail(noise, wanted, slope), 5.0 * rough)
        if n < LEAST_FOR_SHIFTS:
            return
        self.shift_at = least_shift = max(sense.shift, 3.0 * rough)
        self.drift_at = least_drift = limit_of(sense, rough)
        if len(self._medians) >= LEAST:
            self.shift_at = max(least_shift, min(2 * least_shift, tail(self._medians, wanted, slope / 3)))
            self.drift_at = max(least_drift, min(1.25 * least_drift, tail(self._sums, wanted, 0.0)))

    def expected_false_alerts(self) -> float | None:
        """False alerts an hour that the tails allow at the thresholds in use; None while it learns."""
        if self.point_at == _NEVER:
            return None
        slope = 0.35 * self.spread + 0.6 / len(self.noise)
        total = beyond(self.noise, self.point_at, slope)
        if len(self._medians) >= LEAST:
            total += beyond(self._medians, self.shift_at, slope / 3) + beyond(self._sums, self.drift_at, 1e-3)
        return total * self.batches_per_h

    def shifted(self) -> None:
        """The level that residuals are taken from moved: forget what was under way."""
        self._recent.clear()
        self._flags.clear()
        self._median = None
        self._sum = self._drift = self.shift = 0.0
        self.sustained = self.drifting = False
        self.streak = 0

    def reseed(self, residuals: list[float]) -> None:
        """Another model predicts from here on: its residuals on held-out rows replace the old ones."""
        self.noise.fill(residuals)
        self._few = len(self.noise) < LEAST_FOR_SHIFTS
        self._medians.fill(())
        self._sums.fill(())
        self.shifted()
        self.refresh()


def limit_of(sense: Sensitivity, spread: float) -> float:
    """What the sum against the anchor must exceed: the sensitivity's limit, or seven spreads."""
    return max(sense.drift_limit, 7.0 * spread)
