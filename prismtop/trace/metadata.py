"""The event that says what was recorded: engine, processes, hooks, clock. Also JSON objects for arguments."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from math import isfinite

from prismtop import __version__
from prismtop.model import Frame, HookStatus, Lost, ProbeCost, ProcessId, Target
from prismtop.safe_text import safe_text
from prismtop.trace.own import SCHEMA, SESSION_EVENT
from prismtop.trace.tracks import anchor_pid

_encode = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode
_SECRET = re.compile(r"(?i)((?:^|(?<=[\s:]))[\w-]*(?:api[-_]?key|token|secret|password|passwd)[\w-]*[ =])\S+")


def session_event(frame: Frame, base_ns: int, segment: int) -> str:
    """The `M` event named `prismtop`; see `prismtop.trace.own.SessionInfo`."""
    args = {
        "schema": SCHEMA,
        "version": __version__,
        "segment": segment,
        "base_ns": base_ns,
        "wall_minus_mono_ns": frame.clock.wall_minus_mono_ns,
        "time_ns": frame.time_ns - base_ns,
        "engine": safe_text(frame.group.engine),
        "engine_version": None if frame.group.version is None else safe_text(frame.group.version),
        "members": [_member(member) for member in frame.group.members],
        "lost": lost_totals(frame.lost),
        **state_args(frame),
    }
    pid = anchor_pid(frame.group)
    return f'{{"ph":"M","name":"{SESSION_EVENT}","ts":0,"pid":{pid},"tid":0,"args":{json_object(args)}}}'


def state_args(frame: Frame) -> dict[str, object]:
    """State, note, hooks, costs and states of targets as arguments of an event."""
    return {
        "state": frame.state.value,
        "note": safe_text(frame.note),
        "hooks": [_hook(hook) for hook in frame.hooks],
        "costs": [_cost(cost) for cost in frame.costs],
        "target_states": [
            [*_process(target), safe_text(state)] for target, state in frame.target_states.items()
        ],
    }


def redacted(title: str) -> str:
    """A command line without its secrets: the value of every option whose name says that it is one."""
    return _SECRET.sub(r"\1***", title)


def json_object(args: Mapping[str, object]) -> str:
    """`args` as JSON text; numbers that are not finite become text, for which JSON has no other form."""
    return _encode(_finite(args))


def _finite(value: object) -> object:
    if isinstance(value, float) and not isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {safe_text(key): _finite(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(inner) for inner in value]
    return value


def _process(process: ProcessId) -> list[int]:
    return [process.pid, process.start_time]


def lost_totals(lost: Lost) -> list[int]:
    """Totals of what was lost, as `prismtop.trace.own.LostSoFar` has them."""
    return [lost.records, lost.torn, lost.batches]


def _hook(hook: HookStatus) -> list[object]:
    return [safe_text(hook.hook), safe_text(hook.stage), hook.pid, hook.mechanism, safe_text(hook.reason)]


def _cost(cost: ProbeCost) -> dict[str, object]:
    made: dict[str, object] = {"pid": cost.pid}
    for name in ("attach_us", "setup_us", "per_event_ns", "events_per_s", "share"):
        if getattr(cost, name) is not None:
            made[name] = getattr(cost, name)
    if cost.dropped:
        made["dropped"] = [safe_text(name) for name in cost.dropped]
    return made


def _member(member: Target) -> dict[str, object]:
    return {
        "id": _process(member.id),
        "engine": safe_text(member.engine),
        "role": safe_text(member.role),
        "probed": member.probed,
        "title": safe_text(redacted(member.title)),
        "version": None if member.version is None else safe_text(member.version),
        "model": None if member.model is None else safe_text(member.model),
        "ranks": [[safe_text(kind), rank] for kind, rank in member.ranks],
        "ports": list(member.ports),
        "parent": None if member.parent is None else _process(member.parent),
        "ns_pid": member.ns_pid,
        "python": None if member.python is None else list(member.python),
        "free_threaded": member.free_threaded,
        "way_in": member.way_in,
        "refusal": safe_text(member.refusal),
        "user": safe_text(member.user),
    }
