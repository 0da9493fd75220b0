"""Events of any Chrome trace, in blocks, with bounded memory.

Objects with `traceEvents` and bare arrays, closed or cut anywhere, gzip of one or many members, JSON lines.
Where events begin and end is found by one pass over the bytes with numpy (a table look-up, the parity of
quotes, the running depth of brackets), so that no event is parsed before somebody asks for it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prismtop.errors import UsageError
from prismtop.trace.lenient import Event, decode_block, decode_object
from prismtop.trace.unpack import PIECE, Unpacked

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MAX_EVENT = 8 << 20
"""Bytes of one event; the largest seen in real traces is 0.3 MB."""
MAX_HEAD = 8 << 20
_FIX = "`prismtop replay` takes Chrome trace JSON (.json, .json.gz) and LatencyPrism's CSVs."
_EVENTS_KEY = re.compile(rb'"traceEvents"\s*:\s*(\S)')
_ESCAPED = re.compile(rb"\\.", re.DOTALL)
_STRUCTURE = bytes(b'"{}[]'.find(bytes((byte,))) + 1 for byte in range(256))
_QUOTE, _OPEN, _CLOSE, _OPEN_LIST, _CLOSE_LIST = range(1, 6)
_STEP = (0, 0, 1, -1, 1, -1)


@dataclass(frozen=True)
class Block:
    """Whole events that follow each other in the file.

    Attributes:
        offset: of `data` in the unpacked file.
        data: from the first event's brace to the last one's.
    """

    offset: int
    data: bytes

    def events(self) -> tuple[list[Event], int]:
        """The events, and how many could not be read."""
        return decode_block(self.data, spans, nested_spans)


@dataclass
class TraceReader:
    """One pass over one file; `blocks` may be called once.

    Attributes:
        path: the file.
        header: what the object form holds beside `traceEvents` (complete only after the last block).
        notes: sentences about damage.
        skipped: events that could not be read so far (counted by `events`).
        form: `array`, `object` or `lines`, once the first block is out.
    """

    path: Path
    header: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    skipped: int = 0
    form: str = ""

    def events(self) -> Iterator[list[Event]]:
        """The events, block by block; what is raised is as for `blocks`."""
        for block in self.blocks():
            made, skipped = block.events()
            self.skipped += skipped
            yield made

    def blocks(self, size: int = PIECE) -> Iterator[Block]:
        """Blocks of whole events in the order of the file.

        Raises:
            UsageError: it is no trace, cannot be read, or holds an event larger than `MAX_EVENT`.
        """
        source = Unpacked(self.path)
        pieces = source.pieces(size)
        head, rest, offset = self._start(source, pieces)
        wanted, more = 0, True
        while True:
            if len(rest) >= wanted or not more:
                found = _scan(rest)
                if found.last:
                    yield self._block(offset + found.first, rest[found.first : found.last])
                if found.end is not None:
                    self._finish(head, rest[found.end + 1 :], pieces)
                    break
                rest, offset = rest[found.last :], offset + found.last
                # An event that does not end is looked at again at twice its size: linear in the end.
                wanted = 0 if found.last else min(2 * len(rest), MAX_EVENT + 1)
            if len(rest) > MAX_EVENT:
                raise UsageError(
                    f"{source.name} holds an event of more than {MAX_EVENT >> 20} MiB: it is not a trace.",
                    fix=_FIX,
                )
            if not more:
                self._cut_short(source, rest, head)
                break
            piece = next(pieces, b"")
            more = bool(piece)
            rest += piece
        self.notes += source.notes

    def _block(self, offset: int, data: bytes) -> Block:
        if self.form == "lines":  # no line feed stands inside of a string, so this is between two events
            data = data.replace(b"}\n{", b"},{").replace(b"}\r\n{", b"},{")
        return Block(offset, data)

    def _cut_short(self, source: Unpacked, rest: bytes, head: bytes) -> None:
        left = len(rest.strip(b", \t\r\n"))
        if self.form == "object" or left:
            self.notes.append(f"{source.name} is cut short: its last {left} bytes are no whole event")
        self._finish(head, b"", iter(()))

    def _start(self, source: Unpacked, pieces: Iterator[bytes]) -> tuple[bytes, bytes, int]:
        """(text before the events, first bytes of the events, their offset)."""
        head = b""
        for piece in pieces:
            head += piece
            begin = head.lstrip()
            if not begin:
                continue
            skipped = len(head) - len(begin)
            if begin[:1] == b"[":
                inner = begin[1:].lstrip()
                if not inner and len(head) < MAX_HEAD:
                    continue
                if inner[:1] not in (b"{", b"]", b","):
                    raise UsageError(f"{source.name} is a JSON list, but not of trace events.", fix=_FIX)
                self.form = "array"
                return b"", begin[1:], skipped + 1
            if begin[:1] != b"{":
                raise UsageError(f"{source.name} is not a trace: it is not JSON.", fix=_FIX)
            at = _events_at(head, source.name)
            if at is not None:
                self.form = "object"
                return head[:at], head[at:], at
            if _is_event_line(begin):
                self.form = "lines"
                return b"", begin, skipped
            if len(head) > MAX_HEAD:
                break
        if not head.strip():
            raise UsageError(f"{source.name} holds no text.", fix=_FIX)
        if head.lstrip()[:1] == b"[":
            self.form = "array"
            return b"", b"", len(head)
        raise UsageError(f"{source.name} is not a trace: no traceEvents in it.", fix=_FIX)

    def _finish(self, head: bytes, tail: bytes, pieces: Iterator[bytes]) -> None:
        """Read what stands beside the events: at most `MAX_HEAD` bytes of it."""
        if self.form != "object":
            if (tail + next(pieces, b"")).strip():
                self.notes.append(f"{self.path.name!r}: what stands after the end of its list was not read")
            return
        for piece in pieces:
            tail += piece
            if len(tail) > MAX_HEAD:
                tail = b""
                break
        for text in (head + b"]" + tail, head + b"]}"):
            made = decode_object(text)
            if made is not None:
                made.pop("traceEvents", None)
                self.header = made
                return


def spans(data: bytes) -> list[tuple[int, int]]:
    """Start and end of each object in `data`, which begins outside of any string."""
    places, _, depth, kinds = _structure(data)
    import numpy as np

    starts = places[np.flatnonzero((depth == 1) & (kinds == _OPEN))]
    ends = places[np.flatnonzero((depth == 0) & (kinds == _CLOSE))] + 1
    made, at = [], 0
    for start in starts.tolist():
        while at < len(ends) and ends[at] <= start:
            at += 1
        if at == len(ends):
            break
        made.append((start, int(ends[at])))
    return made


def nested_spans(data: bytes) -> list[tuple[int, int]]:
    """Start and end of what stands in brackets inside each object of `data`."""
    import numpy as np

    places, _, depth, kinds = _structure(data)
    opens = (kinds == _OPEN) | (kinds == _OPEN_LIST)
    starts = places[np.flatnonzero((depth == 2) & opens)]
    ends = places[np.flatnonzero((depth == 1) & ~opens)] + 1
    if len(starts) != len(ends):
        return []
    return list(zip(starts.tolist(), ends.tolist(), strict=True))


@dataclass(frozen=True)
class _Found:
    """Where the first event begins and the last one ends (0: none), and the list's closing bracket."""

    first: int
    last: int
    end: int | None


def _scan(data: bytes) -> _Found:
    import numpy as np

    places, _, depth, kinds = _structure(data)
    below = np.flatnonzero(depth < 0)
    end = None
    if len(below):
        end = int(places[below[0]])
        depth, kinds = depth[: below[0]], kinds[: below[0]]
    closes = np.flatnonzero((depth == 0) & (kinds == _CLOSE))
    if not len(closes):
        return _Found(0, 0, end)
    first = int(np.argmax((depth == 1) & (kinds == _OPEN)))
    return _Found(int(places[first]), int(places[closes[-1]]) + 1, end)


def _structure(
    data: bytes,
) -> tuple[NDArray[np.intp], int, NDArray[np.int32], NDArray[np.uint8]]:
    """(places, open strings, depth after, kinds) of every bracket outside strings."""
    import numpy as np

    if b"\\" in data:  # same length, so that places stay
        data = _ESCAPED.sub(b"__", data)
    codes = np.frombuffer(data.translate(_STRUCTURE), np.uint8)
    places = np.flatnonzero(codes != 0)
    kinds = codes[places]
    quotes = kinds == _QUOTE
    inside = np.bitwise_xor.accumulate(quotes.view(np.uint8)) if len(quotes) else quotes.view(np.uint8)
    keep = np.flatnonzero((inside == 0) & ~quotes)
    places, kinds = places[keep], kinds[keep]
    depth = np.cumsum(np.array(_STEP, np.int32)[kinds], dtype=np.int32)
    return places, int(inside[-1]) if len(inside) else 0, depth, kinds


def _events_at(head: bytes, name: str) -> int | None:
    """Where the events of an object begin: after the bracket of its own `traceEvents`."""
    for match in _EVENTS_KEY.finditer(head):
        _, inside, depth, _ = _structure(head[: match.start()])
        if inside or not len(depth) or depth[-1] != 1:
            continue
        if match[1] != b"[":
            raise UsageError(f"{name} is not a trace: its traceEvents are no list.", fix=_FIX)
        return match.end()
    return None


def _is_event_line(text: bytes) -> bool:
    found = spans(text)
    if not found:
        return False
    try:
        made = json.loads(text[found[0][0] : found[0][1]])
    except (ValueError, RecursionError):
        return False
    return isinstance(made, dict) and isinstance(made.get("ph"), str)
