"""What a screen may ask of a replay."""

from __future__ import annotations

from typing import Protocol


class ReplayControls(Protocol):
    """The keys of a replay.

    Every method only notes what was asked for, from any thread, and returns at once; the thread that polls the
    source applies it at its next poll. Where the replay stands then is `Frame.replay`. Times are nanoseconds
    on the trace's own clock, as in `Replay.position_ns`; a time outside the trace means its nearest end.
    """

    def toggle(self) -> None:
        """Play when paused, pause when playing. At the end of the trace, playing starts again at its start."""

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
