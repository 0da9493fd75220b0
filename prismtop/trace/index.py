"""Random access into a recording of ours: where its blocks are, and what must be known before any of them.

A recording holds one event a line in the order in which its session saw them, so a block is a run of lines,
and the latest time up to its end says whether a moment lies before or after it. No event is parsed for that
but one a block and those few that change how others are understood (session, counter series, attach state)
or that a person jumps to (alerts, injected faults).
"""

from __future__ import annotations

import json
import re
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prismtop.errors import UsageError
from prismtop.trace.lenient import decode_object, ns_of
from prismtop.trace.own import (
    CAPTURE_EVENT,
    CAT_ALERT,
    CAT_BATCH,
    CAT_COUNTER,
    CAT_REQUEST,
    CAT_SESSION,
    CAT_STAGE,
    CAT_TRUTH,
    READING_EVENT,
    SERIES_EVENT,
    SESSION_EVENT,
)
from prismtop.trace.reader import MAX_EVENT

VERSION = 4
BLOCK = 48 * 1024
"""Bytes read to show one place of a trace: some hundred events."""
KEPT_MAX = 50_000
"""Lines kept of each kind; more of them would be no rarity."""
CANONICAL = f'{{"ph":"M","name":"{SESSION_EVENT}",'.encode()
"""How a line that describes the session begins in a file that is one event a line."""
_CONTEXT = (
    f'"name":"{SESSION_EVENT}"'.encode(),
    f'"name":"{SERIES_EVENT}"'.encode(),
    f'"name":"{CAPTURE_EVENT}"'.encode(),
    f'"cat":"{CAT_SESSION}"'.encode(),
)
_MARKS = (f'"cat":"{CAT_ALERT}"'.encode(), f'"cat":"{CAT_TRUTH}"'.encode())
_REQUEST = f'"cat":"{CAT_REQUEST}"'.encode()
_COUNTER = f'"cat":"{CAT_COUNTER}"'.encode()
_READING = f'"name":"{READING_EVENT}"'.encode()
_BATCH = f'"cat":"{CAT_BATCH}"'.encode()
_STAGE = f'"cat":"{CAT_STAGE}"'.encode()
_STAGES_OF = re.compile(rb'"stages":(\d{1,6})\b')
_OURS = (_BATCH, _STAGE, _COUNTER, _REQUEST, _READING, *_CONTEXT, *_MARKS)
"""What a block must hold one of to be worth reading: the other layers of a capture are many, and not ours."""
_JUDGED = b'"expected_ns":'


@dataclass
class Index:
    """Where to find what in one file of one event a line.

    Attributes:
        offsets, lengths: of the blocks that hold anything of ours, bytes.
        last_us: per block the latest end of an event up to its end, microseconds of the trace.
        context: (offset, line) of what must be known to understand later lines, in order.
        marks: lines of alerts and injected faults, in order.
        batches: number of batch events.
        judged: how many of them carry a prediction.
        first_us: earliest batch or counter seen at a block's start.
        cut: bytes at the end that are no whole line.
        loose: whether stages stand in another block than their batch, as in files sorted by time.
    """

    offsets: list[int] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    last_us: list[float] = field(default_factory=list)
    context: list[tuple[int, str]] = field(default_factory=list)
    marks: list[str] = field(default_factory=list)
    batches: int = 0
    judged: int = 0
    first_us: float | None = None
    cut: int = 0
    loose: bool = False

    def block_before(self, time_us: float) -> int:
        """The number of the block from which to read for everything after `time_us`."""
        found = bisect_left(self.last_us, time_us) - self.loose
        return max(0, min(found, len(self.offsets) - 1))

    def to_json(self) -> dict[str, Any]:
        """What `from_json` takes."""
        return {"version": VERSION, **self.__dict__}

    @classmethod
    def from_json(cls, made: dict[str, Any]) -> Index:
        """Raises ValueError, KeyError or TypeError when it is not what `to_json` gave."""
        if made.pop("version") != VERSION:
            raise ValueError("another version")
        index = cls(**made)
        index.context = [(int(offset), str(line)) for offset, line in index.context]
        if not len(index.offsets) == len(index.lengths) == len(index.last_us):
            raise ValueError("lengths differ")
        return index


def build_index(path: Path) -> Index:
    """One pass over a file of one event a line.

    Raises:
        UsageError: a line is longer than any event.
    """
    index = Index()
    latest = float("-inf")
    for offset, block in lines_of(path, index):
        if not any(tag in block for tag in _OURS):
            continue
        latest = max(latest, _latest_us(block))
        index.offsets.append(offset)
        index.lengths.append(len(block))
        index.last_us.append(latest)
        index.batches += block.count(_BATCH)
        index.judged += block.count(_JUDGED)
        index.loose |= sum(map(int, _STAGES_OF.findall(block))) != block.count(_STAGE)
        for tag in _CONTEXT:
            if len(index.context) < KEPT_MAX:
                index.context += [(offset + at, line) for at, line in _lines_with(block, tag)]
        for tag in _MARKS:
            if len(index.marks) < KEPT_MAX:
                index.marks += [line for _, line in _lines_with(block, tag)]
        if index.first_us is None:
            index.first_us = _first_us(block)
    index.context.sort(key=lambda entry: entry[0])
    return index


def lines_of(path: Path, index: Index | None = None, size: int = BLOCK) -> Iterator[tuple[int, bytes]]:
    """(offset, whole lines) of at most about `size` bytes."""
    offset, rest = 0, b""
    with path.open("rb", buffering=0) as file:
        while piece := file.read(size):
            # Before a batch, if there is one: its stages follow it.
            cut = piece.rfind(b"\n", 0, max(0, piece.rfind(_BATCH))) + 1 or piece.rfind(b"\n") + 1
            if not cut:
                rest += piece
                if len(rest) > MAX_EVENT:
                    raise UsageError(
                        f"a line of {path.name!r} is longer than {MAX_EVENT >> 20} MiB.",
                        fix="`prismtop trace check FILE` says more.",
                    )
                continue
            block = rest + piece[:cut]
            yield offset, block
            offset += len(block)
            rest = piece[cut:]
    whole = rest.rfind(b"\n") + 1
    if rest[:whole].strip():
        yield offset, rest[:whole]
        offset += whole
    rest = rest[whole:]
    if rest.strip(b" \t\r\n],"):
        # A recorder that was killed leaves its last line without an end: whole or not shows when it is read.
        if decode_object(rest.strip(b" \t\r\n,]")) is None:
            if index is not None:
                index.cut = len(rest)
            return
        yield offset, rest


def events_in(block: bytes) -> list[dict[str, Any]]:
    """The events of whole lines; a line that cannot be read is left out."""
    try:
        made = json.loads(
            b"[" + block.strip(b" \t\r\n,").lstrip(b"[").rstrip(b"]").rstrip(b" \t\r\n,") + b"]"
        )
    except (ValueError, RecursionError):
        made = [decode_object(line.strip(b" \t\r,")) for line in block.split(b"\n")]
    return [event for event in made if isinstance(event, dict)]


def read_block(path: Path, index: Index, number: int) -> bytes:
    """The lines of one block; fewer, or none, when the file was cut or moved away since."""
    try:
        with path.open("rb", buffering=0) as file:
            file.seek(index.offsets[number])
            return file.read(index.lengths[number]) or b""
    except OSError:
        return b""


def _lines_with(block: bytes, tag: bytes) -> Iterator[tuple[int, str]]:
    at = block.find(tag)
    while at >= 0:
        start = block.rfind(b"\n", 0, at) + 1
        end = block.find(b"\n", at)
        end = len(block) if end < 0 else end
        yield start, block[start:end].decode("utf-8", "replace")
        at = block.find(tag, end)


def _latest_us(block: bytes) -> float:
    """The end of the block's last batch, or the time of its last event."""
    at = block.rfind(_BATCH)
    end = len(block.rstrip(b" \t\r\n],"))
    latest = float("-inf")
    for place in (at, end - 1):
        if place < 0:
            continue
        start = block.rfind(b"\n", 0, place) + 1
        stop = block.find(b"\n", place)
        event = decode_object(block[start : stop if stop >= 0 else len(block)].strip(b" \t\r\n,[]"))
        if event is not None and event.get("ph") != "M":
            latest = max(latest, (ns_of(event.get("ts")) or 0) / 1e3 + (ns_of(event.get("dur")) or 0) / 1e3)
    return latest


def _first_us(block: bytes) -> float | None:
    for event in events_in(block):
        if event.get("cat") in (CAT_BATCH, "counter"):
            at = ns_of(event.get("ts"))
            if at is not None:
                return at / 1e3
    return None
