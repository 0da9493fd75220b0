"""Faults inside the target's interpreter. They need a probe that runs our code there, which it does not."""

from __future__ import annotations

from collections.abc import Iterator

from prismtop.anomaly.guard import Guard
from prismtop.anomaly.scenario import Availability, Request
from prismtop.errors import UnavailableError

_REASON = (
    "the probe's mailbox knows two orders, choose hooks and detach; it has none that runs code in the target"
)


def check(pid: int | None) -> Availability:
    """Never, with the reason."""
    return Availability(False, _REASON)


def steps(request: Request) -> tuple[str, ...]:
    """Nothing would be written."""
    return ()


def inject(request: Request, guard: Guard) -> Iterator[float]:
    """Refuse: nothing is simulated in silence."""
    raise UnavailableError(f"{_REASON}.")
