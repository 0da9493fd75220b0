"""`Capture`: one DeepDive, from the question to the file."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class LayerState(str, Enum):
    """How much of a layer there is."""

    ON = "on"
    PARTIAL = "partial"
    OFF = "off"


@dataclass(frozen=True)
class Layer:
    """One source of events of a capture, before it and after it.

    Attributes:
        name: `batches operators python gpu gc scheduler stacks uprobes counters`.
        state: on, partial or off.
        reason: why it is not on, or what is partial; how it is done when it is on.
        events: in the merged trace; None before.
        pid: the process, 0 for all of them.
    """

    name: str
    state: LayerState
    reason: str = ""
    events: int | None = None
    pid: int = 0


class CapturePhase(str, Enum):
    """Where a capture stands. The last three are final."""

    PREPARING = "preparing"
    ARMED = "armed"
    CAPTURING = "capturing"
    EXPORTING = "exporting"
    MERGING = "merging"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def final(self) -> bool:
        """Whether nothing comes after it."""
        return self in (CapturePhase.DONE, CapturePhase.FAILED, CapturePhase.CANCELLED)


@dataclass(frozen=True)
class CaptureRequest:
    """What was asked.

    Attributes:
        batches: window, in batches of each captured process.
        max_s: the window ends then at the latest.
        path: the trace to write; empty makes a name in the recordings' directory.
        python: Python functions: `auto` (where nothing else shows them), `on`, `off`.
        gpu: GPU activities: `auto` (where the gate allows), `off`, `force`.
        all_ranks: every rank at once; False is the first one only.
        uprobes: also time collectives and launches from the kernel's side.
        why: `key`, `command`, or `alert N`.
    """

    batches: int = 50
    max_s: float = 10.0
    path: str = ""
    python: str = "auto"
    gpu: str = "auto"
    all_ranks: bool = False
    uprobes: bool = False
    why: str = "key"


@dataclass(frozen=True)
class Capture:
    """How a capture stands.

    Attributes:
        number: counts the captures of a session from 1.
        request: what was asked.
        phase: where it is.
        started_ns: CLOCK_MONOTONIC of the request.
        batches: seen in the window so far.
        layers: before: what will be collected; after: what was.
        expected_stall_ms: how long the engine is expected to stand still, start and stop together; None
            unknown.
        stall_ms: longest measured stall of a captured process at start and stop together; None not measured.
        before_ms, during_ms, after_ms: mean time of a batch (start to start while busy; without the twentieth
            at either end), before the window, in it without its start and stop, and after it; None where
            there were too few batches.
        residual: whether batches cost measurably more after it than before; None while it is not tested, or
            where it cannot be told. It and `after_ms` come after the trace is written.
        path: the merged trace once it is on disk.
        size_bytes: of it.
        clock_error_ns: largest error of aligning a layer to CLOCK_MONOTONIC; None nothing was aligned.
        error: why it failed: one sentence.
        notes: sentences for a person.
    """

    number: int
    request: CaptureRequest
    phase: CapturePhase
    started_ns: int
    batches: int = 0
    layers: tuple[Layer, ...] = ()
    expected_stall_ms: float | None = None
    stall_ms: float | None = None
    before_ms: float | None = None
    during_ms: float | None = None
    after_ms: float | None = None
    residual: bool | None = None
    path: str = ""
    size_bytes: int = 0
    clock_error_ns: int | None = None
    error: str = ""
    notes: tuple[str, ...] = ()
