"""What a probe costs its process, from the costs that it measures itself and the calls that it recorded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from prismtop.sources.hook_code import HookPlan
from prismtop.sources.ring import ProbeStatus, Ring

PERIOD_NS = 2_000_000_000
MIN_CALLS = 100
"""Fewer calls in a period say nothing."""
MATERIAL = 0.03
"""A hook that costs less than this share of the probe saves nothing when it goes: those of the arrivals and
ends of requests are called little, and without them no request has a time to its first token."""


class CostMeter:
    """Calls of one probe by hook, weighed with their costs and held against the engine's busy time.

    Attributes:
        rate: recorded calls a second in the last period; None at first.
        per_event_ns: mean cost of a call; None at first.
        share: cost as a fraction of the engine's busy time; None at first.
    """

    def __init__(self, plans: Mapping[int, HookPlan], budget: float) -> None:
        self._plans = plans
        self._budget = budget
        self._counts: Counter[int] = Counter()
        self._since_ns = 0
        self._over = 0
        self._spent: dict[int, float] = {}
        self.rate: float | None = None
        self.per_event_ns: float | None = None
        self.share: float | None = None

    def start(self, now_ns: int) -> None:
        """The probe went in."""
        self._since_ns = now_ns

    def count(self, fids: Iterable[int]) -> None:
        """Take recorded calls, by hook number."""
        self._counts.update(fids)

    def measure(self, now_ns: int, busy_ns: int, ring: Ring, status: ProbeStatus) -> bool:
        """End a period; True when this and the one before cost more than the budget.

        Args:
            busy_ns: time that the engine was busy in the last `PERIOD_NS`.
        """
        elapsed = now_ns - self._since_ns
        counts, self._counts, self._since_ns = self._counts, Counter(), now_ns
        if elapsed < PERIOD_NS // 2:
            return False
        events = sum(counts.values())
        self.rate = events / elapsed * 1e9
        if busy_ns <= 0 or events < MIN_CALLS:
            return False
        looks = [(n, self._plans[fid]) for fid, n in counts.items() if fid in self._plans]
        boundaries = sum(n for n, plan in looks if plan.boundary) or sum(
            n for n, plan in looks if plan.stands_in
        )
        self._spent = {fid: n * ring.call_ns(fid, status) for fid, n in counts.items()}
        spent = sum(self._spent.values()) + ring.boundary_ns * boundaries
        self.per_event_ns = spent / events
        self.share = spent / min(busy_ns, elapsed)
        self._over = self._over + 1 if self.share > self._budget else 0
        return self._over >= 2

    def least_important(self, status: ProbeStatus) -> tuple[set[int], set[int]]:
        """Hooks that are in: those to keep, and those to drop first.

        Priority 1 is never dropped, nor what would save nothing (`MATERIAL`), nor the hooks that look at the
        mailbox and the lease: without them nothing takes the probe out. Where all hooks do, one is enough.
        """
        priorities = {
            fid: plan.hook.priority for fid, plan in self._plans.items() if status.hooks.get(fid, ("",))[0]
        }
        least = MATERIAL * sum(self._spent.values())
        needed = {fid for fid in priorities if self._plans[fid].looks}
        if needed and all(self._plans[fid].boundary for fid in priorities):
            needed = {max(needed, key=lambda fid: self._spent.get(fid, 0.0))}
        costly = {
            fid: priority
            for fid, priority in priorities.items()
            if self._spent.get(fid, 0) >= least and fid not in needed
        }
        worst = max(costly.values(), default=1)
        out = {fid for fid, priority in costly.items() if priority == worst and worst > 1}
        return priorities.keys() - out, out
