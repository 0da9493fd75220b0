"""Events of a recording of ours back into nouns; `prismtop.trace.events` is the way there.

Event objects are those of any JSON parser: `ts` and `dur` are microseconds as numbers, exact to the
nanosecond after rounding for 50 days from the base. Anything that is not ours, or is damaged, decodes to
None; nothing raises.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from prismtop.model import (
    Alert,
    AttachState,
    Batch,
    Bound,
    Breakdown,
    Cause,
    Clock,
    Counter,
    DeviceTime,
    FirstToken,
    Group,
    HookStatus,
    HostTime,
    Lost,
    Mode,
    ModelState,
    Origin,
    Part,
    Prediction,
    ProbeCost,
    ProcessId,
    RankTime,
    Request,
    Severity,
    Stage,
    Target,
    Verdict,
    Workload,
)
from prismtop.trace.own import (
    CAT_ALERT,
    CAT_BATCH,
    CAT_COUNTER,
    CAT_REQUEST,
    CAT_SESSION,
    CAT_STAGE,
    CAT_TRUTH,
    READING_EVENT,
    SCHEMA,
    SERIES_EVENT,
    SESSION_EVENT,
    WORKLOAD,
    Dropped,
    GroundTruth,
    LostSoFar,
    Said,
    SessionInfo,
    StateChange,
)

CUT = "its recording ends inside this batch"
"""`Batch.suspect` of a batch whose stages are not all there."""
PENDING_MAX = 1024

Event: TypeAlias = Mapping[str, Any]
Noun: TypeAlias = (
    Batch
    | Request
    | FirstToken
    | Counter
    | Alert
    | GroundTruth
    | SessionInfo
    | StateChange
    | LostSoFar
    | Said
    | Dropped
)


@dataclass(frozen=True)
class _Series:
    name: str
    device: str
    unit: str
    source: str
    period_ns: int


@dataclass
class _Pending:
    batch: Batch
    thread: int
    missing: int
    stages: list[tuple[int, Stage]]


@dataclass
class Decoding:
    """What decoding one recording remembers between events.

    Attributes:
        session: the latest `SessionInfo`; None until one came, and then `decode` knows no absolute time and
            answers None.
    """

    session: SessionInfo | None = None
    series: dict[tuple[int, str], _Series] = field(default_factory=dict)
    pending: dict[tuple[int, int], _Pending] = field(default_factory=dict)


def decode(event: Event, state: Decoding) -> Noun | None:
    """The noun that `event` holds or completes, or None.

    A batch comes with the last of its stages; they follow it in the file, in the order of the recording or
    sorted by time. What is left at the end comes from `unfinished`.
    """
    try:
        if event.get("name") == SESSION_EVENT and event.get("ph") == "M":
            return _session(event, state)
        if state.session is None:
            return None
        decoder = _DECODERS.get(event.get("cat") or event.get("name") or "")
        return decoder(event, state, state.session.base_ns) if decoder else None
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, IndexError):
        return None


def unfinished(state: Decoding) -> list[Batch]:
    """Batches whose last stages never came, marked suspect; they are forgotten."""
    left = [_whole(pending, CUT) for pending in state.pending.values()]
    state.pending.clear()
    return left


def time_ns(event: Event, base_ns: int) -> int:
    """CLOCK_MONOTONIC nanoseconds of an event's `ts`."""
    relative: int = round(event["ts"] * 1000)
    return base_ns + relative


def _session(event: Event, state: Decoding) -> SessionInfo | None:
    args = event["args"]
    if args.get("schema") != SCHEMA:
        return None
    base = int(args["base_ns"])
    state.session = SessionInfo(
        base_ns=base,
        clock=Clock(int(args["wall_minus_mono_ns"])),
        group=Group(args["engine"], args["engine_version"], tuple(map(_member, args["members"]))),
        time_ns=base + int(args["time_ns"]),
        version=args["version"],
        segment=args["segment"],
        lost=Lost(*args["lost"]),
        **_state(args),
    )
    return state.session


def _state(args: Event) -> dict[str, Any]:
    return {
        "state": AttachState(args["state"]),
        "note": args["note"],
        "hooks": tuple(HookStatus(*hook) for hook in args["hooks"]),
        "costs": tuple(_cost(cost) for cost in args["costs"]),
        "target_states": {ProcessId(pid, since): text for pid, since, text in args["target_states"]},
    }


def _cost(cost: Event) -> ProbeCost:
    return ProbeCost(**{**cost, "dropped": tuple(cost.get("dropped", ()))})


def _member(member: Event) -> Target:
    parent, python = member["parent"], member["python"]
    return Target(
        **{
            **member,
            "id": ProcessId(*member["id"]),
            "ranks": tuple((kind, rank) for kind, rank in member["ranks"]),
            "ports": tuple(member["ports"]),
            "parent": None if parent is None else ProcessId(*parent),
            "python": None if python is None else tuple(python),
        }
    )


def _batch(event: Event, state: Decoding, base_ns: int) -> Batch | None:
    args = event["args"]
    pid, seq = event["pid"], args["seq"]
    workload = {name: args.get(name) for name in WORKLOAD}
    prediction = None
    if "expected_ns" in args:
        prediction = Prediction(
            args["expected_ns"],
            args["low_ns"],
            args["high_ns"],
            ModelState(args.get("model", "ready")),
            Verdict(args.get("verdict", "ok")),
            args.get("basis", "duration"),
        )
    assert state.session is not None
    batch = Batch(
        pid=pid,
        engine=args.get("engine", state.session.group.engine),
        seq=seq,
        start_ns=time_ns(event, base_ns),
        duration_ns=round(event["dur"] * 1000),
        period_ns=args.get("period_ns"),
        mode=Mode(event["name"]),
        workload=Workload(**workload, sampled=frozenset(args.get("sampled", ()))),
        origin=Origin(args.get("origin", "exact")),
        rank=args.get("rank"),
        ranks=tuple(RankTime(*rank) for rank in args.get("ranks", ())),
        idle_ns=args.get("idle_ns", 0),
        suspect=args.get("suspect", ""),
        prediction=prediction,
        breakdown=_breakdown(args["breakdown"]) if "breakdown" in args else None,
    )
    if not args["stages"]:
        return batch
    state.pending.pop((pid, seq), None)
    while len(state.pending) >= PENDING_MAX:
        state.pending.pop(next(iter(state.pending)))
    state.pending[pid, seq] = _Pending(batch, args.get("thread", 0), args["stages"], [])
    return None


def _breakdown(made: Event) -> Breakdown:
    bound = made["bound"]
    return Breakdown(
        made["pid"],
        tuple(
            Part(
                part["stage"],
                part["wall_ns"],
                HostTime(**part["host"]),
                None if part["device"] is None else DeviceTime(**part["device"]),
            )
            for part in made["parts"]
        ),
        None if bound is None else Bound(bound),
        made["reason"],
    )


def _stage(event: Event, state: Decoding, base_ns: int) -> Batch | None:
    args = event["args"]
    key = (args.get("of", event["pid"]), args["seq"])
    pending = state.pending.get(key)
    if pending is None:
        return None
    span = round(event["dur"] * 1000)
    stage = Stage(
        name=event["name"],
        hook=args["hook"],
        start_ns=time_ns(event, base_ns),
        duration_ns=args.get("excl_ns", span),
        pid=event["pid"],
        tid=args.get("thread", pending.thread),
        rank=args.get("rank", pending.batch.rank),
        span_ns=args.get("span_ns", span),
    )
    pending.stages.append((args.get("n", len(pending.stages)), stage))
    pending.missing -= 1
    if pending.missing:
        return None
    del state.pending[key]
    return _whole(pending)


def _whole(pending: _Pending, suspect: str = "") -> Batch:
    stages = [stage for _, stage in sorted(pending.stages, key=lambda entry: entry[0])]
    return replace(pending.batch, stages=tuple(stages), suspect=pending.batch.suspect or suspect)


def _request(event: Event, state: Decoding, base_ns: int) -> Request | FirstToken | None:
    if event["ph"] == "i":
        return FirstToken(time_ns(event, base_ns), event["args"].get("ttft_ns"))
    if event["ph"] != "e" or event["name"] != "request":
        return None
    return Request(time_ns(event, base_ns), **event["args"])


def _series(event: Event, state: Decoding, base_ns: int) -> None:
    args = event["args"]
    fields = (args[name] for name in ("name", "device", "unit", "source", "period_ns"))
    state.series[event["pid"], args["track"]] = _Series(*fields)


def _counter(event: Event, state: Decoding, base_ns: int) -> Counter | None:
    series = state.series.get((event["pid"], event["name"]))
    return _reading(series, time_ns(event, base_ns), {"value": event["args"]["value"]}) if series else None


def _unavailable(event: Event, state: Decoding, base_ns: int) -> Counter | None:
    args = event["args"]
    series = state.series.get((event["pid"], args["track"]))
    return _reading(series, time_ns(event, base_ns), args) if series else None


def _reading(series: _Series, at_ns: int, args: Event) -> Counter:
    value = args.get("value")
    return Counter(
        series.name,
        series.device,
        series.unit,
        at_ns,
        value=float(value) if isinstance(value, str) else value,
        reason=args.get("reason", ""),
        source=series.source,
        period_ns=series.period_ns,
        text=args.get("text", ""),
    )


def _alert(event: Event, state: Decoding, base_ns: int) -> Alert:
    args = event["args"]
    closed, excess = args["closed_ns"], args["excess_pct"]
    return Alert(
        id=args["id"],
        kind=args["kind"],
        severity=Severity(args["severity"]),
        opened_ns=base_ns + args["opened_ns"],
        started_ns=base_ns + args["started_ns"],
        pid=args["pid"],
        first_seq=args["first_seq"],
        last_seq=args["last_seq"],
        batches=args["batches"],
        excess_ns=args["excess_ns"],
        text=args["text"],
        closed_ns=None if closed is None else base_ns + closed,
        excess_pct=float(excess) if isinstance(excess, str) else excess,
        causes=tuple(
            Cause(
                cause["id"],
                float(cause["score"]) if isinstance(cause["score"], str) else cause["score"],
                cause["text"],
                tuple(cause["evidence"]),
                tuple(cause["against"]),
                cause["next_step"],
            )
            for cause in args["causes"]
        ),
    )


def _truth(event: Event, state: Decoding, base_ns: int) -> GroundTruth:
    start, length = time_ns(event, base_ns), round(event["dur"] * 1000)
    return GroundTruth(event["name"], start, length, event["pid"], dict(event["args"]))


def _note(event: Event, state: Decoding, base_ns: int) -> Noun | None:
    args, at = event["args"], time_ns(event, base_ns)
    if "state" in args:
        return StateChange(at, **_state(args))
    if event["name"] == "lost":
        return LostSoFar(at, Lost(*args["lost"]))
    if event["name"] == "warning":
        return Said(at, args["text"])
    if event["name"] == "dropped":
        return Dropped(at, args["events"])
    return None


_DECODERS: Any = {
    CAT_BATCH: _batch,
    CAT_STAGE: _stage,
    CAT_REQUEST: _request,
    CAT_COUNTER: _counter,
    SERIES_EVENT: _series,
    READING_EVENT: _unavailable,
    CAT_ALERT: _alert,
    CAT_TRUTH: _truth,
    CAT_SESSION: _note,
}
