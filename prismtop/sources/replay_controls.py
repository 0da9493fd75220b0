"""What a screen may ask of a replay."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any, Protocol


class ReplayControls(Protocol):
    """The keys of a replay.

    Every method only notes what was asked for, from any thread, and returns at once; the thread that polls
    the source applies it at its next poll. Where the replay stands then is `Frame.replay`. Times are
    nanoseconds on the trace's own clock, as in `Replay.position_ns`; a time outside the trace means its
    nearest end.
    """

    def toggle(self) -> None:
        """Play when paused, pause when playing. At the end of the trace, play it again from its start."""

    def step(self, batches: int) -> None:
        """Pause, and go on by `batches` batches; a negative number goes back."""

    def faster(self) -> None:
        """The next higher of 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100 times and as fast as can be."""

    def slower(self) -> None:
        """The next lower of these speeds."""

    def seek_ns(self, time_ns: int) -> None:
        """Go to a time of the trace."""

    def seek_fraction(self, fraction: float) -> None:
        """Go to a part of the trace: 0 is its start, 1 its end."""

    def skip_s(self, seconds: float) -> None:
        """Go on by so many seconds of the trace; a negative number goes back."""

    def next_anomaly(self) -> None:
        """Go to just before the next anomaly after the present position; nothing without one."""

    def previous_anomaly(self) -> None:
        """Go to just before the last anomaly before the present position; nothing without one."""

    def mark_a(self) -> None:
        """The present position becomes the start of an A-B loop."""

    def mark_b(self) -> None:
        """The present position becomes the end of an A-B loop; it loops as soon as both ends are set."""

    def clear_marks(self) -> None:
        """Forget both ends of the A-B loop."""

    def toggle_loop(self) -> None:
        """Start again at the end of the trace, or stop there."""


class Controls:
    """`ReplayControls` that notes what is asked for (a deque's append and popleft are atomic)."""

    def __init__(self) -> None:
        self._asked: deque[tuple[str, tuple[Any, ...]]] = deque()

    def take(self) -> Iterator[tuple[str, tuple[Any, ...]]]:
        """What was asked for since the last call, oldest first."""
        while self._asked:
            yield self._asked.popleft()

    def toggle(self) -> None:
        """See `ReplayControls.toggle`."""
        self._asked.append(("toggle", ()))

    def step(self, batches: int) -> None:
        """See `ReplayControls.step`."""
        self._asked.append(("step", (batches,)))

    def faster(self) -> None:
        """See `ReplayControls.faster`."""
        self._asked.append(("faster", ()))

    def slower(self) -> None:
        """See `ReplayControls.slower`."""
        self._asked.append(("slower", ()))

    def seek_ns(self, time_ns: int) -> None:
        """See `ReplayControls.seek_ns`."""
        self._asked.append(("seek_ns", (time_ns,)))

    def seek_fraction(self, fraction: float) -> None:
        """See `ReplayControls.seek_fraction`."""
        self._asked.append(("seek_fraction", (fraction,)))

    def skip_s(self, seconds: float) -> None:
        """See `ReplayControls.skip_s`."""
        self._asked.append(("skip_s", (seconds,)))

    def next_anomaly(self) -> None:
        """See `ReplayControls.next_anomaly`."""
        self._asked.append(("next_anomaly", ()))

    def previous_anomaly(self) -> None:
        """See `ReplayControls.previous_anomaly`."""
        self._asked.append(("previous_anomaly", ()))

    def mark_a(self) -> None:
        """See `ReplayControls.mark_a`."""
        self._asked.append(("mark_a", ()))

    def mark_b(self) -> None:
        """See `ReplayControls.mark_b`."""
        self._asked.append(("mark_b", ()))

    def clear_marks(self) -> None:
        """See `ReplayControls.clear_marks`."""
        self._asked.append(("clear_marks", ()))

    def toggle_loop(self) -> None:
        """See `ReplayControls.toggle_loop`."""
        self._asked.append(("toggle_loop", ()))
