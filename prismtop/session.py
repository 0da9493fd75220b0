"""The session: source -> model -> sinks. The only place that holds state over time."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from prismtop.counter_history import CounterHistory
from prismtop.errors import UnavailableError
from prismtop.model import (
    Alert,
    Batch,
    Capture,
    CaptureRequest,
    Counter,
    Frame,
    Group,
    Judgement,
    Recording,
)
from prismtop.own_priority import OwnPriority
from prismtop.sources.replay_controls import ReplayControls
from prismtop.sources.tick import Source, SourceTick
from prismtop.throughput import Window

CPU_PERIOD_S = 5.0
ALERTS_KEPT = 100


class Judge(Protocol):
    """Predicts, detects and guards objectives: `prismtop.latency`."""

    def take(self, tick: SourceTick) -> Judgement:
        """Predict every batch, then learn from it. Never blocks: refits run elsewhere."""

    def close(self) -> tuple[str, ...]:
        """Save what was learnt; sentences about what could not be."""


class CounterSource(Protocol):
    """Samples counters in a thread of its own: `prismtop.counters`."""

    def read(self) -> tuple[Counter, ...]:
        """Readings since the last call. Never blocks."""

    def fast(self, hz: float, seconds: float) -> None:
        """Read more often for a while, for a deep capture. Never blocks."""

    def close(self) -> None:
        """Stop sampling."""


class Sink(Protocol):
    """Takes every frame: the recorder, alert hooks, exporters."""

    def take(self, frame: Frame) -> Recording | None:
        """Use what is new in `frame`; the recorder says how it stands. Never blocks."""

    def close(self) -> tuple[str, ...]:
        """Finish; sentences for a person."""


class RecordingSink(Sink, Protocol):
    """The recorder: `prismtop.trace.recorder`. Its methods may be called from any thread."""

    def start(self, path: str | Path | None = None, past_s: float | None = None) -> Recording:
        """Begin a recording, with the past that is remembered. Raises PrismtopError."""

    def stop(self) -> tuple[Recording | None, tuple[str, ...]]:
        """End it: how it ended, and sentences for a person."""


class Diagnoser(Protocol):
    """Finds causes of alerts: `prismtop.diagnosis`."""

    def take(self, frame: Frame) -> tuple[Alert, ...]:
        """Remember what the frame holds as evidence; alerts whose causes are new or changed."""


class DeepDiver(Protocol):
    """Captures everything for a moment: `prismtop.deepdive`. Driven by the session's ticks, in its thread;
    what takes long (compiling, fetching, merging) runs in threads of its own.
    """

    def preview(self, request: CaptureRequest, frame: Frame) -> Capture:
        """What it would do and cost, without doing anything. Raises PrismtopError: it cannot begin."""

    def start(self, request: CaptureRequest, frame: Frame) -> Capture:
        """Begin. Raises PrismtopError: it cannot, or one is running."""

    def cancel(self) -> Capture | None:
        """End the running capture without a file; None when none runs."""

    def take(self, frame: Frame) -> Capture | None:
        """Advance; how the latest capture stands, None when there was none. Never blocks."""

    @property
    def disturbs(self) -> str:
        """Why batches of now cost more than they should; empty while nothing runs in the target."""

    def warnings(self) -> tuple[str, ...]:
        """Sentences for a person since the last call."""

    def close(self) -> tuple[str, ...]:
        """Out of the target, whatever the phase; sentences for a person. Called while the source is open."""


class Session:
    """Polls a source and turns what is new into frames.

    Not thread safe: one owner calls `tick`, usually ten to twenty-five times a second.

    Args:
        history: batches kept in `Frame.batches`.
        window_s: seconds over which rates and percentiles are taken.
        figures: False leaves `Frame.throughput` out, for sinks that print new batches only.
        judge: None leaves batches without predictions.
        counters: None leaves only the counters that the source itself has.
        diagnoser: None leaves alerts without causes.
        sinks: take every frame, in this order.
        recorder: a sink too, the last one; None leaves `start_recording` without one.
        replay: how to steer the source when it is a replay; None for a live one.
        deepdiver: None leaves `deepdive` without one.
        priority: None leaves prismtop's own priority as it is.
    """

    def __init__(
        self,
        source: Source,
        *,
        history: int = 512,
        window_s: float = 10.0,
        figures: bool = True,
        judge: Judge | None = None,
        counters: CounterSource | None = None,
        diagnoser: Diagnoser | None = None,
        sinks: Sequence[Sink] = (),
        recorder: RecordingSink | None = None,
        replay: ReplayControls | None = None,
        deepdiver: DeepDiver | None = None,
        priority: OwnPriority | None = None,
    ) -> None:
        self._source = source
        self._deepdiver = deepdiver
        self._frame: Frame | None = None
        self.replay = replay
        self._history: deque[Batch] = deque(maxlen=history)
        self._latest: tuple[Batch, ...] = ()
        self._window_s = window_s
        self._window = Window(window_s) if figures else None
        self._total = 0
        self._notes: tuple[str, ...] | None = None
        self._cpu = _OwnCpu()
        self._priority = priority
        self._judge = judge
        self._counters = counters
        self._counter_history = CounterHistory()
        self._diagnoser = diagnoser
        self._recorder = recorder
        self._sinks = [*sinks, *([recorder] if recorder else [])]
        self._alerts: dict[int, Alert] = {}

    @property
    def group(self) -> Group:
        """The engine instance watched."""
        return self._source.group

    def tick(self) -> Frame:
        """Poll, aggregate, and return what a screen or an export needs."""
        tick = self._source.poll()
        if tick.jumped:
            self._forget()
        if self._deepdiver and tick.batches:
            tick = _disturbed(tick, self._deepdiver.disturbs)
        judged = self._judge.take(tick) if self._judge else Judgement(tick.batches)
        if judged.batches:
            self._history.extend(judged.batches)
            self._latest = tuple(self._history)
            self._total += len(judged.batches)
        if self._window:
            self._window.add(judged.batches, tick.first_tokens, tick.requests)
        readings = tick.counters + (self._counters.read() if self._counters else ())
        self._counter_history.add(readings)
        self._remember(judged.changed)
        frame = Frame(
            time_ns=tick.time_ns,
            clock=self._source.clock,
            group=self._source.group,
            state=tick.state,
            note=tick.note,
            new_batches=judged.batches,
            batches=self._latest,
            requests=tick.requests,
            first_tokens=tick.first_tokens,
            throughput=self._window.throughput(tick.time_ns) if self._window else None,
            hooks=tick.hooks,
            costs=tick.costs,
            lost=tick.lost,
            metrics=tick.metrics,
            total_batches=self._total,
            monitor_cpu=self._cpu.share(),
            warnings=tick.warnings + judged.warnings + self._look_after_itself(tick.time_ns),
            target_states=dict(tick.target_states),
            alerts=tuple(self._alerts.values()),
            changed_alerts=tuple(self._alerts[alert.id] for alert in judged.changed),
            model=judged.model,
            slo=judged.slo,
            counters=self._counter_history.latest,
            new_counters=readings,
            counter_history=self._counter_history.values,
            replay=tick.replay,
        )
        frame = self._with_causes(frame)
        if self._deepdiver:
            capture = self._deepdiver.take(frame)
            said = self._deepdiver.warnings()
            frame = self._frame = replace(frame, capture=capture, warnings=frame.warnings + said)
        return self._to_sinks(frame)

    def _look_after_itself(self, now_ns: int) -> tuple[str, ...]:
        if self._priority is None:
            return ()
        self._priority.look(now_ns)
        return self._priority.warnings()

    def _with_causes(self, frame: Frame) -> Frame:
        explained = self._diagnoser.take(frame) if self._diagnoser else ()
        if not explained:
            return frame
        self._remember(explained)
        changed = {alert.id: alert for alert in (*frame.changed_alerts, *explained)}
        return replace(frame, alerts=tuple(self._alerts.values()), changed_alerts=tuple(changed.values()))

    def _to_sinks(self, frame: Frame) -> Frame:
        recording = None
        for sink in self._sinks:
            recording = sink.take(frame) or recording
        return frame if recording is None else replace(frame, recording=recording)

    def _forget(self) -> None:
        """A replay went elsewhere: what was seen before is no history of what comes now."""
        self._history.clear()
        self._latest = ()
        self._window = Window(self._window_s) if self._window else None
        self._counter_history = CounterHistory()
        self._alerts.clear()

    def _remember(self, alerts: Sequence[Alert]) -> None:
        for alert in alerts:
            known = self._alerts.get(alert.id)
            # The judge knows nothing of causes: an update of an episode keeps those that were found.
            keep = known is not None and known.causes and not alert.causes
            self._alerts[alert.id] = replace(alert, causes=known.causes) if known and keep else alert
        while len(self._alerts) > ALERTS_KEPT:
            self._alerts.pop(next(iter(self._alerts)))

    def start_recording(self, path: str | Path | None = None, past_s: float | None = None) -> Recording:
        """Record what is seen, and what was seen lately, as a trace. May be called from any thread.

        Args:
            path: ends in .json or .json.gz; None makes a name in the directory of the settings.
            past_s: how far back it reaches; None is what the settings say.

        Raises:
            UsageError, UnavailableError, PermissionDeniedError: it cannot begin; the sentence says why.
        """
        if self._recorder is None:
            raise UnavailableError("this session has no recorder.", fix="Use `prismtop record`.")
        return self._recorder.start(path, past_s)

    def stop_recording(self) -> tuple[Recording | None, tuple[str, ...]]:
        """End the recording: how it ended (None: there was none), and sentences for a person. Waits for the
        disk. May be called from any thread.
        """
        return self._recorder.stop() if self._recorder is not None else (None, ())

    def deepdive(self, request: CaptureRequest | None = None) -> Capture:
        """Capture everything for a moment; `Frame.capture` says how it goes. In the thread that ticks.

        Raises:
            PrismtopError: it cannot begin; the sentence says why.
        """
        if self._deepdiver is None:
            raise UnavailableError("this session cannot capture.", fix="Use `prismtop deepdive --pid N`.")
        return self._deepdiver.start(request or CaptureRequest(), self._frame or self.tick())

    def preview_deepdive(self, request: CaptureRequest | None = None) -> Capture:
        """What `deepdive` would do and cost now. In the thread that ticks.

        Raises:
            PrismtopError: it cannot begin; the sentence says why.
        """
        if self._deepdiver is None:
            raise UnavailableError("this session cannot capture.", fix="Use `prismtop deepdive --pid N`.")
        return self._deepdiver.preview(request or CaptureRequest(), self._frame or self.tick())

    def cancel_deepdive(self) -> Capture | None:
        """End the running capture without a file; None when none runs. In the thread that ticks."""
        return self._deepdiver.cancel() if self._deepdiver is not None else None

    def fast_counters(self, hz: float, seconds: float) -> None:
        """Sample counters `hz` times a second (10 to 20) for the next seconds; nothing without a sampler."""
        if self._counters:
            self._counters.fast(hz, seconds)

    def close(self) -> tuple[str, ...]:
        """Let go of the target; sentences about what is still there. Idempotent."""
        if self._notes is None:
            notes = self._deepdiver.close() if self._deepdiver else ()
            notes += self._source.close()
            if self._counters:
                self._counters.close()
            if self._judge:
                notes += self._judge.close()
            for sink in self._sinks:
                notes += sink.close()
            if self._priority:
                self._priority.restore()
            self._notes = notes
        return self._notes


def _disturbed(tick: SourceTick, why: str) -> SourceTick:
    """A capture slows batches down: nothing is learnt from them, and they open no alert."""
    if not why:
        return tick
    return replace(tick, batches=tuple(replace(b, suspect=b.suspect or why) for b in tick.batches))


class _OwnCpu:
    """prismtop's own CPU, as a fraction of one core over the last seconds."""

    def __init__(self) -> None:
        self._marks: deque[tuple[float, float]] = deque([(time.monotonic(), time.process_time())])
        self._share: float | None = None

    def share(self) -> float | None:
        now = time.monotonic()
        if now - self._marks[-1][0] > 0.5:
            self._marks.append((now, time.process_time()))
            while len(self._marks) > 2 and now - self._marks[1][0] > CPU_PERIOD_S:
                self._marks.popleft()
            (since, before), (until, after) = self._marks[0], self._marks[-1]
            self._share = (after - before) / (until - since) if until - since > 0.9 else None
        return self._share
