"""One file as a recording of ours with an index: in place, unpacked, or translated.

A recording of ours that is plain text is read where it is. Every other trace is turned once into such a
recording in the user's cache: ours is unpacked, somebody else's is translated. So there is one way to read,
to seek in and to judge any trace.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from prismtop.errors import UnavailableError, UsageError
from prismtop.model import Alert, Batch, Counter, Request
from prismtop.safe_text import safe_text
from prismtop.trace.cache import Cache
from prismtop.trace.dialects.found import Foreign
from prismtop.trace.events import Decoding, decode, unfinished
from prismtop.trace.index import CANONICAL, Index, build_index, events_in, read_block
from prismtop.trace.lenient import MAX_US, decode_object, ns_of
from prismtop.trace.own import (
    CAPTURE_EVENT,
    SESSION_EVENT,
    Dropped,
    GroundTruth,
    LostSoFar,
    Said,
    SessionInfo,
    StateChange,
)
from prismtop.trace.reader import TraceReader
from prismtop.trace.sound import sound
from prismtop.trace.translate import LimitedFile, read_foreign, translate, unpack
from prismtop.trace.unpack import Unpacked

Moment: TypeAlias = tuple[int, object]
"""(when the session saw it, CLOCK_MONOTONIC ns of the trace; the noun)."""
_NUMBERS = (float, int)


@dataclass(frozen=True)
class Story:
    """One opened file.

    Attributes:
        path: as the user named it.
        source: the file that is read: `path` itself, or its translation in the cache.
        index: where to find what in `source`.
        dialect: `prismtop`, `kineto`, `viztracer`, `py-spy`, `latencyprism`, `latencyprism-csv` or `chrome`.
        how: how batches were told apart; empty for ours.
        session: what was watched, at the start.
        start_ns, end_ns: first and last moment.
        notes: sentences about damage and what is missing.
        wall: whether its times can be turned into wall time.
    """

    path: Path
    source: Path
    index: Index
    dialect: str
    how: str
    session: SessionInfo
    start_ns: int
    end_ns: int
    notes: tuple[str, ...] = ()
    wall: bool = True

    def moments(self, from_ns: int | None = None) -> Iterator[Moment]:
        """Everything in the order in which it was recorded, with times that never go back.

        Args:
            from_ns: leave out what comes before; what must be known then is still understood.
        """
        base = self.session.base_ns
        first = 0
        state = Decoding()
        latest = -(1 << 63)
        if from_ns is not None:
            first = self.index.block_before((from_ns - base) / 1000)
            offset = self.index.offsets[first] if self.index.offsets else 0
            for at, line in self.index.context:
                if at >= offset:
                    break
                event = decode_object(line.strip(" \t\r,[").encode())
                if event is not None:
                    _decoded(event, state)
        for number in range(first, len(self.index.offsets)):
            for event in events_in(read_block(self.source, self.index, number)):
                noun = _decoded(event, state)
                if noun is None or isinstance(noun, SessionInfo):
                    continue
                latest = max(latest, _seen_ns(noun, event, base))
                if from_ns is None or latest >= from_ns:
                    yield latest, noun
        for batch in unfinished(state):
            if sound(batch):
                yield max(latest, batch.end_ns), batch

    def state_before(self, time_ns: int) -> list[object]:
        """The changes of the attach state, losses and warnings before a time, in order."""
        state = Decoding()
        made: list[object] = []
        for _, line in self.index.context:
            event = decode_object(line.strip(" \t\r,[").encode())
            noun = _decoded(event, state) if event is not None else None
            if isinstance(noun, (StateChange, LostSoFar)) and noun.time_ns < time_ns:
                made.append(noun)
        return made

    @property
    def captured(self) -> Mapping[str, Any] | None:
        """What a deep capture says of itself, as `prismtop.model.Capture` in JSON; None without one."""
        for _, line in self.index.context:
            if f'"name":"{CAPTURE_EVENT}"' in line:
                event = decode_object(line.strip(" \t\r,[").encode()) or {}
                args = event.get("args")
                return args if isinstance(args, dict) else None
        return None

    def marks(self) -> list[Moment]:
        """Alerts as recorded, and injected faults, each with its time, in order of time."""
        state = Decoding(session=self.session)
        made: list[Moment] = []
        for line in self.index.marks:
            event = decode_object(line.strip(" \t\r,[").encode())
            noun = _decoded(event, state) if event is not None else None
            if event is not None and isinstance(noun, (Alert, GroundTruth)):
                made.append((_seen_ns(noun, event, self.session.base_ns), noun))
        return sorted(made, key=lambda moment: moment[0])


def open_story(path: Path, cache: Cache | None = None) -> Story:
    """Open one file: from the cache when it was opened before.

    Raises:
        UsageError: it is no trace, or cannot be read.
        UnavailableError: it has to be unpacked or translated and the cache has no room.
    """
    cache = Cache.of_user() if cache is None else cache
    source = Unpacked(path)  # refuses what is no regular file before anything else looks at it
    key = cache.key(path)
    known = _from_cache(path, cache, key)
    if known is not None:
        return known
    story, content = _opened(source, cache, key)
    cache.save(key, content)
    cache.shrink(key)
    return story


def _from_cache(path: Path, cache: Cache, key: str) -> Story | None:
    content = cache.load(key)
    if content is None:
        return None
    try:
        source = cache.story(key) if content["story"] else path
        index = Index.from_json(content["index"])
        if content["story"] and source.stat().st_size != content["size"]:
            return None
        return _story(path, source, index, content)
    except (KeyError, TypeError, ValueError, AttributeError, OSError, UsageError):
        return None


def _opened(source: Unpacked, cache: Cache, key: str) -> tuple[Story, dict[str, Any]]:
    path = source.path
    head = b"".join(_first(source, 1 << 20))
    found: Foreign | None = None
    notes: list[str] = []
    made: Path | None = None
    if _is_ours(path, head):
        lines = b"\n" + CANONICAL in head
        if source.packed or not lines:
            made = _write(cache, key, lambda file: unpack(source, file, lines, notes))
    else:
        found = read_foreign(path, head)
        if found.skipped:
            notes.append(f"{found.skipped} of {found.events} events of {source.name} could not be read")
        made = _write(cache, key, lambda file: translate(found, file))
    index = build_index(made or path)
    if index.cut:
        notes.append(f"{source.name} is cut short: its last {index.cut} bytes are no whole event")
    content = {
        "story": made is not None,
        "size": made.stat().st_size if made else 0,
        "index": index.to_json(),
        "dialect": found.dialect if found else "prismtop",
        "how": found.how if found else "",
        "wall": found.wall if found else True,
        "notes": [*notes, *(found.notes if found else ())],
    }
    return _story(path, made or path, index, dict(content)), content


def _story(path: Path, source: Path, index: Index, content: dict[str, Any]) -> Story:
    session = _session_of(index)
    if session is None:
        raise UsageError(
            f"{safe_text(str(path), 200)} was written by another version of prismtop, or is damaged.",
            fix="`prismtop trace repair FILE` may help.",
        )
    base = session.base_ns
    last = index.last_us[-1] if index.last_us else float("-inf")
    start = base + round(index.first_us * 1000) if index.first_us is not None else session.time_ns
    end = base + round(last * 1000) if last > float("-inf") else start
    return Story(
        path=path,
        source=source,
        index=index,
        dialect=str(content["dialect"]),
        how=str(content["how"]),
        session=session,
        start_ns=start,
        end_ns=max(start, end),
        notes=tuple(str(note) for note in content["notes"]),
        wall=bool(content["wall"]),
    )


def _session_of(index: Index) -> SessionInfo | None:
    state = Decoding()
    for _, line in index.context:
        event = decode_object(line.strip(" \t\r,[").encode())
        noun = _decoded(event, state) if event is not None else None
        if isinstance(noun, SessionInfo):
            return noun
    return None


def _is_ours(path: Path, head: bytes) -> bool:
    """Whether an event near the start describes a session of prismtop."""
    if SESSION_EVENT.encode() not in head:
        return False
    try:
        events = next(TraceReader(path).events(), [])
    except UsageError:
        return False
    return any(event.name == SESSION_EVENT and event.ph == "M" for event in events)


def _first(source: Unpacked, size: int) -> Iterator[bytes]:
    for piece in source.pieces():
        yield piece
        size -= len(piece)
        if size <= 0:
            return


def _write(cache: Cache, key: str, fill: Callable[[LimitedFile], None]) -> Path:
    path = cache.story(key)
    try:
        with cache.writing(path) as file:
            fill(LimitedFile(file))
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise UnavailableError(
            f"the cache directory {cache.folder} has no room to unpack the trace.",
            fix="Free some, or set XDG_CACHE_HOME to a larger disk.",
        ) from None
    return path


def _decoded(event: dict[str, Any], state: Decoding) -> object | None:
    """The noun of an event, when both are what they should be."""
    for time_us in (event.get("ts", 0), event.get("dur", 0)):
        if type(time_us) not in _NUMBERS or not -MAX_US < time_us < MAX_US:  # a NaN is in no range
            return None
    before = state.session
    try:
        noun = decode(event, state)
    except RecursionError:
        return None
    if noun is None or sound(noun):
        return noun
    if isinstance(noun, SessionInfo):
        state.session = before
    return None


def _seen_ns(noun: object, event: dict[str, Any], base_ns: int) -> int:
    """When the session saw it."""
    if isinstance(noun, Batch):
        return noun.end_ns
    if isinstance(noun, Request):
        return noun.finished_ns
    if isinstance(noun, (SessionInfo, StateChange, LostSoFar, Said, Dropped, Counter)):
        return noun.time_ns
    return base_ns + (ns_of(event.get("ts")) or 0)
