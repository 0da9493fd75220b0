"""Small builders of the nouns, for tests."""

from __future__ import annotations

from typing import Any

from prismtop.model import (
    AttachState,
    Batch,
    Clock,
    Frame,
    Group,
    Mode,
    ProcessId,
    Stage,
    Target,
    Workload,
)

MS = 1_000_000


def make_target(pid: int = 4242, **changes: Any) -> Target:
    """A probed vLLM engine core."""
    fields: dict[str, Any] = {
        "id": ProcessId(pid, 1000 + pid),
        "engine": "vllm",
        "role": "engine_core",
        "probed": True,
        "title": "VLLM::EngineCore",
        "version": "0.33.0",
        "python": (3, 12, 1),
        "way_in": "ptrace",
        "user": "root",
    }
    return Target(**{**fields, **changes})


def make_group(*members: Target, **changes: Any) -> Group:
    """One engine instance."""
    fields: dict[str, Any] = {"engine": "vllm", "version": "0.33.0", "members": members or (make_target(),)}
    return Group(**{**fields, **changes})


def make_stages(start_ns: int, pid: int = 4242, **stage_ms: float) -> tuple[Stage, ...]:
    """Consecutive stages, lengths in milliseconds."""
    stages, at = [], start_ns
    for name, length in stage_ms.items():
        duration = int(length * MS)
        stages.append(Stage(name, name, at, duration, pid, tid=1, span_ns=duration))
        at += duration
    return tuple(stages)


def make_batch(seq: int = 0, start_ns: int = 10**12, **changes: Any) -> Batch:
    """A decode batch of 8 ms: schedule, prepare, launch, wait, post."""
    stages = make_stages(start_ns, schedule=0.2, prepare=0.6, launch=1.8, wait=5.0, post=0.4)
    fields: dict[str, Any] = {
        "pid": 4242,
        "engine": "vllm",
        "seq": seq,
        "start_ns": start_ns,
        "duration_ns": 8 * MS,
        "period_ns": 8 * MS,
        "mode": Mode.DECODE,
        "stages": stages,
        "workload": Workload(
            batch_size=16,
            prefill_tokens=0,
            decode_tokens=16,
            context_tokens=5353,
            running=16,
            waiting=0,
            kv_usage=0.21,
        ),
    }
    return Batch(**{**fields, **changes})


def make_frame(batches: int = 20, **changes: Any) -> Frame:
    """A live frame with `batches` consecutive batches."""
    made = tuple(make_batch(seq, 10**12 + seq * 8 * MS) for seq in range(batches))
    fields: dict[str, Any] = {
        "time_ns": 10**12 + (batches + 1) * 8 * MS,
        "clock": Clock(wall_minus_mono_ns=1_764_238_000 * 10**9),
        "group": make_group(),
        "state": AttachState.LIVE,
        "new_batches": made,
        "batches": made,
        "total_batches": batches,
    }
    return Frame(**{**fields, **changes})
