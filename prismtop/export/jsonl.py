"""One JSON object a line: what `prismtop watch --json` writes.

Every line has `v` (schema version, 1) and `type`. A key that is absent is a value that this engine does not
expose; nothing is ever filled in with 0. Times are Unix microseconds (`t_us`, three decimals), lengths are
microseconds.

| type | when |
|---|---|
| session | first line: engine, version, targets, hooks, cost of the attach |
| batch | one engine iteration |
| request | a request finished |
| alert | an episode opened, went on or closed (same `id`) |
| state | the attach state or the set of installed hooks changed |
| counter | a reading of the host, a GPU or an interconnect, or the reason why there is none (once) |
| capture | a deep capture (DeepDive) came to another phase, or to its last numbers (same `number`) |
| lost | records were overwritten before they could be read, since the previous such line |
| warning | a sentence that a person should read |
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import fields
from functools import lru_cache
from operator import attrgetter

from prismtop import __version__
from prismtop.model import (
    Alert,
    Batch,
    Capture,
    Clock,
    Counter,
    Frame,
    HookStatus,
    Lost,
    ModelState,
    ProbeCost,
    Request,
    Target,
    Workload,
)
from prismtop.safe_text import safe_text

SCHEMA = 1

_encode = json.JSONEncoder(separators=(",", ":")).encode
_WORKLOAD_FIELDS = tuple(f.name for f in fields(Workload) if f.name != "sampled")
_workload_values = attrgetter(*_WORKLOAD_FIELDS)


def batch_line(batch: Batch, clock: Clock) -> str:
    """One batch: start, duration and period in microseconds, stages (exclusive host time), workload.

    Put together by hand: there are a hundred a second, and a general encoder takes four times as long.
    """
    us, rest = divmod(batch.start_ns + clock.wall_minus_mono_ns, 1000)
    rank = "" if batch.rank is None else f'"rank":{batch.rank},'
    period = "" if batch.period_ns is None else f',"period_us":{batch.period_ns / 1000:.1f}'
    stages = ",".join([f'"{name}":{ns / 1000:.1f}' for name, ns in batch.stage_ns().items()])
    return (
        f'{{"v":{SCHEMA},"type":"batch","pid":{batch.pid},{rank}"engine":{_quoted(batch.engine)},'
        f'"seq":{batch.seq},"t_us":{us}.{rest:03d},"dur_us":{batch.duration_ns / 1000:.1f}{period},'
        f'"mode":"{batch.mode.value}","origin":"{batch.origin.value}","stages":{{{stages}}},'
        f'"workload":{{{_workload(batch.workload)}}}{_rest_of(batch)}}}'
    )


def _rest_of(batch: Batch) -> str:
    """What only some batches have, with a comma in front."""
    text = ""
    if batch.ranks:
        ranks = [
            f'{{"rank":{one.rank},"pid":{one.pid},"pre_collective_us":{one.pre_collective_ns / 1000:.1f}}}'
            for one in batch.ranks
        ]
        text = f',"ranks":[{",".join(ranks)}]'
    if batch.idle_ns:
        text += f',"idle_us":{batch.idle_ns / 1000:.1f}'
    if batch.suspect:
        text += f',"suspect":{_quoted(batch.suspect)}'
    prediction = batch.prediction
    if prediction is None:
        return text
    text += (
        f',"predicted_us":{prediction.expected_ns / 1000:.1f},"low_us":{prediction.low_ns / 1000:.1f},'
        f'"high_us":{prediction.high_ns / 1000:.1f},"verdict":"{prediction.verdict.value}"'
    )
    if prediction.state is not ModelState.READY:
        text += f',"model_state":"{prediction.state.value}"'
    return text if prediction.basis == "duration" else text + f',"basis":{_quoted(prediction.basis)}'


def alert_line(alert: Alert, clock: Clock) -> str:
    """One episode as it is now; `t_us` is when it opened. Causes are there once they were looked for."""
    return _line("alert", alert_object(alert, clock), clock)


def alert_object(alert: Alert, clock: Clock) -> dict[str, object]:
    """An alert's fields; `t_us` is CLOCK_MONOTONIC ns here, `_line` writes it as wall time."""
    made: dict[str, object] = {
        "id": alert.id,
        "t_us": alert.opened_ns,
        "started_us": clock.wall_us(alert.started_ns),
        "state": "open" if alert.closed_ns is None else "closed",
    }
    if alert.closed_ns is not None:
        made["closed_us"] = clock.wall_us(alert.closed_ns)
    made.update(
        kind=alert.kind,
        severity=alert.severity.value,
        pid=alert.pid,
        first_seq=alert.first_seq,
        last_seq=alert.last_seq,
        batches=alert.batches,
        excess_ms=round(alert.excess_ns / 1e6, 3),
        text=safe_text(alert.text),
    )
    if alert.excess_pct is not None:
        made["excess_pct"] = alert.excess_pct
    if alert.causes:
        made["causes"] = [
            {
                "id": safe_text(cause.id),
                "score": round(cause.score, 3),
                "text": safe_text(cause.text),
                "evidence": [safe_text(one) for one in cause.evidence],
                "against": [safe_text(one) for one in cause.against],
                "next_step": safe_text(cause.next_step),
            }
            for cause in alert.causes
        ]
    return made


def capture_line(capture: Capture, clock: Clock) -> str:
    """A deep capture as it is now; `t_us` is when it was asked for."""
    return _line("capture", capture_object(capture), clock)


def capture_object(capture: Capture) -> dict[str, object]:
    """A capture's fields; `t_us` is CLOCK_MONOTONIC ns here. What was not measured is absent."""
    made: dict[str, object] = {
        "number": capture.number,
        "t_us": capture.started_ns,
        "phase": capture.phase.value,
        "why": safe_text(capture.request.why),
        "batches": capture.batches,
        "of_batches": capture.request.batches,
    }
    for name in ("expected_stall_ms", "stall_ms", "before_ms", "during_ms", "after_ms"):
        value = getattr(capture, name)
        if value is not None:
            made[name] = round(value, 4)
    if capture.residual is not None:
        made["residual_slowdown"] = capture.residual
    if capture.path:
        made.update(path=safe_text(capture.path, 4096), bytes=capture.size_bytes)
    if capture.clock_error_ns is not None:
        made["clock_error_us"] = capture.clock_error_ns / 1000
    if capture.error:
        made["error"] = safe_text(capture.error)
    if capture.notes:
        made["notes"] = [safe_text(note) for note in capture.notes]
    made["layers"] = [
        {
            "name": safe_text(layer.name),
            "state": layer.state.value,
            **({"pid": layer.pid} if layer.pid else {}),
            **({"events": layer.events} if layer.events is not None else {}),
            "reason": safe_text(layer.reason),
        }
        for layer in capture.layers
    ]
    return made


def request_line(request: Request, clock: Clock) -> str:
    """One finished request: time to first token, time per output token, tokens."""
    line: dict[str, object] = {"t_us": request.finished_ns}
    if request.ttft_ns is not None:
        line["ttft_us"] = _us(request.ttft_ns)
    if request.tpot_ns is not None:
        line["tpot_us"] = _us(request.tpot_ns)
    if request.prompt_tokens is not None:
        line["prompt_tokens"] = request.prompt_tokens
    if request.output_tokens is not None:
        line["output_tokens"] = request.output_tokens
    return _line("request", line, clock)


def counter_line(counter: Counter, clock: Clock) -> str:
    """One reading: name, device, unit, value and how often it is read; without a value the reason."""
    line: dict[str, object] = {"t_us": counter.time_ns, "name": safe_text(counter.name)}
    line.update(device=safe_text(counter.device), unit=safe_text(counter.unit))
    if counter.value is None or not math.isfinite(counter.value):
        line["reason"] = safe_text(counter.reason) or "not a finite number"
    else:
        line["value"] = round(counter.value, 12)  # waits for a core are microseconds
        line["period_us"] = _us(counter.period_ns)
    if counter.text:
        line["text"] = safe_text(counter.text)
    line["source"] = safe_text(counter.source)
    return _line("counter", line, clock)


def session_line(frame: Frame) -> str:
    """What is being watched, and how: the first line of a stream."""
    group = frame.group
    line: dict[str, object] = {
        "prismtop": __version__,
        "t_us": frame.time_ns,
        "engine": safe_text(group.engine),
    }
    if group.version is not None:
        line["version"] = safe_text(group.version)
    line["pids"] = [member.id.pid for member in group.members]
    line["targets"] = [target_object(member) for member in group.members]
    line["state"] = frame.state.value
    if frame.note:
        line["note"] = safe_text(frame.note)
    line["hooks"] = hook_objects(frame.hooks)
    line["cost"] = cost_objects(frame.costs)
    return _line("session", line, frame.clock)


def state_line(frame: Frame) -> str:
    """The attach state and the hooks as they are now."""
    line: dict[str, object] = {"t_us": frame.time_ns, "state": frame.state.value}
    if frame.note:
        line["note"] = safe_text(frame.note)
    line["hooks"] = hook_objects(frame.hooks)
    line["cost"] = cost_objects(frame.costs)
    return _line("state", line, frame.clock)


def lost_line(delta: Lost) -> str:
    """What was lost since the previous such line. `count` is records that were overwritten unread."""
    line: dict[str, object] = {"count": delta.records}
    if delta.torn:
        line["torn"] = delta.torn
    if delta.batches:
        line["batches"] = delta.batches
    return _line("lost", line)


def warning_line(text: str) -> str:
    """A sentence that a person should read."""
    return _line("warning", {"text": safe_text(text)})


def target_object(target: Target) -> dict[str, object]:
    """One process, as in `prismtop list --json`; what could not be found out is absent."""
    made: dict[str, object] = {
        "pid": target.id.pid,
        "start_time": target.id.start_time,
        "engine": safe_text(target.engine),
        "role": safe_text(target.role),
        "probed": target.probed,
        "title": safe_text(target.title),
    }
    if target.version is not None:
        made["version"] = safe_text(target.version)
    if target.model is not None:
        made["model"] = safe_text(target.model)
    if target.ranks:
        made["ranks"] = {safe_text(kind): rank for kind, rank in target.ranks}
    if target.ports:
        made["ports"] = list(target.ports)
    if target.parent is not None:
        made["parent"] = target.parent.pid
    if target.ns_pid is not None and target.ns_pid != target.id.pid:
        made["ns_pid"] = target.ns_pid
    if target.python is not None:
        made["python"] = ".".join(map(str, target.python))
    if target.free_threaded is not None:
        made["free_threaded"] = target.free_threaded
    if target.probed:
        made["way_in"] = target.way_in
        if target.refusal:
            made["refusal"] = safe_text(target.refusal)
    if target.user:
        made["user"] = safe_text(target.user)
    return made


def hook_objects(hooks: Sequence[HookStatus]) -> list[dict[str, object]]:
    """Hooks with the mechanism that observes them, or the reason why nothing does."""
    made = []
    for hook in hooks:
        entry: dict[str, object] = {"hook": safe_text(hook.hook), "pid": hook.pid}
        if hook.stage:
            entry["stage"] = safe_text(hook.stage)
        if hook.mechanism:
            entry["mechanism"] = hook.mechanism
        if hook.reason:
            entry["reason"] = safe_text(hook.reason)
        made.append(entry)
    return made


def cost_objects(costs: Iterable[ProbeCost]) -> list[dict[str, object]]:
    """What the probe takes from each target, as it measured it itself."""
    made = []
    for cost in costs:
        entry: dict[str, object] = {"pid": cost.pid}
        for name in ("attach_us", "setup_us", "per_event_ns", "events_per_s"):
            value = getattr(cost, name)
            if value is not None:
                entry[name] = round(value, 1)
        if cost.share is not None:
            entry["share"] = round(cost.share, 6)
        if cost.dropped:
            entry["dropped"] = [safe_text(name) for name in cost.dropped]
        made.append(entry)
    return made


def document(kind: str, content: dict[str, object]) -> str:
    """A whole command's answer as one line, with the schema version and `kind` in front."""
    return _line(kind, content)


def _line(kind: str, content: dict[str, object], clock: Clock | None = None) -> str:
    """Encode one line. With a clock, `t_us` is a CLOCK_MONOTONIC time in ns and is written as wall time."""
    text = _encode({"v": SCHEMA, "type": kind, **content})
    if clock is None:
        return text
    # A double cannot hold 16 digits and three decimals, so this number is written from the integer.
    mono_ns = content["t_us"]
    assert isinstance(mono_ns, int)
    us, rest = divmod(mono_ns + clock.wall_minus_mono_ns, 1000)
    return text.replace(f'"t_us":{mono_ns}', f'"t_us":{us}.{rest:03d}', 1)


def _workload(workload: Workload) -> str:
    parts = [
        f'"{name}":{value}' if type(value) is int else f'"{name}":{_encode(round(value, 4))}'
        for name, value in zip(_WORKLOAD_FIELDS, _workload_values(workload), strict=True)
        if value is not None
    ]
    if workload.sampled:
        parts.append(f'"sampled":{_encode(sorted(workload.sampled))}')
    return ",".join(parts)


@lru_cache(maxsize=256)
def _quoted(text: str) -> str:
    return _encode(safe_text(text))


def _us(ns: int) -> float:
    return round(ns / 1000, 1)
