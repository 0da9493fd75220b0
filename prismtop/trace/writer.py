"""A recording on its way to the disk: a bounded queue, and the thread that empties it."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from prismtop.errors import PrismtopError, UnavailableError
from prismtop.model import Recording
from prismtop.safe_text import safe_text
from prismtop.trace.segments import WRITE_BYTES, Archive, Segment, check_free, compress, plain_name, refusal

CLOSE_TIMEOUT_S = 20.0


@dataclass(frozen=True)
class Limits:
    """Of one recording.

    Attributes:
        flush_s: least time between two writes; with the tick before it this is what kill -9 can lose.
        segment_bytes: plain size at which a segment is rotated.
        total_bytes: all segments together; beyond it the oldest goes.
        queue_bytes: events waiting for a slow disk; beyond it they are dropped and counted.
        rotate: False ends the recording at `total_bytes` instead.
    """

    flush_s: float = 0.05
    segment_bytes: int = 32 << 20
    total_bytes: int = 2 << 30
    queue_bytes: int = 8 << 20
    rotate: bool = True


class Events(Protocol):
    """Serialised events, separated by commas, and how many they are."""

    @property
    def text(self) -> bytes:
        """The events."""

    @property
    def events(self) -> int:
        """Their number."""


@dataclass(frozen=True)
class Chunk:
    """`Events` of one frame."""

    time_ns: int
    text: bytes
    events: int


class Texts(Protocol):
    """Who makes the events that a writer adds itself."""

    def header(self, segment: int = 0) -> list[str]:
        """Metadata for the head of a file."""

    def dropped(self, time_ns: int, events: int) -> list[str]:
        """A mark where events are missing."""

    def end(self, events: int, dropped: int) -> str:
        """The last event."""


@dataclass(frozen=True)
class _Rotate:
    head: Sequence[str]


class TraceWriter:
    """Writes one recording. `put` and `close` belong to one thread, the disk to another.

    Args:
        path: ends in .json or .json.gz; must not exist.
        texts: makes metadata, marks and the end; called in the thread that calls `put` and `close`.
        past: what comes before the first `put`; read in the writer's thread.
        since_ns: CLOCK_MONOTONIC of the first event.
        prepare: called in the writer's thread before the file is created.

    Attributes:
        error: why the recording ended early; empty while it runs.
        full: whether it ended because it reached its limit.
    """

    def __init__(
        self,
        path: Path,
        texts: Texts,
        limits: Limits,
        past: Sequence[Events] = (),
        since_ns: int = 0,
        prepare: Callable[[], None] | None = None,
    ) -> None:
        self.path = path
        self.error = ""
        self.full = False
        self._prepare = prepare
        self._refused: PrismtopError | None = None
        self._opened = threading.Event()
        self._limits = limits
        self._texts = texts
        self._since_ns = since_ns
        self._plain = plain_name(path)
        self._archive = Archive(limits.total_bytes)
        self._segments = 1
        self._live: Segment | None = None
        self._filled = 0
        self._events = self._dropped = self._gap = self._rotations = 0
        self._accepted = sum(events.events for events in past)
        self._queue: deque[Chunk | _Rotate] = deque()
        self._queued = 0
        self._wake = threading.Condition()
        self._closing = threading.Event()
        self._last = ""
        arguments = (texts.header(0), past)
        self._thread = threading.Thread(target=self._run, args=arguments, name="prismtop-trace", daemon=True)
        self._thread.start()

    def put(self, chunk: Chunk) -> None:
        """Queue events; never blocks. Without room they are dropped, and a mark says so once there is."""
        if self.error or self.full or self._closing.is_set():
            return
        with self._wake:
            if self._queued + len(chunk.text) > self._limits.queue_bytes:
                self._dropped += chunk.events
                self._gap += chunk.events
                return
            if self._gap:
                self._append(_chunk(chunk.time_ns, self._texts.dropped(chunk.time_ns, self._gap)))
                self._gap = 0
            if self._filled > self._limits.segment_bytes and self._limits.rotate:
                self._queue.append(_Rotate(self._texts.header(self._segments)))
                self._segments += 1
                self._filled = 0
            self._append(chunk)
            self._wake.notify()

    def wait_open(self, timeout_s: float = CLOSE_TIMEOUT_S) -> None:
        """Wait until the file is there.

        Raises:
            PrismtopError: it cannot be created; the sentence says why.
        """
        if not self._opened.wait(timeout_s):
            raise UnavailableError(
                f"{safe_text(str(self.path))} was not created within {timeout_s:.0f} s.",
                fix="Choose a directory on another disk.",
            )
        if self._refused is not None:
            raise self._refused

    def status(self) -> Recording:
        """How the recording stands."""
        size = self._archive.size + (self._live.size if self._live else 0)
        return Recording(str(self.path), self._since_ns, self._events, size, self._dropped, self.error)

    def last_words(self) -> None:
        """Queue the end: what is put afterwards is not taken. To be called by the thread that calls `put`."""
        with self._wake:
            if self._closing.is_set():
                return
            if self._gap:
                now = time.monotonic_ns()
                self._append(_chunk(now, self._texts.dropped(now, self._gap)))
            self._last = self._texts.end(self._accepted, self._dropped)
            self._closing.set()
            self._wake.notify()

    def close(self, timeout_s: float = CLOSE_TIMEOUT_S) -> tuple[str, ...]:
        """Write what is queued and finish the file; sentences about what a person should know."""
        self.last_words()
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            return (f"the disk did not take all of {safe_text(str(self.path))} within {timeout_s:.0f} s",)
        notes = list(self._archive.problems)
        if self.error:
            notes.append(f"the recording {safe_text(str(self.path))} ended early: {self.error}")
        if self._dropped:
            notes.append(f"{self._dropped} events are missing: the disk was too slow")
        return tuple(notes)

    def _append(self, chunk: Chunk) -> None:
        self._queue.append(chunk)
        self._queued += len(chunk.text)
        self._filled += len(chunk.text)
        self._accepted += chunk.events

    def _run(self, head: Sequence[str], past: Iterable[Events]) -> None:
        live = self._open(head)
        if live is None:
            return
        self._live = live
        self._opened.set()
        written = 0.0
        try:
            for events in past:
                text = events.text
                self._write(text, events.events)
                self._filled += len(text)
            while True:
                with self._wake:
                    while not self._queue and not self._closing.is_set():
                        self._wake.wait()
                    # Frames come farther apart than this: one wake-up for each, and none for nothing.
                    soon = written + self._limits.flush_s - time.monotonic()
                if soon > 0:
                    self._closing.wait(soon)
                with self._wake:
                    items = list(self._queue)
                self._empty(items)
                written = time.monotonic()
                if self._closing.is_set() and not self._queue:
                    break
            self._finish()
        except OSError as error:
            self._fail(error.strerror or "the disk failed")

    def _open(self, head: Sequence[str]) -> Segment | None:
        try:
            if self._prepare is not None:
                self._prepare()
            check_free(self.path)
            return Segment(self._plain, head)
        except PrismtopError as error:
            self._refused = error
        except OSError as error:
            self._refused = refusal(self.path, error)
        self._fail(self._refused.message)
        self._opened.set()
        return None

    def _empty(self, items: Sequence[Chunk | _Rotate]) -> None:
        """Write what was queued, in writes of at most `WRITE_BYTES`; it counts as queued until then."""
        group: list[Chunk] = []
        size = 0
        for item in items:
            if group and (isinstance(item, _Rotate) or size + len(item.text) > WRITE_BYTES):
                self._write_group(group)
                group, size = [], 0
            if isinstance(item, _Rotate):
                self._rotate(item.head)
                self._done([item])
            else:
                group.append(item)
                size += len(item.text)
        if group:
            self._write_group(group)

    def _write_group(self, group: Sequence[Chunk]) -> None:
        self._write(b",\n".join(chunk.text for chunk in group), sum(chunk.events for chunk in group))
        self._done(group)

    def _done(self, items: Sequence[Chunk | _Rotate]) -> None:
        with self._wake:
            for item in items:
                self._queue.popleft()
                self._queued -= len(item.text) if isinstance(item, Chunk) else 0

    def _write(self, text: bytes, events: int) -> None:
        self._file.append(text)
        self._events += events
        if not self._limits.rotate and self._file.size > self._limits.total_bytes:
            self.full = True

    @property
    def _file(self) -> Segment:
        assert self._live is not None
        return self._live

    def _rotate(self, head: Sequence[str]) -> None:
        self._file.close()
        done = self._plain.with_name(f"{self._plain.name[:-5]}.{self._rotations:04d}.json")
        self._rotations += 1
        self._plain.rename(done)
        self._archive.add(done, self._file.size)
        self._live = Segment(self._plain, head)
        self._archive.trim(self._file.size)

    def _finish(self) -> None:
        self._file.close(self._last)
        if self.path != self._plain:
            try:
                self._file.size = compress(self._plain, self.path)
            except OSError as error:
                self._archive.problems.append(
                    f"{safe_text(str(self.path))} could not be written ({error.strerror}): "
                    f"the recording is in {safe_text(str(self._plain))}"
                )
        self._archive.close(CLOSE_TIMEOUT_S)
        self._archive.trim(self._file.size)

    def _fail(self, why: str) -> None:
        """The recording ends, and nothing else does: the file keeps what it has."""
        self.error = why
        with self._wake:
            self._queue.clear()
            self._queued = 0
        if self._live is not None:
            self._live.abandon()
        self._archive.close(0)


def _chunk(time_ns: int, events: Sequence[str]) -> Chunk:
    return Chunk(time_ns, ",\n".join(events).encode(), len(events))
