"""Frames with everything that a recording can hold, and readers of what was written."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from prismtop.model import (
    Alert,
    Batch,
    Cause,
    Counter,
    FirstToken,
    Frame,
    HookStatus,
    Lost,
    Mode,
    ModelState,
    Origin,
    Prediction,
    ProbeCost,
    ProcessId,
    RankTime,
    Request,
    Severity,
    Stage,
    Verdict,
    Workload,
)
from prismtop.trace.decode import Decoding, Noun, decode, unfinished
from prismtop.trace.events import Encoder
from tests.factories import MS, make_batch, make_frame, make_group, make_target

START = 10**12 + 123_456_789


def stage(name: str, start_ns: int, span_ns: int, **changes: Any) -> Stage:
    """A stage of the anchor thread, all of its time its own."""
    fields: dict[str, Any] = {"duration_ns": span_ns, "span_ns": span_ns, "pid": 4242, "tid": 77}
    return Stage(name, f"{name}_hook", start_ns, **{**fields, **changes})


def nested_batch(seq: int, start_ns: int) -> Batch:
    """Launch inside of which sample is nested, then wait, ending with the batch to the nanosecond."""
    stages = (
        stage("schedule", start_ns, 200_001),
        stage("launch", start_ns + 200_003, 3_000_007, duration_ns=2_000_006),
        stage("sample", start_ns + 1_200_003, 1_000_001),
        stage("wait", start_ns + 3_200_010, 999_989),
    )
    return make_batch(seq, start_ns, duration_ns=4_199_999, period_ns=4_200_001, stages=stages)


def full_batch(seq: int, start_ns: int) -> Batch:
    """A batch with a value in every field: two ranks, a second thread, a prediction."""
    stages = (
        *nested_batch(seq, start_ns).stages,
        stage("launch", start_ns + 5, 3_000_001, pid=4243, tid=78, rank=1),
        stage("wait", start_ns + 3_000_006, 0, duration_ns=1_100_000, pid=4243, tid=78, rank=1),
        stage("stream", start_ns + 100_000, 500, tid=99),
    )
    return make_batch(
        seq,
        start_ns,
        duration_ns=4_200_006,
        mode=Mode.MIXED,
        stages=tuple(sorted(stages, key=lambda each: each.start_ns)),
        workload=Workload(17, 512, 16, 5353, 900, 64, 1, 17, 3, 0.1 + 0.2, 2, frozenset({"context_tokens"})),
        origin=Origin.SAMPLED,
        rank=0,
        ranks=(RankTime(0, 4242, 3_000_123), RankTime(1, 4243, 3_000_456)),
        idle_ns=12_345,
        suspect="a stage was lost",
        prediction=Prediction(8_001_234, 7_600_001, 8_900_009, ModelState.STALE, Verdict.SLOW, "period"),
    )


def overlapping_batches(count: int, start_ns: int) -> tuple[Batch, ...]:
    """Batches of 10 ms every 6 ms: two are always in flight."""
    return tuple(
        make_batch(seq, start_ns + seq * 6 * MS, duration_ns=10 * MS, stages=_halves(start_ns + seq * 6 * MS))
        for seq in range(count)
    )


def _halves(start_ns: int) -> tuple[Stage, ...]:
    return (stage("launch", start_ns, 5 * MS), stage("post", start_ns + 9 * MS, MS))


def an_alert(**changes: Any) -> Alert:
    """An episode that is open, with a cause."""
    cause = Cause(
        "cpu_contention", 0.91, "the CPU is shared", ("runq 4 ms",), ("clock is fine",), "look at top"
    )
    fields: dict[str, Any] = {
        "id": 1,
        "kind": "shift",
        "severity": Severity.CRITICAL,
        "opened_ns": START + 30 * MS + 1,
        "started_ns": START + 3,
        "pid": 4242,
        "first_seq": 1,
        "last_seq": 3,
        "batches": 3,
        "excess_ns": 12_345_678,
        "text": "decode +38 % for 3 batches",
        "excess_pct": 38.1,
        "causes": (cause,),
    }
    return Alert(**{**fields, **changes})


def full_frame() -> Frame:
    """A frame with everything new that a frame can have."""
    group = make_group(
        make_target(ranks=(("TP", 0),), ports=(8000,), parent=ProcessId(1, 2), ns_pid=7, model="Qwen3"),
        make_target(4243, ranks=(("TP", 1),), role="worker"),
    )
    return make_frame(
        0,
        time_ns=START + 100 * MS,
        group=group,
        hooks=(
            HookStatus("schedule", "schedule", 4242, "monitoring"),
            HookStatus("x", "post", 4243, "", "no"),
        ),
        costs=(ProbeCost(4242, 100.5, None, 812.25, 700.0, 0.0008, ("x",)),),
        lost=Lost(3, 1, 2),
        new_batches=(nested_batch(0, START), full_batch(1, START + 5 * MS)),
        requests=(
            Request(START + 20 * MS + 7, 5_000_001, 1_000_003, 9, 12),
            Request(START + 21 * MS, None, None, 1, None),
            Request(START + 22 * MS),
        ),
        first_tokens=(FirstToken(START + 11, 4_000_001), FirstToken(START + 12, None)),
        new_counters=(
            Counter("host_cpu_busy_ratio", "host", "ratio", START + 1, 0.1 + 0.2, source="procfs"),
            Counter("gpu_sm_clock_mhz", "gpu 0", "mhz", START + 2, 1395, source="nvml", period_ns=100 * MS),
            Counter("gpu_sm_clock_mhz", "gpu 1", "mhz", START + 2, None, "the driver says no", "nvml"),
            Counter("gpu_clock_limits", "gpu 0", "", START + 3, 4.0, text="thermal"),
            Counter("process_rss_bytes", "pid 4242", "bytes", START + 4, 2**40),
            Counter("odd", "host", "ratio", START + 5, float("inf")),
        ),
        changed_alerts=(an_alert(), an_alert(id=2, closed_ns=START + 40 * MS, causes=(), excess_pct=None)),
        warnings=("the ring is small",),
        target_states={ProcessId(4242, 5242): "running"},
    )


def decoded(texts: list[str]) -> list[Noun]:
    """What the reader of these events gets."""
    state = Decoding()
    found = [noun for text in texts if (noun := decode(json.loads(text), state)) is not None]
    return found + list(unfinished(state))


def encoded(frame: Frame) -> list[str]:
    """A header and the events of one frame, after an empty one that began the session."""
    quiet = replace(frame, new_batches=(), requests=(), first_tokens=(), new_counters=(), changed_alerts=())
    encoder = Encoder(replace(quiet, lost=Lost(), warnings=(), hooks=(), costs=()))
    events = encoder.events_of(frame)
    return encoder.header() + events


def events_in(path: Path) -> list[dict[str, Any]]:
    """The events of a plain trace, which may lack its closing bracket."""
    text = path.read_text()
    if not text.rstrip().endswith("]"):
        text += "]"
    events: list[dict[str, Any]] = json.loads(text)
    return events
