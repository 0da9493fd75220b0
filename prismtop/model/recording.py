"""`Recording` and `Replay`: what is being written, and where a replay stands."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Recording:
    """A trace that is being written.

    Attributes:
        path: the file.
        since_ns: CLOCK_MONOTONIC of its first event.
        events: written so far.
        bytes: on disk so far.
        dropped: events that the queue had no room for.
        error: why it ended (disk full); empty while it runs.
    """

    path: str
    since_ns: int
    events: int = 0
    bytes: int = 0
    dropped: int = 0
    error: str = ""


@dataclass(frozen=True)
class Replay:
    """Where a replay stands.

    Attributes:
        path: the trace, or the first of several.
        position_ns, start_ns, end_ns: on the trace's own clock.
        speed: 0 is paused; infinity is as fast as can be.
        loop: whether it starts again at the end.
        a_ns, b_ns: ends of an A-B loop; None without.
    """

    path: str
    position_ns: int
    start_ns: int
    end_ns: int
    speed: float = 1.0
    loop: bool = False
    a_ns: int | None = None
    b_ns: int | None = None
