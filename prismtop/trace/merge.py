"""Several traces, such as those of ranks, in one file on one timeline."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prismtop.errors import UsageError
from prismtop.safe_text import safe_text
from prismtop.trace.container import WholeReader, decoded
from prismtop.trace.decode import Decoding, decode
from prismtop.trace.joined import Joined, in_order, on_one_clock
from prismtop.trace.lenient import ns_of
from prismtop.trace.output import EventsFile, finite, new_file, stem
from prismtop.trace.own import DEVICE_EVENT, READING_EVENT, SCHEMA, SESSION_EVENT

FIRST_PID = 10_000_001
"""Processes whose id is taken in another file get one from here on: above the kernel's largest."""
_ABSOLUTE_US = 10**14
"""Times above are Unix microseconds: 1973 and later."""


@dataclass
class _Input:
    path: Path
    label: str = ""
    zero_ns: int | None = None
    first_ns: int | None = None
    own: dict[str, Any] | None = None
    own_pid: object = 0
    number: int = -1
    pids: set[object] = field(default_factory=set)
    named: set[object] = field(default_factory=set)
    rank: int | None = None
    shift_ns: int = 0
    new_pids: dict[object, object] = field(default_factory=dict)

    def new_pid(self, pid: Any) -> Any:
        """The id that a process has in the merged file."""
        return self.new_pids.get(pid, pid) if isinstance(pid, (int, str)) else pid


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
    use the same. Recordings of ours become one session, with their events interleaved.

    Raises:
        UsageError: fewer than two files, one is no trace, or some have a clock and others none.
        UnavailableError: the disk is full.
    """
    if len({path.resolve() for path in sources}) < 2:
        raise UsageError("merging takes at least two different files.", fix="Name the traces of all ranks.")
    inputs = [_look(path) for path in sources]
    merged = Merged()
    owns = [one for one in inputs if one.own is not None]
    base_ns, wall_ns = _align(inputs, owns, merged.notes)
    _rename(inputs, merged.notes)
    joined = None
    if owns:
        sessions = [(one.own or {}, one.new_pid) for one in owns]
        joined = Joined(sessions, base_ns, wall_ns, [one.shift_ns for one in owns])
    streams = {id(one): _events(one, number, joined, merged.notes) for number, one in enumerate(inputs)}
    with new_file(target) as file:
        out = EventsFile(file)
        if joined is not None:
            out.put(_metadata(SESSION_EVENT, owns[0].new_pid(owns[0].own_pid), joined.args()))
        for one in inputs:
            for event in _names(one):
                out.put(event)
        for event in in_order(streams.pop(id(one)) for one in owns):
            out.put(event)
        for stream in streams.values():
            for event in stream:
                out.put(event)
        out.close()
    merged.events = out.events
    merged.notes = list(dict.fromkeys(merged.notes))
    return merged


def _events(one: _Input, number: int, joined: Joined | None, notes: list[str]) -> Iterator[dict[str, Any]]:
    """The events of a file as they stand in the merged one."""
    reader = WholeReader(one.path)
    lost = 0
    for block in reader.blocks():
        content = decoded(block)
        lost += content.lost
        for _, event in content.events:
            if one.own is not None and event.get("ph") == "M" and event.get("name") == SESSION_EVENT:
                continue
            made = _moved(event, one, number, joined)
            if made is not None:
                yield made
            else:
                lost += 1
    notes += reader.notes
    if lost:
        notes.append(f"{safe_text(one.path.name)}: {lost} events left out, they cannot be read")


def _look(path: Path) -> _Input:
    """First pass: clock, processes, rank."""
    found = _Input(path, safe_text(stem(path), 60))
    reader = WholeReader(path)
    least: int | None = None
    whole = True
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
                    found.own, found.own_pid = args, pid
                    whole = decode(event, Decoding()) is not None
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
    if not whole:
        raise UsageError(
            f"{safe_text(str(path))} holds no clock: its first event is damaged.",
            fix="Merge the others without it.",
        )
    if found.own is not None:
        found.zero_ns = 0  # `_align` knows
    elif type(base) is int and (least is None or least < _ABSOLUTE_US * 1000):
        found.zero_ns = base
    elif least is not None and least >= _ABSOLUTE_US * 1000:
        found.zero_ns = 0
    return found


def _align(inputs: list[_Input], owns: list[_Input], notes: list[str]) -> tuple[int, int]:
    """Finds how much is added to the times of each file; CLOCK_MONOTONIC of the new file's time 0, and the
    offset of the wall clock, where there are recordings of ours.
    """
    wall_ns = 0
    if owns:
        wall_ns, zeros_ns = on_one_clock([one.own or {} for one in owns])
        for number, (one, zero_ns) in enumerate(zip(owns, zeros_ns, strict=True)):
            one.number, one.zero_ns = number, zero_ns
    unclocked = [one for one in inputs if one.zero_ns is None]
    if not unclocked:
        zeros = [one.zero_ns or 0 for one in inputs]
        # Unix times would lose their nanoseconds in a double: they count from the first event instead.
        least = min(zero if zero else (one.first_ns or 0) for zero, one in zip(zeros, inputs, strict=True))
        for zero, one in zip(zeros, inputs, strict=True):
            one.shift_ns = zero - least
        return least - wall_ns, wall_ns
    if len(unclocked) < len(inputs):
        names = ", ".join(safe_text(one.path.name) for one in unclocked)
        raise UsageError(
            f"no common clock: {names} holds times without a date.", fix="Merge files of one kind."
        )
    notes.append("no file says when its time began: they are taken to share one clock")
    return 0, 0


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


def _moved(event: dict[str, Any], one: _Input, number: int, joined: Joined | None) -> dict[str, Any] | None:
    """The event as it stands in the merged file; None when it has no time."""
    made: dict[str, Any] = finite(event)[0]
    pid = made.get("pid")
    if isinstance(pid, (int, str)) and pid in one.new_pids:
        made["pid"] = one.new_pids[pid]
    args, at = made.get("args"), ns_of(made.get("ts"))
    if made.get("ph") == "M":
        if isinstance(args, dict):
            made["args"] = _metadata_args(made.get("name"), args, one)
        if at is not None and made.get("name") == READING_EVENT:
            made["ts"] = _us(at + one.shift_ns)
        return made
    if at is None:
        return None
    made["ts"] = _us(at + one.shift_ns)
    if "id" in made:
        made["id"] = _new_id(number, made["id"])
    if "id2" in made and isinstance(made["id2"], dict):
        made["id2"] = {key: _new_id(number, value) for key, value in made["id2"].items()}
    if joined is not None and one.own is not None and isinstance(args, dict):
        made["args"] = joined.own_args(one.number, made.get("cat"), args)
    return made


def _metadata_args(name: object, args: dict[str, Any], one: _Input) -> dict[str, Any]:
    if name == "process_name" and isinstance(args.get("name"), str):
        return {**args, "name": f"{one.label}: {args['name']}"}
    if name == DEVICE_EVENT and args.get("of") in one.new_pids:
        return {**args, "of": one.new_pids[args["of"]]}
    return args


def _new_id(number: int, value: object) -> str:
    """Ids are unique within a file only: 48 bits of a hash keep files apart, both ends get the same."""
    text = f"{number}\0{value}".encode("utf-8", "replace")
    return "0x" + hashlib.blake2b(text, digest_size=6).hexdigest()


def _metadata(name: str, pid: object, args: Mapping[str, Any]) -> dict[str, Any]:
    return {"ph": "M", "name": name, "ts": 0, "pid": pid, "tid": 0, "args": dict(args)}


def _us(ns: int) -> float | int:
    """Microseconds as a number whose shortest text has at most three decimals."""
    return ns // 1000 if ns % 1000 == 0 else ns / 1000
