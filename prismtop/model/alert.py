"""`Alert`: an episode that should wake a person, and the `Cause`s that may explain it."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum


class Severity(str, Enum):
    """How much of the engine's time an episode takes; every alert is worth waking for."""

    WARNING = "warning"
    CRITICAL = "critical"


@dataclass(frozen=True)
class Cause:
    """A hypothesis about an episode.

    Attributes:
        id: one of the stable ids (`gpu_clock_limited`, `cpu_contention`, ..., `unknown`).
        score: calibrated, 0 to 1.
        text: one sentence for a person.
        evidence: sentences with numbers, strongest first.
        against: what does not fit.
        next_step: what to check next.
    """

    id: str
    score: float
    text: str = ""
    evidence: tuple[str, ...] = ()
    against: tuple[str, ...] = ()
    next_step: str = ""


@dataclass(frozen=True)
class Alert:
    """One episode. An episode that goes on is updated: same `id`, new numbers.

    Attributes:
        id: number within the session, from 1.
        kind: `spike`, `shift`, `drift`, `stall`, `throughput` or `slo`.
        severity: warning or critical.
        opened_ns, closed_ns: CLOCK_MONOTONIC; `closed_ns` is None while it is open.
        started_ns: where the detector places its first batch.
        pid: process whose batches these are.
        first_seq, last_seq: first and latest batch of the episode.
        batches: batches in it.
        excess_ns: time beyond the prediction, summed.
        excess_pct: median excess over the prediction in percent; None for stalls.
        text: one sentence (`decode +38 % for 41 batches`).
        causes: ranked, best first; empty until they were looked for.
    """

    id: int
    kind: str
    severity: Severity
    opened_ns: int
    started_ns: int
    pid: int
    first_seq: int
    last_seq: int
    batches: int
    excess_ns: int
    text: str
    closed_ns: int | None = None
    excess_pct: float | None = None
    causes: tuple[Cause, ...] = field(default_factory=tuple)
