"""The end of a window by time, in an engine that has become idle within it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from prismtop.deepdive.job import Job
from prismtop.deepdive.process import Captured
from prismtop.model import Frame

SECOND = 1_000_000_000
LATE_NS = 700_000_000
"""So long after its time the window has been ended, or what is inside the process is given up: with a tick of
the session and what it takes to stop the collectors that is a second."""
IDLE_NS = 300_000_000
"""An engine without a batch for so long, and for longer than any batch took, is idle."""
GRACE_NS = 10 * SECOND
"""An engine that is in the middle of a batch is waited for: that batch ends the window."""
IDLE = (
    "the engine became idle in the window, and its profiler can be stopped by its own thread only: "
    "it is with the next batch"
)
STUCK = "the engine did not come to the end of a batch: its profiler is stopped there"


class IdleEnd:
    """Ends the windows of processes which nothing ends from inside.

    Args:
        spawn: runs a job.
    """

    def __init__(self, spawn: Callable[[str, Callable[[], None]], Job[None]]) -> None:
        self._spawn = spawn
        self._jobs: list[Job[None]] = []

    @property
    def done(self) -> bool:
        """Whether no job runs."""
        return all(job.done for job in self._jobs)

    def advance(
        self, processes: Sequence[Captured], over_ns: int, quiet_ns: int, frames: Sequence[Frame]
    ) -> None:
        """See to it that the window ends.

        Args:
            processes: in which it has not ended.
            over_ns: since its time was over.
            quiet_ns: since the end of the last batch.
            frames: of the last seconds: no batch of theirs took as long as an idle engine is quiet.
        """
        longest_ns = max((batch.duration_ns for frame in frames for batch in frame.new_batches), default=0)
        if quiet_ns > max(IDLE_NS, longest_ns):
            if not self._jobs:
                self._jobs = [self._job(each) for each in processes]
            elif over_ns > LATE_NS:
                for each in processes:
                    each.give_up(IDLE)
        elif over_ns > GRACE_NS:
            for each in processes:
                each.give_up(STUCK)

    def _job(self, process: Captured) -> Job[None]:
        def finish() -> None:
            process.dive.finish()

        return self._spawn("finish", finish)
