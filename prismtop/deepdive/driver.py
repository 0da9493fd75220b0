"""The deep captures of one session: asks the gate, begins one, advances it with the session's ticks."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from pathlib import Path

from prismtop.deepdive.outside import combined, planned
from prismtop.deepdive.place import place_for
from prismtop.deepdive.process import Captured, model_links, opened
from prismtop.deepdive.run import PAST_NS, CaptureRun, outer_layers
from prismtop.deepdive.tools import Tools
from prismtop.errors import UnavailableError, UsageError
from prismtop.model import AttachState, Capture, CapturePhase, CaptureRequest, Frame
from prismtop.safe_text import safe_text
from prismtop.session import CounterSource
from prismtop.sources.probe_link import ProbeLink

CLOSE_S = 3.0
CLOSE_IDLE_S = 0.2
"""An idle engine cannot answer; leaving it takes the command away too."""
CLOSE_MERGING_S = 20.0
DISTURBED = "captured by a DeepDive"
READONLY = "read-only: nothing may change the engine beyond the Sentinel probe."


class DeepDive:
    """`prismtop.session.DeepDiver`.

    Args:
        links: probes of the session's source; none where nothing was put into the engine.
        directory: of captures without a name; None is the state directory of the platform.
        counters: of the session.
        readonly: refuse every capture.
        tools: other ones, in tests.
    """

    def __init__(
        self,
        links: Sequence[ProbeLink],
        *,
        directory: Path | None = None,
        counters: CounterSource | None = None,
        readonly: bool = False,
        tools: Tools | None = None,
    ) -> None:
        self._links = tuple(links)
        self._directory = directory
        self._counters = counters
        self._readonly = readonly
        self._tools = tools or real_tools()
        self._past: deque[Frame] = deque()
        self._number = 0
        self._run: CaptureRun | None = None
        self._hot: dict[int, int] = {}

    @property
    def running(self) -> bool:
        """Whether a capture goes on."""
        return self._run is not None and not self._run.capture.phase.final

    def preview(self, request: CaptureRequest, frame: Frame) -> Capture:
        """What a capture would do and cost now; nothing is done. Raises PrismtopError: it cannot be."""
        return self._plan(request, frame)[0]

    def start(self, request: CaptureRequest, frame: Frame) -> Capture:
        """Begin. Raises PrismtopError: it cannot, or one is running."""
        capture, processes = self._plan(request, frame)
        path = place_for(request, self._directory, frame.group.engine, len(processes))
        self._number += 1
        past = tuple(self._past) or (frame,)
        self._run = CaptureRun(capture, processes, path, self._tools, past, self._counters, self._hot)
        return self._run.capture

    def _plan(self, request: CaptureRequest, frame: Frame) -> tuple[Capture, list[Captured]]:
        self._refuse(frame)
        processes = self._processes(request)
        pids = [each.pid for each in processes]
        layers = [
            *outer_layers(self._counters),
            *(layer for each in processes for layer in each.admitted.layers),
            *planned(lambda: self._tools.collectors(pids, self._hot, request)),
        ]
        capture = Capture(
            number=self._number + 1,
            request=request,
            phase=CapturePhase.PREPARING,
            started_ns=frame.time_ns,
            layers=combined(layers),
            expected_stall_ms=max(each.admitted.stall_ms for each in processes),
        )
        return capture, processes

    def _processes(self, request: CaptureRequest) -> list[Captured]:
        chosen = model_links([link for link in self._links if link.state in ("live", "armed")])
        if not chosen:
            raise UnavailableError("no probe is in the engine any more.", fix="Start prismtop again.")
        if not request.all_ranks:
            chosen = chosen[:1]
        return [opened(link, request, self._tools.open_dive) for link in chosen]

    def _refuse(self, frame: Frame) -> None:
        if self._readonly:
            raise UsageError(READONLY, fix="Start prismtop without --readonly.")
        if self._run is not None and not self._run.over:
            ending = self._run.capture.phase.final
            raise UsageError(
                "the last capture is still leaving the engine."
                if ending
                else f"capture {self._run.capture.number} is running.",
                fix="Try again in a moment." if ending else "Cancel it first.",
            )
        if frame.state is AttachState.EXTERNAL or not self._links:
            why = f" ({safe_text(frame.note.partition(';')[0])})" if frame.note else ""
            raise UnavailableError(
                f"the engine is watched from outside only, and a capture starts inside it{why}.",
                fix="`prismtop doctor` says what the way in needs; `prismtop record` works from outside too.",
            )
        if frame.state not in (AttachState.LIVE, AttachState.ARMED):
            raise UnavailableError(
                f"there is nothing to capture: {safe_text(frame.note) or frame.state.value}.",
                fix="Start prismtop again.",
            )

    def cancel(self) -> Capture | None:
        """End the running capture without a file; None when none runs."""
        if self._run is None or not self.running:
            return None
        self._run.end(CapturePhase.CANCELLED)
        return self._run.capture

    @property
    def disturbs(self) -> str:
        """Why batches of now cost more than they should; empty while nothing runs in the target."""
        return DISTURBED if self._run is not None and self._run.disturbs else ""

    def take(self, frame: Frame) -> Capture | None:
        """Advance; how the latest capture stands, None when there was none. Never blocks."""
        self._past.append(frame)
        while self._past[0].time_ns < frame.time_ns - PAST_NS:
            self._past.popleft()
        if self._run is None:
            return None
        try:
            self._run.advance(frame)
        except Exception as error:  # whatever goes wrong with a capture, the watching goes on
            what = f"{type(error).__name__}: {safe_text(str(error), 200)}"
            self._run.end(CapturePhase.FAILED, f"a defect of prismtop, which please report: {what}")
        for each in self._run.processes:
            if each.status is not None and each.status.thread:
                self._hot[each.pid] = each.status.thread
        return self._run.capture

    def warnings(self) -> tuple[str, ...]:
        """None of its own: a capture says in its notes what there is to say."""
        return ()

    def close(self) -> tuple[str, ...]:
        """Out of the target, whatever the phase; a trace that is being written is finished first."""
        run, self._run = self._run, None
        if run is None:
            return ()
        merging = run.capture.phase is CapturePhase.MERGING
        if merging:
            run.wait(CLOSE_MERGING_S)
        said: tuple[str, ...] = ()
        if merging and run.capture.phase is CapturePhase.DONE:
            said = (f"captured to {safe_text(run.capture.path, 4096)}",)
        elif not run.capture.phase.final:
            run.end(CapturePhase.CANCELLED)
            said = ("the capture was cancelled",)
        begun = run.begun
        run.wait(CLOSE_S if begun else CLOSE_IDLE_S)
        if begun and not run.over:
            said += ("a capture has not ended in the engine yet: its probe stops it when its lease ends",)
        return said


def real_tools() -> Tools:
    """What captures are made with."""
    from prismtop.deepdive.apart import Apart
    from prismtop.deepdive.layers import collectors
    from prismtop.sources.deep_link import DeepLink

    apart = Apart()
    return Tools(DeepLink, collectors, apart.write, apart.begin, apart.end)
