"""What surrounds the events of a trace file, as strict viewers see it: compression, encoding, brackets."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prismtop.trace.lenient import decode_object
from prismtop.trace.reader import Block, TraceReader, spans
from prismtop.trace.unpack import PIECE

_BOM = b"\xef\xbb\xbf"
_GZIP = b"\x1f\x8b"


@dataclass
class Container:
    """Facts about one file.

    Attributes:
        gzip: whether it is compressed.
        members: complete gzip members.
        damaged: a member is cut or broken.
        padded: something that is no member follows the last one.
        bom: it begins with a byte order mark.
        head, tail: first and last bytes of the text, without white space.
    """

    gzip: bool = False
    members: int = 0
    damaged: bool = False
    padded: bool = False
    bom: bool = False
    head: bytes = b""
    tail: bytes = b""


def container_of(path: Path) -> Container:
    """One pass over a file that the reader has read to its end, so that it is no gzip bomb.

    Raises:
        OSError: it cannot be read.
    """
    made = Container()
    with open(path, "rb") as file:
        made.gzip = file.read(2) == _GZIP
        file.seek(0)
        pieces = (
            _members(iter(lambda: file.read(PIECE), b""), made)
            if made.gzip
            else iter(lambda: file.read(PIECE), b"")
        )
        for piece in pieces:
            if len(made.head) < 64:
                made.head = (made.head + piece).lstrip()[:64]
            made.tail = (made.tail + piece).rstrip()[-64:]
    made.bom = made.head.startswith(_BOM)
    return made


def _members(packed: Iterator[bytes], facts: Container) -> Iterator[bytes]:
    unpacker = zlib.decompressobj(31)
    inside = False
    for buffer in packed:
        while buffer:
            if not inside and not buffer.startswith(_GZIP[: len(buffer)]):
                facts.padded = True
                return
            inside = True
            try:
                piece = unpacker.decompress(buffer, PIECE)
            except zlib.error:
                facts.damaged = True
                return
            if piece:
                yield piece
            buffer = unpacker.unconsumed_tail
            if unpacker.eof:
                buffer = unpacker.unused_data
                unpacker = zlib.decompressobj(31)
                facts.members += 1
                inside = False
    facts.damaged = inside


class WholeReader(TraceReader):
    """A reader that also knows what follows the list of events.

    Attributes:
        after: text between the list's closing bracket and the end, as far as the reader kept it.
    """

    after: bytes = b""

    def _finish(self, head: bytes, tail: bytes, pieces: Iterator[bytes]) -> None:
        self.after = tail[:64].strip()
        super()._finish(head, tail, pieces)


@dataclass
class Decoded:
    """The events of one block with all their fields.

    Attributes:
        events: offset in the unpacked file (-1 where it was not looked for) and fields.
        broken: offsets of objects that are no strict JSON, with what a strict parser says.
        lost: how many of those could not be read by a lenient one either.
        recoded: events with bytes that are no UTF-8, which viewers replace.
        between: offset of text between events that is neither a comma nor white space; None without.
    """

    events: list[tuple[int, dict[str, Any]]] = field(default_factory=list)
    broken: list[tuple[int, str]] = field(default_factory=list)
    lost: int = 0
    recoded: int = 0
    between: int | None = None


def decoded(block: Block) -> Decoded:
    """Events of a block: at once when all of it is strict JSON (NaN and Infinity included, as floats)."""
    try:
        fields = json.loads(b"[" + block.data + b"]")
    except (ValueError, RecursionError):
        return _one_by_one(block)
    if all(type(one) is dict for one in fields):
        return Decoded([(block.offset, one) for one in fields])
    return _one_by_one(block)


def _one_by_one(block: Block) -> Decoded:
    made = Decoded()
    at = 0
    for start, end in spans(block.data):
        gap = block.data[at:start]
        if made.between is None and (gap.count(b",") != (at > 0) or gap.strip(b", \t\r\n")):
            made.between = block.offset + at
        at = end
        text = block.data[start:end]
        plain = text.decode("utf-8", "replace")
        made.recoded += plain.encode() != text
        try:
            one: Any = json.loads(plain)
        except (ValueError, RecursionError) as error:
            made.broken.append((block.offset + start, _reason(error)))
            one = decode_object(text)
        if isinstance(one, dict):
            made.events.append((block.offset + start, one))
        else:
            made.lost += 1
    return made


def _reason(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "brackets nested too deeply"
    text = str(error)
    if "control character" in text:
        return "a raw control character in a string"
    if "escape" in text:
        return "an escape that JSON does not have"
    return "text that is no JSON"
