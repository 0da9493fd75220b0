"""What a source of batches hands to the session: live or, later, replayed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from prismtop.model import (
    Alert,
    AttachState,
    Batch,
    Clock,
    Counter,
    EngineMetrics,
    FirstToken,
    Group,
    HookStatus,
    Lost,
    ProbeCost,
    ProcessId,
    Replay,
    Request,
)


@dataclass(frozen=True)
class SourceTick:
    """Everything new since the last poll; the fields are those of `Frame`.

    Attributes:
        counters: readings that a trace holds; live sources have none, they come from a sampler.
        replay: where a replay stands.
        alerts: those recorded in a trace that is not judged again.
        jumped: whether a replay went elsewhere: what came before this tick is no history of it.
    """

    time_ns: int
    state: AttachState
    note: str = ""
    batches: tuple[Batch, ...] = ()
    first_tokens: tuple[FirstToken, ...] = ()
    requests: tuple[Request, ...] = ()
    hooks: tuple[HookStatus, ...] = ()
    costs: tuple[ProbeCost, ...] = ()
    lost: Lost = field(default_factory=Lost)
    metrics: EngineMetrics = field(default_factory=EngineMetrics)
    warnings: tuple[str, ...] = ()
    target_states: Mapping[ProcessId, str] = field(default_factory=dict)
    counters: tuple[Counter, ...] = ()
    replay: Replay | None = None
    alerts: tuple[Alert, ...] = ()
    jumped: bool = False


class Source(Protocol):
    """Where batches come from."""

    group: Group
    clock: Clock

    def poll(self) -> SourceTick:
        """What is new. Never blocks for longer than a few milliseconds."""

    def close(self) -> tuple[str, ...]:
        """Let go of the target; sentences about what is still there. Idempotent."""
