"""Whether the causes that a recorded session named are those of the faults that were injected into it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from prismtop.anomaly.catalogue import SCENARIOS
from prismtop.anomaly.episodes import GUARD_NS, span
from prismtop.model import Alert

_TOP = 3


class Injected(Protocol):
    """A fault: its scenario, when it acted, whether it had an effect (None: not known)."""

    @property
    def id(self) -> str:
        """Scenario."""

    @property
    def start_ns(self) -> int:
        """First act."""

    @property
    def end_ns(self) -> int:
        """End of the undoing."""

    @property
    def effect(self) -> bool | None:
        """False is: none."""


@dataclass(frozen=True)
class CauseScore:
    """Shares of the faults that were found and explained.

    Attributes:
        explained: faults of a known scenario with an alert that names causes.
        top1, top3: share of these with a right cause first, or among the first three.
    """

    explained: int
    top1: float
    top3: float


def cause_score(truths: Iterable[Injected], alerts: Sequence[Alert]) -> CauseScore | None:
    """Compare; of several alerts in a fault the one with the largest excess counts. None without any."""
    right = {one.id: one.causes for one in SCENARIOS if not one.control}
    ranks: list[int] = []
    for truth in truths:
        if truth.id not in right or truth.effect is False:
            continue
        mine = [
            alert
            for alert in alerts
            if alert.causes
            and truth.start_ns <= alert.opened_ns < truth.end_ns + GUARD_NS
            and span(alert)[0] < truth.end_ns + GUARD_NS
        ]
        if mine:
            causes = max(mine, key=lambda alert: alert.excess_ns).causes
            found = [at for at, cause in enumerate(causes) if cause.id in right[truth.id]]
            ranks.append(found[0] if found else _TOP)
    if not ranks:
        return None
    count = len(ranks)
    return CauseScore(count, sum(at < 1 for at in ranks) / count, sum(at < _TOP for at in ranks) / count)
