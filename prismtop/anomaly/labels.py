"""Ground truth: what was done, when, and whether it had an effect, as data and as trace events."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from prismtop.anomaly.effect import Effect
from prismtop.anomaly.injector import Outcome
from prismtop.anomaly.scenario import Request, Scenario

if TYPE_CHECKING:
    from prismtop.model import Clock

CATEGORY = "ground_truth"


@dataclass(frozen=True)
class Label:
    """One injection.

    Attributes:
        scenario: its id.
        kind: `fault`, or `control` for a workload shift.
        pid: the target.
        intensity, seed, ramp_s: as ordered.
        start_ns, end_ns: from when it took effect to the end of the undoing; CLOCK_MONOTONIC.
        planned_end_ns: when it was to end.
        rollback_ok: everything was undone.
        causes: ids of causes that name it.
        effect: on the target's batches; None when nobody watched them.
    """

    scenario: str
    kind: str
    pid: int
    intensity: float
    seed: int
    ramp_s: float
    start_ns: int
    end_ns: int
    planned_end_ns: int
    rollback_ok: bool
    causes: tuple[str, ...]
    effect: Effect | None = None


def make_label(scenario: Scenario, request: Request, outcome: Outcome, effect: Effect | None = None) -> Label:
    """The label of an experiment that was run."""
    return Label(
        scenario=scenario.id,
        kind="control" if scenario.control else "fault",
        pid=request.pid,
        intensity=request.intensity,
        seed=request.seed,
        ramp_s=request.ramp_s,
        start_ns=outcome.start_ns,
        end_ns=outcome.end_ns,
        planned_end_ns=outcome.planned_end_ns,
        rollback_ok=outcome.rollback.ok,
        causes=scenario.causes,
        effect=effect,
    )


def arguments(label: Label) -> dict[str, object]:
    """What a trace event says beside name, time and process: finite numbers, texts, booleans, None."""
    made: dict[str, object] = {
        "scenario": label.scenario,
        "kind": label.kind,
        "target": label.pid,
        "intensity": label.intensity,
        "seed": label.seed,
        "ramp_s": label.ramp_s,
        "planned_ms": (label.planned_end_ns - label.start_ns) / 1e6,
        "causes": " ".join(label.causes),
        "rollback": "ok" if label.rollback_ok else "failed",
        "effect_check": label.effect.verdict if label.effect else "not measured",
    }
    if label.effect is not None:
        made["effect_pct"] = label.effect.percent
        made["effect_batches"] = label.effect.batches
    return made


def event(label: Label, base_ns: int = 0) -> dict[str, object]:
    """A Chrome trace slice; times in microseconds after `base_ns`."""
    return {
        "ph": "X",
        "cat": CATEGORY,
        "name": label.scenario,
        "pid": label.pid,
        "tid": 0,
        "ts": round((label.start_ns - base_ns) / 1000, 3),
        "dur": round((label.end_ns - label.start_ns) / 1000, 3),
        "args": arguments(label),
    }


def line(label: Label, clock: Clock | None = None) -> dict[str, object]:
    """A JSON line of type `ground_truth`; Unix microseconds with a clock, else CLOCK_MONOTONIC."""
    start_us = clock.wall_us(label.start_ns) if clock else label.start_ns / 1000
    return {
        "v": 1,
        "type": "ground_truth",
        "id": label.scenario,
        "t_us": round(start_us, 3),
        "dur_us": round((label.end_ns - label.start_ns) / 1000, 3),
        **({} if label.effect is None or label.effect.percent is None else {"effect": label.effect.has_one}),
        **arguments(label),
    }
