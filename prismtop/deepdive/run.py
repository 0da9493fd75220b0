"""One capture, from the question to the file: advanced by the session's ticks, in the session's thread."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from prismtop.deepdive import slowdown
from prismtop.deepdive.cost import Cost
from prismtop.deepdive.idle import IdleEnd
from prismtop.deepdive.job import Job
from prismtop.deepdive.merge import WrittenTrace
from prismtop.deepdive.outside import Outside, combined
from prismtop.deepdive.place import scratch
from prismtop.deepdive.process import BEFORE_WINDOW, Captured
from prismtop.deepdive.tools import Tools
from prismtop.errors import UnavailableError
from prismtop.model import (
    AttachState,
    Capture,
    CapturePhase,
    Frame,
    Layer,
    LayerState,
)
from prismtop.session import CounterSource

SECOND = 1_000_000_000
PAST_NS = 5 * SECOND
"""Frames before the window that the trace keeps."""
BUSY_NS = 2 * SECOND
"""An engine without a batch for so long is idle."""
COUNTERS_HZ = 15.0
COLLECTING_NS = 2_500_000_000
"""Collectors take some tenths of a second to begin, more on a machine with no core to spare, and what they
take there would show in the window: so long it waits for them."""
PREPARE_NS = 30 * SECOND
ARMED_NS = 600 * SECOND
"""So long an idle engine is waited for."""
START_NS = 60 * SECOND
"""Kineto's first start takes about 1 s; more than 5 s were seen with CUDA (kineto#542)."""
EXPORT_NS = 120 * SECOND
COLLECTORS_NS = 10 * SECOND
"""So long they may take to end once the processes' own parts have."""
MERGE_NS = 300 * SECOND
LEAVE_NS = 15 * SECOND


class CaptureRun:
    """Advanced by `advance` until `over`.

    Args:
        capture: as it is shown at first, PREPARING.
        processes: all of them captured, or none: when one cannot begin, none does.
        place: the trace to write; the time that `start` took is not part of any phase.
        past: frames of the last seconds.
    """

    def __init__(
        self,
        capture: Capture,
        processes: Sequence[Captured],
        place: Path,
        tools: Tools,
        past: Iterable[Frame],
        counters: CounterSource | None,
        hot: Mapping[int, int],
    ) -> None:
        self.capture = capture
        self.processes = processes
        self._place = place
        self._tools = tools
        self._frames = list(past)
        self._counters = counters
        self._now_ns = self._since_ns = capture.started_ns
        self._busy_ns = max((f.batches[-1].end_ns for f in self._frames[-1:] if f.batches), default=0)
        self._window_from_ns: int | None = None
        self._seen = 0
        self._fast_ns = 0
        self._begun_ns: int | None = None
        self._collect_ns: int | None = None
        pids = [each.pid for each in processes]
        make = lambda: tools.collectors(pids, hot, capture.request)  # noqa: E731
        self._outside = Outside(make, self._spawn)
        self._folder: Path | None = None
        self._preparing = self._spawn("prepare", self._prepare)
        self._idle_end = IdleEnd(self._spawn)
        self._fetching: Job[None] | None = None
        self._merging: Job[WrittenTrace] | None = None
        self._merged: Job[None] | None = None
        self._cost = Cost(self._frames[-1].batches if self._frames else (), capture.started_ns)
        self._advance: Mapping[CapturePhase, Callable[[Frame], None]] = {
            CapturePhase.PREPARING: self._on_preparing,
            CapturePhase.ARMED: self._on_armed,
            CapturePhase.CAPTURING: self._on_capturing,
            CapturePhase.EXPORTING: self._on_exporting,
            CapturePhase.MERGING: self._on_merging,
        }

    def _spawn(self, name: str, work: Callable[[], None]) -> Job[None]:
        return Job(f"deepdive-{name}", work, thread=self._tools.threads)

    @property
    def disturbs(self) -> bool:
        """Whether batches cost what the capture makes them cost: in the target, or beside it."""
        inside = any((each.posted and not each.over) or each.lingers for each in self.processes)
        merging = self._merging is not None and not self._merging.done
        return inside or merging or not self._outside.stopped

    @property
    def begun(self) -> bool:
        """Whether something has been started inside the target."""
        return any(each.posted and each.phase not in BEFORE_WINDOW[:2] for each in self.processes)

    @property
    def over(self) -> bool:
        """Whether nothing of it runs any more, here or in the target."""
        return self.capture.phase.final and self._left()

    # -- every tick

    def advance(self, frame: Frame) -> None:
        """See how far everything is, and begin what comes next."""
        self._now_ns = frame.time_ns
        if frame.new_batches:
            self._busy_ns = frame.new_batches[-1].end_ns
        for each in self.processes:
            each.poll()
        if self.capture.phase.final:
            self._follow(frame)
            self._clean()
            return
        self._keep(frame)
        if frame.state in (AttachState.GONE, AttachState.DETACHED):
            self.end(
                CapturePhase.FAILED, "the engine ended, or its probe left it, before the capture was done."
            )
            return
        self._advance[self.capture.phase](frame)

    def _keep(self, frame: Frame) -> None:
        """Frames of the window and a little around it."""
        if self.capture.phase is CapturePhase.MERGING:
            return
        self._frames.append(frame)
        if self.capture.phase in (CapturePhase.PREPARING, CapturePhase.ARMED):
            oldest = frame.time_ns - PAST_NS
            while self._frames[0].time_ns < oldest:
                self._frames.pop(0)

    def _to(self, phase: CapturePhase) -> None:
        self.capture = replace(self.capture, phase=phase)
        self._since_ns = self._now_ns

    def _took_ns(self) -> int:
        return self._now_ns - self._since_ns

    def _prepare(self) -> None:
        for each in self.processes:
            each.dive.prepare()

    def _on_preparing(self, frame: Frame) -> None:
        if self._preparing.done:
            if self._preparing.error:
                self.end(CapturePhase.FAILED, self._preparing.error)
                return
            self._to(CapturePhase.ARMED)
            self._on_armed(frame)
        elif self._took_ns() > PREPARE_NS:
            self.end(CapturePhase.FAILED, "preparing it took too long: this machine is very busy.")
        else:
            self._collect(self._busy)

    @property
    def _busy(self) -> bool:
        return self._now_ns - self._busy_ns < BUSY_NS

    def _collect(self, wanted: bool) -> None:
        """The collectors run while the engine is busy, or something has begun in it."""
        if wanted:
            self._outside.start()
        elif self._outside.running:
            self._outside.stop()
        if not self._outside.running:
            self._collect_ns = None
        elif self._collect_ns is None:
            self._collect_ns = self._now_ns

    def _on_armed(self, frame: Frame) -> None:
        """All are posted in one tick; the collectors outside are there first, while the engine is busy."""
        busy, begun = self._busy, self.begun
        if begun and self._begun_ns is None:
            self._begun_ns = self._now_ns
        self._collect(busy or begun)
        late = self._collect_ns is None or self._now_ns - self._collect_ns > COLLECTING_NS
        if frame.state is AttachState.LIVE and (self._outside.collecting or late):
            for each in self.processes:
                if not each.posted:
                    each.start()
                    each.poll()
        failed = [each for each in self.processes if each.failed]
        if failed and len(self.processes) > 1:
            self.end(CapturePhase.FAILED, f"process {failed[0].pid} cannot be captured: {failed[0].failed}")
        elif failed or all(each.posted and each.phase not in BEFORE_WINDOW for each in self.processes):
            self._outside.start()
            self._window_from_ns = self._now_ns
            self._to(CapturePhase.CAPTURING)
            self._on_capturing(frame)
        elif self._begun_ns is not None and self._now_ns - self._begun_ns > START_NS:
            self.end(CapturePhase.FAILED, "its profiler did not start in a minute.")
        elif not begun and self._took_ns() > ARMED_NS:
            self.end(CapturePhase.FAILED, "the engine had no request in ten minutes.")
        if begun or busy:
            self._fast_counters()

    def _on_capturing(self, frame: Frame) -> None:
        self._fast_counters()
        self._seen += len(frame.new_batches)
        alive = [each for each in self.processes if not each.failed]
        counts = [each.status.batches for each in alive if each.status is not None]
        batches = min(counts) if counts else self._seen
        self.capture = replace(self.capture, batches=min(batches, self.capture.request.batches))
        longest = int(self.capture.request.max_s * SECOND)
        if alive:
            ended = all(each.phase not in (*BEFORE_WINDOW, "capturing") for each in alive)
        else:  # from inside nothing comes: what is outside is captured over the same number of batches
            ended = self._seen >= self.capture.request.batches or self._took_ns() > longest
        if ended:
            self._outside.stop()
            self._tools.begin()  # while the target exports; earlier it would show in the window
            self._to(CapturePhase.EXPORTING)
            self._on_exporting(frame)
        elif self._took_ns() > longest:
            still = [each for each in alive if each.phase in (*BEFORE_WINDOW, "capturing")]
            self._idle_end.advance(
                still, self._took_ns() - longest, self._now_ns - self._busy_ns, self._frames
            )

    def _on_exporting(self, frame: Frame) -> None:
        late = self._took_ns() > EXPORT_NS
        if late:
            for each in self.processes:
                if not each.over:
                    each.cancel()
                    each.failed = "it did not hand out its profile in time"
        if not all(each.over for each in self.processes):
            return
        if not self._outside.stopped and self._took_ns() < COLLECTORS_NS:
            return
        if self._fetching is None:
            self._fetching = self._spawn("fetch", self._fetch)
        if self._fetching.error:
            self.end(CapturePhase.FAILED, self._fetching.error)
        elif self._fetching.done:
            for each in self.processes:
                each.release()
            self._begin_merge()

    def _fetch(self) -> None:
        self._folder = scratch()
        for each in self.processes:
            if not each.failed and each.status is not None and each.status.phase == "ready":
                try:
                    each.fetched = each.dive.fetch(self._folder)
                except Exception as error:  # the layers outside, and other ranks, are still worth a trace
                    each.failed = f"its files could not be fetched: {error}"

    def _begin_merge(self) -> None:
        self.capture = replace(self._measured(), layers=self._layers(self._window_ns()[0]))
        self._to(CapturePhase.MERGING)
        capture = self.capture
        window_ns = self._window_ns()[0]
        frames, self._frames = tuple(self._frames), []
        fetched = [each.fetched for each in self.processes if each.fetched is not None]

        def write() -> WrittenTrace:
            events = list(self._outside.events())  # once they are read the layers say how well it went
            if self.capture.phase.final:
                raise UnavailableError("it was cancelled.")
            return self._tools.write(
                self._place,
                frames=frames,
                fetched=fetched,
                layers=events,
                capture=replace(capture, layers=self._layers(window_ns)),
            )

        self._merging = Job("deepdive-merge", write, thread=self._tools.threads)
        if self._merging.done:
            self._finish(self._merging)

    def _on_merging(self, frame: Frame) -> None:
        assert self._merging is not None
        if self._merging.done:
            self._finish(self._merging)
        elif self._took_ns() > MERGE_NS:
            self.end(CapturePhase.FAILED, "writing the trace took too long.")

    def _finish(self, merging: Job[WrittenTrace]) -> None:
        if merging.error:
            self.end(CapturePhase.FAILED, f"the trace was not written: {merging.error}")
            return
        written = merging.result
        layers = combined(self._layers(self._window_ns()[0]), written.events_per_layer)
        self.capture = replace(
            self.capture,
            phase=CapturePhase.DONE,
            path=str(self._place),
            size_bytes=written.size_bytes,
            clock_error_ns=written.clock_error_ns,
            layers=layers,
            notes=(*(note for each in self.processes for note in each.dive.warnings), *written.notes),
        )
        self._since_ns = self._now_ns
        self._clean()

    def _layers(self, window_ns: int) -> tuple[Layer, ...]:
        inside = [layer for each in self.processes for layer in each.layers()]
        return combined([*outer_layers(self._counters), *inside, *self._outside.layers(window_ns)])

    def _fast_counters(self) -> None:
        """Two seconds at a time: they slow down by themselves, however the capture ends."""
        if self._counters is not None and self._now_ns >= self._fast_ns:
            self._fast_ns = self._now_ns + SECOND
            self._counters.fast(COUNTERS_HZ, 2.0)

    # -- what it cost

    def _window_ns(self) -> tuple[int, int]:
        """From the last process's begin to the first one's end, without starts and stops."""
        windows = [
            each.status.window_ns
            for each in self.processes
            if each.status is not None and each.status.window_ns
        ]
        if windows:
            return max(start for start, _ in windows), min(end for _, end in windows)
        return self._window_from_ns or self._since_ns, self._since_ns

    def _measured(self) -> Capture:
        batches = {(b.pid, b.seq): b for frame in self._frames for b in frame.new_batches}
        self._cost.inside = slowdown.within(batches.values(), *self._window_ns())
        stalls = [each.stall_ns for each in self.processes if each.stall_ns is not None]
        return replace(
            self.capture,
            stall_ms=max(stalls) / 1e6 if stalls else None,
            before_ms=self._cost.before_ms,
            during_ms=self._cost.during_ms,
        )

    def _follow(self, frame: Frame) -> None:
        """Whether the engine is as fast as before, once enough batches have come."""
        if self.capture.phase is CapturePhase.DONE and self._cost.take(frame, self._since_ns):
            self.capture = replace(self.capture, after_ms=self._cost.after_ms, residual=self._cost.residual)

    # -- out

    def end(self, phase: CapturePhase, error: str = "") -> None:
        """Out of the target without a trace."""
        for each in self.processes:
            each.cancel()
        self._outside.stop()
        self.capture = replace(self.capture, phase=phase, error=error)
        self._since_ns = self._now_ns
        self._tools.end()
        self._clean()

    def wait(self, seconds: float) -> None:
        """Wait until it is over; a trace that is being written is finished. In the thread that ticks."""
        until = time.monotonic() + seconds
        while time.monotonic() < until and not self.over:
            if self._merging is not None and self._merging.done and not self.capture.phase.final:
                self._finish(self._merging)
            for each in self.processes:
                each.poll()
            self._clean()
            time.sleep(0.005)
        self._remove_folder()

    def _left(self) -> bool:
        jobs = [job for job in (self._preparing, self._fetching, self._merging) if job is not None]
        ended = all(each.over or each.phase == "ready" for each in self.processes) and self._idle_end.done
        late = self._now_ns - self._since_ns > LEAVE_NS
        return (ended and self._outside.stopped and all(job.done for job in jobs)) or late

    def _clean(self) -> None:
        """Remove what nobody needs, as soon as nobody uses it."""
        if not self.capture.phase.final or not self._left():
            return
        self._remove_folder()
        merging = self._merging
        if merging is None or not merging.done:
            return
        self._merging = None
        if not merging.error and self.capture.phase is not CapturePhase.DONE:
            self._place.unlink(missing_ok=True)

    def _remove_folder(self) -> None:
        folder, self._folder = self._folder, None
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


def outer_layers(counters: CounterSource | None) -> tuple[Layer, ...]:
    """What the session has anyway."""
    batches = Layer("batches", LayerState.ON, "the probe")
    if counters is None:
        return batches, Layer("counters", LayerState.OFF, "this session samples none")
    return batches, Layer("counters", LayerState.ON, f"{COUNTERS_HZ:g} a second")
