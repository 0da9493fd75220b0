"""`Batch`, its `Stage`s and its `Workload`: one iteration of an engine.

All times are integer nanoseconds of CLOCK_MONOTONIC.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from prismtop.model.breakdown import Breakdown
from prismtop.model.construct import by_keyword
from prismtop.model.prediction import Prediction

STAGES = ("recv", "schedule", "prepare", "launch", "sample", "wait", "post", "stream", "idle")
"""The nine stage names, in the order in which a batch passes them. `wait`: the host blocked on the device."""


class Mode(str, Enum):
    """Forward mode of a batch; UNKNOWN when the engine does not expose enough to tell."""

    PREFILL = "prefill"
    DECODE = "decode"
    MIXED = "mixed"
    IDLE = "idle"
    UNKNOWN = "unknown"


class Origin(str, Enum):
    """How a batch was observed: by a probe, by sampling from outside, or from a trace."""

    EXACT = "exact"
    SAMPLED = "sampled"
    TRACE = "trace"


@dataclass(frozen=True)
class Stage:
    """A named interval inside a batch.

    Attributes:
        name: one of `STAGES`.
        hook: the profile's hook that measured it (`update_from_output`), or the annotation of a trace.
        start_ns: CLOCK_MONOTONIC.
        duration_ns: wall time of the interval less its suspended time and less the time of hooks nested in it
            that belong to another stage, so that a batch's stages add up without counting anything twice.
        pid: process in which it ran.
        tid: native thread id is not read (it costs a system call): the interpreter's thread ident, low 32
            bits.
        rank: tensor-parallel rank of that process; None without ranks.
        span_ns: end of the interval minus its start, nested stages included.
    """

    name: str
    hook: str
    start_ns: int
    duration_ns: int
    pid: int
    tid: int = 0
    rank: int | None = None
    span_ns: int = 0


@dataclass(frozen=True)
class Workload:
    """What a batch had to do. A value that the engine does not expose is None, never 0.

    Attributes:
        batch_size: requests in the batch.
        prefill_tokens: prompt tokens computed in this batch.
        decode_tokens: tokens computed for requests that are already generating.
        context_tokens: sum over the batch's requests of tokens whose keys and values are read.
        max_context: the longest of those.
        cached_tokens: prompt tokens served by the prefix cache for requests that are new in this batch.
        new_requests: requests scheduled for the first time.
        running: requests that the scheduler holds as running.
        waiting: requests queued.
        kv_usage: used fraction of the KV cache, 0 to 1.
        preempted: requests preempted by this schedule.
        sampled: names of values that were estimated from a part of a large batch.
    """

    batch_size: int | None = None
    prefill_tokens: int | None = None
    decode_tokens: int | None = None
    context_tokens: int | None = None
    max_context: int | None = None
    cached_tokens: int | None = None
    new_requests: int | None = None
    running: int | None = None
    waiting: int | None = None
    kv_usage: float | None = None
    preempted: int | None = None
    sampled: frozenset[str] = frozenset()

    @property
    def tokens(self) -> int | None:
        """Tokens scheduled in this batch, when either part is known."""
        if self.prefill_tokens is None and self.decode_tokens is None:
            return None
        return (self.prefill_tokens or 0) + (self.decode_tokens or 0)


@dataclass(frozen=True)
class RankTime:
    """What one rank did in a batch before its collective.

    Attributes:
        rank: tensor-parallel rank.
        pid: its process.
        pre_collective_ns: host time from the rank's first stage of the batch to its launch's end, waits
            excluded: collectives equalise totals and hide the straggler, this does not.
    """

    rank: int
    pid: int
    pre_collective_ns: int


@dataclass(frozen=True)
class Batch:
    """One engine iteration.

    Attributes:
        pid: process whose hook anchors the batch.
        rank: its rank, None without ranks.
        engine: profile name.
        seq: number of the batch in this session, per engine instance, from 0.
        start_ns: start of its first stage.
        duration_ns: from the start of its first stage to the end of its last.
        period_ns: from the previous batch's settle to this one's; None for the first after an idle gap. Under
            overlapped scheduling this, not the duration, is what a token costs.
        mode: prefill, decode, mixed, idle or unknown.
        stages: in order of start.
        workload: what the batch had to do.
        origin: exact, sampled or trace.
        ranks: one entry per rank, for tensor-parallel groups.
        idle_ns: time that the engine had nothing to do before this batch.
        suspect: why the record is not fully trusted (an exception left a stage open, a stage was lost);
            empty.
        prediction: what it should have cost; None before it was judged, or when it cannot be.
        breakdown: what device and host did in it; None without a deep capture or a profiler's trace.
    """

    pid: int
    engine: str
    seq: int
    start_ns: int
    duration_ns: int
    period_ns: int | None = None
    mode: Mode = Mode.UNKNOWN
    stages: tuple[Stage, ...] = ()
    workload: Workload = field(default_factory=Workload)
    origin: Origin = Origin.EXACT
    rank: int | None = None
    ranks: tuple[RankTime, ...] = ()
    idle_ns: int = 0
    suspect: str = ""
    prediction: Prediction | None = None
    breakdown: Breakdown | None = None

    @property
    def end_ns(self) -> int:
        """End of the last stage."""
        return self.start_ns + self.duration_ns

    @property
    def judged_ns(self) -> int | None:
        """The time that its prediction is about: the period under overlapped scheduling, None without one;
        else the duration.
        """
        made = self.prediction
        return self.period_ns if made is not None and made.basis == "period" else self.duration_ns

    def with_prediction(self, prediction: Prediction) -> Batch:
        """The same batch with its prediction. Each gets one, and `dataclasses.replace` takes four times as
        long.
        """
        made = object.__new__(Batch)
        made.__dict__.update(self.__dict__, prediction=prediction)
        return made

    def stage_ns(self) -> dict[str, int]:
        """Exclusive time per stage name, in the order of `STAGES`; stages that were not observed are absent.

        Ranks run side by side, so of several workers or ranks one counts: the lowest (and the anchor
        process).
        """
        totals: dict[str, int] = {}
        get = totals.get
        for stage in self.stages:
            if stage.rank is not None:
                totals = self._of_one_rank()
                break
            name = stage.name
            totals[name] = get(name, 0) + stage.duration_ns
        return {name: totals[name] for name in STAGES if name in totals}

    def _of_one_rank(self) -> dict[str, int]:
        lowest = min(stage.rank for stage in self.stages if stage.rank is not None)
        totals: dict[str, int] = {}
        for stage in self.stages:
            if stage.rank in (None, lowest) or stage.pid == self.pid:
                totals[stage.name] = totals.get(stage.name, 0) + stage.duration_ns
        return totals


new_stage = by_keyword(Stage)
new_workload = by_keyword(Workload)
new_batch = by_keyword(Batch)
