"""The last minutes of events in memory, so that a recording can begin before it was asked for."""

from __future__ import annotations

import zlib
from collections import deque
from dataclasses import dataclass

from prismtop.trace.writer import Chunk, Events

BLOCK_BYTES = 64 << 10
BLOCK_NS = 5 * 10**9
_LEVEL = 1


@dataclass(frozen=True)
class Block:
    """Compressed events that lie together in time.

    Attributes:
        first_ns, last_ns: when its events were collected.
        packed: zlib.
        events: how many.
        size: bytes once unpacked.
    """

    first_ns: int
    last_ns: int
    packed: bytes
    events: int
    size: int

    @property
    def text(self) -> bytes:
        """The events, separated by commas."""
        return zlib.decompress(self.packed)


class Ring:
    """Keeps the events of the last `past_s` seconds, or as many as fit into `max_bytes` unpacked.

    In memory they are compressed, five to ten times smaller, unless it is only for a moment. Not thread safe.
    """

    def __init__(self, past_s: float, max_bytes: int = 64 << 20) -> None:
        self.past_ns = int(past_s * 10**9)
        self._max_bytes = max_bytes
        self._blocks: deque[Block] = deque()
        self._size = 0
        self._open: deque[Chunk] = deque()
        self._open_size = 0

    @property
    def packed_bytes(self) -> int:
        """Memory that the events take."""
        return sum(len(block.packed) for block in self._blocks) + self._open_size

    def add(self, chunk: Chunk) -> None:
        """Remember the events of one frame; forget what is too old."""
        self._open.append(chunk)
        self._open_size += len(chunk.text)
        if self.past_ns <= BLOCK_NS:
            while self._open[0].time_ns < chunk.time_ns - self.past_ns or self._open_size > self._max_bytes:
                self._open_size -= len(self._open.popleft().text)
        elif self._open_size >= BLOCK_BYTES or chunk.time_ns - self._open[0].time_ns >= BLOCK_NS:
            self._close_block()
        while self._blocks and (
            self._blocks[0].last_ns < chunk.time_ns - self.past_ns or self._size > self._max_bytes
        ):
            self._size -= self._blocks.popleft().size

    def since(self, time_ns: int) -> tuple[list[Events], int | None]:
        """Everything collected at or after `time_ns` (a few seconds more where a block begins earlier), and
        when its first part was collected; None with nothing.
        """
        blocks = [block for block in self._blocks if block.last_ns >= time_ns]
        chunks = [chunk for chunk in self._open if chunk.time_ns >= time_ns]
        first = blocks[0].first_ns if blocks else chunks[0].time_ns if chunks else None
        return [*blocks, *chunks], first

    def _close_block(self) -> None:
        text = b",\n".join(chunk.text for chunk in self._open)
        block = Block(
            self._open[0].time_ns,
            self._open[-1].time_ns,
            zlib.compress(text, _LEVEL),
            sum(chunk.events for chunk in self._open),
            len(text),
        )
        self._blocks.append(block)
        self._size += block.size
        self._open.clear()
        self._open_size = 0
