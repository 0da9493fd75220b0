"""What keys may ask of what is watched. Everything here may be absent, and then says why."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from prismtop.sources.replay_controls import ReplayControls


@dataclass(frozen=True)
class Controls:
    """What can be asked for; None is: this session cannot.

    Attributes:
        start_recording: begins a trace and returns its path, or None when `Frame.recording` will say it.
            Called in a thread of its own: it may wait for the disk.
        stop_recording: ends it; what it returns (a sentence, a path) is shown. In a thread of its own too.
        deepdive: captures everything for a moment; what it returns is shown. Called in the thread that ticks
            the session, between two ticks, so it must only start the capture.
        preview_deepdive: returns the `Capture` that `deepdive` would begin, for the question before it. Same
            thread.
        cancel_deepdive: ends the running one. Same thread.
        replay: steers a replay.
        lost: called when the terminal was lost while something was being recorded.
    """

    start_recording: Callable[[], object] | None = None
    stop_recording: Callable[[], object] | None = None
    deepdive: Callable[[], object] | None = None
    preview_deepdive: Callable[[], object] | None = None
    cancel_deepdive: Callable[[], object] | None = None
    replay: ReplayControls | None = None
    lost: Callable[[], object] | None = None


NO_RECORDING = "this session cannot record"
NO_DEEPDIVE = "there is no engine to capture here"
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
        preview_deepdive=offered("preview_deepdive"),
        cancel_deepdive=offered("cancel_deepdive"),
        replay=getattr(session, "replay", None),
    )
