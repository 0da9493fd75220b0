"""Several traces, such as those of ranks, in one file on one timeline."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prismtop.errors import UsageError
from prismtop.safe_text import safe_text
from prismtop.trace.container import WholeReader, decoded
from prismtop.trace.lenient import ns_of
from prismtop.trace.output import EventsFile, finite, new_file, stem
from prismtop.trace.own import CAT_ALERT, CAT_BATCH, CAT_STAGE, DEVICE_EVENT, SCHEMA, SESSION_EVENT

FIRST_PID = 10_000_001
"""Processes whose id is taken in another file get one from here on: above the kernel's largest."""
_ABSOLUTE_US = 10**14
"""Times above are Unix microseconds: 1973 and later."""
_SAME_CLOCK_NS = 10**9


@dataclass
class _Input:
    path: Path
    label: str = ""
    zero_ns: int | None = None
    first_ns: int | None = None
    own: dict[str, Any] | None = None
    pids: set[object] = field(default_factory=set)
    named: set[object] = field(default_factory=set)
    rank: int | None = None
    shift_ns: int = 0
    new_pids: dict[object, object] = field(default_factory=dict)


@dataclass
class Merged:
    """What was written.

    Attributes:
        events: in the new file.
        notes: sentences about clocks, renamed processes and damage.
    """

    events: int = 0
    notes: list[str] = field(default_factory=list)


def merge(sources: list[Path], target: Path) -> Merged:
    """Write the events of all files into one. Each file is read twice, block by block.

    Times are put on one clock: a recording of ours by its wall clock, torch.profiler's by
    `baseTimeNanoseconds`, Unix times as they are. Processes keep their ids, and get new ones where two files
    use the same.

    Raises:
        UsageError: fewer than two files, one is no trace, or some have a clock and others none.
        UnavailableError: the disk is full.
    """
    if len({path.resolve() for path in sources}) < 2:
        raise UsageError("merging takes at least two different files.", fix="Name the traces of all ranks.")
    inputs = [_look(path) for path in sources]
    merged = Merged()
    _align(inputs, merged.notes)
    _rename(inputs, merged.notes)
    with new_file(target) as file:
        out = EventsFile(file)
        for number, one in enumerate(inputs):
            for event in _names(one):
                out.put(event)
            reader = WholeReader(one.path)
            lost = 0
            for block in reader.blocks():
                content = decoded(block)
                lost += content.lost
                for _, event in content.events:
                    made = _moved(event, one, number)
                    if made is not None:
                        out.put(made)
                    else:
                        lost += 1
            merged.notes += reader.notes
            if lost:
                merged.notes.append(
                    f"{safe_text(one.path.name)}: {lost} events left out, they cannot be read"
                )
        out.close()
    merged.events = out.events
    merged.notes = list(dict.fromkeys(merged.notes))
    return merged


def _look(path: Path) -> _Input:
    """First pass: clock, processes, rank."""
    found = _Input(path, safe_text(stem(path), 60))
    reader = WholeReader(path)
    least: int | None = None
    for block in reader.blocks():
        for _, event in decoded(block).events:
            pid, args = event.get("pid"), event.get("args")
            if isinstance(pid, (int, str)):
                found.pids.add(pid)
            if event.get("ph") == "M":
                if event.get("name") == "process_name":
                    found.named.add(pid if isinstance(pid, (int, str)) else None)
                own = event.get("name") == SESSION_EVENT and isinstance(args, dict)
                if own and isinstance(args, dict) and args.get("schema") == SCHEMA and found.own is None:
                    found.own = args
                continue
            at = ns_of(event.get("ts"))
            if at is not None and (least is None or at < least):
                least = at
    found.first_ns = least
    base = reader.header.get("baseTimeNanoseconds")
    info = reader.header.get("distributedInfo")
    if isinstance(info, dict) and type(info.get("rank")) is int:
        found.rank = info["rank"]
        found.label = f"rank {found.rank}"
    if found.own is not None:
        try:
            found.zero_ns = int(found.own["base_ns"]) + int(found.own["wall_minus_mono_ns"])
        except (KeyError, TypeError, ValueError):
            raise UsageError(
                f"{safe_text(str(path))} holds no clock: its first event is damaged.",
                fix="Merge the others without it.",
            ) from None
    elif type(base) is int and (least is None or least < _ABSOLUTE_US * 1000):
        found.zero_ns = base
    elif least is not None and least >= _ABSOLUTE_US * 1000:
        found.zero_ns = 0
    return found


def _align(inputs: list[_Input], notes: list[str]) -> None:
    """How much is added to the times of each file."""
    unclocked = [one for one in inputs if one.zero_ns is None]
    if not unclocked:
        _same_host(inputs)
        zeros = [one.zero_ns or 0 for one in inputs]
        # Unix times would lose their nanoseconds in a double: they count from the first event instead.
        least = min(zero if zero else (one.first_ns or 0) for zero, one in zip(zeros, inputs, strict=True))
        for zero, one in zip(zeros, inputs, strict=True):
            one.shift_ns = zero - least
        return
    if len(unclocked) < len(inputs):
        names = ", ".join(safe_text(one.path.name) for one in unclocked)
        raise UsageError(
            f"no common clock: {names} holds times without a date.", fix="Merge files of one kind."
        )
    notes.append("no file says when its time began: they are taken to share one clock")


def _same_host(inputs: list[_Input]) -> None:
    """Recordings under one CLOCK_MONOTONIC use it: wall clocks are set and disciplined meanwhile."""
    owns = [one for one in inputs if one.own is not None]
    for one in owns[1:]:
        first, this = owns[0].own, one.own
        assert first is not None
        assert this is not None
        apart = abs(first["wall_minus_mono_ns"] - this["wall_minus_mono_ns"])
        if 0 < apart < _SAME_CLOCK_NS:
            one.zero_ns = int(this["base_ns"]) + int(first["wall_minus_mono_ns"])
            one.own = {**this, "wall_minus_mono_ns": first["wall_minus_mono_ns"]}


def _rename(inputs: list[_Input], notes: list[str]) -> None:
    """New ids for processes that an earlier file has too."""
    taken: set[object] = set()
    fresh = FIRST_PID
    renamed = 0
    for one in inputs:
        for pid in sorted(one.pids, key=str):
            if pid in taken:
                one.new_pids[pid] = fresh if isinstance(pid, int) else f"{pid} {one.label}"
                fresh += 1
                renamed += 1
            taken.add(one.new_pids.get(pid, pid))
    if renamed:
        notes.append(f"{renamed} processes have another id than in their file, where it was taken")


def _names(one: _Input) -> list[dict[str, Any]]:
    """Names for processes that have none, so that it can be seen which file they come from."""
    return [
        _metadata("process_name", one.new_pids.get(pid, pid), {"name": one.label})
        for pid in sorted(one.pids - one.named, key=str)
        if isinstance(pid, int)
    ]


def _moved(event: dict[str, Any], one: _Input, number: int) -> dict[str, Any] | None:
    """The event as it stands in the merged file; None when it has no time."""
    made: dict[str, Any] = finite(event)[0]
    pid = made.get("pid")
    if isinstance(pid, (int, str)) and pid in one.new_pids:
        made["pid"] = one.new_pids[pid]
    args = made.get("args")
    if made.get("ph") == "M":
        if isinstance(args, dict):
            made["args"] = _metadata_args(made.get("name"), args, one)
        return made
    at = ns_of(made.get("ts"))
    if at is None:
        return None
    made["ts"] = _us(at + one.shift_ns)
    if "id" in made:
        made["id"] = _new_id(number, made["id"])
    if "id2" in made and isinstance(made["id2"], dict):
        made["id2"] = {key: _new_id(number, value) for key, value in made["id2"].items()}
    if one.own is not None and isinstance(args, dict):
        made["args"] = _own_args(made.get("cat"), args, one)
    return made


def _metadata_args(name: object, args: dict[str, Any], one: _Input) -> dict[str, Any]:
    if name == "process_name" and isinstance(args.get("name"), str):
        return {**args, "name": f"{one.label}: {args['name']}"}
    if name == DEVICE_EVENT and args.get("of") in one.new_pids:
        return {**args, "of": one.new_pids[args["of"]]}
    if name != SESSION_EVENT or one.own is None or args.get("schema") != SCHEMA:
        return args
    made = dict(args)
    # The same instants on the common timeline: what its base was is that much earlier on it now.
    made["base_ns"] = args["base_ns"] - one.shift_ns
    made["time_ns"] = args["time_ns"] + one.shift_ns
    made["wall_minus_mono_ns"] = one.own["wall_minus_mono_ns"]
    made["members"] = [
        {**member, "id": [one.new_pids.get(member["id"][0], member["id"][0]), member["id"][1]]}
        for member in args.get("members", ())
    ]
    return made


def _own_args(cat: object, args: dict[str, Any], one: _Input) -> dict[str, Any]:
    """Arguments of our own events that hold times or process ids."""
    made = dict(args)
    if cat == CAT_ALERT:
        for name in ("opened_ns", "closed_ns", "started_ns"):
            if type(made.get(name)) is int:
                made[name] += one.shift_ns
        made["pid"] = one.new_pids.get(made.get("pid"), made.get("pid"))
    elif cat == CAT_STAGE and "of" in made:
        made["of"] = one.new_pids.get(made["of"], made["of"])
    elif cat == CAT_BATCH:
        parts = made.get("breakdown")
        if isinstance(parts, dict) and parts.get("pid") in one.new_pids:
            made["breakdown"] = {**parts, "pid": one.new_pids[parts["pid"]]}
    if cat == CAT_BATCH and isinstance(made.get("ranks"), list):
        made["ranks"] = [[rank, one.new_pids.get(pid, pid), ns] for rank, pid, ns in made["ranks"]]
    return made


def _new_id(number: int, value: object) -> str:
    """Ids are unique within a file only: 48 bits of a hash keep files apart, both ends get the same."""
    text = f"{number}\0{value}".encode("utf-8", "replace")
    return "0x" + hashlib.blake2b(text, digest_size=6).hexdigest()


def _metadata(name: str, pid: object, args: Mapping[str, Any]) -> dict[str, Any]:
    return {"ph": "M", "name": name, "ts": 0, "pid": pid, "tid": 0, "args": dict(args)}


def _us(ns: int) -> float | int:
    """Microseconds as a number whose shortest text has at most three decimals."""
    return ns // 1000 if ns % 1000 == 0 else ns / 1000
