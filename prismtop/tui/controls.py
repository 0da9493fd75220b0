"""What keys may ask of what is watched. Everything here may be absent, and then says why."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol


class ReplayKeys(Protocol):
    """How a replay is steered; the same as `prismtop.sources.replay_controls`. Safe from any thread."""

    def toggle(self) -> None:
        """Play when paused, pause when playing."""

    def step(self, batches: int) -> None:
        """Pause, and go on by so many batches; a negative number goes back."""

    def faster(self) -> None:
        """The next higher speed."""

    def slower(self) -> None:
        """The next lower speed."""

    def seek_ns(self, time_ns: int) -> None:
        """Go to a time of the trace, on its own clock."""

    def seek_fraction(self, fraction: float) -> None:
        """Go to a part of the trace, 0 to 1."""

    def skip_s(self, seconds: float) -> None:
        """Go on by so many seconds; negative goes back."""

    def next_anomaly(self) -> None:
        """Go to the next anomaly."""

    def previous_anomaly(self) -> None:
        """Go to the previous anomaly."""

    def mark_a(self) -> None:
        """Start of an A-B loop."""

    def mark_b(self) -> None:
        """End of an A-B loop."""

    def clear_marks(self) -> None:
        """Forget both ends."""

    def toggle_loop(self) -> None:
        """Start again at the end, or stop there."""


@dataclass(frozen=True)
class Controls:
    """What can be asked for; None is: this session cannot.

    Attributes:
        start_recording: begins a trace and returns its path, or None when `Frame.recording` will say it.
            Called in the thread that ticks the session, between two ticks.
        stop_recording: ends it; what it returns (a sentence, a path) is shown. Same thread.
        deepdive: captures everything for a moment; what it returns is shown. Same thread, so it must only
            start the capture.
        replay: steers a replay.
        lost: called when the terminal was lost while something was being recorded.
    """

    start_recording: Callable[[], object] | None = None
    stop_recording: Callable[[], object] | None = None
    deepdive: Callable[[], object] | None = None
    replay: ReplayKeys | None = None
    lost: Callable[[], object] | None = None


NO_RECORDING = "this session cannot record"
NO_DEEPDIVE = "this build has no DeepDive yet"
NO_REPLAY = "this is no replay"
READONLY = "read-only: nothing that changes the engine beyond the Sentinel probe"


def controls_of(session: Any) -> Controls:
    """What a session offers by the names above."""

    def offered(name: str) -> Any:
        found = getattr(session, name, None)
        return found if callable(found) else None

    return Controls(
        start_recording=offered("start_recording"),
        stop_recording=offered("stop_recording"),
        deepdive=offered("deepdive"),
        replay=getattr(session, "replay", None),
    )
