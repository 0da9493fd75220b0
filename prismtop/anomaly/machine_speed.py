"""Whether the machine itself became slower: then an alert is true, and no fault of ours.

Told from `host_cpu_speed_ratio`, the time that a fixed piece of work takes on the engine's core. It knows
nothing of batches, of the model or of alerts, so that it can be held against them.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import log
from statistics import mean, quantiles

from prismtop.model import Alert

COUNTER = "host_cpu_speed_ratio"
NOTABLE = 0.1
"""A fall by a smaller share is no slowdown."""
COMPARABLE = 0.5
"""Share of an alert's slowdown (of its logarithm) that the core's must be to be called its cause."""
FEWEST = 20
"""Readings without which nothing is known."""
MARGIN_NS = 10**9
"""A reading is of the second before it: one that comes so late still tells about an interval."""
RECENT_NS = 2 * 10**9

Speeds = Sequence[tuple[int, float]]
"""(time in ns, speed as a share of the best) in order."""


def slow_share(speeds: Speeds) -> float | None:
    """Share of all readings that are a slowdown: how often an alert coincides with one by chance."""
    if len(speeds) < FEWEST:
        return None
    usual = _usual(speeds)
    return mean(speed < (1 - NOTABLE) * usual for _, speed in speeds)


def fall(speeds: Speeds, start_ns: int, end_ns: int) -> float | None:
    """By what share the core was slower in an interval than it usually is; None when it was not measured."""
    inside = [speed for at, speed in speeds if start_ns < at <= end_ns + MARGIN_NS]
    if not inside or len(speeds) < FEWEST:
        return None
    usual = _usual(speeds)
    return 1 - mean(inside) / usual if usual > 0 else None


def explained(alert: Alert, speeds: Speeds, end_ns: int) -> float | None:
    """The fall of the core's speed when it is about as large as what an alert is about, else None. A stall
    between batches has no size to compare, and is never explained.

    Args:
        end_ns: of watching, for an alert that is still open.
    """
    if alert.excess_pct is None or alert.excess_pct <= -100:
        return None
    fallen = fall(speeds, alert.started_ns, end_ns if alert.closed_ns is None else alert.closed_ns)
    if fallen is None or not NOTABLE <= fallen < 1:
        return None
    return fallen if -log(1 - fallen) >= COMPARABLE * log(1 + alert.excess_pct / 100) else None


def is_normal(speeds: Speeds, now_ns: int) -> bool:
    """Whether the core runs at its usual speed just now; also when that is not known."""
    fallen = fall(speeds, now_ns - RECENT_NS, now_ns)
    return fallen is None or fallen < NOTABLE


def _usual(speeds: Speeds) -> float:
    """The upper quartile: a machine that is slow half of the time is not usually slow."""
    return quantiles((speed for _, speed in speeds), n=4)[2]
