"""What an experiment would do, said before it does it."""

from __future__ import annotations

from dataclasses import dataclass

from prismtop.anomaly.journal import journal_dir, path_for
from prismtop.anomaly.scenario import TTL_GRACE_S, Availability, Request, Scenario
from prismtop.anomaly.scope import beyond_target, production_marker

_TOUCHED = {
    "process": "the target only",
    "cpus": "whatever runs on the same CPUs",
    "host": "every process of this machine",
    "gpu": "whatever computes on the same GPU",
    "namespace": "every process in the target's network namespace",
    "endpoint": "the engine, as its users do",
}


@dataclass(frozen=True)
class Plan:
    """The plan of one experiment.

    Attributes:
        ttl_s: seconds after which the watchdog ends it, from when it takes effect (within `START_S`).
        steps: what would be written, sent or started, in order.
        touched: who else notices.
        rollback: how it is undone.
        refusals: what stands against it now; empty when `run --yes` would go ahead.
    """

    scenario: str
    text: str
    method: str
    pid: int | None
    duration_s: float
    intensity: float
    ramp_s: float
    seed: int
    ttl_s: float
    steps: tuple[str, ...]
    touched: str
    rollback: str
    journal: str
    refusals: tuple[str, ...]
    available: Availability


def make_plan(scenario: Scenario, request: Request | None, defaults: Request) -> Plan:
    """The plan for a target, or without one (`request` None)."""
    order = request or defaults
    available = scenario.check(request.pid if request else None)
    if scenario.scope == "endpoint" and order.url:
        available = Availability(True)
    refusals: list[str] = []
    if not available.ok:
        refusals.append(f"not available here: {available.reason}")
    if request is not None:
        others = beyond_target(scenario, request)
        if others and not request.host_wide:
            refusals.append(f"it would slow down {others}: --host-wide agrees to that")
        if scenario.in_target and not request.in_target:
            refusals.append("it runs code of prismtop in the target: --in-target agrees to that")
        marker = production_marker(request.pid)
        if marker:
            refusals.append(f"this is production: {marker}")
    steps = scenario.steps(order) if available.ok and request is not None else ()
    touched = _TOUCHED[scenario.scope]
    if request is not None and beyond_target(scenario, request):
        touched = beyond_target(scenario, request)
    return Plan(
        scenario=scenario.id,
        text=scenario.text,
        method=scenario.method,
        pid=request.pid if request else None,
        duration_s=order.duration_s,
        intensity=order.intensity,
        ramp_s=order.ramp_s,
        seed=order.seed,
        ttl_s=order.duration_s + TTL_GRACE_S,
        steps=steps,
        touched=touched,
        rollback=scenario.rollback,
        journal=str(path_for(journal_dir(), order.pid, order.start_time)) if request else str(journal_dir()),
        refusals=tuple(refusals),
        available=available,
    )
