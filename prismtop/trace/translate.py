"""Writes the recording of ours, plain text of one event a line, that any other trace is read as."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

from prismtop.errors import UsageError
from prismtop.model import AttachState, Batch, Clock, Counter, Frame, Group, HookStatus, ProcessId, Target
from prismtop.trace.cache import MAX_BYTES
from prismtop.trace.dialects.found import Foreign
from prismtop.trace.events import Encoder
from prismtop.trace.lenient import arguments
from prismtop.trace.output import finite
from prismtop.trace.reader import TraceReader
from prismtop.trace.unpack import Unpacked

FRAME_BATCHES = 256


class LimitedFile:
    """A file that refuses to grow beyond the cache's size."""

    def __init__(self, file: BinaryIO, limit: int = MAX_BYTES) -> None:
        self._file = file
        self._left = limit

    def write(self, data: bytes) -> None:
        """Append."""
        self._left -= len(data)
        if self._left < 0:
            raise UsageError(
                f"the trace unpacks to more than {MAX_BYTES >> 30} GiB.",
                fix="Record it in several files, or unpack it and open that.",
            )
        self._file.write(data)


def unpack(source: Unpacked, file: LimitedFile, lines: bool, notes: list[str]) -> None:
    """Write a recording of ours as plain text of one event a line.

    Args:
        lines: whether it is that already, and only packed.
        notes: what a person should know is added to them.

    Raises:
        UsageError: it is too large, or cannot be read.
    """
    if lines:
        for piece in source.pieces():
            file.write(piece)
        notes += source.notes
        return
    reader = TraceReader(source.path)
    for events in reader.events():
        for event in events:
            fields = {name: getattr(event, name) for name in event.__slots__}
            fields["args"] = arguments(event)
            made = {name: value for name, value in fields.items() if value is not None}
            whole, _ = finite(made)
            file.write(
                json.dumps(whole, separators=(",", ":"), allow_nan=False, default=str).encode() + b",\n"
            )
    notes += reader.notes


def read_foreign(path: Path, head: bytes) -> Foreign:
    """Somebody else's trace, in our nouns.

    Args:
        head: the file's first bytes, unpacked.

    Raises:
        UsageError: it is no trace, or cannot be read.
    """
    from prismtop.trace.dialects import latencyprism_csv

    if latencyprism_csv.is_csv(head):
        return latencyprism_csv.read_csv(path)
    from prismtop.trace.dialects.chrome import read_chrome

    found = read_chrome(path)
    return _broken_down(path, found) if found.dialect == "kineto" and found.count else found


def _broken_down(path: Path, found: Foreign) -> Foreign:
    """The same with what device and host did in each batch."""
    from prismtop.deepdive.breakdown import breakdowns
    from prismtop.deepdive.read import read_timeline

    batches = list(found.batches())
    parts = breakdowns(read_timeline(path), batches)
    made = [replace(batch, breakdown=part) for batch, part in zip(batches, parts, strict=True)]
    return replace(found, batches=lambda: iter(made))


def translate(found: Foreign, file: LimitedFile) -> None:
    """Write somebody else's trace as a recording of ours. Raises UsageError: it is too large."""
    stages = sorted({stage.name for batch in found.batches() for stage in batch.stages})
    ranks = () if found.rank is None else (("TP", found.rank),)
    member = Target(
        ProcessId(found.pid, 0), found.engine, "engine", True, f"trace of {found.dialect}", ranks=ranks
    )
    first = Frame(
        time_ns=found.start_ns,
        clock=Clock(0),
        group=Group(found.engine, None, (member,)),
        state=AttachState.LIVE,
        hooks=tuple(HookStatus(name, name, found.pid, "trace") for name in stages),
    )
    encoder = Encoder(first)
    file.write(b"[\n")

    def put(lines: list[str]) -> None:
        if lines:
            file.write((",\n".join(lines) + ",\n").encode())

    put(encoder.header())
    for batches, counters in _frames(found):
        times = [*(batch.end_ns for batch in batches[-1:]), *(counter.time_ns for counter in counters[-1:])]
        frame = Frame(
            time_ns=max(times, default=found.start_ns),
            clock=first.clock,
            group=first.group,
            state=first.state,
            hooks=first.hooks,
            new_batches=tuple(batches),
            new_counters=tuple(counters),
        )
        put(encoder.events_of(frame))


def _frames(found: Foreign) -> Iterator[tuple[list[Batch], list[Counter]]]:
    """Batches and the readings up to their end, a screenful at a time."""
    readings = found.counters()
    waiting = next(readings, None)
    batches: list[Batch] = []
    counters: list[Counter] = []
    for batch in found.batches():
        while waiting is not None and waiting.time_ns <= batch.start_ns:
            counters.append(waiting)
            waiting = next(readings, None)
        if counters or len(batches) >= FRAME_BATCHES:
            yield batches, counters
            batches, counters = [], []
        batches.append(batch)
    yield batches, counters
    counters = []
    while waiting is not None:
        counters.append(waiting)
        waiting = next(readings, None)
        if len(counters) >= 10_000 or waiting is None:
            yield [], counters
            counters = []
