"""What a recording of ours holds beside batches, requests, counters and alerts, and its schema."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields

from prismtop.model import AttachState, Clock, Group, HookStatus, Lost, ProbeCost, ProcessId, Workload

SCHEMA = 1
SESSION_EVENT = "prismtop"
SERIES_EVENT = "prismtop_counter"
READING_EVENT = "prismtop_reading"
END_EVENT = "prismtop_end"
CAPTURE_EVENT = "prismtop_capture"
"""Holds a `prismtop.model.Capture`."""
DEVICE_EVENT = "prismtop_device"
"""Says whose device a process of the trace is: `{"of": pid, "device": n}`."""
THREAD_EVENT = "prismtop_thread"
"""Says which thread a track next to it is about: `{"of": native thread id}`."""

CAT_BATCH = "batch"
CAT_STAGE = "stage"
CAT_REQUEST = "request"
CAT_COUNTER = "counter"
CAT_VALUE = "counter_value"
"""The number of a reading that has words too, for viewers; the reading is the metadata next to it."""
CAT_ALERT = "anomaly"
CAT_TRUTH = "ground_truth"
CAT_SESSION = "prismtop"
CATEGORIES = frozenset(
    (CAT_BATCH, CAT_STAGE, CAT_REQUEST, CAT_COUNTER, CAT_VALUE, CAT_ALERT, CAT_TRUTH, CAT_SESSION)
)
"""All that events of ours have; those of other layers have others."""

WORKLOAD = tuple(f.name for f in fields(Workload) if f.name != "sampled")
"""Workload values, which are arguments of a batch event under their own names."""

BEFORE_NS = 3_600 * 10**9
"""A recording's base lies this long before its session's first frame: times below it are cut to it, and no
time can be negative. Requests are followed for an hour at most."""


@dataclass(frozen=True)
class SessionInfo:
    """The `M` event named `prismtop`: what was watched, and how.

    Attributes:
        base_ns: CLOCK_MONOTONIC of the trace's time 0.
        clock: of the recorded session.
        group: the engine instance.
        time_ns: when this was written.
        version: of the prismtop that wrote it.
        segment: number of the file within its recording, from 0.
        state, note, hooks, costs, lost, target_states: as in `Frame`.
    """

    base_ns: int
    clock: Clock
    group: Group
    time_ns: int
    version: str = ""
    segment: int = 0
    state: AttachState = AttachState.LIVE
    note: str = ""
    hooks: tuple[HookStatus, ...] = ()
    costs: tuple[ProbeCost, ...] = ()
    lost: Lost = field(default_factory=Lost)
    target_states: Mapping[ProcessId, str] = field(default_factory=dict)


@dataclass(frozen=True)
class StateChange:
    """The attach state, the note, a hook or a target's state changed; the fields are those of `Frame`."""

    time_ns: int
    state: AttachState
    note: str = ""
    hooks: tuple[HookStatus, ...] = ()
    costs: tuple[ProbeCost, ...] = ()
    target_states: Mapping[ProcessId, str] = field(default_factory=dict)


@dataclass(frozen=True)
class LostSoFar:
    """Totals of records that were overwritten unread, when they grew."""

    time_ns: int
    lost: Lost


@dataclass(frozen=True)
class Said:
    """A warning of the live session."""

    time_ns: int
    text: str


@dataclass(frozen=True)
class Dropped:
    """Events that the recorder's queue had no room for, at this place of the trace."""

    time_ns: int
    events: int


@dataclass(frozen=True)
class GroundTruth:
    """A fault that was injected on purpose.

    Attributes:
        scenario: its name.
        start_ns, duration_ns: when it acted; CLOCK_MONOTONIC.
        pid: the target.
        args: what else is known (kind, intensity, seed, planned times, ramp, effect_check, rollback):
            finite numbers, texts, booleans, None.
    """

    scenario: str
    start_ns: int
    duration_ns: int
    pid: int
    args: Mapping[str, object] = field(default_factory=dict)
