"""`Frame`: everything that a screen or an export needs for one tick, live or replayed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from prismtop.model.alert import Alert
from prismtop.model.batch import Batch
from prismtop.model.capture import Capture
from prismtop.model.counter import Counter
from prismtop.model.prediction import ModelCard
from prismtop.model.recording import Recording, Replay
from prismtop.model.slo import SloStatus
from prismtop.model.target import Group, ProcessId

HISTORY_S = 1.0
"""Seconds between two points of `Frame.counter_history`."""


class AttachState(str, Enum):
    """Where a group stands. ARMED: the probe starts with the engine's next request."""

    ATTACHING = "attaching"
    ARMED = "armed"
    LIVE = "live"
    EXTERNAL = "external"
    DETACHED = "detached"
    GONE = "gone"


@dataclass(frozen=True)
class HookStatus:
    """One hook of the profile in one process.

    Attributes:
        hook: its name in the profile.
        stage: the stage it measures.
        pid: the process.
        mechanism: `monitoring`, `setattr`, `code`, or empty when it is not installed.
        reason: why it is not installed (`module not loaded`, `dropped: over budget`); empty when it is.
    """

    hook: str
    stage: str
    pid: int
    mechanism: str
    reason: str = ""


@dataclass(frozen=True)
class ProbeCost:
    """What the probe takes from its target, measured by itself.

    Attributes:
        pid: the target.
        attach_us: stop of the thread that was used for the injection; None without a stop (PEP 768).
        setup_us: time the target's main thread spent building the probe.
        per_event_ns: cost of one hooked call, from calls on a dummy at attach.
        events_per_s: hooked calls a second, lately.
        share: its calls' cost as a fraction of the time that the engine was busy.
        dropped: hooks removed to keep the budget.
    """

    pid: int
    attach_us: float | None = None
    setup_us: float | None = None
    per_event_ns: float | None = None
    events_per_s: float | None = None
    share: float | None = None
    dropped: tuple[str, ...] = ()


@dataclass(frozen=True)
class Request:
    """Latency of one finished request, where the engine exposes its arrival and its outputs.

    Attributes:
        finished_ns: CLOCK_MONOTONIC.
        ttft_ns: from its arrival at the engine core to its first token; None when the arrival was not seen.
        tpot_ns: mean time per output token after the first; None with fewer than two tokens.
        output_tokens: None when not exposed.
        prompt_tokens: None when not exposed.
    """

    finished_ns: int
    ttft_ns: int | None = None
    tpot_ns: int | None = None
    output_tokens: int | None = None
    prompt_tokens: int | None = None


@dataclass(frozen=True)
class FirstToken:
    """A request got its first token.

    Attributes:
        time_ns: CLOCK_MONOTONIC.
        ttft_ns: how long after its arrival; None: its arrival was not seen.
    """

    time_ns: int
    ttft_ns: int | None


@dataclass(frozen=True)
class Percentiles:
    """p50, p95 and p99 over `count` observations; unit as the field's name says."""

    count: int
    p50: float
    p95: float
    p99: float


@dataclass(frozen=True)
class Throughput:
    """Rates over the last `window_s` seconds; None is: not exposed by this engine.

    Attributes:
        batches_per_s: engine iterations a second; None is: counted from outside, and none lately.
        tokens_per_s: prefill and decode tokens a second.
        decode_tokens_per_s: generated tokens a second.
        requests_per_s: requests finished a second.
        ttft_ms: of requests that got their first token in the window.
        itl_ms: time between consecutive tokens of a decoding request.
        busy: fraction of the window in which the engine was not idle.
        step_ms: batch durations by mode, keys are `Mode` values.
        stage_ms: stage durations, keys are (mode, stage).
    """

    window_s: float
    batches_per_s: float | None
    tokens_per_s: float | None = None
    decode_tokens_per_s: float | None = None
    requests_per_s: float | None = None
    ttft_ms: Percentiles | None = None
    itl_ms: Percentiles | None = None
    busy: float | None = None
    step_ms: dict[str, Percentiles] = field(default_factory=dict)
    stage_ms: dict[tuple[str, str], Percentiles] = field(default_factory=dict)


@dataclass(frozen=True)
class EngineMetrics:
    """What the frontend's own /metrics says, or why it says nothing.

    Attributes:
        url: endpoint read; empty when none was found.
        reason: why there are no values; empty when there are.
        age_s: seconds since the last successful read.
        values: gauges and counters by metric name (labels summed).
        ttft_s, queue_s: (upper bound, cumulative count) buckets since attach, as exposed, in seconds; None
            if absent.
        batch_count: the engine's own count of iterations since attach; None if it has none.
        batches_seen: batches that prismtop assembled over the same interval.
    """

    url: str = ""
    reason: str = ""
    age_s: float | None = None
    values: dict[str, float] = field(default_factory=dict)
    ttft_s: tuple[tuple[float, float], ...] | None = None
    queue_s: tuple[tuple[float, float], ...] | None = None
    batch_count: int | None = None
    batches_seen: int | None = None


@dataclass(frozen=True)
class Lost:
    """Records that were overwritten before they could be read, and batches left incomplete."""

    records: int = 0
    torn: int = 0
    batches: int = 0


@dataclass(frozen=True)
class Clock:
    """One session's clock: wall time is attached once.

    Attributes:
        wall_minus_mono_ns: CLOCK_REALTIME minus CLOCK_MONOTONIC when the session started.
    """

    wall_minus_mono_ns: int

    def wall_us(self, mono_ns: int) -> float:
        """Unix time in microseconds of a CLOCK_MONOTONIC time."""
        return (mono_ns + self.wall_minus_mono_ns) / 1000


@dataclass(frozen=True)
class Frame:
    """One tick of a session.

    Attributes:
        time_ns: CLOCK_MONOTONIC at which it was made.
        clock: how to turn times into wall time.
        group: the engine instance watched.
        state: attach state of the group.
        note: one sentence on the state (`armed: starts with the next request`), empty when there is nothing
            to say.
        new_batches: batches since the previous frame, oldest first.
        batches: the latest batches kept for a screen, oldest first.
        requests: requests finished since the previous frame.
        first_tokens: requests that got their first token since the previous frame.
        throughput: rates and percentiles of the window.
        hooks: every hook of the profile with its status.
        costs: per probed process.
        lost: totals since attach.
        metrics: the engine's own counters.
        total_batches: batches assembled since attach.
        monitor_cpu: prismtop's own CPU as a fraction of one core over the last seconds; None at first.
        warnings: sentences to show once.
        target_states: per pid, `running`, `exited`, `detached`, ...
        alerts: episodes of this session, oldest first, open ones included (the latest hundred).
        changed_alerts: opened, updated or closed since the previous frame.
        model: the latency model; None when batches are not judged.
        slo: objectives; None without targets.
        counters: the latest reading of every series.
        new_counters: readings since the previous frame.
        counter_history: values per (name, device) at `HISTORY_S` seconds apart, oldest first; None is a gap.
        recording: the trace being written; None when there is none.
        replay: where a replay stands; None when it is live.
        capture: the latest deep capture of this session; None when there was none.
    """

    time_ns: int
    clock: Clock
    group: Group
    state: AttachState
    note: str = ""
    new_batches: tuple[Batch, ...] = ()
    batches: tuple[Batch, ...] = ()
    requests: tuple[Request, ...] = ()
    first_tokens: tuple[FirstToken, ...] = ()
    throughput: Throughput | None = None
    hooks: tuple[HookStatus, ...] = ()
    costs: tuple[ProbeCost, ...] = ()
    lost: Lost = Lost()
    metrics: EngineMetrics = EngineMetrics()
    total_batches: int = 0
    monitor_cpu: float | None = None
    warnings: tuple[str, ...] = ()
    target_states: dict[ProcessId, str] = field(default_factory=dict)
    alerts: tuple[Alert, ...] = ()
    changed_alerts: tuple[Alert, ...] = ()
    model: ModelCard | None = None
    slo: SloStatus | None = None
    counters: tuple[Counter, ...] = ()
    new_counters: tuple[Counter, ...] = ()
    counter_history: Mapping[tuple[str, str], tuple[float | None, ...]] = field(default_factory=dict)
    recording: Recording | None = None
    replay: Replay | None = None
    capture: Capture | None = None
